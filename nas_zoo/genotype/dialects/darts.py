"""DARTS: the namedtuple `Genotype` as text, as in the genotypes.py of nearly every repository of the field, or its four
fields as a dictionary.

    DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ...], normal_concat=[2, 3, 4, 5],
                        reduce=[...], reduce_concat=range(2, 6))
    {"normal": [["sep_conv_3x3", 0], ...], "normal_concat": [2, 3, 4, 5], "reduce": ..., "reduce_concat": ...}

Keyword or positional arguments, lists or tuples. The edges of a cell are

    two consecutive pairs a node                        DARTS, PC-DARTS, P-DARTS and most others
    one pair from every state before each node          SNAS (14 pairs for four nodes)
    pairs grouped node by node                          pt.darts, this package where a node has not two inputs
    triples (operation, node, source) or (operation, source, node): the larger number is the node
    dictionaries of inputs and numbered operations      UNAS, see unas.py

Further fields are passed over where they are None (alphas_normal of UNAS, connects of GDAS), and so is a probability in
third place (the first code of GDAS). `('none', i)` and `('null', i)` add nothing to a sum and are dropped after
grouping. Text is parsed, never executed; errors name line and column.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NoReturn

from nas_zoo.genotype.cell import (
    KINDS,
    MAX_NODES,
    NUM_INPUTS,
    Cell,
    Kind,
    Path,
    Place,
    check_size,
    indexed,
    is_int,
    items_of,
    listed,
)
from nas_zoo.genotype.dialects import unas
from nas_zoo.genotype.dialects.python_text import MAX_BYTES, Call, calls_of, parse, unwrapped
from nas_zoo.text import show

NAME = "DARTS fields"

#: Of cnn/operations.py of quark0/darts; a genotype has no 'none'.
_OWN_OPERATIONS = frozenset(
    ("max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7", "dil_conv_3x3",
     "dil_conv_5x5", "conv_7x1_1x7")
)  # fmt: skip
FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_BEFORE = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*[ \t\f]*")  # blank lines, comment lines, indentation

_OTHER_NAMES = {"reduction": "reduce", "reduction_concat": "reduce_concat"}

_Groups = list[list[tuple[Any, Path]]]  # edges node by node, each with where it stood


def claims(value: Any) -> bool:
    return isinstance(value, dict) and ("normal_concat" in value or "reduce_concat" in value)


def read(record: dict[Any, Any]) -> tuple[Cell, Cell]:
    """The cells of the four fields as a dictionary; further keys are an error, but for name and those that are None."""
    record = {_OTHER_NAMES.get(key, key) if isinstance(key, str) else key: value for key, value in record.items()}
    for key, value in record.items():
        if key not in (*FIELDS, "name") and value is not None:
            raise ValueError(f"{NAME}: unknown key {show(key)}; it has {listed(FIELDS)} and optionally name")
    for key in FIELDS:
        if key not in record:
            raise ValueError(f"{NAME}: missing key {key}; it needs {listed(FIELDS)}")
    fields = dict(record)
    for kind in KINDS:
        fields[kind] = unas.without_outer_list(record[kind])
    return _cells(fields, indexed)


def read_statement(text: Any) -> tuple[Cell, Cell]:
    """The cells of a text that is one `[name =] Genotype(...)`."""
    if not isinstance(text, str):
        raise ValueError(f"DARTS text must be a string, got {show(text)}")
    parsed = _Text(with_plain_newlines(text))
    return _cells(parsed.fields(parsed.only_call()), parsed.place)


@dataclass(frozen=True)
class Written:
    """A call of Genotype in a text: the names it goes by, its line, and the way to its cells."""

    names: tuple[str, ...]
    line: int
    read: Callable[[], tuple[Cell, Cell]]


def find(text: str) -> list[Written]:
    """The genotypes in a text of any kind: a log, a module, Markdown. Names and lines as they stand there.

    Left out, where there are others: calls in comments, and calls of code (`Genotype(normal=gene_normal, ...)`). A name
    that is assigned twice is no name.
    """
    text = with_plain_newlines(text)
    calls = calls_of(text, "Genotype")
    chosen = [call for call in calls if not call.comment and _holds_edges(text, call)] or calls[:1]
    names = [name for call in chosen for name in call.names]
    return [
        Written(
            tuple(name for name in call.names if names.count(name) == 1), call.line, partial(_read_call, text, call)
        )
        for call in chosen
    ]


def _read_call(text: str, call: Call) -> tuple[Cell, Cell]:
    parsed = _Text(text, call.start, call.end)
    return _cells(parsed.fields(parsed.only_call()), parsed.place)


def _holds_edges(text: str, call: Call) -> bool:
    """Whether it has a list of edges, or cannot be parsed, which reading it will say."""
    try:
        body = parse(text[call.start : call.end]).body
    except (SyntaxError, ValueError):
        return True
    node = body[0].value if body and isinstance(body[0], ast.Expr) else None
    if not isinstance(node, ast.Call):
        return False
    given = [*node.args[:1], *(keyword.value for keyword in node.keywords if keyword.arg == "normal")]
    return any(isinstance(unwrapped(edges)[0], (ast.List, ast.Tuple)) for edges in given)


def with_plain_newlines(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def expresses(normal: Cell, reduce: Cell) -> bool:
    """Whether DARTS' own code builds these cells of the text of ``write``: two edges a node, and its operations."""
    cells = (normal, reduce)
    operations = {edge.operation for cell in cells for node in cell.nodes for edge in node}
    return _is_flat(cells) and operations <= _OWN_OPERATIONS


def _is_flat(cells: Iterable[Cell]) -> bool:
    """Whether every node has two edges, and a flat list of them is not read as another cell."""
    return all(
        all(len(node) == 2 for node in cell.nodes)
        and not _sizes_where_every_edge_is_listed([edge for node in cell.nodes for edge in node], cell.concat)
        for cell in cells
    )


def write(normal: Cell, reduce: Cell, name: str | None = None) -> str:
    """DARTS tuple text of the two cells: flat pairs where every node has two (what DARTS' code reads), else grouped."""
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"name must be a Python identifier, got {show(name)}")
    cells = {"normal": normal, "reduce": reduce}
    flat = _is_flat(cells.values())
    fields = []
    for kind, cell in cells.items():
        nodes = [[tuple(edge) for edge in node] for node in cell.nodes]
        fields.append(f"{kind}={[edge for node in nodes for edge in node] if flat else nodes}")
        fields.append(f"{kind}_concat={list(cell.concat)}")
    text = (f"{name} = " if name else "") + f"Genotype({', '.join(fields)})"
    check_size(len(text), "the genotype as DARTS text", MAX_BYTES)
    return text


# From a list of edges to nodes ----------------------------------------------------------------------------------------


def _cells(fields: dict[str, Any], place: Place) -> tuple[Cell, Cell]:
    """The cells of the four fields; `place` words the place of ("normal", 3, 0)."""
    normal, reduce = (_cell(fields[kind], fields[f"{kind}_concat"], kind, place) for kind in KINDS)
    return normal, reduce


def _cell(edges: Any, concat: Any, kind: Kind, place: Place) -> Cell:
    nodes, origins = _without_none(_grouped(edges, kind, place, concat))

    def cell_place(path: Path) -> str:
        if path[0] == "concat":
            return place((f"{kind}_concat", *path[1:]))
        node = f" (node {int(path[1]) + NUM_INPUTS})" if len(path) > 1 else ""
        # a path of an edge or deeper starts where the edge stood before grouping and dropping
        origin = (*origins[path[1:3]], *path[3:]) if path[1:3] in origins else (kind, *path[1:])
        return place(origin) + node

    return Cell.at(cell_place, nodes, concat)


def _grouped(value: Any, kind: Kind, place: Place, concat: Any) -> _Groups:
    """Edges node by node, each with where it stood."""
    what = "a list of (operation, source) pairs, flat or grouped by node"
    items = items_of(value, place((kind,)), what)
    if items and all(isinstance(item, dict) for item in items):
        return unas.grouped(items, kind, place)
    if items and all(_is_triple(item) for item in items):
        return _grouped_triples(items, kind, place)
    flat = [isinstance(item, (list, tuple)) and len(item) > 0 and isinstance(item[0], str) for item in items]
    if any(flat) and not all(flat):
        odd = flat.index(not flat[0])
        raise ValueError(f"{place((kind, odd))}: {kind} must be {what}, not both in one list")
    groups: _Groups = []
    if items and flat[0]:
        sizes = _sizes_where_every_edge_is_listed(items, concat) or [2] * (len(items) // 2)
        if sum(sizes) != len(items):
            raise ValueError(
                f"{place((kind,))}: {len(items)} pairs; the flat form has two a node, or one from every state before "
                "it; any other number must be grouped by node: [[(operation, source), ...], ...]"
            )
        first = 0
        for size in sizes:
            groups.append([(items[i], (kind, i)) for i in range(first, first + size)])
            first += size
        return groups
    for i, item in enumerate(items):
        edges = items_of(item, place((kind, i)), "a list of (operation, source) pairs")
        groups.append([(edge, (kind, i, j)) for j, edge in enumerate(edges)])
    return groups


def _sizes_where_every_edge_is_listed(items: list[Any], concat: Any) -> list[int] | None:
    """[2, 3, 4, ...] where the pairs are one from each state before each node, in any order (SNAS, 14 pairs for four
    nodes), and the concat has no further node; None otherwise."""
    num_nodes = next((n for n in range(2, MAX_NODES + 1) if n * (n + 3) // 2 == len(items)), 0)
    sizes = list(range(NUM_INPUTS, NUM_INPUTS + num_nodes))
    first = 0
    for size in sizes:
        pairs = [_without_probability(item) for item in items[first : first + size]]
        plain = [isinstance(pair, (list, tuple)) and len(pair) == 2 and is_int(pair[1]) for pair in pairs]
        sources = [pair[1] if usual else -1 for pair, usual in zip(pairs, plain, strict=True)]
        if sorted(sources) != list(range(size)):
            return None
        first += size
    numbers = islice(concat, MAX_NODES + 1) if isinstance(concat, (list, tuple, range)) else []
    beyond = any(is_int(number) and number >= num_nodes + NUM_INPUTS for number in numbers)
    return None if not sizes or beyond else sizes


def _grouped_triples(items: list[Any], kind: Kind, place: Place) -> _Groups:
    """Of (operation, node, source) or (operation, source, node): a node is the larger number of the two."""
    groups: _Groups = []
    node_first = items[0][1] > items[0][2]
    for i, (operation, first, second) in enumerate(items):
        node, source = (first, second) if node_first else (second, first)
        if not 0 <= source < node or node < NUM_INPUTS or node >= MAX_NODES + NUM_INPUTS:
            order = "(operation, node, source)" if node_first else "(operation, source, node)"
            raise ValueError(
                f"{place((kind, i))}: {order} is read here, as in the first triple, with nodes "
                f"{NUM_INPUTS} to {MAX_NODES + NUM_INPUTS - 1} and sources before them; got {show(items[i])}"
            )
        groups.extend([] for _ in range(node - NUM_INPUTS + 1 - len(groups)))
        groups[node - NUM_INPUTS].append(([operation, source], (kind, i)))
    return groups


def _without_none(groups: _Groups) -> tuple[list[Any], dict[Path, Path]]:
    """Edges node by node without ('none', i), and where edge (i, j) of them stood."""
    kept = [[(_without_probability(edge), origin) for edge, origin in group if not _is_none(edge)] for group in groups]
    origins: dict[Path, Path] = {(i, j): origin for i, group in enumerate(kept) for j, (_, origin) in enumerate(group)}
    return [[edge for edge, _ in group] for group in kept], origins


def _is_none(edge: Any) -> bool:
    """Whether it is ('none', i), an edge that adds nothing; with a wrong i it stays, to be reported."""
    edge = _without_probability(edge)
    return isinstance(edge, (list, tuple)) and len(edge) == 2 and edge[0] in ("none", "null") and is_int(edge[1])


def _is_triple(item: Any) -> bool:
    """Whether it is (operation, number, number)."""
    if not isinstance(item, (list, tuple)) or len(item) != 3:
        return False
    return isinstance(item[0], str) and is_int(item[1]) and is_int(item[2])


def _without_probability(edge: Any) -> Any:
    """(operation, source) of (operation, source, probability), which the first code of GDAS writes."""
    if isinstance(edge, (list, tuple)) and len(edge) == 3 and isinstance(edge[2], float):
        return edge[:2]
    return edge


# Text -----------------------------------------------------------------------------------------------------------------


class _Text:
    """Reads `[name =] Genotype(...)` of lists, tuples, strings, integers and range; keeps where each of them stood."""

    NEEDED = "it must be one `name = Genotype(normal=..., normal_concat=..., reduce=..., reduce_concat=...)`"

    def __init__(self, text: str, start: int = 0, end: int | None = None):
        self.spots: dict[Path, ast.expr] = {}
        # an indented copy of a line is welcome: what stands before it goes, positions are counted with it
        before = _BEFORE.match(text, start)
        start = before.end() if before else start
        self.skipped_lines = text.count("\n", 0, start)
        self.skipped_columns = start - (text.rfind("\n", 0, start) + 1)
        body = text[start:end]
        check_size(len(body), "DARTS text", MAX_BYTES)
        self.lines = body.split("\n")
        try:
            self.tree = parse(body)
        except SyntaxError as error:
            line, column = error.lineno or 1, max(error.offset or 1, 1)
            raise ValueError(f"DARTS text, {self._at(line, column)}: {error.msg}; {self.NEEDED}") from error
        except ValueError as error:  # nested too deeply, a null character, a lone surrogate
            raise ValueError(f"DARTS text: {error}; {self.NEEDED}") from error

    def _at(self, line: int, column: int) -> str:
        column += self.skipped_columns if line == 1 else 0
        return f"line {line + self.skipped_lines}, column {column}"

    def spot(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        line = self.lines[node.lineno - 1] if node.lineno <= len(self.lines) else ""
        column = len(line.encode()[: node.col_offset].decode(errors="ignore")) + 1  # ast counts bytes
        return self._at(node.lineno, column)

    def fail(self, node: ast.expr | ast.stmt | ast.keyword, message: str) -> NoReturn:
        raise ValueError(f"DARTS text, {self.spot(node)}: {message}")

    def place(self, path: Path) -> str:
        """The words for a place such as ("normal", 3, 0): its index, and the line and column it stood at."""
        known = path
        while known not in self.spots:
            known = known[:-1]
        return f"{indexed(path)} at {self.spot(self.spots[known])}"

    def only_call(self) -> ast.Call:
        """The one Genotype(...) that the text must be."""
        body = self.tree.body
        if not body:
            raise ValueError(f"DARTS text is empty; {self.NEEDED}")
        if len(body) > 1:
            self.fail(body[1], f"a second statement; {self.NEEDED}")
        statement = body[0]
        named = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if not named and not isinstance(statement, ast.Expr):
            self.fail(statement, f"no genotype; {self.NEEDED}")
        assert isinstance(statement, (ast.Assign, ast.Expr))
        call = statement.value
        function = call.func if isinstance(call, ast.Call) else None
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if not isinstance(call, ast.Call) or not name.endswith("Genotype"):  # confopt: DARTSGenotype
            self.fail(call, f"no call of Genotype; {self.NEEDED}")
        return call

    def fields(self, call: ast.Call) -> dict[str, Any]:
        """The four arguments of the call."""
        given: dict[str, ast.expr] = {}
        if len(call.args) > len(FIELDS):
            self.fail(call.args[len(FIELDS)], f"more than four arguments; it has {listed(FIELDS)}")
        given.update(zip(FIELDS, call.args, strict=False))
        for keyword in call.keywords:
            says_nothing = isinstance(keyword.value, ast.Constant) and keyword.value.value is None
            if keyword.arg not in FIELDS and says_nothing:
                continue
            if keyword.arg not in FIELDS:
                self.fail(keyword, f"unknown argument {show(keyword.arg)}; it has {listed(FIELDS)}")
            if keyword.arg in given:
                self.fail(keyword, f"argument {keyword.arg} is there twice; once is enough")
            given[keyword.arg] = keyword.value
        for field in FIELDS:
            if field not in given:
                self.fail(call, f"missing argument {field}; it needs {listed(FIELDS)}")
        return {field: self.value(_without_outer_list(given[field]), (field,)) for field in FIELDS}

    def value(self, node: ast.expr, path: Path, array: bool = False) -> Any:
        """What a literal says; nothing but literals, range(...) and the scalars and arrays of a repr is known here."""
        self.spots[path] = node
        node, is_array = unwrapped(node)
        array = array or is_array
        if isinstance(node, (ast.List, ast.Tuple)):
            if len(path) > 3:  # field, node, pair: nothing of a genotype lies deeper
                self.fail(node, "nested too deeply; edges must be (operation, source) pairs, flat or grouped by node")
            return [self.value(item, (*path, i), array) for i, item in enumerate(node.elts)]
        if isinstance(node, ast.Dict) and len(path) == 2:
            keys = [str(key.value) if isinstance(key, ast.Constant) else "" for key in node.keys]
            if sorted(keys) != ["inputs", "ops"]:
                self.fail(node, "a dictionary here must have the keys 'inputs' and 'ops'")
            return {key: self.value(item, (*path, key)) for key, item in zip(keys, node.values, strict=True)}
        if isinstance(node, ast.Constant) and (isinstance(node.value, str) or is_int(node.value)):
            word = node.value  # an array of pairs holds words only: [['sep_conv_3x3', '0'], ...]
            return int(word) if array and isinstance(word, str) and re.fullmatch(r"[0-9]{1,3}", word) else word
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and len(path) > 2 and path[-1] == 2:
            return node.value  # a probability, in third place of an edge
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = node.operand.value
            if isinstance(number, int) and not isinstance(number, bool):
                return -number  # so that -1 is told as a wrong node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            bounds = [self.value(bound, (*path, "bound")) for bound in node.args]
            if node.keywords or not 1 <= len(bounds) <= 3 or not all(is_int(bound) for bound in bounds):
                self.fail(node, "range must have one to three integers")
            if len(bounds) == 3 and bounds[2] == 0:
                self.fail(node, "range with step 0 has no numbers; any other step would do")
            return range(*bounds)
        what = show(node.value) if isinstance(node, ast.Constant) else type(node).__name__
        self.fail(node, f"{what}: only lists, tuples, strings, integers and range(...) are read here")


def _without_outer_list(node: ast.expr) -> ast.expr:
    """The inner list of [[{'inputs': ..., 'ops': ...}, ...]]: UNAS writes a list of one cell."""
    lists = (ast.List, ast.Tuple)
    if isinstance(node, lists) and len(node.elts) == 1 and isinstance(node.elts[0], lists):
        inner = node.elts[0]
        if inner.elts and all(isinstance(item, ast.Dict) for item in inner.elts):
            return inner
    return node
