"""Genotypes as other programs write them, one dialect a file.

Each file says in its docstring where the form is seen, and has

    NAME            what an error calls it
    claims(value)   whether a value (a dictionary, a list or a string, as JSON or Python says it) is of this form
    read(value)     its (normal cell, reduction cell); a ValueError names the key, what stands there and what would do

`DIALECTS` is the order in which they are asked: the first that claims a value reads it. To add one, add its file and
its place here. `nas_zoo.genotype.reading` asks them about whatever a user holds; it looks for values at any depth of a
dictionary, and for text in the forms of Python, JSON, darts.find and enas.find.

Nothing read here is executed. 'none' edges add nothing to a sum and are left out; a node whose edges are all 'none' but
which is in the concat is refused, since there the original puts zeros, which no genotype can say.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

from nas_zoo.genotype.cell import Cell
from nas_zoo.genotype.dialects import darts, enas, lists, nasbench201, nasbench301, naslib, nni, nni1, numbers

__all__ = ["DIALECTS", "Dialect", "dialect_of"]


class Dialect(Protocol):
    """What a dialect's file has."""

    NAME: str

    def claims(self, value: Any) -> bool: ...

    def read(self, value: Any) -> tuple[Cell, Cell]: ...


DIALECTS = cast(tuple[Dialect, ...], (nasbench201, nni, nni1, nasbench301, darts, naslib, numbers, enas, lists))


def dialect_of(value: Any) -> Dialect | None:
    """The dialect that claims the value, or None."""
    return next((dialect for dialect in DIALECTS if dialect.claims(value)), None)
