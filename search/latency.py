"""A limit on the latency of the network that a search will end with, as a term of alpha's loss, for every method.

    L = L_val + W * max(0, E / budget - 1)

E is the expected latency of the network that will be trained, at its own width, depth and size, not of the supernet:

    E = scale * (fixed + sum_n s_n * sum_(e into n) sum_o w_eo * t_o(e)) + offset

with w_eo the weight that the method's mixing gives operation o on edge e, t_o(e) the measured time of o at its places
in that network, ``fixed`` what stands around the edges of the cells as they would be derived now, and s_n the scale of
a node: a rule that keeps k edges of a node makes of the weights, which sum to another number, k edges' worth. Where
'none' competes with the other operations (the rule is argmax, as in EDAS) every edge counts and none costs nothing;
where it does not, weights are taken as shares of what the rule can keep. At a mixing of one operation an edge E is the
table's estimate of that network. It is differentiable in the mixing's weights; what is derived is a constant of the
step.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import KINDS, Genotype, Kind
from nas_zoo.models.latency import Expected, LatencyTable, Shape
from nas_zoo.runs.distributed import is_first
from nas_zoo.search.found import genotypes_by
from nas_zoo.search.method import Method, SearchSettings, Step
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["LatencyLimit", "latency_limit", "latency_words"]


class LatencyLimit:
    """The term of a search's settings.

    Args:
        settings: With max_latency set.
        method: Whose mixings and cells are looked at.
        classes: Of the network that will be trained.
        in_chans: Of its images.
        image_size: Their side, where the settings do not name another.

    Raises:
        ValueError: The table is none, or lacks a time or the fit for that network; the message says how to measure.
    """

    def __init__(self, settings: SearchSettings, method: Method, classes: int, in_chans: int, image_size: int) -> None:
        assert settings.max_latency is not None
        assert settings.latency_table is not None  # the settings saw to that
        side = settings.target_size or image_size
        self.budget, self.weight, self._method = settings.max_latency, settings.latency_weight, method
        self._epochs = settings.epochs
        self.shape = Shape(
            settings.target_layout, settings.target_channels, settings.target_cells, classes, (in_chans, side, side)
        )
        path = Path(settings.latency_table)
        table = LatencyTable.read(path)
        self.conditions = str(table.conditions)
        space = method.space
        try:
            self._expected = Expected(table, self.shape, space.operations, space.num_nodes)
        except ValueError as error:
            raise ValueError(
                f"latency_table {str(path)!r}: {error}; measure it with `nas-zoo latency darts_v2 --layout "
                f"{self.shape.layout} --init-channels {self.shape.init_channels} --num-cells {self.shape.num_cells} "
                f"--num-classes {classes} --image-size {side} --to {path}`"
            ) from None

    def estimate(self, genotype: Genotype) -> float:
        """Milliseconds of the network with these cells, by the table."""
        return self._expected.table.estimate(genotype, self.shape).ms

    def expected(self, mixing: Mapping[str, Mixing]) -> torch.Tensor:
        """E of a mixing, () in milliseconds, differentiable in its weights."""
        genotype = genotypes_by(self._method, (None,))["found"]
        if genotype is None:  # 'none' has won on every edge of a cell for now: there is nothing to be too slow
            return torch.zeros(())
        competes = self._none_competes(genotype)
        total: torch.Tensor | float = self._expected.fixed(genotype)
        for kind in KINDS:
            total = total + self._of_kind(mixing[kind], kind, genotype, competes)
        value = self._expected.fit(total)
        return value if isinstance(value, torch.Tensor) else torch.tensor(value)

    def __call__(self, mixing: Mapping[str, Mixing]) -> torch.Tensor:
        """What is added to the loss, (): 0 within the budget, then growing with the part by which it is exceeded."""
        return self.weight * torch.relu(self.expected(mixing) / self.budget - 1)

    def figures(self, epoch: int, found: Genotype | None) -> dict[str, float | None]:
        """Of an epoch's log, in milliseconds: the limit, the expected latency, the estimate of the cells found."""
        with torch.no_grad():
            mixing = self._method.mixing(Step(epoch, 0, self._epochs, "eval"))
            expected = None if found is None else float(self.expected(mixing))
        return {
            "max_ms": self.budget,
            "expected_ms": expected,
            "found_ms": None if found is None else self.estimate(found),
        }

    def _none_competes(self, genotype: Genotype) -> bool:
        if self._method.space.none_index is None:
            return False
        try:
            return self._method.genotype("argmax") == genotype
        except ValueError:
            return False

    def _of_kind(self, mixes: Mixing, kind: Kind, genotype: Genotype, competes: bool) -> torch.Tensor | float:
        space, ms = self._method.space, self._expected.ms[kind]
        total: torch.Tensor | float = 0.0
        for node in range(2, space.num_nodes + 2):
            edges = [e for e, (to, _) in enumerate(space.edges) if to == node and mixes[e].ops]
            if not edges:
                continue
            kept = len(edges) if competes else len(genotype.cell(kind).nodes[node - 2])
            cost = sum(_weighed(mixes[e], ms[e]) for e in edges)
            counts = [1.0 if competes or op != space.none_index else 0.0 for op in range(space.num_operations)]
            mass = sum(_weighed(mixes[e], counts) for e in edges)
            if isinstance(mass, torch.Tensor):  # 0 where a sampled edge has drawn 'none', and then the cost is 0 too
                mass = mass.clamp_min(1e-12)
            if isinstance(mass, torch.Tensor) or mass > 0:
                total = total + kept * cost / mass
        return total


def latency_limit(
    settings: SearchSettings, method: Method, source: ImageSource, image_size: int
) -> LatencyLimit | None:
    """The limit of these settings; None where they have none."""
    if settings.max_latency is None:
        return None
    if settings.method == "random" and is_first():
        print("warning: random cells are drawn, not searched: nothing keeps max_latency", file=sys.stderr)
    return LatencyLimit(settings, method, len(source.classes), source.in_chans, image_size)


def latency_words(line: Mapping[str, Any]) -> str:
    """Of an epoch's line of the log, for the line on the screen; "" where there is no limit."""
    told = line.get("latency")
    if told is None or told["found_ms"] is None:
        return ""
    return f"latency {told['found_ms']:.2f} ms (expected {told['expected_ms']:.2f}, limit {told['max_ms']:g})  "


def _weighed(mix: EdgeMixing, values: list[float]) -> torch.Tensor | float:
    """Sum over the active operations of weight times value."""
    if mix.weights is None:
        return sum(values[op] for op in mix.ops)
    return (mix.weights * mix.weights.new_tensor([values[op] for op in mix.ops])).sum()
