"""Trains one network: the paper's recipes for derived cells, or any other timm model.

    python -m nas_zoo.train --recipe quick --model cell_net_cifar --init-channels 8 --num-cells 5 --data digits
    accelerate launch -m nas_zoo.train --model edas_c10 --data cifar10 --out runs/edas_c10
    accelerate launch -m nas_zoo.train --recipe imagenet --model edas_in1k --data imagenet/ --workers 16
    python -m nas_zoo.train --recipe quick --init-weights runs/search/derived.safetensors --data digits
    python -m nas_zoo.train --resume --out runs/edas_c10
    ACCELERATE_USE_CPU=true torchrun --standalone --nproc-per-node 2 -m nas_zoo.train --recipe quick --data digits

A recipe is a set of settings with a source (RECIPES); a YAML file (--config) wins over it, a flag over both. The run's
folder holds ``log.jsonl`` (settings and machine, then a line an epoch), ``checkpoint.pt`` (after each epoch, on SIGTERM
or Ctrl-C, when the time budget runs out, and every ten minutes) and at the end ``model.safetensors`` with
``config.json``, which ``timm.create_model('local-dir:FOLDER', pretrained=True)`` opens, and ``result.json``.

The test split gives the final figure and decides nothing. Which weights the result is of is fixed before training: the
moving average where ``ema_decay`` is above 0, else the last. To choose between settings use ``--val-fraction``.

Every random choice is a function of seed, epoch and iteration, so ``--resume`` continues the run as if it had never
stopped, and several processes order and augment as one process with the same global batch does. Only the masks of drop
path (and of a model's own dropout) differ with the number of processes, each drawing those of its own rows.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import timm
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from timm.layers import DropPath
from timm.models._hub import save_config_for_hf
from timm.optim import create_optimizer_v2, list_optimizers
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from nas_zoo.data.augment import Augment, default_augment, epoch_order, random_draws
from nas_zoo.data.batches import Batches
from nas_zoo.data.named import limited, open_source
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import Genotype, as_genotype
from nas_zoo.models.depthwise import strided_pointwise
from nas_zoo.models.network import CellNet
from nas_zoo.runs.checkpoint import check_finite, save_checkpoint, write_json, write_weights
from nas_zoo.runs.distributed import (
    autocast_for,
    average_buffers,
    average_gradients,
    convert_global_batch_norm,
    longest_since,
    start_accelerator,
    total_over_processes,
)
from nas_zoo.runs.facts import peak_memory_gb, run_facts
from nas_zoo.runs.log import RunLog, run_to_resume
from nas_zoo.runs.schedule import learning_rate
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    describe,
    given_flags,
    read_config,
    resumed_settings,
    setting,
    settings_from,
    to_dict,
)
from nas_zoo.runs.stop import StopRequest
from nas_zoo.train.evaluation import evaluate, evaluate_model

__all__ = [
    "RECIPES",
    "AuxiliaryHead",
    "TrainSettings",
    "evaluate",
    "evaluate_model",
    "main",
    "save_model",
    "train",
]

CHECKPOINT_KIND = "train"
CHECKPOINT_SECONDS = 600.0
#: What a resumed run may change: where things lie and how long it may take, never what is computed.
CHANGEABLE = ("data", "test_data", "data_root", "out", "time_budget", "workers")
_MASKS = 16  # the stream of random numbers that seeds rank 0's masks; those below are the batches' own

RECIPES: dict[str, dict[str, Any]] = {
    # DARTS for CIFAR (paper, section 3.2 and appendix A.1; cnn/train.py): C = 36 and 20 cells are the models' own
    # defaults. EDAS (section 4.2) says 600 epochs and "other settings" as in its search, so batch 64 (--batch-size 64),
    # and cutout in Table 2; the text of DA2S has cutout and nothing else. The rate changes from epoch to epoch; weight
    # decay is on all parameters, those of BatchNorm too.
    "cifar": {
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
    },
    # ImageNet as EDAS and DA2S train (from P-DARTS and PC-DARTS): C = 48 and 14 cells are the models' own defaults.
    # Random resized crops and mirroring as there; their colour jitter is left out.
    "imagenet": {
        "epochs": 250,
        "batch_size": 1024,
        "optimizer": "momentum",
        "lr": 0.5,
        "min_lr": 0.0,
        "schedule": "linear",
        "schedule_per": "epoch",
        "warmup_epochs": 5,
        "momentum": 0.9,
        "weight_decay": 3e-5,
        "decay_all": True,
        "grad_clip": 5.0,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "aux_weight": 0.4,
        "cutout": 0,
        "crop_area_min": 0.08,
        "ema_decay": 0.0,
        "image_size": 224,
        "crop_pct": 0.875,
    },
    # Ours, for minutes instead of days: a high rate that falls to 0 within the budget (Smith and Topin, 2017), which
    # regularises by itself, so neither drop path, cutout nor auxiliary head; Nesterov and 5e-4 as is usual for short
    # runs on CIFAR; the moving average settles what the high rate leaves noisy. Of photographs at least a third is
    # shown, as in short runs on Imagenette (fastai's); crops of a twelfth want hundreds of epochs.
    "quick": {
        "epochs": 30,
        "batch_size": 64,
        "optimizer": "sgd",
        "lr": 0.1,
        "min_lr": 0.0,
        "schedule": "cosine",
        "schedule_per": "iteration",
        "warmup_epochs": 2,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "decay_all": False,
        "grad_clip": 5.0,
        "label_smoothing": 0.1,
        "drop_path": 0.0,
        "aux_weight": 0.0,
        "cutout": 0,
        "crop_area_min": 0.35,
        "ema_decay": 0.999,
    },
}


def _check(condition: bool, name: str, value: Any, accepted: str) -> None:
    if not condition:
        raise ValueError(f"{name}={value!r}: {accepted}")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of training; those of the recipe stand between these defaults and what you give."""

    recipe: Literal["cifar", "imagenet", "quick"] = setting("cifar", "named settings: of the papers, or for minutes")
    model: str = setting("edas_c10", "timm model, ours or any other; `nas-zoo list` shows ours")
    genotype: str | None = setting(None, "cells: name, file or search folder; none: the model's own")
    init_channels: int | None = setting(None, "C, channels of a node in the first cells; none: the model's own")
    num_cells: int | None = setting(None, "cells in all; none: the model's own")
    init_weights: Path | None = setting(None, "start from a .safetensors file, such as a search's derived.safetensors")
    data: str = setting("digits", "data set: digits, cifar10, cifar100, a folder or a tar of class folders")
    test_data: str | None = setting(None, "folder or tar of the test images; none: as the data set has them")
    data_root: Path | None = setting(None, "folder of cifar10 / cifar100; none: the user's cache, downloaded if absent")
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
    schedule: Literal["cosine", "linear", "constant"] = setting("cosine", "how the learning rate falls")
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
    ema_decay: float = setting(0.0, "moving average of the weights: its decay, less in a short run; 0: off")
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16: autocast of the forward passes")
    channels_last: bool = setting(True, "memory format of images and weights; faster, same mathematics")
    compile: bool = setting(False, "torch.compile the training step's network")
    sync_bn: bool = setting(True, "BatchNorm statistics over all processes, as one process would have them")
    workers: int = setting(2, "loader processes for data sets that do not fit in memory")
    eval_every: int = setting(1, "epochs between two looks at the held-out part; 0: none on the way")
    test_curve: bool = setting(False, "look at the test split then too; shown and logged, used for nothing")
    time_budget: float | None = setting(None, "write a checkpoint and stop after this long", unit="s")

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 2), ("warmup_epochs", 0), ("crop_padding", 0), ("cutout", 0),
                            ("workers", 0), ("eval_every", 0), ("seed", 0)):  # fmt: skip
            _check(getattr(self, name) >= least, name, getattr(self, name), f"at least {least}")
        for name in ("min_lr", "momentum", "weight_decay", "grad_clip", "aux_weight"):
            _check(0 <= getattr(self, name) < math.inf, name, getattr(self, name), "0 or above")
        for name in ("label_smoothing", "drop_path", "ema_decay", "val_fraction"):
            _check(0 <= getattr(self, name) < 1, name, getattr(self, name), "in [0, 1)")
        _check(0 < self.lr < math.inf, "lr", self.lr, "above 0")
        _check(self.min_lr <= self.lr, "min_lr", self.min_lr, f"at most lr ({self.lr})")
        for name in ("crop_pct", "crop_area_min"):
            _check(0 < getattr(self, name) <= 1, name, getattr(self, name), "in (0, 1]")
        _check(self.time_budget is None or self.time_budget > 0, "time_budget", self.time_budget, "above 0 seconds")
        _check(self.image_size is None or self.image_size >= 8, "image_size", self.image_size, "at least 8 pixels")
        _check(self.train_limit is None or self.train_limit >= 2, "train_limit", self.train_limit, "at least 2 images")
        known = [str(name) for name in list_optimizers()]
        _check(self.optimizer in known, "optimizer", self.optimizer, f"timm has {', '.join(known)}")

    def rate(self, epoch: int, step: int, steps: int) -> float:
        """The learning rate of iteration ``step`` of ``steps`` in an epoch, both from 0."""
        unit = 1 if self.schedule_per == "epoch" else steps
        at = epoch if self.schedule_per == "epoch" else epoch * steps + step
        return learning_rate(self.schedule, self.lr, self.min_lr, at, self.epochs * unit, self.warmup_epochs * unit)

    def drop_path_rate(self, epoch: int) -> float:
        """Drop path's probability in an epoch from 0: ``drop_path * epoch / epochs``, as in DARTS."""
        return self.drop_path * epoch / self.epochs


class AuxiliaryHead(nn.Module):
    """Logits (N, num_classes) of a tap (N, channels, size, size): DARTS's head at two thirds of the depth.

    The tap is activated already. 5x5 pooling of stride 3 (8 pixels: CIFAR) or 2 (7: ImageNet) gives 2x2 as in DARTS;
    other sizes are pooled to 2x2 adaptively. Behind the second convolution stands a BatchNorm, which DARTS's code for
    ImageNet leaves out (by its own comment a slip).
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        stride = {8: 3, 7: 2}.get(size)
        self.pool = nn.AvgPool2d(5, stride, count_include_pad=False) if stride else nn.AdaptiveAvgPool2d(2)
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, tap: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.pool(tap))), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.classifier(x.flatten(1))


class Trained(nn.Module):
    """The model and, beside it and never saved with it, its auxiliary head."""

    def __init__(self, model: nn.Module, auxiliary: AuxiliaryHead | None) -> None:
        super().__init__()
        self.model, self.auxiliary = model, auxiliary

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.auxiliary is None:
            return self.model(images), None
        model: Any = self.model
        features, tap = model.forward_auxiliary(images)
        return model.forward_head(features), self.auxiliary(tap)


class TensorDropPath(DropPath):
    """timm's DropPath with its rate in a tensor: torch.compile then need not compile anew when the rate changes."""

    keep: Tensor

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.register_buffer("keep", torch.ones(()), persistent=False)

    @property
    def drop_prob(self) -> float:
        return 1.0 - float(self.keep)

    @drop_prob.setter
    def drop_prob(self, rate: float) -> None:
        self.keep.fill_(1.0 - rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = torch.bernoulli(self.keep.expand(x.shape[0], *[1] * (x.ndim - 1)))
        return x * (mask / self.keep).to(x.dtype)


# ------------------------------------------------------------------------------------------------------------ model


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a .safetensors file, or of the one in a folder; ValueError in one line."""
    if path.is_dir():
        path = next((path / n for n in ("model.safetensors", "derived.safetensors") if (path / n).exists()), path)
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"init_weights={str(path)!r}: no readable .safetensors file: {error}") from None


def describe_mismatch(model: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """What keeps `tensors` from being the model's state dict, in one line; None where nothing does."""
    own = model.state_dict()
    lists = {
        "missing": [name for name in own if name not in tensors],
        "unknown": [name for name in tensors if name not in own],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} for {tuple(own[name].shape)}"
            for name in own
            if name in tensors and tensors[name].shape != own[name].shape
        ],
    }
    told = [f"{len(names)} {what} ({names[0]}{' ...' if names[1:] else ''})" for what, names in lists.items() if names]
    return "; ".join(told) or None


def make_model(settings: TrainSettings, num_classes: int, in_chans: int, model_args: Mapping[str, Any]) -> nn.Module:
    """The model through timm, with what of `model_args` is not None (genotype, init_channels, num_cells, pool_bn)."""
    args = {name: value for name, value in model_args.items() if value is not None}
    if settings.drop_path:
        args["drop_path_rate"] = settings.drop_path
    try:
        return timm.create_model(settings.model, num_classes=num_classes, in_chans=in_chans, **args)
    except RuntimeError as error:
        if "Unknown model" not in str(error):
            raise
        raise ValueError(f"model={settings.model!r} is unknown to timm; `nas-zoo list` shows ours") from None
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"model={settings.model!r} cannot be made with {', '.join(args)}: {error}") from None


def chosen_args(settings: TrainSettings, num_classes: int, in_chans: int) -> dict[str, Any]:
    """What the settings and the file of first weights say of the model: arguments for make_model, as JSON has them."""
    genotype = None if settings.genotype is None else as_genotype(settings.genotype)
    args: dict[str, Any] = {"init_channels": settings.init_channels, "num_cells": settings.num_cells}
    if settings.init_weights is not None:
        tensors, metadata = read_weights(settings.init_weights)
        if "genotype" in metadata:
            found = as_genotype(metadata["genotype"])
            if genotype is not None and genotype.digest != found.digest:
                raise ValueError(
                    f"init_weights={str(settings.init_weights)!r}: of other cells than genotype={settings.genotype!r}"
                )
            genotype = found
            # The file of a search says its size by its shapes.
            if args["num_cells"] is None:
                numbers = [int(name.split(".")[1]) for name in tensors if name.startswith("cells.")]
                args["num_cells"] = max(numbers, default=0) + 1
            if args["init_channels"] is None:
                imagenet = "stem.1.conv.weight" in tensors or "stem.2.conv.weight" in tensors
                stem = len(tensors.get("stem.0.conv.weight", ()))
                args["init_channels"] = (2 * stem if imagenet else stem // 3) or None
        args["genotype"] = None if genotype is None else genotype.to_json()
        wrong = None
        for pool_bn in (True, None):  # with a BatchNorm behind each pooling, as in a search, or without
            if pool_bn and "genotype" not in metadata:
                continue
            model = make_model(settings, num_classes, in_chans, args | {"pool_bn": pool_bn})
            mismatch = describe_mismatch(model, tensors)
            if mismatch is None:
                return args | {"pool_bn": pool_bn}
            wrong = wrong or mismatch
        raise ValueError(f"init_weights={str(settings.init_weights)!r} do not fit {settings.model}: {wrong}")
    args["genotype"] = None if genotype is None else genotype.to_json()
    return args


def save_model(
    model: nn.Module, folder: Path, source: ImageSource, *, image_size: int | None = None, crop_pct: float = 1.0
) -> None:
    """model.safetensors and config.json, as ``timm.create_model('local-dir:FOLDER', pretrained=True)`` reads them.

    The config has the genotype itself, the class names and how images have to be prepared: those of `source`.
    """
    size = image_size or source.image_size
    folder.mkdir(parents=True, exist_ok=True)
    genotype = getattr(model, "genotype", None)
    metadata = {"genotype": genotype.to_json()} if isinstance(genotype, Genotype) else {}
    write_weights(folder / "model.safetensors", model.state_dict(), metadata)
    names = list(source.classes)
    partial = folder / ".config.json.partial"
    save_config_for_hf(
        model,
        str(partial),
        model_config={"label_names": names, "pretrained_cfg": {"label_names": names}},
        data_config={
            "input_size": (source.in_chans, size, size),
            "mean": source.mean,
            "std": source.std,
            "crop_pct": crop_pct,
            "interpolation": "bilinear",
        },
    )
    os.replace(partial, folder / "config.json")


# ------------------------------------------------------------------------------------------------------------- loop


def _full(logits: Tensor) -> Tensor:
    """float32 where autocast gave less; float64 stays."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Training:
    """Everything a run holds between two iterations; ``state`` is all of it that a checkpoint needs."""

    def __init__(
        self, settings: TrainSettings, accelerator: Accelerator, model_args: Mapping[str, Any] | None = None
    ) -> None:
        """`model_args`: of the checkpoint to be resumed, so that it needs neither genotype nor first weights again."""
        self.settings, self.accelerator = settings, accelerator
        self.autocast = autocast_for(accelerator.device, settings.precision)
        device, world = accelerator.device, accelerator.num_processes
        if settings.batch_size % world:
            raise ValueError(f"batch_size={settings.batch_size} is not divisible by the {world} processes")

        opened: dict[str, Any] = {
            "root": settings.data_root,
            "test_data": settings.test_data,
            "image_size": settings.image_size,
            "crop_pct": settings.crop_pct,
        }
        self.source = limited(open_source(settings.data, "train", **opened), settings.train_limit, settings.seed)
        self.test_source = open_source(settings.data, "test", **opened)
        if self.source.classes != self.test_source.classes:
            raise ValueError(f"data={settings.data!r}: training and test images have different classes")
        self.image_size = size = settings.image_size or self.source.image_size
        count = len(self.source)
        num_val = round(settings.val_fraction * count)
        if settings.val_fraction and not 0 < num_val < count:
            raise ValueError(f"val_fraction={settings.val_fraction}: leaves {num_val} of {count} images to validate on")
        # epoch -3: neither the order of an epoch of training nor one of the splits in nas_zoo.data
        order = epoch_order(settings.seed, -3, np.arange(count))
        self.num_classes, in_chans = len(self.source.classes), self.source.in_chans

        augment = dataclasses.replace(
            default_augment(self.source, size, cutout=round(settings.cutout * size / 32)),
            crop_padding=round(settings.crop_padding * size / 32),
            crop_area=(settings.crop_area_min, 1.0),
        )
        if settings.flip is not None:
            augment = dataclasses.replace(augment, flip=settings.flip)

        memory_format = torch.contiguous_format

        def batches(source: ImageSource, indices: np.ndarray | None, augment: Augment | None) -> Batches:
            return Batches(
                source,
                indices,
                settings.batch_size if augment else -(-max(settings.batch_size, 256) // world) * world,
                image_size=size,
                device=device,
                augment=augment,
                shuffle=augment is not None,
                drop_last=augment is not None,
                seed=settings.seed,
                rank=accelerator.process_index,
                world=world,
                mean=self.source.mean,
                std=self.source.std,
                workers=settings.workers,
                memory_format=memory_format,
            )

        begins = model_args is None
        if model_args is None:
            model_args = chosen_args(settings, self.num_classes, in_chans)
        self.model_args = dict(model_args)
        torch.manual_seed(settings.seed)
        self.model: Any = make_model(settings, self.num_classes, in_chans, self.model_args)
        if begins and settings.init_weights is not None:
            self.model.load_state_dict(read_weights(settings.init_weights)[0])
        if settings.channels_last and not (device.type == "cpu" and strided_pointwise(self.model)):
            memory_format = torch.channels_last
        self.train_batches = batches(self.source, np.sort(order[num_val:]), augment)
        self.val_batches = batches(self.source, np.sort(order[:num_val]), None) if num_val else None
        self.test_batches = batches(self.test_source, None, None)
        self.steps = self.train_batches.steps_per_epoch

        auxiliary = None
        if settings.aux_weight:
            if not isinstance(self.model, CellNet):
                raise ValueError(
                    f"aux_weight={settings.aux_weight}: {settings.model} is not a cell network and has no place for an "
                    "auxiliary head; 0 is accepted (recipe quick has it)"
                )
            auxiliary = AuxiliaryHead(*self._tap_shape(in_chans), self.num_classes)
        if settings.compile and settings.drop_path and isinstance(self.model, CellNet):
            for module in list(self.model.modules()):
                for name, child in module.named_children():
                    if isinstance(child, DropPath):
                        setattr(module, name, TensorDropPath())
        trained = Trained(self.model, auxiliary)
        if settings.sync_bn:
            trained = convert_global_batch_norm(trained)
        self.trained = trained.to(memory_format=memory_format).to(device).train()
        self.model = self.trained.model
        self.parameters = list(self.trained.parameters())
        self.network: Any = torch.compile(self.trained) if settings.compile else self.trained
        self.optimizer = create_optimizer_v2(
            self.trained,
            opt=settings.optimizer,
            lr=settings.lr,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            filter_bias_and_bn=not settings.decay_all,
        )
        # Its decay begins at 0 and rises as 1 - (1 + step)^(-2/3). It reaches over a twentieth of the run at most: a
        # short one would else end with an average of its beginnings.
        longest = 1.0 - 1.0 / max(2.0, 0.05 * settings.epochs * self.steps)
        decay = min(settings.ema_decay, longest)
        self.ema = ModelEmaV3(self.model, decay, use_warmup=True) if settings.ema_decay else None
        self.epoch, self.step, self.seconds = 0, 0, 0.0
        self.sums = torch.zeros(3, dtype=torch.float64)  # loss, correct, images; of this process
        self.begin_counting()

    def _tap_shape(self, in_chans: int) -> tuple[int, int]:
        with torch.no_grad():
            tap = self.model.eval().forward_auxiliary(torch.zeros(1, in_chans, self.image_size, self.image_size))[1]
        return tap.shape[1], tap.shape[2]

    @property
    def num_parameters(self) -> int:
        """Of the model, without the auxiliary head."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def state(self, log_lines: int, sums: Tensor) -> dict[str, Any]:
        """`sums`: those of all processes. Without sync_bn the running statistics are those of the first process."""
        return {
            "settings": to_dict(self.settings),
            "model_args": self.model_args,
            "data": [self.source.fingerprint, self.test_source.fingerprint],
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "log_lines": log_lines,
            "sums": sums,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
        }

    def load(self, state: dict[str, Any]) -> None:
        if state["data"] != [self.source.fingerprint, self.test_source.fingerprint]:
            raise ValueError(
                f"data={self.settings.data!r} holds other images or labels than the data the checkpoint was made with"
            )
        self.trained.load_state_dict(state["trained"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.epoch, self.step, self.seconds = state["epoch"], state["step"], state["seconds"]
        self.sums = state["sums"].clone() if self.accelerator.is_main_process else torch.zeros_like(state["sums"])

    def iterate(self, images: Tensor, labels: Tensor) -> None:
        """One step on this process's rows of a batch."""
        settings = self.settings
        rate = settings.rate(self.epoch, self.step, self.steps)
        for group in self.optimizer.param_groups:
            # layer-wise scales are timm's own; without them it is 1
            group["lr"] = rate * group.get("lr_scale", 1.0)
        # The masks of an iteration are its own, so that a resumed run needs no generator's state.
        stream = _MASKS + self.accelerator.process_index
        torch.manual_seed(int(random_draws(settings.seed, self.epoch, np.array([self.step]), 1, stream)[0, 0] * 2**53))

        with self.autocast():
            logits, auxiliary_logits = self.network(images)
        logits = _full(logits)
        loss = F.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
        total = loss
        if auxiliary_logits is not None:
            auxiliary = F.cross_entropy(_full(auxiliary_logits), labels, label_smoothing=settings.label_smoothing)
            total = loss + settings.aux_weight * auxiliary
        total.backward()
        average_gradients(self.parameters)
        if settings.grad_clip:
            nn.utils.clip_grad_norm_(self.parameters, settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.epoch * self.steps + self.step)

        correct = (logits.detach().argmax(1) == labels).sum()
        self._pending.append(torch.stack([loss.detach() * len(labels), correct.float()]))
        self._images += len(labels)

    _pending: list[Tensor]
    _images: int

    def begin_counting(self) -> None:
        self._pending, self._images = [], 0

    def settle(self) -> None:
        """Adds the figures of the last iterations, which so far lie on the device, to the sums of the epoch.

        Raises:
            FloatingPointError: Where the loss or a weight is not finite: the checkpoint before is kept.
        """
        if not self._pending:
            return
        for loss, correct in torch.stack(self._pending).double().cpu():
            self.sums[0] += loss
            self.sums[1] += correct
        self.sums[2] += self._images
        self.begin_counting()
        if not torch.isfinite(self.sums).all():
            settings = self.settings
            raise FloatingPointError(
                f"the loss is not finite in epoch {self.epoch + 1} (lr={settings.lr}, optimizer={settings.optimizer}, "
                f"precision={settings.precision}); the last checkpoint is kept"
            )
        check_finite([*self.trained.parameters(), *self.trained.buffers()], f"in epoch {self.epoch + 1}")

    def all_sums(self) -> Tensor:
        """``sums`` of all processes together."""
        return total_over_processes(self.sums, self.accelerator.device)

    def averaged(self) -> dict[str, nn.Module]:
        """The weights that are evaluated, the result's first: the moving average where there is one, and the last."""
        if not self.settings.sync_bn:
            average_buffers(self.trained)
            if self.ema is not None:
                average_buffers(self.ema.module)
        weights: dict[str, nn.Module] = {} if self.ema is None else {"ema": self.ema.module}
        return weights | {"last": self.model}

    def epoch_line(self) -> dict[str, Any]:
        """What the log says of the epoch that has just been trained."""
        settings, autocast = self.settings, self.autocast
        sums = self.all_sums()
        line: dict[str, Any] = {
            "kind": "epoch",
            "epoch": self.epoch + 1,
            "lr": settings.rate(self.epoch, self.steps - 1, self.steps),
            # other models of timm have their own, which does not change
            "drop_path": settings.drop_path_rate(self.epoch) if isinstance(self.model, CellNet) else None,
            "train": {"n": int(sums[2]), "loss": float(sums[0] / sums[2]), "top1": float(sums[1] / sums[2])},
        }
        weights = self.averaged()
        if settings.eval_every and (self.epoch + 1) % settings.eval_every == 0:
            if self.val_batches is not None:
                line["val"] = {
                    name: evaluate(model, self.val_batches.epoch(0), autocast) for name, model in weights.items()
                }
            if settings.test_curve:
                line["test"] = {
                    name: evaluate(model, self.test_batches.epoch(0), autocast) for name, model in weights.items()
                }
        return line

    def result(self) -> dict[str, Any]:
        """The final figures on the test split: those of the weights that were named beforehand, and of the others."""
        figures = {
            name: evaluate(model, self.test_batches.epoch(0), self.autocast) for name, model in self.averaged().items()
        }
        genotype = getattr(self.model, "genotype", None)
        first, *others = figures
        return {
            "model": self.settings.model,
            "genotype": genotype.digest if isinstance(genotype, Genotype) else None,
            "parameters": self.num_parameters,
            "data": self.source.name,
            "test_data": self.test_source.name,
            "split": "test",
            "weights": first,
            **figures[first],
            "others": {name: figures[name] for name in others},
            "recipe": self.settings.recipe,
            "epochs": self.settings.epochs,
            "seed": self.settings.seed,
        }


def _percent(value: float) -> str:
    return f"{100 * value:5.2f}%"


def report_epoch(line: Mapping[str, Any], epochs: int) -> str:
    parts = [
        f"epoch {line['epoch']:3d}/{epochs}  lr {line['lr']:.4f}  loss {line['train']['loss']:.3f}  "
        f"train {_percent(line['train']['top1'])}"
    ]
    for split in ("val", "test"):
        if split in line:
            parts += [split + " " + ", ".join(f"{_percent(f['top1'])} ({name})" for name, f in line[split].items())]
    parts += [f"{line['seconds']:.0f} s  {line['peak_memory_gb']:.2f} GB"]
    return "  ".join(parts)


def train(settings: TrainSettings, resume: dict[str, Any] | None = None, started: float | None = None) -> str | None:
    """Trains to the end, or to the time budget; returns why it stopped early (None: it did not).

    Args:
        settings: Complete ones; recipes are applied by ``parse``.
        resume: Contents of a checkpoint to continue from.
        started: time.monotonic() at which the time budget began.
    """
    accelerator = start_accelerator()
    main = accelerator.is_main_process
    out, checkpoint = settings.out, settings.out / "checkpoint.pt"
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # one image size all along
    run = Training(settings, accelerator, None if resume is None else resume["model_args"])
    if resume is not None:
        run.load(resume)
    log, facts = RunLog(out, writes=main), run_facts(accelerator.device)
    if resume is None:
        data = {"name": run.source.name, "train": run.train_batches.num_samples, "test": len(run.test_source),
                "val": 0 if run.val_batches is None else run.val_batches.num_samples,
                "classes": list(run.source.classes)}  # fmt: skip
        log.start(
            to_dict(settings),
            facts,
            overwrite=not checkpoint.exists(),  # killed before the first one: it begins again
            seed=settings.seed,
            data=data,
            steps_per_epoch=run.steps,
            parameters=run.num_parameters,
            result_weights="last" if run.ema is None else "ema",
        )
    else:
        log.take_up(resume["log_lines"], resume["settings"], changeable=CHANGEABLE)
        log.event("resumed", epoch=run.epoch + 1, iteration=run.step, commit=facts["commit"])
    if main:
        if resume is None:
            print(describe(settings))
            print(
                f"{run.num_parameters:,} parameters; {run.train_batches.num_samples} images to train on, "
                f"{len(run.test_source)} to test the {'last' if run.ema is None else 'averaged'} weights on",
                flush=True,
            )
        else:
            print(f"resumed at epoch {run.epoch + 1}, iteration {run.step} of {run.steps}", flush=True)

    def save() -> None:
        run.settle()
        sums = run.all_sums()
        if main:
            save_checkpoint(checkpoint, run.state(log.num_lines, sums), CHECKPOINT_KIND)
        accelerator.wait_for_everyone()

    with StopRequest(settings.time_budget, started=started) as stop:
        while run.epoch < settings.epochs:
            if isinstance(run.model, CellNet):
                run.model.set_drop_path(settings.drop_path_rate(run.epoch))
            if run.step == 0:
                run.sums.zero_()
            run.begin_counting()
            mark = last_save = time.monotonic()
            bar = tqdm(
                total=run.steps, initial=run.step, desc=f"epoch {run.epoch + 1}/{settings.epochs}", unit="it",
                disable=not (main and sys.stderr.isatty()), leave=False,
            )  # fmt: skip
            for images, labels in run.train_batches.epoch(run.epoch, run.step):
                run.iterate(images, labels)
                bar.update()
                due = False
                if run.step % 50 == 0:
                    run.settle()
                    bar.set_postfix(loss=f"{run.sums[0] / run.sums[2]:.3f}")
                    due = longest_since(last_save, accelerator.device) > CHECKPOINT_SECONDS
                reason = stop.agree(accelerator.device)
                if run.step < run.steps and (due or reason is not None):
                    run.seconds += time.monotonic() - mark
                    save()
                    mark = last_save = time.monotonic()
                    if reason is not None:
                        bar.close()
                        log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=run.step)
                        return reason
            bar.close()
            run.settle()
            line = run.epoch_line()
            run.seconds += time.monotonic() - mark
            line |= {"seconds": round(run.seconds, 3), "peak_memory_gb": round(peak_memory_gb(accelerator.device), 3)}
            log.append(line)
            if main:
                print(report_epoch(line, settings.epochs), flush=True)
            run.epoch, run.step = run.epoch + 1, 0
            save()
            reason = stop.agree(accelerator.device)
            if reason is not None and run.epoch < settings.epochs:
                log.event("stopped", reason=reason, epoch=run.epoch + 1, iteration=0)
                return reason
    result = run.result()
    log.append({"kind": "result", **result})
    if main:
        source = dataclasses.replace(run.test_source, mean=run.source.mean, std=run.source.std)
        model = next(iter(run.averaged().values()))
        save_model(model, out, source, image_size=run.image_size, crop_pct=settings.crop_pct)
        # what it was made with when it began; a resumed run's later commits are in events.jsonl
        begun = {key: value for key, value in RunLog.read(out)[0].items() if key in facts}
        result_file = result | begun | {"seconds": round(run.seconds, 3), "settings": to_dict(settings)}
        write_json(out / "result.json", result_file)
        others = ", ".join(f"{name} weights {_percent(figures['top1'])}" for name, figures in result["others"].items())
        print(
            f"test ({result['n']} images of {run.test_source.name}, {result['weights']} weights): top-1 "
            f"{_percent(result['top1'])}, loss {result['loss']:.3f}{f' ({others})' if others else ''}; "
            f"trained in {run.seconds:.0f} s: {out}"
        )
    accelerator.end_training()
    return None


# ---------------------------------------------------------------------------------------------------------- program


def make_parser() -> argparse.ArgumentParser:
    parser = Parser(prog="nas-zoo train", description=__doc__)
    parser.add_argument("--config", type=Path, help="YAML file of settings")
    parser.add_argument("--resume", nargs="?", const="", metavar="CHECKPOINT",
                        help="continue the run in --out, or from this checkpoint")  # fmt: skip
    add_flags(parser, TrainSettings)
    return parser


def settings_of(flags: Mapping[str, Any], config: Path | None = None) -> TrainSettings:
    """Class defaults, over them the recipe, over it the YAML file, over that the flags."""
    named = flags.get("recipe") or (read_config(config) if config else {}).get("recipe") or TrainSettings.recipe
    under = {f"recipe {named}": RECIPES[named]} if isinstance(named, str) and named in RECIPES else {}
    return settings_from(TrainSettings, flags, config, under=under)


def parse(argv: list[str]) -> tuple[TrainSettings, dict[str, Any] | None]:
    """Settings and, with --resume, the checkpoint's contents. Every mistake in a value is a ValueError.

    A run that was killed before its first checkpoint is resumed at its beginning, with the settings in its log.
    """
    namespace = make_parser().parse_args(argv)
    flags, config = given_flags(namespace), namespace.config
    settings = settings_of(flags, config)
    saved, state = run_to_resume(settings.out, namespace.resume, CHECKPOINT_KIND)
    if saved is not None:
        settings = resumed_settings(TrainSettings, saved, flags, config, changeable=CHANGEABLE)
    return settings, state


def main(argv: list[str] | None = None) -> int:
    """The program: 0 when it ended or its time budget ran out, 2 for a mistake of the user's, 128 + n for signal n."""
    started = time.monotonic()
    try:
        settings, state = parse(sys.argv[1:] if argv is None else argv)
        reason = train(settings, state, started)
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"nas-zoo train: {error}", file=sys.stderr)
        return 2
    if reason is not None:
        print(f"stopped ({reason}); continue with: nas-zoo train --resume --out {settings.out}")
    return {"SIGTERM": 143, "SIGINT": 130}.get(reason or "", 0)


if __name__ == "__main__":
    sys.exit(main())
