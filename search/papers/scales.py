"""How large an experiment is: tiny (seconds, shows that it runs), small (a CPU core and minutes a search), paper.

    scale   images      cells x C   iterations   retraining
    tiny    digits      3 x 4       8            an epoch of 200 images
    small   4,000       5 x 8       372          an epoch of 12,500 images, 5 cells of 16 channels
    paper   each paper's own settings, searches and retraining alike

A short search cannot move alpha as far as the paper's: Adam moves it by about its learning rate a step. So at tiny and
small each method's learning rate of alpha is the paper's times the paper's steps over ours (for EDAS: steps of an
edge), which gives each the way that its authors gave it. There all share DARTS' optimizer of the weights and the
supernet without partial channels, but for PC-DARTS, whose point they are. Of a method from outside no such way is
known: it has the learning rate of alpha that its own settings have.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nas_zoo.search.papers.runs import Searching
from nas_zoo.search.report.history import METHOD_NAMES

__all__ = ["CASES", "SCALES", "Case", "Scale", "case_of", "label", "retraining", "searching", "short_label"]


@dataclass(frozen=True)
class Scale:
    """Sizes; the settings hold what the paper's own are replaced by."""

    name: str
    search: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    long_epochs: int = 100  # of the search that EDAS' Figure 4 watches
    #: Of the networks whose memory is measured: cells, then C, pixels and batch.
    memory_cells: tuple[int, ...] = (8, 12, 16, 20)
    memory_size: tuple[int, int, int] = (16, 32, 64)
    data: str = "cifar10"

    @property
    def own(self) -> bool:
        """Whether settings are the paper's."""
        return not self.search


_WEIGHTS = {"lr": 0.025, "lr_min": 0.001}
SCALES = {
    "tiny": Scale(
        "tiny",
        {**_WEIGHTS, "epochs": 2, "num_cells": 3, "init_channels": 4, "batch_size": 25, "train_limit": 200,
         "eval_size": 50, "gap_batches": 1},
        {"recipe": "quick", "model": "cell_net_cifar", "init_channels": 4, "num_cells": 3, "train_limit": 200,
         "epochs": 1, "warmup_epochs": 0, "eval_every": 0},
        6, (3, 4), (4, 8, 8), "digits",
    ),
    "small": Scale(
        "small",
        {**_WEIGHTS, "epochs": 6, "num_cells": 5, "init_channels": 8, "batch_size": 32, "train_limit": 4000,
         "image_size": 16, "eval_size": 1000},
        {"recipe": "quick", "model": "cell_net_cifar", "init_channels": 16, "num_cells": 5, "train_limit": 12500,
         "image_size": 16, "epochs": 1, "warmup_epochs": 0, "eval_every": 0},
        12, (8, 12, 16, 20), (8, 16, 32),
    ),
    "paper": Scale("paper"),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A method with its settings."""

    method: str
    alpha_way: float = 0.0  # the paper's learning rate of alpha times its architecture steps (EDAS: of one edge)
    own: Mapping[str, Any] = field(default_factory=dict)
    active: float = 1.0  # part of the iterations in which alpha moves


_DARTS_WAY = 3e-4 * 50 * 390  # 50 epochs of 25,000 images at 64
_PC_DARTS_WAY = 6e-4 * 35 * 97  # 35 of 50 epochs at 256
_DA2S_WAY = 3e-4 * 50 * 390  # the batch of the authors' code, 64; the paper names none
_EDAS_WAY = 0.025 * 25 * 391 / 28  # 28 edges take turns
_GDAS_WAY = 3e-4 * 250 * 390  # 250 epochs of 25,000 images at 64
_DRNAS_WAY = 6e-4 * 30 * 390  # 30 of 50 epochs at 64
_FAIRDARTS_WAY = 3e-3 * 50 * 195  # 50 epochs at 128
_WARM_UP = 10 / 25  # of the epochs

#: By the palette's names, in the order of the colours' key.
CASES: dict[str, Case] = {
    "edas": Case("edas", _EDAS_WAY, active=1 / 28),
    "darts": Case("darts", _DARTS_WAY),
    "da2s": Case("da2s", _DA2S_WAY),
    "edas_warmup": Case("edas", _EDAS_WAY, {"warmup_epochs": _WARM_UP}, 1 / 28),
    "alpha_max": Case("alpha_max", _EDAS_WAY, active=1 / 28),
    "edas_warmup_weights": Case("edas", _EDAS_WAY, {"warmup_epochs": _WARM_UP, "invert_in": "weights"}, 1 / 28),
    "pc_darts": Case("pc_darts", _PC_DARTS_WAY, {"partial_channels": 4}, 0.7),
    "random": Case("random"),
    "gdas": Case("gdas", _GDAS_WAY),
    "drnas": Case("drnas", _DRNAS_WAY, active=0.6),
    "fairdarts": Case("fairdarts", _FAIRDARTS_WAY),
    "edas_settled": Case("edas_settled", _EDAS_WAY, active=1 / 28),
    "da2s_released": Case("da2s_released", _DA2S_WAY),
}


def case_of(name: str) -> Case:
    """One of CASES; of a method from outside one with the defaults of its own settings."""
    return CASES.get(name) or Case(name)


def label(name: str) -> str:
    """A method's name on the pages."""
    return METHOD_NAMES.get(name, name)


def short_label(name: str) -> str:
    """The same where a figure has little room."""
    short = {"edas_warmup": "warm-up", "edas_warmup_weights": "weight step", "edas_settled": "EDAS settled"}
    return short.get(name) or label(name).rpartition(":")[2]


def searching(case_name: str, scale: Scale, seed: int, **more: Any) -> Searching:
    """The search of a case, or of a method from outside, at a scale; `more`: settings of the experiment."""
    case = case_of(case_name)
    settings = {**scale.search, "seed": seed, **case.own, **more}
    if scale.own:
        settings |= {"warmup_epochs": 10} if "warmup_epochs" in settings else {}
        settings = {name: value for name, value in settings.items() if name != "partial_channels"}
        return Searching(case.method, settings)
    if case.method in ("da2s", "da2s_released"):
        settings.setdefault("partial_channels", 1)
    if "warmup_epochs" in settings:
        settings["warmup_epochs"] = max(1, round(settings["epochs"] * settings["warmup_epochs"]))
    if case.alpha_way:
        steps = settings["epochs"] * (settings["train_limit"] // 2 // settings["batch_size"])
        rate = float(f"{case.alpha_way / (steps * case.active):.4g}")
        settings["alpha_lr"] = min(rate, 1.0)  # of the tiny ones
    return Searching(case.method, settings)


def retraining(scale: Scale, paper: str) -> dict[str, Any]:
    """Settings of retraining; `paper`: "EDAS" or "DA2S", whose own recipe it is at scale paper."""
    if scale.own:
        return {"recipe": "edas" if paper == "EDAS" else "cifar", "model": "cell_net_cifar"}
    return dict(scale.train)
