"""Time of the whole program, counted over its kills and stops, and the one display of it."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from nas_zoo.runs.files import write_json

__all__ = ["Clock"]

_SAVE_EVERY_S = 3.0  # what a kill may lose
_TELL_EVERY_S = 60.0  # between two lines of a log without a terminal


class Clock:
    """Seconds that the program has been at work, over all its starts, in clock.json of its folder.

        with clock.running(), clock.stage("search", 3, 8, allotted=200):
            clock.note("epoch 2 of 12")

    On a terminal a bar shows the time budget, the stage and what is left; elsewhere a line is printed now and then.
    """

    def __init__(self, folder: Path, budget: float, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.budget, self._path = budget, folder / "clock.json"
        self._out, self._err = out or sys.stdout, err or sys.stderr
        try:
            record = json.loads(self._path.read_text("utf-8"))
            self._before, self._stages = float(record["seconds"]), dict(record["stages"])
        except (OSError, ValueError, KeyError, TypeError):
            self._before, self._stages = 0.0, {}
        self._begun = time.monotonic()
        self._stage, self._stage_begun, self._title, self._note = "", self._begun, "", ""
        self._told = 0.0
        self._bar: Any = None
        self._lock = threading.Lock()
        #: seconds until the end, where a stage knows better than the budget
        self.expected: float | None = None

    @property
    def spent(self) -> float:
        """Seconds at work so far."""
        return self._before + time.monotonic() - self._begun

    @property
    def left(self) -> float:
        """Seconds left of the budget, below 0 where it is overdrawn."""
        return self.budget - self.spent

    @property
    def stages(self) -> dict[str, float]:
        """Seconds of each stage so far."""
        with self._lock:
            return self._now()

    def _now(self) -> dict[str, float]:
        found = dict(self._stages)
        if self._stage:
            found[self._stage] = found.get(self._stage, 0.0) + time.monotonic() - self._stage_begun
        return {name: round(seconds, 2) for name, seconds in found.items()}

    def save(self) -> None:
        """Writes clock.json."""
        write_json(self._path, {"seconds": round(self.spent, 2), "stages": self.stages})

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Saves and shows the time until the block ends."""
        ended = threading.Event()

        def tick() -> None:
            saved = time.monotonic()
            while not ended.wait(0.5):
                self._show()
                if time.monotonic() - saved > _SAVE_EVERY_S:
                    saved = time.monotonic()
                    with contextlib.suppress(OSError):  # a full disk is told by what the program itself writes
                        self.save()

        if self._err.isatty():
            self._bar = tqdm(total=self.budget, file=self._err, bar_format="{percentage:3.0f}%|{bar:24}| {desc}")
        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if self._bar is not None:
                self._bar.close()
                self._bar = None
            with contextlib.suppress(OSError):
                self.save()

    @contextlib.contextmanager
    def stage(self, name: str, number: int, of: int, words: str) -> Iterator[None]:
        """A stage, whose time is counted and told."""
        with self._lock:
            self._stage, self._stage_begun = name, time.monotonic()
            self._title, self._note, self.expected = f"{number} of {of}: {words}", "", None
        self.say(f"[{number}/{of}] {words} ({_minutes(self.spent)} of {_minutes(self.budget)} used)")
        self._told = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._stages = self._now()
                self._stage = ""

    def note(self, words: str) -> None:
        """What the stage is at."""
        self._note = words
        if self._bar is None and time.monotonic() - self._told > _TELL_EVERY_S:
            self.say(f"      {words}; {self._left()}")
            self._told = time.monotonic()

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._bar is not None:
            self._bar.clear()
        print(line, file=self._out, flush=True)

    def _left(self) -> str:
        seconds = self.left if self.expected is None else self.expected
        return f"about {_minutes(seconds)} left" if seconds > 0 else "the time budget is used up"

    def _show(self) -> None:
        if self._bar is not None:
            self._bar.n = min(self.spent, self.budget)
            self._bar.set_description_str("; ".join(filter(None, (self._title, self._note, self._left()))))
        elif time.monotonic() - self._told > _TELL_EVERY_S and self._title:
            self.note(self._note or "at work")


def _minutes(seconds: float) -> str:
    whole = max(0, round(seconds))
    return f"{whole // 60}:{whole % 60:02d}"
