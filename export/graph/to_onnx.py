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
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nas_zoo.data.listing import PLACES
from nas_zoo.export.graph.check import check_onnx, summary
from nas_zoo.export.graph.deliver import Forms, deliver
from nas_zoo.export.graph.model import MODEL_HELP, ModelSettings, named_model
from nas_zoo.export.graph.onnx_file import OF_IMAGES, export_onnx, images_of
from nas_zoo.export.graph.real_images import real_images
from nas_zoo.export.runtime.triton import check_compiled, check_free, write_repository
from nas_zoo.models.load import name_of_run
from nas_zoo.runs.ending import program
from nas_zoo.runs.files import read_bytes, staged
from nas_zoo.runs.settings import Parser, add_flags, given_flags, require, require_least, setting, settings_from
from nas_zoo.text import plain

__all__ = ["ExportSettings", "main", "make_parser"]


#: Settings that say nothing where another is not given.
_OF_FOLDER = ("dtype", "int8", "with_preprocessing", "images", "data", "agreement")
_OF_INT8 = ("calibration", "calibration_images", "calibration_method", "int8_target", "reduce_range")
_OF_SERVER = ("tensorrt_cache", "tensorrt_fp16", "cudnn_search")


@dataclass(frozen=True)
class ExportSettings(ModelSettings):
    """The model and the file"""

    output: Path | None = setting(None, "the file to write; none: model.onnx, unless --to or --to-triton is given")
    to: Path | None = setting(None, "folder to write the file and other forms of it to")
    to_triton: Path | None = setting(None, "model repository of a Triton server to write the last form to")
    dtype: Literal["float32", "float16"] = setting("float32", "float16: a second file with float16 weights")
    int8: bool = setting(False, "another file with int8 weights and activations")
    calibration: str | None = setting(None, f"real images for int8: a {PLACES}, or digits, cifar10, cifar100")
    calibration_images: int = setting(256, "how many of them, at most")
    calibration_method: Literal["minmax", "percentile", "entropy"] = setting("minmax", "range of an activation")
    int8_target: Literal["cpu", "tensorrt"] = setting("cpu", "tensorrt: symmetric, float32 biases")
    reduce_range: bool = setting(False, "int8 weights of 7 bits, for CPUs without VNNI")
    with_preprocessing: bool = setting(False, "of each file a second one that takes uint8 images of any size")
    layout: Literal["NHWC", "NCHW"] = setting("NHWC", "of these images")
    images: Path | None = setting(None, f"{PLACES} of real images to check on; class folders give labels")
    data: str | None = setting(None, f"data set to check on instead, its test split: digits, cifar10, {PLACES}")
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
        folder = self.to is not None or self.to_triton is not None
        for there, needed, names in (
            (folder, "--to FOLDER or --to-triton REPOSITORY", _OF_FOLDER),
            (not folder, "neither --to nor --to-triton", ("output",)),
            (self.to_triton is not None, "--to-triton REPOSITORY", ("model_name", "overwrite", *_OF_SERVER)),
            (self.int8, "--int8", _OF_INT8),
            (self.with_preprocessing, "--with-preprocessing", ("layout",)),
            (self.images is not None or self.data is not None, "--images or --data", ("check_images",)),
            (bool(self.images or self.data or self.calibration), "--images, --data or --calibration", ("agreement",)),
            (self.check, "a check (without --no-check)", ("images", "data", "agreement")),
        ):
            given = [name for name in names if getattr(self, name) != getattr(type(self), name)]
            if given and not there:
                flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
                raise ValueError(f"{flags} can be given with {needed} only")


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo export", description=__doc__)
    parser.add_argument("model", help=MODEL_HELP)
    add_flags(parser, ExportSettings)
    return parser


@program("nas-zoo export")
def main(argv: list[str] | None = None) -> int:
    """The program: 0 when all is written and checked, 1 for a file that is not its model, 2 for a user's mistake."""
    namespace = make_parser().parse_args(argv)
    settings = settings_from(ExportSettings, given_flags(namespace))
    if settings.to is None and settings.to_triton is None:
        _write_one(namespace.model, settings)
    else:
        _write_folder(namespace.model, settings)
    return 0


def _how(settings: ExportSettings) -> dict[str, Any]:
    labels = None
    if settings.labels is not None:
        try:
            labels = read_bytes(settings.labels).decode("utf-8-sig").splitlines()  # some editors begin with a mark
        except UnicodeDecodeError as error:
            raise ValueError(
                f"labels {str(settings.labels)!r} must be UTF-8 text, a name on each line; at byte {error.start} "
                "it is none"
            ) from None
    names = ("mean", "std", "input_size", "crop_pct", "opset")
    return {"labels": labels} | {name: getattr(settings, name) for name in names}


def _write_one(name: str, settings: ExportSettings) -> None:
    model = named_model(name, settings, random_weights=settings.random_weights)
    path = settings.output or Path("model.onnx")
    if (path.exists() and not path.is_file()) or not path.parent.is_dir():
        raise ValueError(f"output {str(path)!r} must be the name of a file in an existing folder; --to makes folders")
    with staged(path.parent) as aside:  # so that a file which is not its model never stands there
        export_onnx(model, aside / path.name, **_how(settings))
        if settings.check:
            print(summary(check_onnx(aside / path.name, model)))
    print(f"wrote {plain(path)} ({path.stat().st_size / 1e6:.2f} MB)")


def _write_folder(name: str, settings: ExportSettings) -> None:
    if settings.images is not None and settings.data is not None:
        raise ValueError("--images and --data: give one of them, not both")
    if settings.images is not None and not settings.images.exists():
        raise ValueError(f"images {str(settings.images)!r}: no such {PLACES}")
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
    metadata, of_model = images_of(model, **{key: value for key, value in how.items() if key in OF_IMAGES})
    if forms.layout is not None and of_model["in_chans"] not in (1, 3):
        channels = of_model["in_chans"]
        raise ValueError(
            f"--with-preprocessing: {name!r} takes images of {channels} channels, and pictures have 1 or 3"
        )
    folder = Path(name.removeprefix("local-dir:"))
    own = name_of_run(folder) if folder.is_dir() else metadata.get("model", "model")
    called = settings.model_name or own.replace(".", "_")
    server = {key: getattr(settings, key) for key in _OF_SERVER}
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
            print(f"wrote {', '.join(path.name for path in paths)} to {plain(to)}")
        if settings.to_triton is not None:
            place = write_repository(paths[-1], settings.to_triton, called, overwrite=settings.overwrite, **server)
            print(f"wrote {plain(place)}")


if __name__ == "__main__":
    sys.exit(main())
