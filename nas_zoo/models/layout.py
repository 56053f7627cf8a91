"""Which cell stands where: kind, channels, inputs and resolution of every cell, read by supernet and network alike.

Two layouts, as in DARTS (section 3.1 and 3.2 of the paper, A.1 and A.2 for the networks):

    cifar      stem 3x3 convolution to 3C channels at full resolution; both inputs of the first cell read it
    imagenet   three 3x3 convolutions of stride 2 (to C/2, C, C channels): cells begin at 1/8 of the resolution; the
               first cell reads the second and the third, which differ in resolution

Reduction cells stand at num_cells // 3 and 2 * num_cells // 3; each doubles the channels and halves the resolution.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nas_zoo.text import show

__all__ = ["LAYOUTS", "CellSpec", "Plan", "StemSpec", "find_live", "plan_network", "reduction_cells"]

LAYOUTS = ("cifar", "imagenet")

#: Far beyond any network that was ever trained; more would only fill the memory or never end.
MOST = {"init_channels": 10_000, "num_cells": 1000, "in_chans": 10_000}


@dataclass(frozen=True)
class StemSpec:
    """One 3x3 convolution of the stem, with BatchNorm and ReLU."""

    in_channels: int
    out_channels: int
    stride: int
    reduction: int  # input resolution / output resolution, of the whole network up to here


@dataclass(frozen=True)
class CellSpec:
    """One cell: what it reads, how wide it is, and where it stands."""

    index: int
    kind: str  # "normal" or "reduce"
    in_channels: tuple[int, int]  # of input 0 (the cell before last) and input 1 (the last cell)
    halve_input0: bool  # input 0 has twice the resolution of input 1: a factorized reduction brings it down
    channels: int  # of every node
    out_channels: int  # channels * nodes in the concat
    reduction: int  # input resolution / output resolution, of the whole network up to and with this cell

    @property
    def stride(self) -> int:
        """Stride of the edges that leave an input node."""
        return 2 if self.kind == "reduce" else 1


@dataclass(frozen=True)
class Plan:
    """The whole network, from the image to the last cell."""

    stem: tuple[StemSpec, ...]
    cells: tuple[CellSpec, ...]


def reduction_cells(num_cells: int) -> set[int]:
    """Indices of the reduction cells."""
    return {num_cells // 3, 2 * num_cells // 3}


def plan_network(
    layout: str, init_channels: int, num_cells: int, num_concat: Mapping[str, int], in_chans: int = 3
) -> Plan:
    """Stem and cells of a network.

    Args:
        layout: "cifar" or "imagenet".
        init_channels: C, channels of a node in the first cells.
        num_cells: Cells in all, reduction cells included.
        num_concat: For each cell kind, how many nodes its output concatenates.
        in_chans: Channels of the image.

    Raises:
        ValueError: Unknown layout, or a number that no network can have: more than MOST says.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    for name, value, least in (
        ("init_channels", init_channels, 2),
        ("num_cells", num_cells, 1),
        ("in_chans", in_chans, 1),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST[name]:
            raise ValueError(f"{name} must be a whole number from {least} to {MOST[name]}, got {show(value)}")
    c = init_channels
    stem: tuple[StemSpec, ...]
    if layout == "cifar":
        stem = (StemSpec(in_chans, 3 * c, 1, 1),)
        before, last = 3 * c, 3 * c
    else:
        stem = (StemSpec(in_chans, c // 2, 2, 2), StemSpec(c // 2, c, 2, 4), StemSpec(c, c, 2, 8))
        before, last = c, c
    halve = layout == "imagenet"
    reduction = stem[-1].reduction
    cells = []
    reductions = reduction_cells(num_cells)
    for index in range(num_cells):
        kind = "reduce" if index in reductions else "normal"
        if kind == "reduce":
            c *= 2
            reduction *= 2
        out = c * num_concat[kind]
        cells.append(CellSpec(index, kind, (before, last), halve, c, out, reduction))
        before, last, halve = last, out, kind == "reduce"
    return Plan(stem, tuple(cells))


def find_live(reads: Sequence[Iterable[int]], outputs: Iterable[int]) -> set[int]:
    """Indices of the cells whose output reaches one of ``outputs``; -1 and -2 are the two outputs of the stem.

    A cell that reads only the cell before last leaves every second cell without a reader; such a cell would be
    computed for nothing and hold parameters that never get a gradient, so networks leave it out.

    Args:
        reads: For each cell the inputs it reads, a subset of {0, 1}.
        outputs: Cells (or -1, -2) whose output is wanted.
    """
    live: set[int] = set()
    waiting = list(outputs)
    while waiting:
        index = waiting.pop()
        if index in live:
            continue
        live.add(index)
        if index >= 0:
            waiting += [index - 2 + read for read in reads[index]]
    return live
