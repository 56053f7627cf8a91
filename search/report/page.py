"""One HTML page of a search, or of several side by side: opens from disk, loads nothing, also prints.

    nas-zoo report runs/edas
    nas-zoo report runs/darts runs/edas runs/da2s --output comparison.html

Reads log.jsonl of each folder (and events.jsonl and gap.json, where they are), needs no checkpoint and no data, and so
works while a search still runs. Shown are settings and machine, held-out accuracy of the supernet and of the
derived networks over the epochs, what discretization cost, softmax of alpha for each edge and of beta for each node,
their entropy, the operations chosen, the cells, and the genotype to copy. `nas-zoo gap RUN_DIR --save` adds other
numbers of edges to the table of the gap.
"""

import argparse
import base64
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.palette import OPERATION_COLORS
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import Parser
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Line, Pair, short
from nas_zoo.search.report.history import Run, dig, read_runs

__all__ = ["main", "page", "write_report"]

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
_NONE_COLOR = "#8a929c"
#: The colours of operations on a dark page: the same hues, larger kernels of a kind darker there too.
_DARK_COLORS = {
    "none": "#8a929c",
    "max_pool_3x3": "#ff8a3d",
    "avg_pool_3x3": "#dbb14a",
    "skip_connect": "#d5dae0",
    "sep_conv_3x3": "#9bd2f7",
    "sep_conv_5x5": "#3f9fe6",
    "sep_conv_7x7": "#2f78bd",
    "dil_conv_3x3": "#5fe6bf",
    "dil_conv_5x5": "#1da982",
    "conv_7x1_1x7": "#dd8cc0",
}
#: Skip connections in the normal cell at which DARTS+ ends a search, and the edges that its cells have.
_DARTS_PLUS, _DARTS_PLUS_EDGES = 2, 8


# Words ----------------------------------------------------------------------------------------------------------------


def _percent(value: float | None) -> str:
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def _change(before: float | None, after: float | None) -> str:
    return _NOTHING if before is None or after is None else figures.signed(100 * (after - before))


def _before_after(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return _NOTHING
    return f'{100 * before:.1f} → {100 * after:.1f} <small class="change">({_change(before, after)})</small>'


def _time(seconds: float | None) -> str:
    if seconds is None:
        return _NOTHING
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86400 else f"{seconds / 86400:.1f} days"


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


def _html(tag: str, content: str, **attributes: str) -> str:
    given = "".join(f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"' for name, value in attributes.items())
    return f"<{tag}{given}>{content}</{tag}>"


def _table(
    head: Sequence[str], rows: Iterable[tuple[str, Sequence[str]]], caption: str = "", style: str = "stack"
) -> str:
    """HTML of a table whose rows are (class, cells); the first cell heads its row, a single other one is all of it.

    Cells are HTML. In style "stack" a row becomes a block with names where the page is narrow.
    """
    parts = [f"<caption>{caption}</caption>" if caption else "", "<thead><tr>"]
    parts += [f'<th scope="col">{name}</th>' for name in head]
    parts.append("</tr></thead><tbody>")
    for kind, cells in rows:
        parts.append(f'<tr class="{kind}">' if kind else "<tr>")
        parts.append(f'<th scope="row">{cells[0]}</th>')
        if len(cells) == 2 < len(head):
            parts.append(f'<td colspan="{len(head) - 1}" data-name="all runs">{cells[1]}</td>')
        else:
            named = zip(head[1:], cells[1:], strict=True)
            parts += [f'<td data-name="{name}">{cell}</td>' for name, cell in named]
        parts.append("</tr>")
    parts.append("</tbody>")
    return f'<div class="wrap"><table class="{style}">{"".join(parts)}</table></div>'


# Sections -------------------------------------------------------------------------------------------------------------


def _side_by_side(runs: Sequence[Run], part: Callable[[Run], str]) -> str:
    """A part of each run: of one run as it is, of several in columns with headings."""
    if len(runs) == 1:
        return f'<div class="solo">{part(runs[0])}</div>'
    columns = "".join(
        f'<article class="{run.style}"><h3>{escape(run.label)} <small>{escape(run.method)}</small></h3>'
        f"{part(run)}</article>"
        for run in runs
    )
    return f'<div class="grid runs">{columns}</div>'


def _section(name: str, title: str, lead: str, content: str) -> str:
    lead = f'<p class="lead">{lead}</p>' if lead else ""
    heading = f'<h2 id="{name}-title">{title}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">{heading}{lead}{content}</section>'


def _figure(caption: str, svg: str, note: str = "") -> str:
    note = f" <small>{note}</small>" if note else ""
    return f"<figure><figcaption>{caption}{note}</figcaption>{svg}</figure>"


def _not_yet(run: Run) -> str:
    return "" if run.epochs else '<p class="soft">No epoch has ended yet.</p>'


def _accuracy_axis(values: Iterable[Sequence[float | None]]) -> tuple[tuple[float, float], list[float]]:
    highest = max((v for series in values for v in series if v is not None), default=1.0)
    top = next(t for t in (0.2, 0.4, 0.6, 0.8, 1.0) if highest <= t or t == 1.0)
    return (0.0, top), [top * k / 4 for k in range(5)]


def _chance(runs: Sequence[Run]) -> dict[str, float]:
    classes = {run.classes for run in runs}
    return {"chance": 1 / classes.pop()} if len(classes) == 1 and 0 not in classes else {}


def _accuracy_lines(run: Run) -> list[Line]:
    series = [Line("supernet", "s6 bold", run.supernet)]
    found, seen = run.derived("found"), []
    for rule, style in (("darts", "s1"), ("argmax", "s0")):
        values = run.derived(rule)
        if any(v is not None for v in values):
            same = run.rule == rule or values == found
            seen.append(same)
            series.append(Line(f"{rule} rule" + "*" * same, style + " bold" * same, values))
    if not any(seen) and any(v is not None for v in found):
        series.append(Line(f"{run.rule if len(run.rule) < 9 else 'found'}*", "s2 bold", found))
    return [*series, Line("training", "s4 thin", run.over_epochs("train", "accuracy"))]


def _accuracy(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    series = _accuracy_lines(run)
    again = [
        Line("supernet", "s6 bold", run.over_epochs("gap", "before", "reestimated")),
        Line("found", "s2 bold", [_reestimated(line) for line in run.epochs]),
    ]
    y_range, ticks = _accuracy_axis(s.values for s in [*series, *again])
    common: dict[str, Any] = {"y_range": y_range, "y_ticks": ticks, "scale": 100, "epochs": run.planned}
    common["references"] = _chance([run])
    sizes = [line["held_out"].get("n") for line in run.epochs]
    words = f"n = {sizes[-1]:,}" if sizes[-1] else ""
    if sizes[-1] and sizes[0] and sizes[0] != sizes[-1]:  # another set of images: the curve's last step is not training
        words += f" in the last epoch, {sizes[0]:,} before"
    shown = [
        _figure(
            "Held-out accuracy, %",
            figures.lines(f"Held-out accuracy of {run.label} in percent", series, **common),
            words,
        )
    ]
    if any(v is not None for s in again for v in s.values):
        title = f"Held-out accuracy of {run.label} in percent with re-estimated BatchNorm statistics"
        shown.append(_figure("The same, BatchNorm statistics re-estimated", figures.lines(title, again, **common)))
    losses = [
        Line("weights", "s6", run.over_epochs("train", "loss")),
        # exactly 0 is what the log has where alpha rested
        Line("alpha", "s3", [v or None for v in run.over_epochs("alpha_loss")] if run.learns else []),
    ]
    known = [v for s in losses for v in s.values if v is not None]
    if known:
        bottom, top = figures.nice_range(min(0.0, *known), max(known))
        svg = figures.lines(
            f"Loss of {run.label}", losses, y_range=(bottom, top), y_ticks=[bottom, (bottom + top) / 2, top],
            end_format="{:.2f}", epochs=run.planned,
        )  # fmt: skip
        shown.append(_figure("Loss", svg, "alpha's with its penalties"))
    return f'<div class="grid">{"".join(shown)}</div>{_numbers(run)}'


def _numbers(run: Run) -> str:
    """Every epoch's figures as a table, for those who cannot see the lines or want to copy them."""
    series = {
        "training": run.over_epochs("train", "accuracy"),
        "supernet": run.supernet,
        "found": run.derived("found"),
        "darts": run.derived("darts"),
        "argmax": run.derived("argmax"),
    }
    rows = []
    for i, line in enumerate(run.epochs):
        values = [_NOTHING if v[i] is None else f"{100 * v[i]:.1f}" for v in series.values()]
        seconds = line.get("seconds")
        rows.append(("", [str(line["epoch"]), *values, _NOTHING if seconds is None else f"{seconds:,.0f}"]))
    table = _table(["epoch", *series, "seconds"], rows, "Accuracies in percent", style="numbers")
    return f"<details><summary>Numbers, epoch by epoch</summary>{table}</details>"


def _reestimated(line: Mapping[str, Any]) -> float | None:
    rows = dig(line, "gap", "after") or []
    return next((row["reestimated"] for row in rows if row["cells"] == "found"), None)


def _gap_pairs(run: Run) -> list[Pair]:
    """Pairs of the picture: edge weights as methods are compared (shared out), equal cells once."""
    pairs: list[Pair] = []
    seen = set()
    for row in run.gap_rows():
        if row["edge_weights"] == "plain":
            continue
        if (key := (row["cells"], row["epoch"])) in seen:
            continue
        seen.add(key)
        if row["cells"] == run.rule and ("found", row["epoch"]) in seen:
            continue
        edges = "+".join(str(row["edges"][kind]) for kind in KINDS)
        name = f"{run.row_name(row)}, {edges} edges" + f", epoch {row['epoch']}" * (row["epoch"] != run.done)
        pairs.append(Pair(name, row["before"]["running"], row["running"], "s0"))
        if row["reestimated"] is not None:
            pairs.append(Pair(f"{name}, re-estimated", row["before"]["reestimated"], row["reestimated"], "s1"))
    return pairs


def _gap(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    svg = figures.pairs(f"Held-out accuracy of {run.label} before and after discretization", _gap_pairs(run),
                        next(iter(_chance([run]).values()), None))  # fmt: skip
    rows = []
    for row in run.gap_rows():
        words = ["+".join(str(row["edges"][kind]) for kind in KINDS) + " edges"]
        words += [f"edge weights {row['edge_weights']}"] * (row["edge_weights"] != "none")
        words += [f"n = {row['n']:,}"] * (row["n"] not in (None, run.last["held_out"].get("n")))
        words += [f"after epoch {row['epoch']}"] * (row["epoch"] != run.done)
        before = row["before"]
        rows.append(("", [f"{escape(run.row_name(row))} <small>{escape(', '.join(words))}</small>",
                          _before_after(before["running"], row["running"]),
                          _before_after(before["reestimated"], row["reestimated"])]))  # fmt: skip
    n = run.last["held_out"].get("n")
    caption = "Percent, supernet → after discretization (difference in points)" + (f", {n:,} images" if n else "")
    table = _table(["cells", "running statistics", "re-estimated"], rows, caption, style="")
    figure = _figure("Supernet (ring) → after discretization (disc), %", svg)
    return f'<div class="gap">{figure}<div>{table}</div></div>'


def _tile_range(values: np.ndarray) -> tuple[float, float]:
    """[0, 1], or the part of it where all values lie if that is small."""
    low, high = float(values.min()), float(values.max())
    if high > 0.6:
        return 0.0, 1.0
    if high - low > 0.25:
        return 0.0, figures.nice_range(0.0, high)[1]
    return figures.nice_range(min(low, high - 0.02), max(high, low + 0.02))


def _alpha(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    if not run.learns:
        return (
            '<p class="soft">Nothing is learned: alpha is drawn once from the seed and only names the operations.</p>'
        )
    found = run.genotype("found")
    parts = []
    for kind in KINDS:
        p = run.alpha[kind]
        y_range = _tile_range(p)
        kept = {} if found is None else {
            (node, edge.source): edge.operation
            for node, edges in enumerate(found.cell(kind).nodes, start=2) for edge in edges
        }  # fmt: skip
        tiles = []
        for e, (node, source) in enumerate(run.edges):
            best = int(p[-1, e].argmax())
            name = run.operations[best]
            series = [Line(o, f"op-{o}", p[:, e, i].tolist()) for i, o in enumerate(run.operations)]
            svg = figures.tile(
                f"Edge {source} to {node}, {_KIND_NAMES[kind]}, {run.label}: softmax of alpha",
                series, y_range=y_range, reference=1 / len(run.operations), epochs=run.planned,
            )  # fmt: skip
            is_kept = (node, source) in kept
            chosen = kept.get((node, source), name)
            value = p[-1, e, run.operations.index(chosen)] if chosen in run.operations else p[-1, e, best]
            caption = (
                f'<b>{source} → {node}</b><span class="op-{escape(chosen)}">{escape(short(chosen))} '
                f"{f'{value:.2f}'.removeprefix('0')}</span>"
            )
            tiles.append(
                f'<figure class="tile {"kept" if is_kept else "dropped"}" '
                f'style="--row:{node - 1};--column:{source + 1}">'
                f"<figcaption>{caption}</figcaption>{svg}</figure>"
            )
        parts.append(_tiles(kind, "edges", tiles))
    return f'<div class="pair">{"".join(parts)}</div>'


def _beta(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    if not run.beta:
        return '<p class="soft">This method has no edge weights.</p>'
    found = run.genotype("found")
    parts = []
    for kind in KINDS:
        tiles = []
        y_range = _tile_range(np.concatenate([part.ravel() for part in run.beta[kind]]))
        for index, part in enumerate(run.beta[kind]):
            node = index + 2
            series = [Line(f"from {i}", f"s{i}", part[:, i].tolist()) for i in range(node)]
            svg = figures.tile(
                f"Node {node}, {_KIND_NAMES[kind]}, {run.label}: softmax of beta", series, y_range=y_range,
                reference=1 / node, epochs=run.planned,
            )  # fmt: skip
            sources = [] if found is None else sorted({edge.source for edge in found.cell(kind).nodes[index]})
            words = " ".join(
                f'<span class="s{i}">{i}: {f"{part[-1, i]:.2f}".removeprefix("0")}</span>' for i in sources
            )
            tiles.append(
                f'<figure class="tile kept"><figcaption><b>node {node}</b>{words or "<span>dropped</span>"}'
                f"</figcaption>{svg}</figure>"
            )
        parts.append(_tiles(kind, "nodes", tiles))
    return f'<div class="pair">{"".join(parts)}</div>'


def _tiles(kind: str, of: str, tiles: list[str]) -> str:
    return f'<div><h4>{_KIND_NAMES[kind].capitalize()}</h4><div class="tiles {of}">{"".join(tiles)}</div></div>'


def _entropies(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    if not run.learns:
        return '<p class="soft">Nothing is learned.</p>'
    most = math.log(len(run.operations))
    series = [Line("normal", "s0", run.entropy("normal")), Line("reduction", "s1", run.entropy("reduce"))]
    shown = [
        _figure(
            "Entropy of softmax(alpha), nats",
            _entropy_lines(f"Entropy of alpha of {run.label} in nats", series, most, "no preference", run.planned),
            "mean over the edges",
        )
    ]
    if run.beta:
        most = float(np.mean([math.log(node) for node in range(2, run.num_nodes + 2)]))
        series = [
            Line("normal", "s0", run.edge_entropy("normal")), Line("reduction", "s1", run.edge_entropy("reduce"))
        ]  # fmt: skip
        shown.append(
            _figure(
                "Entropy of softmax(beta), nats",
                _entropy_lines(f"Entropy of beta of {run.label} in nats", series, most, "no preference", run.planned),
                "mean over the nodes",
            )
        )
    return f'<div class="grid">{"".join(shown)}</div>'


def _entropy_lines(title: str, series: Sequence[Line], most: float, words: str, epochs: int) -> str:
    top = math.ceil(2 * most * 1.04) / 2
    return figures.lines(
        title, series, y_range=(0, top), y_ticks=np.arange(0, top + 0.01, 0.5).tolist(), end_format="{:.2f}",
        references={words: most}, epochs=epochs,
    )  # fmt: skip


def _chosen(run: Run) -> str:
    if not run.epochs:
        return _not_yet(run)
    order = [*run.operations, *(o for o in OPERATION_COLORS if o not in run.operations)]
    found = [run.genotype("found", i) for i in range(len(run.epochs))]
    shown = []
    for kind in KINDS:
        counts = [None if g is None else dict(g.histogram()[kind]) for g in found]
        svg = figures.columns(f"Operations of the {_KIND_NAMES[kind]} of {run.label}", counts, order, run.planned)
        bars = ""
        if counts[-1]:
            last = counts[-1]
            names = [name for name in order if name != "none" and (name in run.operations or name in last)]
            widths = {name: 100 * last.get(name, 0) / max(last.values()) for name in names}
            bars = "".join(
                f'<span>{escape(name)}</span><i class="op-{escape(name)}" style="width:{widths[name]:.0f}%"></i>'
                f"<span>{last.get(name, 0)}</span>"
                for name in names
            )
            bars = f'<div class="bars">{bars}</div>'
        shown.append(f"<div>{_figure(f'{_KIND_NAMES[kind].capitalize()}', svg, 'edges of each operation')}{bars}</div>")
    notice = _collapse(run)
    words = f'<ul class="told"><li class="{notice[0]}">{notice[1]}</li></ul>' if notice else ""
    return f'{words}<div class="grid">{"".join(shown)}</div>'


def _collapse(run: Run) -> tuple[str, str] | None:
    """What is to be said of skip connections: ("bad" or "", words as HTML)."""
    skips = run.skip_connections()
    found = run.genotype("found")
    if found is None or not skips[-1]:
        return None
    edges = sum(found.histogram()["normal"].values())
    if 2 * skips[-1] >= edges:
        since = _since(skips, lambda n, i: n is not None and 2 * n >= _edges_of(run, i))
        return "bad", (
            f"<b>Collapse:</b> {skips[-1]} of {edges} edges of the normal cell are skip connections; half or more, "
            f"which is this project's own criterion, since epoch {since}."
        )
    if skips[-1] >= _DARTS_PLUS and edges <= _DARTS_PLUS_EDGES:
        since = _since(skips, lambda n, _: n is not None and n >= _DARTS_PLUS)
        return "", (
            f"{skips[-1]} of {edges} edges of the normal cell are skip connections, two or more since epoch {since}: "
            "where DARTS+ (arXiv:1909.06035) ends a search. By this project's own criterion, half or more, it is no "
            "collapse."
        )
    return None


def _edges_of(run: Run, epoch: int) -> int:
    found = run.genotype("found", epoch)
    return 0 if found is None else sum(found.histogram()["normal"].values())


def _since(values: Sequence[Any], holds: Callable[[Any, int], bool]) -> int:
    first = len(values)
    while first and holds(values[first - 1], first - 1):
        first -= 1
    return first + 1


def _cells(run: Run, several: bool) -> str:
    if not run.epochs:
        return _not_yet(run)
    parts = []
    for rules, genotype in _different_genotypes(run):
        drawn = "".join(
            _figure(
                f"{_KIND_NAMES[kind].capitalize()}",
                figures.cell_rails(f"{_KIND_NAMES[kind].capitalize()} of {run.label}, {rules}", genotype.cell(kind)),
                f"{sum(map(len, genotype.cell(kind).nodes))} edges",
            )
            for kind in KINDS
        )
        parts.append((rules, f'<div class="cells">{drawn}</div>'))
    return (
        _first_open(parts, "grid", several) or '<p class="soft">No cells: the operation “none” wins on every edge.</p>'
    )


def _first_open(parts: Sequence[tuple[str, str]], style: str, several: bool) -> str:
    """Titled parts; with several runs on the page, those behind the first wait to be opened."""
    if not several:
        return (
            f'<div class="{style}">{"".join(f"<div><h4>{escape(name)}</h4>{part}</div>" for name, part in parts)}</div>'
        )
    shown = [f"<h4>{escape(name)}</h4>{part}" for name, part in parts[:1]]
    shown += [f"<details><summary>{escape(name)}</summary>{part}</details>" for name, part in parts[1:]]
    return "".join(shown)


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


def _texts(run: Run, several: bool) -> str:
    if not run.epochs:
        return _not_yet(run)
    parts = []
    for number, (rules, genotype) in enumerate(_different_genotypes(run)):
        boxes = []
        for name, text in (("JSON", genotype.to_json(2)), ("DARTS", genotype.to_darts())):
            key = f"genotype-{run.place}-{number}-{name.lower()}"
            words = escape(f"Copy {rules} of {run.label} as {name}")
            boxes.append(
                f'<div class="code"><header>{name}<button type="button" hidden data-copies="{key}" '
                f'aria-label="{words}">Copy</button></header>'
                f'<pre id="{key}" tabindex="0">{escape(text.strip())}</pre></div>'
            )
        parts.append((rules, f'<div class="codes">{"".join(boxes)}</div>'))
    return _first_open(parts, "", several)


def _all_settings(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    rows = {name: [_value(run.settings[name]) if name in run.settings else _NOTHING for run in runs] for name in names}
    if len(runs) == 1:
        table = _table(["setting", "value"], [("", [escape(n), escape(rows[n][0])]) for n in names], style="")
        return f"<details><summary>All {len(names)} settings</summary>{table}</details>"
    shared = [name for name in names if all(name in run.settings for run in runs)]
    differing = [name for name in shared if len(set(rows[name])) > 1 and name not in _PLACES]
    own = [name for name in names if name not in shared]
    same = [name for name in shared if name not in differing and name not in _PLACES]
    head = ["setting", *(escape(run.label) for run in runs)]

    def table_of(chosen: Sequence[str], style: str) -> str:
        return _table(head, [(style, [escape(name), *map(escape, rows[name])]) for name in chosen])

    equal = _table(["setting", "all runs"], [("", [escape(name), escape(rows[name][0])]) for name in same], style="")
    parts = ["<h4>Settings that differ</h4>", table_of(differing, "differs") if differing else "<p>None.</p>"]
    if own:
        parts.append(
            f"<details><summary>{len(own)} settings of some methods only</summary>{table_of(own, '')}</details>"
        )
    parts.append(f"<details><summary>{len(same)} settings that are the same</summary>{equal}</details>")
    return "".join(parts)


def _machine(runs: Sequence[Run]) -> str:
    facts: list[tuple[str, Callable[[Run], str]]] = [
        ("device", lambda r: f"{r.facts.get('device_name', _NOTHING)} ({r.facts.get('device', _NOTHING)})"),
        ("processes", _processes),
        ("commit", lambda r: _commit(r.facts.get("commit"))),
        ("versions", lambda r: ", ".join(f"{k} {v}" for k, v in r.facts.get("versions", {}).items())),
        ("data", _data),
        ("time", lambda r: _NOTHING if not r.epochs else f"{r.last.get('seconds', 0):,.0f} s in {r.done} epochs"),
        ("peak memory", lambda r: _NOTHING if not r.epochs else f"{r.last.get('peak_memory_gb', 0):.2f} GB"),
        ("stopped and resumed", _events),
        ("command", lambda r: str(r.facts.get("command", _NOTHING))),
    ]  # fmt: skip
    rows = []
    for name, of in facts:
        values = [of(run) for run in runs]
        differs = len(set(values)) > 1 and name in ("device", "processes", "commit", "versions", "data")
        if len(set(values)) == 1:
            rows.append(("", [name, escape(values[0])]))
        else:
            rows.append(("differs" if differs else "", [name, *map(escape, values)]))
    if len(runs) == 1:
        return _table(["machine", "value"], rows, style="")
    return _table(["machine", *(escape(run.label) for run in runs)], rows, style="stack one")


def _processes(run: Run) -> str:
    processes, threads, processors = (run.facts.get(key, _NOTHING) for key in ("processes", "threads", "cpu_count"))
    return f"{processes}, threads {threads}, on a machine with {processors} processors"


def _commit(commit: Any) -> str:
    if not isinstance(commit, str):
        return _NOTHING
    return commit[:12] + (" with changes" if commit.endswith("-dirty") else "")


def _data(run: Run) -> str:
    data = run.facts.get("data", {})
    return f"{data.get('name', _NOTHING)}, {data.get('images', 0):,} training images, {run.classes} classes"


def _events(run: Run) -> str:
    if not run.events:
        return "no"
    return ", ".join(
        f"{event.get('kind')} in epoch {event.get('epoch', _NOTHING)}"
        + (f" ({event['reason']})" if event.get("reason") else "")
        for event in run.events
    )


def _comparison(runs: Sequence[Run]) -> str:
    head = ["run", "method", "epochs", "time", "memory", "supernet → found", "re-estimated", "entropy",
            "normal cell found", "reduction cell found"]  # fmt: skip
    rows = []
    for run in runs:
        name = f'<span class="swatch {run.style}"></span>{escape(run.label)}'
        if len(run.label) <= 20:
            name = f'<span class="keep">{name}</span>'
        cells = [name, escape(run.method), f'<span class="keep">{run.done} of {run.planned}</span>']
        if not run.epochs:
            rows.append(("", [*cells, *[_NOTHING] * 7]))
            continue
        own = next((row for row in run.gap_rows() if row["cells"] == "found"), None)
        found = run.genotype("found")
        again = (None, None) if own is None else (own["before"]["reestimated"], own["reestimated"])
        seconds, memory = run.last.get("seconds"), run.last.get("peak_memory_gb")
        entropy = _NOTHING if not run.learns else _entropy_words(run)
        rows.append(("", [
            *cells,
            _time(seconds) + (f" <small>{seconds:,.0f} s</small>" if seconds and seconds >= 120 else ""),
            _NOTHING if memory is None else f"{memory:.2f} GB",
            _before_after(run.supernet[-1], run.derived("found")[-1]),
            _before_after(*again), entropy,
            *([_NOTHING, _NOTHING] if found is None else (escape(_counts(found.histogram()[kind])) for kind in KINDS)),
        ]))  # fmt: skip
    caption = "Accuracies in percent on held-out images; entropy of alpha in nats, normal / reduction cell"
    shown = [run for run in runs if run.epochs]
    overlays = []
    if shown:
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
        overlays.append(_figure("The gap: supernet (ring) → found (disc), %", svg))
        y_range, ticks = _accuracy_axis(v for series in accuracy.values() for v in series)
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
            overlays.append(_figure(title, _entropy_lines(title, series, most, "no preference", longest)))
        series = [Line(_clip(run.label), f"{run.style} bold", run.skip_connections()) for run in shown]
        top = max(2, *(v or 0 for s in series for v in s.values))
        top += top % 2
        title = "Skip connections, normal cell found"
        svg = figures.lines(
            title, series, y_range=(0, top), y_ticks=[0, top / 2, top], end_format="{:.0f}", epochs=longest
        )
        overlays.append(_figure(title, svg))
    return (
        _table(head, rows, caption, style="stack compare")
        + f'<div class="grid" style="margin-top:22px">{"".join(overlays)}</div>'
    )


def _entropy_words(run: Run) -> str:
    both = [run.entropy(kind)[-1] for kind in KINDS]
    return f'<span class="keep">{" / ".join(_NOTHING if v is None else f"{v:.2f}" for v in both)}</span>'


def _clip(text: str, length: int = 15) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _notices(runs: Sequence[Run]) -> str:
    """What a reader must know before anything else."""
    told = []
    several = len(runs) > 1
    for run in runs:
        name = f"<b>{escape(run.label)}</b>: " if several else ""
        if run.done < run.planned:
            stop = next((e for e in reversed(run.events) if e.get("kind") in ("stopped", "resumed")), None)
            why = f", stopped by {escape(str(stop.get('reason')))}" if stop and stop["kind"] == "stopped" else ""
            told.append(("", f"{name}not finished: {run.done} of {run.planned} epochs are in the log{why}."))
        notice = _collapse(run) if run.epochs else None
        if notice and notice[0]:
            told.append((notice[0], f"{name}{notice[1]}"))
    if several:
        unlike = [key for key in _COMMON if len({json.dumps(run.settings.get(key)) for run in runs}) > 1]
        unlike += ["held-out images"] * (len({dig(r.last, "held_out", "n") for r in runs if r.epochs}) > 1)
        if unlike:
            told.append(
                ("", f"The runs differ in {escape(', '.join(unlike))}: their accuracies are not like for like.")
            )
        machine = [
            key for key in ("device_name", "threads", "processes") if len({str(r.facts.get(key)) for r in runs}) > 1
        ]
        if machine:
            told.append(("", f"The runs differ in {escape(', '.join(machine))}: their times are not like for like."))
    return f'<ul class="told">{"".join(_html("li", w, class_=s) for s, w in told)}</ul>' if told else ""


def _headline(run: Run) -> str:
    """The figures one looks for first, of a single run."""
    if not run.epochs:
        return ""
    n = run.last["held_out"].get("n")
    before, after = run.supernet[-1], run.derived("found")[-1]
    rows = [
        ("supernet", _percent(before), f"held-out, n = {n:,}" if n else "held-out"),
        (escape(run.row_name({"cells": "found"})), _percent(after), "derived, search's own weights"),
        ("gap", _change(before, after), "points, running statistics"),
    ]
    argmax = run.derived("argmax")[-1]
    if argmax is not None and run.rule != "argmax":
        rows.append(("argmax rule", _percent(argmax), f"every edge, {_change(before, argmax)} points"))
    if run.learns:
        most = math.log(len(run.operations))
        rows.append(("entropy of alpha", _entropy_words(run), f"normal / reduction, at most {most:.2f}"))
    seconds = run.last.get("seconds")
    rows.append(("time", _time(seconds), f"{run.done} of {run.planned} epochs"))
    if (memory := run.last.get("peak_memory_gb")) is not None:
        rows.append(("peak memory", f"{memory:.2f} GB", escape(str(run.facts.get("device", "")))))
    items = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{note}</small></dd></div>" for name, value, note in rows)
    return f'<dl class="facts">{items}</dl>'


def _subtitle(run: Run) -> str:
    settings = run.settings
    sizes = [
        f"{settings[key]} {words}"
        for key, words in (("num_cells", "cells"), ("init_channels", "channels"))
        if key in settings
    ]
    sizes += [f"batch {settings['batch_size']}"] * ("batch_size" in settings) + [
        f"seed {settings.get('seed', _NOTHING)}"
    ]
    return f"Run “{run.label}”: {', '.join([f'{run.done} of {run.planned} epochs', *sizes])}"


def _operation_key(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(o for run in runs if run.epochs for o in run.operations))
    return f'<ul class="key">{"".join(_html("li", escape(name), class_=f"op-{name}") for name in names)}</ul>'


# The page -------------------------------------------------------------------------------------------------------------


def _style() -> str:
    """The style sheet, with a class for each operation."""
    light, dark = (
        "".join(f".op-{name}{{--c:{color}}}" for name, color in colors.items())
        for colors in ({"none": _NONE_COLOR} | OPERATION_COLORS, _DARK_COLORS)
    )
    text = (_HERE / "report.css").read_text(encoding="utf-8")
    return f"{text}{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"


def page(runs: Sequence[Run]) -> str:
    """The HTML of the report: the same text for the same logs."""
    import nas_zoo

    several = len(runs) > 1
    first = runs[0]
    data = list(dict.fromkeys(str(run.facts.get("data", {}).get("name", "")) for run in runs))
    title = f"{len(runs)} searches side by side" if several else f"{first.method} on {data[0]}"
    words = ", ".join(run.method for run in runs) if several else _subtitle(first)
    rule_words = (
        "* marks the cells the method finds: they are what is retrained. The darts rule keeps two edges a node, "
        "argmax all that the supernet prefers to “none”."
    )
    sections = []
    if several:
        lead = (
            "What each search cost and what it found; derived networks over the epochs as in EDAS, Figure 3. "
            "Differences of a few points are within the chance of one seed."
        )
        sections.append(("comparison", "Comparison", lead, _comparison(runs)))
    sections += [
        ("accuracy", "Accuracy over the epochs", f"Of the supernet and of the derived networks with the search's own "
         f"weights, on images the weights were not trained on. {rule_words}", _side_by_side(runs, _accuracy)),
        ("gap", "The discretization gap", "What is lost when the supernet is cut down to its cells without training "
         "(as DA2S, Table 4); re-estimated: with BatchNorm statistics taken anew after the cut.",
         _side_by_side(runs, _gap)),
        ("cells", "Cells", "From top to bottom: the outputs of the two cells before, the nodes with the operations "
         "that enter them, the output.", _side_by_side(runs, lambda run: _cells(run, several))),
        ("genotype", "Genotype to copy", "For <code>genotype=</code> of the models, <code>nas-zoo train</code>, or the "
         "code of DARTS and its relatives.", _side_by_side(runs, lambda run: _texts(run, several))),
        ("operations", "Operations chosen", "Edges of the cells found, epoch by epoch; below, as they are now.",
         _operation_key(runs) + _side_by_side(runs, _chosen)),
        ("alpha", "Softmax of alpha", "A panel an edge, source → node (0 and 1 are the two cells before), epochs to "
         "the right. Named is the operation kept, or the strongest one; a bar above marks edges kept; dashed: all "
         "operations alike. As DA2S, Figure 3, and EDAS, Figure 5.",
         _operation_key(runs) + _side_by_side(runs, _alpha)),
    ]  # fmt: skip
    if any(run.beta for run in runs):
        sources = "".join(_html("li", f"input {i}", class_=f"s{i}") for i in range(5))
        sections.append((
            "beta", "Softmax of beta", "A panel a node: how it weighs its inputs (0 and 1 are the two cells before); "
            "named are the inputs kept. As DA2S, Figure 4.",
            f'<ul class="key">{sources}</ul>{_side_by_side(runs, _beta)}',
        ))  # fmt: skip
    sections += [
        ("entropy", "Entropy", "How far the search has settled: 0 when each edge has one operation.",
         _side_by_side(runs, _entropies)),
        ("settings", "Settings and machine", "", _all_settings(runs) + "<h4>Machine</h4>" + _machine(runs)),
    ]  # fmt: skip
    script = (_HERE / "report.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    links = "".join(f'<a href="#{name}">{words}</a>' for name, words, _, _ in sections)
    version = escape(nas_zoo.__version__)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)} – nas-zoo report</title>\n<style>\n{_style()}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><p class="soft">{escape(words)}</p>'
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n'
        f"{_notices(runs)}{'' if several else _headline(first)}\n"
        + "\n".join(_section(*section) for section in sections)
        + f"\n</main>\n<footer>Written by nas-zoo {version} from the logs of the searches; nothing is loaded from "
        f"elsewhere.</footer>\n<script>{script}</script>\n</body>\n</html>\n"
    )


def write_report(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Writes the page and returns where: by default report.html in the folder of one run, here for several.

    Raises:
        ValueError: For what ``read_runs`` refuses, an output that does not end in .html, a folder that does not exist.
    """
    if output is None:
        output = folders[0] / "report.html" if len(folders) == 1 else Path("report.html")
    if output.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"output {str(output)!r}: a name that ends in .html is accepted")
    text = page(read_runs(folders))
    if not output.parent.is_dir():
        raise ValueError(f"output {str(output)!r}: there is no such folder")
    write_text(output, text)
    return output


@program("nas-zoo report")
def main(argv: list[str] | None = None) -> int:
    """The program: 0, or 2 for a mistake of the user's."""
    parser = Parser(prog="nas-zoo report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_DIR", help="folder of a search")
    parser.add_argument("--output", type=Path, metavar="FILE",
                        help="where to (default: report.html, in the folder of a single run)")  # fmt: skip
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    output = write_report(options.runs, options.output)
    print(output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
