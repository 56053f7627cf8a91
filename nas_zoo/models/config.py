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

__all__ = ["check_config", "check_images", "require_size", "write_config"]


def check_config(path: Path) -> None:
    """ValueError, naming the place, where this is no config.json from which timm can make a model."""
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({str(error) or type(error).__name__})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{str(path)!r} must hold an object, got {show(config)}")
    named, cfg, args = config.get("architecture"), config.get("pretrained_cfg", {}), config.get("model_args", {})
    for name, right, what in (
        ("architecture", isinstance(named, str) and timm.is_model(named.split(".")[0]), "a model of ours or of timm"),
        ("pretrained_cfg", isinstance(cfg, dict), "an object"),
        ("model_args", isinstance(args, dict), "an object"),
    ):
        if not right:
            raise ValueError(f"{str(path)!r}: {name} must be {what}, got {show(config.get(name))}")
    check_images(cfg, f"{str(path)!r}: pretrained_cfg.")


def check_images(cfg: Mapping[str, Any], place: str) -> None:
    """ValueError, beginning with `place`, where a pretrained_cfg of JSON says of images or classes what cannot be."""
    for name, kind, right, what in (
        ("input_size", list, lambda v: len(v) == 3 and all(type(side) is int and side > 0 for side in v),
         "three whole numbers (C, H, W)"),
        ("mean", list, lambda v: v and all(map(_is_number, v)), "a list of numbers"),
        ("std", list, lambda v: v and all(_is_number(one) and one > 0 for one in v), "a list of numbers above 0"),
        ("crop_pct", (int, float), lambda v: _is_number(v) and 0 < v <= 1, "a number above 0, at most 1"),
        ("interpolation", str, lambda v: True, "a name"),
        ("label_names", list, lambda v: all(isinstance(one, str) for one in v), "a list of names"),
    ):  # fmt: skip
        value = cfg.get(name)
        if value is not None and not (isinstance(value, kind) and right(value)):
            raise ValueError(f"{place}{name} must be {what}, got {show(value)}")


def require_size(cfg: Mapping[str, Any], size: int, place: str) -> None:
    """ValueError, beginning with `place`, where a model of that pretrained_cfg takes images of another size alone."""
    if cfg.get("fixed_input_size") and (only := tuple(cfg["input_size"][1:])) != (size, size):
        raise ValueError(f"{place} takes images of {only[0]} x {only[1]} pixels alone, not of {size}")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -1e9 < value < 1e9  # not NaN


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
