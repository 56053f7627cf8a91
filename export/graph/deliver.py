"""Writes a folder of checked ONNX files of one model: float32, and the forms that were asked for.

    deliver(model, "out", Forms(float16=True, int8=True, layout="NHWC"), images=..., calibration=...)

Each file is checked against PyTorch before any of them appears, and has the figures of its check beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import nn

from nas_zoo.export.graph.check import TOLERANCES, check_onnx, summary
from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.graph.quantize import ENOUGH, FEW, int8_variant
from nas_zoo.export.graph.real_images import RealImages
from nas_zoo.export.graph.variants import LAYOUTS, float16_variant, to_bytes, with_preprocessing
from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.runs.files import staged, write_bytes, write_json
from nas_zoo.text import counted

__all__ = ["Forms", "deliver"]


@dataclass(frozen=True)
class Forms:
    """What is written beside model.onnx."""

    float16: bool = False
    int8: bool = False
    layout: str | None = None  # of the images, NHWC or NCHW, of a second file of each with its preprocessing inside
    int8_target: str = "cpu"
    int8_method: str = "minmax"
    reduce_range: bool = False
    keep_float: Sequence[str] = ()  # nodes that int8 leaves as they are


def deliver(
    model: nn.Module,
    folder: str | os.PathLike[str],
    forms: Forms | None = None,
    *,
    images: RealImages | None = None,
    calibration: RealImages | None = None,
    batches: Sequence[int] = (1, 3, 8),
    agreement: float | None = None,
    check: bool = True,
    base: Path | None = None,
    say: Callable[[str], None] | None = None,
    **how: Any,
) -> list[Path]:
    """The files written, each with NAME.check.json beside it.

    model.onnx, model_fp16.onnx, model_int8.onnx, and of each NAME_images.onnx with its preprocessing inside. Two
    deliveries of the same weights and images are the same bytes.

    Args:
        folder: Is made where it does not exist; other files in it stay.
        images: To check on; those of the calibration if None, else noise.
        calibration: Real images for int8.
        agreement: Least part of the images that must get PyTorch's class, instead of that of check's TOLERANCES.
        check: False writes files that nothing has looked at.
        base: The model's float32 file where there is one already; it is checked like one made here.
        say: Is told what is done.
        how: As for ``export_onnx``: labels, mean, std, input_size, crop_pct, interpolation, opset.

    Raises:
        CheckError: A file is not what PyTorch computes. Nothing is written then.
        ValueError: int8 without images, and what ``export_onnx`` refuses.
    """
    forms, say = forms or Forms(), say or (lambda _: None)
    if forms.layout is not None and forms.layout not in LAYOUTS:
        raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got {forms.layout!r}")
    if forms.int8 and (calibration is None or not len(calibration)):
        raise ValueError("int8: needs real images to calibrate on (--calibration FOLDER)")
    if images is None and calibration is not None:
        images = replace(calibration, name=f"{calibration.name}, of the calibration")
    if check and images is None:
        say("checking on noise, since no images are given; real ones tell of accuracy too")
    place, written = Path(folder), list[str]()
    stems = ["model", *(["model_fp16"] if forms.float16 else []), *(["model_int8"] if forms.int8 else [])]
    # The figures of an older file must not stand beside a newer one.
    old = [f"{stem}{end}.check.json" for stem in stems for end in ("", "_images")]
    with staged(place, gone=[] if check else old) as aside:

        def finish(name: str, proto: onnx.ModelProto) -> None:
            path = aside / name
            write_bytes(path, to_bytes(proto))
            written.append(name)
            if not check:
                say(f"made {name}, unchecked")
                return
            figures = check_onnx(path, model, images, batches=batches, tolerance=_tolerance(proto, agreement))
            say(summary(figures))
            write_json(path.with_suffix(".check.json"), figures)

        if base is None:
            say("exporting to ONNX")
            base = export_onnx(model, aside / "model.onnx", **how)
        float32, path = onnx.load(base), base
        for stem in stems:
            proto = float32
            if stem == "model_fp16":
                proto = float16_variant(float32)
            elif stem == "model_int8":
                count = len(calibration or ())
                say(f"calibrating on {counted(count, 'image')}{'' if count >= ENOUGH else f': {FEW}'}")
                proto = _int8(float32, path, calibration, forms)
            finish(f"{stem}.onnx", proto)
            if forms.layout is not None:
                finish(f"{stem}_images.onnx", with_preprocessing(proto, forms.layout))
    return [place / name for name in written]


def _int8(base: onnx.ModelProto, path: Path, calibration: RealImages | None, forms: Forms) -> onnx.ModelProto:
    assert calibration is not None  # checked above
    classifier = OnnxClassifier(path)
    pixels = np.stack([classifier.preprocess(image) for image in calibration.images])
    return int8_variant(
        base,
        pixels,
        target=forms.int8_target,
        method=forms.int8_method,
        reduce_range=forms.reduce_range,
        keep_float=forms.keep_float,
    )


def _tolerance(proto: onnx.ModelProto, agreement: float | None) -> Any:
    if agreement is None:
        return None
    texts = {entry.key: entry.value for entry in proto.metadata_props}
    kind = texts["dtype"] + (" preprocessing" if "preprocessing" in texts else "")
    return replace(TOLERANCES[kind], agreement=agreement)
