"""report.html of a run of `nas-zoo auto`: one page that opens from disk, loads nothing, and says how good it is.

It is written from the files of the run's folder: summary.json, predictions.json, look.json, log.jsonl, genotype.json,
wrong.json (thumbnails of the test pictures that it gets wrong) and, after a comparison, compare.json. Here is worked
out what the page shows; what it says and how it is laid out stands in report.html.j2.
"""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image

from nas_zoo.auto.plan import LEAST_EPOCHS
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import KINDS, load_genotype
from nas_zoo.models.results import standard_error, titles_of_classes
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.search.report import figures
from nas_zoo.search.report.figures import Dot
from nas_zoo.search.report.page import style_sheet
from nas_zoo.text import counted, fill, plain

__all__ = ["page", "verdict", "write_report", "write_wrong"]

MOST_WRONG = 24  # pictures that are shown
_SIDE = 112  # of a thumbnail, in pixels
_MOST_CLASSES = 20  # of a confusion matrix that can be read; of more classes the confusions are listed
_FEW = 500  # test pictures, below which the page says how little they tell
_MISTAKE = "input-3"  # the class in the style sheet, as are these of a row of the comparison
_STYLES = {"found_int8": "input-4", "random": figures.method_style("random"), "catalogue": "input-6",
           "timm": _MISTAKE, "pretrained": "input-1"}  # fmt: skip

Row = dict[str, Any]


# What is said ---------------------------------------------------------------------------------------------------------


def verdict(found: Mapping[str, Any], rival: Mapping[str, Any]) -> str:
    """ "better", "worse" or "as good", of the rival: by more than two standard errors of the difference, or not."""
    difference = rival["top1"] - found["top1"]
    return "as good" if abs(difference) <= _two_errors(found, rival) else "better" if difference > 0 else "worse"


def _two_errors(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return 2 * math.hypot(standard_error(a["top1"], a["n"]), standard_error(b["top1"], b["n"]))


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _ms(value: float) -> str:
    return f"{value:.3g} ms" if value < 100 else f"{value:.0f} ms"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else (
        f"{seconds / 3600:.1f} h"
    )  # fmt: skip


def _against(found: Row, rival: Row) -> str:
    """Both accuracies, with what decides between them."""
    return (
        f"{_percent(rival['top1'])} against {_percent(found['top1'])} of {found['n']:,} test pictures, where two "
        f"standard errors of the difference are {100 * _two_errors(found, rival):.1f} points"
    )


def _told_of_cells(found: Row, rival: Row, limit: float) -> Row:
    """Of a rival with the same width and depth: what the search was worth."""
    chance = rival["kind"] == "random"
    name = "Random cells" if chance else f"The cells {rival['name']} of the catalogue"
    said, takes = verdict(found, rival), rival["measured_latency_ms"]
    over = takes > limit >= found["measured_latency_ms"]
    less = _trained_less(rival)
    nothing = "nothing that chance would not have" if chance else "nothing that the catalogue has not"
    end = {
        ("worse", False): "As far as one seed tells, the search has paid off.",
        ("worse", True): "As far as one seed tells, the search has paid off.",
        ("as good", False): f"In accuracy the search has found {nothing}, as far as these pictures tell.",
        ("as good", True): f"In accuracy the search has found {nothing}; it has kept the limit, which they miss.",
        ("better", False): "The search has not paid off: take those.",
        ("better", True): "But they miss the limit.",
    }[said, over]
    if said == "worse" and less:
        end = less
    words = (
        f"{name} are {said} at the same width and depth: {_against(found, rival)}. They take {_ms(takes)} where those "
        f"found take {_ms(found['measured_latency_ms'])}. {end}"
    )
    return {"bad": said == "better" and not over, "words": words}


def _trained_less(rival: Row) -> str:
    """Where the time budget of the comparison was too small for a fair one, so that "worse" says nothing."""
    if rival["epochs"] >= 0.9 * rival["epochs_wanted"]:
        return ""
    return (
        f"But it had {rival['epochs']} of the {counted(rival['epochs_wanted'], 'epoch')} that would be as long a "
        "training, so this decides nothing: give --compare-budget more."
    )


def _told_of_timm(found: Row, rival: Row, limit: float) -> Row:
    trained = "with its published weights, fine-tuned" if rival["kind"] == "pretrained" else "trained from scratch"
    name, said, figures_ = f"{rival['name']}, {trained},", verdict(found, rival), _against(found, rival)
    takes, limits = rival["measured_latency_ms"], f"the {_ms(limit)} that are allowed"
    over = takes > limit
    faster = takes < found["measured_latency_ms"]
    time = f"It takes {_ms(takes)}, {'more than' if over else 'within'} {limits}"
    if said == "better":
        words = f"{name} is better: {figures_}. {time}{'' if over else ': take it'}."
    elif said == "as good" and faster:
        words = f"{name} is as good and faster: {figures_}. {time}: take it."
    else:
        words = f"{name} is {said}: {figures_}. {time}.{f' {_trained_less(rival)}' if said == 'worse' else ''}".rstrip()
    return {"bad": not over and (said == "better" or (said == "as good" and faster)), "words": words}


def _told(summary: Row, rows: Sequence[Row], left_out: Sequence[str], confusion: Row) -> list[Row]:
    """Sentences that a reader must not miss, in their order."""
    told: list[Row] = []

    def say(words: str, bad: bool = False) -> None:
        told.append({"bad": bad, "words": words})

    measured, limit = summary["measured_latency_ms"], summary["max_latency_ms"]
    if measured > limit:
        over = f"{100 * (measured / limit - 1):.0f} % more"
        say(f"The limit is missed: {_ms(measured)} measured, {_ms(limit)} allowed, {over}.", bad=True)
    elif measured < 0.6 * limit:
        why = ": the time budget, not the limit, has bound its size. More time may give more"
        say(f"It is far below the limit{why if summary.get('bound_by') == 'time' else ''}.")
    if summary["train_epochs"] < LEAST_EPOCHS:
        trained = counted(summary["train_epochs"], "epoch")
        say(
            f"It was trained for {trained} only: these figures say nothing of what can be had with more time.", bad=True
        )
    elif summary["top1"] - 2 * standard_error(summary["top1"], summary["n"]) <= confusion["most"]:
        say("It is no better than always to answer with the most frequent class.", bad=True)
    own = [row for row in rows if row["kind"] in ("found", "found_int8")]
    delivered = [row for row in own if row.get("file") == summary["file"]]
    found = next(iter([*delivered, *own]), None)
    as_float32 = next((row for row in own if row["kind"] == "found"), found)
    if found is None:
        say(
            "This network was compared with nothing, so that it is not known whether the search has paid off. "
            "With --resume --compare it trains random cells, cells of the catalogue and a network of timm, "
            "each in the same time again, and adds them here."
        )
    for row in rows:
        if found is None or row["kind"] in ("found", "found_int8"):
            continue
        told.append(
            _told_of_timm(found, row, limit)
            if row["kind"] in ("timm", "pretrained")
            else _told_of_cells(as_float32 or found, row, limit)  # rivals' cells are there as float32 alone
        )
    for words in left_out:
        say(f"Left out of the comparison: {words}.")
    if found is not None:
        say("Each was trained once, with one seed; another seed moves every figure a little.")
    error = standard_error(summary["top1"], summary["n"])
    if summary["n"] < _FEW:
        say(f"{summary['n']:,} test pictures are few: the standard error of the accuracy is {100 * error:.1f} points.")
    worst = confusion["worst"]
    if worst["right"] < summary["top1"] - 0.1:
        say(f"Weakest is the class {worst['name']}: {_percent(worst['right'])} of its {worst['n']:,} test pictures are "
            "right.")  # fmt: skip
    if busy := summary["measured_on"].get("busy"):
        say(f"About the latencies: {busy}.")
    return told


def _style(kind: str, method: str) -> str:
    """A row's class in the style sheet; what was found has the colour of its search method."""
    return _STYLES.get(kind) or figures.method_style(method)


# What is shown --------------------------------------------------------------------------------------------------------


def _shown_row(row: Row, method: str) -> Row:
    predicted = row.get("predicted_latency_ms")
    return row | {
        "style": _style(row["kind"], method),
        "accuracy": _percent(row["top1"]),
        "error": f"± {100 * standard_error(row['top1'], row['n']):.1f}",
        "balanced": _percent(row["balanced_accuracy"]),
        "latency": _ms(row["measured_latency_ms"]),
        "estimate": "–" if predicted is None else _ms(predicted),
        "size": f"{row['parameters']:,}",
        "training": "–" if row.get("epochs") is None else (
            f"{counted(row['epochs'], 'epoch')}, {_duration(row['train_seconds'])}"
        ),
    }  # fmt: skip


def _dots(summary: Row, rows: Sequence[Row]) -> Markup:
    points = [
        Dot(row["name"], _style(row["kind"], summary["method"]), row["measured_latency_ms"], 100 * row["top1"],
            100 * standard_error(row["top1"], row["n"]))
        for row in rows
    ]  # fmt: skip
    limit = summary["max_latency_ms"]
    title = "Accuracy on the test pictures in percent over measured latency in milliseconds"
    return Markup(figures.dots(title, points, x_name="measured latency, ms", limit=(f"limit {limit:g} ms", limit)))


def _confusion(predictions: Mapping[str, Any], titles: Mapping[str, str]) -> Row:
    """The matrix or, of many classes, the most frequent confusions; and the class that is known worst."""
    classes = [titles[name] for name in predictions["classes"]]
    counts = np.zeros((len(classes), len(classes)), int)
    for _, label, given, _ in predictions["test"]:
        counts[label, given] += 1
    totals, right = counts.sum(1), counts.diagonal()
    known = np.flatnonzero(totals)
    short = all(len(name) <= 3 for name in classes)  # names that a column's head has room for
    worst = int(known[np.argmin(right[known] / totals[known])])
    rows = [
        {
            "number": name if short else str(i + 1), "name": name, "n": int(totals[i]),
            "right": _percent(right[i] / totals[i]) if totals[i] else "–",
            "cells": [
                {"count": int(count), "share": round(float(count / max(1, totals[i])), 3), "right": i == j}
                for j, count in enumerate(counts[i])
            ],
        }
        for i, name in enumerate(classes)
    ]  # fmt: skip
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    pairs.sort(key=lambda pair: (-pair[0], pair[1:]))
    return {
        "rows": rows if len(classes) <= _MOST_CLASSES else None,
        "pairs": [{"count": n, "true": classes[i], "given": classes[j], "n": int(totals[i])} for n, i, j in pairs[:20]],
        "wrong": int(totals.sum() - right.sum()),
        "short": short,
        "most": float(totals.max() / max(1, totals.sum())),
        "worst": {"name": classes[worst], "right": right[worst] / totals[worst], "n": int(totals[worst])},
    }


def _time(lines: Sequence[Mapping[str, Any]], compared: Mapping[str, Any]) -> list[Row]:
    stages = [(line["name"], line["seconds"]) for line in lines if line["kind"] == "stage"]
    stages += [("comparison", compared["seconds"])] if compared else []
    most = max((seconds for _, seconds in stages), default=1.0) or 1.0
    return [{"name": name, "seconds": _duration(s), "width": round(100 * s / most, 1)} for name, s in stages]


def _estimate(rows: Sequence[Row], fit: Mapping[str, Any], method: str) -> Row:
    """Predicted against measured."""
    known = [(row, row["predicted_latency_ms"], row["measured_latency_ms"])
             for row in rows if row["predicted_latency_ms"] is not None]  # fmt: skip
    return {
        "pairs": [
            {"name": row["name"], "style": _style(row["kind"], method), "predicted": _ms(predicted),
             "measured": _ms(measured),
             "off": f"{100 * (predicted / measured - 1):+.1f} %".replace("-", "\N{MINUS SIGN}")}
            for row, predicted, measured in known
        ],
        "fit": fit,
    }  # fmt: skip


def page(folder: Path) -> str:
    """The HTML of a run's folder, the same text for the same files.

    Raises:
        ValueError: A file of the run is not there, or is none.
    """
    import nas_zoo

    summary, predictions, look, wrong = (
        _read(folder / f"{name}.json") for name in ("summary", "predictions", "look", "wrong")
    )
    compared = _read(folder / "compare.json") if (folder / "compare.json").exists() else {}
    lines = RunLog.read(folder)
    stages = {line["name"]: line for line in lines if line["kind"] == "stage"}
    titles = titles_of_classes(predictions["classes"])
    rows, confusion = compared.get("rows", []), _confusion(predictions, titles)
    own = {"kind": "found", "name": "found", "what": summary["file"], **{key: summary[key] for key in (
        "top1", "balanced_accuracy", "n", "measured_latency_ms", "predicted_latency_ms", "parameters")}}  # fmt: skip
    if summary["file"] != "model.onnx":
        own["predicted_latency_ms"] = None  # the estimate is of float32
    genotype = load_genotype(folder / "genotype.json")
    operations = [edge.operation for kind in KINDS for node in genotype.cell(kind).nodes for edge in node]
    names = {"normal": "Normal cell", "reduce": "Reduction cell"}
    limit = summary["max_latency_ms"]
    return fill(
        "nas_zoo.auto", "report.html.j2",
        style=Markup(style_sheet(operations, [summary["method"]])), version=nas_zoo.__version__,
        summary=summary, data=look["data"], titles=titles,
        accuracy=_percent(summary["top1"]), balanced=_percent(summary["balanced_accuracy"]),
        error=f"{100 * standard_error(summary['top1'], summary['n']):.1f}",
        latency=_ms(summary["measured_latency_ms"]), limit=_ms(limit),
        spare=f"{100 * abs(1 - summary['measured_latency_ms'] / limit):.0f} %",
        within=summary["measured_latency_ms"] <= limit,
        seconds=_duration(summary["seconds"]), budget=_duration(summary["time_budget"]),
        told=_told(summary, rows, compared.get("left_out", []), confusion),
        dots=_dots(summary, rows or [own]),
        rows=[_shown_row(row, summary["method"]) for row in rows or [own]],
        compared=compared, compare_budget=_duration(compared["budget"]) if compared else "",
        compare_seconds=_duration(compared["seconds"]) if compared else "",
        confusion=confusion, own=_style("found", summary["method"]), mistake=_MISTAKE,
        estimate=_estimate(rows or [own], stages.get("table", {}).get("result", {}), summary["method"]),
        time=_time(lines, compared), look=look,
        wrong=[one | {key: titles.get(one[key], one[key]) for key in ("true", "given")} for one in wrong["pictures"]],
        cells=[{"title": names[kind], "svg": Markup(figures.cell_rails(names[kind], genotype.cell(kind)))}
               for kind in KINDS],
        links=[(path, words) for path, words in (
            ("page/index.html", "the page that runs the network"), ("search/report.html", "the page of its search"),
            ("README.md", "its card"), (summary["file"], "the ONNX file"),
        ) if (folder / path).exists()],
    )  # fmt: skip


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ValueError(f"{str(path)!r}: {error.strerror or error}; `nas-zoo auto` writes it") from None
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is none that `nas-zoo auto` wrote ({error})") from None


def write_report(folder: Path) -> Path:
    """Writes report.html of a run's folder; ValueError as of ``page``."""
    write_text(folder / "report.html", page(folder))
    return folder / "report.html"


# Pictures that it gets wrong ------------------------------------------------------------------------------------------


def write_wrong(folder: Path, source: ImageSource) -> Path:
    """wrong.json: the pictures that it is surest of and wrong about, at most 24, as data URIs; a row each.

    Args:
        folder: With predictions.json.
        source: The test pictures, in the order of the predictions.
    """
    predictions = _read(folder / "predictions.json")
    classes, wrong = predictions["classes"], []
    rows = [(i, *row) for i, row in enumerate(predictions["test"]) if row[1] != row[2]]
    for i, name, label, given, probability in sorted(rows, key=lambda row: (-row[4], row[0]))[:MOST_WRONG]:
        pixels = source.image(i)
        wrong.append({"name": plain(name), "true": classes[label], "given": classes[given], "probability": probability,
                      "small": max(pixels.shape[:2]) < _SIDE, "uri": _thumbnail(pixels)})  # fmt: skip
    write_json(folder / "wrong.json", {"pictures": wrong})
    return folder / "wrong.json"


def _thumbnail(pixels: np.ndarray) -> str:
    """Small pictures as they are (PNG), larger ones made smaller (JPEG)."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    held, form = io.BytesIO(), "png"
    if max(picture.size) > _SIDE:
        picture.thumbnail((_SIDE, _SIDE))
        form = "jpeg"
    picture.save(held, form, **({"quality": 80} if form == "jpeg" else {"optimize": True}))
    return f"data:image/{form};base64,{base64.b64encode(held.getvalue()).decode()}"
