"""The genotype of a cell network: which operations join which nodes, in its normal and in its reduction cell.

A genotype is plain data: frozen, checked when it is made, and the same in Python, JSON and the DARTS tuple text

    >>> genotype = load_genotype("darts_v2")
    >>> genotype.normal.nodes[0]
    (Edge(operation='sep_conv_3x3', source=0), Edge(operation='sep_conv_3x3', source=1))
    >>> Genotype.from_json(genotype.to_json()) == Genotype.from_darts(genotype.to_darts()) == genotype
    True

What a node, an edge and a concat are: cell.py. Two genotypes that differ in the order of a node's edges only are not
equal and have different digests, although they compute the same.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn, Self

from nas_zoo.genotype.cell import KINDS, OPERATIONS, Cell, Kind, as_cell, check_keys, check_size, is_int, listed
from nas_zoo.genotype.dialects import darts
from nas_zoo.text import show

__all__ = ["MAX_BYTES", "SCHEMA", "VERSION", "Genotype"]

SCHEMA = "nas-zoo/genotype"
VERSION = 1
MAX_BYTES = 1 << 20  # of a JSON text or file; the largest published cell takes about 2 KiB


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
        return tuple.__new__(cls, (as_cell(normal, "normal"), as_cell(reduce, "reduce")))

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
        """{kind: {operation: number of edges}}, in the order of OPERATIONS, others behind; those that occur only."""
        counts: dict[Kind, dict[str, int]] = {}
        for kind in KINDS:
            found = [edge.operation for node in self.cell(kind).nodes for edge in node]
            order = (*OPERATIONS, *sorted(set(found) - set(OPERATIONS)))
            counts[kind] = {operation: found.count(operation) for operation in order if operation in found}
        return counts

    def cell(self, kind: str) -> Cell:
        """The cell of that kind, "normal" or "reduce"."""
        if kind == "normal":
            return self.normal
        if kind == "reduce":
            return self.reduce
        raise ValueError(f"the kind of a cell must be one of {listed(KINDS)}, got {show(kind)}")

    @classmethod
    def from_json(cls, source: str | bytes | dict[str, Any]) -> Genotype:
        """The genotype in a JSON text of this schema, or in the dictionary such a text parses to."""
        return from_record(parse_json(source) if isinstance(source, (str, bytes)) else source)

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
        if indent is not None and (not is_int(indent) or not 1 <= indent <= 8):
            raise ValueError(f"indent must be None or a number from 1 to 8, got {show(indent)}")
        try:
            text = json.dumps(record, allow_nan=False) if indent is None else _indented(record, " " * indent)
        except (TypeError, ValueError, RecursionError) as error:  # the cells always can be written
            raise ValueError(f"provenance must hold only what JSON can: {error}") from error
        check_size(len(text), "the genotype as JSON", MAX_BYTES)
        return text

    @classmethod
    def from_darts(cls, text: str) -> Genotype:
        """The genotype in a text that is one `DARTS_V2 = Genotype(normal=[('sep_conv_3x3', 0), ...], ...)`.

        With or without the assignment; dialects/darts.py says how the edges may be written. The text is parsed, never
        executed; errors name line and column.
        """
        return cls(*darts.read_statement(text))

    def to_darts(self, name: str | None = None) -> str:
        """DARTS tuple text, `name =` in front if one is given.

        Two consecutive pairs a node where every node has exactly two inputs (what the DARTS code reads), else grouped.
        """
        return darts.write(self.normal, self.reduce, name)

    @property
    def in_darts(self) -> bool:
        """Whether DARTS' own code builds these cells of ``to_darts``; the texts of others are for this package."""
        return darts.expresses(self.normal, self.reduce)


def from_record(record: Any) -> Genotype:
    """The genotype of a parsed JSON record."""
    if not isinstance(record, dict):
        raise ValueError(f"genotype must be a JSON object with schema, version, normal and reduce, got {show(record)}")
    check_keys(record, ("schema", "version", *KINDS), ("name", "provenance"), "genotype")
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema must be {SCHEMA!r}, got {show(record['schema'])}")
    if not is_int(record["version"]) or record["version"] != VERSION:
        raise ValueError(f"version: {show(record['version'])} is not read here; versions read: {VERSION}")
    _check_labels(record)
    return Genotype(record["normal"], record["reduce"])


def _check_labels(record: dict[str, Any]) -> None:
    """Checks the two parts of a record that are not the genotype itself."""
    name = record.get("name", "")
    if not isinstance(name, str):
        raise ValueError(f"name must be a string, got {show(name)}")
    provenance = record.get("provenance", {})
    if not isinstance(provenance, dict):
        raise ValueError(f"provenance must be an object, got {show(provenance)}")


# JSON -----------------------------------------------------------------------------------------------------------------


def decoded(data: bytes, what: str) -> str:
    """The UTF-8 text, or UTF-16 that begins with its mark; ValueError for what is too large or binary."""
    check_size(len(data), what, MAX_BYTES)
    try:  # PowerShell's `>` writes UTF-16
        text = data.decode("utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{what} must be UTF-8 text: binary or not UTF-8 at byte {error.start}") from error
    if "\0" in text:
        raise ValueError(f"{what} must be UTF-8 text: binary (a null byte at character {text.index(chr(0))})")
    return text


def parse_json(source: str | bytes) -> Any:
    """What a JSON text holds. Stricter than json.loads: no key twice, no NaN or infinity, no more than MAX_BYTES."""
    text = decoded(source, "genotype JSON") if isinstance(source, bytes) else source
    check_size(len(text), "genotype JSON", MAX_BYTES)
    try:
        return json.loads(
            text.removeprefix("\ufeff"),
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError as error:
        raise ValueError("genotype JSON is nested too deeply; a genotype needs 5 levels") from error
    except json.JSONDecodeError as error:
        raise NoJson(f"genotype JSON, line {error.lineno}, column {error.colno}: {error.msg}") from error


class NoJson(ValueError):
    """A text that JSON's grammar does not allow; it may be something else."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"genotype JSON: key {show(twice)} is there twice in one object; once is enough")
    return record


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"genotype JSON: {word} is no JSON; numbers must be finite")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"genotype JSON: number {show(digits)} is out of range; numbers must be finite")
    return number


def _integer(digits: str) -> int:
    if len(digits) > 400:  # Python itself refuses to convert integers of thousands of digits
        raise ValueError(f"genotype JSON: integer {show(digits)} has {len(digits)} digits; it may have up to 400")
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
