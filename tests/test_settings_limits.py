"""Every limit of every program's settings: the value at it passes, the one beside it is a sentence that names both."""

import dataclasses
import math
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from nas_zoo.search.method import METHODS, find_method
from nas_zoo.train.recipes import TrainSettings


class Limit(NamedTuple):
    name: str
    at: Any  # the last value that is right
    beyond: Any  # the next one
    what: str  # "NAME must be WHAT, got BEYOND"
    others: Mapping[str, Any] = MappingProxyType({})  # what else has to be set so that no other limit speaks first


def least(name: str, value: int, unit: str = "", **others: Any) -> Limit:
    return Limit(name, value, value - 1, f"at least {value}{unit}", others)


ABOVE_0 = math.nextafter(0.0, 1.0)
BELOW_0 = math.nextafter(0.0, -1.0)
BELOW_1 = math.nextafter(1.0, 0.0)
ABOVE_1 = math.nextafter(1.0, 2.0)
LARGEST = math.nextafter(math.inf, 0.0)


def positive(name: str, **others: Any) -> list[Limit]:
    what = "a finite number greater than 0"
    return [Limit(name, ABOVE_0, 0.0, what, others), Limit(name, LARGEST, math.inf, what)]


def not_negative(name: str, **others: Any) -> list[Limit]:
    what = "a finite number of at least 0"
    return [Limit(name, 0.0, BELOW_0, what), Limit(name, LARGEST, math.inf, what, others)]


def budget() -> Limit:
    return Limit("time_budget", ABOVE_0, 0.0, "more than 0 seconds")


SEARCH = [
    least("epochs", 1), least("accumulation", 1),
    least("num_cells", 1), least("init_channels", 2, partial_channels=1), least("batch_size", 2),
    least("partial_channels", 1), least("workers", 0),
    Limit("workers", 1024, 1025, "at most 1024"), least("skip_unreadable", 0),
    least("crop_padding", 0), least("cutout", 0),
    Limit("nodes", 1, 0, "from 1 to 6"), Limit("nodes", 6, 7, "from 1 to 6"),
    least("eval_size", 0), least("gap_batches", 0), least("image_size", 8, " pixels"),
    least("train_limit", 4, " images"), *positive("lr", lr_min=0.0), *positive("alpha_lr"),
    *not_negative("lr_min", lr=LARGEST), *not_negative("momentum"), *not_negative("weight_decay"),
    *not_negative("grad_clip"), budget(),
    least("target_channels", 2), least("target_cells", 1), least("target_size", 8), *not_negative("latency_weight"),
    Limit("max_latency", ABOVE_0, 0.0, "more than 0 ms and finite", {"latency_table": Path("table.json")}),
    Limit("max_latency", LARGEST, math.inf, "more than 0 ms and finite", {"latency_table": Path("table.json")}),
    Limit("partial_channels", 16, 17, "a divisor of init_channels (16)"),
    Limit("lr_min", 0.5, math.nextafter(0.5, 1.0), "at most lr (0.5)", {"lr": 0.5}),
    *(Limit("alpha_betas", at, beyond, "two numbers from 0 to below 1")
      for at, beyond in (((0.0, 0.9), (BELOW_0, 0.9)), ((0.9, 0.0), (0.9, BELOW_0)),
                         ((BELOW_1, 0.9), (1.0, 0.9)), ((0.9, BELOW_1), (0.9, 1.0)))),
]  # fmt: skip

EDAS = [
    Limit("warmup_epochs", 0, -1, "from 0 to epochs (25)"),
    Limit("warmup_epochs", 25, 26, "from 0 to epochs (25)"),
    *not_negative("warmup_alpha_decay"),
]


def rest(name: str) -> list[Limit]:
    what = "from 0 to below epochs (50)"
    return [Limit(name, 0, -1, what), Limit(name, 49, 50, what)]


CONTROLS = "const, linear, log, exp, step, const_delayed, linear_delayed, log_delayed, exp_delayed, step_delayed"
DA2S = [
    *not_negative("alpha_decay"), *not_negative("penalty_weight"), *not_negative("count_weight"),
    *not_negative("start_noise"), *rest("delay_epochs"), *rest("freeze_epochs"),
    *(Limit(name, "step_delayed", "quadratic", f"one of {CONTROLS}") for name in ("lambda_c", "lambda_1", "lambda_2")),
]  # fmt: skip

OF_METHOD: dict[str, list[Limit]] = {
    "edas": EDAS,
    "alpha_max": EDAS,
    "da2s": DA2S,
    "da2s_released": DA2S,
    "darts": [*not_negative("alpha_decay"), *positive("radius")],
    "pc_darts": [*not_negative("alpha_decay"), *rest("freeze_epochs")],
    "gdas": [*not_negative("alpha_decay"), *positive("tau"), *positive("tau_last")],
    "drnas": [*not_negative("anchor_weight"), *rest("freeze_epochs")],
    "fairdarts": [
        *not_negative("alpha_decay"),
        *not_negative("zero_one_weight"),
        Limit("threshold", 0.0, BELOW_0, "from 0 to below 1"),
        Limit("threshold", BELOW_1, 1.0, "from 0 to below 1"),
    ],
    "edas_settled": [
        *EDAS,
        *not_negative("penalty_weight"),
        Limit("delay_epochs", 0, -1, "from 0 to below epochs (25)"),
        Limit("delay_epochs", 24, 25, "from 0 to below epochs (25)"),
    ],
    "random": [],
}

TRAIN = [
    least("epochs", 1), least("accumulation", 1), least("batch_size", 2),
    least("warmup_epochs", 0), least("crop_padding", 0),
    least("cutout", 0), least("workers", 0),
    Limit("workers", 1024, 1025, "at most 1024"), least("skip_unreadable", 0), least("eval_every", 0), least("seed", 0),
    least("image_size", 8, " pixels"), least("train_limit", 2, " images"), least("init_channels", 2),
    least("num_cells", 1), *positive("lr", min_lr=0.0), *not_negative("min_lr", lr=LARGEST),
    *not_negative("momentum"), *not_negative("weight_decay"), *not_negative("grad_clip"), *not_negative("aux_weight"),
    *not_negative("mixup"), *not_negative("cutmix"),
    *(Limit(name, at, beyond, f"from 0 to {most}") for name, most in (("color_jitter", 1.0), ("hue_jitter", 0.5))
      for at, beyond in ((0.0, BELOW_0), (most, math.nextafter(most, 2.0)))),
    Limit("rand_augment", "rand-m9-n3-inc1", "augmix-m3", "timm's words for a RandAugment, such as rand-m9-mstd0.5"),
    *(Limit(name, at, beyond, "from 0 to below 1")
      for name in ("label_smoothing", "drop_path", "ema_decay", "val_fraction")
      for at, beyond in ((0.0, BELOW_0), (BELOW_1, 1.0))),
    *(Limit(name, at, beyond, "greater than 0 and at most 1")
      for name in ("crop_pct", "crop_area_min") for at, beyond in ((ABOVE_0, 0.0), (1.0, ABOVE_1))),
    *(Limit("layer_decay", at, beyond, "greater than 0 and at most 1", {"aux_weight": 0.0})
      for at, beyond in ((ABOVE_0, 0.0), (1.0, ABOVE_1))),
    Limit("min_lr", 0.5, math.nextafter(0.5, 1.0), "at most lr (0.5)", {"lr": 0.5}),
    budget(),
]  # fmt: skip

CASES = [("train", TrainSettings, limit) for limit in TRAIN] + [
    (name, find_method(name)[0], limit) for name in METHODS for limit in [*SEARCH, *OF_METHOD[name]]
]


@pytest.mark.parametrize(
    ("settings_class", "limit"),
    [(settings_class, limit) for _, settings_class, limit in CASES],
    ids=[f"{program}-{limit.name}-{limit.beyond}" for program, _, limit in CASES],
)
def test_the_value_at_the_limit_passes_and_the_one_beyond_is_a_sentence(settings_class, limit):
    assert getattr(settings_class(**limit.others, **{limit.name: limit.at}), limit.name) == limit.at
    with pytest.raises(ValueError, match="must be") as caught:
        settings_class(**limit.others, **{limit.name: limit.beyond})
    assert str(caught.value) == f"{limit.name} must be {limit.what}, got {limit.beyond!r}"


def test_an_unknown_optimizer_is_told_with_those_that_timm_has():
    assert TrainSettings(optimizer="adamw").optimizer == "adamw"
    with pytest.raises(ValueError, match=r"^optimizer must be one of timm's \(.*adamw.*\), got 'adammw'$"):
        TrainSettings(optimizer="adammw")


@pytest.mark.parametrize("program", ["train", *METHODS])
def test_no_number_is_without_limits(program):
    settings_class = TrainSettings if program == "train" else find_method(program)[0]
    limited = {limit.name for name, _, limit in CASES if name == program}
    numbers = {
        field.name
        for field in dataclasses.fields(settings_class)
        if re.search(r"\b(int|float)\b", field.type if isinstance(field.type, str) else repr(field.type))
    }
    assert numbers - limited <= {"seed"}  # of a search: any whole number
