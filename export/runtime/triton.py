"""Writes an exported ONNX file as a model repository of NVIDIA's Triton inference server (onnxruntime backend).

    nas-zoo export runs/photos --to-triton repository --dtype float16 --tensorrt-cache /engines
    tritonserver --model-repository=repository

    repository/NAME/config.pbtxt    shapes, dynamic batching, one instance a GPU (or a CPU), TensorRT, warm-up
    repository/NAME/labels.txt      for the server's classification extension
    repository/NAME/1/model.onnx

TensorRT is asked for where it can serve the file well: not for images of any size, each of which would be an engine of
its own, nor for int8 made for CPUs, which it does not read. Not run on a server here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from nas_zoo.export.graph.check import read_checked, shape_of
from nas_zoo.export.graph.variants import metadata_of
from nas_zoo.export.runtime.providers import CUDNN_SEARCHES
from nas_zoo.runs.files import staged, write_text
from nas_zoo.runs.settings import require

__all__ = ["INSTANCE_KINDS", "check_compiled", "check_free", "config_text", "write_repository"]

INSTANCE_KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU")
_TYPES: dict[int, str] = {
    TensorProto.FLOAT: "TYPE_FP32",
    TensorProto.FLOAT16: "TYPE_FP16",
    TensorProto.UINT8: "TYPE_UINT8",
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PRECISIONS = {"float32": "FP32", "float16": "FP16", "int8": "INT8"}
LABELS_FILE = "labels.txt"


def write_repository(
    path: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    name: str,
    *,
    version: int = 1,
    overwrite: bool = False,
    max_batch_size: int = 64,
    max_delay_us: int = 1000,
    instances: int = 1,
    instance_kind: str = "KIND_AUTO",
    tensorrt: bool | None = None,
    tensorrt_cache: str | None = None,
    tensorrt_fp16: bool = False,
    cudnn_search: str = "exhaustive",
) -> Path:
    """The folder of the model in the repository, which is made where it does not exist.

    Args:
        path: A file of ``nas-zoo export``, of any kind.
        name: Of the model, under which the server offers it.
        version: The number of the folder that the file goes to; the server takes the highest.
        overwrite: Replaces this version, and a config.pbtxt or labels.txt that say something else.
        max_batch_size: Images that the server runs at once, at most,
        max_delay_us: and for how long (microseconds) it waits for more to come.
        instances, instance_kind: So many copies on each GPU, or on the CPU: KIND_AUTO (a GPU where there is one).
        tensorrt: Whether TensorRT compiles the graph on a GPU, which takes minutes at the server's start; None: where
            it serves well, see above.
        tensorrt_cache: Folder on the server's machine where TensorRT keeps its engines, one for all batches, for the
            next start.
        tensorrt_fp16: Whether TensorRT may calculate a float32 file in float16; a float16 file always is.
        cudnn_search: What CUDA alone does for convolutions: "exhaustive", "heuristic" or "default", as in GpuOptions.

    Raises:
        ValueError: A name or number that the server does not take, or something else in the place.
    """
    proto = read_checked(Path(path))
    _require_whole("version", version, 1)
    texts = {
        "config.pbtxt": config_text(
            proto, name, max_batch_size, max_delay_us, instances, instance_kind, tensorrt,
            tensorrt_cache, tensorrt_fp16, cudnn_search, data=Path(path).name,
        )
    }  # fmt: skip
    if (labels := _labels(proto, Path(path).name)) is not None:
        texts[LABELS_FILE] = "".join(f"{label}\n" for label in labels)
    check_free(repository, name, version, overwrite)
    folder = Path(repository) / name
    if not overwrite:
        for file, text in texts.items():
            if (folder / file).exists() and (folder / file).read_text("utf-8") != text:
                raise ValueError(f"{name}: {file} in the repository says something else; --overwrite replaces it")
    # A server that polls the repository would load one that is half there; it looks for new versions.
    with staged(folder, last=f"{version}/model.onnx") as aside:
        (aside / str(version)).mkdir()
        for file, text in texts.items():
            write_text(aside / file, text)
        shutil.copyfile(path, aside / str(version) / "model.onnx")
    return folder


def check_free(repository: str | os.PathLike[str], name: str, version: int = 1, overwrite: bool = False) -> None:
    """ValueError unless the model can be written there; asked before an export that takes long."""
    _require_name(name)
    folder = Path(repository)
    require(not folder.exists() or folder.is_dir(), "to_triton", folder, "a folder")
    if not overwrite and (Path(repository) / name / str(version) / "model.onnx").exists():
        raise ValueError(f"{name}: version {version} is in the repository already; --overwrite replaces it")


def check_compiled(compiled: bool, tensorrt_cache: str | None, tensorrt_fp16: bool, data: str) -> None:
    """ValueError for options of TensorRT where it does not compile the file; asked before a long export, too."""
    chosen = {"tensorrt_cache": tensorrt_cache is not None, "tensorrt_fp16": tensorrt_fp16}
    if not compiled and any(chosen.values()):
        name = next(name for name, given in chosen.items() if given)
        raise ValueError(
            f"{name} is for files that TensorRT compiles, of images of one size and not int8 for CPUs, {data} is none"
        )


def config_text(
    proto: onnx.ModelProto,
    name: str,
    max_batch_size: int = 64,
    max_delay_us: int = 1000,
    instances: int = 1,
    instance_kind: str = "KIND_AUTO",
    tensorrt: bool | None = None,
    tensorrt_cache: str | None = None,
    tensorrt_fp16: bool = False,
    cudnn_search: str = "exhaustive",
    *,
    data: str = "the file",
) -> str:
    """config.pbtxt of the graph; arguments as in ``write_repository``, `data` names the file in errors."""
    _require_name(name)
    for what, value, least in (("max_batch_size", max_batch_size, 1), ("max_delay_us", max_delay_us, 0),
                               ("instances", instances, 1)):  # fmt: skip
        _require_whole(what, value, least)
    known = instance_kind in INSTANCE_KINDS
    require(known, "instance_kind", instance_kind, f"one of {', '.join(INSTANCE_KINDS)}")
    texts = metadata_of(proto)
    source, result = proto.graph.input[0], proto.graph.output[0]
    for value in (source, result):
        if isinstance(shape_of(value)[0], int):
            raise ValueError(f"{data}: {value.name} is for a fixed batch; the server needs a free one")
    dtype, inside = texts.get("dtype", "float32"), "preprocessing" in texts
    serves_well = not inside and (dtype != "int8" or texts.get("int8_target") == "tensorrt")
    if tensorrt and not serves_well:
        raise ValueError(
            f"{data}: tensorrt works for files with images of one size, and of the int8 ones for those made for it "
            "(--int8-target tensorrt)"
        )
    compiled = serves_well if tensorrt is None else tensorrt
    check_compiled(compiled, tensorrt_cache, tensorrt_fp16, data)
    require(cudnn_search in CUDNN_SEARCHES, "cudnn_search", cudnn_search, f"one of {', '.join(CUDNN_SEARCHES)}")
    labels = f"\n    label_filename: {_quoted(LABELS_FILE)}" if "labels" in texts else ""
    blocks = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        'default_model_filename: "model.onnx"',
        f"max_batch_size: {max_batch_size}",
        f"input [\n  {{\n    name: {_quoted(source.name)}\n    data_type: {_type(source, data)}\n"
        f"    dims: {_dims(source)}\n  }}\n]",
        f"output [\n  {{\n    name: {_quoted(result.name)}\n    data_type: {_type(result, data)}\n"
        f"    dims: {_dims(result)}{labels}\n  }}\n]",
        # No preferred sizes: the server would hold requests back for them, and this file runs any size.
        f"dynamic_batching {{\n  max_queue_delay_microseconds: {max_delay_us}\n}}",
        f"instance_group [\n  {{\n    count: {instances}\n    kind: {instance_kind}\n  }}\n]",
    ]
    accelerators: dict[str, dict[str, str]] = {}
    if compiled:
        precision = "FP16" if tensorrt_fp16 and dtype == "float32" else _PRECISIONS[dtype]
        options = {"precision_mode": precision, "max_workspace_size_bytes": str(2**30)}
        if tensorrt_cache is not None:
            options |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": tensorrt_cache}
            for which, batch in (("min", 1), ("opt", max_batch_size), ("max", max_batch_size)):
                shape = "x".join(map(str, (batch, *_dims(source))))
                options[f"trt_profile_{which}_shapes"] = f"{source.name}:{shape}"
        accelerators["tensorrt"] = options
    if cudnn_search != "exhaustive":
        accelerators["cuda"] = {"cudnn_conv_algo_search": cudnn_search.upper()}
    if accelerators:
        lines = ["optimization {", "  execution_accelerators {", "    gpu_execution_accelerator ["]
        entries = []
        for accelerator, options in accelerators.items():
            given = [f"        parameters {{ key: {_quoted(k)} value: {_quoted(v)} }}" for k, v in options.items()]
            entries.append("\n".join(["      {", f"        name: {_quoted(accelerator)}", *given, "      }"]))
        blocks.append("\n".join([*lines, ",\n".join(entries), "    ]", "  }", "}"]))
    # The first request of a size would wait for the GPU's kernels to be chosen, or for TensorRT.
    blocks.append("model_warmup [\n" + ",\n".join(_warmup(source, size, texts, data) for size in
                                                  sorted({1, max_batch_size})) + "\n]")  # fmt: skip
    return "\n".join(blocks) + "\n"


def _warmup(source: onnx.ValueInfoProto, batch: int, texts: dict[str, str], data: str) -> str:
    dims = list(shape_of(source)[1:])
    if not all(isinstance(side, int) for side in dims):  # images of any size: of that which the model works on
        channels, height, width = _list_in(texts, "input_size", int, data)
        dims = [height, width, channels] if texts["preprocessing"] == "NHWC" else [channels, height, width]
    return (
        f"  {{\n    name: {_quoted(f'batch of {batch}')}\n    batch_size: {batch}\n    inputs {{\n"
        f"      key: {_quoted(source.name)}\n      value {{ data_type: {_type(source, data)} dims: {dims} "
        "zero_data: true }\n    }\n  }"
    )


def _require_name(name: str) -> None:
    right = _NAME.fullmatch(name) is not None
    require(right, "model_name", name, "made of letters, digits, '_', '-' and '.'")


def _require_whole(name: str, value: Any, least: int) -> None:
    right = isinstance(value, int) and not isinstance(value, bool) and value >= least
    require(right, name, value, f"a whole number of at least {least}")


def _list_in(texts: dict[str, str], key: str, kind: type, data: str) -> list[Any]:
    """The list that the file's metadata hold as JSON: three whole numbers, or texts."""
    try:
        value = json.loads(texts.get(key, "null"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{data}: the metadata's {key} is no JSON ({error})") from error
    right = isinstance(value, list) and all(type(part) is kind for part in value) and (kind is str or len(value) == 3)
    require(right, f"{data}: {key}", value, "a list of texts" if kind is str else "a list of 3 whole numbers")
    return list(value)


def _labels(proto: onnx.ModelProto, data: str) -> Sequence[str] | None:
    texts = metadata_of(proto)
    if "labels" not in texts:
        return None
    labels = _list_in(texts, "labels", str, data)
    if broken := [label for label in labels if "\n" in label or "\r" in label]:
        raise ValueError(f"labels: {broken[0]!r} has a line break; labels.txt holds one on each line")
    return labels


def _type(value: onnx.ValueInfoProto, data: str) -> str:
    kind = value.type.tensor_type.elem_type
    if kind not in _TYPES:
        name = TensorProto.DataType.Name(kind)
        raise ValueError(f"{data}: {value.name} must be float, float16 or uint8, got {name}")
    return _TYPES[kind]


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    """Without the batch, which is the server's; -1 for a free axis."""
    return [side if isinstance(side, int) else -1 for side in shape_of(value)[1:]]


def _quoted(text: str) -> str:
    return json.dumps(text)
