"""Compares an ONNX file with the model it was made from: names, shapes, values at several batch sizes.

    nas-zoo check digits.onnx runs/digits
    python export/graph/check.py edas_c10.onnx edas_c10 --weights model.safetensors

Every way in which a file can be wrong has an error of its own, a ValueError that names the file.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx.external_data_helper import uses_external_data
from torch import nn

from nas_zoo.export.graph.to_onnx import (
    BATCH_AXIS,
    INPUT_NAME,
    MODEL_HELP,
    OUTPUT_NAME,
    ModelSettings,
    named_model,
    plain_copy,
)
from nas_zoo.runs.ending import Finding, program
from nas_zoo.runs.settings import Parser, add_flags, given_flags, require, require_least, setting, settings_from

__all__ = [
    "CheckError", "CheckReport", "FixedBatch", "NotFinite", "NotOnnx", "NotSelfContained", "ValuesDiffer",
    "WrongNames", "WrongShape", "check_names", "check_onnx", "opset_of", "read_checked", "shape_of",
]  # fmt: skip

# What ONNX Runtime 1.25 to 1.31 reads; a newer file is refused by it, or worse, read by some of its versions only.
MAX_OPSET, MAX_IR_VERSION = 23, 11


class CheckError(Finding):
    """The file is not the model."""


class NotOnnx(CheckError):
    """No ONNX file, a truncated or invalid one, or one of a version that ONNX Runtime does not read."""


class NotSelfContained(CheckError):
    """Weights lie in a second file."""


class WrongNames(CheckError):
    """Input or output has another name, or there are more of them."""


class FixedBatch(CheckError):
    """The file takes one batch size only."""


class WrongShape(CheckError):
    """Images or logits of another shape or type than the model's."""


class NotFinite(CheckError):
    """Infinity or NaN among the logits."""


class ValuesDiffer(CheckError):
    """The logits are not the model's."""


@dataclass(frozen=True)
class CheckReport:
    """What was compared, and how large the differences were (absolute, in logits)."""

    file: str  # its name, without the folder
    bytes: int
    opset: int
    ir_version: int
    num_nodes: int
    input_name: str
    input_shape: tuple[int | str, ...]
    output_name: str
    output_shape: tuple[int | str, ...]
    batches: tuple[int, ...]
    max_abs_diff: tuple[float, ...]  # one a batch size
    top1_agreement: float  # part of the images, of all batches together
    tolerance: float  # of the largest difference
    largest_logit: float  # the model's, absolute: a network with logits near 0 says little

    @property
    def largest_difference(self) -> float:
        return max(self.max_abs_diff)

    def __str__(self) -> str:
        def shown(name: str, shape: tuple[int | str, ...]) -> str:
            return f"{name} ({', '.join(map(str, shape))})"

        rows = [
            ("file", f"{self.file}, {self.bytes / 1e6:.2f} MB, {self.num_nodes} nodes"),
            ("version", f"opset {self.opset}, IR {self.ir_version}"),
            ("input", shown(self.input_name, self.input_shape)),
            ("output", shown(self.output_name, self.output_shape)),
            *((f"batch of {n}", f"{d:.2e}") for n, d in zip(self.batches, self.max_abs_diff, strict=True)),
            ("largest logit", f"{self.largest_logit:.2e}"),
            ("same top-1", f"{self.top1_agreement:.2%}"),
            ("largest difference", f"{self.largest_difference:.2e} (at most {self.tolerance:.2e} is accepted)"),
        ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def check_onnx(
    path: str | os.PathLike[str],
    model: nn.Module,
    images: np.ndarray | torch.Tensor | None = None,
    batches: Sequence[int] = (1, 3, 8),
    atol: float = 1e-4,
) -> CheckReport:
    """Runs file and model on the same images (ONNX Runtime on the CPU, one thread a core) and compares.

    Args:
        path: The ONNX file.
        model: The model it was made from; it is copied, its mode and device stay.
        images: Scaled images (N, C, H, W) float32, used in turn; noise of mean 0 and deviation 1 if None.
        batches: Batch sizes to run.
        atol: Largest accepted difference of a logit, times the model's largest logit where that is above 1.

    Raises:
        CheckError: A subclass of ValueError for each kind of difference, see above.
    """
    if not batches or min(batches) < 1 or not atol >= 0:
        raise ValueError(
            f"batches={tuple(batches)}, atol={atol}: batch sizes from 1 and a tolerance from 0 are accepted"
        )
    file = Path(path)
    proto = read_checked(file)
    name = file.name
    check_names(proto, name)
    input_shape, output_shape = (shape_of(value) for value in (proto.graph.input[0], proto.graph.output[0]))
    _check_shapes(input_shape, output_shape, model, name)
    pool = _images(images, input_shape, max(batches))
    largest_logit, differences, agreeing = 0.0, [], 0
    twin, session = plain_copy(model), _session(file, name)
    for batch in batches:
        x = pool[np.arange(batch) % len(pool)]
        got, expected = _run(session, x, name), _reference(twin, x)
        if got.shape != expected.shape:
            raise WrongShape(f"{name}: logits {got.shape} at batch {batch}, the model gives {expected.shape}")
        if not np.isfinite(got).all():
            raise NotFinite(f"{name}: {np.count_nonzero(~np.isfinite(got))} of {got.size} logits are not finite")
        largest_logit = max(largest_logit, float(np.abs(expected).max()))
        differences.append(float(np.abs(got - expected).max()))
        agreeing += int((got.argmax(1) == expected.argmax(1)).sum())
    report = CheckReport(
        file=name,
        bytes=file.stat().st_size,
        opset=opset_of(proto),
        ir_version=proto.ir_version,
        num_nodes=len(proto.graph.node),
        input_name=INPUT_NAME,
        input_shape=input_shape,
        output_name=OUTPUT_NAME,
        output_shape=output_shape,
        batches=tuple(batches),
        max_abs_diff=tuple(differences),
        top1_agreement=agreeing / sum(batches),
        tolerance=atol * max(1.0, largest_logit),
        largest_logit=largest_logit,
    )
    if report.largest_difference > report.tolerance:
        raise ValuesDiffer(
            f"{name}: logits differ by up to {report.largest_difference:.2e}, more than {report.tolerance:.2e}; "
            f"same top-1 for {report.top1_agreement:.2%} of {sum(batches)} images; "
            "are these the weights that the file was made from?"
        )
    return report


def read_checked(file: Path) -> onnx.ModelProto:
    """The graph of a valid file that stands alone and that ONNX Runtime reads; NotOnnx, NotSelfContained otherwise."""
    proto = _read(file)
    _check_versions(proto, file.name)
    _check_self_contained(proto, file.name)
    _check_graph(proto, file.name)
    return proto


def _read(file: Path) -> onnx.ModelProto:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotOnnx(f"{str(file)!r}: {error.strerror or error}; an ONNX file is accepted") from error
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
            f"{name}: opset {opset_of(proto)}, IR {proto.ir_version}; up to opset {MAX_OPSET} and IR {MAX_IR_VERSION} "
            "are accepted, which ONNX Runtime reads"
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
            f"{name}: {len(outside)} tensors lie in {', '.join(sorted(places))}; one file with all weights is accepted"
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
            raise WrongNames(f"{name}: {what} {', '.join(map(repr, found)) or 'missing'}; one {accepted!r} is accepted")


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """The declared shape; a free axis is its name, "?" without one."""
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims)


def _check_shapes(
    input_shape: tuple[int | str, ...], output_shape: tuple[int | str, ...], model: nn.Module, name: str
) -> None:
    channels, classes = getattr(model, "in_chans", None), getattr(model, "num_classes", None)
    for what, shape, names in (("input", input_shape, "NCHW"), ("output", output_shape, ("N", "num_classes"))):
        if len(shape) != len(names):
            raise WrongShape(
                f"{name}: {what} {shape} has {len(shape)} axes; {len(names)} ({', '.join(names)}) are accepted"
            )
        if isinstance(shape[0], int):
            raise FixedBatch(
                f"{name}: {what} {shape} is for a batch of {shape[0]}; a free axis {BATCH_AXIS!r} is accepted"
            )
    if channels is not None and input_shape[1] != channels:
        raise WrongShape(f"{name}: images of {input_shape[1]} channel(s), the model takes {channels}")
    if classes is not None and isinstance(output_shape[1], int) and output_shape[1] != classes:
        raise WrongShape(f"{name}: {output_shape[1]} logits an image, the model gives {classes}")
    if not all(isinstance(side, int) for side in input_shape[1:]):
        raise WrongShape(f"{name}: images {input_shape[1:]}; fixed channels, height and width are accepted")


def _images(images: np.ndarray | torch.Tensor | None, input_shape: tuple[int | str, ...], count: int) -> np.ndarray:
    shape = tuple(int(side) for side in input_shape[1:])
    if images is None:
        return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)
    array = images.detach().cpu().numpy() if isinstance(images, torch.Tensor) else np.asarray(images)
    if array.ndim != 4 or not len(array) or array.shape[1:] != shape or not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images {array.dtype} {array.shape}: scaled float images (N, {', '.join(map(str, shape))})")
    return array.astype(np.float32)


def _session(file: Path, name: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised; the log would repeat it on stderr
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common class of their own
        raise NotOnnx(f"{name}: ONNX Runtime does not load it: {error}") from error


def _run(session: Any, x: np.ndarray, name: str) -> np.ndarray:
    try:
        logits: np.ndarray = session.run([OUTPUT_NAME], {INPUT_NAME: x})[0]
    except Exception as error:
        # The file was checked and loaded: what is left to fail is a size inside the graph.
        raise FixedBatch(f"{name}: fails at a batch of {len(x)}: {error}") from error
    return logits


def _reference(model: nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(x)).numpy()
    if not np.isfinite(logits).all():
        raise NotFinite("the PyTorch model's own logits are not finite; nothing to compare with")
    return logits


@dataclass(frozen=True)
class CheckSettings(ModelSettings):
    """The model to compare with"""

    batches: tuple[int, ...] = setting((1, 3, 8), "batch sizes to run")
    atol: float = setting(1e-4, "largest accepted difference of a logit of a float32 file")
    images: Path | None = setting(None, "folder of real images to check on; class folders give labels")
    data: str | None = setting(None, "data set to check on instead: digits, cifar10, cifar100, folder or tar")
    check_images: int = setting(256, "how many images to check on, at most")
    json: Path | None = setting(None, "file to write the figures to (of a check on real images or of another form)")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, batches=1, check_images=1)
        require(0 <= self.atol < math.inf, "atol", self.atol, "a finite number of at least 0")


def _is_other_form(file: Path) -> bool:
    """Whether the file is one of those that ``nas-zoo export --to`` writes beside the float32 one."""
    texts = {entry.key: entry.value for entry in _read(file).metadata_props}
    return "preprocessing" in texts or texts.get("dtype", "float32") != "float32"


def _check_on_images(file: Path, model: nn.Module, settings: CheckSettings) -> None:
    from nas_zoo.export.graph.real_images import real_images
    from nas_zoo.export.graph.verify import summary, verify
    from nas_zoo.export.runtime.classifier import OnnxClassifier
    from nas_zoo.runs.files import write_json

    if settings.images is not None and settings.data is not None:
        raise ValueError("--images, --data: one of them is accepted")
    place = settings.data if settings.images is None else str(settings.images)
    images = None
    if place is not None:
        read_checked(file)
        classifier = OnnxClassifier(file)
        size = classifier.input_size or (3, None, None)
        images = real_images(
            place, classes=classifier.labels, num_classes=classifier.num_classes, in_chans=size[0],
            limit=settings.check_images,
        )  # fmt: skip
    figures = verify(file, model, images, batches=settings.batches)
    print(summary(figures))
    if settings.json is not None:
        write_json(settings.json, figures)


@program("nas-zoo check")
def main(argv: Iterable[str] | None = None) -> int:
    """The program: 0 when file and model agree, 1 when they do not, 2 for a mistake of the user's."""
    parser = Parser(prog="nas-zoo check", description=__doc__)
    parser.add_argument("file", type=Path, help="the ONNX file")
    parser.add_argument("model", help=MODEL_HELP)
    add_flags(parser, CheckSettings)
    namespace = parser.parse_args(None if argv is None else list(argv))
    settings = settings_from(CheckSettings, given := given_flags(namespace))
    model = named_model(namespace.model, settings)
    plain = settings.images is None and settings.data is None and settings.json is None
    if "atol" in given and (not plain or _is_other_form(namespace.file)):
        raise ValueError(
            "--atol: for a float32 file without --images, --data and --json; with them, and for float16 and int8, "
            "what is accepted follows from the size of the logits (the figures say how much that is)"
        )
    if plain and not _is_other_form(namespace.file):
        print(check_onnx(namespace.file, model, batches=settings.batches, atol=settings.atol))
    else:
        _check_on_images(namespace.file, model, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
