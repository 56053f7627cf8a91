"""config.json beside a model's weights, as timm and transformers read it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
from timm.models._hub import save_config_for_hf
from torch import nn

from nas_zoo.runs.files import write_json
from nas_zoo.text import show

__all__ = ["check_config", "write_config"]


def check_config(path: Path) -> None:
    """ValueError, naming the place, where this is no config.json from which timm can make a model."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must hold an object, got {show(config)}")
    named, cfg, args = config.get("architecture"), config.get("pretrained_cfg", {}), config.get("model_args", {})
    size = cfg.get("input_size", [1, 1, 1]) if isinstance(cfg, dict) else None
    sizes = isinstance(size, list) and len(size) == 3 and all(type(side) is int and side > 0 for side in size)
    for name, right, what in (
        ("architecture", isinstance(named, str) and timm.is_model(named.split(".")[0]), "a model of ours or of timm"),
        ("pretrained_cfg", isinstance(cfg, dict), "an object"),
        ("model_args", isinstance(args, dict), "an object"),
        ("pretrained_cfg.input_size", sizes, "three whole numbers (C, H, W)"),
    ):
        if not right:
            got = size if "." in name else config.get(name)
            raise ValueError(f"{str(path)!r}: {name} must be {what}, got {show(got)}")


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
