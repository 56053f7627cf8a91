"""accelerate's trackers (TensorBoard, Weights & Biases, MLflow): a run's settings, figures and pictures beside its log.

The log alone is what a run is resumed from; what goes to a tracker is read by people only.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from nas_zoo.runs.facts import published
from nas_zoo.runs.settings import to_dict

__all__ = ["Tracker", "figures_of", "tracked"]

Tracker = Literal["tensorboard", "wandb", "mlflow", "all"]
#: What a picture is made of at the end of an epoch: of the log's line an (H, W, 3) array of uint8; None: nothing new.
Picture = Callable[[Mapping[str, Any]], np.ndarray | None]
#: Whole numbers and tensors of a line that are no curves.
_NO_FIGURES = ("alpha", "beta", "genotype", "found", "histogram", "operations")


def figures_of(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's line of the log, by their way in it: "train/loss", "entropy/normal"."""

    def walk(value: Any, way: str) -> Iterator[tuple[str, float]]:
        if isinstance(value, Mapping):
            for name, entry in value.items():
                yield from walk(entry, f"{way}/{name}" if way else str(name))
        elif isinstance(value, (int, float)):
            yield way, float(value)

    return dict(walk({name: value for name, value in line.items() if name not in _NO_FIGURES}, ""))


@contextlib.contextmanager
def tracked(
    settings: Any, accelerator: Accelerator, resume: Mapping[str, Any] | None, picture: Picture | None = None
) -> Iterator[list[Callable[[Mapping[str, Any]], None]]]:
    """Within it, what the loop has to call at the end of an epoch for the trackers of ``settings.log_with``.

    They begin with the first epoch that ends. A resumed run goes on with the curves where its checkpoint stands; of
    several processes the first alone writes.

    Raises:
        ValueError: For a tracker that is not installed.
    """
    there = [str(tracker) for tracker in get_available_trackers()]
    missing = [name for name in settings.log_with if name != "all" and name not in there]
    if missing:
        raise ValueError(
            f"log_with {missing[0]}: the package {missing[0]} is not installed; pip install {missing[0]}, or leave "
            f"it out (there {'is' if len(there) == 1 else 'are'} {', '.join(there) or 'none'})"
        )
    if "all" in settings.log_with and not there:
        raise ValueError("log_with all: no tracker is installed; pip install tensorboard, wandb or mlflow")
    if not settings.log_with:
        yield []
        return
    out, epoch = Path(settings.out), 0 if resume is None else int(resume["epoch"])
    begun: list[bool] = []

    def begin() -> None:
        folder = out / "trackers"
        folder.mkdir(exist_ok=True)
        accelerator.project_configuration.logging_dir = str(folder)
        accelerator.log_with = there if "all" in settings.log_with else list(settings.log_with)
        with open(out / "log.jsonl", "rb") as file:  # the run's own, whatever folder it is continued in
            name = hashlib.sha256(str(out.resolve()).encode() + file.readline()).hexdigest()[:16]
        ways: dict[str, dict[str, Any]] = {
            "tensorboard": {"purge_step": epoch + 1},  # of epochs that were logged behind the checkpoint
            "wandb": {"id": name, "name": out.name, "dir": str(folder), "resume": "allow"},
            "mlflow": {"run_name": out.name},
        }
        plain = {name: value if isinstance(value, (bool, int, float, str)) else str(value)
                 for name, value in published(to_dict(settings)).items()}  # fmt: skip
        accelerator.init_trackers("nas-zoo", plain if epoch == 0 else None, ways)

    def track(line: Mapping[str, Any]) -> None:
        if not accelerator.is_main_process:
            return
        if not begun:
            begun.append(True)
            begin()
        if picture is not None and (drawn := picture(line)) is not None:
            for tracker in accelerator.trackers:
                if hasattr(tracker, "log_images"):
                    tracker.log_images({"cells": drawn[None]}, step=line["epoch"], **_layout(tracker.name))
        accelerator.log(figures_of(line), step=line["epoch"])

    try:
        yield [track]
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()
        accelerator.trackers = []


def _layout(tracker: str) -> dict[str, str]:
    """TensorBoard takes channels first unless it is told."""
    return {"dataformats": "NHWC"} if tracker == "tensorboard" else {}
