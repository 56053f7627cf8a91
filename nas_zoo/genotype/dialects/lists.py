"""Nested lists or tuples: a Genotype as json.dumps writes it, or the four fields of a DARTS namedtuple.

[[nodes, concat], [nodes, concat]]          of this package
[normal, normal_concat, reduce, reduce_concat]     a namedtuple of DARTS' code, or json.dumps of it
"""

from __future__ import annotations

from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, as_cell, show
from nas_zoo.genotype.dialects import darts

NAME = "nested lists"


def claims(value: Any) -> bool:
    return isinstance(value, (list, tuple))


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
