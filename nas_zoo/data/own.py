"""Labelled images from a Python program: any map-style data set of torch, as the type that programs read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from nas_zoo.data.pictures import RESAMPLING, decode
from nas_zoo.data.sources import DEVICE_LIMIT_GB

__all__ = ["DATA", "TEST_DATA", "LabelledImages", "name_of", "read_own"]

#: What the settings of programs say of their data.
DATA = (
    "digits, cifar10, cifar100; folder, tars or zip of class folders; a folder with metadata.csv or labels.csv; "
    "hf:owner/name, a saved data set, Parquet"
)
TEST_DATA = "folder, tar or zip of the test images; none: as the data set has them"


@runtime_checkable
class LabelledImages(Protocol):
    """A map-style data set: its length, and for each index from 0 on an image and its label.

    Images: PIL's, arrays (H, W) or (H, W, C) of uint8, tensors (C, H, W) of uint8 or of numbers from 0 to 1; grey or
    RGB, without augmentation and not scaled by mean and deviation, which a run does itself. Labels: whole numbers from
    0. ``classes``, where the data set has it, are their names.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def name_of(data: LabelledImages) -> str:
    """What a run calls it."""
    return type(data).__name__


def read_own(
    data: LabelledImages,
    classes: Sequence[str] | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    native: int = 64,
    otherwise: int = 224,
    crop_pct: float = 1.0,
    interpolation: str = "bilinear",
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Images uint8 (N, size, size, C), labels int64 (N,) and class names, all held in memory.

    Args:
        data: The data set.
        classes: Names of the classes; None: its own, else the labels as texts.
        image_size: In pixels; None: that of the first image where it is square and at most `native`, else `otherwise`.
        in_chans: 1 or 3; None: as the first image has them.
        native: Side in pixels up to which images are used as they are.
        otherwise: Side of all others.
        crop_pct: Part of the shorter side that a centre crop keeps, where images are resized.
        interpolation: How they are resized: "nearest", "bilinear", "bicubic" or "lanczos".

    Raises:
        ValueError: In one line, for what is no such data set, changes from one reading to the next, has labels that do
            not fit, or takes more memory than 2 GB.
    """
    name = name_of(data)
    if not isinstance(data, LabelledImages):
        raise ValueError(f"data: a {name} is no map-style data set: it needs __len__ and __getitem__")
    count = len(data)
    if count < 1:
        raise ValueError(f"data: the {name} is empty")
    first, first_again = (_picture(data, 0, name)[0] for _ in range(2))
    if np.asarray(first).shape != np.asarray(first_again).shape or np.any(np.asarray(first) != np.asarray(first_again)):
        raise ValueError(
            f"data: image 0 of the {name} changes from one reading to the next; give it without random transforms, "
            "augmentation is the run's own"
        )
    side = first.size[0] if first.size[0] == first.size[1] and first.size[0] <= native else otherwise
    size = image_size or side
    chans = in_chans or (1 if first.mode == "L" else 3)
    needed = count * size**2 * chans / 1e9
    if needed > DEVICE_LIMIT_GB:
        raise ValueError(
            f"data: {count} images of {size} pixels of the {name} would take {needed:.1f} GB of memory, more than "
            f"{DEVICE_LIMIT_GB:g}; give them as a folder, tar or zip, of which a run reads what it needs"
        )
    images, labels = np.empty((count, size, size, chans), np.uint8), np.empty(count, np.int64)
    for i in tqdm(range(count), f"{name}: reading", unit="image", delay=2.0, disable=None):
        picture, labels[i] = _picture(data, i, name)
        images[i] = decode(picture, size, chans, crop_pct=crop_pct, resampling=RESAMPLING[interpolation])
    names = tuple(map(str, classes if classes is not None else _classes(data) or range(int(labels.max()) + 1)))
    if labels.min() < 0 or labels.max() >= len(names):
        raise ValueError(
            f"data: labels of the {name} must be from 0 to {len(names) - 1}, got {labels.min()} to {labels.max()}"
        )
    return images, labels, names


def _classes(data: Any) -> Sequence[str] | None:
    """Its own names of classes, or those of the data set that it is a part of."""
    for _ in range(8):
        if isinstance(getattr(data, "classes", None), Sequence):
            found: Sequence[str] = data.classes
            return found
        data = getattr(data, "dataset", None)
    return None


def _picture(data: LabelledImages, index: int, name: str) -> tuple[Image.Image, int]:
    """An item as a picture, grey or RGB, and its label."""
    try:
        image, label = data[index]
    except (TypeError, ValueError) as error:
        raise ValueError(f"data: item {index} of the {name} must be (image, label): {error}") from error
    if isinstance(label, Tensor | np.ndarray | np.generic) and label.ndim == 0:
        label = label.item()
    if isinstance(label, bool) or not isinstance(label, int):
        raise ValueError(f"data: label {index} of the {name} must be a whole number, got {label!r:.40}")
    return _as_picture(image, f"data: image {index} of the {name}"), label


def _as_picture(image: Any, where: str) -> Image.Image:
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):  # which Pillow would cut off at 255
            raise ValueError(f"{where} has more than 8 bits (mode {image.mode}); give 8 bits, or a tensor from 0 to 1")
        return image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
    if isinstance(image, Tensor):
        if image.ndim == 3:
            image = image.permute(1, 2, 0)
        if image.is_floating_point():
            if not bool(((image >= 0) & (image <= 1)).all()):
                low, high = image.min().item(), image.max().item()
                raise ValueError(
                    f"{where} must have values from 0 to 1, got {low:.3g} to {high:.3g}; a run scales by mean and "
                    "deviation itself, so leave Normalize out"
                )
            image = (image * 255).round().to(torch.uint8)
        image = image.numpy()
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = f"an array of {image.dtype}" if isinstance(image, np.ndarray) else f"a {type(image).__name__}"
        raise ValueError(f"{where} must be a PIL image, a tensor (C, H, W) or an array (H, W, C) of uint8, got {kind}")
    pixels = image[..., 0] if image.ndim == 3 and image.shape[2] == 1 else image
    if pixels.ndim != 2 and not (pixels.ndim == 3 and pixels.shape[2] == 3):
        raise ValueError(f"{where} must have 1 or 3 channels, got the shape {tuple(image.shape)}")
    return Image.fromarray(np.ascontiguousarray(pixels))
