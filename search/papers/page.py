"""The page of an experiment, its table as CSV and JSON, and its figures as SVG files of their own."""

import csv
import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from nas_zoo.models.palette import NUMBER_COLORS
from nas_zoo.runs.facts import published
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.search.papers.experiment import Experiment
from nas_zoo.search.papers.findings import RULE, Column, Findings, Row, mean, verdict
from nas_zoo.search.papers.runs import Job
from nas_zoo.search.papers.scales import CASES, Scale, label
from nas_zoo.search.report.figures import method_style
from nas_zoo.search.report.page import style_sheet
from nas_zoo.text import counted, fill

__all__ = ["Shown", "first_line", "write_pages"]

#: Of the control functions, on light and dark pages.
_CONTROLS = {
    f"control-{name}": pair
    for name, pair in zip(("const", "log", "linear", "exp", "step"), NUMBER_COLORS, strict=False)
}


@dataclass(frozen=True)
class Shown:
    """What a page is of."""

    experiment: Experiment
    scale: Scale
    seeds: int
    findings: Findings
    jobs: Sequence[Job]  # that have finished
    missing: int  # runs that have not
    measured: Mapping[str, Any] | None

    @property
    def verdict(self) -> str:
        return verdict(self.findings.checks, self.scale.name)


def first_line(shown: Shown) -> str:
    """What the paper claims, what we saw, and how far the scale allows a judgement."""
    how_far = {
        "tiny": "tiny shows that everything runs, and allows no judgement",
        "small": "small allows a judgement of directions, of no percent",
        "paper": "the settings are the paper's",
    }[shown.scale.name]
    runs = counted(shown.missing, "run") + (" is" if shown.missing == 1 else " are")
    missing = f" ({runs} still missing)" * bool(shown.missing)
    return (
        f"{shown.experiment.title} claims: {shown.experiment.claim}. We saw: {shown.findings.seen}{missing}. "
        f"Verdict: {shown.verdict}; {how_far}."
    )


def _cell(row: Row, column: Column) -> str:
    values = [column.scale * v for v in row.values.get(column.name, ())]
    if not values:
        return "–"
    text = f"{mean(values):.{column.digits}f}"
    return text + (f" ± {statistics.stdev(values):.{column.digits}f}" if len(values) > 1 else "")


def _table(findings: Findings) -> dict[str, Any]:
    head = [""]
    for column in findings.columns:
        unit = f", {column.unit}" if column.unit else ""
        head += (
            [f"{column.name}{unit}", "paper"]
            if any(column.name in r.paper for r in findings.rows)
            else [f"{column.name}{unit}"]
        )
    rows = []
    for row in findings.rows:
        cells = []
        for column in findings.columns:
            cells.append((_cell(row, column), False))
            if any(column.name in r.paper for r in findings.rows):
                cells.append((row.paper.get(column.name, "") or "–", True))
        rows.append({"name": row.name, "style": row.style, "cells": cells})
    return {"head": head, "rows": rows}


def _csv(findings: Findings) -> str:
    """A line a figure: row, column, unit, mean, standard deviation, n of seeds, each seed's, the paper's."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "column", "unit", "mean", "sd", "seeds", "values", "paper"])
    for row in findings.rows:
        for column in findings.columns:
            values = [column.scale * v for v in row.values.get(column.name, ())]
            paper = row.paper.get(column.name, "")
            if values or paper:
                form = [f"{v:.6g}" for v in values]
                middle = f"{mean(values):.6g}" if values else ""
                spread = f"{statistics.stdev(values):.6g}" if len(values) > 1 else ""
                writer.writerow(
                    [row.name, column.name, column.unit, middle, spread, len(values), " ".join(form), paper]
                )
    return text.getvalue()


def _runs(jobs: Sequence[Job]) -> list[dict[str, Any]]:
    rows = []
    for job in jobs:
        lines = RunLog.read(job.folder)
        first = published(lines[0])
        epochs = [line for line in lines if line["kind"] == "epoch"]
        settings = first["settings"]
        rows.append({
            "name": job.folder.name, "borrowed": job.borrowed, "program": job.program,
            "method": settings.get("method", settings.get("recipe")),
            "seed": settings["seed"], "alpha_lr": settings.get("alpha_lr"),
            "iterations": first["steps_per_epoch"] * (epochs[-1]["epoch"] if epochs else 0),
            "seconds": round(epochs[-1]["seconds"]) if epochs else None, "device": first["device_name"],
            "threads": first["threads"], "processes": first["processes"], "commit": (first.get("commit") or "")[:12],
            "versions": first["versions"], "data": first["data"]["name"],
        })  # fmt: skip
    return rows


def _of_further(experiment: Experiment) -> list[str]:
    """What is to be said of methods that the paper does not have."""
    names = [label(name) for name in experiment.further]
    outside = [name for name in experiment.further if name not in CASES]
    beside = f"Beside the paper's methods, with no part in the verdict: {', '.join(names)}."
    rates = f"Alpha's learning rate is its own setting, whatever the scale, in {', '.join(outside)}."
    return [beside] * bool(names) + [rates] * bool(outside)


def style(methods: Sequence[str] = ()) -> str:
    """The report's style sheet with the colours of these pages; named are methods from outside."""
    light, dark = ("".join(f".{name}{{--c:{pair[i]}}}" for name, pair in _CONTROLS.items()) for i in (0, 1))
    more = (
        "svg .solid{stroke-dasharray:none;stroke-width:2.5;opacity:1}.tiles svg{max-width:160px}.held{font-weight:600}"
    )
    return f"{style_sheet((), methods)}{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n{more}\n"


def _standing_alone(svg: str, sheet: str) -> str:
    """A figure, or several in rows of four, as a file: with the page's rules for figures and its light colours."""
    rules = [sheet[: sheet.index("}") + 1], *re.findall(r"^svg [^{]*\{.*?\}", sheet, re.MULTILINE)]
    used = set(re.findall(r"[\w-]+", " ".join(re.findall(r'class="([^"]*)"', svg))))
    colors: dict[str, str] = {}
    for name, color in re.findall(r"\.([\w-]+)\s*\{\s*--c:\s*([^;}]+)", sheet):
        if name in used:
            colors.setdefault(name, f".{name}{{--c:{color.strip()}}}")  # those of dark pages come later
    text = f"<style>{''.join([*rules, *colors.values()])}</style>"
    parts = re.findall(r"<svg.*?</svg>", svg, re.DOTALL)
    sizes = [tuple(map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', part)[0])) for part in parts]
    wide, high = (max(size[i] for size in sizes) + 10 for i in (0, 1))
    across = min(4, len(parts))
    placed = [
        part.replace("<svg ", f'<svg x="{i % across * wide:g}" y="{i // across * high:g}" width="{size[0]:g}" '
                              f'height="{size[1]:g}" ', 1)
        for i, (part, size) in enumerate(zip(parts, sizes, strict=True))
    ]  # fmt: skip
    box = f"0 0 {across * wide:g} {-(-len(parts) // across) * high:g}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}">{text}{"".join(placed)}</svg>\n'


def write_pages(shown: Shown, folder: Path) -> str:
    """Writes index.html, table.csv, table.json and figure.svg (figure-2.svg ...); returns the page's first line."""
    import nas_zoo

    findings, experiment = shown.findings, shown.experiment
    runs = _runs(shown.jobs)
    line = first_line(shown)
    facts = dict(shown.measured["facts"]) if shown.measured else {}
    devices = sorted({row["device"] for row in runs} | {facts[k] for k in ("device_name",) if k in facts})
    versions = runs[0]["versions"] if runs else facts.get("versions", {"nas-zoo": nas_zoo.__version__})
    methods = [(method_style(name), label(name)) for name in dict.fromkeys([*CASES, *experiment.further])]
    sheet = style(experiment.further)
    asked = [check for check in findings.checks if check.of == "direction" or shown.scale.own]
    text = fill(
        "nas_zoo.search.papers", "page.html.j2", title=experiment.title, name=experiment.name, line=line,
        verdict=shown.verdict, rule=RULE,
        checks=asked, table=_table(findings), notes=[*findings.notes, *_of_further(experiment)],
        pictures=[{"caption": p.caption, "svg": Markup(p.svg), "note": p.note, "tiles": p.svg.count("<svg") > 1,
                   "key": sorted(set(re.findall(r'class="[^"]*?((?:op|input)-\w+)', p.svg)))}
                  for p in findings.pictures],
        methods=methods, runs=runs, scale=shown.scale.name, seeds=counted(shown.seeds, "seed"),
        missing=counted(shown.missing, "run") if shown.missing else "",
        devices=", ".join(devices) or "none needed", versions=", ".join(f"{k} {v}" for k, v in versions.items()),
        style=Markup(sheet), version=nas_zoo.__version__,
    )  # fmt: skip
    write_text(folder / "index.html", text)
    write_text(folder / "table.csv", _csv(findings))
    write_json(folder / "table.json", {
        "experiment": experiment.name, "of": experiment.title, "claim": experiment.claim, "seen": findings.seen,
        "verdict": shown.verdict, "scale": shown.scale.name, "seeds": shown.seeds, "missing": shown.missing,
        "checks": [vars(check) for check in findings.checks],
        "columns": [vars(column) for column in findings.columns],
        "rows": [{"name": r.name, "values": {k: list(v) for k, v in r.values.items()}, "paper": dict(r.paper)}
                 for r in findings.rows],
        "devices": devices, "versions": dict(versions), "runs": [row | {"versions": None} for row in runs],
    })  # fmt: skip
    for number, picture in enumerate(findings.pictures, 1):
        name = "figure.svg" if number == 1 else f"figure-{number}.svg"
        write_text(folder / name, _standing_alone(picture.svg, sheet))
    return f"{line}\n{folder / 'index.html'}"
