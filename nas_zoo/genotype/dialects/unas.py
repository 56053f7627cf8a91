"""UNAS: DARTS' fields, text or dictionary, whose cells are lists of one {'inputs': [0, 1], 'ops': [1, 4]} a node.

The operations have numbers of its own (darts/genotypes.py of its code).
Part of the DARTS dialect, which asks here about such nodes.
"""

from __future__ import annotations

from typing import Any

from nas_zoo.genotype.cell import Kind, Path, Place, is_int, items_of
from nas_zoo.text import show

_OPERATIONS = (
    "skip_connect", "sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "sep_conv_7x7",
)  # fmt: skip


def without_outer_list(value: Any) -> Any:
    """The inner list of [[{'inputs': ..., 'ops': ...}, ...]]: a list of one cell."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list) and value[0]:
        return value[0] if all(isinstance(item, dict) for item in value[0]) else value
    return value


def grouped(items: list[Any], kind: Kind, place: Place) -> list[list[tuple[Any, Path]]]:
    """Edges node by node, each with where it stood."""
    groups: list[list[tuple[Any, Path]]] = []
    for i, item in enumerate(items):
        where = (kind, i)
        if set(item) != {"inputs", "ops"}:
            raise ValueError(f"{place(where)} must have the keys inputs and ops, got {show(list(item))}")
        sources, numbers = (items_of(item[key], place(where), f"a list for {key}") for key in ("inputs", "ops"))
        if len(sources) != len(numbers):
            raise ValueError(f"{place(where)}: {len(sources)} inputs and {len(numbers)} ops; there must be as many")
        for number in numbers:
            if not is_int(number) or not 0 <= number < len(_OPERATIONS):
                known = ", ".join(f"{j} {name}" for j, name in enumerate(_OPERATIONS))
                raise ValueError(f"{place(where)}: op {show(number)} is unknown; there are {known}")
        groups.append([([_OPERATIONS[n], source], where) for n, source in zip(numbers, sources, strict=True)])
    return groups
