"""Accuracy of a model on a data set: while it trains, of a saved model, from the command line.

nas-zoo evaluate runs/edas_c10 --data cifar10
nas-zoo evaluate hf-hub:owner/name --data photos.tar.xz --split test

The classes of the data must be those of the model, in name and order; where the model does not name its own (weights of
others for CIFAR-100), "same_classes" is null in the line and a note says so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_zoo.data.batches import Batches
from nas_zoo.data.listing import nfc, same_names
from nas_zoo.data.named import open_source
from nas_zoo.data.own import DATA, TEST_DATA, LabelledImages
from nas_zoo.data.sources import ImageSource
from nas_zoo.models.config import require_size
from nas_zoo.models.load import class_names, load_model
from nas_zoo.runs.distributed import (
    autocast_for,
    is_first,
    max_over_processes,
    process_index,
    start_accelerator,
    sum_over_processes,
    world_size,
)
from nas_zoo.runs.ending import program
from nas_zoo.runs.launch import asked_settings
from nas_zoo.runs.settings import (
    MOST_WORKERS,
    Parser,
    add_flags,
    check_call,
    given_flags,
    require_least,
    require_most,
    setting,
    settings_from,
    settle_types,
)
from nas_zoo.text import plain

__all__ = ["EvaluateSettings", "evaluate", "evaluate_model", "evaluate_on", "main", "make_parser"]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], autocast: Callable[[], Any] | None = None
) -> dict[str, Any]:
    """top1 in [0, 1], top5 likewise where there are more than ten classes, mean cross-entropy, and n images.

    `batches`: (images, labels) of one pass, this process's share of them; the figures are over all processes.
    The model is left in the mode it was in.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    pending: list[Tensor] = []
    count, num_classes = 0, 0
    for images, labels in batches:
        with contextlib.nullcontext() if autocast is None else autocast():
            logits = model(images)
        logits, num_classes = logits.float(), logits.shape[1]
        hits = logits.topk(min(5, num_classes), dim=1).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        pending.append(torch.stack([loss, hits[:, 0].sum().float(), hits.sum().float()]))
        count += len(labels)
    model.train(training)
    sums = torch.zeros(4, dtype=torch.float64)
    if pending:  # a process can be without a batch
        sums[:3] = torch.stack(pending).cpu().double().sum(0)  # the one wait for the device; MPS has no float64
        sums[3] = count
    most = torch.tensor(num_classes)
    if world_size() > 1:
        sums, most = sum_over_processes(sums.to(device)).cpu(), max_over_processes(most.to(device))
    loss_sum, top1, top5, total = sums.tolist()
    if not total:
        raise ValueError("nothing to evaluate: there is no batch")
    figures = {"top1": top1 / total}
    if int(most) > 10:
        figures["top5"] = top5 / total
    return figures | {"loss": loss_sum / total, "n": int(total)}


def evaluate_model(
    model: nn.Module,
    source: ImageSource,
    *,
    batch_size: int = 256,
    image_size: int | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    device: torch.device | str = "cpu",
    workers: int | None = 0,
    autocast: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """`evaluate` over all images of a source, by all processes; scaled as the model's pretrained_cfg says unless told.

    ValueError where model and images have other classes or channels.
    """
    cfg: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    num_classes = getattr(model, "num_classes", len(source.classes))
    if num_classes != len(source.classes):
        raise ValueError(f"{source.name} has {len(source.classes)} classes, the model {num_classes}")
    names = cfg.get("label_names")
    if names and not same_names(names, source.classes):
        pairs = zip(names, source.classes, strict=False)
        first = next((i for i, (one, other) in enumerate(pairs) if nfc(one) != nfc(other)), 0)
        raise ValueError(
            f"{source.name}: its classes are not the model's; class {first} is {source.classes[first]!r}, "
            f"the model's is {names[first]!r}"
        )
    channels = getattr(model, "in_chans", source.in_chans)
    if channels != source.in_chans:
        raise ValueError(f"{source.name} has {source.in_chans} channel(s), the model takes {channels}")
    require_size(cfg, image_size or source.image_size, f"the model {cfg.get('architecture', '')}".strip())
    world = world_size()
    fitting = len(cfg.get("mean", ())) == source.in_chans
    batches = Batches(
        source,
        None,
        -(-batch_size // world) * world,
        image_size=image_size,
        device=device,
        mean=mean or (tuple(cfg["mean"]) if fitting else None),
        std=std or (tuple(cfg["std"]) if fitting else None),
        workers=workers,
        rank=process_index(),
        world=world,
    )
    return evaluate(model.to(device), batches.once("evaluating"), autocast)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Settings of an evaluation."""

    data: str | LabelledImages = setting("digits", DATA)
    split: Literal["train", "val", "test"] = setting("test", "which images of it")
    test_data: str | LabelledImages | None = setting(None, TEST_DATA)
    image_column: str | None = setting(None, "column of a table that has the images, or their files; none: found")
    label_column: str | None = setting(None, "column of a table that has the classes; none: found")
    data_root: Path | None = setting(None, "folder of cifar10 / cifar100; none: the user's cache, downloaded if absent")
    image_size: int | None = setting(None, "side of the images; none: that of the model", unit="pixels")
    batch_size: int = setting(256, "images at once, which has no bearing on the figures")
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16: autocast of the forward passes")
    workers: int | None = setting(None, "processes that load data too large for memory; none: one a core, up to 16")

    def __post_init__(self) -> None:
        settle_types(self)
        require_least(self, image_size=1, batch_size=1, workers=0)
        require_most(self, workers=MOST_WORKERS)


def evaluate_on(model: nn.Module | str | Path, settings: EvaluateSettings | None = None) -> dict[str, Any]:
    """Figures of a model on a data set, as ``evaluate`` gives them, and "same_classes".

    That is True where model and data name the same classes (which differ are refused), else None: nothing vouches for
    the figure then but the order that both are thought to have.

    Args:
        model: A model of timm, or what names one: a run's folder, ``hf-hub:OWNER/NAME``, a name timm has weights for.
        settings: Data and their part; None: the test images of the digits.

    Raises:
        ValueError: Where model and images have other classes or channels, and for what cannot be opened.
    """
    settings = EvaluateSettings() if settings is None else settings
    check_call(settings, EvaluateSettings, ())
    accelerator = start_accelerator()
    network = model if isinstance(model, nn.Module) else load_model(str(model))
    cfg: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    source = open_source(
        settings.data,
        settings.split,
        root=settings.data_root,
        test_data=settings.test_data,
        image_column=settings.image_column,
        label_column=settings.label_column,
        image_size=settings.image_size or cfg["input_size"][1],
        in_chans=cfg["input_size"][0],
        crop_pct=cfg.get("crop_pct", 1.0),
        interpolation=cfg.get("interpolation", "bilinear"),
    )
    figures = evaluate_model(
        network,
        source,
        batch_size=settings.batch_size,
        device=accelerator.device,
        workers=settings.workers,
        autocast=autocast_for(accelerator.device, settings.precision),
    )
    return {"same_classes": same_names(class_names(cfg) or (), source.classes) or None, **figures}


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo evaluate", description="Accuracy of a trained model on a data set, as a JSON line.")
    parser.add_argument("model", help="folder with config.json and model.safetensors, or a name timm knows")
    add_flags(parser, EvaluateSettings)
    return parser


@program("nas-zoo evaluate")
def main(argv: list[str] | None = None) -> int:
    """`nas-zoo evaluate MODEL|FOLDER --data ...`: prints the figures as one JSON line; exit codes as in main."""
    namespace = make_parser().parse_args(argv)
    settings = settings_from(EvaluateSettings, given_flags(namespace), under=asked_settings(EvaluateSettings))
    figures = evaluate_on(namespace.model, settings)
    if not is_first():
        return 0
    of_test = settings.split == "test" and settings.test_data is not None
    data = {"data": settings.test_data if of_test else settings.data, "split": settings.split}
    if figures["same_classes"] is None:
        print(
            f"nas-zoo evaluate: {plain(namespace.model)} does not say what its classes are; that they are those of "
            f"{plain(data['data'])}, in the same order, is not known",
            file=sys.stderr,
        )
    print(json.dumps({"model": namespace.model, **data, **figures}))
    return 0
