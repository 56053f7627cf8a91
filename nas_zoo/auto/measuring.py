"""What is measured on the way: what a file gets right, and how long an epoch of a search or a training takes here."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from nas_zoo.data.sources import ImageSource
from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.export.runtime.latency import random_cells
from nas_zoo.genotype import Genotype
from nas_zoo.models.latency import Shape
from nas_zoo.models.network import CellNet
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.search.run import Search
from nas_zoo.train import TrainSettings
from nas_zoo.train.run import Training

__all__ = ["Scores", "network", "score", "search_epoch_s", "training_epoch_s", "training_rate"]


@dataclasses.dataclass(frozen=True)
class Scores:
    """What a classifier gets right."""

    top1: float  # in [0, 1]
    balanced_accuracy: float  # mean over the classes of the part that is right
    n: int

    @classmethod
    def of(cls, predicted: np.ndarray, labels: np.ndarray) -> Scores:
        """Of predicted and true classes, both (N,)."""
        right = predicted == labels
        each = [float(right[labels == label].mean()) for label in np.unique(labels)]
        return cls(float(right.mean()), float(np.mean(each)), len(labels))


def score(path: Path, source: ImageSource) -> tuple[Scores, np.ndarray, np.ndarray]:
    """What an ONNX file gets right of a source's pictures, the class it gives each, and with which probability."""
    classifier = OnnxClassifier(path)
    predicted = np.empty(len(source), np.int64)
    probability = np.empty(len(source))
    for first in range(0, len(source), 512):
        rows = range(first, min(first + 512, len(source)))
        for i, one in zip(rows, classifier.predict([source.image(i) for i in rows], top_k=1), strict=True):
            predicted[i], probability[i] = one.indices[0], one.probabilities[0]
    return Scores.of(predicted, source.labels), predicted, probability


def network(genotype: Genotype, shape: Shape) -> CellNet:
    """That of a shape, with random weights."""
    size = shape.init_channels, shape.num_cells
    return CellNet(genotype, shape.layout, *size, shape.num_classes, shape.input_size[0])


def training_rate(shape: Shape, batch: int = 32) -> float:
    """Images a second that a network with the reference cells is trained with here, on noise."""
    torch.manual_seed(0)
    device = start_accelerator().device
    model = network(random_cells(0), shape).train().to(device)
    images = torch.randn(batch, *shape.input_size, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        loss.item()  # a GPU is waited for

    seconds = [_timed(step) for _ in range(3)]
    return batch / (1.15 * min(seconds))  # the optimizer, the augmentation and the moving average


def _timed(call: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _step_s(program: Any, seconds: float = 6.0) -> float:
    """Seconds of a step of a search or a training, its batch included, the first two aside."""
    begun, took = time.monotonic(), list[float]()
    last = begun
    for i, batch in enumerate(itertools.chain.from_iterable(program.batches(epoch, 0) for epoch in itertools.count())):
        program.step(0, i % program.steps, batch).cpu()  # a GPU is waited for
        now = time.monotonic()
        took.append(now - last)
        last = now
        if i >= 4 and now - begun > seconds:
            break
    return float(np.mean(took[2:]))


def search_epoch_s(settings: Any) -> float:
    """Seconds of an epoch of a search, measured on some of its steps and one look at what was held out."""
    program = Search(settings, start_accelerator())
    step_s = _step_s(program)
    found = {name: program.method.genotype(rule) for name, rule in (("found", None), ("darts", "darts"))}
    return program.steps * step_s + _timed(lambda: program.gap(0, found, program.eval_batches, ("found",)))


def training_epoch_s(settings: TrainSettings) -> tuple[float, float]:
    """Seconds of an epoch of a training without a look at the val part, and of such a look."""
    program = Training(settings, start_accelerator())
    step_s = _step_s(program)
    assert program.val_batches is not None  # a division holds one out
    val = program.val_batches
    return program.steps * step_s, _timed(lambda: program.evaluated(val))
