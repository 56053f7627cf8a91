"""Settings of `nas-zoo auto`: what is wanted, and few that an expert changes."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

import timm

from nas_zoo.genotype import load_genotype
from nas_zoo.models.load import find_cfg
from nas_zoo.runs.settings import MOST_WORKERS, require, require_least, require_most, setting
from nas_zoo.search import find_method
from nas_zoo.text import near_names
from nas_zoo.train import RECIPES

__all__ = ["COMPARISON", "AutoSettings"]

#: What a finished run may be given: of the comparison, which changes nothing of what was found.
COMPARISON = ("compare", "compare_budget", "against_cells", "against", "pretrained")


@dataclass(frozen=True)
class AutoSettings:
    """Settings of the whole way"""

    data: str | None = setting(
        None,
        "pictures (or the first word): folder, tars or zip of class folders, digits, cifar10, cifar100, or what else "
        "`nas-zoo train --data` takes",
    )
    max_latency: float | None = setting(None, "limit of the latency of one picture here, needed", unit="ms")
    time_budget: float | None = setting(None, "time for the whole, needed", unit="s")
    out: Path = setting(Path("runs/auto"), "folder of the result and of everything on the way to it")
    test_data: str | None = setting(None, "folder, tar or zip of the test images; none: as the data set has them, or a "
                                          "fifth held out")  # fmt: skip
    image_size: int | None = setting(None, "side of the images; none: by their sizes and the budgets", unit="pixels")
    threads: int = setting(1, "that the finished network runs with")
    seed: int = setting(0, "seed of everything")
    method: str = setting("edas", "search method, as `nas-zoo search` has them")
    recipe: str = setting("budget", "recipe of the training, as `nas-zoo train` has them")
    init_channels: int | None = setting(None, "channels of a node in the first cells; none: by the budgets")
    num_cells: int | None = setting(None, "cells; none: by the budgets")
    max_epochs: int = setting(200, "most epochs of the training, and of the search, whatever time is left")
    image_column: str | None = setting(None, "column of a table that has the images, or their files; none: found")
    label_column: str | None = setting(None, "column of a table that has the classes; none: found")
    data_root: Path | None = setting(None, "folder of cifar10 / cifar100; none: the user's cache, downloaded if absent")
    flip: bool | None = setting(None, "mirror half of the training images, which letters and signs do not bear; none: "
                                      "photographs yes, digits no")  # fmt: skip
    skip_unreadable: int = setting(0, "go on without at most so many images that cannot be read")
    workers: int | None = setting(None, "processes that load data too large for memory; none: one a core, up to 16")

    compare: bool = setting(False, "train random cells, cells of the catalogue and a network of timm too, for the page")
    compare_budget: float | None = setting(
        None, "time for that, beside time_budget; none: for each as long as for what was found", unit="s"
    )
    against_cells: str = setting("darts_v2", "the cells of the catalogue")
    against: str = setting("mobilenetv3_small_100", "the network of timm, trained from scratch")
    pretrained: bool = setting(False, "compare with its published weights too, fine-tuned; they are fetched")

    def __post_init__(self) -> None:
        for name, unit in (("max_latency", "ms"), ("time_budget", "seconds"), ("compare_budget", "seconds")):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, name, value, f"more than 0 {unit} and finite")
        require_least(
            self,
            image_size=8,
            threads=1,
            seed=0,
            init_channels=4,
            num_cells=3,
            max_epochs=1,
            skip_unreadable=0,
            workers=0,
        )
        require_most(self, workers=MOST_WORKERS, threads=os.cpu_count() or 1)  # with more nothing can be measured
        require(self.recipe in RECIPES, "recipe", self.recipe, f"one of {', '.join(RECIPES)}")
        find_method(self.method)
        if self.compare:
            try:
                load_genotype(self.against_cells)
            except ValueError as error:
                raise ValueError(f"against_cells: {error}") from None
            if not timm.is_model(self.against):
                raise ValueError(
                    f"against: timm has no model {self.against!r}{near_names(self.against, timm.list_models())}"
                )
            cfg = find_cfg(self.against)
            if cfg is not None and cfg.fixed_input_size and self.image_size != (size := cfg.input_size[1]):
                raise ValueError(
                    f"against: {self.against} needs --image-size {size}: it takes no images of another size"
                )
        elif self.pretrained:
            raise ValueError("pretrained goes with compare: it is one more network to compare with")
