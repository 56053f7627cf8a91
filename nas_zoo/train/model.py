"""The network that is trained: made through timm, begun from given weights, saved as timm opens it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import timm
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nas_zoo.data.listing import same_names
from nas_zoo.data.sources import ImageSource
from nas_zoo.genotype import Genotype, as_genotype, genotype_record, provenance_of
from nas_zoo.models.catalog import DATA, MODELS, cells_named
from nas_zoo.models.config import require_size, write_config
from nas_zoo.models.load import class_names, find_cfg, require_hub, words_of
from nas_zoo.runs.files import staged, write_weights
from nas_zoo.train.recipes import TrainSettings

__all__ = [
    "chosen_args",
    "describe_mismatch",
    "load_first",
    "make_model",
    "origin_of_cells",
    "read_weights",
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
    if name in MODELS and cells and cells != Genotype.from_json(genotype_record(MODELS[name]["cell"])):
        # Other cells than those that the name stands for: the same network, without the name.
        model = MODELS[name]
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
        known = _classes_in(metadata, file)
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


def _classes_in(metadata: Mapping[str, str], file: Path) -> tuple[str, ...] | None:
    """The names of the classes in a file's metadata; None where it has none."""
    if "classes" not in metadata:
        return None
    try:
        names = json.loads(metadata["classes"])
    except ValueError:
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"init_weights={str(file)!r}: its classes are no list of names: {metadata['classes'][:80]!r}")
    return tuple(names)


def scaled_as_trained(settings: TrainSettings, source: ImageSource) -> ImageSource:
    """The images with mean and deviation of those that the model's weights have seen, where it begins with weights."""
    if not settings.pretrained:
        return source
    cfg = find_cfg(settings.model)
    if cfg is None or len(cfg.mean) != source.in_chans:
        return source
    return dataclasses.replace(source, mean=tuple(cfg.mean), std=tuple(cfg.std))


def chosen_args(settings: TrainSettings, num_classes: int, in_chans: int) -> dict[str, Any]:
    """What the settings and the file of first weights say of the model: arguments for make_model, as JSON has them."""
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
