"""NAS-Bench-301: the ConfigSpace dictionary of an architecture, the prefix of its keys there or left away.

    {"NetworkSelectorDatasetInfo:darts:edge_normal_0": "sep_conv_3x3", ...,
     "NetworkSelectorDatasetInfo:darts:inputs_node_normal_3": "0_1", ...}

Its results_*.json hold it under "optimized_hyperparamater_config". Edges are numbered as in a DARTS supernet: 0 and 1
enter node 2, 2 to 4 node 3, 5 to 8 node 4, 9 to 13 node 5. Node 2 reads both inputs of the cell;
`inputs_node_<kind>_<node>` says which two the others read. Other keys are passed over.
"""

from __future__ import annotations

import re
from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, Path
from nas_zoo.genotype.dialects.nni import NOTHING, cell_of_keys
from nas_zoo.text import show

NAME = "NAS-Bench-301 configuration"

_PREFIX = "NetworkSelectorDatasetInfo:darts:"
_LIKE = re.compile(rf"({_PREFIX})?(edge|inputs_node)_(normal|reduce)_")


def claims(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(key, str) and _LIKE.match(key) for key in value)


def read(record: dict[Any, Any]) -> tuple[Cell, Cell]:
    """The cells of a ConfigSpace dictionary."""
    normal, reduce = (_cell(record, kind) for kind in KINDS)
    return normal, reduce


def _cell(record: dict[Any, Any], kind: str) -> Cell:
    nodes: list[list[list[Any]]] = []
    origins: dict[Path, str] = {}
    for number in range(2, 6):
        first_edge = number * (number - 1) // 2 - 1  # 2 edges enter node 2, 3 node 3, ...
        words = "0_1" if number == 2 else _value(record, f"inputs_node_{kind}_{number}")
        match = re.fullmatch(r"(\d)_(\d)", words) if isinstance(words, str) else None
        sources = [int(match[1]), int(match[2])] if match else []
        if not sources or not sources[0] < sources[1] < number:
            raise ValueError(
                f"{NAME}, key {_PREFIX}inputs_node_{kind}_{number} must be two numbers below {number}, "
                f"the smaller first, such as '0_1', got {show(words)}"
            )
        nodes.append([])
        for source in sources:
            key = f"edge_{kind}_{first_edge + source}"
            operation = _value(record, key)
            if operation in NOTHING:
                continue
            origins[number - 2, len(nodes[-1]), 0] = _PREFIX + key
            origins[number - 2, len(nodes[-1]), 1] = f"{_PREFIX}inputs_node_{kind}_{number}"
            nodes[-1].append([operation, source])
    return cell_of_keys(nodes, [2, 3, 4, 5], origins, NAME, kind)


def _value(record: dict[Any, Any], key: str) -> Any:
    for full in (_PREFIX + key, key):
        if full in record:
            return record[full]
    raise ValueError(f"{NAME}: missing key {_PREFIX}{key}")
