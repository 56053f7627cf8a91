"""A cell: which operations join which nodes. Plain data, frozen and checked when it is made.

Node numbers, as DARTS writes them: 0 is the output of the cell before the last, 1 the output of the last cell, 2 and up
the intermediate nodes of the cell, so `nodes[i]` is node i + 2. A node is the sum of its edges, a cell's output the
concatenation of the nodes in `concat`. A node may have any number of edges, none included (it then feeds nothing and is
in no concat), take one input twice, or put several operations on one input.

The order of a node's edges is part of a cell: it decides the names of the parameters in a state dict.

Everything a user can get wrong is a ValueError that names the place, the value found and what would do. The room
`nas_zoo.genotype` needs the standard library and nas_zoo.text only; the dialects build on this module and know nothing
of the others.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Literal, NamedTuple, Self, TypeGuard

from nas_zoo.text import show

__all__ = ["KINDS", "MAX_NODES", "NUM_INPUTS", "OPERATIONS", "Cell", "Edge", "Kind"]

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, Kind] = ("normal", "reduce")

OPERATIONS: tuple[str, ...] = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "conv_7x1_1x7",
)

#: An operation from outside the package, FILE.py:NAME or PACKAGE:NAME: as data it is a name like any other, its code is
#: looked for where a network is made of it (``nas_zoo.runs.outside``).
_OUTSIDE = re.compile(r"[A-Za-z0-9_][\w.\-]{0,99}:[A-Za-z_]\w{0,99}", re.ASCII)

MAX_NODES = 8  # intermediate nodes of a cell; published cells have 3 to 6
NUM_INPUTS = 2  # nodes 0 and 1 are the outputs of the two cells before

Path = tuple[str | int, ...]
Place = Callable[[Path], str]  # ("nodes", 1, 0) -> the words for that place in what the user gave


class Edge(NamedTuple):
    """One input of a node: the operation put on the output of node `source`. Checked as part of its Cell."""

    operation: str
    source: int


class _CellFields(NamedTuple):
    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]


class Cell(_CellFields):
    """The edges of each intermediate node (`nodes[i]` is node i + 2) and the nodes that make the output, in order.

    1 to 8 nodes. Takes lists and tuples in any mixture and keeps tuples. ValueError for anything that is no cell.
    """

    __slots__ = ()

    def __new__(cls, nodes: Iterable[Iterable[Any]], concat: Iterable[int]) -> Self:
        return cls.at(place_in("cell"), nodes, concat)

    @classmethod
    def at(cls, place: Place, nodes: Any, concat: Any) -> Self:
        """The same, where `place` words the place of an error."""
        return tuple.__new__(cls, _checked_cell(nodes, concat, place))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        return cls(*iterable)  # namedtuple's own, which _replace calls too, would not check

    @property
    def live_nodes(self) -> tuple[int, ...]:
        """Numbers of the intermediate nodes whose output reaches the concat, ascending; all concat nodes are."""
        live = set(self.concat)
        for number in range(len(self.nodes) + NUM_INPUTS - 1, NUM_INPUTS - 1, -1):
            if number in live:
                live.update(edge.source for edge in self.nodes[number - NUM_INPUTS])
        return tuple(sorted(number for number in live if number >= NUM_INPUTS))

    @property
    def inputs_read(self) -> frozenset[int]:
        """Which of the two cell inputs, 0 and 1, the live nodes read; never empty."""
        sources = (edge.source for number in self.live_nodes for edge in self.nodes[number - NUM_INPUTS])
        return frozenset(source for source in sources if source < NUM_INPUTS)


def as_cell(value: Any, kind: Kind) -> Cell:
    """The cell that is a Cell, `(nodes, concat)` or a dictionary with these two keys."""
    if type(value) is Cell:
        return value
    if isinstance(value, dict):
        check_keys(value, ("nodes", "concat"), (), f"{kind} cell")
        nodes, concat = value["nodes"], value["concat"]
    else:
        fields = items_of(value, f"{kind} cell", "nodes and concat")
        if len(fields) != 2:
            raise ValueError(f"{kind} cell must be nodes and concat, got {len(fields)} values: {show(value)}")
        nodes, concat = fields
    return Cell.at(place_in(kind), nodes, concat)


def check_node_numbers(numbers: list[int], where: str) -> None:
    """ValueError unless the nodes of a cell are numbered from 2 without a gap; `numbers` are sorted."""
    if numbers != list(range(NUM_INPUTS, len(numbers) + NUM_INPUTS)) or not 1 <= len(numbers) <= MAX_NODES:
        raise ValueError(
            f"{where}: there must be 1 to {MAX_NODES} nodes, numbered from {NUM_INPUTS} without a gap, "
            f"got nodes {listed(numbers) or 'none'}"
        )


def _checked_cell(nodes: Any, concat: Any, place: Place) -> tuple[tuple[tuple[Edge, ...], ...], tuple[int, ...]]:
    """(nodes, concat) as tuples, every rule of a cell checked; `place` words the place of an error."""
    node_values = items_of(nodes, place(("nodes",)), "a list of nodes, each a list of [operation, source] pairs")
    num_nodes = len(node_values)
    if not 1 <= num_nodes <= MAX_NODES:
        raise ValueError(f"{place(('nodes',))} must hold 1 to {MAX_NODES} intermediate nodes, got {num_nodes}")
    checked: list[tuple[Edge, ...]] = []
    for i, value in enumerate(node_values):
        edges = items_of(value, place(("nodes", i)), "a list of [operation, source] pairs")
        checked.append(tuple(_checked_edge(edge, i, j, num_nodes, checked, place) for j, edge in enumerate(edges)))

    numbers = items_of(concat, place(("concat",)), "a list of node numbers")
    if not numbers:
        raise ValueError(f"{place(('concat',))}: empty concat: at least one intermediate node with inputs is needed")
    usable = [i + NUM_INPUTS for i, node in enumerate(checked) if node]
    for k, number in enumerate(numbers):
        where = place(("concat", k))
        if not is_int(number):
            raise ValueError(f"{where} must be a node number (an integer), got {show(number)}")
        if number not in usable:
            without = NUM_INPUTS <= number < num_nodes + NUM_INPUTS
            raise ValueError(
                f"{where}: wrong node {show(number)}{', which has no inputs' if without else ''}; "
                f"intermediate nodes with inputs: {listed(usable)}"
            )
        if number in numbers[:k]:
            raise ValueError(f"{where}: node {number} is in the concat twice; once is enough")
    return tuple(checked), tuple(int(number) for number in numbers)


def _checked_edge(value: Any, i: int, j: int, num_nodes: int, earlier: list[tuple[Edge, ...]], place: Place) -> Edge:
    """Edge j of node i + 2; `earlier` holds the nodes before it."""
    pair = items_of(value, place(("nodes", i, j)), "an [operation, source] pair")
    if len(pair) != 2:
        where = place(("nodes", i, j))
        raise ValueError(f"{where} must be an [operation, source] pair, got {len(pair)} values: {show(value)}")
    operation, source = pair
    where = place(("nodes", i, j, 0))
    if not isinstance(operation, str):
        raise ValueError(f"{where} must be the name of an operation (a string), got {show(operation)}")
    outside = _OUTSIDE.fullmatch(operation) is not None
    if operation not in OPERATIONS and not outside:
        hint = " (an edge with no operation is left out)" if operation == "none" else near(operation, OPERATIONS)
        raise ValueError(f"{where}: unknown operation {show(operation)}{hint}; there are {listed(OPERATIONS)}")

    where = place(("nodes", i, j, 1))
    own = i + NUM_INPUTS
    readable = [n for n in range(own) if n < NUM_INPUTS or earlier[n - NUM_INPUTS]]
    if not is_int(source):
        raise ValueError(f"{where} must be the number of the node read (an integer), got {show(source)}")
    if source not in readable:
        if source < 0 or source >= num_nodes + NUM_INPUTS:
            problem = f"wrong node: there is no node {show(source)}"
        elif source == own:
            problem = f"cycle: node {own} reads itself"
        elif source > own:
            problem = f"cycle: node {own} reads node {source}, which comes after it"
        else:
            problem = f"wrong node: node {source} has no inputs, so there is nothing to read"
        raise ValueError(f"{where}: {problem}; node {own} may read {listed(readable)}")
    return Edge(str(operation) if outside else OPERATIONS[OPERATIONS.index(operation)], int(source))


# What the room's other modules share ----------------------------------------------------------------------------------


def check_keys(record: dict[Any, Any], needed: tuple[str, ...], optional: tuple[str, ...], place: str) -> None:
    """ValueError for a key that is missing or unknown."""
    known = listed(needed) + (f" and optionally {listed(optional)}" if optional else "")
    for key in needed:
        if key not in record:
            what = "kind of cell" if key in KINDS else "key"
            raise ValueError(f"{place}: missing {what} {key!r}; it needs {known}")
    for key in record:
        if key not in needed and key not in optional:
            raise ValueError(f"{place}: unknown key {show(key)}; it has {known}")


def items_of(value: Any, place: str, what: str) -> list[Any]:
    """The items of a list, tuple or range; of a range no more than any cell could use."""
    if isinstance(value, range):
        return list(islice(value, MAX_NODES + NUM_INPUTS + 1))
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ValueError(f"{place} must be {what}, got {show(value)}")


def numbered(number: int, operations: Sequence[str], where: str) -> str:
    """The operation of that number, from 0; a ValueError lists them all."""
    if not 0 <= number < len(operations):
        known = listed(f"{i} {name}" for i, name in enumerate(operations))
        raise ValueError(f"{where}: {show(number)} is no operation; there are {known}")
    return operations[number]


def is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def place_in(cell: str) -> Place:
    """Words a path in a cell as `normal.nodes[1][0] (node 3)`."""

    def place(path: Path) -> str:
        node = f" (node {int(path[1]) + NUM_INPUTS})" if path[0] == "nodes" and len(path) > 1 else ""
        return f"{cell}.{indexed(path)}{node}"

    return place


def indexed(path: Path) -> str:
    """`normal[3][0]` of ("normal", 3, 0)."""
    return f"{path[0]}{''.join(f'[{index}]' for index in path[1:])}"


def listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def near(word: str, known: Iterable[str]) -> str:
    """Words that name the known ones most like `word`, or nothing."""
    alike = difflib.get_close_matches(word[:100], known)
    return f" (near: {listed(alike)})" if alike else ""


def check_size(size: int, what: str, limit: int) -> None:
    if size > limit:
        raise ValueError(f"{what} is too large: the limit is {limit} bytes ({limit >> 10} KiB)")
