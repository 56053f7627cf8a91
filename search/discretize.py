"""From a relaxed supernet to one network: derivation rules, and the network they give inside and outside of it.

Letters: E edges of a cell, O candidate operations; ``scores`` are operation logits (E, O) for each cell kind.
"""

from collections.abc import Callable, Mapping

import torch

from nas_zoo.genotype import KINDS, Cell, Edge, Genotype
from nas_zoo.layout import find_live
from nas_zoo.network import CellNet
from nas_zoo.search.supernet import EdgeMixing, Mixing, SearchSpace, Supernet

__all__ = [
    "DERIVATIONS",
    "derive_argmax",
    "derive_darts",
    "derived_network",
    "derived_state_dict",
    "one_hot_mixing",
]


def _cell(nodes: list[list[Edge]]) -> Cell:
    """A cell that leaves out the edges of nodes nothing enters, and concatenates the others."""
    filled: list[int] = []
    kept = []
    for number, edges in enumerate(nodes, start=2):
        edges = [edge for edge in edges if edge.source < 2 or edge.source in filled]
        if edges:
            filled.append(number)
        kept.append(tuple(edges))
    return Cell(nodes=tuple(kept), concat=tuple(filled))


def derive_darts(scores: Mapping[str, torch.Tensor], space: SearchSpace, edges_per_node: int = 2) -> Genotype:
    """DARTS, section 2.4: each node keeps the edges whose best operation is strongest, with that operation.

    Strength is softmax(alpha) over all operations; 'none' takes part in the softmax and is never chosen.
    """
    cells = {}
    for kind, scores_EO in scores.items():
        strength_EO = torch.softmax(scores_EO.double(), dim=-1)
        if space.none_index is not None:
            strength_EO[:, space.none_index] = -1.0
        best_E, choice_E = strength_EO.max(dim=-1)
        nodes = []
        for node in range(2, space.num_nodes + 2):
            entering = [e for e, (target, _) in enumerate(space.edges) if target == node]
            kept = sorted(sorted(entering, key=lambda e: -float(best_E[e]))[:edges_per_node])
            nodes.append([Edge(space.operations[int(choice_E[e])], space.edges[e][1]) for e in kept])
        cells[kind] = _cell(nodes)
    return Genotype(**cells)


def derive_argmax(scores: Mapping[str, torch.Tensor], space: SearchSpace) -> Genotype:
    """Every edge keeps its strongest operation, 'none' drops the edge: EDAS's clamped network, exactly.

    Raises:
        ValueError: Where 'none' wins on every edge of a cell: there is no such network.
    """
    cells = {}
    for kind, scores_EO in scores.items():
        nodes: list[list[Edge]] = [[] for _ in range(space.num_nodes)]
        for (node, source), choice in zip(space.edges, scores_EO.argmax(dim=-1).tolist(), strict=True):
            if choice != space.none_index:
                nodes[node - 2].append(Edge(space.operations[choice], source))
        cells[kind] = _cell(nodes)
    return Genotype(**cells)


#: Rules by name; each takes scores and space.
DERIVATIONS: dict[str, Callable[[Mapping[str, torch.Tensor], SearchSpace], Genotype]] = {
    "darts": derive_darts,
    "argmax": derive_argmax,
}


def one_hot_mixing(genotype: Genotype, space: SearchSpace) -> dict[str, Mixing]:
    """The mixing that runs exactly a genotype's operations, each with weight 1.

    Raises:
        ValueError: For an operation or node that the space does not have.
    """
    mixing: dict[str, Mixing] = {}
    for kind in KINDS:
        cell = genotype.cell(kind)
        if len(cell.nodes) != space.num_nodes:
            raise ValueError(f"{kind} cell has {len(cell.nodes)} nodes; this space has {space.num_nodes}")
        ops: dict[tuple[int, int], list[int]] = {edge: [] for edge in space.edges}
        for number, edges in enumerate(cell.nodes, start=2):
            for edge in edges:
                if edge.operation not in space.operations:
                    raise ValueError(f"{kind} cell, node {number}: the space has no operation {edge.operation!r}")
                ops[number, edge.source].append(space.operations.index(edge.operation))
        mixing[kind] = tuple(EdgeMixing(tuple(ops[edge])) for edge in space.edges)
    return mixing


def derived_state_dict(supernet: Supernet, genotype: Genotype) -> dict[str, torch.Tensor]:
    """The supernet's weights for ``CellNet(genotype, pool_bn=True)`` of the same size: its logits are the same.

    BatchNorm of a search has no scale and shift; in the network they are 1 and 0. Channels of nodes that the genotype
    does not concatenate carry zeros in the supernet and are left out of the convolutions that would read them.
    """
    space, cells = supernet.space, supernet.plan.cells
    source = supernet.state_dict()
    reads = [genotype.cell(spec.kind).inputs_read for spec in cells]
    live = find_live(reads, [len(cells) - 1])

    def kept_channels(index: int) -> torch.Tensor | slice:
        if index < 0:
            return slice(None)  # the stem
        spec, concat = cells[index], genotype.cell(cells[index].kind).concat
        return torch.cat([torch.arange(spec.channels) + (number - 2) * spec.channels for number in concat])

    result: dict[str, torch.Tensor] = {}

    def copy(prefix: str, target: str, channels: torch.Tensor | slice = slice(None)) -> None:
        for key, value in source.items():
            if key.startswith(prefix + "."):
                name = key[len(prefix) + 1 :]
                keep = channels if value.ndim == 4 else slice(None)
                result[f"{target}.{name}"] = value[:, keep].clone() if value.ndim == 4 else value.clone()
                if name.endswith("running_mean"):
                    stem = f"{target}.{name[: -len('running_mean')]}"
                    result.setdefault(f"{stem}weight", torch.ones_like(value))
                    result.setdefault(f"{stem}bias", torch.zeros_like(value))

    for i in range(len(supernet.stem)):
        copy(f"stem.{i}", f"stem.{i}")
    for spec in cells:
        if spec.index not in live:
            continue
        cell = genotype.cell(spec.kind)
        for i in sorted(cell.inputs_read):
            copy(f"cells.{spec.index}.preprocess{i}", f"cells.{spec.index}.preprocess{i}",
                 kept_channels(spec.index - 2 + i))  # fmt: skip
        for position, number in enumerate(sorted(cell.live_nodes)):
            for k, edge in enumerate(cell.nodes[number - 2]):
                e, op = space.edges.index((number, edge.source)), space.operations.index(edge.operation)
                target = f"cells.{spec.index}.nodes.{position}.ops.{k}"
                copy(f"cells.{spec.index}.edges.{e}.{op}", target)
    last = kept_channels(len(cells) - 1)
    result["classifier.weight"] = source["classifier.weight"][:, last].clone()
    result["classifier.bias"] = source["classifier.bias"].clone()
    return result


def derived_network(supernet: Supernet, genotype: Genotype) -> CellNet:
    """The derived network with the search's own weights, on the supernet's device, in its training mode."""
    plan = supernet.plan
    network = CellNet(
        genotype,
        layout="cifar" if len(plan.stem) == 1 else "imagenet",
        init_channels=plan.cells[0].channels // (2 if plan.cells[0].kind == "reduce" else 1),
        num_cells=len(plan.cells),
        num_classes=supernet.classifier.out_features,
        in_chans=plan.stem[0].in_channels,
        pool_bn=True,
    )
    network.load_state_dict(derived_state_dict(supernet, genotype))
    return network.to(next(supernet.parameters()).device).train(supernet.training)
