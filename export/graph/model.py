"""The model that a user names to a program, with its weights (see ``nas_zoo.models.load``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nas_zoo.models.load import load_model
from nas_zoo.runs.settings import require_least, setting

__all__ = ["MODEL_HELP", "ModelSettings", "named_model"]

MODEL_HELP = (
    "folder of a trained model, hf-hub:ORG/NAME, or a name of `nas-zoo list` "
    "(one without weights in the package needs --weights)"
)


@dataclass(frozen=True)
class ModelSettings:
    """The model"""

    weights: Path | None = setting(None, "safetensors or torch file of its state dict")
    genotype: str | None = setting(None, "name or file of the cells, where the model leaves them open")
    init_channels: int | None = setting(None, "channels of a node in the first cells")
    num_cells: int | None = setting(None, "cells in all")
    num_classes: int | None = setting(None, "classes")
    in_chans: int | None = setting(None, "channels of an image")

    def __post_init__(self) -> None:
        require_least(self, init_channels=2, num_cells=1, num_classes=1, in_chans=1)


def named_model(model: str, settings: ModelSettings, *, random_weights: bool = False) -> nn.Module:
    """The model that a user names, with its weights (see ``nas_zoo.models.load``)."""
    names = ("genotype", "init_channels", "num_cells", "num_classes", "in_chans")
    kwargs = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    return load_model(model, settings.weights, random_weights=random_weights, **kwargs)
