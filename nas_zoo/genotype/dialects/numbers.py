"""RLNAS and GeNAS: 28 numbers of operations, one for each of the 14 possible edges of both cells.

    [5, 4, 6, ...], or two lists of 14

The edges are 2 from 0, 2 from 1, 3 from 0 ... 5 from 4; the operations have DARTS' numbers, 0 is no edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, is_int, numbered

NAME = "28 numbers"

_OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
_NUM_EDGES = 14


def claims(value: Any) -> bool:
    halves = _halves(value)
    return len(halves) == len(KINDS) and all(
        isinstance(half, (list, tuple)) and len(half) == _NUM_EDGES and all(map(is_int, half)) for half in halves
    )


def read(value: Sequence[Any]) -> tuple[Cell, Cell]:
    """The cells of 28 numbers."""
    normal, reduce = (_cell(half, kind) for half, kind in zip(_halves(value), KINDS, strict=True))
    return normal, reduce


def _halves(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return []
    return list(value) if len(value) != 2 * _NUM_EDGES else [value[:_NUM_EDGES], value[_NUM_EDGES:]]


def _cell(numbers: Sequence[int], kind: str) -> Cell:
    nodes: list[list[tuple[str, int]]] = [[] for _ in range(4)]
    edges = [(node, source) for node in range(2, 6) for source in range(node)]
    for i, (number, (node, source)) in enumerate(zip(numbers, edges, strict=True)):
        operation = numbered(number, _OPERATIONS, f"{kind} cell, number {i} of 14")
        if operation != "none":
            nodes[node - 2].append((operation, source))
    return Cell(nodes, [2, 3, 4, 5])
