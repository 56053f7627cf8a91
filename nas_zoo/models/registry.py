"""The models as data, and their registration with timm.

``models.json`` says which cell each model has, and for which data. An entrypoint is a function of the package `nas_zoo`
that bears the model's name, so ``timm.list_models(module="nas_zoo")`` lists them all. ``nas_zoo/__init__.py`` has
``register`` called as soon as somebody imports timm; until then neither timm nor torch is imported here, and cells are
read when a model is made.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from nas_zoo.models.public import PublicWeights, find_public, public_of
from nas_zoo.models.results import Result, fetch_weights, package_results

if TYPE_CHECKING:
    from nas_zoo.models.network import CellNet

__all__ = [
    "CIFAR10_CLASSES",
    "DATA",
    "ENTRYPOINTS",
    "MODELS",
    "Data",
    "configurations",
    "find_result",
    "register",
    "settings_of",
]

FASHION_MNIST_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Data(NamedTuple):
    """What the papers train on, and the network they do it with."""

    layout: str
    init_channels: int
    num_cells: int
    num_classes: int
    input_size: tuple[int, int, int]  # (C, H, W)
    mean: tuple[float, ...]  # of the training images
    std: tuple[float, ...]
    label_names: tuple[str, ...] | None = None


DATA = {
    "c10": Data("cifar", 36, 20, 10, (3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), CIFAR10_CLASSES),
    "c100": Data("cifar", 36, 20, 100, (3, 32, 32), (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "in1k": Data("imagenet", 48, 14, 1000, (3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # SGAS-es, whose tests take Fashion-MNIST as it is and EMNIST-Balanced enlarged
    "fmnist": Data("cifar", 36, 20, 10, (1, 28, 28), (0.2859,), (0.353,), FASHION_MNIST_CLASSES),
    "emnist": Data("cifar", 36, 20, 47, (1, 32, 32), (0.5,), (0.5,)),
}


def _read_models() -> dict[str, dict[str, Any]]:
    """models.json, {name: {"cell", "data", and what differs from that data's layout}}, and the two for any cells."""
    models: dict[str, dict[str, Any]] = {
        "cell_net_cifar": {"cell": "darts_v2", "data": "c10"},
        "cell_net_imagenet": {"cell": "darts_v2", "data": "in1k"},
    }
    return models | json.loads(resources.files("nas_zoo.models").joinpath("models.json").read_text(encoding="ascii"))


MODELS = _read_models()


# Configurations -------------------------------------------------------------------------------------------------------


def _configuration(data: Data, **differing: Any) -> dict[str, Any]:
    """A timm configuration: that of the data, but for what differs."""
    cifar = data.layout == "cifar"
    input_size = differing.get("input_size", data.input_size)
    return {
        "url": "",
        "num_classes": data.num_classes,
        "input_size": input_size,
        "pool_size": tuple(-(-side // (4 if cifar else 32)) for side in input_size[1:]),
        "crop_pct": 1.0 if cifar else 0.875,
        "interpolation": "bilinear" if cifar else "bicubic",
        "mean": data.mean,
        "std": data.std,
        "first_conv": "stem.0.conv",
        "classifier": "classifier",
        "license": "apache-2.0",
        "label_names": data.label_names,
    } | differing


def _rows_of(model: str) -> list[Result]:
    """The published checkpoints of a model; those of its own number of classes first."""
    rows = [row for row in package_results() if row.model == model]
    return sorted(rows, key=lambda row: row.num_classes != DATA[MODELS[model]["data"]].num_classes)


def find_result(name: str) -> Result | None:
    """The published row of MODEL.TAG, or that of MODEL: the weights that ``pretrained=True`` takes; None without.

    A model's default is the first row of its own number of classes. Weights of another are had by their tag alone:
    what MODEL means, and how many parameters it has, must not change with somebody's weights.
    """
    if "." in name:
        return next((row for row in package_results() if row.name == name), None)
    rows = _rows_of(name) if name in MODELS else []
    return rows[0] if rows and rows[0].num_classes == DATA[MODELS[name]["data"]].num_classes else None


def configurations() -> dict[str, Any]:
    """timm's configurations by MODEL, or by MODEL.TAG where there are weights."""
    cfgs: dict[str, Any] = {}
    for name, model in MODELS.items():
        data = DATA[model["data"]]
        own = {"label_names": None} if name.startswith("cell_net_") else {}
        rows: list[Result | PublicWeights] = [*_rows_of(name), *public_of(name)]
        cfgs |= {row.name: _configuration(data, **row.cfg()) for row in rows}
        if find_result(name) is None:
            cfgs[f"{name}.*" if rows else name] = _configuration(data, **own)  # .*: the default, no tag
    return cfgs


# Entrypoints ----------------------------------------------------------------------------------------------------------

#: Where weights may lie, in the order in which timm looks.
_PLACES = ("file", "hf_hub_id", "url")


def settings_of(name: str) -> dict[str, Any]:
    """Genotype, layout, width and depth of a model: the arguments of its network."""
    return _settings(**MODELS[name])


def _settings(cell: str, data: str, **differing: Any) -> dict[str, Any]:
    layout, init_channels, num_cells = DATA[data][:3]
    # No num_classes here: timm takes it from the cfg, which for a saved model is the one saved.
    return {"genotype": cell, "layout": layout, "init_channels": init_channels, "num_cells": num_cells} | differing


def _make_entrypoint(name: str, cell: str, data: str, **differing: Any) -> Callable[..., CellNet]:
    """A function as timm wants it, by the name of the model."""
    settings = _settings(cell, data, **differing)

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> CellNet:
        from nas_zoo.models.network import build

        asked: dict[str, Any] = settings | kwargs
        model = build(name, pretrained, **(asked | _place_of_weights(name, asked) if pretrained else asked))
        cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
        cfg.pop("state_dict", None)  # of other people's weights; they are in the network now
        cfg.pop("description", None)  # of older configurations: a figure that was measured on published weights
        own_weights = any((asked.get("pretrained_cfg_overlay") or {}).get(place) for place in _PLACES)
        other_head = asked.get("num_classes") not in (None, cfg.get("num_classes"))
        if not pretrained or own_weights or other_head:
            cfg.pop("tag", None)  # it names weights, and this network has not got them
        return model

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = "nas_zoo"
    size = f"C={settings['init_channels']}, {settings['num_cells']} cells"
    entrypoint.__doc__ = f"Cells {cell!r}, {settings['layout']} layout: {size}."
    return entrypoint


ENTRYPOINTS = {name: _make_entrypoint(name, **model) for name, model in MODELS.items()}


def register(_: Any = None) -> None:
    """Makes the models known to timm, which is imported here if it is not yet."""
    from timm.models import generate_default_cfgs, register_model

    # timm looks for a model's configurations in the module that its entrypoint names.
    vars(sys.modules["nas_zoo"])["default_cfgs"] = generate_default_cfgs(configurations())
    for entrypoint in ENTRYPOINTS.values():
        register_model(entrypoint)


def _place_of_weights(variant: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What timm has to be told of where the weights lie, once they are there and are the published ones.

    Raises:
        ValueError: The model has no weights, they are damaged or cannot be had, or the network asked for is another.
    """
    from timm.models._builder import resolve_pretrained_cfg

    from nas_zoo.genotype import as_genotype

    given, overlay = kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
    first = next((place for place in _PLACES if overlay.get(place)), None)
    if first is not None:  # what the user sets wins over what stands before it in ours
        overlay |= dict.fromkeys(_PLACES[: _PLACES.index(first)])
    cfg = resolve_pretrained_cfg(variant, given, overlay)
    if cfg.source in ("hf-hub", "local-dir") or cfg.state_dict:  # hf-hub:ORG/NAME and the like
        return {}
    if not cfg.has_weights:
        if others := public_of(variant):
            raise ValueError(_ask_for_one(variant, others))
        other = [f"{row.name} ({row.dataset})" for row in _rows_of(variant)]
        having = [name for name in MODELS if find_result(name)]
        raise ValueError(
            f"{variant} has no trained weights{f' of its {cfg.num_classes} classes' if other else ''}: make them with "
            f"`nas-zoo train --model {variant} --out FOLDER` and "
            f"timm.create_model('local-dir:FOLDER', pretrained=True)"
            f"{'; it has them as ' + ', '.join(other) if other else ''}"
            f"{'; with weights come ' + ', '.join(having) if having else ''}"
        )
    row, public = find_result(f"{variant}.{cfg.tag}"), find_public(f"{variant}.{cfg.tag}")
    if first is not None:
        return {"pretrained_cfg_overlay": overlay}
    if (row is None and public is None) or not isinstance(given, str | None):
        return {}
    own = settings_of(variant) if row is None else vars(row)
    asked = {"genotype": as_genotype(kwargs["genotype"]).digest}
    asked |= {key: kwargs[key] for key in ("init_channels", "num_cells")}
    for key, value in asked.items():
        wanted = as_genotype(own[key]).digest if key == "genotype" and row is None else own[key]
        if value != wanted:
            raise ValueError(f"{key}={value!r}: the weights of {variant}.{cfg.tag} are of a network with {wanted!r}")
    if row is not None:
        # A file of checked content, which timm prefers to the Hub.
        return {"pretrained_cfg_overlay": {**overlay, "file": str(fetch_weights(row))}}
    assert public is not None
    from nas_zoo.models.download import public_state_dict

    return {"pretrained_cfg_overlay": {**overlay, "state_dict": public_state_dict(public)}}


def _ask_for_one(variant: str, others: list[PublicWeights]) -> str:
    """Words for a model that has weights of others alone: whose weights they are is for the user to choose."""
    listed = "; ".join(
        f"{row.name} by {row.authors}, wrong {row.figure or 'not said'}, {row.license}" for row in others
    )
    own = [f"{row.name} ({row.dataset})" for row in _rows_of(variant)]
    ours = f" (ours are of other classes: {', '.join(own)})" if own else ""
    return f"{variant} has no trained weights of ours{ours}; others publish some, ask for one by its tag: {listed}"
