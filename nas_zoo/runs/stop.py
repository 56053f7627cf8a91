"""Stop requests: SIGTERM, Ctrl-C and a time budget ask a long program to stop after its step."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import torch

from nas_zoo.runs import distributed

__all__ = ["Reason", "StopRequest", "hand_on"]

Reason = Literal["time budget", "SIGTERM", "SIGINT"]
_REASONS: tuple[Reason, ...] = ("time budget", "SIGTERM", "SIGINT")  # the later one wins between processes


class StopRequest:
    """A context in which SIGTERM, SIGINT (Ctrl-C) and a time budget ask for a stop instead of making one.

        with StopRequest(settings.time_budget_s, started=started) as stop:
            for step in ...:
                ...
                if reason := stop.agree(accelerator.device):
                    save_checkpoint(...)
                    break

    A second SIGINT kills at once. The budget is in seconds from `started` (a time.monotonic(), of the program's start;
    now if left out); the program stops at the first step that ends after it, so subtract what saving takes. Signals
    are handled only if the context is entered in the main thread (Python allows no other).
    """

    # torchrun hands a terminal's Ctrl-C on to processes that have had it from the terminal: that is not a second one
    _SAME_PRESS_S = 0.5

    def __init__(self, time_budget_s: float | None = None, *, started: float | None = None) -> None:
        if time_budget_s is not None and not time_budget_s >= 0:
            raise ValueError(f"time budget {time_budget_s!r} s: has to be 0 or more")
        self._deadline = math.inf
        if time_budget_s is not None:
            self._deadline = (time.monotonic() if started is None else started) + time_budget_s
        self._signal: Reason | None = None
        self._signalled = 0.0
        self._pid = os.getpid()
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._old:
            number, old = self._old.popitem()
            # None: installed from C, Python cannot put it back
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker: it ends with its parent, not with the parent's Ctrl-C
            if number == signal.SIGTERM:
                _die_of(number)
            return
        now = time.monotonic()
        if number == signal.SIGINT and self._signal == "SIGINT" and now - self._signalled > self._SAME_PRESS_S:
            _die_of(number)
        if self._signal != "SIGINT":
            self._signal = "SIGINT" if number == signal.SIGINT else "SIGTERM"
            self._signalled = now
            if os.environ.get("RANK", "0") == "0":
                again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
                # not print: a handler may interrupt a print
                os.write(2, f"\n{self._signal}: stopping after this step{again}\n".encode())

    def reason(self) -> Reason | None:
        """Why this process is asked to stop, None if it is not. Other processes may answer otherwise: see agree."""
        if self._signal is not None:
            return self._signal
        return "time budget" if time.monotonic() >= self._deadline else None

    def votes(self) -> list[float]:
        """For each reason that there may be, 1 where it is this process's. ``reason_of`` reads their sum or mean."""
        mine = self.reason()
        return [float(reason == mine) for reason in _REASONS]

    @staticmethod
    def reason_of(votes: Sequence[float]) -> Reason | None:
        """The reason that some process has, None if there is none."""
        return next((reason for reason, vote in reversed(list(zip(_REASONS, votes, strict=True))) if vote), None)

    def agree(self, device: torch.device | str = "cpu") -> Reason | None:
        """The reason of any process, the same on all of them: all have to call it at the same step.

        One all-reduce of three numbers by way of `device`; nothing for one process.
        """
        return self.reason_of(distributed.sum_over_processes(torch.tensor(self.votes(), device=device)).tolist())


def hand_on(reason: Reason | None) -> None:
    """Gives the signal that has stopped a run to the program that called it: KeyboardInterrupt, or SIGTERM itself."""
    if reason == "SIGINT":
        raise KeyboardInterrupt
    if reason == "SIGTERM":
        signal.raise_signal(signal.SIGTERM)


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
