"""The network that is trained: made through timm, begun from given weights, saved as timm opens it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError, safe_open
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from nas_zoo.data.listing import same_names
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import Genotype, as_genotype, genotype_record, provenance_of
from nas_zoo.models.catalog import DATA, MODELS, cells_named
from nas_zoo.models.config import check_images, require_size, write_config
from nas_zoo.models.load import class_names, find_cfg, require_hub, words_of
from nas_zoo.models.network import CellNet
from nas_zoo.runs.checkpoint import load_optimizer
from nas_zoo.runs.files import staged, write_weights
from nas_zoo.train.recipes import TrainSettings

__all__ = [
    "architecture_of",
    "began_with",
    "chosen_args",
    "describe_mismatch",
    "load_first",
    "make_model",
    "origin_of_cells",
    "read_weights",
    "require_optimizer",
    "same_cells",
    "save_model",
    "scaled_as_trained",
]


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


def make_model(
    settings: TrainSettings,
    num_classes: int,
    in_chans: int,
    model_args: Mapping[str, Any],
    pretrained: bool = False,
    size: int | None = None,
) -> nn.Module:
    """The model through timm, with what of `model_args` is not None (genotype, init_channels, num_cells, pool_bn).

    ValueError where there is no such model, or it does not take images of that size (pixels).
    """
    args = {name: value for name, value in model_args.items() if value is not None}
    if settings.drop_path:
        args["drop_path_rate"] = settings.drop_path
    name = settings.model
    cells = cells_named(args["genotype"]) if "genotype" in args else None
    model = MODELS.get(name if pretrained else name.partition(".")[0])  # a tag is of weights
    if model and cells and cells != Genotype.from_json(genotype_record(model["cell"])):
        # Other cells than those that the name stands for: the same network, without the name.
        data = DATA[model["data"]]
        sizes = {key: model.get(key, getattr(data, key)) for key in ("init_channels", "num_cells")}
        name, args = ("cell_net_cifar" if data.layout == "cifar" else "cell_net_imagenet"), sizes | args
    if pretrained:
        require_hub(name)
    try:
        made: Any = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **args)
    except RuntimeError as error:
        if not any(words in str(error) for words in ("Unknown model", "pretrained tag", "No pretrained weights")):
            raise
        raise ValueError(f"model={settings.model!r}: {words_of(error, settings.model)}") from None
    except TypeError as error:
        if "unexpected keyword" not in str(error):
            raise
        raise ValueError(f"model={settings.model!r} cannot be made with {', '.join(args)}: {error}") from None
    if size is not None:
        require_size(made.pretrained_cfg, size, f"model={settings.model!r}")
    return cast(nn.Module, made)


def load_first(model: Any, settings: TrainSettings, classes: Sequence[str]) -> str | None:
    """Loads the file of first weights, if there is one, and decides about the classifier; words on it, None without.

    The classifier of first weights is kept where its classes are those of the data, in name and order: one of as many
    other classes would begin with answers that mean something else. Where trained weights do not say what their classes
    are, it is new unless ``keep_classifier``; a file that does not say it (an older search's) keeps its own.
    """
    file, known = settings.init_weights, None
    if file is not None:
        tensors, metadata = read_weights(file)
        model.load_state_dict(tensors)
        known = _told(metadata, "classes", file, list)
        whose, count = repr(str(file)), len(classes)
    elif settings.pretrained:
        cfg = find_cfg(settings.model)
        assert cfg is not None  # else there would have been no weights
        known, whose, count = class_names(vars(cfg)), settings.model, cfg.num_classes
    else:
        return None
    if settings.keep_classifier:
        if count != len(classes):
            raise ValueError(
                f"keep_classifier: the weights of {whose} are of {count} classes, the data of {len(classes)}"
            )
        return f"the classifier is that of {whose}, kept as asked"
    if count != len(classes):
        return f"the classifier is new, for {len(classes)} classes where {whose} has {count}"
    if known is not None and same_names(known, classes):
        return f"the classifier is that of {whose}, whose classes these are"
    if known is None and file is not None:
        return f"the classifier is that of {whose}, which does not say of which classes"
    model.reset_classifier(len(classes))
    why = (
        "does not say of which classes its own is (--keep-classifier keeps it)"
        if known is None
        else "has other classes"
    )
    return f"the classifier is new: {whose} {why}"


def _told(metadata: Mapping[str, str], name: str, file: Path, kind: type) -> Any:
    """What a file's metadata say, as JSON of that kind (list: of names); None where they say nothing of it."""
    if name not in metadata:
        return None
    try:
        value = json.loads(metadata[name])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, kind) or (isinstance(value, list) and not all(isinstance(name, str) for name in value)):
        what = "list of names" if kind is list else "object"
        raise ValueError(f"init_weights={str(file)!r}: its {name} are no {what}: {metadata[name][:80]!r}")
    return value


def scaled_as_trained(
    settings: TrainSettings, source: ImageSource, begun: Mapping[str, Any] | None = None
) -> ImageSource:
    """The images with mean and deviation of those that the model's weights have seen, where it begins with weights.

    `begun`: the state of the run that is resumed, whose first weights need not be there any more.
    """
    seen: Any = {}
    if begun is not None and "scaling" in begun:
        seen = begun["scaling"]
        if not isinstance(seen, dict):
            raise ValueError("the checkpoint does not hold how its images are scaled")
        check_images(seen, "the checkpoint's scaling: ")
    elif settings.pretrained:
        cfg = find_cfg(settings.model)
        seen = {} if cfg is None else vars(cfg)
    elif begun is None and settings.init_weights is not None:
        file = settings.init_weights
        seen = _told(read_weights(file)[1], "images", file, dict) or {}
        check_images(seen, f"init_weights={str(file)!r}: images.")
    if len(seen.get("mean") or ()) != source.in_chans or not seen.get("std"):
        return source
    return dataclasses.replace(source, mean=tuple(seen["mean"]), std=tuple(seen["std"]))


def began_with(settings: TrainSettings, begun: Mapping[str, Any] | None = None) -> str | None:
    """The trained weights that those of the run come from, its own not and a search's not; None: there are none.

    A model's name; for the file of another run what that began with, else ``local-dir:FOLDER``. `begun`: as above.
    """
    if begun is not None and "began_with" in begun:
        known = begun["began_with"]
        if not isinstance(known, str | None):
            raise ValueError("the checkpoint does not hold what its weights began with")
        return known
    if settings.pretrained or settings.init_weights is None:
        return settings.model if settings.pretrained else None
    file = settings.init_weights
    if (file / "model.safetensors").is_file():
        file = file / "model.safetensors"
    if file.is_dir() or file.name.startswith("derived"):  # a search's
        return None
    try:
        before = json.loads((file.parent / "result.json").read_text("utf-8"))
    except (OSError, ValueError):
        before = None
    known = before.get("began_with") if isinstance(before, dict) else None
    return known if isinstance(known, str) else f"local-dir:{file.parent}"


def chosen_args(
    settings: TrainSettings, num_classes: int, in_chans: int, begun: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What the settings and the file of first weights say of the model: arguments for make_model, as JSON has them.

    `begun`: the state of the run that is resumed, which holds them; ValueError where it does not.
    """
    if begun is not None:
        held = begun.get("model_args")
        if not (isinstance(held, dict) and held.keys() <= {"init_channels", "num_cells", "genotype", "pool_bn"}):
            raise ValueError("the checkpoint does not hold what its model was made with")
        return held
    genotype = None if settings.genotype is None else cells_named(settings.genotype)
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
            if args["init_channels"] is None:  # the stem of ImageNet's has C behind its second convolution, CIFAR's 3 C
                second = len(tensors.get("stem.1.conv.weight", ()))
                args["init_channels"] = second or len(tensors.get("stem.0.conv.weight", ())) // 3 or None
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


def require_optimizer(settings: TrainSettings) -> None:
    """ValueError for an optimizer of timm's that cannot be had here, or whose state no checkpoint gives back.

    Tried on two layers, as wide as what some factorize, so that it is known now and not at the first resume. It draws
    random numbers.
    """

    def made() -> tuple[nn.Module, Any]:
        network = nn.Sequential(nn.Conv2d(128, 128, 1), nn.BatchNorm2d(128))
        return network, create_optimizer_v2(network, opt=settings.optimizer, lr=1e-3, momentum=settings.momentum)

    try:
        network, optimizer = made()
        network(torch.randn(2, 128, 2, 2)).square().sum().backward()
        optimizer.step()
        load_optimizer(made()[1], optimizer.state_dict())
    except (ValueError, TypeError, RuntimeError, AssertionError, ImportError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(
            f"optimizer must be one that runs here and whose state a checkpoint can give back, got "
            f"{settings.optimizer!r}: {reason}"
        ) from None


def architecture_of(model: nn.Module, settings: TrainSettings) -> str:
    """The name of the network that was trained: not the asked one where it has got other cells."""
    if isinstance(model, CellNet) and ":" not in settings.model:
        cfg: Any = model.pretrained_cfg
        return str(cfg["architecture"])
    return settings.model if ":" in settings.model else settings.model.partition(".")[0]


def same_cells(settings: TrainSettings, state: Mapping[str, Any]) -> tuple[str, ...]:
    """("genotype",) where that setting leads to the cells that the checkpoint has: their file may lie elsewhere now."""
    made_with = state.get("model_args")
    made = made_with.get("genotype") if isinstance(made_with, dict) else None
    if settings.genotype in (None, state["settings"].get("genotype")) or made is None:
        return ()  # a name that is the run's own is not looked up: its file may be gone
    assert settings.genotype is not None
    return ("genotype",) if cells_named(settings.genotype) == as_genotype(made) else ()


def origin_of_cells(settings: TrainSettings) -> dict[str, str]:
    """Method, paper and source of the cells, as the record in the settings says; {} for the model's own cells."""
    weights = settings.init_weights
    given: Any = settings.genotype
    if given is None and weights is not None:  # a search's folder, or a file in it
        given = weights if weights.is_dir() else weights.parent
    found = {} if given is None else provenance_of(given)
    return {key: str(found[key]) for key in ("method", "paper", "source") if found.get(key)}


def save_model(
    model: nn.Module, folder: Path, source: ImageSource, *, image_size: int | None = None, crop_pct: float = 1.0
) -> None:
    """model.safetensors and config.json, as ``timm.create_model('local-dir:FOLDER', pretrained=True)`` reads them.

    Both have the genotype itself, the class names and how images have to be prepared: those of `source`.
    """
    size = image_size or source.image_size
    images = {
        "input_size": (source.in_chans, size, size),
        "mean": source.mean,
        "std": source.std,
        "crop_pct": crop_pct,
        "interpolation": "bilinear",
    }
    genotype = getattr(model, "genotype", None)
    metadata = {"genotype": genotype.to_json()} if isinstance(genotype, Genotype) else {}
    metadata |= {"classes": json.dumps(source.classes), "images": json.dumps(images)}
    if isinstance(cfg := getattr(model, "pretrained_cfg", None), dict):
        cfg.pop("tag", None)  # it names others' weights
    with staged(folder) as aside:
        write_weights(aside / "model.safetensors", model.state_dict(), metadata)
        write_config(model, aside / "config.json", source.classes, images)
