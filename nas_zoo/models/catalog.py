"""The models as data: which cell each has, for which data, and the network that the papers train on it.

``models.json`` names them. Neither torch nor timm is imported here, and no cell is read before it is asked for.

A model's name stands for its cells wherever cells are asked for (``cells_named``), and cells for a network with them
where a model is (``network_named``). A name that is both, such as edas_c10, means the same cells in either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

from nas_zoo.text import near_names

if TYPE_CHECKING:
    from nas_zoo.genotype import Genotype

__all__ = [
    "CIFAR10_CLASSES",
    "DATA",
    "MODELS",
    "Data",
    "cells_named",
    "hint_for_model",
    "network_named",
    "settings_of",
    "words_for_cells",
    "words_for_model",
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


def settings_of(name: str) -> dict[str, Any]:
    """Genotype, layout, width and depth of a model: the arguments of its network."""
    own = dict(MODELS[name])
    cell, data = own.pop("cell"), DATA[own.pop("data")]
    # No num_classes here: timm takes it from the cfg, which for a saved model is the one saved.
    return {
        "genotype": cell,
        "layout": data.layout,
        "init_channels": data.init_channels,
        "num_cells": data.num_cells,
    } | own


def cells_named(value: Any) -> Genotype:
    """What ``as_genotype`` makes of it, and of a model's name, with or without a tag, the model's cells."""
    from nas_zoo.genotype import as_genotype

    cell = _cell_of_model(value)
    return as_genotype(value if cell is None else cell, models=list(MODELS))


def _cell_of_model(value: Any) -> str | None:
    """The cell's name where a value is a model's name, with a tag or without, and not what ``as_genotype`` takes."""
    if not isinstance(value, str) or (base := value.partition(".")[0]) not in MODELS:
        return None
    from nas_zoo.genotype import list_records
    from nas_zoo.models.public import public_weights
    from nas_zoo.models.results import package_results

    tagged = {row.name for row in package_results()} | {row.name for row in public_weights()}
    if value != base and value not in tagged:
        return None  # edas_c10.json is a file that is not there
    return None if value in list_records() or os.path.exists(value) else str(MODELS[base]["cell"])


def words_for_model(value: Any) -> str:
    """A sentence that says which cells are meant where a model is named in their place; "" where none is."""
    cell = _cell_of_model(value)
    return "" if cell is None else f"{value!r} is a model; meant are its cells, {cell!r}"


def network_named(name: str) -> tuple[str, dict[str, Any]]:
    """A model's name and arguments for it: the name itself, or for the name of cells DARTS' CIFAR network with them."""
    return ("cell_net_cifar", {"genotype": name}) if _is_of_cells(name) else (name, {})


def _is_of_cells(name: str) -> bool:
    from nas_zoo.genotype import list_genotypes

    return name not in MODELS and name in list_genotypes()


def words_for_cells(name: str) -> str:
    """A sentence that says which network is meant where cells are named in place of a model."""
    having = [model for model, settings in MODELS.items() if settings["cell"] == name and model[:9] != "cell_net_"]
    named = f"; models that have them: {', '.join(having)}" if having else ""
    return f"{name!r} is the name of cells; meant is cell_net_cifar, with --genotype {name}{named}"


def hint_for_model(name: str, known: Iterable[str] | None = None) -> str:
    """What an error goes on with after the name of a model that there is not: what is near, or what it is instead.

    `known`: the names that would do; those of models and, since they are taken in their place, of cells if None.
    """
    from nas_zoo.genotype import list_genotypes

    if _is_of_cells(name):
        return f": {words_for_cells(name)}"
    if os.path.exists(name):
        return f": a name is meant, and this is a path; cells in it are given as cell_net_cifar --genotype {name}"
    return near_names(name, known or [*MODELS, *list_genotypes()]) or "; `nas-zoo list` shows ours"
