"""NNI 1.x and 2.0 to 2.9: what its DARTS example exports (epoch_49.json), by the labels of its choices.

    {"normal_n2_p0": "sepconv3x3", "normal_n2_p1": ..., "normal_n2_switch": ["normal_n2_p0", "normal_n2_p1"], ...}

`<kind>_n<node>_p<source>` is the operation from that source: its name, its number, a list of flags with one set, or []
where there is none. `<kind>_n<node>_switch` says which of them the node adds, and in which order: by label, by number
or by flags; without it, all that have an operation. The concat has all nodes.
"""

from __future__ import annotations

import re
from typing import Any

from nas_zoo.genotype.cell import KINDS, Cell, Path, check_node_numbers, is_int, numbered
from nas_zoo.genotype.dialects.nni import NOTHING, cell_of_keys
from nas_zoo.text import show

NAME = "NNI 1.x export"

_KEY = re.compile(r"(normal|reduce)_n(\d{1,3})_(?:p(\d{1,3})|switch)")
#: In the order of the example's LayerChoice, which numbers and flags follow.
_OPERATIONS = {
    "maxpool": "max_pool_3x3", "avgpool": "avg_pool_3x3", "skipconnect": "skip_connect", "sepconv3x3": "sep_conv_3x3",
    "sepconv5x5": "sep_conv_5x5", "dilconv3x3": "dil_conv_3x3", "dilconv5x5": "dil_conv_5x5", "none": "none",
}  # fmt: skip


def claims(value: Any) -> bool:
    return isinstance(value, dict) and any(isinstance(key, str) and _KEY.fullmatch(key) for key in value)


def read(record: dict[Any, Any]) -> tuple[Cell, Cell]:
    """The cells of the labels; other keys are passed over."""
    labels = [match for key in record if isinstance(key, str) and (match := _KEY.fullmatch(key))]
    normal, reduce = (_cell(record, [label for label in labels if label[1] == kind], kind) for kind in KINDS)
    return normal, reduce


def _cell(record: dict[Any, Any], labels: list[re.Match[str]], kind: str) -> Cell:
    numbers = sorted({int(label[2]) for label in labels})
    check_node_numbers(numbers, f"{NAME}, {kind}")
    nodes: list[list[list[Any]]] = []
    origins: dict[Path, str] = {}
    for number in numbers:
        sources = sorted(int(label[3]) for label in labels if int(label[2]) == number and label[3])
        operations = {source: _operation(record, f"{kind}_n{number}_p{source}") for source in sources}
        nodes.append([])
        for source in _switch(record, f"{kind}_n{number}", operations):
            if operations[source] in NOTHING:
                continue
            for position in (0, 1):
                origins[number - 2, len(nodes[-1]), position] = f"{kind}_n{number}_p{source}"
            nodes[-1].append([operations[source], source])
    return cell_of_keys(nodes, numbers, origins, NAME, kind)


def _operation(record: dict[Any, Any], key: str) -> Any:
    """Our name of the operation, or None."""
    value = record[key]
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(flag, bool) for flag in value):
            chosen = [i for i, flag in enumerate(value) if flag]
        else:
            chosen = list(value)
        if len(chosen) > 1:
            raise ValueError(f"{NAME}, key {key} must choose one operation, got {show(value)}")
        value = chosen[0] if chosen else None
    if is_int(value):
        value = numbered(value, list(_OPERATIONS), f"{NAME}, key {key}")
    return _OPERATIONS.get(value, value) if isinstance(value, str) else value


def _switch(record: dict[Any, Any], node: str, operations: dict[int, Any]) -> list[int]:
    """The sources that the node adds, in order."""
    key = f"{node}_switch"
    if key not in record:
        return [source for source, operation in operations.items() if operation is not None]
    value = record[key]
    entries = list(value) if isinstance(value, (list, tuple)) else [value]
    if entries and all(isinstance(flag, bool) for flag in entries):
        entries = [i for i, flag in enumerate(entries) if flag]
    chosen: list[int] = []
    for entry in entries:
        labels = {f"{node}_p{source}": source for source in operations} | {source: source for source in operations}
        source = labels.get(entry) if isinstance(entry, str) or is_int(entry) else None
        if source is None or operations[source] is None:
            raise ValueError(
                f"{NAME}, key {key} must name labels that have an operation, such as {node}_p0, got {show(entry)}"
            )
        chosen.append(source)
    return chosen
