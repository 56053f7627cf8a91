"""The models as data: which cell each has, for which data, and the network that the papers train on it.

``models.json`` names them. Neither torch nor timm is imported here, and no cell is read.
"""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, NamedTuple

__all__ = ["CIFAR10_CLASSES", "DATA", "MODELS", "Data", "settings_of"]

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
