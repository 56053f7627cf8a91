"""config.json beside a model's weights, as timm and transformers read it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timm.models._hub import save_config_for_hf
from torch import nn

from nas_zoo.runs.files import write_json

__all__ = ["write_config"]


def write_config(
    model: nn.Module, path: Path, label_names: Sequence[str] | None, data_config: Mapping[str, Any] | None = None
) -> None:
    """timm's file, without arguments of the model that it tells elsewhere too.

    ``transformers.pipeline`` hands num_classes to timm beside the arguments and fails on one that comes twice.
    """
    names = list(label_names) if label_names else None
    labels = {"label_names": names, "pretrained_cfg": {"label_names": names}} if names else {}
    save_config_for_hf(model, str(path), model_config=labels, data_config=dict(data_config) if data_config else None)
    config = json.loads(path.read_text("utf-8"))
    told = {
        "num_classes": config["num_classes"],
        "in_chans": config["pretrained_cfg"]["input_size"][0],
        "global_pool": config.get("global_pool"),
    }
    args = config.get("model_args", {})
    config["model_args"] = {name: value for name, value in args.items() if name not in told or told[name] != value}
    write_json(path, config)
