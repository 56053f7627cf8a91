"""The papers' tables and figures, one command each: runs, table, figure, page and a verdict by a stated rule.

    nas-zoo paper list
    nas-zoo paper edas-figure-3 --scale tiny --out runs/papers
    nas-zoo paper da2s-table-4 da2s-figures-3-4 --scale small --seeds 2 --data TRAIN.tar.xz --test-data TEST.tar.xz
    nas-zoo paper da2s-table-4 --scale small --seeds 2 --resume
    nas-zoo paper edas-table-2 --scale paper --launcher slurm --partition gpu --hours 48
    nas-zoo paper edas-figure-3 --scale small --page          # of what has finished, running nothing
    nas-zoo paper edas-figure-3 --method gdas my_method.py:MyMethod     # further methods beside the paper's

OUT/runs holds every search and retraining in a folder that is found by the hash of its settings and data: experiments
share them, a finished one is never computed again, and one that was stopped goes on with --resume. OUT/SCALE/NAME holds
index.html, table.csv, table.json and figure.svg; OUT/logs the logs of the runs without folders of this machine, so that
OUT but for OUT/runs may be published. Scale tiny takes a minute or so on digits and shows that all of it runs; small is
some 4,000 images, 5 cells of 8 channels and a few hundred iterations; paper the papers' own settings.

Started with torchrun or accelerate launch, each run has all processes. Where there are several devices and submitit is
installed (pip install 'nas-zoo[cluster]'), each has its share of the runs (--launcher local). On Slurm a run is a job
(--launcher slurm); one that is queued again goes on.
"""

import argparse
import importlib.util
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.ending import program, stopped
from nas_zoo.runs.facts import published_log
from nas_zoo.runs.files import write_json, write_text
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import Parser, whole
from nas_zoo.runs.stop import Reason
from nas_zoo.search.papers.experiment import Experiment, Results, marks
from nas_zoo.search.papers.experiments import EXPERIMENTS
from nas_zoo.search.papers.launch import LAUNCHERS, Launcher
from nas_zoo.search.papers.page import Shown, write_pages
from nas_zoo.search.papers.runs import Data, Job, Store
from nas_zoo.search.papers.scales import CASES, SCALES, Scale, case_of, label, retraining, searching
from nas_zoo.search.report.history import GAP_FILE, Run, read_run
from nas_zoo.text import near_names

__all__ = ["Plan", "main", "run_experiment"]


class Plan:
    """The runs of an experiment at a scale, for so many seeds."""

    def __init__(self, experiment: Experiment, scale: Scale, seeds: int, store: Store) -> None:
        self.experiment, self.scale, self.seeds, self.store = experiment, scale, seeds, store
        self.searches: dict[str, list[Job]] = {}
        for name, wanted in experiment.searches.items():
            place = self._store(name)
            if place is not store and not scale.own:
                continue  # our scales have one data set
            more = dict(wanted.own) | ({"epochs": scale.long_epochs} if wanted.long else {})
            self.searches[name] = [place.search(searching(wanted.case, scale, seed, **more)) for seed in range(seeds)]

    def _store(self, name: str) -> Store:
        """Of a search: that of the images given, or of the data set that it must have."""
        data, given = self.experiment.searches[name].data, self.store.data
        return (
            self.store if data in (None, given.data) else Store(self.store.out, Data(str(data), None, given.data_root))
        )

    def trains(self) -> dict[tuple[str, str | None, int | None], list[Job]]:
        """Retrainings of the searches that have finished."""
        recipe = retraining(self.scale, self.experiment.paper)
        return {
            (name, rule, mark): [
                self._store(name).train(
                    recipe | {"seed": seed}, search, rule, None if mark is None else marks(self.scale)[mark]
                )
                for seed, search in enumerate(self.searches[name])
                if search.finished
            ]
            for name, rule, mark in self.experiment.trains
            if name in self.searches
        }

    def missing(self, trains: Mapping[Any, Sequence[Job]], models: Mapping[Any, Sequence[Job]]) -> int:
        """How many runs have not finished, those of cells that are not known yet with them."""
        done = sum(job.finished for jobs in trains.values() for job in jobs)
        unfinished = [job for job in (*_listed(self.searches), *_listed(models)) if not job.finished]
        return len(unfinished) + self.seeds * len(trains) - done

    def models(self) -> dict[str, list[Job]]:
        """Trainings of models of the zoo: at scale paper alone."""
        if not self.scale.own:
            return {}
        return {
            name: [self.store.model({"model": name, "recipe": recipe, "seed": seed}) for seed in range(self.seeds)]
            for name, recipe in self.experiment.models.items()
        }


def _listed(jobs: Mapping[Any, Sequence[Job]]) -> list[Job]:
    """Seed by seed, so that a table is whole for one before the next begins."""
    most = max(map(len, jobs.values()), default=0)
    return [row[seed] for seed in range(most) for row in jobs.values() if seed < len(row)]


def _read(job: Job, label: str) -> Run:
    run = read_run(job.folder, label)
    return run if job.derive is None else run.derived_by(job.derive)


def run_experiment(plan: Plan, launcher: Launcher, page_only: bool = False) -> Reason | None:
    """Runs what has not finished and writes the pages; returns why it was stopped (None: it was not)."""
    experiment, store = plan.experiment, plan.store
    accelerator = start_accelerator()
    if not page_only:
        for jobs in (lambda: _listed(plan.searches), lambda: _listed(plan.trains()), lambda: _listed(plan.models())):
            if (reason := launcher.run(jobs())) is not None:
                return reason
            accelerator.wait_for_everyone()  # until the first process has written what says that a run has finished
    for name, edges in experiment.gaps.items():
        for job in plan.searches[name]:
            if job.finished and not job.borrowed and not page_only:
                _measure_gap(job, edges, store.data)
    measured = _measured(experiment, plan.scale, store, page_only) if experiment.memory else None
    accelerator.wait_for_everyone()
    if not accelerator.is_main_process:
        return None
    runs = {
        name: [_read(job, f"{name}, seed {seed}") for seed, job in enumerate(jobs) if job.finished]
        for name, jobs in plan.searches.items()
    }
    trains, models = plan.trains(), plan.models()
    results = Results(plan.scale, runs, _ended(trains), measured, _ended(models), experiment.further)
    finished = [
        job for job in dict.fromkeys([*_listed(plan.searches), *_listed(trains), *_listed(models)]) if job.finished
    ]
    for job in finished:
        if job.borrowed:
            continue  # its log is published where it lies
        text = published_log(RunLog.read(job.folder))
        if job.program == "search":  # a folder of its own, as --borrow and nas-zoo genotype take it
            write_text(_made(store.out / "logs" / job.folder.name) / "log.jsonl", text)
            if (job.folder / GAP_FILE).exists():  # what it was cut to is measured with weights that no log has
                write_text(store.out / "logs" / job.folder.name / GAP_FILE, (job.folder / GAP_FILE).read_text("utf-8"))
        else:
            write_text(_made(store.out / "logs") / f"{job.folder.name}.jsonl", text)
    folder = _made(store.out / plan.scale.name / experiment.name)
    shown = Shown(experiment, plan.scale, plan.seeds, experiment.examine(results), finished,
                  plan.missing(trains, models), measured)  # fmt: skip
    print(write_pages(shown, folder), flush=True)
    return None


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _ended(jobs: Mapping[Any, Sequence[Job]]) -> dict[Any, list[dict[str, Any]]]:
    return {
        key: [json.loads((job.folder / "result.json").read_text("utf-8")) for job in row if job.finished]
        for key, row in jobs.items()
    }


def _measure_gap(job: Job, edges: Sequence[str], data: Data) -> None:
    """gap.json of a finished search for these numbers of edges, measured once."""
    path = job.folder / GAP_FILE
    known = {row["cells"] for row in json.loads(path.read_text("utf-8"))["after"]} if path.exists() else set()
    if not set(edges) <= known:
        from nas_zoo.search.gap import measure

        gap = measure(job.folder, list(edges), data.data, data.data_root, test_data=data.test_data)
        write_json(path, gap)


def _measured(experiment: Experiment, scale: Scale, store: Store, page_only: bool) -> dict[str, Any] | None:
    from nas_zoo.search.method import METHODS

    least = scale.memory_cells[0]
    networks = {f"{label(name)}, {cells} cells": (name, cells)
                for cells in scale.memory_cells for name in experiment.memory}  # fmt: skip
    others = dict.fromkeys([*METHODS, *(case_of(name).method for name in experiment.further)])
    networks |= {f"{label(name)}, {least} cells": (name, least) for name in others}
    path = store.measured("memory", {"networks": networks, "size": scale.memory_size})
    if not path.exists() and not page_only:
        from nas_zoo.search.papers.measure import measure_iterations

        small = scale.name == "tiny"
        found = measure_iterations(networks, scale.memory_size, **({"rounds": 1, "each": 1} if small else {}))
        for name, (method, _) in networks.items():
            found["networks"][name]["method"] = method
        write_json(_made(path.parent) / path.name, found)
    return json.loads(path.read_text("utf-8")) if path.exists() else None


def _list(as_json: bool) -> None:
    rows = [{"name": e.name, "of": e.title, "claim": e.claim} for e in EXPERIMENTS.values()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    widths = [max(len(row[key]) for row in rows) for key in ("name", "of")]
    for row in rows:
        print(f"{row['name']:<{widths[0]}}  {row['of']:<{widths[1]}}  {row['claim']}")


def _beside(experiments: Sequence[Experiment], texts: Sequence[str], every: bool) -> list[Experiment]:
    """The experiments with the methods that `texts` name; `every`: where it compares methods, else all must."""
    from nas_zoo.search.method import find_method, load_method

    methods = [text if text in CASES else load_method(text) for text in texts]
    for name in methods:
        find_method(case_of(name).method)
    for experiment in experiments:
        if methods and experiment.like is None and not every:
            comparing = ", ".join(e.name for e in EXPERIMENTS.values() if e.like)
            raise ValueError(f"--method: {experiment.name} compares no methods; those that do are {comparing}")
    return [experiment.beside(methods) if experiment.like else experiment for experiment in experiments]


def _launcher(options: argparse.Namespace) -> Launcher:
    import torch

    devices = max(1, torch.cuda.device_count())
    name = options.launcher
    if name is None:
        side_by_side = devices > 1 and importlib.util.find_spec("submitit") is not None
        name = "local" if side_by_side else "here"
        if devices > 1 and not side_by_side:
            print(
                f"one run after another: pip install 'nas-zoo[cluster]' runs them on all {devices} devices", flush=True
            )
    return Launcher(name, options.out / "jobs", devices, options.partition, options.hours, options.gpus)


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo paper", description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="experiments, `all` of them, or `list` to see them")
    parser.add_argument("--method", nargs="+", default=[], metavar="NAME",
                        help="further methods where methods are compared: FILE.py:CLASS, or one of nas-zoo's; the "
                        "verdict is on the paper's all the same")  # fmt: skip
    parser.add_argument("--scale", choices=SCALES, default="tiny", help="how large (default: tiny)")
    parser.add_argument("--seeds", type=whole(1), default=1, help="runs of each, with seeds 0, 1 ... (default: 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/papers"), help="folder (default: runs/papers)")
    parser.add_argument("--resume", action="store_true", help="go on with runs that were stopped")
    parser.add_argument("--page", action="store_true", help="run nothing: pages of what has finished")
    parser.add_argument("--data", help="images (default: digits for tiny, else cifar10)")
    parser.add_argument("--test-data", help="their test images, where the data set has none of its own")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10 and cifar100")
    parser.add_argument("--borrow", type=Path, nargs="+", default=[], metavar="DIR",
                        help="folders with logs of finished searches, which stand in for those with the same settings "
                        "and name of the images")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="of list: as JSON")
    parser.add_argument("--launcher", choices=LAUNCHERS, help="here: one run after another; local: each device has its "
                        "share; slurm: a job a run (default: local where there are several devices)")  # fmt: skip
    parser.add_argument("--partition", help="of slurm's jobs")
    parser.add_argument("--hours", type=float, default=24.0, help="time of a job of slurm's (default: 24)")
    parser.add_argument("--gpus", type=whole(0), default=1, help="GPUs of a job of slurm's (default: 1)")
    return parser


@program("nas-zoo paper")
def main(argv: list[str] | None = None) -> int:
    """The program: 0, 2 for a mistake of the user's, 128 + n for signal n."""
    words = sys.argv[1:] if argv is None else argv
    options = make_parser().parse_args(words)
    if "list" in options.names:
        if options.names != ["list"]:
            raise ValueError("`list` shows the experiments and stands alone")
        _list(options.json)
        return 0
    every = "all" in options.names
    names = list(EXPERIMENTS) if every else list(dict.fromkeys(options.names))
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(
                f"there is no experiment {name!r}{near_names(name, EXPERIMENTS)}; `nas-zoo paper list` shows them: "
                f"{', '.join(EXPERIMENTS)}"
            )
    if not options.hours > 0:
        raise ValueError(f"--hours must be more than 0, got {options.hours}")
    experiments = _beside([EXPERIMENTS[name] for name in names], options.method, every)
    scale = SCALES[options.scale]
    data = Data(options.data or scale.data, options.test_data, options.data_root)
    for folder in options.borrow:
        if not folder.is_dir():
            raise ValueError(f"--borrow {folder}: there is no such folder")
    store = Store(options.out, data, options.borrow)
    plans = [Plan(experiment, scale, options.seeds, store) for experiment in experiments]
    if not (options.resume or options.page):
        for plan in plans:
            for job in _listed(plan.searches):
                if job.begun and not job.finished:
                    raise ValueError(f"{job.folder} holds a run that has not finished; --resume goes on with it")
    launcher = _launcher(options)
    for plan in plans:
        if (reason := run_experiment(plan, launcher, options.page)) is not None:
            again = [*words, *([] if options.resume else ["--resume"])]
            return stopped(reason, shlex.join(["nas-zoo", "paper", *again]))
    return 0
