"""What accelerate was asked for: the flags and the config file of `accelerate launch` arrive as environment variables.

What a run can obey becomes its settings, above their defaults and recipes and below its own config file and flags; all
else ends the program with its name and the reason.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from nas_zoo.runs.settings import source_of

__all__ = ["asked_settings", "in_force", "refuse_unfit", "told_in_force"]

_SMALL = "networks of some million parameters fit on one device, so there is nothing to gain"
#: Variables that ask for a way to spread a model, its name, and why there is none here.
_SPREAD = {
    "ACCELERATE_USE_FSDP": ("FSDP", _SMALL),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", _SMALL),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", "it is for transformers"),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("parallelism_config", _SMALL),
    "ACCELERATE_IN_TPU_POD": ("TPU", "nothing here was made for or run on one"),
}
_PRECISIONS = {
    "fp16": "its gradients need a scale that moves with the run; bf16 has the range of float32 and needs none",
    "fp8": "no layer of these networks has it",
}
_TRUE = ("1", "true", "yes", "on")


def refuse_unfit() -> None:
    """ValueError with the name and the reason where accelerate was asked for a way of training that is not had here."""
    for variable, (name, why) in _SPREAD.items():
        if os.environ.get(variable, "").lower() in _TRUE:
            raise ValueError(f"accelerate asks for {name} ({variable}), which is not had here: {why}; take it out of "
                             "accelerate's config, several processes each hold the whole model")  # fmt: skip
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if precision not in ("", "no", "bf16"):
        why = _PRECISIONS.get(precision, "it is none of accelerate's")
        raise ValueError(f"accelerate asks for mixed_precision {precision} (ACCELERATE_MIXED_PRECISION), which is not "
                         f"had here: {why}; take bf16 or no")  # fmt: skip


def asked_settings(settings_class: type) -> dict[str, dict[str, Any]]:
    """The settings that accelerate was asked for, by where that stands: a layer of ``settings_from``.

    What `accelerate launch` says by itself (no mixed precision, no dynamo) asks for nothing.

    Raises:
        ValueError: For what is not had: see ``refuse_unfit``; dynamo where the class has no `compile`, and of dynamo
            what `compile` does not do; a number of steps that is none.
    """
    refuse_unfit()
    names = {field.name for field in dataclasses.fields(settings_class)}
    asked: dict[str, dict[str, Any]] = {}
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() == "bf16":
        asked["accelerate (ACCELERATE_MIXED_PRECISION)"] = {"precision": "bf16"}
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if not steps.isdecimal() or not 1 <= int(steps) <= 10**6:
        raise ValueError(f"ACCELERATE_GRADIENT_ACCUMULATION_STEPS must be a whole number of at least 1, got {steps!r}")
    if int(steps) > 1 and "accumulation" in names:  # an evaluation has no steps
        asked["accelerate (ACCELERATE_GRADIENT_ACCUMULATION_STEPS)"] = {"accumulation": int(steps)}
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no":
        asks = f"accelerate asks for dynamo_backend {backend} (ACCELERATE_DYNAMO_BACKEND)"
        if "compile" not in names:
            raise ValueError(f"{asks}, which is had in training alone: in a search other operations run in each step, "
                             "and each would be compiled anew; take no")  # fmt: skip
        if backend != "inductor":
            raise ValueError(f"{asks}; what is had is inductor, as with --compile")
        for name, usual in (("MODE", "default"), ("USE_FULLGRAPH", "false"), ("USE_DYNAMIC", "false"),
                            ("USE_REGIONAL_COMPILATION", "false")):  # fmt: skip
            value = os.environ.get(f"ACCELERATE_DYNAMO_{name}", usual)
            if value.lower() != usual:
                raise ValueError(f"accelerate asks for dynamo_{name.lower()} {value} (ACCELERATE_DYNAMO_{name}); what "
                                 f"is had is {usual}")  # fmt: skip
        asked["accelerate (ACCELERATE_DYNAMO_BACKEND)"] = {"compile": True}
    return asked


def in_force(settings: Any, accelerator: Any) -> dict[str, list[Any]]:
    """{name: [value, who decided]} of what accelerate too could have decided, for the first line of a log."""
    names = [name for name in ("precision", "accumulation", "compile") if hasattr(settings, name)]
    found: dict[str, list[Any]] = {name: [getattr(settings, name), source_of(settings, name)] for name in names}
    on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in _TRUE
    found["device"] = [accelerator.device.type, "accelerate (ACCELERATE_USE_CPU)" if on_cpu else "default"]
    found["processes"] = [
        accelerator.num_processes,
        "launcher (WORLD_SIZE)" if "WORLD_SIZE" in os.environ else "default",
    ]
    return found


def told_in_force(found: Mapping[str, list[Any]]) -> str:
    """The same in one line."""
    return "in force: " + ", ".join(f"{name} {value} ({who})" for name, (value, who) in found.items())
