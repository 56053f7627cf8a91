"""A search as its folder tells of it: settings, machine, and the figures of each epoch, ready to be shown.

Needs log.jsonl alone (events.jsonl and gap.json add to it where they are), so it works while a search still runs.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nas_zoo.genotype import KINDS, OPERATIONS, Genotype
from nas_zoo.models.palette import method_colors
from nas_zoo.runs.facts import published
from nas_zoo.runs.files import read_bytes
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.outside import is_outside
from nas_zoo.search.ranking import changed_edges, kendall_tau
from nas_zoo.search.report.figures import method_style
from nas_zoo.text import plain

__all__ = ["GAP_FILE", "METHOD_NAMES", "Run", "dig", "read_run", "read_runs"]

#: In a run's folder: what `nas-zoo gap --save` has measured.
GAP_FILE = "gap.json"
#: Of the methods that are in ``nas_zoo.models.palette.METHOD_COLORS``, as papers write them.
METHOD_NAMES = {
    "edas": "EDAS",
    "edas_warmup": "EDAS with warm-up",
    "edas_warmup_weights": "EDAS, warm-up in the weight step",
    "alpha_max": "alpha-max",
    "da2s": "DA2S",
    "da2s_released": "DA2S (authors' code)",
    "darts": "DARTS",
    "pc_darts": "PC-DARTS",
    "gdas": "GDAS",
    "drnas": "DrNAS",
    "fairdarts": "FairDARTS",
    "edas_settled": "EDAS with DA2S' loss",
    "random": "random cells",
}
#: What the page takes from the first line of a log, from the line of an epoch and from gap.json, and what it must be.
#: With "?" it may be missing or null.
_FIRST = {
    "settings.method": "text", "settings.epochs": "count?", "settings.edges": "text?", "settings.derive": "text?",
    "data": "object?", "data.name": "text?", "data.images": "count?", "data.classes": "list?", "versions": "object?",
}  # fmt: skip
_EPOCH = {
    "epoch": "count", "held_out": "object", "held_out.n": "count?", "held_out.supernet": "share?",
    "latency": "object?", "latency.max_ms": "number?", "latency.expected_ms": "number?", "latency.found_ms": "number?",
    "held_out.found": "share?", "held_out.derived.darts": "share?", "held_out.derived.argmax": "share?",
    "train.loss": "number?", "train.accuracy": "share?", "alpha_loss": "number?", "seconds": "number?",
    "peak_memory_gb": "number?", "gap": "object?",
}  # fmt: skip
_GAP = {
    "before.running": "share?", "before.reestimated": "share?", "before": "object", "after": "list", "n": "count?",
    "epochs": "count?",
}  # fmt: skip
_GAP_ROW = {
    "cells": "text", "edge_weights": "text", "edges.normal": "count", "edges.reduce": "count", "running": "share?",
    "reestimated": "share?",
}  # fmt: skip
_UNMEASURED = {"running": None, "reestimated": None}
#: Larger is nothing that a search measures.
_MOST = 1e15
_KINDS_OF_VALUE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "text": ("a text", lambda v: isinstance(v, str)),
    "list": ("a list", lambda v: isinstance(v, list)),
    "object": ("an object", lambda v: isinstance(v, dict)),
    "count": ("a whole number from 0", lambda v: _is_number(v) and isinstance(v, int) and v >= 0),
    "number": ("a finite number", lambda v: _is_number(v)),
    "share": ("a number from 0 to 1", lambda v: _is_number(v) and 0 <= v <= 1),
}


@dataclass
class Run:
    """A search as its folder tells of it."""

    label: str
    facts: dict[str, Any]
    epochs: list[dict[str, Any]]
    events: list[dict[str, Any]] = field(default_factory=list)
    gap: dict[str, Any] | None = None  # what `nas-zoo gap --save` wrote
    place: int = 0  # among the runs of a page
    nth: int = 0  # among those of them in one colour

    @property
    def settings(self) -> dict[str, Any]:
        return self.facts["settings"]

    @property
    def method(self) -> str:
        """Its name as papers write it, with what makes it another method."""
        settings = self.settings
        name = METHOD_NAMES.get(self.kind, self.kind)
        if settings["method"] == "darts" and settings.get("order") == 2:
            name += ", second order"
        edges = settings.get("edges")
        return f"{name} {edges}" if edges and edges != "8/14" else name

    @property
    def kind(self) -> str:
        """The method as the palette has it."""
        settings = self.settings
        if settings["method"] != "edas" or not settings.get("warmup_epochs"):
            return str(settings["method"])
        return "edas_warmup_weights" if settings.get("invert_in") == "weights" else "edas_warmup"

    @property
    def color(self) -> str:
        """The class of its colour in the style sheet: its method's."""
        return method_style(self.kind)

    @property
    def style(self) -> str:
        """The classes of what is drawn of it beside other runs: runs in one colour differ in their lines."""
        return f"{self.color} {('', 'dashed', 'dotted', 'dashdot')[self.nth % 4]}".strip()

    @property
    def planned(self) -> int:
        return int(self.settings.get("epochs") or 0) or len(self.epochs)

    @property
    def done(self) -> int:
        return int(self.last["epoch"]) if self.epochs else 0

    @property
    def last(self) -> dict[str, Any]:
        return self.epochs[-1]

    @property
    def classes(self) -> int:
        return len(dig(self.facts, "data", "classes") or ())

    @property
    def learns(self) -> bool:
        return self.settings["method"] != "random"

    @property
    def rule(self) -> str:
        """What derives the method's own cells: a rule or a configuration of edges."""
        own = "own" if is_outside(self.settings["method"]) else "darts"
        return str(self.settings.get("edges") or self.settings.get("derive") or own)

    def over_epochs(self, *keys: str) -> list[Any]:
        """A value of each epoch's line, None where it has none."""
        return [dig(line, *keys) for line in self.epochs]

    @property
    def supernet(self) -> list[float | None]:
        return self.over_epochs("held_out", "supernet")

    def derived(self, rule: str) -> list[float | None]:
        """Held-out accuracy of the network derived by "darts", "argmax", or as the method does it: "found"."""
        if rule != "found":
            return self.over_epochs("held_out", "derived", rule)
        found = self.over_epochs("held_out", "found")
        # the first logs had no such key: there the rule was a setting
        return found if any(v is not None for v in found) else self.derived(str(self.settings.get("derive") or "darts"))

    def genotype(self, rule: str, epoch: int = -1) -> Genotype | None:
        """The cells of an epoch by "found", "darts" or "argmax"."""
        if not self.epochs:
            return None
        line = self.epochs[epoch]
        record = line.get("found") if rule == "found" else dig(line, "genotype", rule)
        if record is None and rule == "found" and "found" not in line:
            record = dig(line, "genotype", str(self.settings.get("derive") or "darts"))
        return None if record is None else Genotype.from_json(record)

    def derived_by(self, rule: str) -> "Run":
        """The same with the cells of "darts" or "argmax" as those that were found."""
        return replace(self, epochs=[
            {**line, "found": dig(line, "genotype", rule),
             "held_out": {**line["held_out"], "found": dig(line, "held_out", "derived", rule)}}
            for line in self.epochs
        ])  # fmt: skip

    @cached_property
    def alpha(self) -> dict[str, np.ndarray]:
        """Softmax of alpha as the supernet uses it, (epochs, E, O) for each kind."""
        values = {kind: np.array([line["alpha"][kind] for line in self.epochs], dtype=float) for kind in KINDS}
        if self.settings.get("strengthen"):  # da2s_released: 2 alpha, cubed where that is below -1
            values = {kind: np.where(2 * v < -1, (2 * v) ** 3, 2 * v) for kind, v in values.items()}
        return {kind: _softmax(v) for kind, v in values.items()}

    @cached_property
    def beta(self) -> dict[str, list[np.ndarray]]:
        """Softmax of beta over a node's inputs, (epochs, inputs) for nodes 2, 3 ... of each kind; {} without beta."""
        if not self.epochs or not all("beta" in line for line in self.epochs) or not self.learns:
            return {}
        result: dict[str, list[np.ndarray]] = {}
        for kind in KINDS:
            values = np.array([line["beta"][kind] for line in self.epochs], dtype=float)
            if self.settings["method"].startswith("da2s"):
                values = np.minimum(values, 1.0)  # clamped wherever DA2S uses it
            stops = np.cumsum(range(2, self.num_nodes + 2))
            result[kind] = [_softmax(part) for part in np.split(values, stops[:-1], axis=1)]
        return result

    @property
    def peak_memory_gb(self) -> float | None:
        """Of all epochs: a process that went on with a run began to count anew."""
        return max((v for v in self.over_epochs("peak_memory_gb") if v is not None), default=None)

    @property
    def operations(self) -> list[str]:
        return list(self.last["operations"])

    @property
    def num_nodes(self) -> int:
        return _nodes_of(len(self.last["alpha"]["normal"]))

    @property
    def edges(self) -> list[tuple[int, int]]:
        """(node, source) in the log's order."""
        return [(node, source) for node in range(2, self.num_nodes + 2) for source in range(node)]

    def entropy(self, kind: str) -> list[float | None]:
        """Mean over the edges of the entropy of softmax(alpha), in nats."""
        return [_finite(v) for v in _entropy(self.alpha[kind]).mean(axis=1)]

    def changed_edges(self, kind: str) -> list[float | None]:
        """On how many edges another operation is the strongest than an epoch before; None for the first."""
        return [None, *map(changed_edges, self.alpha[kind], self.alpha[kind][1:])]

    def kendall_tau(self, kind: str) -> list[float | None]:
        """Kendall's tau of the operations' order against the epoch before, mean over the edges; None for the first."""
        return [None, *map(kendall_tau, self.alpha[kind], self.alpha[kind][1:])]

    def edge_entropy(self, kind: str) -> list[float | None]:
        """The same of softmax(beta), mean over the nodes."""
        return [_finite(v) for v in np.mean([_entropy(part) for part in self.beta[kind]], axis=0)]

    def gap_rows(self) -> list[dict[str, Any]]:
        """Rows of the gap with "before" beside them: the log's last, then those that `nas-zoo gap` has added."""
        if not self.epochs:
            return []
        rows: list[dict[str, Any]] = []
        logged = self.last.get("gap")
        if logged is None:  # the first logs: accuracies alone
            before = {"running": self.supernet[-1], "reestimated": None}
            for rule in ("found", "darts", "argmax"):
                genotype, after = self.genotype(rule), self.derived(rule)[-1]
                if genotype is not None and after is not None:
                    edges = {kind: sum(map(len, genotype.cell(kind).nodes)) for kind in KINDS}
                    rows.append({"cells": rule, "edges": edges, "edge_weights": "none", "running": after,
                                 "reestimated": None, "before": before})  # fmt: skip
            logged = {}
        rows += [_UNMEASURED | row | {"before": _UNMEASURED | logged["before"]} for row in logged.get("after", ())]
        own = self.genotype("found")
        alike = [rule for rule in ("darts", "argmax") if own is not None and self.genotype(rule) == own]
        rows = [row for row in rows if row["cells"] not in alike]
        for row in rows:
            row |= {"n": self.last["held_out"].get("n"), "epoch": self.done}
            row["alike"] = [rule for rule in alike if row["cells"] == "found" and rule != self.rule]
        if self.gap is not None:
            before = _UNMEASURED | self.gap["before"]
            part = bool(self.gap.get("iterations"))  # of the next epoch, of which the log has no line yet
            epoch = (self.gap.get("epochs") or 0) + part
            measured = {"n": self.gap.get("n"), "epoch": epoch, "before": before, "part": part}
            same = not part and "gap" in self.last and epoch == self.done  # else it tells more than the log, or other
            known = {(row["cells"], row["edge_weights"]) for row in rows} if same else set()
            rows += [
                _UNMEASURED | row | measured
                for row in self.gap["after"]
                if (row["cells"], row["edge_weights"]) not in known
            ]
        return rows

    def row_name(self, row: Mapping[str, Any]) -> str:
        """ "found (4/14)", "argmax rule", "6/14"."""
        cells = row["cells"]
        if cells == "found":
            rule = f"{self.rule} rule" if self.rule in ("darts", "argmax") else self.rule
            return f"found ({', '.join([rule, *(f'{name} rule' for name in row.get('alike', ()))])})"
        return f"{cells} rule" if cells in ("darts", "argmax") else str(cells)

    def skip_connections(self) -> list[int | None]:
        """In the normal cell found, of each epoch."""
        found = [self.genotype("found", i) for i in range(len(self.epochs))]
        return [None if g is None else g.histogram()["normal"].get("skip_connect", 0) for g in found]


def dig(value: Any, *keys: str) -> Any:
    """What lies there in nested dictionaries; None where the way ends before."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1)


def _nodes_of(num_edges: int) -> int:
    """Intermediate nodes of a cell with so many edges, 2 + 3 + ...; 0 where there is no such cell."""
    nodes, total = 0, 0
    while total < num_edges:
        total += nodes + 2
        nodes += 1
    return nodes if total == num_edges else 0


def read_run(folder: Path, label: str | None = None, place: int = 0) -> Run:
    """A search's folder; one that has not finished, or whose last line is cut off, as far as it goes.

    Raises:
        ValueError: For a folder without a log, with the log of something else, and for a line that cannot be one.
    """
    path = folder / "log.jsonl"
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    if not path.is_file():
        raise ValueError(f"{folder}: holds no log.jsonl of a search")
    lines = RunLog.read(path)
    first = lines[0] if lines and lines[0].get("kind") == "run" else {}
    if not isinstance(first.get("settings"), dict):
        raise ValueError(f"{path}: does not begin with the line that tells a run's settings")
    if "method" not in first["settings"]:
        raise ValueError(f"{path}: is the log of another program, not of a search (no method in its settings)")
    _check(first, _FIRST, f"{path}, line 1")
    try:
        facts = published(first)  # a page is made to be shown: no folders of the machine
    except RecursionError:
        raise ValueError(f"{path}, line 1: is nested too deeply") from None
    run = Run(plain(label or folder.resolve().name), facts, [], place=place)
    for number, line in enumerate(lines, 1):
        if line.get("kind") == "epoch":
            _check_epoch(line, run.epochs[0] if run.epochs else line, f"{path}, line {number}")
            run.epochs.append(line)
    events = folder / "events.jsonl"
    run.events = RunLog.read(events) if events.is_file() else []
    run.gap = _read_gap(folder / GAP_FILE)
    return run


def _check(record: Mapping[str, Any], table: Mapping[str, str], place: str) -> None:
    """ValueError for a value that is not of the kind which the table tells."""
    for path, kind in table.items():
        value = dig(record, *path.split("."))
        words, holds = _KINDS_OF_VALUE[kind.removesuffix("?")]
        if not (holds(value) or (value is None and kind.endswith("?"))):
            got = "got none" if value is None else f"got {plain(value) if isinstance(value, str) else _shown(value)}"
            raise ValueError(f"{place}: {path} must be {words}, {got}")


def _is_number(value: Any) -> bool:
    # compared first: an integer may have thousands of digits
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_MOST <= value <= _MOST


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _check_epoch(line: Mapping[str, Any], first: Mapping[str, Any], place: str) -> None:
    """ValueError where the page could not be made of the line; `first`: the first epoch's."""
    _check(line, _EPOCH, place)
    if line.get("gap") is not None:
        _check_gap(line["gap"], f"{place}: gap")
    operations = line.get("operations")
    known = ("none", *OPERATIONS)
    named = isinstance(operations, list) and all(isinstance(name, str) for name in operations)
    if not named or not operations or not all(name in known or is_outside(name) for name in operations):
        raise ValueError(f"{place}: operations must be a list of some of {', '.join(known)}, got {_shown(operations)}")
    if operations != first["operations"] or len(set(operations)) < len(operations):
        raise ValueError(f"{place}: operations must be different ones and the same in every epoch")
    edges = len(_numbers(first, "alpha", "normal"))
    for name in ("alpha", "beta"):
        if name == "beta" and name not in line:
            continue
        for kind in KINDS:
            shape = (edges, len(operations)) if name == "alpha" else (edges,)
            values = _numbers(line, name, kind)
            if values.shape != shape or not _nodes_of(edges) or not (np.abs(values) <= _MOST).all():
                each = "edge and operation" if name == "alpha" else "edge"
                raise ValueError(f"{place}: {name} of the {kind} cell: it must have a number for each {each}")
    for name in ("found", "darts", "argmax"):
        record = line.get("found") if name == "found" else dig(line, "genotype", name)
        if record is not None:
            try:
                cells = Genotype.from_json(record)
            except ValueError as error:
                raise ValueError(f"{place}: cells {name}: {error}") from None
            if any(len(cell.nodes) != _nodes_of(edges) for cell in cells):
                raise ValueError(
                    f"{place}: cells {name}: they must have as many nodes as alpha has, {_nodes_of(edges)}"
                )


def _numbers(line: Mapping[str, Any], name: str, kind: str) -> np.ndarray:
    """Alpha or beta of a kind of cell; of size 0 where those are no numbers."""
    try:
        return np.atleast_1d(np.array(dig(line, name, kind), dtype=float))
    except (TypeError, ValueError, OverflowError):
        return np.zeros(0)


def _check_gap(gap: Mapping[str, Any], place: str) -> None:
    _check(gap, _GAP, place)
    for number, row in enumerate(gap["after"], 1):
        _check(row, _GAP_ROW, f"{place}, row {number}")


def _read_gap(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        gap: dict[str, Any] = json.loads(read_bytes(path))
        _check_gap(gap, "gap")
    except (ValueError, RecursionError) as error:
        reason = f": {error}" if str(error).startswith("gap") else ""
        raise ValueError(f"{path}: is not what `nas-zoo gap --save` writes{reason}") from None
    return gap


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs with labels that tell them apart: folder names, with as many parents as that takes.

    Raises:
        ValueError: As ``read_run``, and for a folder given twice.
    """
    paths = [folder.resolve() for folder in folders]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise ValueError(f"{folders[i]}: is given twice")
    labels = [path.name or "run" for path in paths]
    for depth in range(2, 1 + max(len(path.parts) for path in paths)):
        if len(set(labels)) == len(labels):
            break
        labels = [
            "/".join(path.parts[-depth:]).lstrip("/") if labels.count(label) > 1 else label
            for path, label in zip(paths, labels, strict=True)
        ]
    runs = [read_run(folder, label, i) for i, (folder, label) in enumerate(zip(folders, labels, strict=True))]
    for i, run in enumerate(runs):
        run.nth = sum(method_colors(run.kind) == method_colors(other.kind) for other in runs[:i])
    return runs
