"""Compares an exported file of any kind with PyTorch on images: values at several batch sizes, top-1, accuracy.

    figures = verify("model_int8.onnx", model, real_images("digits"))

PyTorch computes in float32 on the CPU from images that OnnxClassifier has prepared; a file with its preprocessing
inside gets the images themselves. What is accepted depends on the file's kind (TOLERANCES).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nas_zoo.export.graph.check import (
    CheckError,
    FixedBatch,
    NotFinite,
    ValuesDiffer,
    check_names,
    opset_of,
    read_checked,
    shape_of,
)
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.graph.to_onnx import INPUT_NAME, OUTPUT_NAME, plain_copy
from nas_zoo.export.graph.variants import IMAGES_NAME, PROBABILITIES_NAME, metadata_of
from nas_zoo.export.runtime.classifier import OnnxClassifier, softmax
from nas_zoo.runs.facts import run_facts

__all__ = ["TOLERANCES", "AccuracyLost", "Disagrees", "Tolerance", "summary", "verify"]


class Disagrees(CheckError):
    """Too many images get another class."""


class AccuracyLost(CheckError):
    """Too many labelled images are classified wrongly that PyTorch classifies rightly."""


@dataclass(frozen=True)
class Tolerance:
    """What is accepted of a file."""

    difference: float  # of a logit, times the model's largest where that is above 1; of a probability as it is
    agreement: float  # least part of the images that get the same class
    accuracy_loss: float  # most that the part of rightly classified images may fall by


#: by the kind of the file; with its preprocessing inside, one of 255 steps of a pixel is between two ways of resizing
TOLERANCES = {
    "float32": Tolerance(1e-4, 0.99, 0.01),
    "float16": Tolerance(2e-2, 0.98, 0.01),
    "int8": Tolerance(float("inf"), 0.9, 0.02),
    "float32 preprocessing": Tolerance(0.05, 0.97, 0.01),
    "float16 preprocessing": Tolerance(0.06, 0.97, 0.01),
    "int8 preprocessing": Tolerance(float("inf"), 0.9, 0.02),
}


def verify(
    path: str | os.PathLike[str],
    model: nn.Module,
    images: RealImages | None = None,
    *,
    batches: Sequence[int] = (1, 3, 8),
    tolerance: Tolerance | None = None,
    provider: str = "cpu",
    failed: Callable[[dict[str, Any], CheckError], None] | None = None,
) -> dict[str, Any]:
    """The figures of a comparison of file and model, as JSON has them.

    Args:
        path: A file of ``nas-zoo export``, of any kind.
        model: What it was made from; left as it is.
        images: Real ones; noise if None, which tells differences and nothing of accuracy: no agreement is asked for,
            since a network has no clear opinion on noise.
        batches: Batch sizes whose values are compared, of the first images in turn.
        tolerance: Of TOLERANCES if None.
        provider: Of OnnxClassifier.
        failed: Is given the figures and the error before the error is raised.

    Raises:
        CheckError: NotOnnx, NotSelfContained, WrongNames, FixedBatch, NotFinite, ValuesDiffer, Disagrees, AccuracyLost.
    """
    if not batches or min(batches) < 1:
        raise ValueError(f"batches={tuple(batches)}: batch sizes from 1 are accepted")
    if images is not None and not len(images):
        raise ValueError(f"{images.name}: no images")
    file = Path(path)
    proto = read_checked(file)
    inside = "preprocessing" in metadata_of(proto)
    check_names(proto, file.name, *((IMAGES_NAME, PROBABILITIES_NAME) if inside else (INPUT_NAME, OUTPUT_NAME)))
    # Without TF32, so that what is found is the file's and not a GPU's way of rounding.
    classifier = OnnxClassifier(
        file, provider=provider, threads=torch.get_num_threads(), batch_size=max(batches), tf32=False
    )
    kind = classifier.dtype + (" preprocessing" if inside else "")
    accepted = tolerance or TOLERANCES.get(kind)
    if accepted is None:
        raise ValueError(f"{file.name}: dtype {classifier.dtype!r} in its metadata; accepted: float32, float16, int8")
    used = images or _noise(classifier)
    if images is None:
        accepted = replace(accepted, agreement=0.0)
    scaled = np.stack([classifier.preprocess(image) for image in used.images])
    expected = _logits(plain_copy(model), scaled)
    values = softmax(expected).astype(np.float32) if inside else expected

    rows = np.arange(len(scaled))
    given = [classifier.prepare(image) for image in used.images] if inside else list(scaled)
    if inside:
        # Of one batch all have the same size: the commonest.
        common = Counter(image.shape for image in given).most_common(1)[0][0]
        rows = np.array([i for i, image in enumerate(given) if image.shape == common])
    differences = []
    for batch in batches:
        chosen = rows[np.arange(batch) % len(rows)]
        try:
            got = classifier.run(np.stack([given[i] for i in chosen])).float().cpu().numpy()
        except Exception as error:
            # The file was checked and loaded: what is left to fail is a size inside the graph.
            raise FixedBatch(f"{file.name}: fails at a batch of {batch}: {' '.join(str(error).split())}") from error
        if got.shape != (batch, values.shape[1]):
            raise ValuesDiffer(f"{file.name}: gives {got.shape}, the model {(batch, values.shape[1])}")
        if not np.isfinite(got).all():
            raise NotFinite(f"{file.name}: {np.count_nonzero(~np.isfinite(got))} of {got.size} values are not finite")
        differences.append(float(np.abs(got - values[chosen]).max()))

    found = np.array([prediction.indices[0] for prediction in classifier.predict(used.images, top_k=1)])
    own = expected.argmax(1)
    largest = float(np.abs(expected).max())
    if not inside:
        accepted = replace(accepted, difference=accepted.difference * max(1.0, largest))
    figures: dict[str, Any] = {
        "file": file.name,
        "kind": kind,
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "weights_sha256": classifier.metadata.get("weights_sha256"),
        "opset": opset_of(proto),
        "ir_version": proto.ir_version,
        "num_nodes": len(proto.graph.node),
        "input": [proto.graph.input[0].name, *shape_of(proto.graph.input[0])],
        "output": [proto.graph.output[0].name, *shape_of(proto.graph.output[0])],
        "images": used.name,
        "n": len(scaled),
        "batches": list(batches),
        "max_abs_diff": differences,
        "largest_difference": max(differences),
        "largest_logit": largest,
        "top1_agreement": float((found == own).mean()),
        "top1": None
        if used.labels is None
        else {"pytorch": float((own == used.labels).mean()), "onnx": float((found == used.labels).mean())},
        "accepted": {key: value if np.isfinite(value) else None for key, value in asdict(accepted).items()},
        "provider": classifier.provider,
        "calibration": json.loads(classifier.metadata.get("calibration", "null")),
    }
    facts = run_facts("cpu" if classifier.provider == "cpu" else "cuda")
    figures |= {key: facts[key] for key in ("device_name", "versions")}
    failure = _failure(figures, accepted)
    if failure is not None:
        if failed is not None:
            failed(figures, failure)
        raise failure
    return figures


def _failure(figures: dict[str, Any], accepted: Tolerance) -> CheckError | None:
    name, top1 = figures["file"], figures["top1"]
    of = f"of {figures['n']} images ({figures['images']})"
    agreement = f"same class for {figures['top1_agreement']:.2%} {of}"
    if figures["largest_difference"] > accepted.difference:
        what = "probabilities" if "preprocessing" in figures["kind"] else "logits"
        return ValuesDiffer(
            f"{name}: {what} differ by up to {figures['largest_difference']:.2e}, more than {accepted.difference:.2e}; "
            f"{agreement}"
        )
    if figures["top1_agreement"] < accepted.agreement:
        return Disagrees(f"{name}: {agreement}, less than {accepted.agreement:.2%}")
    if top1 is not None and top1["pytorch"] - top1["onnx"] > accepted.accuracy_loss:
        return AccuracyLost(
            f"{name}: {top1['onnx']:.2%} right {of}, PyTorch {top1['pytorch']:.2%}; a loss of up to "
            f"{accepted.accuracy_loss:.2%} is accepted"
        )
    return None


def summary(figures: dict[str, Any]) -> str:
    """The figures in one line."""
    top1 = figures["top1"]
    right = "" if top1 is None else f", right {top1['onnx']:.2%} (PyTorch {top1['pytorch']:.2%})"
    return (
        f"{figures['file']}: {figures['bytes'] / 1e6:.2f} MB, differs by {figures['largest_difference']:.1e} at most "
        f"(batches {', '.join(map(str, figures['batches']))}), same class {figures['top1_agreement']:.2%}{right}; "
        f"{figures['n']} images of {figures['images']}"
    )


def _noise(classifier: OnnxClassifier, count: int = 16) -> RealImages:
    """Images of random pixels, for a check of values where there are none."""
    assert classifier.input_size is not None  # our files say it
    channels, height, width = classifier.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    return RealImages("noise", list(pixels), None)


def _logits(model: nn.Module, scaled: np.ndarray, batch: int = 32) -> np.ndarray:
    with torch.no_grad():
        parts = [model(torch.from_numpy(scaled[i : i + batch])).numpy() for i in range(0, len(scaled), batch)]
    logits: np.ndarray = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise NotFinite("the PyTorch model's own logits are not finite; nothing to compare with")
    return logits
