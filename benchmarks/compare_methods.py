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
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nas_zoo.genotype import as_genotype
from nas_zoo.runs.facts import published, published_log
from nas_zoo.runs.log import RunLog
from nas_zoo.search.papers.scales import case_of

ROOT = Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the comparison; image sizes in pixels."""

    image_size: int
    num_cells: int
    init_channels: int
    batch_size: int
    train_limit: int  # images of the search, half of them for the weights
    epochs: int
    train_channels: int  # of the retrained networks, num_cells as in the search
    train_epochs: int
    train_images: int


SCALES = {
    "cpu": Scale(16, 5, 8, 32, 4000, 6, 16, 1, 25000),
    "cpu32": Scale(32, 5, 8, 64, 10000, 8, 16, 3, 50000),
    "gpu": Scale(32, 8, 16, 64, 50000, 50, 36, 100, 50000),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """A method with its settings; how far alpha goes is what ``nas-zoo paper`` has for it."""

    method: str
    flags: tuple[str, ...] = ()
    seed: int = 0
    alpha_way: float | None = None  # another than that: the paper's learning rate of alpha times its steps


DA2S_WAY_256 = 3e-4 * 50 * 97  # PC-DARTS' batch
# What is retrained has 8 of 14 edges in every row that is not named for another number.
TWO_EDGES = ("--derive", "darts")
CASES = {
    "darts": Case("darts"),
    "edas": Case("edas", TWO_EDGES),
    "da2s_e4": Case("da2s", ("--edges", "4/14", "--partial-channels", "1")),
    "da2s_e4_256": Case("da2s", ("--edges", "4/14", "--partial-channels", "1"), alpha_way=DA2S_WAY_256),
    "random": Case("random"),
    "da2s": Case("da2s", ("--edges", "8/14", "--partial-channels", "1")),
    "pc_darts": Case("pc_darts", ("--partial-channels", "4")),
    "alpha_max": Case("alpha_max", TWO_EDGES),
    "edas_warmup": Case("edas", (*TWO_EDGES, "--warmup-epochs", "{warmup}")),
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


def run(command: list[str]) -> None:
    print("$", *command, flush=True)
    subprocess.run([sys.executable, "-m", *command], check=True)


def resumed(folder: Path) -> list[str]:
    return ["--resume"] if (folder / "log.jsonl").exists() else []


def search(name: str, case: Case, scale: Scale, out: Path, data: list[str]) -> Path:
    folder = out / "search" / name
    last = last_epoch(folder)
    if last is None or last["epoch"] < scale.epochs:
        steps = scale.epochs * (scale.train_limit // 2 // scale.batch_size)
        flags = [flag.format(warmup=round(scale.epochs * 10 / 25)) for flag in case.flags]
        paper = case_of(case.method)
        if way := case.alpha_way or paper.alpha_way:
            flags += ["--alpha-lr", f"{way / (steps * paper.active):.4g}"]
        run(["nas_zoo.search.run", "--method", case.method, *data, *resumed(folder), "--out", str(folder),
             "--seed", str(case.seed), "--epochs", str(scale.epochs), "--batch-size", str(scale.batch_size),
             "--num-cells", str(scale.num_cells), "--init-channels", str(scale.init_channels),
             "--image-size", str(scale.image_size), "--train-limit", str(scale.train_limit),
             "--lr", "0.025", "--lr-min", "0.001", "--eval-size", "1000", *flags])  # fmt: skip
    return folder


def retrain(name: str, cells: Path, scale: Scale, out: Path, data: list[str]) -> Path:
    folder = out / "train" / name
    if not (folder / "result.json").exists():
        run(["nas_zoo.train", "--recipe", "quick", "--model", "cell_net_cifar", "--genotype", str(cells), *data,
             *resumed(folder), "--out", str(folder), "--init-channels", str(scale.train_channels), "--num-cells",
             str(scale.num_cells), "--image-size", str(scale.image_size), "--train-limit", str(scale.train_images),
             "--epochs", str(scale.train_epochs), "--warmup-epochs", "0", "--eval-every", "0"])  # fmt: skip
    return folder


def last_epoch(folder: Path) -> dict[str, Any] | None:
    log = folder / "log.jsonl"
    epochs = [line for line in RunLog.read(log) if line["kind"] == "epoch"] if log.exists() else []
    return epochs[-1] if epochs else None


def found_after(gap: dict[str, Any], cells: str, statistics: str) -> float | None:
    return next((row[statistics] for row in gap["after"] if row["cells"] == cells), None)


def row_of(name: str, case: Case, scale_name: str, search_folder: Path, train_folder: Path) -> dict[str, Any]:
    first = RunLog.read(search_folder / "log.jsonl")[0]
    last, result = last_epoch(search_folder), json.loads((train_folder / "result.json").read_text())
    assert last is not None
    gap, settings = last["gap"], first["settings"]
    genotype = as_genotype(str(search_folder / "genotype.json"))
    return {
        "case": name,
        "method": case.method,
        "edges": settings.get("edges") or settings.get("derive", "8/14"),
        "seed": case.seed,
        "scale": scale_name,
        "data": Path(first["data"]["name"]).name,
        "search_images": first["data"]["images"],
        "iterations": first["steps_per_epoch"] * last["epoch"],
        "alpha_lr": settings["alpha_lr"],
        "search_s": last["seconds"],
        "search_gb": last["peak_memory_gb"],
        "held_out_n": last["held_out"]["n"],
        "supernet": gap["before"]["running"],
        "derived": found_after(gap, "found", "running"),
        "derived_argmax": found_after(gap, "argmax", "running"),
        "supernet_reestimated": gap["before"]["reestimated"],
        "derived_reestimated": found_after(gap, "found", "reestimated"),
        "derived_argmax_reestimated": found_after(gap, "argmax", "reestimated"),
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
        case = CASES[name]
        if options.part != "retrain":
            search(name, case, scale, out, data)
        last = last_epoch(out / "search" / name)
        if options.part == "search" or last is None or last["epoch"] < scale.epochs:
            continue
        trained = retrain(name, out / "search" / name / "genotype.json", scale, out, data)
        figures = row_of(name, case, options.scale, out / "search" / name, trained)
        row = {key: "" if value is None else str(value) for key, value in figures.items()}
        rows = [other for other in rows if other["case"] != name] + [row]
        rows.sort(key=lambda row: list(CASES).index(row["case"]))
        kept = results / name
        kept.mkdir(parents=True, exist_ok=True)
        (kept / "log.jsonl").write_text(published_log(RunLog.read(out / "search" / name)))
        cells = json.loads((out / "search" / name / "genotype.json").read_text())
        (kept / "genotype.json").write_text(json.dumps(published(cells), indent=1) + "\n")
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    print(table(rows))


if __name__ == "__main__":
    main()
