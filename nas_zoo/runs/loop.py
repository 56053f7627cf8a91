"""The one loop: epochs of a long program, from wherever its run stands to the end or to a request to stop.

    loop = Loop(program, settings, accelerator, kind="train", resume=checkpoint, data={...})
    reason = loop.run(started)      # None: all epochs are done

What the program is asked for stands in ``Program``; all else that a run needs is here: log, checkpoints (after each
epoch, when it is asked to stop, and every ten minutes), time budget, sums of an epoch, progress bar. A run that is
stopped anywhere and resumed is the run that never stopped, if its program draws every random number as a function of
seed, epoch and iteration.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from nas_zoo.runs.checkpoint import check_finite, check_place, save_checkpoint, taking_up
from nas_zoo.runs.distributed import average_buffers, gather_statistics, take_statistics, total_over_processes
from nas_zoo.runs.ending import Agreed
from nas_zoo.runs.facts import cautions, peak_memory_gb, run_facts
from nas_zoo.runs.launch import in_force, told_in_force
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.settings import CHANGEABLE, describe, to_dict
from nas_zoo.runs.stop import Reason, StopRequest

__all__ = ["Callback", "Loop", "Program", "figures"]

#: Called with the log's line of an epoch when it has ended and its checkpoint is written, in every process.
Callback = Callable[[Mapping[str, Any]], None]

CHECKPOINT_SECONDS = 600.0
#: Iterations between two looks at the figures, which lie on the device; each look waits for it.
LOOK_EVERY = 50


class Program(Protocol):
    """What a program gives the loop. Epochs and iterations count from 0."""

    #: Iterations of an epoch.
    steps: int

    @property
    def counted(self) -> tuple[str, ...]:
        """What ``step`` counts, by name; "loss" (the mean of a batch times its images) and "images" are among them."""

    def batches(self, epoch: int, start: int) -> Iterable[Any]:
        """Of an epoch, from iteration `start` on."""

    def step(self, epoch: int, step: int, batch: Any, votes: Tensor | None = None) -> Tensor:
        """One iteration; its figures in the order of ``counted``, left on the device: see ``figures``.

        `votes` go along with the weights' gradients to ``average_gradients``.
        """

    @property
    def own_statistics(self) -> tuple[nn.Module, ...]:
        """Those whose running statistics are each process's own, averaged at the end of an epoch; none with sync_bn."""

    def end_epoch(self, epoch: int, sums: Mapping[str, float]) -> dict[str, Any]:
        """What the log says of an epoch; `sums` are those of all its iterations and processes."""

    def report(self, line: Mapping[str, Any]) -> str:
        """The same for people, in one line."""

    def state(self) -> dict[str, Any]:
        """All that changes from iteration to iteration, as a checkpoint holds it."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Takes up what ``state`` gave. ValueError where it is not of this program's data."""


def figures(first: Tensor, *others: Tensor | float) -> Tensor:
    """The figures of an iteration as one tensor, without waiting for the device."""
    return torch.stack([first, *(f if isinstance(f, Tensor) else torch.full_like(first, f) for f in others)])


class Loop:
    """Where a run stands and what its folder holds; ``run`` takes it to its end."""

    def __init__(
        self,
        program: Program,
        settings: Any,
        accelerator: Accelerator,
        kind: str,
        resume: Mapping[str, Any] | None,
        callbacks: Iterable[Callback] = (),
        **first_line: Any,
    ) -> None:
        """Begins the log, or takes up checkpoint and log.

        Args:
            program: What is run.
            settings: Among them epochs, seed, out, time_budget, lr and precision.
            accelerator: Of ``start_accelerator``; the first process alone writes.
            kind: Of checkpoint.
            resume: Contents of the checkpoint to go on from; None: the run begins.
            callbacks: What is called at the end of an epoch. An exception of theirs ends the run, which can be resumed.
            first_line: What else the first line of the log tells.
        """
        self.program, self.settings, self.accelerator, self.kind = program, settings, accelerator, kind
        self.callbacks, self.epoch, self.step, self._seconds_before = tuple(callbacks), 0, 0, 0.0
        self._sums = torch.zeros(len(program.counted), dtype=torch.float64)  # of this process
        self._pending: list[Tensor] = []
        self.log = RunLog(settings.out, writes=accelerator.is_main_process)
        self.checkpoint = settings.out / "checkpoint.pt"
        facts, force = run_facts(accelerator.device), in_force(settings, accelerator)
        if resume is None:
            overwrite = not self.checkpoint.exists()  # killed before the first one: it begins again
            begun = {"seed": settings.seed, "steps_per_epoch": program.steps, "in_force": force, **first_line}
            self.log.start(to_dict(settings), facts, overwrite=overwrite, **begun)
            warnings = cautions(settings, accelerator.device, accelerator.num_processes)
            self._tell(told_in_force(force), describe(settings), *warnings)
        else:
            with taking_up(kind):
                check_place(resume, settings.epochs, program.steps, len(program.counted))
                program.load(resume)
                take_statistics(program.own_statistics, resume.get("statistics", []))
                self.epoch, self.step, self._seconds_before = resume["epoch"], resume["step"], resume["seconds"]
                if accelerator.is_main_process:  # the others have added theirs to it
                    self._sums += resume["sums"]
                self.log.take_up(resume["log_lines"], resume["settings"], changeable=CHANGEABLE)
            where = "its end"
            if self.epoch < settings.epochs:
                where = f"epoch {self.epoch + 1}, iteration {self.step} of {program.steps}"
                self.log.event("resumed", epoch=self.epoch + 1, iteration=self.step, commit=facts["commit"])
            before, now = resume.get("processes"), accelerator.num_processes
            differ = isinstance(before, int) and before != now
            others = f"; it goes on with {now} instead of {before} processes" if differ else ""
            self._tell(f"resumed at {where}{others}", told_in_force(force))
        self._begun = time.monotonic()

    def run(self, started: float | None = None) -> Reason | None:
        """Runs to the end of the last epoch (None) or to a request to stop (its reason), and leaves a checkpoint.

        `started`: time.monotonic() at which the time budget began; None: now.
        """
        program, epochs, device = self.program, self.settings.epochs, self.accelerator.device
        alone = self.accelerator.num_processes == 1

        def ask() -> Tensor:
            return torch.tensor([*stop.votes(), float(time.monotonic() - last_save > CHECKPOINT_SECONDS)])

        with StopRequest(self.settings.time_budget, started=started) as stop:
            while self.epoch < epochs:
                if self.step == 0:
                    self._sums.zero_()
                last_save = time.monotonic()
                for batch in self._with_progress(self._kept(program.batches(self.epoch, self.step))):
                    votes = ask()
                    self._pending.append(program.step(self.epoch, self.step, batch, votes))
                    self.step += 1
                    if self.step % LOOK_EVERY == 0:
                        self._settle()
                    *reasons, due = (ask() if alone else votes).tolist()
                    reason = stop.reason_of(reasons)
                    if (due or reason) and self.step < program.steps:
                        self._save()
                        last_save = time.monotonic()
                        if reason:
                            return self._stopped(reason)
                self._settle()
                for module in program.own_statistics:
                    average_buffers(module)
                with self._kept_on_error():
                    line = program.end_epoch(self.epoch, self._named(total_over_processes(self._sums, device)))
                line |= {"seconds": round(self.seconds, 3), "peak_memory_gb": round(peak_memory_gb(device), 3)}
                self.log.append(line)
                self._tell(program.report(line))
                self.epoch, self.step = self.epoch + 1, 0
                self._save()
                for callback in self.callbacks:
                    callback(line)
                reason = stop.agree(device)
                if reason and self.epoch < epochs:
                    return self._stopped(reason)
        return None

    @property
    def seconds(self) -> float:
        """Since the run began, what it stood still aside."""
        return self._seconds_before + time.monotonic() - self._begun

    def _named(self, sums: Tensor) -> dict[str, float]:
        return dict(zip(self.program.counted, sums.tolist(), strict=True))

    def _settle(self) -> None:
        """Adds the figures of the last iterations, which so far lie on the device, to the sums of the epoch.

        Raises:
            FloatingPointError: Where the loss or a weight is not finite: the checkpoint before is kept.
        """
        if self._pending:
            for row in torch.stack(self._pending).cpu().double():
                self._sums += row
            self._pending = []
        if not self._sums.isfinite().all():
            raise FloatingPointError(
                f"the loss is not finite in epoch {self.epoch + 1} (lr {self.settings.lr}, precision "
                f"{self.settings.precision}); the last checkpoint is kept"
            )
        check_finite(self.program.state(), f"in epoch {self.epoch + 1}")

    def _save(self) -> None:
        self._settle()
        sums = total_over_processes(self._sums, self.accelerator.device)
        statistics = gather_statistics(self.program.own_statistics)
        if self.accelerator.is_main_process:
            place = {"epoch": self.epoch, "step": self.step, "seconds": self.seconds, "sums": sums}
            place |= {"settings": to_dict(self.settings), "log_lines": self.log.num_lines}
            place |= {"processes": self.accelerator.num_processes, "statistics": statistics}
            save_checkpoint(self.checkpoint, place | self.program.state(), self.kind)
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _kept_on_error(self) -> Iterator[None]:
        """Saves the state where data cannot be had, such as an image that turns out to be damaged.

        With several processes the last checkpoint stays as it is, unless all of them are here and not elsewhere.
        """
        try:
            yield
        except (ValueError, OSError) as error:
            if self.accelerator.num_processes == 1 or isinstance(error, Agreed):
                self._save()
                self._tell(f"the state is saved: {self.checkpoint}")
            raise

    def _kept(self, batches: Iterable[Any]) -> Iterator[Any]:
        with self._kept_on_error():
            yield from batches

    def _stopped(self, reason: Reason) -> Reason:
        self.log.event("stopped", reason=reason, epoch=self.epoch + 1, iteration=self.step)
        return reason

    def _tell(self, *lines: str) -> None:
        if self.accelerator.is_main_process:
            print(*lines, sep="\n", flush=True)

    def _with_progress(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The rest of the epoch's batches, under a bar with the loss and the time that is left of the whole run."""
        hidden = not (self.accelerator.is_main_process and sys.stderr.isatty())
        steps, epochs = self.program.steps, self.settings.epochs
        title = f"epoch {self.epoch + 1}/{epochs}"
        with tqdm(desc=title, total=steps, initial=self.step, unit="it", leave=False, disable=hidden) as bar:
            for batch in islice(batches, steps - self.step):
                yield batch
                bar.update()
                if not hidden and self.step % LOOK_EVERY == 0:
                    done, sums = self.epoch * steps + self.step, self._named(self._sums)
                    left = tqdm.format_interval(self.seconds / done * (epochs * steps - done))
                    bar.set_postfix_str(f"loss {sums['loss'] / sums['images']:.3f}, {left} left of the run")
