"""From a relaxed supernet to one network: derivation rules, the network they give, and what the step costs.

What is measured (the gap): held-out accuracy of the supernet as the method mixes it, and after discretization, which
keeps each kept edge's operation with weight 1 and its trained weights, drops the rest, and shares a node's edge weights
out anew over the inputs it keeps, so that their sum stays what it was (``discretized``). Both with the running
BatchNorm statistics and with statistics re-estimated on training images under that very mixing: the second figure is
free of the part of the gap that is only a matter of statistics.

What is exact: the discretized supernet and the derived network (``derived_network``, plain sums) give the same logits
where no edge weights exist (EDAS, DARTS, random cells), and with edge weights where each node keeps one input (4/14),
whose shared-out weight is the node's sum, 1. Else a node of the discretized supernet is a weighted mean of its inputs,
a node of the derived network their sum: another scale for each node (BatchNorm takes the scale away again wherever the
next operation has one, skip connections and the classifier do not), and another direction where the weights differ. So
for these methods both are measured: ``edge_weights`` "shared out" and "plain". With partial channels there is no
derived network with the search's weights at all (they belong to 1/K of the channels); what is discretized is the
supernet.

Letters: E edges of a cell, O candidate operations; ``scores`` are operation logits (E, O) for each cell kind,
``strength`` (E,) for each cell kind says which edges go first.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from nas_zoo.genotype import KINDS, Cell, Edge, Genotype, Kind
from nas_zoo.models.layout import find_live
from nas_zoo.models.network import CellNet
from nas_zoo.runs.distributed import average_buffers, sum_over_processes
from nas_zoo.search.supernet import EdgeMixing, Mixing, SearchSpace, Supernet
from nas_zoo.text import counted

__all__ = [
    "CONFIGURATIONS",
    "DERIVATIONS",
    "EdgeGroup",
    "accuracies",
    "best_operations",
    "candidates",
    "cell_of",
    "choices",
    "configurations",
    "derive",
    "derive_argmax",
    "derive_configuration",
    "derive_darts",
    "derived_network",
    "derived_state_dict",
    "discretized",
    "gap_table",
    "measure_gap",
    "one_hot_mixing",
    "read_configuration",
    "reestimated_statistics",
]

Batch = tuple[torch.Tensor, torch.Tensor]
#: A mixing for each batch of an evaluation, since some methods draw one for each.
MixingOf = Callable[[int], Mapping[str, Mixing]]


# Edge configurations --------------------------------------------------------------------------------------------------


class EdgeGroup(NamedTuple):
    """Nodes that keep so many of their incoming edges between them."""

    nodes: tuple[int, ...]
    keep: int


_GROUP = re.compile(r"(\d+(?:\+\d+)*):(\d+)")
_MOST_CHOICES = 200_000  # of edges; they are looked through one by one


def configurations(space: SearchSpace) -> dict[str, str]:
    """Name and general form of the configurations of a space, most edges first: for 4 nodes "8/14" to "3/14".

    DA2S, section 4.2 and Table 4, which has 4 nodes: each node keeps two edges or one, the last nodes two first; under
    the last one nodes 2 and 3 keep one between them. 7/14 is not in the paper: it stands between 6/14 and 8/14 as they
    stand to each other.
    """
    n, last = space.num_nodes, space.num_nodes + 1
    found = {
        f"{n + twice}/{space.num_edges}": ",".join(f"{node}:{1 + (node > last - twice)}" for node in range(2, last + 1))
        for twice in range(n, -1, -1)
    }
    if n > 1:
        rest = "".join(f",{node}:1" for node in range(4, last + 1))
        found[f"{n - 1}/{space.num_edges}"] = f"2+3:1{rest}"
    return found


#: Of the papers' 4 nodes.
CONFIGURATIONS = configurations(SearchSpace())


def read_configuration(text: str | None, space: SearchSpace) -> tuple[EdgeGroup, ...]:
    """The groups of a configuration: a name of ``configurations`` or the general form, "2+3:1,4:1,5:1".

    There nodes 2 and 3 keep one edge between them, nodes 4 and 5 one each. None: two edges a node.

    Raises:
        ValueError: For a text that is neither, a node that is missing, foreign or named twice, and a count that no
            choice of edges can meet (an edge from a node that got no input itself is none).
    """
    names = configurations(space)
    text = next(iter(names)) if text is None else text
    named = names.get(text.strip())
    groups = []
    for part in re.split(r"\s*,\s*", (named or text).strip()):
        match = _GROUP.fullmatch(part)
        if not match:
            raise ValueError(
                f"edges must be one of {', '.join(names)}, or groups of nodes with the number of edges they keep, such "
                f"as {list(names.values())[-1]}; got {text!r}, in which {part!r} is neither"
            )
        groups.append(EdgeGroup(tuple(int(node) for node in match[1].split("+")), int(match[2])))
    nodes = sorted(node for group in groups for node in group.nodes)
    wanted = list(range(2, space.num_nodes + 2))
    if nodes != wanted:
        raise ValueError(f"edges must name each of the nodes {wanted} once, got {text!r}, which names {nodes}")
    for group in groups:
        if group.keep < 1:
            raise ValueError(f"edges must keep at least 1 edge in each group, got {text!r}")
    entering = [sum(node in group.nodes for node, _ in space.edges) for group in groups]
    if math.prod(math.comb(n, group.keep) for n, group in zip(entering, groups, strict=True)) > _MOST_CHOICES:
        raise ValueError(
            f"edges must leave at most {_MOST_CHOICES:,} choices of edges, got {text!r}, which leaves more"
        )
    if not choices(tuple(groups), space):
        raise ValueError(
            f"edges must keep no more edges than there are, got {text!r}; node n has the n inputs 0 to n - 1"
        )
    return tuple(groups)


@lru_cache(maxsize=32)
def choices(groups: tuple[EdgeGroup, ...], space: SearchSpace) -> tuple[tuple[int, ...], ...]:
    """Every set of edges with the groups' counts in which no kept edge leaves a node without input.

    With two edges a node 180 for 4 nodes, 56,700 for 6.
    """
    members = [[e for e, (node, _) in enumerate(space.edges) if node in group.nodes] for group in groups]
    found = []
    for kept in itertools.product(
        *(itertools.combinations(edges, group.keep) for edges, group in zip(members, groups, strict=True))
    ):
        chosen = sorted(itertools.chain.from_iterable(kept))
        filled = {0, 1, *(space.edges[e][0] for e in chosen)}
        if all(space.edges[e][1] in filled for e in chosen):
            found.append(tuple(chosen))
    return tuple(found)


def candidates(groups: tuple[EdgeGroup, ...], space: SearchSpace) -> list[list[int]]:
    """For each group the edges that some choice keeps: under 3/14 not the one from node 2 to node 3."""
    possible = set(itertools.chain.from_iterable(choices(groups, space)))
    return [[e for e, (node, _) in enumerate(space.edges) if node in group.nodes and e in possible] for group in groups]


# Derivation rules -----------------------------------------------------------------------------------------------------


def cell_of(nodes: list[list[Edge]]) -> Cell:
    """A cell that leaves out the edges of nodes nothing enters, and concatenates the others."""
    filled: list[int] = []
    kept = []
    for number, edges in enumerate(nodes, start=2):
        edges = [edge for edge in edges if edge.source < 2 or edge.source in filled]
        if edges:
            filled.append(number)
        kept.append(tuple(edges))
    return Cell(nodes=tuple(kept), concat=tuple(filled))


def best_operations(scores_EO: torch.Tensor, space: SearchSpace) -> tuple[torch.Tensor, list[int]]:
    """For each edge softmax(alpha) of its strongest operation but 'none', (E,) float64, and which operation that is.

    'none' takes part in the softmax and is never chosen.
    """
    strength_EO = torch.softmax(scores_EO.double(), dim=-1)
    if space.none_index is not None:
        strength_EO[:, space.none_index] = -1.0
    best_E, choice_E = strength_EO.max(dim=-1)
    return best_E, choice_E.tolist()


def derive_darts(
    scores: Mapping[Kind, torch.Tensor],
    space: SearchSpace,
    strength: Mapping[Kind, torch.Tensor] | None = None,
) -> Genotype:
    """DARTS, section 2.4: each node keeps its two strongest edges, each with its best operation but 'none'.

    The strength of an edge is softmax(alpha) of that operation, or what ``strength`` says.
    """
    cells = {}
    for kind, scores_EO in scores.items():
        best_E, choice_E = best_operations(scores_EO, space)
        order_E = best_E if strength is None else strength[kind].double()
        nodes = []
        for node in range(2, space.num_nodes + 2):
            entering = [e for e, (target, _) in enumerate(space.edges) if target == node]
            kept = sorted(sorted(entering, key=lambda e: -float(order_E[e]))[:2])
            nodes.append([Edge(space.operations[choice_E[e]], space.edges[e][1]) for e in kept])
        cells[kind] = cell_of(nodes)
    return Genotype(**cells)


def derive_configuration(
    scores: Mapping[Kind, torch.Tensor],
    space: SearchSpace,
    groups: tuple[EdgeGroup, ...],
    strength: Mapping[Kind, torch.Tensor] | None = None,
) -> Genotype:
    """Exactly the groups' numbers of edges, each with its best operation but 'none'.

    Group by group, that of the lowest node first, the edges that are strongest together: where each group is one node,
    its strongest edges, as in ``derive_darts``. In a group of several nodes a node may go without input; it then feeds
    no other node, so an edge that leaves it is never chosen.
    """
    in_order = sorted(groups, key=lambda group: min(group.nodes))
    cells = {}
    for kind, scores_EO in scores.items():
        best_E, choice_E = best_operations(scores_EO, space)
        order_E = (best_E if strength is None else strength[kind].double()).tolist()

        def strengths(chosen: tuple[int, ...], order: list[float] = order_E) -> list[float]:
            return [math.fsum(order[e] for e in chosen if space.edges[e][0] in group.nodes) for group in in_order]

        kept = max(choices(groups, space), key=strengths)
        nodes: list[list[Edge]] = [[] for _ in range(space.num_nodes)]
        for e in kept:
            node, source = space.edges[e]
            nodes[node - 2].append(Edge(space.operations[choice_E[e]], source))
        cells[kind] = cell_of(nodes)
        assert sum(map(len, cells[kind].nodes)) == sum(group.keep for group in groups)
    return Genotype(**cells)


def derive_argmax(
    scores: Mapping[Kind, torch.Tensor], space: SearchSpace, strength: Mapping[Kind, torch.Tensor] | None = None
) -> Genotype:
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
        cells[kind] = cell_of(nodes)
    return Genotype(**cells)


#: Rules by name; each takes scores, space and strength.
DERIVATIONS: dict[str, Callable[..., Genotype]] = {"darts": derive_darts, "argmax": derive_argmax}


def derive(
    rule: str | None,
    scores: Mapping[Kind, torch.Tensor],
    space: SearchSpace,
    strength: Mapping[Kind, torch.Tensor] | None = None,
) -> Genotype:
    """The genotype by a rule of DERIVATIONS or by an edge configuration (``read_configuration``)."""
    if rule is not None and rule in DERIVATIONS:
        return DERIVATIONS[rule](scores, space, strength)
    return derive_configuration(scores, space, read_configuration(rule, space), strength)


# The derived network inside and outside of the supernet ---------------------------------------------------------------


def one_hot_mixing(genotype: Genotype, space: SearchSpace) -> dict[str, Mixing]:
    """The mixing that runs exactly a genotype's operations, each with weight 1.

    Raises:
        ValueError: For an operation or node that the space does not have.
    """
    mixing: dict[str, Mixing] = {}
    for kind in KINDS:
        cell = genotype.cell(kind)
        if len(cell.nodes) != space.num_nodes:
            raise ValueError(f"the {kind} cell must have {space.num_nodes} nodes, got {len(cell.nodes)}")
        ops: dict[tuple[int, int], list[int]] = {edge: [] for edge in space.edges}
        for number, edges in enumerate(cell.nodes, start=2):
            for edge in edges:
                if edge.operation not in space.operations:
                    raise ValueError(f"{kind} cell, node {number}: the space has no operation {edge.operation!r}")
                ops[number, edge.source].append(space.operations.index(edge.operation))
        mixing[kind] = tuple(EdgeMixing(tuple(ops[edge])) for edge in space.edges)
    return mixing


def discretized(mixing: Mapping[str, Mixing], genotype: Genotype, space: SearchSpace) -> dict[str, Mixing]:
    """A genotype's one-hot mixing with a method's edge weights shared out anew over the inputs a node keeps.

    Kept inputs keep their proportions, and the sum over a node's inputs stays what it was: weights 0.2, 0.3, 0.5 of
    which the last two are kept become 0.375 and 0.625. Without edge weights it is ``one_hot_mixing``.
    """
    result = one_hot_mixing(genotype, space)
    for kind in KINDS:
        if all(mix.edge is None for mix in mixing[kind]):
            continue
        edges = list(result[kind])
        for node in range(2, space.num_nodes + 2):
            entering = [e for e, (target, _) in enumerate(space.edges) if target == node]
            factors = {e: torch.ones(()) if (b := mixing[kind][e].edge) is None else b.detach() for e in entering}
            kept = [e for e in entering if edges[e].ops]
            if kept:
                share = sum(factors.values()) / sum(factors[e] for e in kept)
                for e in kept:
                    factor = factors[e] * share
                    edges[e] = EdgeMixing(edges[e].ops, factor.expand(len(edges[e].ops)), factor)
        result[kind] = tuple(edges)
    return result


def derived_state_dict(supernet: Supernet, genotype: Genotype) -> dict[str, torch.Tensor]:
    """The supernet's weights for ``CellNet(genotype, pool_bn=True)`` of the same size: its logits are the same.

    BatchNorm of a search has no scale and shift; in the network they are 1 and 0. Channels of nodes that the genotype
    does not concatenate carry zeros in the supernet and are left out of the convolutions that would read them.

    Raises:
        ValueError: For a supernet with partial channels, whose operations have the weights of 1/K of the channels.
    """
    if supernet.partial_channels > 1:
        raise ValueError(
            "a supernet with partial channels gives no derived network with the search's own weights, because its "
            f"operations have weights for 1/{supernet.partial_channels} of the channels"
        )
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
                    result.setdefault(f"{stem}num_batches_tracked", torch.zeros((), dtype=torch.long))

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


# The gap --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def accuracies(
    supernet: torch.nn.Module,
    batches: Iterable[Batch],
    mixings: Mapping[str, MixingOf],
    autocast: Callable[[], Any],
) -> dict[str, float]:
    """Accuracy of the supernet, in [0, 1], under each of several mixings, over the same images."""
    training = supernet.training
    supernet.eval()
    correct = torch.zeros(len(mixings) + 1, dtype=torch.float64)
    for index, (images, labels) in enumerate(batches):
        for i, mixing in enumerate(mixings.values()):
            with autocast():
                logits = supernet(images, mixing(index))
            correct[i] += (logits.argmax(1) == labels).sum().item()
        correct[-1] += len(labels)
    supernet.train(training)
    correct = sum_over_processes(correct.to(next(supernet.parameters()).device, torch.float32)).double().cpu()
    return {name: float(correct[i] / correct[-1]) for i, name in enumerate(mixings)}


@contextmanager
def reestimated_statistics(
    supernet: torch.nn.Module, batches: Iterable[Batch], mixing: MixingOf, autocast: Callable[[], Any]
) -> Iterator[None]:
    """Within it, BatchNorm's running statistics are the plain averages over these batches under this mixing.

    Those of operations that did not run stay as they were. Behind it everything is again as before.
    """
    norms = [module for module in supernet.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    saved = [{name: value.clone() for name, value in norm.named_buffers()} for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms]
    momenta, training = [norm.momentum for norm in norms], supernet.training
    try:
        for norm in norms:
            # momentum None is a cumulative average over num_batches_tracked; the first batch replaces what was there
            norm.momentum = None
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
        supernet.train()
        with torch.no_grad():
            for index, (images, _) in enumerate(batches):
                with autocast():
                    supernet(images, mixing(index))
        average_buffers(supernet)
        supernet.train(training)
        yield
    finally:
        supernet.train(training)
        with torch.no_grad():
            for norm, momentum, counter, buffers in zip(norms, momenta, counters, saved, strict=True):
                norm.momentum, norm.num_batches_tracked = momentum, counter
                for name, value in norm.named_buffers():
                    value.copy_(buffers[name])


def always(mixing: Mapping[str, Mixing]) -> MixingOf:
    """The same mixing for every batch."""
    return lambda _: mixing


def measure_gap(
    supernet: torch.nn.Module,
    held_out: Callable[[], Iterable[Batch]],
    training: Callable[[], Iterable[Batch]] | None,
    mixing: MixingOf,
    genotypes: Mapping[str, Genotype | None],
    autocast: Callable[[], Any],
    reestimate: Iterable[str] | None = None,
) -> dict[str, Any]:
    """Held-out accuracy before and after discretization: {"before": figures, "after": [row, ...]}.

    Figures are {"running": accuracy in [0, 1]} and "reestimated" beside it (None where it was not asked for). A row has
    them and "cells" (the name in ``genotypes``), "edges" ({kind: number}), "edge_weights" ("none", "shared out",
    "plain"). Names without a genotype are left out; equal genotypes are evaluated once.

    Args:
        held_out: The held-out batches, anew at each call.
        training: Batches that statistics are re-estimated over; None: no such figures.
        mixing: The method's mixing, by the index of the batch.
        reestimate: Names for which statistics are re-estimated; default: all.
    """
    space = supernet.space
    assert isinstance(space, SearchSpace)
    sample = mixing(0)
    weighted = any(mix.edge is not None for kind in KINDS for mix in sample[kind])
    wanted = set(genotypes) if reestimate is None else set(reestimate)
    rows: list[dict[str, Any]] = []
    keys: list[tuple[str, str]] = []
    mixings: dict[tuple[str, str], MixingOf] = {}
    again: set[tuple[str, str]] = set()
    for name, genotype in genotypes.items():
        if genotype is None:
            continue
        for weights in ("shared out", "plain") if weighted else ("none",):
            key = (genotype.digest, weights)
            one_hot = (discretized(sample, genotype, space) if weights == "shared out"
                       else one_hot_mixing(genotype, space))  # fmt: skip
            mixings.setdefault(key, always(one_hot))
            if name in wanted:
                again.add(key)
            edges = {kind: sum(map(len, genotype.cell(kind).nodes)) for kind in KINDS}
            rows.append({"cells": name, "edges": edges, "edge_weights": weights})
            keys.append(key)
    everything = {"before": mixing} | {"/".join(key): value for key, value in mixings.items()}
    running = accuracies(supernet, held_out(), everything, autocast)
    new: dict[str, float] = {}
    if training is not None:
        for name, chosen in everything.items():
            if name == "before" or tuple(name.split("/")) in again:
                with reestimated_statistics(supernet, training(), chosen, autocast):
                    new |= accuracies(supernet, held_out(), {name: chosen}, autocast)
    for row, key in zip(rows, keys, strict=True):
        name = "/".join(key)
        row |= {"running": running[name], "reestimated": new.get(name) if key in again else None}
    return {"before": {"running": running["before"], "reestimated": new.get("before")}, "after": rows}


def gap_table(gap: Mapping[str, Any], images: int) -> str:
    """The figures of ``measure_gap`` as text, in percent and percentage points."""
    lines = [("cells", "edges", "edge weights", "running statistics", "re-estimated")]
    for row in gap["after"]:
        cells = [row["cells"], "+".join(str(row["edges"][kind]) for kind in KINDS), row["edge_weights"]]
        for way in ("running", "reestimated"):
            before, after = gap["before"][way], row[way]
            cells.append("-" if before is None or after is None else
                         f"{100 * before:6.2f} -> {100 * after:6.2f} ({100 * (after - before):+.2f})")  # fmt: skip
        lines.append(tuple(cells))
    widths = [max(len(line[i]) for line in lines) for i in range(5)]
    title = f"held-out accuracy in percent, supernet -> after discretization, {counted(images, 'image')}"
    rows = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([title, *rows])
