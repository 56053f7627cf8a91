"""Runs one after another in this process, side by side on the devices of this machine, or on a cluster.

What runs them side by side is submitit (the extra "cluster"): its local executor, a process for each device, each with
its share of the runs; or Slurm, a job a run. A job that Slurm stops is queued again and goes on where its run was.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from nas_zoo.runs.stop import Reason
from nas_zoo.search.papers.runs import Job

__all__ = ["LAUNCHERS", "Launcher", "Share"]

LAUNCHERS = ("here", "local", "slurm")


@dataclass(frozen=True)
class Share:
    """Runs that follow each other on one device."""

    jobs: tuple[Job, ...]

    def __call__(self) -> Reason | None:
        begin, done = time.monotonic(), 0
        for number, job in enumerate(self.jobs, 1):
            if job.finished:
                continue
            todo = sum(not other.finished for other in self.jobs)
            spent = (time.monotonic() - begin) / done if done else 0.0  # a run, those of this call
            left = f", about {tqdm.format_interval(spent * todo)} left" * bool(done)
            print(f"\nrun {number} of {len(self.jobs)}{left}: {job.told}", flush=True)
            if (reason := job()) is not None:
                return reason
            done += 1
        return None

    def checkpoint(self) -> Any:
        """See ``Job.checkpoint``."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@dataclass(frozen=True)
class Launcher:
    """How and where; slurm alone takes a partition, a time and a number of GPUs of a job."""

    name: str = "here"
    folder: Path = Path("jobs")  # what submitit keeps of its jobs
    devices: int = 1
    partition: str | None = None
    hours: float = 24.0
    gpus: int = 1

    def run(self, jobs: Sequence[Job]) -> Reason | None:
        """Until all have finished (None), or one was stopped: why.

        Raises:
            ValueError: submitit is wanted and not installed, or there is no Slurm.
        """
        todo = [job for job in dict.fromkeys(jobs) if not job.finished]
        if not todo:
            return None
        if self.name == "here":
            return Share(tuple(todo))()
        shares = [Share((job,)) for job in todo]
        if self.name == "local":
            shares = [Share(tuple(todo[i :: self.devices])) for i in range(min(self.devices, len(todo)))]
        return self._submitted(shares)

    def _submitted(self, shares: Sequence[Share]) -> Reason | None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise ValueError(
                f"--launcher {self.name} needs submitit: pip install 'nas-zoo[cluster]'; without it runs go one after "
                "another (--launcher here)"
            ) from None
        running: list[Any] = []
        try:
            for number, share in enumerate(shares):
                try:
                    executor = submitit.AutoExecutor(folder=self.folder, cluster=self.name)
                except RuntimeError as error:
                    raise ValueError(f"--launcher {self.name}: {error}") from None
                executor.update_parameters(name="nas-zoo-paper", timeout_min=max(1, round(60 * self.hours)))
                if self.name == "local":
                    if self.devices > 1:
                        executor.update_parameters(gpus_per_node=1, local_visible_gpus=(number,))
                else:
                    executor.update_parameters(gpus_per_node=self.gpus)
                    if self.partition:
                        executor.update_parameters(slurm_partition=self.partition)
                running.append(executor.submit(share))
            print(f"{len(running)} jobs; what they print stands in {self.folder}", flush=True)
            reasons = [job.result() for job in running]
        except submitit.core.utils.FailedJobError as error:
            raise ValueError(f"a job has failed: {str(error).strip().splitlines()[-1]}; see {self.folder}") from None
        finally:
            for job in running:
                if not job.done():
                    job.cancel()
        return next((reason for reason in reasons if reason), None)
