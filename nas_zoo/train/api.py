"""Training from a Python program: the run that `nas-zoo train` makes, in the same folder, its outcome as values."""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from torch import nn

from nas_zoo.models.load import load_model
from nas_zoo.runs.log import RunLog, settings_to_resume
from nas_zoo.runs.loop import Callback
from nas_zoo.runs.settings import check_call
from nas_zoo.runs.stop import Reason, hand_on
from nas_zoo.train import run
from nas_zoo.train.model import same_cells
from nas_zoo.train.recipes import RECIPES, TrainSettings

__all__ = ["TrainResult", "train"]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What a training has come to."""

    path: Path  # the run's folder, as every command and `timm.create_model("local-dir:FOLDER")` take it
    figures: dict[str, Any] | None  # result.json: top1 of the test images in [0, 1], loss, n; None before the end
    history: list[dict[str, Any]]  # a table: one row of the same columns an epoch
    stopped: Reason | None = None  # "time budget" where that ended it before its last epoch

    @property
    def top1(self) -> float | None:
        """Accuracy on the test images, in [0, 1]; None before the end."""
        return None if self.figures is None else float(self.figures["top1"])

    def model(self) -> nn.Module:
        """The trained network in evaluation mode; ValueError before the end."""
        return load_model(str(self.path))

    @classmethod
    def read(cls, path: Path | str, stopped: Reason | None = None) -> "TrainResult":
        """That of a run's folder; ValueError where it holds none."""
        path = Path(path)
        lines = [line for line in RunLog.read(path) if line.get("kind") == "epoch"]
        result = path / "result.json"
        figures = json.loads(result.read_text("utf-8")) if result.is_file() else None
        return cls(path, figures, [_row(line) for line in lines], stopped)


def _row(line: dict[str, Any]) -> dict[str, Any]:
    """The figures of an epoch's line side by side; accuracies in [0, 1], None where the epoch has none."""
    watched = {}
    for part in ("val", "test"):
        of_weights: list[dict[str, Any]] = list((line.get(part) or {}).values())  # the result's weights first
        watched[f"{part}_top1"] = of_weights[0]["top1"] if of_weights else None
    return {
        "epoch": line["epoch"],
        "lr": line["lr"],
        "train_loss": line["train"]["loss"],
        "train_top1": line["train"]["top1"],
        **watched,
        "seconds": line["seconds"],
        "peak_memory_gb": line["peak_memory_gb"],
    }


def train(
    settings: TrainSettings,
    *,
    resume: bool | Literal["auto"] | Path | str = False,
    callbacks: Iterable[Callback] = (),
) -> TrainResult:
    """Trains to the end of the last epoch and measures the result, or to the time budget of the settings.

    Args:
        settings: Complete ones, as ``TrainSettings.from_recipe`` makes them; ``data`` and ``test_data`` may be
            map-style data sets of (image, label).
        resume: Go on with the run in ``settings.out`` (True), if there is one ("auto"), or from that checkpoint.
        callbacks: Each is called with the log's line of an epoch when that has ended and its checkpoint is written. An
            exception of theirs ends the training, which can be resumed.

    Raises:
        ValueError: For whatever a user can mend, in one line.
        KeyboardInterrupt: After Ctrl-C, when the iteration has ended and a checkpoint is written. (SIGTERM is handed on
            to the program in the same way.)
    """
    called = check_call(settings, TrainSettings, callbacks)
    values = RECIPES[settings.recipe]
    if settings.recipe != TrainSettings.recipe and all(
        getattr(settings, name) == getattr(TrainSettings, name) for name in values
    ):
        raise ValueError(
            f"the settings name the recipe {settings.recipe!r} and have none of its values; "
            f"TrainSettings.from_recipe({settings.recipe!r}, ...) makes them"
        )
    settings, state = settings_to_resume(settings, resume, run.CHECKPOINT_KIND, same_cells)
    reason = run.train(settings, state, callbacks=called)
    hand_on(reason)
    return TrainResult.read(settings.out, reason)
