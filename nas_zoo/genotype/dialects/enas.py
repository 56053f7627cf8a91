"""ENAS: a micro architecture as its controller prints it and as --child_fixed_arc takes it.

    "0 2 0 0 0 4 0 1 0 4 1 1 1 0 0 1 0 2 1 1 1 0 1 0 0 3 0 2 1 1 3 1 1 0 0 4 0 3 1 1"
    [0 2 0 0 0 4 ...]          two lines, the normal and the reduction cell
    [1 0 1 0 0 3 ...]

Each node has four numbers (source, operation, source, operation). As in ENAS' own code, the concat has the nodes that
no other reads. There an input of the cell that is not read goes into it as well, which no genotype can say. In text,
cells of five nodes only are looked for, the size that its scripts have; lists of numbers may have others.
"""

from __future__ import annotations

import re
from typing import Any

from nas_zoo.genotype.cell import KINDS, MAX_NODES, NUM_INPUTS, Cell, Path, is_int, numbered

NAME = "ENAS micro"

_OPERATIONS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect")
_RUN = re.compile(r"(?<![\w.])\d{1,2}(?:[ \t,]+\d{1,2}){19,39}(?![ \t,]*[\w.])")


def claims(value: Any) -> bool:
    halves = _halves(value)
    return len(halves) == len(KINDS) and all(
        isinstance(half, (list, tuple))
        and 8 <= len(half) <= 4 * MAX_NODES
        and len(half) % 4 == 0
        and all(map(is_int, half))
        for half in halves
    )


def read(value: Any) -> tuple[Cell, Cell]:
    """The cells of two lists of numbers, or of one list of both."""
    normal, reduce = (_cell(half, kind) for half, kind in zip(_halves(value), KINDS, strict=True))
    return normal, reduce


def find(text: str) -> list[tuple[int, list[int]]]:
    """(line, numbers) of each architecture in a text: 40 numbers in a row, or twice 20."""
    found: list[tuple[int, list[int]]] = []
    first: tuple[int, list[int]] | None = None
    for match in _RUN.finditer(text):
        numbers = [int(number) for number in re.findall(r"\d+", match[0])]
        line = text.count("\n", 0, match.start()) + 1
        if len(numbers) == 40:
            found.append((line, numbers))
        elif len(numbers) == 20 and first is None:
            first = (line, numbers)
            continue
        elif len(numbers) == 20 and first is not None:
            found.append((first[0], first[1] + numbers))
        first = None
    return found


def _halves(value: Any) -> list[Any]:
    if not isinstance(value, (list, tuple)):
        return []
    if len(value) > 2 and len(value) % 2 == 0 and all(map(is_int, value)):
        return [value[: len(value) // 2], value[len(value) // 2 :]]
    return list(value)


def _cell(numbers: Any, kind: str) -> Cell:
    nodes = []
    for i in range(0, len(numbers), 4):
        edges = []
        for source, number in (numbers[i : i + 2], numbers[i + 2 : i + 4]):
            edges.append((numbered(number, _OPERATIONS, f"{NAME}, {kind} cell, node {i // 4 + 2}"), source))
        nodes.append(edges)
    read_by_others = {source for edges in nodes for _, source in edges}
    unread = sorted(set(range(NUM_INPUTS)) - read_by_others)
    if unread:
        raise ValueError(
            f"{NAME}, {kind} cell: input {unread[0]} is read by no node, and ENAS then concatenates it, which no "
            "genotype can say"
        )

    def place(path: Path) -> str:
        return f"{NAME}, {kind} cell" + (f", node {int(path[1]) + NUM_INPUTS}" if len(path) > 1 else "")

    concat = [number for number in range(NUM_INPUTS, len(nodes) + NUM_INPUTS) if number not in read_by_others]
    return Cell.at(place, nodes, concat)
