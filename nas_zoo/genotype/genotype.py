"""The genotype of a cell network: which operations join which nodes, in its normal and in its reduction cell.

A genotype is plain data: frozen, checked when it is made, and the same in Python, JSON and the DARTS tuple text

    >>> genotype = load_genotype("darts_v2")
    >>> genotype.normal.nodes[0]
    (Edge(operation='sep_conv_3x3', source=0), Edge(operation='sep_conv_3x3', source=1))
    >>> Genotype.from_json(genotype.to_json()) == Genotype.from_darts(genotype.to_darts()) == genotype
    True

Node numbers, as DARTS writes them: 0 is the output of the cell before the last, 1 the output of the last cell, 2 and up
the intermediate nodes of the cell, so `nodes[i]` is node i + 2. A node is the sum of its edges, a cell's output the
concatenation of the nodes in `concat`. A node may have any number of edges, none included (it then feeds nothing and is
in no concat), take one input twice, or put several operations on one input.

The order of a node's edges is part of a genotype: it decides the names of the parameters in a state dict. So two
genotypes that differ in it only are not equal and have different digests, although they compute the same.

Everything a user can get wrong is a ValueError that names the place, the value found and what is accepted. Nothing read
here is ever executed. The module needs the standard library only.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import math
import os
import re
import reprlib
import stat
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import resources
from itertools import islice
from typing import Any, Literal, NamedTuple, NoReturn, Self

__all__ = [
    "KINDS",
    "MAX_BYTES",
    "MAX_DARTS_BYTES",
    "MAX_NODES",
    "OPERATIONS",
    "SCHEMA",
    "VERSION",
    "Cell",
    "Edge",
    "Genotype",
    "Kind",
    "as_genotype",
    "genotype_record",
    "list_genotypes",
    "list_records",
    "load_genotype",
]

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

SCHEMA = "nas-zoo/genotype"
VERSION = 1
MAX_NODES = 8  # intermediate nodes of a cell; published cells have 3 to 6
MAX_BYTES = 1 << 20  # of a JSON text or file; the largest published cell takes about 2 KiB
MAX_DARTS_BYTES = 1 << 16  # Python's parser takes about a thousand bytes of memory for each byte of text

_NUM_INPUTS = 2  # nodes 0 and 1 are the outputs of the two cells before
_NAME = re.compile(r"[a-z0-9_]+")
_LINE_START = '{"name":"'  # of every line of published.jsonl
_CANNOT_BUILD = '"cannot_build":'
_DARTS_CALL = re.compile(r"\bGenotype\s*\(")
_DARTS_BEFORE = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*[ \t\f]*")  # blank lines, comment lines, indentation
_DARTS_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
#: Further fields of UNAS, which say nothing there (None).
_UNAS_FIELDS = ("alphas_normal", "alphas_reduce")
#: UNAS's numbers of operations (darts/genotypes.py of its code).
_UNAS_OPERATIONS = (
    "skip_connect", "sep_conv_3x3", "max_pool_3x3", "dil_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "sep_conv_7x7",
)  # fmt: skip
#: Numbers of operations in the order of DARTS, where a cell is a list of one a possible edge (RLNAS, GeNAS).
_NUMBERED_OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3",
    "dil_conv_5x5",
)  # fmt: skip
_EDGES_OF_FOUR_NODES = 14

_Path = tuple[str | int, ...]
_Place = Callable[[_Path], str]  # ("nodes", 1, 0) -> the words for that place in what the user gave


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
        return tuple.__new__(cls, _checked_cell(nodes, concat, _place_in("cell")))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        return cls(*iterable)  # namedtuple's own, which _replace calls too, would not check

    @property
    def live_nodes(self) -> tuple[int, ...]:
        """Numbers of the intermediate nodes whose output reaches the concat, ascending; all concat nodes are."""
        live = set(self.concat)
        for number in range(len(self.nodes) + _NUM_INPUTS - 1, _NUM_INPUTS - 1, -1):
            if number in live:
                live.update(edge.source for edge in self.nodes[number - _NUM_INPUTS])
        return tuple(sorted(number for number in live if number >= _NUM_INPUTS))

    @property
    def inputs_read(self) -> frozenset[int]:
        """Which of the two cell inputs, 0 and 1, the live nodes read; never empty."""
        sources = (edge.source for number in self.live_nodes for edge in self.nodes[number - _NUM_INPUTS])
        return frozenset(source for source in sources if source < _NUM_INPUTS)


class _GenotypeFields(NamedTuple):
    normal: Cell
    reduce: Cell


class Genotype(_GenotypeFields):
    """A normal cell and a reduction cell.

    Each may be given as a Cell, as `(nodes, concat)`, or as a dictionary with these two keys. Equal to another Genotype
    with the same edges in the same order, never to a plain tuple. ValueError for anything that is no genotype.
    """

    __slots__ = ()

    def __new__(cls, normal: Any, reduce: Any) -> Self:
        return tuple.__new__(cls, (_as_cell(normal, "normal"), _as_cell(reduce, "reduce")))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        return cls(*iterable)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Genotype) and tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:  # without it, tuple's own __ne__ would answer
        return not self == other

    def __hash__(self) -> int:
        """The same in every process, unlike the hash of a string."""
        return hash(int(self.digest, 16))

    @property
    def digest(self) -> str:
        """16 hex digits, the same on every machine: the start of the SHA-256 of the two cells as compact JSON."""
        cells = {kind: self.cell(kind)._asdict() for kind in KINDS}
        text = json.dumps(cells, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]

    @property
    def num_edges(self) -> int:
        """Edges of both cells together, those of nodes that do not reach the concat included."""
        return sum(len(node) for cell in self for node in cell.nodes)

    @property
    def operations(self) -> frozenset[str]:
        """Names of the operations on the edges of either cell."""
        return frozenset(edge.operation for cell in self for node in cell.nodes for edge in node)

    def histogram(self) -> dict[Kind, dict[str, int]]:
        """{kind: {operation: number of edges}}, operations in the order of OPERATIONS, those that occur only."""
        counts: dict[Kind, dict[str, int]] = {}
        for kind in KINDS:
            found = [edge.operation for node in self.cell(kind).nodes for edge in node]
            counts[kind] = {operation: found.count(operation) for operation in OPERATIONS if operation in found}
        return counts

    def cell(self, kind: str) -> Cell:
        """The cell of that kind, "normal" or "reduce"."""
        if kind == "normal":
            return self.normal
        if kind == "reduce":
            return self.reduce
        raise ValueError(f"kind of cell: accepted are {_listed(KINDS)}, got {_show(kind)}")

    @classmethod
    def from_json(cls, source: str | bytes | dict[str, Any]) -> Genotype:
        """The genotype in a JSON text of this schema, or in the dictionary such a text parses to."""
        return _from_record(_parse_json(source) if isinstance(source, (str, bytes)) else source)

    def to_json(
        self, indent: int | None = None, *, name: str | None = None, provenance: dict[str, Any] | None = None
    ) -> str:
        """JSON text: one line, or one line a node with `indent` (1 to 8 spaces); `name` and `provenance` go with it."""
        record: dict[str, Any] = {"schema": SCHEMA, "version": VERSION}
        if name is not None:
            record["name"] = name
        record.update({kind: self.cell(kind)._asdict() for kind in KINDS})
        if provenance is not None:
            record["provenance"] = provenance
        _check_labels(record)
        if indent is not None and (not _is_int(indent) or not 1 <= indent <= 8):
            raise ValueError(f"indent: accepted are None and 1 to 8, got {_show(indent)}")
        try:
            text = json.dumps(record, allow_nan=False) if indent is None else _indented(record, " " * indent)
        except (TypeError, ValueError, RecursionError) as error:  # the cells always can be written
            raise ValueError(f"provenance: only what JSON can hold is accepted: {error}") from error
        _check_size(len(text), "the genotype as JSON")
        return text

    @classmethod
    def from_darts(cls, text: str) -> Genotype:
        """The genotype in a text such as `DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ...], ...)`.

        With or without the assignment, keyword or positional arguments, lists or tuples; two consecutive pairs a node,
        one pair from every state before each node (SNAS), the pairs grouped node by node, UNAS's dictionaries of
        inputs and numbers of operations, or triples (operation, node, source) or (operation, source, node), told apart
        by the node being the larger number; a probability in third place is passed over. concat as a list or range(2,
        6). `('none', i)` and `('null', i)` add nothing to a sum and are dropped after grouping. The text is parsed,
        never executed; errors name line and column.
        """
        return _from_darts_text(text)

    def to_darts(self, name: str | None = None) -> str:
        """DARTS tuple text, `name = ` in front if one is given.

        Two consecutive pairs a node where every node has exactly two inputs (what the DARTS code reads), else grouped.
        """
        if name is not None and not (isinstance(name, str) and name.isidentifier()):
            raise ValueError(f"name: only a Python identifier is accepted, got {_show(name)}")
        flat = all(len(node) == 2 for cell in self for node in cell.nodes) and not any(
            _sizes_where_every_edge_is_listed([edge for node in cell.nodes for edge in node], cell.concat)
            for cell in self
        )  # which would be read as another cell
        fields = []
        for kind in KINDS:
            cell = self.cell(kind)
            nodes = [[tuple(edge) for edge in node] for node in cell.nodes]
            fields.append(f"{kind}={[edge for node in nodes for edge in node] if flat else nodes}")
            fields.append(f"{kind}_concat={list(cell.concat)}")
        text = (f"{name} = " if name else "") + f"Genotype({', '.join(fields)})"
        _check_size(len(text), "the genotype as DARTS text", MAX_DARTS_BYTES)
        return text


def as_genotype(value: Any) -> Genotype:
    """The genotype that `value` stands for.

    A Genotype; a name of list_genotypes(); a path (see load_genotype); JSON or DARTS text; the dictionary of a JSON
    text, of this schema or one of those in nas_zoo.genotype.dialects; nested lists or tuples `[[nodes, concat], [nodes,
    concat]]`, which is what json.dumps makes of a Genotype; the four fields of a DARTS namedtuple; or 28 numbers of
    operations (RLNAS, GeNAS).
    """
    if isinstance(value, Genotype):
        return value
    if isinstance(value, (str, bytes)):
        text = _decoded(value, "genotype") if isinstance(value, bytes) else value
        return _from_text(text) if _is_genotype_text(text) else load_genotype(text)
    if isinstance(value, os.PathLike):
        return load_genotype(value)
    if isinstance(value, dict):
        return _from_dictionary(value)
    if isinstance(value, (list, tuple)):
        return _from_lists(value)
    raise ValueError(
        "genotype: accepted are a Genotype, a name, a path, JSON or DARTS text, a dictionary or nested lists, "
        f"got {_show(value)}"
    )


def load_genotype(name_or_path: str | os.PathLike[str]) -> Genotype:
    """The genotype of that name (list_genotypes), in that file (JSON or DARTS text) or in that run folder.

    A run folder is one that holds genotype.json. A name goes before a path: write ./darts_v2 for a folder of that name.
    """
    if isinstance(name_or_path, str) and _NAME.fullmatch(name_or_path):
        record = _package_record(name_or_path)
        if record is not None and "cannot_build" in record:
            raise ValueError(
                f"genotype {name_or_path!r} is known but cannot be built here: {record['cannot_build']}; "
                "genotype_record gives it as published"
            )
        if record is not None:
            return _from_record(record)
        if not os.path.exists(name_or_path):
            _no_such_name(name_or_path, list_genotypes())
    elif not isinstance(name_or_path, (str, os.PathLike)):
        raise ValueError(f"genotype: a name or a path is accepted here, got {_show(name_or_path)}")
    return _from_file(name_or_path)


def list_genotypes(tier: int | None = None) -> list[str]:
    """Names of the genotypes that come with the package, sorted: all that load_genotype takes.

    tier 1: found by this package, or what a paper or its repository presents as its result; 2: other published cells
    (ablations, other seeds or search spaces, searches repeated by others); None: both.
    """
    names = _file_names() if tier in (1, None) else []
    if tier in (2, None):
        names += [name for name, line in _published_lines().items() if _CANNOT_BUILD not in line]
    elif tier != 1:
        raise ValueError(f"tier: accepted are 1, 2 and None, got {_show(tier)}")
    return sorted(names)


def list_records() -> list[str]:
    """Names that genotype_record takes, sorted: the genotypes, and published cells that cannot be built here."""
    return sorted({*_file_names(), *_published_lines()})


def genotype_record(name: str) -> dict[str, Any]:
    """The whole JSON record of a cell that comes with the package: the cells, "name" and "provenance".

    The provenance says paper and source, tier, and where sources conflict; figures in it are the paper's own ("by"),
    not measured here. A cell that cannot be built has "cannot_build", the reason, and "published", its edges as its
    source writes them, in place of the cells.
    """
    record = _package_record(name) if isinstance(name, str) else None
    if record is None:
        _no_such_name(name, list_records())
    if "cannot_build" not in record:
        _from_record(record)
    return record


# Checks ---------------------------------------------------------------------------------------------------------------


def _checked_cell(nodes: Any, concat: Any, place: _Place) -> tuple[tuple[tuple[Edge, ...], ...], tuple[int, ...]]:
    """(nodes, concat) as tuples, every rule of a cell checked; `place` words the place of an error."""
    node_values = _items(nodes, place(("nodes",)), "a list of nodes, each a list of [operation, source] pairs")
    num_nodes = len(node_values)
    if not 1 <= num_nodes <= MAX_NODES:
        raise ValueError(f"{place(('nodes',))}: 1 to {MAX_NODES} intermediate nodes are accepted, got {num_nodes}")
    checked: list[tuple[Edge, ...]] = []
    for i, value in enumerate(node_values):
        edges = _items(value, place(("nodes", i)), "a list of [operation, source] pairs")
        checked.append(tuple(_checked_edge(edge, i, j, num_nodes, checked, place) for j, edge in enumerate(edges)))

    numbers = _items(concat, place(("concat",)), "a list of node numbers")
    if not numbers:
        raise ValueError(f"{place(('concat',))}: empty concat: at least one intermediate node with inputs is needed")
    usable = [i + _NUM_INPUTS for i, node in enumerate(checked) if node]
    for k, number in enumerate(numbers):
        where = place(("concat", k))
        if not _is_int(number):
            raise ValueError(f"{where}: a node number (integer) is accepted, got {_show(number)}")
        if number not in usable:
            without = _NUM_INPUTS <= number < num_nodes + _NUM_INPUTS
            raise ValueError(
                f"{where}: wrong node {_show(number)}{', which has no inputs' if without else ''}; "
                f"intermediate nodes with inputs: {_listed(usable)}"
            )
        if number in numbers[:k]:
            raise ValueError(f"{where}: node {number} is in the concat twice; each node is accepted once")
    return tuple(checked), tuple(int(number) for number in numbers)


def _checked_edge(value: Any, i: int, j: int, num_nodes: int, earlier: list[tuple[Edge, ...]], place: _Place) -> Edge:
    """Edge j of node i + 2; `earlier` holds the nodes before it."""
    pair = _items(value, place(("nodes", i, j)), "an [operation, source] pair")
    if len(pair) != 2:
        where = place(("nodes", i, j))
        raise ValueError(f"{where}: an [operation, source] pair is accepted, got {len(pair)} values: {_show(value)}")
    operation, source = pair
    where = place(("nodes", i, j, 0))
    if not isinstance(operation, str):
        raise ValueError(f"{where}: the name of an operation (string) is accepted, got {_show(operation)}")
    if operation not in OPERATIONS:
        hint = " (an edge with no operation is left out)" if operation == "none" else _near(operation, OPERATIONS)
        raise ValueError(f"{where}: unknown operation {_show(operation)}{hint}; accepted: {_listed(OPERATIONS)}")

    where = place(("nodes", i, j, 1))
    own = i + _NUM_INPUTS
    accepted = [n for n in range(own) if n < _NUM_INPUTS or earlier[n - _NUM_INPUTS]]
    if not _is_int(source):
        raise ValueError(f"{where}: the number of the node read (integer) is accepted, got {_show(source)}")
    if source not in accepted:
        if source < 0 or source >= num_nodes + _NUM_INPUTS:
            problem = f"wrong node: there is no node {_show(source)}"
        elif source == own:
            problem = f"cycle: node {own} reads itself"
        elif source > own:
            problem = f"cycle: node {own} reads node {source}, which comes after it"
        else:
            problem = f"wrong node: node {source} has no inputs, so there is nothing to read"
        raise ValueError(f"{where}: {problem}; node {own} may read {_listed(accepted)}")
    return Edge(OPERATIONS[OPERATIONS.index(operation)], int(source))


def _as_cell(value: Any, kind: Kind) -> Cell:
    if type(value) is Cell:
        return value
    if isinstance(value, dict):
        _check_keys(value, ("nodes", "concat"), (), f"{kind} cell")
        nodes, concat = value["nodes"], value["concat"]
    else:
        fields = _items(value, f"{kind} cell", "nodes and concat")
        if len(fields) != 2:
            raise ValueError(f"{kind} cell: nodes and concat are accepted, got {len(fields)} values: {_show(value)}")
        nodes, concat = fields
    return tuple.__new__(Cell, _checked_cell(nodes, concat, _place_in(kind)))


def _from_record(record: Any) -> Genotype:
    """The genotype of a parsed JSON record."""
    if not isinstance(record, dict):
        raise ValueError(
            f"genotype: a JSON object with schema, version, normal and reduce is accepted, got {_show(record)}"
        )
    _check_keys(record, ("schema", "version", *KINDS), ("name", "provenance"), "genotype")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema: {SCHEMA!r} is accepted, got {_show(record['schema'])}")
    if not _is_int(record["version"]) or record["version"] != VERSION:
        raise ValueError(f"version: {_show(record['version'])} is not read here; versions read: {VERSION}")
    _check_labels(record)
    return Genotype(record["normal"], record["reduce"])


def _check_labels(record: dict[str, Any]) -> None:
    """Checks the two parts of a record that are not the genotype itself."""
    name = record.get("name", "")
    if not isinstance(name, str):
        raise ValueError(f"name: a string is accepted, got {_show(name)}")
    provenance = record.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ValueError(f"provenance: an object is accepted, got {_show(provenance)}")


def _check_keys(record: dict[Any, Any], needed: tuple[str, ...], optional: tuple[str, ...], place: str) -> None:
    accepted = _listed(needed) + (f" and optionally {_listed(optional)}" if optional else "")
    for key in needed:
        if key not in record:
            what = "kind of cell" if key in KINDS else "key"
            raise ValueError(f"{place}: missing {what} {key!r}; needed are {accepted}")
    for key in record:
        if key not in needed and key not in optional:
            raise ValueError(f"{place}: unknown key {_show(key)}; accepted are {accepted}")


def _items(value: Any, place: str, accepted: str) -> list[Any]:
    """The items of a list, tuple or range; of a range no more than any cell could use."""
    if isinstance(value, range):
        return list(islice(value, MAX_NODES + _NUM_INPUTS + 1))
    if isinstance(value, (list, tuple)):
        return list(value)
    raise ValueError(f"{place}: {accepted} is accepted, got {_show(value)}")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _place_in(cell: str) -> _Place:
    """Words a path in a cell as `normal.nodes[1][0] (node 3)`."""

    def place(path: _Path) -> str:
        node = f" (node {int(path[1]) + _NUM_INPUTS})" if path[0] == "nodes" and len(path) > 1 else ""
        return f"{cell}.{path[0]}" + "".join(f"[{index}]" for index in path[1:]) + node

    return place


def _listed(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _near(word: str, known: Iterable[str]) -> str:
    """Words that name the known ones most like `word`, or nothing."""
    near = difflib.get_close_matches(word[:100], known)
    return f" (near: {_listed(near)})" if near else ""


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 4


def _show(value: Any) -> str:
    """repr of a value, cut short; a value from outside may be huge, deep or without a repr."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer over the digit limit of int -> str
        return f"a {type(value).__name__} too large to show"


# JSON -----------------------------------------------------------------------------------------------------------------


def _parse_json(source: str | bytes) -> Any:
    """What a JSON text holds. Stricter than json.loads: no key twice, no NaN or infinity, no more than MAX_BYTES."""
    text = _decoded(source, "genotype JSON") if isinstance(source, bytes) else source
    _check_size(len(text), "genotype JSON")
    try:
        return json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError("genotype JSON: nested too deeply; a genotype needs 5 levels") from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f"genotype JSON, line {error.lineno}, column {error.colno}: {error.msg}; a JSON object is accepted"
        ) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"genotype JSON: key {_show(twice)} is there twice in one object; once is accepted")
    return record


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"genotype JSON: {word} is no JSON; finite numbers are accepted")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"genotype JSON: number {_show(digits)} is out of range; finite numbers are accepted")
    return number


def _integer(digits: str) -> int:
    if len(digits) > 400:  # Python itself refuses to convert integers of thousands of digits
        raise ValueError(f"genotype JSON: integer {_show(digits)} has {len(digits)} digits; up to 400 are accepted")
    return int(digits)


def _indented(record: dict[str, Any], pad: str) -> str:
    """The record as JSON, one line a node (json.dumps would give one line a word)."""
    lines = []
    for key, value in record.items():
        if key in KINDS:
            nodes = ",\n".join(f"{pad * 3}{json.dumps(node)}" for node in value["nodes"])
            concat = json.dumps(value["concat"])
            words = f'{{\n{pad * 2}"nodes": [\n{nodes}\n{pad * 2}],\n{pad * 2}"concat": {concat}\n{pad}}}'
        else:
            words = json.dumps(value, allow_nan=False, indent=pad).replace("\n", "\n" + pad)
        lines.append(f"{pad}{json.dumps(key)}: {words}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


# DARTS tuple text -----------------------------------------------------------------------------------------------------


def _from_darts_text(text: Any) -> Genotype:
    if not isinstance(text, str):
        raise ValueError(f"DARTS text: a string is accepted, got {_show(text)}")
    _check_size(len(text), "DARTS text", MAX_DARTS_BYTES)
    reader = _DartsText(text)
    fields = reader.fields()
    return _from_darts_fields(fields, reader.place)


def _from_darts_fields(fields: dict[str, Any], place: _Place) -> Genotype:
    """The genotype of the four fields of a DARTS namedtuple; `place` words the place of ("normal", 3, 0)."""
    cells = {}
    for kind in KINDS:
        nodes, origins = _grouped(fields[kind], kind, place, fields[f"{kind}_concat"])

        def cell_place(path: _Path, kind: Kind = kind, origins: dict[_Path, _Path] = origins) -> str:
            if path[0] == "concat":
                return place((f"{kind}_concat", *path[1:]))
            node = f" (node {int(path[1]) + _NUM_INPUTS})" if len(path) > 1 else ""
            # a path of an edge or deeper starts where the edge stood before grouping and dropping
            origin = (*origins[path[1:3]], *path[3:]) if path[1:3] in origins else (kind, *path[1:])
            return place(origin) + node

        cells[kind] = tuple.__new__(Cell, _checked_cell(nodes, fields[f"{kind}_concat"], cell_place))
    return Genotype(cells["normal"], cells["reduce"])


def _grouped(value: Any, kind: Kind, place: _Place, concat: Any) -> tuple[list[Any], dict[_Path, _Path]]:
    """Edges node by node without ('none', i), and where edge (i, j) of them stood in the text."""
    accepted = "a list of (operation, source) pairs, flat or grouped by node,"
    items = _items(value, place((kind,)), accepted)
    if items and all(isinstance(item, dict) for item in items):
        return _numbered_operations(items, kind, place)
    if items and all(_is_triple(item) for item in items):
        return _grouped_triples(items, kind, place)
    flat = [isinstance(item, (list, tuple)) and len(item) > 0 and isinstance(item[0], str) for item in items]
    groups: list[list[tuple[Any, _Path]]] = []
    if items and flat[0]:
        if not all(flat):
            raise ValueError(f"{place((kind, flat.index(False)))}: {accepted} is accepted, not both in one list")
        sizes = _sizes_where_every_edge_is_listed(items, concat) or [2] * (len(items) // 2)
        if sum(sizes) != len(items):
            raise ValueError(
                f"{place((kind,))}: {len(items)} pairs; the flat form has two a node, or one from every state before "
                "it; any other number is accepted grouped by node: [[(operation, source), ...], ...]"
            )
        first = 0
        for size in sizes:
            groups.append([(items[i], (kind, i)) for i in range(first, first + size)])
            first += size
    else:
        if any(flat):
            raise ValueError(f"{place((kind, flat.index(True)))}: {accepted} is accepted, not both in one list")
        for i, item in enumerate(items):
            edges = _items(item, place((kind, i)), "a list of (operation, source) pairs")
            groups.append([(edge, (kind, i, j)) for j, edge in enumerate(edges)])
    return _without_none(groups)


def _sizes_where_every_edge_is_listed(items: list[Any], concat: Any) -> list[int] | None:
    """[2, 3, 4, ...] where the pairs are one from each state before each node, in any order (SNAS, 14 pairs for four
    nodes), and the concat has no further node; None otherwise."""
    num_nodes = next((n for n in range(2, MAX_NODES + 1) if n * (n + 3) // 2 == len(items)), 0)
    sizes = list(range(_NUM_INPUTS, _NUM_INPUTS + num_nodes))
    first = 0
    for size in sizes:
        pairs = [_without_probability(item) for item in items[first : first + size]]
        plain = [isinstance(pair, (list, tuple)) and len(pair) == 2 and _is_int(pair[1]) for pair in pairs]
        sources = [pair[1] if usual else -1 for pair, usual in zip(pairs, plain, strict=True)]
        if sorted(sources) != list(range(size)):
            return None
        first += size
    numbers = islice(concat, MAX_NODES + 1) if isinstance(concat, (list, tuple, range)) else []
    beyond = any(_is_int(number) and number >= num_nodes + _NUM_INPUTS for number in numbers)
    return None if not sizes or beyond else sizes


def _numbered_operations(items: list[Any], kind: Kind, place: _Place) -> tuple[list[Any], dict[_Path, _Path]]:
    """_grouped for one {'inputs': [0, 1], 'ops': [1, 4]} a node, with UNAS's numbers of operations."""
    groups: list[list[tuple[Any, _Path]]] = []
    for i, item in enumerate(items):
        where = (kind, i)
        if set(item) != {"inputs", "ops"}:
            raise ValueError(f"{place(where)}: the keys inputs and ops are accepted, got {_show(list(item))}")
        sources, numbers = (_items(item[key], place(where), f"a list for {key}") for key in ("inputs", "ops"))
        if len(sources) != len(numbers):
            raise ValueError(
                f"{place(where)}: {len(sources)} inputs and {len(numbers)} ops; as many of both are accepted"
            )
        for number in numbers:
            if not _is_int(number) or not 0 <= number < len(_UNAS_OPERATIONS):
                known = ", ".join(f"{j} {name}" for j, name in enumerate(_UNAS_OPERATIONS))
                raise ValueError(f"{place(where)}: op {_show(number)} is unknown; accepted are {known}")
        groups.append([([_UNAS_OPERATIONS[n], source], where) for n, source in zip(numbers, sources, strict=True)])
    return _without_none(groups)


def _grouped_triples(items: list[Any], kind: Kind, place: _Place) -> tuple[list[Any], dict[_Path, _Path]]:
    """_grouped for (operation, node, source) or (operation, source, node): a node is the larger number of the two."""
    groups: list[list[tuple[Any, _Path]]] = []
    node_first = items[0][1] > items[0][2]
    for i, (operation, first, second) in enumerate(items):
        node, source = (first, second) if node_first else (second, first)
        if not 0 <= source < node or node < _NUM_INPUTS or node >= MAX_NODES + _NUM_INPUTS:
            order = "(operation, node, source)" if node_first else "(operation, source, node)"
            raise ValueError(
                f"{place((kind, i))}: {order} is read here, as in the first triple, with nodes "
                f"{_NUM_INPUTS} to {MAX_NODES + _NUM_INPUTS - 1} and sources before them; got {_show(items[i])}"
            )
        groups.extend([] for _ in range(node - _NUM_INPUTS + 1 - len(groups)))
        groups[node - _NUM_INPUTS].append(([operation, source], (kind, i)))
    return _without_none(groups)


def _without_none(groups: list[list[tuple[Any, _Path]]]) -> tuple[list[Any], dict[_Path, _Path]]:
    kept = [[(_without_probability(edge), origin) for edge, origin in group if not _is_none(edge)] for group in groups]
    origins: dict[_Path, _Path] = {
        (i, j): origin for i, group in enumerate(kept) for j, (_, origin) in enumerate(group)
    }
    return [[edge for edge, _ in group] for group in kept], origins


def _is_none(edge: Any) -> bool:
    """Whether it is ('none', i), an edge that adds nothing; with a wrong i it stays, to be reported."""
    edge = _without_probability(edge)
    return isinstance(edge, (list, tuple)) and len(edge) == 2 and edge[0] in ("none", "null") and _is_int(edge[1])


def _is_triple(item: Any) -> bool:
    """Whether it is (operation, number, number)."""
    if not isinstance(item, (list, tuple)) or len(item) != 3:
        return False
    return isinstance(item[0], str) and _is_int(item[1]) and _is_int(item[2])


def _without_probability(edge: Any) -> Any:
    """(operation, source) of (operation, source, probability), which the first code of GDAS writes."""
    if isinstance(edge, (list, tuple)) and len(edge) == 3 and isinstance(edge[2], float):
        return edge[:2]
    return edge


def _without_outer_list(node: ast.expr) -> ast.expr:
    """The inner list of [[{'inputs': ..., 'ops': ...}, ...]]: UNAS writes a list of one cell."""
    lists = (ast.List, ast.Tuple)
    if isinstance(node, lists) and len(node.elts) == 1 and isinstance(node.elts[0], lists):
        inner = node.elts[0]
        if inner.elts and all(isinstance(item, ast.Dict) for item in inner.elts):
            return inner
    return node


class _DartsText:
    """Reads `[name =] Genotype(...)` of lists, tuples, strings, integers and range; keeps where each of them stood."""

    ACCEPTED = "one `name = Genotype(normal=..., normal_concat=..., reduce=..., reduce_concat=...)` is accepted"

    def __init__(self, text: str):
        self.spots: dict[_Path, ast.expr] = {}
        text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        # an indented copy of a line is welcome: what stands before it goes, positions are counted with it
        before = _DARTS_BEFORE.match(text)
        start = before.end() if before else 0
        self.skipped_lines = text.count("\n", 0, start)
        self.skipped_columns = start - (text.rfind("\n", 0, start) + 1)
        body = text[start:]
        self.lines = body.split("\n")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a bad escape in a string is reported as a wrong name below
                self.tree = ast.parse(body)
        except SyntaxError as error:
            line, column = error.lineno or 1, max(error.offset or 1, 1)
            raise ValueError(f"DARTS text, {self._at(line, column)}: {error.msg}; {self.ACCEPTED}") from error
        except (RecursionError, MemoryError) as error:
            raise ValueError(f"DARTS text: nested too deeply; {self.ACCEPTED}") from error
        except ValueError as error:  # a null character, a lone surrogate
            raise ValueError(f"DARTS text: {error}; {self.ACCEPTED}") from error

    def _at(self, line: int, column: int) -> str:
        column += self.skipped_columns if line == 1 else 0
        return f"line {line + self.skipped_lines}, column {column}"

    def spot(self, node: ast.expr | ast.stmt | ast.keyword) -> str:
        line = self.lines[node.lineno - 1] if node.lineno <= len(self.lines) else ""
        column = len(line.encode()[: node.col_offset].decode(errors="ignore")) + 1  # ast counts bytes
        return self._at(node.lineno, column)

    def fail(self, node: ast.expr | ast.stmt | ast.keyword, message: str) -> NoReturn:
        raise ValueError(f"DARTS text, {self.spot(node)}: {message}")

    def place(self, path: _Path) -> str:
        """The words for a place such as ("normal", 3, 0): its index, and the line and column it stood at."""
        known = path
        while known not in self.spots:
            known = known[:-1]
        return f"{path[0]}{''.join(f'[{i}]' for i in path[1:])} at {self.spot(self.spots[known])}"

    def fields(self) -> dict[str, Any]:
        """The four arguments of the one Genotype(...) in the text."""
        body = self.tree.body
        if not body:
            raise ValueError(f"DARTS text: empty; {self.ACCEPTED}")
        if len(body) > 1:
            self.fail(body[1], f"a second statement; {self.ACCEPTED}")
        statement = body[0]
        named = isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name) for t in statement.targets)
        if not named and not isinstance(statement, ast.Expr):
            self.fail(statement, f"no genotype; {self.ACCEPTED}")
        assert isinstance(statement, (ast.Assign, ast.Expr))
        call = statement.value
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "Genotype"):
            self.fail(call, f"no call of Genotype; {self.ACCEPTED}")
        given: dict[str, ast.expr] = {}
        if len(call.args) > len(_DARTS_FIELDS):
            self.fail(call.args[len(_DARTS_FIELDS)], f"more than four arguments; accepted: {_listed(_DARTS_FIELDS)}")
        given.update(zip(_DARTS_FIELDS, call.args, strict=False))
        for keyword in call.keywords:
            if keyword.arg in _UNAS_FIELDS and isinstance(keyword.value, ast.Constant) and keyword.value.value is None:
                continue
            if keyword.arg not in _DARTS_FIELDS:
                self.fail(keyword, f"unknown argument {_show(keyword.arg)}; accepted: {_listed(_DARTS_FIELDS)}")
            if keyword.arg in given:
                self.fail(keyword, f"argument {keyword.arg} is there twice; once is accepted")
            given[keyword.arg] = keyword.value
        for field in _DARTS_FIELDS:
            if field not in given:
                self.fail(call, f"missing argument {field}; needed are {_listed(_DARTS_FIELDS)}")
        return {field: self.value(_without_outer_list(given[field]), (field,)) for field in _DARTS_FIELDS}

    def value(self, node: ast.expr, path: _Path) -> Any:
        """What a literal says; nothing but literals and range(...) is known here."""
        self.spots[path] = node
        if isinstance(node, (ast.List, ast.Tuple)):
            if len(path) > 3:  # field, node, pair: nothing of a genotype lies deeper
                self.fail(node, "nested too deeply; (operation, source) pairs, flat or grouped by node, are accepted")
            return [self.value(item, (*path, i)) for i, item in enumerate(node.elts)]
        if isinstance(node, ast.Dict) and len(path) == 2:
            keys = [str(key.value) if isinstance(key, ast.Constant) else "" for key in node.keys]
            if sorted(keys) != ["inputs", "ops"]:
                self.fail(node, "a dictionary with the keys 'inputs' and 'ops' is accepted")
            return {key: self.value(item, (*path, key)) for key, item in zip(keys, node.values, strict=True)}
        if isinstance(node, ast.Constant) and (isinstance(node.value, str) or _is_int(node.value)):
            return node.value
        if isinstance(node, ast.Constant) and isinstance(node.value, float) and len(path) > 2 and path[-1] == 2:
            return node.value  # a probability, in third place of an edge
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
            number = node.operand.value
            if isinstance(number, int) and not isinstance(number, bool):
                return -number  # so that -1 is told as a wrong node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "range":
            bounds = [self.value(bound, (*path, "bound")) for bound in node.args]
            if node.keywords or not 1 <= len(bounds) <= 3 or not all(_is_int(bound) for bound in bounds):
                self.fail(node, "range with one to three integers is accepted")
            if len(bounds) == 3 and bounds[2] == 0:
                self.fail(node, "range with step 0; any other step is accepted")
            return range(*bounds)
        what = _show(node.value) if isinstance(node, ast.Constant) else type(node).__name__
        self.fail(node, f"{what}: only lists, tuples, strings, integers and range(...) are accepted")


# Names, files and lists -----------------------------------------------------------------------------------------------


def _from_lists(value: list[Any] | tuple[Any, ...]) -> Genotype:
    """The genotype of [normal cell, reduction cell], of the four fields of a DARTS namedtuple, or of 28 numbers."""
    halves = list(value)
    if len(value) == 2 * _EDGES_OF_FOUR_NODES and all(map(_is_int, value)):
        halves = [value[:_EDGES_OF_FOUR_NODES], value[_EDGES_OF_FOUR_NODES:]]
    if len(halves) == 2 and all(_is_numbers_of_edges(half) for half in halves):
        return Genotype(*(_from_numbers(half, kind) for half, kind in zip(halves, KINDS, strict=True)))
    if len(value) == len(KINDS):
        return Genotype(*value)
    if len(value) == len(_DARTS_FIELDS):
        fields = dict(zip(_DARTS_FIELDS, value, strict=True))
        return _from_darts_fields(fields, lambda path: f"{path[0]}{''.join(f'[{i}]' for i in path[1:])}")
    raise ValueError(
        "genotype: two cells, each [nodes, concat], or the four DARTS fields are accepted, "
        f"got {len(value)} values: {_show(value)}"
    )


def _is_numbers_of_edges(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == _EDGES_OF_FOUR_NODES and all(map(_is_int, value))


def _from_numbers(numbers: Sequence[int], kind: str) -> Cell:
    """The cell of 14 numbers of operations, for the edges 2 from 0, 2 from 1, 3 from 0 ... 5 from 4; 0 is no edge."""
    nodes: list[list[tuple[str, int]]] = [[] for _ in range(4)]
    edges = [(node, source) for node in range(2, 6) for source in range(node)]
    for i, (number, (node, source)) in enumerate(zip(numbers, edges, strict=True)):
        if not 0 <= number < len(_NUMBERED_OPERATIONS):
            known = ", ".join(f"{j} {name}" for j, name in enumerate(_NUMBERED_OPERATIONS))
            raise ValueError(f"{kind} cell, number {i} of 14: {number} is no operation; accepted are {known}")
        if number:
            nodes[node - 2].append((_NUMBERED_OPERATIONS[number], source))
    return Cell(nodes, [2, 3, 4, 5])


def _is_genotype_text(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"') or _DARTS_CALL.search(text) is not None


def _from_text(text: str) -> Genotype:
    """The genotype of a JSON text (an object, nested lists, a string of DARTS text) or of a DARTS text."""
    if text.lstrip("\ufeff \t\r\n")[:1] in ("{", "["):
        value = _parse_json(text)
        return _from_lists(value) if isinstance(value, list) else _from_dictionary(value)
    if text.lstrip("\ufeff \t\r\n")[:1] == '"':
        return Genotype.from_darts(_parse_json(text))
    return Genotype.from_darts(text)


def _from_file(name_or_path: str | os.PathLike[str]) -> Genotype:
    path = os.fsdecode(name_or_path)
    shown = _show(path)
    try:
        if os.path.isdir(path):
            inner = os.path.join(path, "genotype.json")
            if not os.path.isfile(inner):
                raise ValueError("a folder without genotype.json; a file or a run folder is accepted")
            path = inner
        text = _decoded(_file_bytes(path), "file")
        if not text.strip("\ufeff \t\r\n"):
            raise ValueError("the file is empty; a JSON or DARTS genotype is accepted")
        return _from_text(text)
    except FileNotFoundError:
        _no_such_name(path, list_genotypes())
    except OSError as error:
        raise ValueError(f"genotype {shown}: {error.strerror or error}; a readable file is accepted") from error
    except ValueError as error:
        raise ValueError(f"genotype {shown}: {error}") from error


def _file_bytes(path: str) -> bytes:
    """The bytes of a regular file, no more than just over MAX_BYTES; opening a pipe could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("no regular file; a file with a JSON or DARTS genotype is accepted")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    _check_size(len(data), "the file")
    return data


def _check_size(size: int, what: str, limit: int = MAX_BYTES) -> None:
    if size > limit:
        raise ValueError(f"{what}: too large; up to {limit} bytes ({limit >> 10} KiB) are accepted")


def _decoded(data: bytes, what: str) -> str:
    _check_size(len(data), what)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what}: binary or not UTF-8 at byte {error.start}; UTF-8 text is accepted") from error
    if "\0" in text:
        raise ValueError(f"{what}: binary (a null byte at character {text.index(chr(0))}); UTF-8 text is accepted")
    return text


def _package_folder() -> Any:
    return resources.files("nas_zoo.genotype").joinpath("cells")


def _file_names() -> list[str]:
    """Names of the cells that have a file each, those of tier 1."""
    names = (entry.name for entry in _package_folder().iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


@cache
def _published_lines() -> dict[str, str]:
    """The lines of published.jsonl by name: tier 2, and what cannot be built. A line is parsed when it is asked for."""
    lines = _package_folder().joinpath("published.jsonl").read_text(encoding="ascii").splitlines()
    return {line[len(_LINE_START) : line.index('"', len(_LINE_START))]: line for line in lines}


def _package_record(name: str) -> dict[str, Any] | None:
    """The record of that name, or None."""
    record: dict[str, Any]
    if name in _file_names():
        record = _parse_json(_package_folder().joinpath(f"{name}.json").read_bytes())
        return record
    line = _published_lines().get(name)
    if line is None:
        return None
    record = _parse_json(line)
    return record if "cannot_build" in record else {"schema": SCHEMA, "version": VERSION} | record


def _from_dictionary(value: dict[Any, Any]) -> Genotype:
    """The genotype of a dictionary: this schema, or a dialect where its keys are those of one."""
    from nas_zoo.genotype import dialects  # it builds on this module

    read = dialects.reader_of(value)
    return _from_record(value) if read is None else read(value)


def _no_such_name(name: Any, names: list[str]) -> NoReturn:
    near = _near(name, names) if isinstance(name, str) else ""
    raise ValueError(
        f"genotype {_show(name)}: no such file, and none of the {len(names)} cells has that name{near}; "
        "`nas-zoo list --cells` shows them"
    )
