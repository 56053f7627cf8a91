"""Settings of training, and the recipes: sets of them with a source.

A recipe stands over the settings' own defaults, a YAML file over the recipe, a flag over both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from timm.optim import list_optimizers

from nas_zoo.data.augment import Augment, default_augment
from nas_zoo.data.own import DATA, TEST_DATA, LabelledImages
from nas_zoo.data.sources import ImageSource
from nas_zoo.runs.launch import asked_settings
from nas_zoo.runs.schedule import learning_rate
from nas_zoo.runs.settings import (
    MOST_WORKERS,
    read_config,
    require,
    require_finite,
    require_least,
    require_most,
    setting,
    settings_from,
    settle_types,
)
from nas_zoo.runs.trackers import Tracker

__all__ = ["RECIPES", "TrainSettings", "settings_of"]

# DARTS for CIFAR (paper, section 3.2 and appendix A.1; cnn/train.py): C = 36 and 20 cells are the models' own
# defaults. The text of DA2S has cutout and nothing else. The rate changes from epoch to epoch; weight decay is on all
# parameters, those of BatchNorm too.
_DARTS: dict[str, Any] = {
    "epochs": 600,
    "batch_size": 96,
    "optimizer": "momentum",
    "lr": 0.025,
    "min_lr": 0.0,
    "schedule": "cosine",
    "schedule_per": "epoch",
    "warmup_epochs": 0,
    "momentum": 0.9,
    "weight_decay": 3e-4,
    "decay_all": True,
    "grad_clip": 5.0,
    "label_smoothing": 0.0,
    "drop_path": 0.2,
    "aux_weight": 0.4,
    "cutout": 16,
    "crop_area_min": 0.08,
    "ema_decay": 0.0,
}
RECIPES: dict[str, dict[str, Any]] = {
    "cifar": _DARTS,
    # EDAS for CIFAR (section 4.2): 600 epochs, "other settings" as in its search (section 4.1), so batch 64 and a rate
    # that ends at 0.001. It speaks of neither auxiliary head nor drop path: they are DARTS', from whose pipeline its
    # evaluation is adopted (section 4); cutout stands in Table 2.
    "edas": _DARTS | {"batch_size": 64, "min_lr": 0.001},
    # ImageNet as EDAS and DA2S train (from P-DARTS and PC-DARTS): C = 48 and 14 cells are the models' own defaults.
    # Random resized crops, mirroring and colour jitter as there (P-DARTS, PC-DARTS: train_imagenet.py).
    "imagenet": _DARTS | {
        "epochs": 250, "batch_size": 1024, "lr": 0.5, "schedule": "linear", "warmup_epochs": 5, "weight_decay": 3e-5,
        "label_smoothing": 0.1, "drop_path": 0.0, "cutout": 0, "color_jitter": 0.4, "hue_jitter": 0.2,
        "image_size": 224, "crop_pct": 0.875,
    },
    # Ours, for minutes instead of days: a high rate that falls to 0 within the budget (Smith and Topin, 2017), which
    # regularises by itself, so neither drop path, cutout nor auxiliary head; Nesterov and 5e-4 as is usual for short
    # runs on CIFAR; the moving average settles what the high rate leaves noisy. Of photographs at least a third is
    # shown, as in short runs on Imagenette (fastai's); crops of a twelfth want hundreds of epochs.
    "quick": _DARTS | {
        "epochs": 30, "batch_size": 64, "optimizer": "sgd", "lr": 0.1, "schedule_per": "iteration", "warmup_epochs": 2,
        "weight_decay": 5e-4, "decay_all": False, "label_smoothing": 0.1, "drop_path": 0.0, "aux_weight": 0.0,
        "cutout": 0, "crop_area_min": 0.35, "ema_decay": 0.999,
    },
}  # fmt: skip
# Ours, for a network of C = 16 and 8 cells on some 40 epochs of CIFAR-10, hours of one CPU core: one cycle to a higher
# rate, which the larger batch bears. Growing images and cutout were tried in short pilots and brought nothing
# (benchmarks/README.md has their figures).
RECIPES["budget"] = RECIPES["quick"] | {
    "epochs": 40, "batch_size": 128, "lr": 0.15, "schedule": "one_cycle", "warmup_epochs": 8,
}  # fmt: skip
# Ours, for the papers' networks (C = 36, 20 cells) in half an hour of an H100, and not tried yet: four times the batch
# with a rate not quite in proportion, bfloat16, and what keeps DARTS' 600 epochs from overfitting, drop path at half
# its strength. The number of epochs is arithmetic (benchmarks/README.md).
RECIPES["half_hour"] = RECIPES["budget"] | {
    "epochs": 80, "batch_size": 512, "lr": 0.4, "warmup_epochs": 16, "precision": "bf16", "cutout": 16,
    "drop_path": 0.1, "aux_weight": 0.4,
}  # fmt: skip
# Ours, for networks that are trained already (--pretrained), as people fine-tune with timm: a fifth of the rate
# from scratch, since a high one undoes what the network knows, a short warm-up for the new classifier, which
# begins at random beside trained features, and a moving average. --layer-decay 0.75 holds the first layers back
# further, --frozen-stem holds the stem altogether.
RECIPES["finetune"] = RECIPES["quick"] | {"epochs": 10, "lr": 0.02, "warmup_epochs": 1, "weight_decay": 1e-4}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of training; those of the recipe stand between these defaults and what you give."""

    recipe: Literal["cifar", "edas", "imagenet", "quick", "budget", "half_hour", "finetune"] = setting(
        "cifar", "named settings: of the papers, for minutes, or for networks that are trained already"
    )
    model: str = setting("edas_c10", "timm model, ours or any other; `nas-zoo list` shows ours")
    genotype: str | None = setting(None, "cells: name, file or search folder; none: the model's own")
    init_channels: int | None = setting(None, "C, channels of a node in the first cells; none: the model's own")
    num_cells: int | None = setting(None, "cells in all; none: the model's own")
    init_weights: Path | None = setting(None, "start from a .safetensors file, such as a search's derived.safetensors")
    pretrained: bool = setting(False, "begin with the trained weights of that model (`nas-zoo list --pretrained`)")
    keep_classifier: bool = setting(False, "keep the classifier of first weights, though its classes may be others")
    frozen_stem: bool = setting(False, "keep the weights of the stem as they are; its statistics follow the images")
    layer_decay: float = setting(1.0, "of the learning rate, from each layer to the one before it, as in timm; 1: none")
    data: str | LabelledImages = setting("digits", DATA)
    test_data: str | LabelledImages | None = setting(None, TEST_DATA)
    image_column: str | None = setting(None, "column of a table that has the images, or their files; none: found")
    label_column: str | None = setting(None, "column of a table that has the classes; none: found")
    data_root: Path | None = setting(None, "folder of cifar10 / cifar100; none: the user's cache, downloaded if absent")
    division: Path | None = setting(None, "file of training images to hold out and to leave out, of `nas-zoo auto`")
    image_size: int | None = setting(None, "side of the images; none: as the data set has them", unit="pixels")
    crop_pct: float = setting(1.0, "part of the shorter side that the test images' centre crop keeps")
    train_limit: int | None = setting(None, "use only so many training images (seeded choice); none: all")
    val_fraction: float = setting(0.0, "part of the training images that is held out to watch the run")
    out: Path = setting(Path("runs/train"), "folder of the run: log, checkpoint, model.safetensors, result.json")
    seed: int = setting(0, "seed of everything: weights, order, augmentation, drop path")
    epochs: int = setting(600, "passes over the training images")
    batch_size: int = setting(96, "images a step, over all processes")
    optimizer: str = setting("momentum", "timm's name: momentum is SGD with it, sgd is with Nesterov's, adamw ...")
    lr: float = setting(0.025, "learning rate at the start")
    min_lr: float = setting(0.0, "and what it falls to")
    schedule: Literal["cosine", "linear", "one_cycle", "constant"] = setting("cosine", "how the learning rate falls")
    schedule_per: Literal["epoch", "iteration"] = setting("epoch", "when it changes")
    warmup_epochs: int = setting(0, "epochs in which the rate rises linearly to what the schedule says")
    momentum: float = setting(0.9, "momentum of the optimizer, where it has one")
    weight_decay: float = setting(3e-4, "weight decay")
    decay_all: bool = setting(True, "decay BatchNorm and biases too, as DARTS does; no: as timm does")
    grad_clip: float = setting(5.0, "largest norm of the gradient; 0: no clipping")
    label_smoothing: float = setting(0.0, "part of the target that is spread over all classes")
    drop_path: float = setting(0.2, "drop path after the last epoch, rising linearly from 0; 0: off")
    aux_weight: float = setting(0.4, "weight of the auxiliary head's loss; 0: no auxiliary head")
    crop_padding: int = setting(4, "random crop after padding, at 32 pixels; scaled to the image size", unit="pixels")
    crop_area_min: float = setting(0.08, "least part of a photograph that a random crop shows, from 96 pixels on")
    flip: bool | None = setting(None, "mirror half of the images; none: photographs yes, digits no")
    cutout: int = setting(16, "side of the blanked square, at 32 pixels; scaled to the image size", unit="pixels")
    color_jitter: float = setting(0.0, "brightness, contrast, saturation: changed by up to this part (DARTS: 0.4)")
    hue_jitter: float = setting(0.0, "most that the hue is turned, as part of the circle (DARTS: 0.2); 0: off")
    rand_augment: str | None = setting(None, "timm's RandAugment in its words, such as rand-m9-mstd0.5; none: off. "
                                             "timm has no colour jitter beside it: --color-jitter 0")  # fmt: skip
    mixup: float = setting(0.0, "alpha of timm's mixup of a batch's images in pairs (usual: 0.2 to 0.8); 0: off")
    cutmix: float = setting(0.0, "alpha of timm's cutmix (usual: 1); with mixup one of them by chance; 0: off")
    ema_decay: float = setting(0.0, "moving average of the weights: its decay, less in a short run; 0: off")
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16: autocast of the forward passes")
    channels_last: bool = setting(True, "memory format of images and weights; faster, same mathematics")
    compile: bool = setting(False, "torch.compile the training step's network")
    accumulation: int = setting(1, "batches of a step, whose gradients are averaged; an epoch has so many fewer steps")
    sync_bn: bool = setting(False, "BatchNorm statistics of the batches of all processes, as one process would have "
                                   "them; no: each has its own, and running ones are averaged before use")  # fmt: skip
    workers: int | None = setting(None, "processes that load data too large for memory; none: one a core, up to 16")
    skip_unreadable: int = setting(0, "go on without at most so many images that cannot be read")
    eval_every: int = setting(1, "epochs between two looks at the held-out part; 0: none on the way")
    test_curve: bool = setting(False, "look at the test split then too; shown and logged, used for nothing")
    log_with: tuple[Tracker, ...] = setting((), "trackers beside the log, each if it is installed: tensorboard, wandb, "
                                               "mlflow or all that are")  # fmt: skip
    time_budget: float | None = setting(None, "write a checkpoint and stop after this long", unit="s")

    def __post_init__(self) -> None:
        settle_types(self)
        require_least(self, epochs=1, accumulation=1, batch_size=2, warmup_epochs=0, crop_padding=0, cutout=0,
                      eval_every=0, seed=0, skip_unreadable=0, workers=0, init_channels=2, num_cells=1)  # fmt: skip
        require_finite(self, "min_lr", "momentum", "weight_decay", "grad_clip", "aux_weight")
        for name in ("label_smoothing", "drop_path", "ema_decay", "val_fraction"):
            require(0 <= getattr(self, name) < 1, name, getattr(self, name), "from 0 to below 1")
        require_finite(self, "lr", above=True)
        require(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr ({self.lr})")
        if self.schedule == "one_cycle":  # which has to fall again
            require_most(self, warmup_epochs=self.epochs - 1)
        for name in ("crop_pct", "crop_area_min", "layer_decay"):
            require(0 < getattr(self, name) <= 1, name, getattr(self, name), "greater than 0 and at most 1")
        for name, least, unit in (("image_size", 8, " pixels"), ("train_limit", 2, " images")):
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"at least {least}{unit}")
        require_most(self, workers=MOST_WORKERS)
        if self.pretrained and self.init_weights is not None:
            raise ValueError("pretrained and init_weights are two sets of first weights: give one of them")
        if self.keep_classifier and not self.pretrained and self.init_weights is None:
            raise ValueError(
                "keep_classifier goes with pretrained or init_weights: without first weights there is none"
            )
        if self.layer_decay < 1.0 and self.aux_weight:
            raise ValueError(f"aux_weight must be 0 with layer_decay={self.layer_decay}, got {self.aux_weight}")
        budget = self.time_budget
        require(budget is None or budget > 0, "time_budget", budget, "more than 0 seconds")
        Augment(**self._more)  # which checks them
        known = [str(name) for name in list_optimizers()]
        require(self.optimizer in known, "optimizer", self.optimizer, f"one of timm's ({', '.join(known)})")

    @property
    def _more(self) -> dict[str, Any]:
        names = ("color_jitter", "hue_jitter", "rand_augment", "mixup", "cutmix")
        return {name: getattr(self, name) for name in names}

    def augment(self, source: ImageSource, size: int) -> Augment:
        """The training augmentation of a source's images of `size` pixels."""
        cutout = round(self.cutout * size / 32)
        return default_augment(
            source, size, cutout, crop_padding=self.crop_padding, crop_area_min=self.crop_area_min, flip=self.flip,
            **self._more,
        )  # fmt: skip

    @classmethod
    def from_recipe(cls, recipe: str, **settings: Any) -> TrainSettings:
        """The recipe's settings, and over them those that are given; ValueError for what there is not."""
        return settings_of({"recipe": recipe, **settings})

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of iteration ``step`` of ``steps`` in an epoch, both from 0."""
        unit = 1 if self.schedule_per == "epoch" else steps
        at = epoch if self.schedule_per == "epoch" else epoch * steps + step
        return learning_rate(self.schedule, self.lr, self.min_lr, at, self.epochs * unit, self.warmup_epochs * unit)

    def drop_path_rate(self, epoch: int) -> float:
        """Drop path's probability in an epoch from 0: ``drop_path * epoch / epochs``, as in DARTS."""
        return self.drop_path * epoch / self.epochs


def folder_of(flags: Mapping[str, Any], config: Path | None = None) -> Path:
    """Where the run of these flags and that file is to lie."""
    out = flags.get("out") or (read_config(config) if config else {}).get("out") or TrainSettings.out
    return Path(str(out)).expanduser()


def settings_of(flags: Mapping[str, Any], config: Path | None = None) -> TrainSettings:
    """Class defaults, over them the recipe, what accelerate was asked for, the YAML file and last the flags."""
    named = flags.get("recipe") or (read_config(config) if config else {}).get("recipe") or TrainSettings.recipe
    under = {f"recipe {named}": RECIPES[named]} if isinstance(named, str) and named in RECIPES else {}
    return settings_from(TrainSettings, flags, config, under=under | asked_settings(TrainSettings))
