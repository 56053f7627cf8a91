"""Nested lists or tuples: a Genotype as json.dumps writes it, or the four fields of a DARTS namedtuple.

[[nodes, concat], [nodes, concat]]          of this package
[normal, normal_concat, reduce, reduce_concat]     a namedtuple of DARTS' code, or json.dumps of it
"""

from __future__ import annotations

from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, as_cell
from nas_zoo.genotype.dialects import darts
from nas_zoo.text import show

NAME = "nested lists"


def claims(value: Any) -> bool:
    """Whether it has that form; a list given by itself is read here even if not, to say what is wrong with it."""
    if not isinstance(value, (list, tuple)):
        return False
    if len(value) == len(KINDS):
        return all(isinstance(cell, (list, tuple)) and len(cell) == 2 and _are_numbers(cell[1]) for cell in value)
    return len(value) == len(darts.FIELDS) and _are_numbers(value[1]) and _are_numbers(value[3])


def _are_numbers(value: Any) -> bool:
    return isinstance(value, range) or (
        isinstance(value, (list, tuple)) and len(value) > 0 and all(isinstance(number, int) for number in value)
    )


def read(value: list[Any] | tuple[Any, ...]) -> tuple[Cell, Cell]:
    """The cells of two cells, or of four fields."""
    if len(value) == len(KINDS):
        return as_cell(value[0], "normal"), as_cell(value[1], "reduce")
    if len(value) == len(darts.FIELDS):
        return darts.read(dict(zip(darts.FIELDS, value, strict=True)))
    raise ValueError(
        f"genotype must be two cells, each [nodes, concat], or the four DARTS fields, got {len(value)} values: "
        f"{show(value)}"
    )
