"""Makes an int8 file of an exported float32 one, its ranges calibrated on real images.

    quantized = int8_variant(onnx.load("model.onnx"), pixels)  # scaled images, as OnnxClassifier.preprocess gives

Static quantisation in the QDQ form (a QuantizeLinear and DequantizeLinear pair around each tensor), weights per
channel: one scale for a whole depthwise convolution loses the network. On CPUs without VNNI, 8-bit products can
saturate (`reduce_range`), and int8 need not be faster than float32 there: `nas-zoo bench` tells. ONNX Runtime's CUDA
provider has no int8 convolutions, so on an NVIDIA GPU such a file is for TensorRT (`target="tensorrt"`). The same
images give the same bytes on one machine; another kind of CPU may round the ranges otherwise.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from nas_zoo.export.graph.onnx_file import INPUT_NAME
from nas_zoo.export.graph.variants import metadata_of, quiet, set_metadata
from nas_zoo.runs.progress import progressing

__all__ = ["ENOUGH", "FEW", "METHODS", "TARGETS", "int8_variant", "with_float_activations"]

TARGETS = ("cpu", "tensorrt")
METHODS = ("minmax", "percentile", "entropy")
_BATCH = 16
#: Images to calibrate on below which ``FEW`` is said.
ENOUGH = 100
FEW = (
    f"fewer than {ENOUGH}, so the ranges of the activations are those of few pictures, and values beyond them are cut "
    "off in others; take some of all classes, as the network was trained on"
)


def int8_variant(
    proto: onnx.ModelProto,
    pixel_values: np.ndarray,
    *,
    target: str = "cpu",
    method: str = "minmax",
    reduce_range: bool = False,
    keep_float: Sequence[str] = (),
) -> onnx.ModelProto:
    """The quantised graph; images and logits stay float32, names and metadata as they were.

    Args:
        proto: As ``export_onnx`` writes it.
        pixel_values: Scaled images (N, C, H, W) float32 like those that the file will see; a hundred do, of all
            classes. Where N is above 16, what is left over from batches of 16 is not used.
        target: "cpu": activations uint8 with a zero point, weights int8. "tensorrt": both int8 and symmetric, biases
            float32, which is what TensorRT reads (not run here: no GPU).
        method: How an activation's range follows from the values seen: all of them ("minmax"), all but a few outliers
            ("percentile"), or the range that keeps most information ("entropy").
        reduce_range: Weights of 7 bits, for CPUs without VNNI.
        keep_float: Names of nodes, or beginnings of them, that stay float32.

    Raises:
        ValueError: A target or a method of another name, or images that do not fit the file.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    for what, value, known in (("target", target, TARGETS), ("method", method, METHODS)):
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    shape = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim][1:]
    if pixel_values.dtype != np.float32 or pixel_values.ndim != 4 or list(pixel_values.shape[1:]) != shape:
        raise ValueError(
            f"calibration images {pixel_values.dtype} {pixel_values.shape}: float32 (N, {', '.join(map(str, shape))})"
        )
    if not len(pixel_values):
        raise ValueError("calibration: no images")
    names = [node.name for node in proto.graph.node]
    excluded = [name for name in names if any(name.startswith(start) for start in keep_float)]
    if lost := [start for start in keep_float if not any(name.startswith(start) for name in names)]:
        raise ValueError(f"keep_float {lost[0]!r}: no node of the graph is called so")
    batch = min(_BATCH, len(pixel_values))
    used = pixel_values[: len(pixel_values) // batch * batch]
    known = onnx.shape_inference.infer_shapes(proto)
    # the tool's own mark of a graph that was prepared; without it it asks for that in the log
    set_metadata(known, {"onnx.quant.pre_process": "nas-zoo"})
    options: dict[str, Any] = {}
    if target == "tensorrt":
        options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder) / "int8.onnx"
        quantize_static(
            known,
            path,
            _reader(used, batch),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=QuantType.QInt8 if target == "tensorrt" else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method={
                "minmax": CalibrationMethod.MinMax,
                "percentile": CalibrationMethod.Percentile,
                "entropy": CalibrationMethod.Entropy,
            }[method],
            nodes_to_exclude=excluded,
            extra_options=options,
        )
        made = onnx.load(path)
    domains = {node.domain for node in made.graph.node}
    for entry in [entry for entry in made.opset_import if entry.domain not in domains]:
        made.opset_import.remove(entry)
    made.ir_version = proto.ir_version
    made.producer_name, made.producer_version = proto.producer_name, proto.producer_version
    calibration = {
        "images": len(used),
        "method": method,
        "sha256": hashlib.sha256(np.ascontiguousarray(used).tobytes()).hexdigest(),
    }
    texts = {"dtype": "int8", "int8_target": target, "calibration": json.dumps(calibration)}
    set_metadata(made, metadata_of(proto) | texts)
    return made


def with_float_activations(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The quantised graph with its activations as they are: what is left of the rounding is that of the constants.

    A softmax at its end is left out, so that what comes out are logits. For a comparison on any images: without the
    ranges of the activations nothing depends on what they were calibrated on.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    quantized = {node.output[0] for node in made.graph.node if node.op_type == "QuantizeLinear"}
    ends = {value.name for value in made.graph.output}
    for node in made.graph.node:
        becomes = None
        activation = node.op_type == "DequantizeLinear" and node.input[0] in quantized
        if activation or (node.op_type == "Softmax" and node.output[0] in ends):
            becomes = "Identity"
        elif node.op_type == "QuantizeLinear":
            # ONNX Runtime's tool leaves out a ReLU whose cut the unsigned numbers make
            zero = zeros.get(node.input[2]) if len(node.input) > 2 else None
            unsigned = zero is not None and zero.dtype == np.uint8 and not zero.any()
            becomes = "Relu" if unsigned else "Identity"
        if becomes is not None:
            node.op_type = becomes
            del node.input[1:], node.attribute[:]
    del made.graph.value_info[:]  # some are of other types now
    return made


def _reader(pixel_values: np.ndarray, batch: int) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        """Batches of one size, since the histograms of two methods are stacked."""

        def __init__(self) -> None:
            starts = range(0, len(pixel_values), batch)
            self._parts = iter(progressing(starts, "calibrating", len(starts)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(self._parts, None)
            return None if start is None else {INPUT_NAME: pixel_values[start : start + batch]}

    return Reader()
