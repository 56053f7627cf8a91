"""Compares an ONNX file of any form with the model it was made from: what it says of itself, shapes, values, classes.

    nas-zoo check digits.onnx runs/digits
    nas-zoo check model_int8.onnx runs/photos --images photos/test
    python export/graph/check.py edas_c10.onnx edas_c10 --weights model.safetensors

PyTorch computes in float32 on the CPU from images that OnnxClassifier has prepared; a file with its preprocessing
inside gets the images themselves. How much a file may differ depends on its form (TOLERANCES). Without real images
values are compared on noise, and classes are not: a network has no opinion on noise.

Every way in which a file can be wrong has an error of its own, a ValueError that names the file.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import uses_external_data
from PIL import Image
from torch import nn

from nas_zoo.data.listing import PLACES
from nas_zoo.export.graph.model import MODEL_HELP, ModelSettings, named_model
from nas_zoo.export.graph.onnx_file import BATCH_AXIS, INPUT_NAME, OUTPUT_NAME, plain_copy, weights_sha256
from nas_zoo.export.graph.quantize import with_float_activations
from nas_zoo.export.graph.real_images import RealImages, real_images
from nas_zoo.export.graph.variants import IMAGES_NAME, PROBABILITIES_NAME, metadata_of
from nas_zoo.export.runtime.classifier import OnnxClassifier, softmax
from nas_zoo.genotype import Genotype, name_of_cells
from nas_zoo.runs.ending import Finding, program
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import read_bytes, write_json
from nas_zoo.runs.settings import Parser, add_flags, given_flags, require, require_least, setting, settings_from
from nas_zoo.text import counted, plain

__all__ = [
    "TOLERANCES", "AccuracyLost", "CheckError", "Disagrees", "FixedBatch", "NotFinite", "NotOnnx", "NotSelfContained",
    "OtherModel", "Tolerance", "ValuesDiffer", "WrongNames", "WrongShape", "check_model", "check_names", "check_onnx",
    "opset_of", "read_checked", "shape_of", "summary",
]  # fmt: skip

# What ONNX Runtime 1.25 to 1.31 reads; a newer file is refused by it, or worse, read by some of its versions only.
MAX_OPSET, MAX_IR_VERSION = 23, 11


#: Part of the largest logit by which weights of 8 bits may change one, activations being float: it is 0.007 to 0.02
#: for edas_e8_c10_s and da2s_c10_s on noise, and 0.5 between these two.
WEIGHTS_ROUNDED = 0.1


class CheckError(ValueError):
    """The file is not the model, or is none that can be compared."""


class NotOnnx(CheckError):
    """No ONNX file, a truncated or invalid one, or one of a version that ONNX Runtime does not read.

    The one kind that is no finding about file and model: a program ends with 2 here, as for other wrong input.
    """


class _Differs(CheckError, Finding):
    """Both were read, and the file is not the model."""


class NotSelfContained(_Differs):
    """Weights lie in a second file."""


class WrongNames(_Differs):
    """Input or output has another name, or there are more of them."""


class FixedBatch(_Differs):
    """The file takes one batch size only."""


class WrongShape(_Differs):
    """Images or logits of another shape or type than the model's."""


class NotFinite(_Differs):
    """Infinity or NaN among the logits."""


class ValuesDiffer(_Differs):
    """The logits are not the model's."""


class OtherModel(_Differs):
    """By what it says of itself the file is of another model: cells, sizes, classes or weights."""


class Disagrees(_Differs):
    """Too many images get another class."""


class AccuracyLost(_Differs):
    """Too many labelled images are classified wrongly that PyTorch classifies rightly."""


@dataclass(frozen=True)
class Tolerance:
    """How far a file may be from its model."""

    difference: float  # of a logit, times the model's largest where that is above 1; of a probability as it is
    agreement: float  # least part of the real images that get the same class
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


def check_onnx(
    path: str | os.PathLike[str],
    model: nn.Module,
    images: RealImages | None = None,
    *,
    batches: Sequence[int] = (1, 3, 8),
    atol: float | None = None,
    tolerance: Tolerance | None = None,
    provider: str = "cpu",
    failed: Callable[[dict[str, Any], CheckError], None] | None = None,
) -> dict[str, Any]:
    """The figures of a comparison of file and model, as JSON has them.

    Args:
        path: A file of ``nas-zoo export``, of any kind.
        model: What it was made from; left as it is.
        images: Real ones; noise if None, on which values are compared and classes are not ("top1_agreement" is None).
        batches: Batch sizes whose values are compared, of the first images in turn.
        atol: Largest difference of a logit, times the model's largest logit where that is above 1; as the tolerance
            has it if None.
        tolerance: Of TOLERANCES if None.
        provider: Of OnnxClassifier.
        failed: Is given the figures and the error before the error is raised.

    Raises:
        CheckError: A subclass of ValueError for each kind of difference, see above.
    """
    if not batches or min(batches) < 1:
        raise ValueError(f"batches must be sizes of at least 1, got {tuple(batches)}")
    if atol is not None and not atol >= 0:
        raise ValueError(f"atol must be at least 0, got {atol}")
    if images is not None and not len(images):
        raise ValueError(f"{images.name}: no images")
    file = Path(path)
    proto = read_checked(file)
    name, texts = file.name, metadata_of(proto)
    inside = "preprocessing" in texts
    check_names(proto, name, *((IMAGES_NAME, PROBABILITIES_NAME) if inside else (INPUT_NAME, OUTPUT_NAME)))
    input_shape, output_shape = (shape_of(value) for value in (proto.graph.input[0], proto.graph.output[0]))
    _check_shapes(input_shape, output_shape, model, name, texts.get("preprocessing"))
    check_model(texts, model, name)
    # Without TF32, so that what is found is the file's and not a GPU's way of rounding.
    try:
        classifier = OnnxClassifier(
            file, provider=provider, threads=torch.get_num_threads(), batch_size=max(batches), tf32=False
        )
    except ValueError as error:
        # ONNX Runtime follows the sizes through the graph, whatever is declared of its output.
        words = str(error) if str(error).startswith((name, repr(str(file)))) else f"{name}: {error}"
        raise (FixedBatch if "a row for each image" in words else NotOnnx)(words) from error
    kind = classifier.dtype + (" preprocessing" if inside else "")
    allowed = tolerance or TOLERANCES.get(kind)
    if allowed is None:
        raise ValueError(f"{name}: dtype {classifier.dtype!r} in its metadata must be float32, float16 or int8")
    if atol is not None:
        allowed = replace(allowed, difference=atol)
    used = images or _noise(texts, input_shape)
    scaled = np.stack([classifier.preprocess(image) for image in used.images])
    expected = _logits(plain_copy(model), scaled)
    values = softmax(expected).astype(np.float32) if inside else expected

    largest = float(np.abs(expected).max())
    rows = np.arange(len(scaled))
    given = [classifier.prepare(image) for image in used.images] if inside else list(scaled)
    if inside:
        # Of one batch all have the same size: the commonest.
        common = Counter(image.shape for image in given).most_common(1)[0][0]
        rows = np.array([i for i, image in enumerate(given) if image.shape == common])
    weights_difference = None
    if classifier.dtype == "int8":
        chosen = rows[: max(batches)]
        weights_difference = _weights_difference(proto, name, np.stack([given[i] for i in chosen]), expected[chosen])
        if not weights_difference <= WEIGHTS_ROUNDED * largest + 1e-4:
            raise OtherModel(
                f"{name}: holds the weights of another model: with its activations not rounded its logits still differ "
                f"by up to {weights_difference:.2e}, of {largest:.2e} the largest"
            )
    differences = []
    for batch in batches:
        chosen = rows[np.arange(batch) % len(rows)]
        try:
            got = classifier.run(np.stack([given[i] for i in chosen])).float().cpu().numpy()
        except Exception as error:
            # The file was checked and loaded: what is left to fail is a size inside the graph.
            raise FixedBatch(f"{name}: fails at a batch of {batch}: {' '.join(str(error).split())}") from error
        if got.shape != (batch, values.shape[1]):
            raise WrongShape(f"{name}: gives {got.shape} at batch {batch}, the model {(batch, values.shape[1])}")
        if not np.isfinite(got).all():
            raise NotFinite(f"{name}: {np.count_nonzero(~np.isfinite(got))} of {got.size} values are not finite")
        differences.append(float(np.abs(got - values[chosen]).max()))

    if not inside:
        allowed = replace(allowed, difference=allowed.difference * max(1.0, largest))
    agreement, top1 = None, None
    if images is not None:
        found = np.array([prediction.indices[0] for prediction in classifier.predict(used.images, top_k=1)])
        own = expected.argmax(1)
        agreement = float((found == own).mean())
        if used.labels is not None:
            right = {"pytorch": own == used.labels, "onnx": found == used.labels}
            top1 = {key: float(value.mean()) for key, value in right.items()}
    figures: dict[str, Any] = {
        "file": name,
        "kind": kind,
        "bytes": file.stat().st_size,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "weights_sha256": texts.get("weights_sha256"),
        "random_weights": texts.get("random_weights"),
        "opset": opset_of(proto),
        "ir_version": proto.ir_version,
        "num_nodes": len(proto.graph.node),
        "input": [proto.graph.input[0].name, *input_shape],
        "output": [proto.graph.output[0].name, *output_shape],
        "images": used.name,
        "n": len(scaled),
        "batches": list(batches),
        "max_abs_diff": differences,
        "largest_difference": max(differences),
        "largest_logit": largest,
        "weights_difference": weights_difference,
        "top1_agreement": agreement,
        "top1": top1,
        "accepted": {key: value if np.isfinite(value) else None for key, value in asdict(allowed).items()},
        "provider": classifier.provider,
        "calibration": _told(classifier.metadata, "calibration", name),
    }
    facts = run_facts("cpu" if classifier.provider == "cpu" else "cuda")
    figures |= {key: facts[key] for key in ("device_name", "versions")}
    failure = _failure(figures, allowed)
    if failure is not None:
        if failed is not None:
            failed(figures, failure)
        raise failure
    return figures


def _weights_difference(proto: onnx.ModelProto, name: str, given: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference of a logit when of an int8 file only the constants are rounded."""
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.log_severity_level = 3  # it warns of scales that are no longer used
    graph = with_float_activations(proto).SerializeToString()
    try:
        session = InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        (found,) = session.run(None, {proto.graph.input[0].name: given})
    except Exception as error:  # ONNX Runtime's own
        raise NotOnnx(f"{name}: int8 of another form than QDQ, as nas-zoo export writes it, is not compared") from error
    return float(np.abs(found - expected).max())


def check_model(texts: Mapping[str, str], model: nn.Module, name: str, *, weights: bool = True) -> None:
    """OtherModel where the metadata of a file say that it was made from another model.

    Args:
        texts: The file's metadata; what they leave out is not compared.
        model: Of any kind; cells and sizes are compared where it has them.
        name: Of the file.
        weights: False compares the network alone.
    """
    genotype = getattr(model, "genotype", None)
    own: dict[str, Any] = {key: getattr(model, key, None) for key in ("layout", "init_channels", "num_cells")}
    said: dict[str, Any] = {key: texts.get(key) for key in own}
    if isinstance(genotype, Genotype) and "genotype" in texts:
        try:
            own["cells"], said["cells"] = genotype.digest, Genotype.from_json(texts["genotype"]).digest
        except ValueError as error:
            raise NotOnnx(f"{name}: the cells in its metadata: {error}") from None
        if own["cells"] != said["cells"]:
            own["cells"], said["cells"] = map(name_of_cells, (own["cells"], said["cells"]))
    if isinstance(labels := _told(texts, "labels", name), list):
        own["num_classes"] = getattr(model, "num_classes", None)
        said["num_classes"] = len(labels)
    if weights:
        own["weights (SHA-256)"], said["weights (SHA-256)"] = weights_sha256(model), texts.get("weights_sha256")
    for key, value in own.items():
        if value is not None and said[key] is not None and str(said[key]) != str(value):
            raise OtherModel(f"{name}: was made from another model: its {key} is {said[key]}, the model's is {value}")


def _told(texts: Mapping[str, str], key: str, name: str) -> Any:
    """What the metadata of a file say under a key, JSON; None where they say nothing."""
    try:
        return json.loads(texts.get(key, "null"))
    except (ValueError, RecursionError) as error:
        raise NotOnnx(f"{name}: the metadata's {key} is no JSON ({error})") from None


def read_checked(file: Path) -> onnx.ModelProto:
    """The graph of a valid file that stands alone and that ONNX Runtime reads; NotOnnx, NotSelfContained otherwise."""
    proto = _read(file)
    _check_versions(proto, file.name)
    _check_self_contained(proto, file.name)
    _check_graph(proto, file.name)
    return proto


def _read(file: Path) -> onnx.ModelProto:
    try:
        data = read_bytes(file)
    except OSError as error:
        raise ValueError(f"{str(file)!r}: {error.strerror or error}; the name of an ONNX file is needed") from error
    try:
        proto = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, whose class depends on the implementation
        raise NotOnnx(f"{file.name}: not an ONNX file, or a truncated one ({len(data)} bytes): {error}") from error
    if not proto.graph.node:
        raise NotOnnx(f"{file.name}: not an ONNX file ({len(data)} bytes without a graph)")
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the standard operators that the graph is written in; 0 without one."""
    return max((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def _check_versions(proto: onnx.ModelProto, name: str) -> None:
    if opset_of(proto) > MAX_OPSET or proto.ir_version > MAX_IR_VERSION:
        raise NotOnnx(
            f"{name}: opset {opset_of(proto)}, IR {proto.ir_version}; ONNX Runtime reads up to opset {MAX_OPSET} and "
            f"IR {MAX_IR_VERSION}"
        )


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored in the graph: weights and constants, of branches too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _check_self_contained(proto: onnx.ModelProto, name: str) -> None:
    outside = [tensor for tensor in _tensors(proto.graph) if uses_external_data(tensor)]
    if outside:
        places = {entry.value for tensor in outside for entry in tensor.external_data if entry.key == "location"}
        raise NotSelfContained(
            f"{name}: {len(outside)} tensor(s) lie in {', '.join(sorted(places))}; the file must hold all its weights"
        )


def _check_graph(proto: onnx.ModelProto, name: str) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise NotOnnx(f"{name}: onnx.checker refuses it: {error}") from error


def check_names(proto: onnx.ModelProto, name: str, input_: str = INPUT_NAME, output: str = OUTPUT_NAME) -> None:
    """WrongNames unless the graph has this one input and this one output."""
    weights = {tensor.name for tensor in proto.graph.initializer}  # old files list these among the inputs
    inputs = [value.name for value in proto.graph.input if value.name not in weights]
    for what, found, accepted in (
        ("input", inputs, input_),
        ("output", [value.name for value in proto.graph.output], output),
    ):
        if found != [accepted]:
            raise WrongNames(
                f"{name}: {what} {', '.join(map(repr, found)) or 'missing'}; it must have one, called {accepted!r}"
            )


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The declared shape; a free axis is its name, "?" without one."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)


def _check_shapes(
    input_shape: tuple[int | str, ...],
    output_shape: tuple[int | str, ...],
    model: nn.Module,
    name: str,
    preprocessing: str | None,
) -> None:
    channels, classes = getattr(model, "in_chans", None), getattr(model, "num_classes", None)
    for what, shape, axes in (("input", input_shape, tuple(preprocessing or "NCHW")),
                              ("output", output_shape, ("N", "num_classes"))):  # fmt: skip
        if len(shape) != len(axes):
            raise WrongShape(f"{name}: {what} {shape} must have {len(axes)} axes ({', '.join(axes)}), has {len(shape)}")
        if isinstance(shape[0], int):
            raise FixedBatch(
                f"{name}: {what} {shape} is for a batch of {shape[0]}; it must have a free axis {BATCH_AXIS!r}"
            )
    found = input_shape[(preprocessing or "NCHW").index("C")]
    if channels is not None and found != channels:
        raise WrongShape(f"{name}: images of {found} channel(s), the model takes {channels}")
    if classes is not None and isinstance(output_shape[1], int) and output_shape[1] != classes:
        raise WrongShape(f"{name}: {output_shape[1]} logits an image, the model gives {classes}")
    if preprocessing is None and not all(isinstance(side, int) for side in input_shape[1:]):
        raise WrongShape(f"{name}: images {input_shape[1:]} must have fixed channels, height and width")


def _failure(figures: dict[str, Any], allowed: Tolerance) -> CheckError | None:
    name, top1 = figures["file"], figures["top1"]
    of = f"of {counted(figures['n'], 'image')} ({figures['images']})"
    part = figures["top1_agreement"]
    agreement = "classes were not compared, on noise" if part is None else f"same class for {part:.2%} {of}"
    if figures["largest_difference"] > allowed.difference:
        what = "probabilities" if "preprocessing" in figures["kind"] else "logits"
        return ValuesDiffer(
            f"{name}: {what} differ by up to {figures['largest_difference']:.2e}, more than {allowed.difference:.2e}; "
            f"{agreement}"
        )
    if part is not None and part < allowed.agreement:
        return Disagrees(f"{name}: {agreement}, less than {allowed.agreement:.2%}")
    if top1 is not None and top1["pytorch"] - top1["onnx"] > allowed.accuracy_loss:
        return AccuracyLost(
            f"{name}: {top1['onnx']:.2%} right {of}, PyTorch {top1['pytorch']:.2%}; that is "
            f"more than {allowed.accuracy_loss:.2%} lost"
        )
    return None


def summary(figures: Mapping[str, Any]) -> str:
    """The figures in one line."""
    top1, agreement, limit = figures["top1"], figures["top1_agreement"], figures["accepted"]["difference"]
    right = "" if top1 is None else f", right {top1['onnx']:.2%} (PyTorch {top1['pytorch']:.2%})"
    classes = "classes not compared" if agreement is None else f"same class {agreement:.2%}{right}"
    random = f"; RANDOM WEIGHTS: {plain(figures['random_weights'])}" if figures["random_weights"] else ""
    return (
        f"{plain(figures['file'])}: {figures['bytes'] / 1e6:.2f} MB, "
        f"differs by {figures['largest_difference']:.1e} at most "
        f"({'' if limit is None else f'of {limit:.1e} allowed, '}batches {', '.join(map(str, figures['batches']))}), "
        f"{classes}; {counted(figures['n'], 'image')} of {plain(figures['images'])}{random}"
    )


def _noise(texts: Mapping[str, str], input_shape: tuple[int | str, ...], count: int = 16) -> RealImages:
    """Images of random pixels, for a check of values where there are none.

    Pictures where they can be, which a file with preprocessing inside and its classifier crop alike.
    """
    size: Any = json.loads(texts.get("input_size", "null")) or input_shape[1:]  # read by OnnxClassifier before
    channels, height, width = (int(side) for side in size)
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)
    images: list[Any] = list(pixels)
    if channels in (1, 3):
        images = [Image.fromarray(one[:, :, 0] if channels == 1 else one) for one in images]
    return RealImages("noise", images, None)


def _logits(model: nn.Module, scaled: np.ndarray, batch: int = 32) -> np.ndarray:
    with torch.no_grad():
        parts = [model(torch.from_numpy(scaled[i : i + batch])).numpy() for i in range(0, len(scaled), batch)]
    logits: np.ndarray = np.concatenate(parts)
    if not np.isfinite(logits).all():
        raise NotFinite("the PyTorch model's own logits are not finite; nothing to compare with")
    return logits


@dataclass(frozen=True)
class CheckSettings(ModelSettings):
    """The model to compare with"""

    batches: tuple[int, ...] = setting((1, 3, 8), "batch sizes to run")
    atol: float | None = setting(None, "largest difference of a logit that may be; none: by the file's form")
    images: Path | None = setting(None, f"{PLACES} of real images to check on; class folders give labels")
    data: str | None = setting(None, f"data set to check on instead: digits, cifar10, cifar100, {PLACES}")
    check_images: int = setting(256, "how many images to check on, at most")
    json: Path | None = setting(None, "file to write the figures to")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, batches=1, check_images=1)
        require(self.atol is None or 0 <= self.atol < math.inf, "atol", self.atol, "a finite number of at least 0")


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo check", description=__doc__)
    parser.add_argument("file", type=Path, help="the ONNX file")
    parser.add_argument("model", help=MODEL_HELP)
    add_flags(parser, CheckSettings)
    return parser


@program("nas-zoo check")
def main(argv: Iterable[str] | None = None) -> int:
    """The program: 0 when file and model agree, 1 when they do not, 2 for a user's mistake or what is no ONNX file."""
    namespace = make_parser().parse_args(None if argv is None else list(argv))
    settings = settings_from(CheckSettings, given_flags(namespace))
    if settings.images is not None and settings.data is not None:
        raise ValueError("--images and --data: give one of them, not both")
    require(settings.json is None or not settings.json.is_dir(), "json", settings.json, "the name of a file")
    model = named_model(namespace.model, settings)
    place = settings.data if settings.images is None else str(settings.images)
    images = None
    if place is not None:
        read_checked(namespace.file)
        classifier = OnnxClassifier(namespace.file)
        size = classifier.input_size or (3, None, None)
        images = real_images(
            place, split="test" if settings.images is None else None, classes=classifier.labels,
            num_classes=classifier.num_classes, in_chans=size[0], limit=settings.check_images,
        )  # fmt: skip
    figures = check_onnx(namespace.file, model, images, batches=settings.batches, atol=settings.atol)
    print(summary(figures))
    if settings.json is not None:
        write_json(settings.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
