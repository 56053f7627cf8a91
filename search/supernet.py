"""The supernet: every candidate operation on every edge, of which a step runs only the active ones.

It owns no architecture parameters. A search method hands it, for each cell kind, the mixing: which operations run on
each edge and with which weight. So one network serves every method, and what a method costs follows from its mixing:
28 clamped edges cost as much as the derived network, 28 relaxed ones as much as DARTS.

With partial channels (PC-DARTS, https://arxiv.org/abs/1907.05737, section 3.2) the operations of an edge work on the
first C/K channels of a state; the others go past them, max-pooled where the edge has stride 2, and a channel shuffle
mixes the two, so that every channel is worked on somewhere. Shuffling is linear, so a node is shuffled once, not each
of its edges.

Letters: N images, C channels, H x W size, E edges of a cell (14 for 4 nodes), O candidate operations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_zoo.genotype import KINDS
from nas_zoo.models.depthwise import concatenate, may_run_by_hand
from nas_zoo.models.layout import CellSpec, plan_network
from nas_zoo.models.network import StemBlock
from nas_zoo.models.operations import (
    SEARCH_OPERATIONS,
    FactorizedReduce,
    NormalizedPool,
    PointwiseNorm,
    build_op,
    reads_relu,
)
from nas_zoo.search.mixed_sum import can_split, mixed_sum, split

__all__ = ["EdgeMixing", "Mixing", "SearchSpace", "Supernet", "drop_counters", "shuffle_channels"]


@dataclass(frozen=True)
class SearchSpace:
    """The cells that can be found: candidate operations and number of intermediate nodes."""

    operations: tuple[str, ...] = SEARCH_OPERATIONS
    num_nodes: int = 4

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(node, source) of every edge, in the order of all tensors with an E axis: (2, 0), (2, 1), (3, 0), ..."""
        return tuple((node, source) for node in range(2, self.num_nodes + 2) for source in range(node))

    @property
    def num_edges(self) -> int:
        return len(self.edges)

    @property
    def num_operations(self) -> int:
        return len(self.operations)

    @cached_property
    def none_index(self) -> int | None:
        """Index of 'none' among the operations; None where the space has no such operation."""
        return self.operations.index("none") if "none" in self.operations else None


class EdgeMixing(NamedTuple):
    """What runs on one edge.

    ops: indices of the active operations; () drops the edge.
    weights: (len(ops),) factors of their outputs, edge weight multiplied in; None means 1 for each.
    edge: () the edge weight, where the method has one; None means 1. It is in ``weights`` already: on its own it is
        the factor of the channels that bypass the operations, and what a discretization shares out anew.
    """

    ops: tuple[int, ...]
    weights: torch.Tensor | None = None
    edge: torch.Tensor | None = None


class Term(NamedTuple):
    """One operation that enters a node: its place, what it reads (activated, where it wants that), its factor."""

    edge: int
    source: int
    op: int
    input: torch.Tensor
    weight: torch.Tensor | None


def drop_counters(module: nn.Module) -> None:
    """Takes the counters of batches from all BatchNorms, where nothing averages over all batches so far.

    An addition a layer and step is a tenth of what a clamped network has to launch. State dicts that have them, such as
    those of earlier versions, can be loaded still.
    """
    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            norm.num_batches_tracked = None
    module.register_load_state_dict_post_hook(_pass_over_counters)


def _pass_over_counters(module: nn.Module, keys: Any) -> None:
    keys.unexpected_keys[:] = [key for key in keys.unexpected_keys if not key.endswith(".num_batches_tracked")]


#: One EdgeMixing for every edge, in the order of SearchSpace.edges.
Mixing = tuple[EdgeMixing, ...]


def shuffle_channels(x: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, C, H, W) with channel g * C/groups + i at place i * groups + g."""
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class SearchCell(nn.Module):
    """One cell with all candidates on all edges, in the search form (BatchNorm without scale and shift)."""

    def __init__(self, space: SearchSpace, spec: CellSpec, activate: bool, partial_channels: int = 1) -> None:
        super().__init__()
        self.space, self.activate, self.channels, self.stride = space, activate, spec.channels, spec.stride
        self.partial_channels, self.op_channels = partial_channels, spec.channels // partial_channels
        bring_down = FactorizedReduce if spec.halve_input0 else PointwiseNorm
        self.preprocess0 = bring_down(spec.in_channels[0], spec.channels, affine=False)
        self.preprocess1 = PointwiseNorm(spec.in_channels[1], spec.channels, affine=False)
        self.edges = nn.ModuleList()
        self.wants_relu: list[list[bool]] = []
        for _, source in space.edges:
            stride = spec.stride if source < 2 else 1
            self.edges.append(
                nn.ModuleList(
                    nn.Identity()  # 'none' is never run: it adds zero
                    if name == "none"
                    else build_op(name, self.op_channels, stride, affine=False, pool_bn=True)
                    for name in space.operations
                )
            )
            self.wants_relu.append([reads_relu(name, stride) for name in space.operations])

    def operation(self, edge: int, op: int) -> nn.Module:
        """A candidate operation; it reads the ReLU of the state where ``wants_relu[edge][op]``."""
        candidates = self.edges[edge]
        assert isinstance(candidates, nn.ModuleList)
        return candidates[op]

    def _part(self, state: torch.Tensor) -> torch.Tensor:
        """The channels that operations work on, dense: up to 32 of them read it."""
        last = state.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return state[:, : self.op_channels].contiguous(memory_format=layout)

    def _bypass(self, state: torch.Tensor, source: int) -> torch.Tensor:
        """The channels that no operation works on, at the resolution of the operations' outputs."""
        rest = state[:, self.op_channels :]
        return F.max_pool2d(rest, 2, ceil_mode=True) if self.stride == 2 and source < 2 else rest

    def _sum(self, terms: list[Term]) -> torch.Tensor | None:
        """The sum that a node is, one operation after the other; None where nothing enters."""
        total: torch.Tensor | None = None
        for term in terms:
            y = self.operation(term.edge, term.op)(term.input)
            if term.weight is not None:
                y = y * term.weight
            total = y if total is None else total + y
        return total

    def _may_sum_at_once(self, terms: list[Term]) -> bool:
        """True in an eager training step on a CPU whose batch statistics are this process's own."""
        if not terms or not self.training or not may_run_by_hand(terms[0].input):
            return False
        return type(self.preprocess0.bn) is nn.BatchNorm2d

    def _sum_at_once(self, terms: list[Term], pooled: dict[tuple[int, int], torch.Tensor]) -> torch.Tensor:
        """The same with the last layers of all operations taken together (``search.mixed_sum``).

        Pooling has no weights, so a state is pooled once for all nodes that it feeds.
        """
        one = terms[0].input.new_ones(())
        others = [term for term in terms if can_split(self.operation(term.edge, term.op))]
        apart = [term for term in terms if not can_split(self.operation(term.edge, term.op))]
        total: torch.Tensor | None = None
        if others:
            starts, weights, norms = zip(*(split(self.operation(term.edge, term.op)) for term in others), strict=True)
            inputs = []
            for term, start in zip(others, starts, strict=True):
                if not isinstance(start, NormalizedPool):
                    inputs.append(start(term.input))
                    continue
                key = (term.source, term.op)
                if key not in pooled:
                    pooled[key] = start(term.input)
                inputs.append(pooled[key])
            mix = torch.stack([one if term.weight is None else term.weight for term in others])
            total = mixed_sum(inputs, list(weights), mix, list(norms))
        for term in apart:
            y = self.operation(term.edge, term.op)(term.input)
            if term.weight is not None:
                y = y * term.weight
            total = y if total is None else total + y
        assert total is not None
        return total

    def forward(self, s0: torch.Tensor, s1: torch.Tensor, mixing: Mixing) -> torch.Tensor:
        """Activated outputs of the two previous cells in, (N, 4C, H, W) out."""
        none, partial = self.space.none_index, self.partial_channels > 1
        active = [tuple((k, op) for k, op in enumerate(mix.ops) if op != none) for mix in mixing]
        # 'none' gives zeros; with partial channels the others still pass, so an edge is dropped by () alone.
        enters = [bool(mix.ops) if partial else bool(ops) for mix, ops in zip(mixing, active, strict=True)]
        # A node that nothing enters is no zero: it feeds nothing, as in the genotype, where it has no place at all.
        states: list[torch.Tensor | None] = [None, None]
        for i, (preprocess, x) in enumerate(((self.preprocess0, s0), (self.preprocess1, s1))):
            if any(enter and source == i for enter, (_, source) in zip(enters, self.space.edges, strict=True)):
                states[i] = preprocess(x)
        relus: dict[int, torch.Tensor] = {}
        bypasses: dict[int, torch.Tensor] = {}
        pooled: dict[tuple[int, int], torch.Tensor] = {}
        parts: dict[int, torch.Tensor] = {}
        edge = 0
        for node in range(2, self.space.num_nodes + 2):
            terms: list[Term] = []
            passing: torch.Tensor | None = None
            for source in range(node):
                state = states[source]
                if state is not None and enters[edge]:
                    if source not in parts:
                        parts[source] = self._part(state) if partial else state
                    worked_on = parts[source]
                    for k, op in active[edge]:
                        x = worked_on
                        if self.wants_relu[edge][op]:
                            if source not in relus:
                                relus[source] = F.relu(worked_on)
                            x = relus[source]
                        weights = mixing[edge].weights
                        terms.append(Term(edge, source, op, x, None if weights is None else weights[k]))
                    if partial:
                        if source not in bypasses:
                            bypasses[source] = self._bypass(state, source)
                        factor = mixing[edge].edge
                        y = bypasses[source] if factor is None else bypasses[source] * factor
                        passing = y if passing is None else passing + y
                edge += 1
            total = self._sum_at_once(terms, pooled) if self._may_sum_at_once(terms) else self._sum(terms)
            if passing is not None:
                if total is None:  # 'none' on every edge
                    total = passing.new_zeros(passing.shape[0], self.op_channels, *passing.shape[2:])
                total = shuffle_channels(concatenate([total, passing]), self.partial_channels)
            states.append(total)
        nodes = states[2:]
        shape = next((node.shape for node in nodes if node is not None), None)
        if shape is None:
            shape = torch.Size((s1.shape[0], self.channels, *(-(-size // self.stride) for size in s1.shape[2:])))
        out = concatenate([s1.new_zeros(shape) if node is None else node for node in nodes])
        return F.relu(out, inplace=True) if self.activate else out


class Supernet(nn.Module):
    """Stem, search cells, classifier.

    Args:
        space: Candidate operations and nodes.
        init_channels: C of the first cells.
        num_cells: Cells in all.
        num_classes: Width of the logits.
        in_chans: Channels of the images.
        layout: "cifar" or "imagenet" (see ``nas_zoo.models.layout``).
        partial_channels: K; the operations work on the first C/K channels of each state. 1: on all of them.

    Raises:
        ValueError: Where the channels cannot be split into K equal parts.
    """

    def __init__(
        self,
        space: SearchSpace,
        init_channels: int = 16,
        num_cells: int = 8,
        num_classes: int = 10,
        in_chans: int = 3,
        layout: str = "cifar",
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        if partial_channels < 1 or init_channels % partial_channels:
            raise ValueError(
                f"partial_channels must be a divisor of init_channels ({init_channels}), got {partial_channels}"
            )
        self.space, self.partial_channels = space, partial_channels
        self.plan = plan_network(layout, init_channels, num_cells, dict.fromkeys(KINDS, space.num_nodes), in_chans)
        self.stem = nn.ModuleList(StemBlock(s.in_channels, s.out_channels, s.stride) for s in self.plan.stem)
        self.cells = nn.ModuleList(
            SearchCell(space, spec, spec.index < num_cells - 1, partial_channels) for spec in self.plan.cells
        )
        self.classifier = nn.Linear(self.plan.cells[-1].out_channels, num_classes)

    def forward(self, x: torch.Tensor, mixing: Mapping[str, Mixing]) -> torch.Tensor:
        """Images (N, in_chans, H, W) to logits (N, num_classes), with a Mixing for each cell kind."""
        s0, s1 = x, x
        for block in self.stem:
            s0, s1 = s1, block(s1)
        if len(self.stem) == 1:
            s0 = s1
        for spec, cell in zip(self.plan.cells, self.cells, strict=True):
            s0, s1 = s1, cell(s0, s1, mixing[spec.kind])
        return self.classifier(s1.mean((2, 3)))
