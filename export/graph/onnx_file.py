"""A model as one ONNX file: dynamic batch, weights inside, how to feed it in its metadata.

    export_onnx(timm.create_model("edas_c10"), "edas_c10.onnx")

What is in the file, ``nas_zoo.export.graph.to_onnx`` says, the program for it.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

import nas_zoo
from nas_zoo.data.pictures import RESAMPLING
from nas_zoo.genotype import Genotype
from nas_zoo.models.count import require_memory
from nas_zoo.models.operations import FactorizedReduce
from nas_zoo.runs.files import write_bytes

__all__ = [
    "BATCH_AXIS",
    "INPUT_NAME",
    "OF_IMAGES",
    "OPSETS",
    "OUTPUT_NAME",
    "export_onnx",
    "images_of",
    "plain_copy",
    "to_graph",
    "weights_sha256"
]  # fmt: skip

INPUT_NAME, OUTPUT_NAME, BATCH_AXIS = "pixel_values", "logits", "batch_size"
# Below 18 the exporter leaves the file at 18 after a failed conversion; its highest is 23. ONNX Runtime 1.25 and later
# reads all of them, and the IR version is the one that came with opset 20 and 21.
OPSETS = range(18, 24)
IR_VERSION = 10
# timm's defaults, for a cfg that is silent
_CROP_PCT, _INTERPOLATION = 1.0, "bilinear"


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
    require_memory(model, size, 2)
    for key, value in (extra_metadata or {}).items():
        if key in metadata or not isinstance(key, str) or not isinstance(value, str):
            raise ValueError(f"extra_metadata[{key!r}]={value!r}: texts under keys other than {', '.join(metadata)}")
        metadata[key] = value
    plain = plain_copy(model)
    example = torch.zeros(2, *size)
    _check_forward(plain, example, json.loads(metadata["labels"]) if "labels" in metadata else None)
    write_bytes(target, _to_bytes(plain, example, opset, metadata))
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


def to_graph(model: nn.Module, examples: tuple[Any, ...], input_names: Sequence[str], opset: int = 20) -> Any:
    """An evaluating module as an onnx_ir model: a free batch, strided convolutions put back, no word of this machine.

    Args:
        model: As ``plain_copy`` makes it.
        examples: What it takes, tensors (N, ...) or lists of them, with N = 2: torch.export takes a batch of 1 for a
            constant in some models.
        input_names: One for each tensor.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    from nas_zoo.export.graph.strides import merge_strides

    program = torch.onnx.export(
        _folded(model),
        examples,
        dynamo=True,
        input_names=list(input_names),
        output_names=[OUTPUT_NAME],
        dynamic_shapes=tree_map(lambda _: {0: BATCH_AXIS}, examples),
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
    return program.model


def _to_bytes(model: nn.Module, example: torch.Tensor, opset: int, metadata: Mapping[str, str]) -> bytes:
    """The ONNX file of the model."""
    import onnx_ir

    graph = to_graph(model, (example,), [INPUT_NAME], opset)
    graph.metadata_props.update(sorted(metadata.items()))
    proto = onnx_ir.to_proto(graph)
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
    if resampling not in RESAMPLING:
        raise ValueError(f"interpolation must be one of {', '.join(RESAMPLING)}, got {resampling!r}")
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


OF_IMAGES = ("labels", "mean", "std", "input_size", "crop_pct")


def images_of(model: nn.Module, **given: Any) -> tuple[dict[str, str], dict[str, Any]]:
    """The file's metadata, and what ``real_images`` has to know of the model: classes and channels.

    `given` is what ``export_onnx`` takes of labels, mean, std, input_size and crop_pct.
    """
    labels, mean, std, input_size, crop_pct = (given.get(key) for key in OF_IMAGES)
    metadata, size = _metadata(model, labels, mean, std, input_size, crop_pct, None)
    return metadata, {
        "classes": json.loads(metadata["labels"]) if "labels" in metadata else None,
        "num_classes": getattr(model, "num_classes", None),
        "in_chans": size[0],
    }
