"""NASLib: the compact tuple of its DARTS and NAS-Bench-301 spaces (get_hash(), what its searches log and keep).

    (((0, 4), (1, 3), (0, 3), (2, 5), ...), ((1, 0), (0, 2), ...))

Two cells of eight (source, number of an operation), two a node. The numbers are NASLib's: DARTS' without none. The
first code of BANANAS and of random search with weight sharing numbers from none = 0; the two cannot be told apart
unless a 7 occurs, so give those as text Genotype(...).
"""

from __future__ import annotations

from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, Path, is_int, numbered

NAME = "NASLib compact"

_OPERATIONS = (
    "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip


def claims(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == len(KINDS)
        and all(isinstance(cell, (list, tuple)) and len(cell) == 8 for cell in value)
        and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 and all(map(is_int, pair))
            for cell in value
            for pair in cell
        )
    )


def read(value: Any) -> tuple[Cell, Cell]:
    """The cells of a compact tuple."""
    normal, reduce = (_cell(pairs, kind) for pairs, kind in zip(value, KINDS, strict=True))
    return normal, reduce


def _cell(pairs: Any, kind: str) -> Cell:
    edges = [
        (numbered(number, _OPERATIONS, f"{NAME}, {kind}[{i}]"), source) for i, (source, number) in enumerate(pairs)
    ]

    def place(path: Path) -> str:
        where = f"[{2 * int(path[1]) + int(path[2])}]" if len(path) > 2 else ""
        return f"{NAME}, {kind}{where}"

    return Cell.at(place, [edges[i : i + 2] for i in range(0, 8, 2)], [2, 3, 4, 5])
