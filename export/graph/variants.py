"""Other forms of an exported file, made from the file itself: float16 weights, preprocessing in the graph.

    half = float16_variant(onnx.load("model.onnx"))
    images = with_preprocessing(half, layout="NHWC")

Each gives a new graph with the metadata of the old one, the same bytes each time; what it costs in accuracy is
measured by nas_zoo.export.graph.check.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nas_zoo.export.graph.onnx_file import BATCH_AXIS, INPUT_NAME, OUTPUT_NAME

__all__ = [
    "IMAGES_NAME", "LAYOUTS", "PROBABILITIES_NAME", "float16_variant", "metadata_of", "set_metadata", "to_bytes",
    "with_preprocessing",
]  # fmt: skip

IMAGES_NAME, PROBABILITIES_NAME = "images", "probabilities"
LAYOUTS = ("NHWC", "NCHW")
#: Pillow's filters that ONNX's Resize has too (to 1 of 255, tested); it has no Lanczos, and breaks ties of the nearest
#: pixel otherwise.
_RESIZE: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "exclude_outside": 1},
}


def metadata_of(proto: onnx.ModelProto) -> dict[str, str]:
    """The texts that the file carries."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def set_metadata(proto: onnx.ModelProto, texts: dict[str, str]) -> None:
    """Replaces the texts, in the order of their keys."""
    del proto.metadata_props[:]
    helper.set_model_props(proto, dict(sorted(texts.items())))


def to_bytes(proto: onnx.ModelProto) -> bytes:
    """The file: the same bytes for the same graph."""
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def float16_variant(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with float16 weights and arithmetic; images and logits stay float32, cast inside.

    So it takes the place of the float32 file in any program, at half the size; a server that wants to halve the
    traffic too sends uint8 images to the variant with preprocessing. ValueError for weights beyond float16's range.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    limit = float(np.finfo(np.float16).max)
    for tensor in (tensor for tensor in proto.graph.initializer if tensor.data_type == TensorProto.FLOAT):
        if np.abs(numpy_helper.to_array(tensor)).max(initial=0) > limit:
            raise ValueError(f"dtype float16: weights {tensor.name!r} go beyond {limit:.0f}, float16's largest number")
    with quiet():
        half: onnx.ModelProto = convert_float_to_float16(_copy(proto), keep_io_types=True)
    _sort_nodes(half.graph)
    set_metadata(half, metadata_of(proto) | {"dtype": "float16"})
    return half


def with_preprocessing(proto: onnx.ModelProto, layout: str = "NHWC") -> onnx.ModelProto:
    """The graph behind its own preprocessing: decoded images in, probabilities out.

    Input ``images`` uint8, (batch_size, height, width, C) for NHWC or (batch_size, C, height, width) for NCHW, of any
    height and width, one for all images of a batch; output ``probabilities`` (batch_size, num_classes) float32. In
    between: shorter side resized, centre crop, mean and std, model, softmax, as OnnxClassifier does it outside.

    Raises:
        ValueError: Another layout, a resampling that ONNX does not have, or a file without mean, std and input size.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got {layout!r}")
    texts = metadata_of(proto)
    needed = ("input_size", "mean", "std", "crop_pct", "interpolation")
    if missing := [key for key in needed if key not in texts]:
        raise ValueError(f"preprocessing: the file has no {', '.join(missing)} in its metadata")
    if texts["interpolation"] not in _RESIZE:
        raise ValueError(f"preprocessing: interpolation must be {' or '.join(_RESIZE)}, got {texts['interpolation']!r}")
    channels, height, width = json.loads(texts["input_size"])
    crop_pct = float(json.loads(texts["crop_pct"]))
    mean, std = (np.asarray(json.loads(texts[key]), np.float64).reshape(1, -1, 1, 1) for key in ("mean", "std"))
    made = _copy(proto)
    taken = {name for node in made.graph.node for name in (*node.input, *node.output)}
    assert not any(name.startswith("pre_") for name in taken), "names of the graph collide with those put before it"

    constants: dict[str, np.ndarray] = {
        "pre_least": np.array([int(height / crop_pct), int(width / crop_pct)], np.float64),
        "pre_size": np.array([height, width], np.int64),
        "pre_axes": np.array([2, 3], np.int64),
        "pre_two": np.array([2], np.int64),
        "pre_factor": (1 / (255 * std)).astype(np.float32),
        "pre_shift": (-mean / std).astype(np.float32),
    }
    resize: dict[str, Any] = {"antialias": 1, "coordinate_transformation_mode": "half_pixel"}
    resize |= _RESIZE[texts["interpolation"]]
    before: list[tuple[str, list[str], str, dict[str, Any]]] = [
        # The sides after resizing are computed in float64, as Python does outside.
        ("Shape", ["pre_images"], "pre_shape", {"end": 2}),
        ("Shape", ["pre_images"], "pre_sides", {"start": 2}),
        ("Cast", ["pre_sides"], "pre_sides_double", {"to": TensorProto.DOUBLE}),
        ("Div", ["pre_least", "pre_sides_double"], "pre_ratios", {}),
        ("ReduceMax", ["pre_ratios"], "pre_scale", {"keepdims": 1}),
        ("Mul", ["pre_sides_double", "pre_scale"], "pre_wanted", {}),
        ("Round", ["pre_wanted"], "pre_rounded", {}),
        ("Max", ["pre_rounded", "pre_least"], "pre_covering", {}),
        ("Cast", ["pre_covering"], "pre_resized_sides", {"to": TensorProto.INT64}),
        ("Concat", ["pre_shape", "pre_resized_sides"], "pre_sizes", {"axis": 0}),
        ("Resize", ["pre_images", "", "", "pre_sizes"], "pre_resized", resize),
        ("Sub", ["pre_resized_sides", "pre_size"], "pre_spare", {}),
        ("Div", ["pre_spare", "pre_two"], "pre_start", {}),
        ("Add", ["pre_start", "pre_size"], "pre_end", {}),
        ("Slice", ["pre_resized", "pre_start", "pre_end", "pre_axes"], "pre_cropped", {}),
        ("Cast", ["pre_cropped"], "pre_float", {"to": TensorProto.FLOAT}),
        ("Mul", ["pre_float", "pre_factor"], "pre_scaled", {}),
        ("Add", ["pre_scaled", "pre_shift"], INPUT_NAME, {}),
    ]
    shape: list[str | int] = [BATCH_AXIS, channels, "height", "width"]
    if layout == "NHWC":
        shape = [BATCH_AXIS, "height", "width", channels]
        before.insert(0, ("Transpose", [IMAGES_NAME], "pre_images", {"perm": [0, 3, 1, 2]}))
    else:
        before.insert(0, ("Identity", [IMAGES_NAME], "pre_images", {}))
    nodes = [helper.make_node(kind, given, [out], name=f"node_{out}", **how) for kind, given, out, how in before]
    softmax = helper.make_node("Softmax", [OUTPUT_NAME], [PROBABILITIES_NAME], name="node_probabilities", axis=1)
    graph = made.graph
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    inside = list(graph.node)
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend([*nodes, *inside, softmax])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    graph.input.append(helper.make_tensor_value_info(IMAGES_NAME, TensorProto.UINT8, shape))
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES_NAME, TensorProto.FLOAT, [BATCH_AXIS, classes]))
    set_metadata(made, texts | {"preprocessing": layout})
    return made


def _sort_nodes(graph: onnx.GraphProto) -> None:
    """Each node after those it reads from, as ONNX wants it: the conversion appends its casts at the end."""
    known = {value.name for value in (*graph.input, *graph.initializer)} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        # The first that can be, so that nodes keep the order they have wherever it is possible.
        ready = next((i for i, node in enumerate(waiting) if known.issuperset(node.input)), None)
        assert ready is not None, "a graph with a loop or a missing tensor"
        ordered.append(waiting.pop(ready))
        known.update(ordered[-1].output)
    del graph.node[:]
    graph.node.extend(ordered)


def _copy(proto: onnx.ModelProto) -> onnx.ModelProto:
    twin = onnx.ModelProto()
    twin.CopyFrom(proto)
    return twin


@contextlib.contextmanager
def quiet() -> Any:
    """Without what ONNX Runtime's tools print, warn and log of their own affairs; what goes wrong is raised."""
    root = logging.getLogger()
    level = root.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        root.setLevel(logging.ERROR)
        try:
            yield
        finally:
            root.setLevel(level)
