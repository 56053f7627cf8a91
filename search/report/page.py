"""One HTML page of a search, or of several side by side: opens from disk, loads nothing, also prints.

    nas-zoo report runs/edas
    nas-zoo report runs/darts runs/edas runs/da2s --output comparison.html

Reads log.jsonl of each folder (and events.jsonl and gap.json, where they are), needs no checkpoint and no data, and so
works while a search still runs. Shown are settings and machine, held-out accuracy of the supernet and of the
derived networks over the epochs, what discretization cost, softmax of alpha for each edge and of beta for each node,
their entropy, the operations chosen, the cells, and the genotype to copy. `nas-zoo gap RUN_DIR --save` adds other
numbers of edges to the table of the gap.

Here is worked out what the page shows; what it says and how it is laid out stands in page.html.j2.
"""

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.palette import (
    DARK_OPERATION_COLORS,
    METHOD_COLORS,
    NUMBER_COLORS,
    OPERATION_COLORS,
    color_of,
    method_colors,
)
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line, Pair, short
from nas_zoo.search.report.history import Run, dig, read_runs
from nas_zoo.text import counted, fill

__all__ = ["main", "page", "style_sheet", "write_report"]

_HERE = Path(__file__).parent
_KIND_NAMES = {"normal": "normal cell", "reduce": "reduction cell"}
#: What does not make two runs another experiment.
_PLACES = ("out", "time_budget", "workers")
#: Of these a comparison of accuracies asks that they be equal.
_COMMON = (
    "data",
    "test_data",
    "train_limit",
    "seed",
    "epochs",
    "num_cells",
    "init_channels",
    "batch_size",
    "image_size",
)
_NOTHING = "–"  # where a table has no figure
#: Of the operation that is no operation, on light and dark pages.
_NONE_COLOR = "#8a929c"
#: Skip connections in the normal cell at which DARTS+ ends a search, and the edges that its cells have.
_DARTS_PLUS, _DARTS_PLUS_EDGES = 2, 8

Row = dict[str, Any]


# Numbers in words -----------------------------------------------------------------------------------------------------


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def _points(before: float | None, after: float | None) -> str:
    return _NOTHING if before is None or after is None else figures.signed(100 * (after - before))


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


def _share(value: float) -> str:
    return f"{value:.2f}".removeprefix("0")


def _value(value: Any) -> str:
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return str(value)


def _counts(histogram: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {short(name)}" for name, count in histogram.items()) or _NOTHING


def _clip(text: str, length: int = 15) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _title(kind: str) -> str:
    return _KIND_NAMES[kind].capitalize()


def _figure(caption: str, svg: str, note: str = "") -> Row:
    return {"caption": caption, "svg": Markup(svg), "note": note}


# Accuracy and gap -----------------------------------------------------------------------------------------------------


def _chance(runs: Sequence[Run]) -> dict[str, float]:
    classes = {run.classes for run in runs}
    return {"chance": 1 / classes.pop()} if len(classes) == 1 and 0 not in classes else {}


def _accuracy_lines(run: Run) -> list[Line]:
    series = [Line("supernet", "ink bold", run.supernet)]
    found, seen = run.derived("found"), []
    for rule, style in (("darts", "dashed"), ("argmax", "dotted")):
        values = run.derived(rule)
        if any(v is not None for v in values):
            same = run.rule == rule or values == found
            seen.append(same)
            series.append(Line(f"{rule} rule" + "*" * same, f"{run.color} {'bold' if same else style}", values))
    if not any(seen) and any(v is not None for v in found):
        series.append(Line(f"{run.rule if len(run.rule) < 9 else 'found'}*", f"{run.color} bold", found))
    return [*series, Line("training", "pale thin", run.over_epochs("train", "accuracy"))]


def _accuracy(run: Run) -> Row:
    """Figures of accuracies and losses, and every epoch's as a table, for who cannot see the lines or wants to copy."""
    series = _accuracy_lines(run)
    again = [
        Line("supernet", "ink bold", run.over_epochs("gap", "before", "reestimated")),
        Line("found", f"{run.color} bold", [_reestimated(line) for line in run.epochs]),
    ]
    y_range, ticks = figures.accuracy_axis(s.values for s in [*series, *again])
    common: dict[str, Any] = {"y_range": y_range, "y_ticks": ticks, "scale": 100, "epochs": run.planned}
    common["references"] = _chance([run])
    sizes = [line["held_out"].get("n") for line in run.epochs]
    words = f"n = {sizes[-1]:,}" if sizes[-1] else ""
    if sizes[-1] and sizes[0] and sizes[0] != sizes[-1]:  # another set of images: the curve's last step is not training
        words += f" in the last epoch, {sizes[0]:,} before"
    svg = figures.lines(f"Held-out accuracy of {run.label} in percent", series, **common)
    shown = [_figure("Held-out accuracy, %", svg, words)]
    if any(v is not None for s in again for v in s.values):
        title = f"Held-out accuracy of {run.label} in percent with re-estimated BatchNorm statistics"
        shown.append(_figure("The same, BatchNorm statistics re-estimated", figures.lines(title, again, **common)))
    losses = [
        Line("weights", "ink", run.over_epochs("train", "loss")),
        # exactly 0 is what the log has where alpha rested
        Line("alpha", run.color, [v or None for v in run.over_epochs("alpha_loss")] if run.learns else []),
    ]
    known = [v for s in losses for v in s.values if v is not None]
    if known:
        bottom, top = figures.nice_range(min(0.0, *known), max(known))
        svg = figures.lines(
            f"Loss of {run.label}", losses, y_range=(bottom, top), y_ticks=[bottom, (bottom + top) / 2, top],
            end_format="{:.2f}", epochs=run.planned,
        )  # fmt: skip
        shown.append(_figure("Loss", svg, "alpha's with its penalties"))
    columns = {
        "training": run.over_epochs("train", "accuracy"),
        "supernet": run.supernet,
        "found": run.derived("found"),
        "darts": run.derived("darts"),
        "argmax": run.derived("argmax"),
    }
    rows = []
    for i, line in enumerate(run.epochs):
        values = [_NOTHING if v[i] is None else f"{100 * v[i]:.1f}" for v in columns.values()]
        seconds = line.get("seconds")
        rows.append(("", [str(line["epoch"]), *values, _NOTHING if seconds is None else f"{seconds:,.0f}"]))
    return {"figures": shown, "head": ["epoch", *columns, "seconds"], "rows": rows}


def _reestimated(line: Mapping[str, Any]) -> float | None:
    rows = dig(line, "gap", "after") or []
    return next((row.get("reestimated") for row in rows if row["cells"] == "found"), None)


def _when(row: Row) -> str:
    """Of what the weights are; `nas-zoo gap` may have measured them before an epoch had ended."""
    return f"{'in' if row.get('part') else 'after'} epoch {row['epoch']}"


def _gap_pairs(run: Run) -> list[Pair]:
    """Pairs of the picture: edge weights as methods are compared (shared out), equal cells once."""
    pairs: list[Pair] = []
    seen = set()
    for row in run.gap_rows():
        if row["edge_weights"] == "plain":
            continue
        if (key := (row["cells"], _when(row))) in seen:
            continue
        seen.add(key)
        if row["cells"] == run.rule and ("found", _when(row)) in seen:
            continue
        edges = "+".join(str(row["edges"][kind]) for kind in KINDS)
        then = bool(row.get("part")) or row["epoch"] != run.done
        name = f"{run.row_name(row)}, {edges} edges" + f", {_when(row)}" * then
        pairs.append(Pair(name, row["before"]["running"], row["running"], run.color))
        if row["reestimated"] is not None:
            pairs.append(Pair(f"{name}, re-estimated", row["before"]["reestimated"], row["reestimated"], "pale"))
    return pairs


def _gap(run: Run) -> Row:
    svg = figures.pairs(f"Held-out accuracy of {run.label} before and after discretization", _gap_pairs(run),
                        next(iter(_chance([run]).values()), None))  # fmt: skip
    n = run.last["held_out"].get("n")
    rows = []
    for row in run.gap_rows():
        words = ["+".join(str(row["edges"][kind]) for kind in KINDS) + " edges"]
        words += [f"edge weights {row['edge_weights']}"] * (row["edge_weights"] != "none")
        words += [f"n = {row['n']:,}"] if row["n"] not in (None, n) else []
        words += [_when(row)] * (bool(row.get("part")) or row["epoch"] != run.done)
        both = {key: (row["before"][key], row[key]) for key in ("running", "reestimated")}
        rows.append({"name": run.row_name(row), "words": words, **both})
    return {"figure": _figure("Supernet (ring) → after discretization (disc), %", svg), "rows": rows, "n": n}


# Alpha, beta, entropy -------------------------------------------------------------------------------------------------


def _tile_range(values: np.ndarray) -> tuple[float, float]:
    """[0, 1], or the part of it where all values lie if that is small."""
    low, high = float(values.min()), float(values.max())
    if high > 0.6:
        return 0.0, 1.0
    if high - low > 0.25:
        return 0.0, figures.nice_range(0.0, high)[1]
    return figures.nice_range(min(low, high - 0.02), max(high, low + 0.02))


def _alpha(run: Run) -> list[Row]:
    """A tile an edge, for each kind of cell; [] where nothing is learned."""
    found = run.genotype("found")
    shown = []
    for kind in KINDS if run.learns else ():
        p = run.alpha[kind]
        y_range = _tile_range(p)
        kept = {} if found is None else {
            (node, edge.source): edge.operation
            for node, edges in enumerate(found.cell(kind).nodes, start=2) for edge in edges
        }  # fmt: skip
        tiles = []
        for e, (node, source) in enumerate(run.edges):
            best = int(p[-1, e].argmax())
            series = [Line(o, figures.style_of(o), p[:, e, i].tolist()) for i, o in enumerate(run.operations)]
            svg = figures.tile(
                f"Edge {source} to {node}, {_KIND_NAMES[kind]}, {run.label}: softmax of alpha",
                series, y_range=y_range, reference=1 / len(run.operations), epochs=run.planned,
            )  # fmt: skip
            chosen = kept.get((node, source), run.operations[best])
            value = p[-1, e, run.operations.index(chosen)] if chosen in run.operations else p[-1, e, best]
            tiles.append({"node": node, "source": source, "kept": (node, source) in kept, "chosen": chosen,
                          "value": value, "svg": Markup(svg)})  # fmt: skip
        shown.append({"title": _title(kind), "tiles": tiles})
    return shown


def _beta(run: Run) -> list[Row]:
    """A tile a node, for each kind of cell; [] without edge weights."""
    found = run.genotype("found")
    shown = []
    for kind in KINDS if run.beta else ():
        tiles = []
        y_range = _tile_range(np.concatenate([part.ravel() for part in run.beta[kind]]))
        for index, part in enumerate(run.beta[kind]):
            node = index + 2
            series = [Line(f"from {i}", f"input-{i}", part[:, i].tolist()) for i in range(node)]
            svg = figures.tile(
                f"Node {node}, {_KIND_NAMES[kind]}, {run.label}: softmax of beta", series, y_range=y_range,
                reference=1 / node, epochs=run.planned,
            )  # fmt: skip
            sources = [] if found is None else sorted({edge.source for edge in found.cell(kind).nodes[index]})
            tiles.append({"node": node, "sources": [(i, part[-1, i]) for i in sources], "svg": Markup(svg)})
        shown.append({"title": _title(kind), "tiles": tiles})
    return shown


def _of_kinds(run: Run, of: Callable[[str], Sequence[float | None]]) -> list[Line]:
    """A line for each kind of cell."""
    return [
        Line(name, style, of(kind))
        for kind, name, style in zip(KINDS, ("normal", "reduction"), (run.color, f"{run.color} dashed"), strict=True)
    ]


def _entropies(run: Run) -> list[Row]:
    if not run.learns:
        return []
    most = math.log(len(run.operations))
    series = _of_kinds(run, run.entropy)
    svg = _entropy_lines(f"Entropy of alpha of {run.label} in nats", series, most, run.planned)
    shown = [_figure("Entropy of softmax(alpha), nats", svg, "mean over the edges")]
    if run.beta:
        most = float(np.mean([math.log(node) for node in range(2, run.num_nodes + 2)]))
        beta = _of_kinds(run, run.edge_entropy)
        svg = _entropy_lines(f"Entropy of beta of {run.label} in nats", beta, most, run.planned)
        shown.append(_figure("Entropy of softmax(beta), nats", svg, "mean over the nodes"))
    return [*shown, *_ranking(run), *_latency(run)]


def _ranking(run: Run) -> list[Row]:
    """How the order of the operations changes from epoch to epoch (EDAS, Figure 5)."""
    if len(run.epochs) < 2:
        return []
    changed = _of_kinds(run, run.changed_edges)
    top = max(2, *(v or 0 for line in changed for v in line.values))
    top += top % 2
    title = "Edges whose strongest operation has changed"
    svg = figures.lines(f"{title} since the epoch before, {run.label}", changed, y_range=(0, top),
                        y_ticks=[0, top / 2, top], end_format="{:.0f}", epochs=run.planned)  # fmt: skip
    tau = _of_kinds(run, run.kendall_tau)
    low = min(0.0, *(v for line in tau for v in line.values if v is not None))
    bottom = math.floor(2 * low) / 2
    order = figures.lines(f"Kendall's tau of the operations' order, {run.label}", tau, y_range=(bottom, 1),
                          y_ticks=np.arange(bottom, 1.01, 0.5).tolist(), end_format="{:.2f}",
                          epochs=run.planned)  # fmt: skip
    return [
        _figure(title, svg, f"of {len(run.edges)} in each cell, since the epoch before"),
        _figure("Kendall's tau of the operations' order", order, "1: the same order as an epoch before"),
    ]


def _latency(run: Run) -> list[Row]:
    """What the limit on the latency has done, where there was one (``nas_zoo.search.latency``)."""
    expected, found = (run.over_epochs("latency", key) for key in ("expected_ms", "found_ms"))
    limit = dig(run.last, "latency", "max_ms")
    known = [v for v in (*expected, *found, limit) if v is not None]
    if limit is None:
        return []
    bottom, top = figures.nice_range(0.0, max(known))
    series = [Line("expected", f"{run.color} dashed", expected), Line("found", f"{run.color} bold", found)]
    svg = figures.lines(
        f"Latency of the network that will be trained, {run.label}", series, y_range=(bottom, top),
        y_ticks=[bottom, (bottom + top) / 2, top], end_format="{:.2f}", references={"limit": limit},
        epochs=run.planned,
    )  # fmt: skip
    note = f"estimates; limit {limit:g} ms. Expected: under the relaxed mixing; found: of the cells derived then"
    return [_figure("Latency of the network that will be trained, ms", svg, note)]


def _entropy_lines(title: str, series: Sequence[Line], most: float, epochs: int) -> str:
    top = max(0.5, math.ceil(2 * most * 1.04) / 2)  # of one candidate there is no entropy
    return figures.lines(
        title, series, y_range=(0, top), y_ticks=np.arange(0, top + 0.01, 0.5).tolist(), end_format="{:.2f}",
        references={"no preference": most}, epochs=epochs,
    )  # fmt: skip


def _last_entropies(run: Run) -> list[str]:
    """Of the normal and the reduction cell; [] where nothing is learned."""
    both = [run.entropy(kind)[-1] for kind in KINDS if run.learns]
    return [_NOTHING if v is None else f"{v:.2f}" for v in both]


# Cells ----------------------------------------------------------------------------------------------------------------


def _chosen(run: Run) -> Row:
    """How often each operation was chosen over the epochs, and as bars at last."""
    found = [run.genotype("found", i) for i in range(len(run.epochs))]
    known = dict.fromkeys([*run.operations, *OPERATION_COLORS])
    order = list(known | dict.fromkeys(sorted(o for g in found if g for o in g.operations)))
    kinds = []
    for kind in KINDS:
        counts = [None if g is None else dict(g.histogram()[kind]) for g in found]
        svg = figures.columns(f"Operations of the {_KIND_NAMES[kind]} of {run.label}", counts, order, run.planned)
        last = counts[-1] or {}
        names = [name for name in order if name != "none" and (name in run.operations or name in last)]
        most = max(last.values(), default=0)
        bars = [
            {"name": name, "width": 100 * last.get(name, 0) / most, "count": last.get(name, 0)}
            for name in (names if most else ())
        ]
        kinds.append({"figure": _figure(_title(kind), svg, "edges of each operation"), "bars": bars})
    return {"kinds": kinds, "notice": _collapse(run)}


def _collapse(run: Run) -> Row | None:
    """What is to be said of skip connections: how many of how many edges since which epoch, and whether it is "bad"."""
    skips = run.skip_connections()
    found = run.genotype("found")
    if found is None or not skips[-1]:
        return None
    edges = sum(found.histogram()["normal"].values())
    said = {"skips": skips[-1], "edges": edges}
    if 2 * skips[-1] >= edges:
        since = _since(skips, lambda n, i: n is not None and 2 * n >= _edges_of(run, i))
        return said | {"bad": True, "since": since}
    if skips[-1] >= _DARTS_PLUS and edges <= _DARTS_PLUS_EDGES:
        since = _since(skips, lambda n, _: n is not None and n >= _DARTS_PLUS)
        return said | {"bad": False, "since": since}
    return None


def _edges_of(run: Run, epoch: int) -> int:
    found = run.genotype("found", epoch)
    return 0 if found is None else sum(found.histogram()["normal"].values())


def _since(values: Sequence[Any], holds: Callable[[Any, int], bool]) -> int:
    first = len(values)
    while first and holds(values[first - 1], first - 1):
        first -= 1
    return first + 1


def _cells(run: Run) -> list[Row]:
    parts = []
    for rules, genotype in _different_genotypes(run):
        shown = []
        for kind in KINDS:
            cell = genotype.cell(kind)
            svg = figures.cell_rails(f"{_title(kind)} of {run.label}, {rules}", cell)
            shown.append(_figure(_title(kind), svg, counted(sum(map(len, cell.nodes)), "edge")))
        parts.append({"rules": rules, "figures": shown})
    return parts


def _texts(run: Run) -> list[Row]:
    parts = []
    for number, (rules, genotype) in enumerate(_different_genotypes(run)):
        texts = {"JSON": genotype.to_json(2)} | ({"DARTS": genotype.to_darts()} if genotype.in_darts else {})
        boxes = [
            {"name": name, "key": f"genotype-{run.place}-{number}-{name.lower()}", "text": text.strip()}
            for name, text in texts.items()
        ]
        parts.append({"rules": rules, "boxes": boxes})
    return parts


def _different_genotypes(run: Run) -> list[tuple[str, Genotype]]:
    """Cells with the words for what derived them; what several rules give comes once."""
    result: dict[Genotype, list[str]] = {}
    for rule in ("found", "darts", "argmax"):
        genotype = run.genotype(rule)
        if genotype is not None:
            result.setdefault(genotype, []).append(rule)
    named = []
    for genotype, rules in result.items():
        words = run.row_name({"cells": "found"}) if rules[0] == "found" else " and ".join(rules) + " rule"
        if rules[0] == "found" and len(extra := [r for r in rules[1:] if r != run.rule]):
            words += f", {' and '.join(extra)} rule alike"
        named.append((words[0].upper() + words[1:], genotype))
    return named


# Settings and machine -------------------------------------------------------------------------------------------------


def _settings(runs: Sequence[Run]) -> Row:
    """Rows of the settings that differ, that some methods have only ("own"), and that are the same."""
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = {name: [_value(run.settings[name]) if name in run.settings else _NOTHING for run in runs] for name in names}
    shared = [name for name in names if all(name in run.settings for run in runs)]
    differing = [name for name in shared if len(set(rows[name])) > 1 and name not in _PLACES]
    alone = len(runs) == 1
    same = [name for name in shared if name not in differing and (alone or name not in _PLACES)]
    return {
        "head": ["setting", *(run.label for run in runs)],
        "differing": [("differs", [name, *rows[name]]) for name in differing],
        "own": [("", [name, *rows[name]]) for name in names if name not in shared],
        "same": [("", [name, rows[name][0]]) for name in same],
    }


def _machine(runs: Sequence[Run]) -> Row:
    facts: list[tuple[str, Callable[[Run], str]]] = [
        ("device", lambda r: f"{r.facts.get('device_name', _NOTHING)} ({r.facts.get('device', _NOTHING)})"),
        ("processes", _processes),
        ("commit", lambda r: _commit(r.facts.get("commit"))),
        ("versions", lambda r: ", ".join(f"{k} {v}" for k, v in (r.facts.get("versions") or {}).items())),
        ("data", _data),
        ("time", lambda r: _of_last(r, "seconds", "{:,.0f} s", f" in {counted(r.done, 'epoch')}")),
        ("peak memory", lambda r: _memory(r.peak_memory_gb)),
        ("stopped and resumed", _events),
        ("command", lambda r: str(r.facts.get("command", _NOTHING))),
    ]  # fmt: skip
    rows = []
    for name, of in facts:
        values = [of(run) for run in runs]
        differs = len(set(values)) > 1 and name in ("device", "processes", "commit", "versions", "data")
        rows.append(("differs" if differs else "", [name, *(values[:1] if len(set(values)) == 1 else values)]))
    return {"head": ["machine", "value"] if len(runs) == 1 else ["machine", *(run.label for run in runs)], "rows": rows}


def _of_last(run: Run, name: str, form: str, more: str = "") -> str:
    value = run.last.get(name) if run.epochs else None
    return _NOTHING if value is None else form.format(value) + more


def _memory(peak_gb: float | None) -> str:
    return _NOTHING if peak_gb is None else f"{peak_gb:.2f} GB, of the process"


def _processes(run: Run) -> str:
    processes, threads, processors = (run.facts.get(key, _NOTHING) for key in ("processes", "threads", "cpu_count"))
    return f"{processes}, threads {threads}, on a machine with {processors} processors"


def _commit(commit: Any) -> str:
    if not isinstance(commit, str):
        return _NOTHING
    return commit[:12] + (" with changes" if commit.endswith("-dirty") else "")


def _data(run: Run) -> str:
    name, images = dig(run.facts, "data", "name"), dig(run.facts, "data", "images")
    return f"{name or _NOTHING}, {counted(images or 0, 'training image')}, {run.classes} classes"


def _events(run: Run) -> str:
    if not run.events:
        return "no"
    return ", ".join(
        f"{event.get('kind')} in epoch {event.get('epoch', _NOTHING)}"
        + (f" ({event['reason']})" if event.get("reason") else "")
        for event in run.events
    )


# Several runs, and what stands on top -------------------------------------------------------------------------------


def _comparison(runs: Sequence[Run]) -> Row:
    rows = []
    for run in runs:
        row: Row = {"run": run}
        if run.epochs:
            own = next((gap for gap in run.gap_rows() if gap["cells"] == "found"), None)
            found = run.genotype("found")
            row |= {kind: _NOTHING if found is None else _counts(found.histogram()[kind]) for kind in KINDS}
            row |= {
                "seconds": run.last.get("seconds"),
                "memory": run.peak_memory_gb,
                "running": (run.supernet[-1], run.derived("found")[-1]),
                "reestimated": (None, None) if own is None else (own["before"]["reestimated"], own["reestimated"]),
                "entropy": _last_entropies(run),
            }
        rows.append(row)
    shown = [run for run in runs if run.epochs]
    return {"rows": rows, "figures": _overlays(shown) if shown else []}


def _overlays(shown: Sequence[Run]) -> list[Row]:
    """Figures with a line or a row for each run."""
    accuracy = {
        "Derived network (found), held-out %": [run.derived("found") for run in shown],
        "Supernet, held-out %": [run.supernet for run in shown],
    }
    pairs = [
        Pair(_clip(f"{run.label}: {run.row_name({'cells': 'found'})}", 44), run.supernet[-1],
             run.derived("found")[-1], run.style) for run in shown
    ]  # fmt: skip
    chance = next(iter(_chance(shown).values()), None)
    svg = figures.pairs("Held-out accuracy before and after discretization, each run", pairs, chance)
    overlays = [_figure("The gap: supernet (ring) → found (disc), %", svg)]
    y_range, ticks = figures.accuracy_axis(v for series in accuracy.values() for v in series)
    longest = max(run.planned for run in shown)
    for title, values in accuracy.items():
        series = [Line(_clip(r.label), f"{r.style} bold", v) for r, v in zip(shown, values, strict=True)]
        svg = figures.lines(title, series, y_range=y_range, y_ticks=ticks, scale=100, epochs=longest,
                            references=_chance(shown))  # fmt: skip
        overlays.append(_figure(title, svg))
    learning = [run for run in shown if run.learns]
    for kind in KINDS if learning else ():
        series = [Line(_clip(run.label), f"{run.style} bold", run.entropy(kind)) for run in learning]
        most = math.log(max(len(run.operations) for run in learning))
        title = f"Entropy of alpha, {_KIND_NAMES[kind]}, in nats"
        overlays.append(_figure(title, _entropy_lines(title, series, most, longest)))
    series = [Line(_clip(run.label), f"{run.style} bold", run.skip_connections()) for run in shown]
    top = max(2, *(v or 0 for s in series for v in s.values))
    top += top % 2
    title = "Skip connections, normal cell found"
    svg = figures.lines(title, series, y_range=(0, top), y_ticks=[0, top / 2, top], end_format="{:.0f}", epochs=longest)
    return [*overlays, _figure(title, svg)]


def _notices(runs: Sequence[Run]) -> list[Row]:
    """What a reader must know before anything else."""
    told: list[Row] = []
    several = len(runs) > 1
    nothing: Row = {"run": "", "collapse": None, "done": None, "differ": []}
    for run in runs:
        name = nothing | {"run": run.label if several else ""}
        if run.done < run.planned:
            stop = next((e for e in reversed(run.events) if e.get("kind") in ("stopped", "resumed")), None)
            why = str(stop.get("reason")) if stop and stop["kind"] == "stopped" else ""
            told.append(name | {"done": run.done, "planned": run.planned, "why": why})
        notice = _collapse(run) if run.epochs else None
        if notice and notice["bad"]:
            told.append(name | {"collapse": notice})
    if several:
        unlike = [key for key in _COMMON if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
        unlike += ["held-out images"] * (len({dig(r.last, "held_out", "n") for r in runs if r.epochs}) > 1)
        machine = [
            key for key in ("device_name", "threads", "processes") if len({str(r.facts.get(key)) for r in runs}) > 1
        ]
        both = (unlike, "accuracies"), (machine, "times")
        told += [nothing | {"differ": differ, "what": what} for differ, what in both if differ]
    return told


def _headline(run: Run) -> Row | None:
    """The figures one looks for first, of a single run."""
    if not run.epochs:
        return None
    kept = next((row["edge_weights"] for row in run.gap_rows() if row["cells"] == "found"), "none")
    return {
        "n": run.last["held_out"].get("n"),
        "before": run.supernet[-1],
        "after": run.derived("found")[-1],
        "found": run.row_name({"cells": "found"}),
        "argmax": run.derived("argmax")[-1] if run.rule != "argmax" else None,
        "entropy": _last_entropies(run),
        "most": math.log(len(run.operations)),
        "seconds": run.last.get("seconds"),
        "done": run.done,
        "planned": run.planned,
        "memory": run.peak_memory_gb,
        "device": str(run.facts.get("device", "")),
        "shared": kept == "shared out",
    }


def _subtitle(run: Run) -> str:
    settings = run.settings
    sizes = [
        words.format(settings[key])
        for key, words in (("num_cells", "{} cells"), ("init_channels", "{} channels"), ("batch_size", "batch {}"))
        if key in settings
    ]
    sizes.append(f"seed {settings.get('seed', _NOTHING)}")
    return f"Run “{run.label}”: {', '.join([f'{run.done} of {run.planned} epochs', *sizes])}"


# The page -------------------------------------------------------------------------------------------------------------


def style_sheet(operations: Iterable[str] = (), methods: Iterable[str] = ()) -> str:
    """The style sheet, with a class for each operation, method and input of a node; named are those from outside."""
    colors = {figures.style_of(o): (color_of(o), color_of(o)) for o in operations if o not in OPERATION_COLORS}
    colors |= {figures.style_of(o): (color, DARK_OPERATION_COLORS[o]) for o, color in OPERATION_COLORS.items()}
    colors[figures.style_of("none")] = (_NONE_COLOR, _NONE_COLOR)
    colors |= {figures.method_style(m): method_colors(m) for m in (*METHOD_COLORS, *methods)}
    colors |= {f"input-{i}": pair for i, pair in enumerate(NUMBER_COLORS)}
    light, dark = ("".join(f".{name}{{--c:{pair[i]}}}" for name, pair in colors.items()) for i in (0, 1))
    text = (_HERE / "report.css").read_text(encoding="utf-8")
    return f"{text}{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"


def page(runs: Sequence[Run]) -> str:
    """The HTML of the report: the same text for the same logs."""
    import nas_zoo

    several, first = len(runs) > 1, runs[0]
    data = list(dict.fromkeys(dig(run.facts, "data", "name") or "" for run in runs))
    script = (_HERE / "report.js").read_text(encoding="utf-8")

    operations = list(dict.fromkeys(o for run in runs if run.epochs for o in run.operations))

    def of_each(part: Callable[[Run], Any]) -> list[Any]:
        return [part(run) if run.epochs else None for run in runs]

    text = fill(
        "nas_zoo.search.report", "page.html.j2", runs=runs, several=several,
        title=f"{len(runs)} searches side by side" if several else f"{first.method} on {data[0]}",
        subtitle=", ".join(run.method for run in runs) if several else _subtitle(first),
        notices=_notices(runs),
        headline=None if several else _headline(first),
        comparison=_comparison(runs) if several else None,
        operations=operations, inputs=max((run.num_nodes + 1 for run in runs if run.epochs and run.beta), default=0),
        accuracy=of_each(_accuracy), gap=of_each(_gap), cells=of_each(_cells), texts=of_each(_texts),
        chosen=of_each(_chosen), alpha=of_each(_alpha), entropies=of_each(_entropies),
        beta=of_each(_beta) if any(run.beta for run in runs) else None,
        settings=_settings(runs), machine=_machine(runs),
        percent=_percent, points=_points, duration=_duration, share=_share, short=short, style_of=figures.style_of,
        nothing=_NOTHING,
        style=Markup(style_sheet(operations, [run.kind for run in runs])),
        script=Markup(script),
        script_sha256=Markup(base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()),
        version=nas_zoo.__version__,
    )  # fmt: skip
    return text.encode(errors="backslashreplace").decode()  # JSON can hold half a character


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page and returns where: by default report.html in the folder of one run, here for several.

    Raises:
        ValueError: For what ``read_runs`` refuses, an output that does not end in .html, a folder that does not exist.
    """
    if output is None:
        output = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"output {str(output)!r}: the name must end in .html")
    text = page(read_runs(folders))
    if not output.parent.is_dir():
        raise ValueError(f"output {str(output)!r}: there is no such folder")
    write_text(output, text)
    return output


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo report", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folder of a search")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="where to (default: report.html, in the folder of a single run)")  # fmt: skip
    return parser


@program("nas-zoo report")
def main(argv: list[str] | None = None) -> int:
    """The program: 0, or 2 for a mistake of the user's."""
    options = make_parser().parse_args(argv)
    output = write_report(options.runs, options.output)
    print(output)
    return 0
