"""NNI 2.x: the `model_dict` of a search in its DARTS, NASNet, ENAS, AmoebaNet and PNAS spaces (nni.nas.hub).

    {"normal/op_2_0": "sep_conv_3x3", "normal/input_2_0": 0, "normal/op_2_1": ..., "width": 36, ...}

Keys that begin neither with normal/ nor with reduce/ (such as width and depth) say nothing of the cells and are passed
over. A source is a number, or a list with one number in it.

The dictionary does not say its space, and spaces differ in what a cell gives (their `merge_op`): all nodes in DARTS (of
four nodes) and PNAS (of five), those that no other node reads in NASNet, ENAS and AmoebaNet (of five). So where five
nodes can be read in two ways, a key that NNI does not write has to tell: "concat": "all" or "loose_end".
"""

from __future__ import annotations

import re
from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, Path, check_node_numbers, is_int
from nas_zoo.text import show

NAME = "NNI model_dict"

_KEY = re.compile(r"(normal|reduce)/(op|input)_(\d{1,3})_(\d{1,3})")
_LIKE = re.compile(r"(normal|reduce)/")
_NODES_OF_NASNET = 5
NOTHING = ("none", "null")
CONCATS = ("all", "loose_end")


def claims(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(key, str) and _LIKE.match(key) for key in value)


def read(record: dict[Any, Any]) -> tuple[Cell, Cell]:
    """The cells of `<kind>/op_<node>_<k>` and `<kind>/input_<node>_<k>` for each edge k of each node from 2 on."""
    concat = record.get("concat")
    if concat not in (None, *CONCATS):
        raise ValueError(f"{NAME}, key concat: must be {' or '.join(map(repr, CONCATS))}, got {show(concat)}")
    edges: dict[str, dict[int, dict[int, dict[str, Any]]]] = {kind: {} for kind in KINDS}
    for key, value in record.items():
        if not isinstance(key, str) or not _LIKE.match(key):
            continue
        match = _KEY.fullmatch(key)
        if match is None:
            raise ValueError(f"{NAME}: unknown key {show(key)}; its keys are normal/op_2_0, normal/input_2_0 ...")
        kind, what, node, k = match[1], match[2], int(match[3]), int(match[4])
        edges[kind].setdefault(node, {}).setdefault(k, {})[what] = value
    normal, reduce = (_cell(edges[kind], kind, concat) for kind in KINDS)
    return normal, reduce


def _cell(edges: dict[int, dict[int, dict[str, Any]]], kind: str, concat: str | None) -> Cell:
    numbers = sorted(edges)
    if not numbers:
        raise ValueError(f"{NAME}: no key begins with {kind}/op_; both kinds of cell are needed")
    check_node_numbers(numbers, f"{NAME}, {kind}")
    nodes: list[list[list[Any]]] = []
    origins: dict[Path, str] = {}
    for number in numbers:
        nodes.append([])
        for k, edge in sorted(edges[number].items()):
            for what in ("op", "input"):
                if what not in edge:
                    raise ValueError(f"{NAME}: missing key {kind}/{what}_{number}_{k}")
            source = edge["input"]
            if isinstance(source, (list, tuple)) and len(source) == 1:
                source = source[0]
            if edge["op"] in NOTHING and is_int(source):
                continue
            for position, what in enumerate(("op", "input")):
                origins[number - 2, len(nodes[-1]), position] = f"{kind}/{what}_{number}_{k}"
            nodes[-1].append([edge["op"], source])
    read = {edge[1] for node in nodes for edge in node if is_int(edge[1])}
    loose = [number for number in numbers if number not in read]
    if concat is None and len(numbers) == _NODES_OF_NASNET and loose != numbers:
        raise ValueError(
            f"{NAME}, {kind} cell: five nodes, of which NNI's PNAS joins all and its NASNet, ENAS and AmoebaNet those "
            f"that no other reads ({', '.join(map(str, loose))}), and the dictionary does not say which space it is "
            'of; add "concat": "all" or "concat": "loose_end" to it'
        )
    return cell_of_keys(nodes, loose if concat == "loose_end" else numbers, origins, NAME, kind)


def cell_of_keys(
    nodes: list[list[list[Any]]], concat: list[int], origins: dict[Path, str], dialect: str, kind: str
) -> Cell:
    """The cell; an error names the key that the wrong value came from: origins[node, edge, 0 or 1]."""

    def place(path: Path) -> str:
        key = origins.get(path[1:]) or origins.get((*path[1:], 0))
        if path[0] == "nodes" and key is not None:
            return f"{dialect}, key {key}"
        return f"{dialect}, {kind} cell: concat"

    return Cell.at(place, nodes, concat)
