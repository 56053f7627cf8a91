"""One comparison of the search methods: the same images, split, seed, depth, iterations and retraining for all.

    python benchmarks/compare_methods.py --scale cpu --data train.tar.xz --test-data test.tar.xz
    python benchmarks/compare_methods.py --scale gpu --data cifar10 --only darts edas da2s_e4
    python benchmarks/compare_methods.py --scale cpu --table       # what there is so far, as Markdown

Each method searches (``search/run.py``), its cells are retrained from scratch (``nas_zoo.train``, recipe quick, the
scale's budget), and a row goes to ``search/results/comparison_<scale>.csv``; log and cells of the search go to
``search/results/comparison_<scale>/``. What is finished is kept and what was stopped is gone on with, so the program
may be started again and again. Nothing is chosen by the test images: they give the last column alone.

A short search cannot move the architecture parameters as far as the paper's: Adam moves each by about its learning rate
a step. So every method's learning rate is the paper's times the paper's steps over ours (for EDAS: steps of an edge),
which gives each the way that its authors gave it. All share one optimizer of the weights (DARTS': SGD, 0.025 falling to
0.001), and the supernet without partial channels; PC-DARTS, whose point they are, has its K = 4.
"""

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nas_zoo.genotype import as_genotype
from nas_zoo.models.table import in_csv
from nas_zoo.runs.facts import published, published_log
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.search.papers.scales import SCALES as PAPERS
from nas_zoo.search.papers.scales import Scale, searching

ROOT = Path(__file__).resolve().parents[1]

SMALL = PAPERS["small"]
SCALES = {
    "cpu": Scale("cpu", SMALL.search, {**SMALL.train, "train_limit": 25000}),
    "cpu32": Scale(
        "cpu32",
        {**SMALL.search, "image_size": 32, "batch_size": 64, "train_limit": 10000, "epochs": 8},
        {**SMALL.train, "image_size": 32, "train_limit": 50000, "epochs": 3},
    ),
    "gpu": Scale(
        "gpu",
        {**SMALL.search, "image_size": 32, "num_cells": 8, "init_channels": 16, "batch_size": 64, "train_limit": 50000,
         "epochs": 50},
        {**SMALL.train, "image_size": 32, "num_cells": 8, "init_channels": 36, "train_limit": 50000, "epochs": 100},
    ),
}  # fmt: skip


class Case(NamedTuple):
    """A search of ``nas-zoo paper``, which knows how far its alpha goes, with settings of its own."""

    paper: str
    own: Mapping[str, Any] = MappingProxyType({})
    seed: int = 0
    alpha_way: float | None = None  # another than that: the paper's learning rate of alpha times its steps


DA2S_WAY_256 = 3e-4 * 50 * 97  # PC-DARTS' batch
# What is retrained has 8 of 14 edges in every row that is not named for another number.
TWO_EDGES = {"derive": "darts"}
CASES = {
    "darts": Case("darts"),
    "edas": Case("edas", TWO_EDGES),
    "da2s_e4": Case("da2s", {"edges": "4/14"}),
    "da2s_e4_256": Case("da2s", {"edges": "4/14"}, alpha_way=DA2S_WAY_256),
    "random": Case("random"),
    "da2s": Case("da2s", {"edges": "8/14"}),
    "pc_darts": Case("pc_darts"),
    "alpha_max": Case("alpha_max", TWO_EDGES),
    "edas_warmup": Case("edas_warmup", TWO_EDGES),
    "gdas": Case("gdas"),
    "drnas": Case("drnas"),
    "fairdarts": Case("fairdarts"),
    "edas_settled": Case("edas_settled", TWO_EDGES),
    "gdas_seed1": Case("gdas", seed=1),
    "drnas_seed1": Case("drnas", seed=1),
    "fairdarts_seed1": Case("fairdarts", seed=1),
    "edas_settled_seed1": Case("edas_settled", TWO_EDGES, seed=1),
    "random_seed1": Case("random", seed=1),
    "random_seed2": Case("random", seed=2),
}


def run(module: str, settings: Mapping[str, Any], *words: str) -> None:
    """A program in a process of its own, since its peak memory is told; it goes on with what was stopped."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    command = [module, *flags, *words, "--resume", "auto"]
    print("$", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def settings_of(case: Case, scale: Scale) -> dict[str, Any]:
    """Of the case's search."""
    wanted = searching(case.paper, scale, case.seed, **case.own)
    settings = {"method": wanted.method, **wanted.settings}
    if case.alpha_way:
        steps = settings["epochs"] * (settings["train_limit"] // 2 // settings["batch_size"])
        settings["alpha_lr"] = float(f"{case.alpha_way / steps:.4g}")
    return settings


def last_epoch(folder: Path) -> dict[str, Any]:
    """The line of a search's last epoch so far; epoch 0 before there is one."""
    log = folder / "log.jsonl"
    epochs = [line for line in RunLog.read(log) if line["kind"] == "epoch"] if log.exists() else []
    return epochs[-1] if epochs else {"epoch": 0}


def found_after(gap: dict[str, Any], cells: str, statistics: str) -> float | None:
    return next((row[statistics] for row in gap["after"] if row["cells"] == cells), None)


def row_of(name: str, scale_name: str, search_folder: Path, train_folder: Path) -> dict[str, Any]:
    first = RunLog.read(search_folder / "log.jsonl")[0]
    last, result = last_epoch(search_folder), json.loads((train_folder / "result.json").read_text())
    gap, settings = last["gap"], first["settings"]
    genotype = as_genotype(str(search_folder / "genotype.json"))
    accuracies = {
        f"{what}{end}": gap["before"][statistics] if cells is None else found_after(gap, cells, statistics)
        for statistics, end in (("running", ""), ("reestimated", "_reestimated"))
        for what, cells in (("supernet", None), ("derived", "found"), ("derived_argmax", "argmax"))
    }
    return {
        "case": name,
        "method": settings["method"],
        "edges": settings.get("edges") or settings.get("derive", "8/14"),
        "seed": settings["seed"],
        "scale": scale_name,
        "data": Path(first["data"]["name"]).name,
        "search_images": first["data"]["images"],
        "iterations": first["steps_per_epoch"] * last["epoch"],
        "alpha_lr": settings["alpha_lr"],
        "search_s": last["seconds"],
        "search_gb": last["peak_memory_gb"],
        "held_out_n": last["held_out"]["n"],
        **accuracies,
        "entropy_normal": last["entropy"]["normal"],
        "entropy_reduce": last["entropy"]["reduce"],
        "genotype": genotype.digest,
        "num_edges": sum(len(edges) for edges in genotype.normal.nodes),
        "skips_normal": genotype.histogram()["normal"].get("skip_connect", 0),
        "retrained_params": result["parameters"],
        "retrained_epochs": result["epochs"],
        "retrained_top1": result["top1"],
        "test_n": result["n"],
        "retrained_s": result["seconds"],
        "device": first["device_name"],
        "threads": first["threads"],
        "torch": first["versions"]["torch"],
        "nas_zoo": first["versions"]["nas-zoo"],
        "commit": first["commit"],
    }


def table(rows: list[dict[str, str]]) -> str:
    """The rows as Markdown: percent, seconds, GB."""

    def percent(value: str) -> str:
        return "-" if value == "" else f"{100 * float(value):.1f}"

    lines = [
        "| method | search s | GB | supernet → derived | re-estimated | → argmax | retrained |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['case']} | {float(row['search_s']):.0f} | {float(row['search_gb']):.2f} "
            f"| {percent(row['supernet'])} → {percent(row['derived'])} "
            f"| {percent(row['supernet_reestimated'])} → {percent(row['derived_reestimated'])} "
            f"| {percent(row['derived_argmax'])} | {percent(row['retrained_top1'])} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", choices=SCALES, default="cpu")
    parser.add_argument("--data", default="cifar10", help="training images, as `nas-zoo search --data` takes them")
    parser.add_argument("--test-data", help="test images, where the data set has none of its own")
    parser.add_argument("--out", type=Path, help="folder of the runs; default: runs/comparison_<scale>")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE",
                        help=f"some of {', '.join(CASES)}")  # fmt: skip
    parser.add_argument("--part", choices=("all", "search", "retrain"), default="all",
                        help="retrain: only cases whose search is finished")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="print the results there are, and do nothing else")
    options = parser.parse_args()
    scale = SCALES[options.scale]
    results = ROOT / "search" / "results" / f"comparison_{options.scale}"
    path = results.with_suffix(".csv")
    rows: list[dict[str, Any]] = list(csv.DictReader(path.open())) if path.exists() else []
    if options.table:
        print(table(rows))
        return
    out = options.out or Path("runs") / f"comparison_{options.scale}"
    data = ["--data", options.data, *(["--test-data", options.test_data] if options.test_data else [])]
    for name in options.only:
        searched, trained = out / "search" / name, out / "train" / name
        if options.part != "retrain" and last_epoch(searched)["epoch"] < scale.search["epochs"]:
            run("nas_zoo.search.run", settings_of(CASES[name], scale), *data, "--out", str(searched))
        if options.part == "search" or last_epoch(searched)["epoch"] < scale.search["epochs"]:
            continue
        if not (trained / "result.json").exists():
            cells = {"genotype": searched / "genotype.json"}
            run("nas_zoo.train", {**scale.train, **cells}, *data, "--out", str(trained))
        figures = row_of(name, options.scale, searched, trained)
        row = {key: "" if value is None else str(value) for key, value in figures.items()}
        rows = [other for other in rows if other["case"] != name] + [row]
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        kept = results / name
        kept.mkdir(parents=True, exist_ok=True)
        write_text(kept / "log.jsonl", published_log(RunLog.read(searched)))
        write_json(kept / "genotype.json", published(json.loads((searched / "genotype.json").read_text())))
        write_text(path, in_csv(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
