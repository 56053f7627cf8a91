"""Genotypes as other programs write them into JSON.

    NNI             {"normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": 0, ...}: the model_dict of a DARTS search
    NAS-Bench-301   {"NetworkSelectorDatasetInfo:darts:edge_normal_0": "sep_conv_3x3", ...,
                     "NetworkSelectorDatasetInfo:darts:inputs_node_normal_3": "0_1", ...}: a ConfigSpace dictionary
    DARTS fields    {"normal": [["sep_conv_3x3", 0], ...], "normal_concat": [2, 3, 4, 5], "reduce": ..., ...}
    UNAS            DARTS fields (or text) of [[{"inputs": [0, 1], "ops": [1, 4]}, ...]], operations by UNAS's numbers
    28 numbers      [5, 4, 6, ...]: RLNAS and GeNAS, operations by DARTS's numbers on all 14 edges of both cells
    DARTS text      {"genotype": "Genotype(normal=[('sep_conv_3x3', 0), ...], ...)"}, under any key

`nas_zoo.genotype.as_genotype` and `load_genotype` (and so every program that takes a genotype) tell them apart by their
keys. Edges in DARTS fields and text may be pairs (two a node, or one from every state before each node, as SNAS writes
all 14), pairs grouped by node, or triples, as `Genotype.from_darts` says.

Nothing read here is executed. A ValueError names the key, what stands there and what is accepted. 'none' edges add
nothing to a sum and are left out; a node whose edges are all 'none' but which is in the concat is refused, since there
the original puts zeros, which no genotype can say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Literal

from nas_zoo.genotype.genotype import (
    _UNAS_FIELDS,
    KINDS,
    MAX_NODES,
    Cell,
    Genotype,
    _checked_cell,
    _from_darts_fields,
    _is_int,
    _listed,
    _Path,
    _show,
)

__all__ = ["from_darts_fields", "from_nasbench301", "from_nni", "from_text_in_json", "reader_of"]

_FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_NNI_KEY = re.compile(r"(normal|reduce)/(op|input)_(\d{1,3})_(\d{1,3})")
_NNI_LIKE = re.compile(r"(normal|reduce)/")
_CONFIG = "NetworkSelectorDatasetInfo:darts:"
_CONFIG_LIKE = re.compile(rf"({_CONFIG})?(edge|inputs_node)_(normal|reduce)_")
_NOTHING = ("none", "null")


def reader_of(record: dict[Any, Any]) -> Callable[[dict[Any, Any]], Genotype] | None:
    """The reader whose keys the dictionary has, or None."""
    keys = [key for key in record if isinstance(key, str)]
    if "schema" in record:
        return None
    if any(_NNI_LIKE.match(key) for key in keys):
        return from_nni
    if any(_CONFIG_LIKE.match(key) for key in keys):
        return from_nasbench301
    if "normal_concat" in record or "reduce_concat" in record:
        return from_darts_fields
    if any(_is_text(value) for value in record.values()):
        return from_text_in_json
    return None


def from_nni(record: dict[Any, Any], *, concat: Literal["all", "loose_end"] = "all") -> Genotype:
    """The genotype of NNI's model_dict.

    Keys that begin neither with normal/ nor with reduce/ (such as width and depth) say nothing of the cells and are
    passed over. A source is a number, or a list with one number in it.

    Args:
        record: `<kind>/op_<node>_<k>` and `<kind>/input_<node>_<k>` for each edge k of each node from 2 on.
        concat: "all" nodes, as in NNI's DARTS, or "loose_end": those that no other node reads, as in its NASNet,
            ENAS, AmoebaNet and PNAS.
    """
    edges: dict[str, dict[int, dict[int, dict[str, Any]]]] = {kind: {} for kind in KINDS}
    for key, value in record.items():
        if not isinstance(key, str) or not _NNI_LIKE.match(key):
            continue
        match = _NNI_KEY.fullmatch(key)
        if match is None:
            raise ValueError(
                f"NNI model_dict: unknown key {_show(key)}; accepted are normal/op_2_0, normal/input_2_0 ..."
            )
        kind, what, node, k = match[1], match[2], int(match[3]), int(match[4])
        edges[kind].setdefault(node, {}).setdefault(k, {})[what] = value
    cells = {}
    for kind in KINDS:
        numbers = sorted(edges[kind])
        if not numbers:
            raise ValueError(f"NNI model_dict: no key begins with {kind}/op_; both kinds of cell are needed")
        if numbers != list(range(2, len(numbers) + 2)) or len(numbers) > MAX_NODES:
            raise ValueError(
                f"NNI model_dict, {kind}: nodes {_listed(numbers)}; accepted are 1 to {MAX_NODES} nodes, "
                "numbered from 2 without a gap"
            )
        nodes: list[list[list[Any]]] = []
        origins: dict[_Path, str] = {}
        for number in numbers:
            nodes.append([])
            for k, edge in sorted(edges[kind][number].items()):
                for what in ("op", "input"):
                    if what not in edge:
                        raise ValueError(f"NNI model_dict: missing key {kind}/{what}_{number}_{k}")
                source = edge["input"]
                if isinstance(source, (list, tuple)) and len(source) == 1:
                    source = source[0]
                if edge["op"] in _NOTHING and _is_int(source):
                    continue
                for position, what in enumerate(("op", "input")):
                    origins[number - 2, len(nodes[-1]), position] = f"{kind}/{what}_{number}_{k}"
                nodes[-1].append([edge["op"], source])
        read = {edge[1] for node in nodes for edge in node if _is_int(edge[1])} if concat == "loose_end" else set()
        cells[kind] = _cell(nodes, [n for n in numbers if n not in read], origins, "NNI model_dict", kind)
    return Genotype(cells["normal"], cells["reduce"])


def from_nasbench301(record: dict[Any, Any]) -> Genotype:
    """The genotype of a ConfigSpace dictionary of NAS-Bench-301, the prefix of its keys there or left away.

    Edges are numbered as in a DARTS supernet: 0 and 1 enter node 2, 2 to 4 node 3, 5 to 8 node 4, 9 to 13 node 5. Node
    2 reads both inputs of the cell; `inputs_node_<kind>_<node>` says which two the others read. Other keys are passed
    over.
    """

    def value(key: str) -> Any:
        for full in (_CONFIG + key, key):
            if full in record:
                return record[full]
        raise ValueError(f"NAS-Bench-301 configuration: missing key {_CONFIG}{key}")

    cells = {}
    for kind in KINDS:
        nodes: list[list[list[Any]]] = []
        origins: dict[_Path, str] = {}
        for number in range(2, 6):
            first_edge = number * (number - 1) // 2 - 1  # 2 edges enter node 2, 3 node 3, ...
            words = "0_1" if number == 2 else value(f"inputs_node_{kind}_{number}")
            match = re.fullmatch(r"(\d)_(\d)", words) if isinstance(words, str) else None
            sources = [int(match[1]), int(match[2])] if match else []
            if not sources or not sources[0] < sources[1] < number:
                raise ValueError(
                    f"NAS-Bench-301 configuration, key {_CONFIG}inputs_node_{kind}_{number}: two numbers below "
                    f"{number} such as '0_1' are accepted, the smaller first, got {_show(words)}"
                )
            nodes.append([])
            for source in sources:
                key = f"edge_{kind}_{first_edge + source}"
                operation = value(key)
                if operation in _NOTHING:
                    continue
                origins[number - 2, len(nodes[-1]), 0] = _CONFIG + key
                origins[number - 2, len(nodes[-1]), 1] = f"{_CONFIG}inputs_node_{kind}_{number}"
                nodes[-1].append([operation, source])
        cells[kind] = _cell(nodes, [2, 3, 4, 5], origins, "NAS-Bench-301 configuration", kind)
    return Genotype(cells["normal"], cells["reduce"])


def from_darts_fields(record: dict[Any, Any]) -> Genotype:
    """The genotype of the four fields of DARTS's namedtuple as JSON; further keys are an error, name apart."""
    for key, value in record.items():
        if key not in (*_FIELDS, "name") and not (key in _UNAS_FIELDS and value is None):
            raise ValueError(f"DARTS fields: unknown key {_show(key)}; accepted are {_listed(_FIELDS)} and name")
    for key in _FIELDS:
        if key not in record:
            raise ValueError(f"DARTS fields: missing key {key}; needed are {_listed(_FIELDS)}")
    fields = dict(record)
    for kind in KINDS:
        value = record[kind]
        if isinstance(value, list) and len(value) == 1 and _is_list_of_dictionaries(value[0]):
            fields[kind] = value[0]  # UNAS writes a list of one cell
    return _from_darts_fields(fields, lambda path: f"{path[0]}{''.join(f'[{i}]' for i in path[1:])}")


def from_text_in_json(record: dict[Any, Any]) -> Genotype:
    """The genotype of a DARTS text that is a value of the dictionary, such as one of a log or of a search's result.

    Where several values are such texts (CDARTS writes one for each stage), they must say the same.
    """
    found: dict[str, Genotype] = {}
    for key, value in record.items():
        if _is_text(value):
            try:
                found[str(key)] = Genotype.from_darts(value)
            except ValueError as error:
                raise ValueError(f"key {_show(key)}: {error}") from error
    if not found:
        raise ValueError("genotype: no value of the dictionary is a text Genotype(...)")
    if len(set(found.values())) > 1:
        raise ValueError(
            f"keys {_listed(found)}: texts of different genotypes; one genotype is accepted, a network of stages with "
            "cells of their own cannot be built here"
        )
    return next(iter(found.values()))


def _is_list_of_dictionaries(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(isinstance(item, dict) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and re.search(r"\bGenotype\s*\(", value) is not None


def _cell(nodes: list[list[list[Any]]], concat: list[int], origins: dict[_Path, str], dialect: str, kind: str) -> Cell:
    """The cell; an error names the key that the wrong value came from."""

    def place(path: _Path) -> str:
        key = origins.get(path[1:]) or origins.get((*path[1:], 0))
        if path[0] == "nodes" and key is not None:
            return f"{dialect}, key {key}"
        return f"{dialect}, {kind} cell: concat"

    return tuple.__new__(Cell, _checked_cell(nodes, concat, place))
