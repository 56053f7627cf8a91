"""One run a folder at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from filelock import FileLock, Timeout

from nas_zoo.runs.distributed import max_over_processes

__all__ = ["only_run_in"]


@contextlib.contextmanager
def only_run_in(folder: Path, accelerator: Accelerator) -> Iterator[None]:
    """Holds a folder for one run, all its processes together, until the block ends or its first process does.

    The lock is the system's own on the file `.lock`, which stays: of a killed process nothing has to be cleared away.

    Raises:
        ValueError: On every process, where another run holds the folder.
    """
    lock, taken = FileLock(folder / ".lock", blocking=False), False
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire()
        except Timeout:
            taken = True
    if max_over_processes(torch.tensor(int(taken), device=accelerator.device)):
        raise ValueError(f"another run is at work in {folder}; wait until it ends or give another --out")
    try:
        yield
    finally:
        lock.release()
