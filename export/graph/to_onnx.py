"""Writes a model as one ONNX file: dynamic batch, weights inside, how to feed it in its metadata.

    nas-zoo export runs/digits --output digits.onnx
    nas-zoo export hf-hub:owner/name --to out --dtype float16 --data cifar10
    nas-zoo export runs/photos --to out --int8 --calibration photos/train --images photos/test --with-preprocessing
    nas-zoo export runs/photos --to-triton repository --with-preprocessing
    python export/graph/to_onnx.py edas_c10 --weights model.safetensors --output edas_c10.onnx

Input ``pixel_values`` (batch_size, C, H, W) float32, scaled with the mean and std of the metadata; output ``logits``
(batch_size, num_classes) float32. The file says nothing of the machine it was made on, and two exports of the same
weights are the same bytes.

--to writes a folder: model.onnx, model_fp16.onnx, model_int8.onnx (all with float32 input and output, so that each
takes the other's place), and NAME_images.onnx, which takes decoded uint8 images of any size and gives probabilities.
Each file is compared with PyTorch before it appears, and NAME.check.json says what came out.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import nas_zoo
from nas_zoo.genotype import Genotype
from nas_zoo.models.load import load_model, name_of_run
from nas_zoo.models.operations import FactorizedReduce
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import write_bytes
from nas_zoo.runs.settings import Parser, add_flags, given_flags, require, require_least, setting, settings_from

__all__ = [
    "INPUT_NAME", "OPSETS", "OUTPUT_NAME", "ExportSettings", "ModelSettings", "export_onnx", "named_model",
    "weights_sha256",
]  # fmt: skip

INPUT_NAME, OUTPUT_NAME, BATCH_AXIS = "pixel_values", "logits", "batch_size"
# Below 18 the exporter leaves the file at 18 after a failed conversion; its highest is 23. ONNX Runtime 1.25 and later
# reads all of them, and the IR version is the one that came with opset 20 and 21.
OPSETS = range(18, 24)
IR_VERSION = 10
# timm's defaults, for a cfg that is silent
_CROP_PCT, _INTERPOLATION = 1.0, "bilinear"
MODEL_HELP = (
    "folder of a trained model, hf-hub:ORG/NAME, or a name of `nas-zoo list` "
    "(one without weights in the package needs --weights)"
)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


def export_onnx(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | Sequence[int] | None = None,
    crop_pct: float | None = None,
    interpolation: str | None = None,
    opset: int = 20,
    extra_metadata: Mapping[str, str] | None = None,
) -> Path:
    """Writes the model to `path` and returns it; the model itself is left as it is.

    Exported is an evaluating float32 copy on the CPU. The file appears whole or not at all. It takes about 5 s for 3
    cells, 25 s for 20 (one CPU core), and is not thread-safe, as torch.onnx is not.

    Args:
        model: Maps images (N, C, H, W) to logits (N, num_classes).
        path: Where to; an existing file is replaced.
        labels: Names of the classes, in the order of the logits; those of ``model.pretrained_cfg`` if None.
        mean, std: Per channel on the 0..1 scale; those of ``model.pretrained_cfg`` if None.
        input_size: (C, H, W), or the side in pixels; that of ``model.pretrained_cfg`` if None. H and W are fixed.
        crop_pct, interpolation: How the runtime makes an image that size; of ``model.pretrained_cfg`` if None.
        opset: 18 to 23.
        extra_metadata: More texts for the metadata, under keys it does not have yet.

    Raises:
        ValueError: For anything above that does not fit the model or the place.
    """
    target = Path(path)
    if target.is_dir() or not target.parent.is_dir():
        raise ValueError(f"path {str(target)!r} must be the name of a file in an existing folder")
    if isinstance(opset, bool) or opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS.start} to {OPSETS.stop - 1}, got {opset!r}")
    model = _unwrapped(model)
    metadata, size = _metadata(model, labels, mean, std, input_size, crop_pct, interpolation)
    for key, value in (extra_metadata or {}).items():
        if key in metadata or not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"extra_metadata[{key!r}]={value!r}: texts under keys other than {', '.join(metadata)}")
        metadata[key] = value
    plain = plain_copy(model)
    # Of 2 images, since torch.export takes a batch of 1 for a constant in some models.
    example = torch.zeros(2, *size)
    _check_forward(plain, example, json.loads(metadata["labels"]) if "labels" in metadata else None)
    write_bytes(target, _to_bytes(_folded(plain), example, opset, metadata))
    return target


def plain_copy(model: nn.Module) -> nn.Module:
    """A copy as it is exported: evaluating, float32, contiguous, on the CPU. The original keeps its mode and device."""
    twin = copy.deepcopy(_unwrapped(model)).to("cpu", torch.float32)
    # Cloned, since contiguous() leaves a 1x1 kernel the strides of channels_last; the exporter follows these and writes
    # its shape arithmetic into the graph.
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    return twin.requires_grad_(False).eval()


def weights_sha256(model: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of the state dict, sorted by name; where it lies does not matter."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_unwrapped(model).state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        # by way of bytes, since NumPy has no bfloat16; flat, since a scalar has no other view
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile and DistributedDataParallel."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _folded(model: nn.Module) -> nn.Module:
    """The model with the BatchNorm of each FactorizedReduce folded into its two convolutions, changed in place.

    The exporter folds a BatchNorm that follows a convolution; these follow a concatenation of two.
    """
    for module in model.modules():
        if not isinstance(module, FactorizedReduce) or not isinstance(module.bn, nn.BatchNorm2d):
            continue
        bn = module.bn
        assert bn.running_mean is not None  # nothing here switches the running statistics off
        assert bn.running_var is not None
        # In float64: one rounding, as the exporter's own folding would have.
        scale = 1 / torch.sqrt(bn.running_var.double() + bn.eps)
        if bn.affine:
            scale = scale * bn.weight.double()
        shift = -bn.running_mean.double() * scale
        if bn.affine:
            shift = shift + bn.bias.double()
        start = 0
        for conv in (module.conv1, module.conv2):
            rows = slice(start, start + conv.out_channels)
            start += conv.out_channels
            weight = conv.weight.double() * scale[rows, None, None, None]
            conv.weight = nn.Parameter(weight.float(), requires_grad=False)
            conv.bias = nn.Parameter(shift[rows].float(), requires_grad=False)
        module.bn = nn.Identity()  # type: ignore[assignment]
    return model


def _check_forward(model: nn.Module, example: torch.Tensor, labels: list[str] | None) -> None:
    try:
        with torch.no_grad():
            logits = model(example)
    except RuntimeError as error:
        shape = tuple(example.shape[1:])
        raise ValueError(f"input_size={shape}: the model does not take images of this size: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or logits.shape[0] != example.shape[0]:
        shown = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"the model must give logits (N, num_classes), it gives {shown}")
    if getattr(model, "num_classes", 1) == 0:
        raise ValueError(
            "the model has no classifier (num_classes=0), so it gives no logits; reset_classifier(n) first"
        )
    if labels is not None and len(labels) != logits.shape[1]:
        raise ValueError(f"labels: {len(labels)} names for {logits.shape[1]} classes; there must be one for each class")


def _to_bytes(model: nn.Module, example: torch.Tensor, opset: int, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of the model."""
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    from nas_zoo.export.graph.strides import merge_strides

    program = torch.onnx.export(
        model,
        (example,),
        dynamo=True,
        input_names=[INPUT_NAME],
        output_names=[OUTPUT_NAME],
        dynamic_shapes=({0: BATCH_AXIS},),
        opset_version=opset,
        external_data=False,
        verbose=False,
    )
    assert program is not None
    # Every node carries the stack trace of the Python line it comes from, with the folders of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    merge_strides(program.model)
    program.model.ir_version = IR_VERSION
    program.model.metadata_props.clear()
    program.model.metadata_props.update(sorted(metadata.items()))
    proto = onnx_ir.to_proto(program.model)
    # The shape of a constant stands with it. Said again, quantize_dynamic of ONNX Runtime keeps the second when it
    # transposes the constant, and fails on the two.
    constants = {tensor.name for tensor in proto.graph.initializer}
    kept = [value for value in proto.graph.value_info if value.name not in constants]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


# Metadata -------------------------------------------------------------------------------------------------------------


def _metadata(
    model: nn.Module,
    labels: Sequence[str] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_size: int | Sequence[int] | None,
    crop_pct: float | None,
    interpolation: str | None,
) -> tuple[dict[str, str], tuple[int, int, int]]:
    """What the file says of itself, each value a text (JSON where it is no plain word), and (C, H, W)."""
    cfg: dict[str, Any] = dict(getattr(model, "pretrained_cfg", None) or {})
    size = _size(model, cfg, input_size)
    scale = {
        name: _channel_values(name, given, cfg.get(name), size[0]) for name, given in (("mean", mean), ("std", std))
    }
    if min(scale["std"]) <= 0:
        raise ValueError(f"std must be greater than 0, got {scale['std']}")
    crop = float(crop_pct if crop_pct is not None else cfg.get("crop_pct") or _CROP_PCT)
    if not 0 < crop <= 1:
        raise ValueError(f"crop_pct must be greater than 0 and at most 1, got {crop}")
    resampling = interpolation if interpolation is not None else cfg.get("interpolation") or _INTERPOLATION
    if resampling not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {resampling!r}")
    values: dict[str, Any] = {
        "input_size": list(size),
        "mean": scale["mean"],
        "std": scale["std"],
        "crop_pct": crop,
        "interpolation": resampling,
        "dtype": "float32",
        "weights_sha256": weights_sha256(model),
        "nas_zoo_version": nas_zoo.__version__,
    }
    names = _labels(model, cfg, labels)
    if names is not None:
        values["labels"] = names
        meant = cfg.get("label_descriptions") or {}
        if any(name in meant for name in names):  # WordNet ids in words
            values["label_descriptions"] = {name: meant[name] for name in names if name in meant}
    genotype = getattr(model, "genotype", None)
    if isinstance(genotype, Genotype):
        values["genotype"] = genotype.to_json()
    for key in ("layout", "init_channels", "num_cells"):
        if hasattr(model, key):
            values[key] = getattr(model, key)
    if cfg.get("architecture"):
        values["model"] = ".".join(str(cfg[key]) for key in ("architecture", "tag") if cfg.get(key))
    if cfg.get("license"):
        values["license"] = cfg["license"]
    if random := getattr(model, "random_weights", None):  # "all", "classifier" or "stem"
        values["random_weights"] = random
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return texts, size


def _size(model: nn.Module, cfg: Mapping[str, Any], given: int | Sequence[int] | None) -> tuple[int, int, int]:
    known = cfg.get("input_size")
    channels = getattr(model, "in_chans", known[0] if known else 3)
    value: Any = given if given is not None else known
    if value is None:
        raise ValueError("input_size: the model has no pretrained_cfg; give (C, H, W) or the side in pixels")
    if isinstance(value, int):
        value = (channels, value, value)
    if len(value) != 3 or not all(isinstance(part, int) and not isinstance(part, bool) and part > 0 for part in value):
        raise ValueError(f"input_size must be (C, H, W) or the side in pixels, got {given!r}")
    if given is None:  # timm leaves the cfg at 3 channels for a model made with in_chans=1
        value = (channels, *value[1:])
    if value[0] != channels:
        raise ValueError(f"input_size={given!r}: the model takes images of {channels} channel(s)")
    return value[0], value[1], value[2]


def _channel_values(name: str, given: Sequence[float] | None, known: Any, channels: int) -> list[float]:
    if given is None and (known is None or len(known) != channels):
        have = "the model has no pretrained_cfg" if known is None else f"the model's cfg has {len(known)} values"
        raise ValueError(f"{name}: {have}, its images have {channels} channel(s); give {name}=")
    values = [float(value) for value in (known if given is None else given)]
    if len(values) != channels or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name} must be {channels} finite number(s), one for each channel, got {values}")
    return values


def _labels(model: nn.Module, cfg: Mapping[str, Any], given: Sequence[str] | None) -> list[str] | None:
    if given is None:
        known = cfg.get("label_names")
        # The names of a cfg are those of the data its weights come from, not of a classifier with other classes.
        return list(known) if known and len(known) == getattr(model, "num_classes", len(known)) else None
    if isinstance(given, str) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"labels must be a list of names, got {given!r}")
    return list(given)


# Program --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSettings:
    """The model"""

    weights: Path | None = setting(None, "safetensors or torch file of its state dict")
    genotype: str | None = setting(None, "name or file of the cells, where the model leaves them open")
    init_channels: int | None = setting(None, "channels of a node in the first cells")
    num_cells: int | None = setting(None, "cells in all")
    num_classes: int | None = setting(None, "classes")
    in_chans: int | None = setting(None, "channels of an image")

    def __post_init__(self) -> None:
        require_least(self, init_channels=2, num_cells=1, num_classes=1, in_chans=1)


@dataclass(frozen=True)
class ExportSettings(ModelSettings):
    """The model and the file"""

    output: Path | None = setting(None, "the file to write; none: model.onnx, unless --to or --to-triton is given")
    to: Path | None = setting(None, "folder to write the file and other forms of it to")
    to_triton: Path | None = setting(None, "model repository of a Triton server to write the last form to")
    dtype: Literal["float32", "float16"] = setting("float32", "float16: a second file with float16 weights")
    int8: bool = setting(False, "another file with int8 weights and activations")
    calibration: str | None = setting(None, "real images for int8: a folder, a tar, or digits, cifar10, cifar100")
    calibration_images: int = setting(256, "how many of them, at most")
    calibration_method: Literal["minmax", "percentile", "entropy"] = setting("minmax", "range of an activation")
    int8_target: Literal["cpu", "tensorrt"] = setting("cpu", "tensorrt: symmetric, float32 biases")
    reduce_range: bool = setting(False, "int8 weights of 7 bits, for CPUs without VNNI")
    with_preprocessing: bool = setting(False, "of each file a second one that takes uint8 images of any size")
    layout: Literal["NHWC", "NCHW"] = setting("NHWC", "of these images")
    images: Path | None = setting(None, "folder or tar of real images to check on; class folders give labels")
    data: str | None = setting(None, "data set to check on instead, its test split: digits, cifar10, folder or tar")
    check_images: int = setting(256, "how many images to check on, at most")
    agreement: float | None = setting(None, "least part of them that must get PyTorch's class; none: 0.9 for int8")
    model_name: str | None = setting(
        None, "of the model in the repository of --to-triton; none: the model's, or its folder's"
    )
    overwrite: bool = setting(False, "replace the version that is in the repository already")
    tensorrt_cache: str | None = setting(None, "of --to-triton: folder on the server where TensorRT keeps its engines")
    tensorrt_fp16: bool = setting(False, "of --to-triton: TensorRT may calculate a float32 file in float16")
    cudnn_search: Literal["exhaustive", "heuristic", "default"] = setting(
        "exhaustive", "of --to-triton: how cuDNN's convolutions are chosen where TensorRT does not serve"
    )
    labels: Path | None = setting(None, "text file with the name of a class on each line")
    mean: tuple[float, ...] | None = setting(None, "mean of each channel, 0..1")
    std: tuple[float, ...] | None = setting(None, "standard deviation of each channel, 0..1")
    input_size: int | None = setting(None, "side of an image", unit="pixels")
    crop_pct: float | None = setting(None, "part of the shorter side that the centre crop keeps")
    opset: int = setting(20, "ONNX opset, 18 to 23")
    check: bool = setting(True, "compare the file with the model afterwards")
    random_weights: bool = setting(False, "export what was not trained too, and say so in the file's metadata")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, calibration_images=1, check_images=1, input_size=1)
        require(self.agreement is None or 0 <= self.agreement <= 1, "agreement", self.agreement, "from 0 to 1")
        server = ("tensorrt_cache", "tensorrt_fp16", "cudnn_search")
        given = [name for name in server if getattr(self, name) != getattr(type(self), name)]
        if given and self.to_triton is None:
            raise ValueError(f"{given[0]} is of a server's repository: give --to-triton REPOSITORY")


_OF_IMAGES = ("labels", "mean", "std", "input_size", "crop_pct")


def images_of(model: nn.Module, **given: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The file's metadata, and what ``real_images`` has to know of the model: classes and channels.

    `given` is what ``export_onnx`` takes of labels, mean, std, input_size and crop_pct.
    """
    labels, mean, std, input_size, crop_pct = (given.get(key) for key in _OF_IMAGES)
    metadata, size = _metadata(model, labels, mean, std, input_size, crop_pct, None)
    return metadata, {
        "classes": json.loads(metadata["labels"]) if "labels" in metadata else None,
        "num_classes": getattr(model, "num_classes", None),
        "in_chans": size[0],
    }


def named_model(model: str, settings: ModelSettings, *, random_weights: bool = False) -> nn.Module:
    """The model that a user names, with its weights (see ``nas_zoo.models.load``)."""
    names = ("genotype", "init_channels", "num_cells", "num_classes", "in_chans")
    kwargs = {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}
    return load_model(model, settings.weights, random_weights=random_weights, **kwargs)


@program("nas-zoo export")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when all is written and checked, 1 for a file that is not its model, 2 for a user's mistake."""
    parser = Parser(prog="nas-zoo export", description=__doc__)
    parser.add_argument("model", help=MODEL_HELP)
    add_flags(parser, ExportSettings)
    namespace = parser.parse_args(argv)
    settings = settings_from(ExportSettings, given_flags(namespace))
    if settings.to is None and settings.to_triton is None:
        _write_one(namespace.model, settings)
    else:
        _write_folder(namespace.model, settings)
    return 0


def _how(settings: ExportSettings) -> dict[str, Any]:
    labels = None if settings.labels is None else settings.labels.read_text("utf-8").splitlines()
    names = ("mean", "std", "input_size", "crop_pct", "opset")
    return {"labels": labels} | {name: getattr(settings, name) for name in names}


def _write_one(name: str, settings: ExportSettings) -> None:
    from nas_zoo.export.graph.check import check_onnx, summary

    given = {
        "dtype": settings.dtype != "float32",
        "int8": settings.int8,
        "with_preprocessing": settings.with_preprocessing,
        "images": settings.images,
        "data": settings.data,
    }
    if asked := [f"--{key.replace('_', '-')}" for key, value in given.items() if value]:
        raise ValueError(f"{', '.join(asked)} can be given with --to FOLDER or --to-triton REPOSITORY only")
    model = named_model(name, settings, random_weights=settings.random_weights)
    path = export_onnx(model, settings.output or Path("model.onnx"), **_how(settings))
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    if settings.check:
        print(summary(check_onnx(path, model)))


def _write_folder(name: str, settings: ExportSettings) -> None:
    from nas_zoo.export.graph.deliver import Forms, deliver
    from nas_zoo.export.graph.real_images import real_images
    from nas_zoo.export.runtime.triton import check_compiled, check_free, write_repository

    if settings.output is not None:
        raise ValueError("--output can be given without --to and --to-triton only")
    if settings.images is not None and settings.data is not None:
        raise ValueError("--images and --data: give one of them, not both")
    if settings.images is not None and not settings.images.exists():
        raise ValueError(f"images {str(settings.images)!r}: no such folder or tar")
    if settings.calibration is not None and not settings.int8:
        raise ValueError("--calibration can be given with --int8 only")
    forms = Forms(
        float16=settings.dtype == "float16",
        int8=settings.int8,
        layout=settings.layout if settings.with_preprocessing else None,
        int8_target=settings.int8_target,
        int8_method=settings.calibration_method,
        reduce_range=settings.reduce_range,
    )
    if forms.int8 and settings.calibration is None:
        raise ValueError("--int8: needs --calibration, real images to calibrate on (a folder, or a data set)")
    model = named_model(name, settings, random_weights=settings.random_weights)
    how = _how(settings)
    metadata, of_model = images_of(model, **{key: value for key, value in how.items() if key in _OF_IMAGES})
    folder = Path(name.removeprefix("local-dir:"))
    own = name_of_run(folder) if folder.is_dir() else metadata.get("model", "model")
    called = settings.model_name or own.replace(".", "_")
    server = {key: getattr(settings, key) for key in ("tensorrt_cache", "tensorrt_fp16", "cudnn_search")}
    if settings.to_triton is not None:
        check_free(settings.to_triton, called, overwrite=settings.overwrite)
        compiled = forms.layout is None and (not forms.int8 or forms.int8_target == "tensorrt")
        check_compiled(compiled, settings.tensorrt_cache, settings.tensorrt_fp16, "the last form of these")
    images = None
    if settings.images is not None:
        images = real_images(str(settings.images), split=None, limit=settings.check_images, **of_model)
    elif settings.data is not None:
        images = real_images(settings.data, limit=settings.check_images, **of_model)
    calibration = None
    if settings.calibration is not None:
        calibration = real_images(settings.calibration, split="train", limit=settings.calibration_images, **of_model)
    with contextlib.ExitStack() as stack:
        to = settings.to
        if to is None:
            to = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        paths = deliver(
            model, to, forms, images=images, calibration=calibration, agreement=settings.agreement,
            check=settings.check, say=lambda words: print(words, flush=True), **how,
        )  # fmt: skip
        if settings.to is not None:
            print(f"wrote {', '.join(path.name for path in paths)} to {to}")
        if settings.to_triton is not None:
            place = write_repository(paths[-1], settings.to_triton, called, overwrite=settings.overwrite, **server)
            print(f"wrote {place}")


if __name__ == "__main__":
    sys.exit(main())
