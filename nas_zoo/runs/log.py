"""log.jsonl and events.jsonl of a run, and what a run's folder holds to go on with."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.files import json_value, read_bytes
from nas_zoo.runs.settings import CHANGEABLE, resumed_settings

__all__ = ["RunLog", "run_to_resume", "settings_to_resume", "unkept"]

S = TypeVar("S")

#: Lists and objects in each other that a line of a log may have; ours have eight at most.
MOST_NESTED = 100
_BRACKETS = re.compile(rb'"(?:[^"\\]|\\.)*"|[][{}]')


def _depth(line: bytes) -> int:
    """How deeply lists and objects lie in each other, brackets in texts not counted."""
    steps = (1 if found in b"[{" else -1 for found in _BRACKETS.findall(line) if len(found) == 1)
    return max(itertools.accumulate(steps), default=0)


class RunLog:
    """log.jsonl of a run: a first line of kind "run" (facts, settings), then one line of kind "epoch" for each epoch.

        log = RunLog(folder, writes=accelerator.is_main_process)
        log.start(to_dict(settings), run_facts(device), seed=settings.seed)      # a new run
        log.take_up(state["log_lines"], state["settings"], changeable=("out",))   # a resumed one
        log.append({"epoch": 3, "loss": 0.7, "seconds": 12.0})
        save_checkpoint(..., {"log_lines": log.num_lines, ...})

    The file holds nothing of a stop and a resume, so it equals that of the run that never stopped (but for seconds);
    such things go to events.jsonl with event(). Every line is on disk when the call returns. A last line that a killed
    process left half-written does not count and is cut off by the next write. NaN and infinity are written as null.
    """

    def __init__(self, folder: Path | str, *, writes: bool = True) -> None:
        self.path = Path(folder) / "log.jsonl"
        self.events_path = Path(folder) / "events.jsonl"
        self.writes = writes

    def start(
        self, settings: Mapping[str, Any], facts: Mapping[str, Any], *, overwrite: bool = False, **more: Any
    ) -> None:
        """Writes the first line. ValueError if the folder holds the log of a run already, unless overwrite is set."""
        if not self.writes:
            return
        if self.num_lines and not overwrite:
            raise ValueError(f"{self.path} holds the log of a run already: resume it or take another folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        _append_line(self.path, {"kind": "run", **facts, "settings": dict(settings), **more})

    def append(self, record: Mapping[str, Any]) -> None:
        """One line; kind is "epoch" unless the record says otherwise."""
        if self.writes:
            _append_line(self.path, {"kind": "epoch", **record})

    def event(self, kind: str, **more: Any) -> None:
        """One line in events.jsonl with the time of day (UTC): started, resumed, stopped and why."""
        if self.writes:
            self.events_path.parent.mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            _append_line(self.events_path, {"kind": kind, "time": now, **more})

    @property
    def num_lines(self) -> int:
        """Complete lines in log.jsonl, the first one included; 0 if there is no file."""
        return len(_line_ends(self.path))

    def take_up(self, num_lines: int, settings: Mapping[str, Any], *, changeable: Iterable[str] = ()) -> None:
        """Keeps the first num_lines lines: what was logged after the checkpoint is going to be logged again.

        ValueError, and nothing is cut, where the log is not that of the checkpoint's run: too short, or of other
        `settings` (those that are `changeable` aside).
        """
        if not self.writes:
            return
        ends = _line_ends(self.path)
        if not 1 <= num_lines <= len(ends):
            raise ValueError(
                f"{self.path} has {len(ends)} whole lines, but the checkpoint was made after {num_lines}; a run goes "
                "on only with its own log.jsonl, so put that back"
            )
        logged = _settings_in(self.path)
        for name in sorted(logged.keys() & settings.keys() - set(changeable)):
            if logged[name] != settings[name]:
                raise ValueError(
                    f"{self.path} is the log of another run: {name} is {logged[name]!r} there, in the checkpoint "
                    f"{settings[name]!r}"
                )
        with open(self.path, "rb+") as file:
            file.truncate(ends[num_lines - 1])
            os.fsync(file.fileno())

    @staticmethod
    def read(path: Path | str) -> list[dict[str, Any]]:
        """The lines of a log (the file or its folder) without a half-written last one. ValueError names a bad line."""
        path = Path(path)
        if path.is_dir():
            path = path / "log.jsonl"
        try:
            lines = read_bytes(path).split(b"\n")[:-1]  # behind the last newline: nothing, or half a line
        except OSError as error:
            raise ValueError(f"log {path}: cannot be read: {error.strerror}") from None
        records = []
        for number, line in enumerate(lines, 1):
            if _depth(line) > MOST_NESTED:  # how deep Python itself goes is a setting that libraries change
                raise ValueError(f"log {path}, line {number}: is nested too deeply")
            try:
                record = json.loads(line)
            except ValueError:
                raise ValueError(f"log {path}, line {number}: is no JSON") from None
            if not isinstance(record, dict):
                raise ValueError(f"log {path}, line {number}: is no JSON object")
            records.append(record)
        return records


def run_to_resume(out: Path, resume: str | None, kind: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What there is to go on with: the run's settings and the contents of its checkpoint, each None where it has none.

    Args:
        out: Folder of the run.
        resume: None: a new run is wanted; "": that of the folder is to go on; "auto": so if there is one, else a new
            one; else the checkpoint to go on from.
        kind: Of checkpoint.

    A run that was killed before its first checkpoint has settings in its log, and begins again with them.

    Raises:
        ValueError: A new run where one is already, nothing to resume, a checkpoint that cannot be read, no checkpoint
            and no settings in the log either, or epochs in it that a new beginning would lose.
    """
    if resume == "auto":  # without a whole line in its log and a checkpoint nothing has been begun
        resume = "" if (out / "checkpoint.pt").exists() or RunLog(out).num_lines else None
        if resume is None:
            return None, None
    log, checkpoint = out / "log.jsonl", Path(resume or out / "checkpoint.pt")
    if resume is None:
        if log.exists() or checkpoint.exists():
            raise ValueError(f"{out} holds a run already; --resume continues it, another --out starts one")
        return None, None
    if resume or checkpoint.exists():
        state = load_checkpoint(checkpoint, kind)
        if not isinstance(state.get("settings"), dict):
            raise ValueError(f"checkpoint {checkpoint}: does not hold the settings of a run")
        return state["settings"], state
    if not log.exists():
        raise ValueError(f"there is nothing to resume in {out}: it holds neither checkpoint.pt nor log.jsonl")
    settings, epochs = _settings_in(log), sum(record.get("kind") == "epoch" for record in RunLog.read(log))
    if epochs > 1:  # one may have been logged before the first checkpoint was written
        raise ValueError(
            f"{log} tells of {epochs} epochs, but checkpoint.pt is missing, and to begin again would lose them; put it "
            "back, name another checkpoint behind --resume, or give another --out"
        )
    return settings, None


def unkept(out: Path) -> bool:
    """Whether a run was begun there and stopped before its first checkpoint, so that there is nothing to go on with."""
    log = out / "log.jsonl"
    if (out / "checkpoint.pt").exists() or not log.is_file():
        return False
    return sum(record.get("kind") == "epoch" for record in RunLog.read(log)) <= 1


def settings_to_resume(
    settings: S,
    resume: bool | Path | str,
    kind: str,
    same: Callable[[S, Mapping[str, Any]], Collection[str]] | None = None,
) -> tuple[S, dict[str, Any] | None]:
    """The settings that a Python program's run goes on with, and the contents of its checkpoint.

    Args:
        settings: Of the program; where a run goes on they must compute what its own do.
        resume: False, True, "auto" or a checkpoint, as `run_to_resume` takes None, "", "auto" and a checkpoint.
        kind: Of checkpoint.
        same: Names of settings that say what the checkpoint has in other words, and so stay in the run's own.
    """
    out: Path = settings.out  # type: ignore[attr-defined]
    word = str(resume) if not isinstance(resume, bool) else "" if resume else None
    saved, state = run_to_resume(out, word, kind)
    if saved is None:
        return settings, None
    stays = () if same is None or state is None else same(settings, state)
    given = {name: getattr(settings, name) for name in saved if hasattr(settings, name) and name not in stays}
    kept: Any = resumed_settings(type(settings), saved, given)
    # as they are: data may be more than its name
    return dataclasses.replace(kept, **{name: given[name] for name in CHANGEABLE if name in given}), state


def _settings_in(log: Path) -> dict[str, Any]:
    """Those that a run began with; ValueError where the first line of its log does not tell them."""
    head = next(iter(RunLog.read(log)), {})
    settings = head.get("settings")
    if not isinstance(settings, dict):
        raise ValueError(
            f"{log} does not tell the settings that its run began with (the first line is missing or cut short), so "
            "the run cannot go on; give another --out"
        )
    return settings


def _line_ends(path: Path) -> list[int]:
    """Offset behind each newline; [] without a file."""
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        return []
    return [match.end() for match in re.finditer(b"\n", data)]


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _append_line(path: Path, record: Mapping[str, Any]) -> None:
    text = json.dumps(json_value(record, "record"), ensure_ascii=False, allow_nan=False)
    line = text.encode("utf-8", "backslashreplace") + b"\n"  # of a file's name that is no UTF-8: JSON's own escape
    with open(path, "ab+", buffering=0) as file:
        ends = _line_ends(path)
        whole = ends[-1] if ends else 0
        if file.seek(0, os.SEEK_END) != whole:
            file.truncate(whole)
        try:
            _write_all(file.fileno(), line)
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(error.errno, f"log {path}: line not written: {error.strerror}") from None
