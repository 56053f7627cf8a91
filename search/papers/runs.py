"""What an experiment rests on: searches and retrainings in folders that are found by their settings and data.

A folder's name ends in the hash of the settings that differ from the program's defaults (where things lie and how long
they may take aside) and of the images themselves. So experiments share their runs, a finished one is never computed
again, and a setting that is added later at its default makes no other run of it.
"""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nas_zoo.runs.log import RunLog
from nas_zoo.runs.outside import place_of
from nas_zoo.runs.settings import CHANGEABLE, to_dict
from nas_zoo.runs.stop import Reason
from nas_zoo.search.rederive import cells_of_run

__all__ = ["Data", "Job", "Searching", "Store"]


@dataclass(frozen=True)
class Data:
    """Where the images lie, as the programs' flags have it."""

    data: str
    test_data: str | None = None
    data_root: Path | None = None

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of all training and test images and their labels."""
        from nas_zoo.data.fingerprint import fingerprint
        from nas_zoo.data.named import open_parts

        parts = open_parts(self.data, ("train", "test"), root=self.data_root, test_data=self.test_data, stream=True)
        return "".join(fingerprint(parts[name]) for name in ("train", "test"))

    @property
    def words(self) -> list[str]:
        """The flags."""
        return [word for name, value in vars(self).items() if name != "fingerprint" and value is not None
                for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


@dataclass(frozen=True)
class Searching:
    """A search that an experiment needs."""

    method: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Job:
    """One run as any process can do it, begun or gone on with: call it, or hand it to submitit."""

    program: Literal["search", "train"]
    folder: Path
    words: tuple[str, ...] = field(compare=False)  # the folder's name tells all that matters of them
    told: str = field(compare=False, default="")
    borrowed: bool = field(compare=False, default=False)  # a log of a finished run, and perhaps nothing else
    derive: str | None = field(compare=False, default=None)  # the rule that is wanted, where the log's is another

    def __call__(self) -> Reason | None:
        """Why it stopped early; None: it has ended."""
        words = [*self.words, "--out", str(self.folder), "--resume", "auto"]
        if self.program == "search":
            from nas_zoo.search import run as search_program

            search_settings, state = search_program.parse(words)
            return search_program.search(search_settings, state)
        from nas_zoo.train import run as train_program

        train_settings, state = train_program.parse(words)
        return train_program.train(train_settings, state)

    def checkpoint(self) -> Any:
        """What submitit asks of a job that is to be stopped and queued again: the same, which goes on where it was."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    @property
    def begun(self) -> bool:
        return (self.folder / "log.jsonl").exists() and bool(RunLog.read(self.folder))  # killed in its first line

    @property
    def finished(self) -> bool:
        if self.borrowed:
            return True
        if self.program == "train":
            return (self.folder / "result.json").exists()
        if not self.begun:
            return False
        first, *lines = RunLog.read(self.folder)
        done = [line["epoch"] for line in lines if line["kind"] == "epoch"]
        whole = first["settings"]["partial_channels"] > 1 or (self.folder / "derived.safetensors").exists()
        return bool(done) and done[-1] == first["settings"]["epochs"] and whole


class Store:
    """The runs in a folder, and logs of finished searches in other folders that stand in for those that it lacks."""

    def __init__(self, out: Path, data: Data, borrow: Sequence[Path] = ()) -> None:
        self.out, self.data = out, data
        logs = ((path.parent, RunLog.read(path)) for place in borrow for path in sorted(place.rglob("log.jsonl")))
        self._logs = [(folder, lines) for folder, lines in logs if lines]

    def search(self, wanted: Searching) -> Job:
        """The job of a search."""
        from nas_zoo.search.method import code_of, find_method

        settings_class = find_method(wanted.method)[0]
        settings = settings_class(**{**wanted.settings, "method": wanted.method})
        code = code_of(settings)  # a file that has changed makes another run
        differing = {
            **_differing(settings, settings_class()),
            "method": wanted.method,
            **({"code": code} if code else {}),
        }
        words = ("--method", place_of(wanted.method, "method") if code else wanted.method, *_flags(wanted.settings))
        job = self._job("search", re.sub(r"\W+", "-", wanted.method), settings, differing, words)
        if not job.begun:
            for folder, lines in self._logs:
                if lines[0].get("code", {}) == code and _stands_for(
                    lines, to_dict(settings), to_dict(settings_class()), self.data
                ):
                    rule = getattr(settings, "derive", None)
                    other = None if rule == lines[0]["settings"].get("derive") else rule
                    return Job("search", folder, (), job.told, borrowed=True, derive=other)
        return job

    def train(self, settings: Mapping[str, Any], search: Job, rule: str | None = None, epoch: int | None = None) -> Job:
        """The job of training the cells of a finished search, by a rule or number of edges, as after an epoch."""
        from nas_zoo.runs.files import write_json
        from nas_zoo.train.recipes import TrainSettings, settings_of

        genotype, come_from = cells_of_run(search.folder, rule or search.derive, epoch)
        made = settings_of(settings)
        differing = _differing(made, TrainSettings()) | {"genotype": genotype.digest}
        cells = self.out / "runs" / "cells" / f"{genotype.digest}.json"
        if not cells.exists():
            cells.parent.mkdir(parents=True, exist_ok=True)
            write_json(cells, json.loads(genotype.to_json()) | {"provenance": come_from})
        return self._job("train", "train", made, differing, ("--genotype", str(cells), *_flags(settings)))

    def model(self, settings: Mapping[str, Any]) -> Job:
        """The job of training a model of the zoo as it is."""
        from nas_zoo.train.recipes import TrainSettings, settings_of

        made = settings_of(settings)
        return self._job("train", str(settings["model"]), made, _differing(made, TrainSettings()), _flags(settings))

    def measured(self, name: str, settings: Mapping[str, Any]) -> Path:
        """The file of what was measured with these settings, whatever the images."""
        return self.out / "runs" / f"{name}-{_hash(settings)}" / "measured.json"

    def _job(self, program: Any, name: str, settings: Any, differing: Mapping[str, Any], words: Any) -> Job:
        key = _hash({"program": program, "data": self.data.fingerprint, **differing})
        folder = self.out / "runs" / f"{name}-s{settings.seed}-{key}"
        job = Job(program, folder, (*words, *self.data.words), f"{name}, seed {settings.seed}")
        if job.begun:
            _check_same(folder, to_dict(settings))
        return job


def _differing(settings: Any, default: Any) -> dict[str, Any]:
    ours, usual = to_dict(settings), to_dict(default)
    return {name: value for name, value in ours.items() if value != usual[name] and name not in CHANGEABLE}


def _hash(record: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=6).hexdigest()


def _flags(settings: Mapping[str, Any]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def _stands_for(
    lines: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any], default: Mapping[str, Any], data: Data
) -> bool:
    """Whether a log is that of a finished search with these settings on images of that name.

    A setting that the log does not know was at its default. Two settings have no bearing on what is read of it: the
    rule of derivation, since the log has the cells by every rule, and with one process that of BatchNorm's statistics.
    """
    logged = lines[0].get("settings", {})
    if logged.get("method") != wanted["method"] or lines[-1].get("epoch") != logged.get("epochs"):
        return False
    aside = {*CHANGEABLE, "derive", *(["sync_bn"] if lines[0].get("processes") == 1 else [])}
    names = [Path(str(place)).name for place in (lines[0].get("data", {}).get("name"), data.data)]
    had = {**default, **logged}
    had, wanted = ({**one, "edges": one.get("edges") or "8/14"} for one in (had, wanted))  # two a node, written out
    same = all(had.get(name) == wanted[name] for name in wanted.keys() - aside)
    return same and names[0] == names[1]


def _check_same(folder: Path, wanted: Mapping[str, Any]) -> None:
    """ValueError where a setting has another value than the run had: a default that has changed since."""
    logged = RunLog.read(folder)[0]["settings"]
    for name in sorted(logged.keys() & wanted.keys() - {*CHANGEABLE, "genotype"}):
        if logged[name] != wanted[name] and wanted[name] is not None:  # None: whatever the method makes of it
            raise ValueError(
                f"{folder} was run with {name} {logged[name]!r}, which is {wanted[name]!r} by default now: move the "
                "folder away, or give another --out"
            )
