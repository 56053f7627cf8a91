"""Random numbers as a function of their place, and the training augmentation that is made of them.

Nothing here has a state and nothing draws from torch's generators. Every random number is a hash (splitmix64) of seed,
epoch, sample index and its own number, so the order of epoch 7 and the crop of sample 123 in it can be asked for at any
time, by any process and any loading worker. They are the same on every machine and device.

The training transforms are those of DARTS (`utils._data_transforms_cifar10`), in its order: zero (black) padding and a
random crop of the pixels, a random mirror image, scaling to mean 0 and deviation 1, and last the cutout, whose square
is therefore 0 *after* scaling: the mean colour, not black, as the padding is. For photographs there are besides
torchvision's colour jitter and timm's RandAugment, image by image where it is decoded, and timm's mixup and cutmix of
a whole batch.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nas_zoo.data.pictures import Box
from nas_zoo.data.sources import ImageSource

__all__ = [
    "PHOTOGRAPH_PIXELS",
    "Augment",
    "PictureChange",
    "cut_out",
    "default_augment",
    "drawn_from",
    "epoch_order",
    "hard_labels",
    "mixed",
    "pad_crop_flip",
    "random_draws",
    "resized_crop_box",
]

PHOTOGRAPH_PIXELS = 96  # from this side on a random resized crop is the usual augmentation, below it the padded crop

# Independent streams of random numbers.
_ORDER, _CROP, RESIZED_CROP, _JITTER, _RAND_AUGMENT, _MIX = 0, 1, 2, 3, 4, 5


@dataclass(frozen=True)
class Augment:
    """Training augmentation of one data set.

    crop_padding: black pixels around the image before a crop of the image's size. flip: mirror half of the images.
    cutout: side in pixels of a square set to 0 after scaling, cut off at the border (DARTS: 16 for CIFAR); 0: none.
    random_resized_crop: instead of the padded crop, a part of crop_area (fractions of the whole area) and of a shape
    between 3:4 and 4:3 out of the *original* image, resized (Inception, as torchvision's RandomResizedCrop); images are
    then decoded anew for every batch.

    color_jitter: brightness, contrast and saturation times a number from 1 - this to 1 + this; hue_jitter: hue turned
    by at most this part of the circle; in random order, as torchvision's ColorJitter (DARTS on ImageNet: 0.4 and 0.2).
    rand_augment: timm's words for its RandAugment, such as "rand-m9-mstd0.5". mixup, cutmix: alphas of the Beta
    distribution that the shares of two mixed images come from, as timm's Mixup for whole batches; with both, one of
    them by chance; 0: none.
    """

    crop_padding: int = 4
    flip: bool = True
    cutout: int = 0
    random_resized_crop: bool = False
    crop_area: tuple[float, float] = (0.08, 1.0)
    color_jitter: float = 0.0
    hue_jitter: float = 0.0
    rand_augment: str | None = None
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("color_jitter", 1.0), ("hue_jitter", 0.5), ("mixup", math.inf), ("cutmix", math.inf)):
            value = getattr(self, name)
            if not 0 <= value <= most or value == math.inf:
                what = "a finite number of at least 0" if most == math.inf else f"from 0 to {most}"
                raise ValueError(f"{name} must be {what}, got {value}")
        if self.rand_augment is not None:
            _rand_augment(self.rand_augment, 224, (0.5,) * 3)
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more pixels, got {getattr(self, name)}")
        low, high = self.crop_area
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_area must be two fractions 0 < low <= high <= 1, got {self.crop_area}")

    @property
    def changes_pictures(self) -> bool:
        """Whether each image is changed for itself, where it is decoded, in every epoch anew."""
        return bool(self.random_resized_crop or self.color_jitter or self.hue_jitter or self.rand_augment)

    @property
    def mixes(self) -> bool:
        """Whether the images of a batch are mixed in pairs, so that its labels are shares of the classes."""
        return bool(self.mixup or self.cutmix)


def default_augment(
    source: ImageSource,
    image_size: int | None = None,
    cutout: int = 0,
    *,
    crop_padding: int | None = None,
    crop_area_min: float = 0.08,
    flip: bool | None = None,
    **more: Any,
) -> Augment:
    """The usual augmentation for a source: padding of an eighth of the side (4 for 32), or random resized crops.

    crop_padding: in pixels of an image of 32, scaled to the image size. flip: None for mirror images only where the
    source allows them (`flip_ok`: not for digits). Resized crops from 96 pixels on. more: other fields of Augment.
    """
    size = image_size or source.image_size
    photograph = size >= PHOTOGRAPH_PIXELS
    padding = 0 if photograph else round(size / 8)
    return Augment(
        crop_padding=padding if crop_padding is None else round(crop_padding * size / 32),
        flip=source.flip_ok if flip is None else flip,
        cutout=cutout,
        random_resized_crop=photograph,
        crop_area=(crop_area_min, 1.0),
        **more,
    )


# ---- random numbers ----


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64 (Steele, Lea, Flood 2014), on uint64 that wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_STEP = 0x9E3779B97F4A7C15  # splitmix64's increment, 2^64 / golden ratio


def random_draws(seed: int, epoch: int, indices: np.ndarray, count: int, stream: int = _CROP) -> np.ndarray:
    """`count` uniform numbers in [0, 1) for each sample: (n, count) float64, a function of the arguments only."""
    state = np.zeros(1, dtype=np.uint64)
    for value in (seed, epoch, stream):
        state = _mix(state + np.array([(value + _STEP) % 2**64], dtype=np.uint64))
    state = _mix(state + indices.astype(np.uint64) + np.uint64(_STEP))
    numbers = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_STEP)
    return (_mix(state[:, None] + numbers) >> np.uint64(11)) * 2.0**-53  # the upper 53 bits


@contextlib.contextmanager
def drawn_from(seed: int, epoch: int, index: int, stream: int) -> Iterator[None]:
    """What is drawn inside from Python's and NumPy's global generators is a function of the arguments only.

    timm's transforms draw there. The generators go on afterwards as if nothing had been drawn from them.
    """
    first, second = (random_draws(seed, epoch, np.array([index]), 2, stream)[0] * 2**32).astype(np.uint64).tolist()
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(first)
        np.random.seed(second)  # noqa: NPY002
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def epoch_order(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    """`indices` in the random order of one epoch."""
    return indices[np.argsort(random_draws(seed, epoch, indices, 1, _ORDER)[:, 0], kind="stable")]


def resized_crop_box(draws: np.ndarray, area: tuple[float, float], width: int, height: int) -> Box:
    """(left, top, right, bottom) in pixels of a random part of an image, from 40 uniform numbers.

    torchvision's rule: ten tries of an area and a shape (log-uniform in 3/4 .. 4/3); if none fits, the largest centred
    part whose shape is in the range. Unlike there, the part need not begin and end at whole pixels.
    """
    for size, shape, x, y in draws.reshape(10, 4).tolist():
        pixels = (area[0] + (area[1] - area[0]) * size) * width * height
        ratio = (3 / 4) * (16 / 9) ** shape
        w, h = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        if w <= width and h <= height:
            left, top = x * (width - w), y * (height - h)
            return left, top, min(left + w, width), min(top + h, height)
    w, h = min(width, height * 4 / 3), min(height, width * 4 / 3)
    return (width - w) / 2, (height - h) / 2, (width + w) / 2, (height + h) / 2


# ---- one picture ----


def _rand_augment(words: str, image_size: int, mean: tuple[float, ...]) -> Any:
    """timm's RandAugment, with its own training pipeline's fill colour and longest translation."""
    from timm.data.auto_augment import rand_augment_transform  # here: timm takes a second to import

    colour = tuple(min(255, round(255 * value)) for value in mean)
    fill = colour if len(colour) == 3 else colour[0]
    try:
        return rand_augment_transform(words, {"translate_const": int(image_size * 0.45), "img_mean": fill})
    except (AssertionError, ValueError, KeyError):
        raise ValueError(
            f"rand_augment must be timm's words for a RandAugment, such as rand-m9-mstd0.5, got {words!r}"
        ) from None


class PictureChange:
    """Colour jitter and RandAugment of one decoded image as a function of (seed, epoch, sample)."""

    def __init__(self, augment: Augment, image_size: int, mean: tuple[float, ...]) -> None:
        self.augment = augment
        words = augment.rand_augment
        self.rand_augment = None if words is None else _rand_augment(words, image_size, mean)

    def __call__(self, pixels: np.ndarray, seed: int, epoch: int, index: int) -> np.ndarray:
        """uint8 (H, W, C) of the same shape."""
        jitter, hue = self.augment.color_jitter, self.augment.hue_jitter
        if not (jitter or hue or self.rand_augment):
            return pixels
        from torchvision.transforms import functional as tvf  # here: only this needs torchvision

        picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
        if jitter or hue:
            draws = random_draws(seed, epoch, np.array([index]), 8, _JITTER)[0]
            for which in np.argsort(draws[:4], kind="stable").tolist():
                share = 2 * draws[4 + which] - 1
                if which == 3:
                    picture = tvf.adjust_hue(picture, hue * share) if hue else picture
                elif jitter:
                    adjust = (tvf.adjust_brightness, tvf.adjust_contrast, tvf.adjust_saturation)[which]
                    picture = adjust(picture, 1 + jitter * share)
        if self.rand_augment is not None:
            with drawn_from(seed, epoch, index, _RAND_AUGMENT):
                picture = self.rand_augment(picture)
        return np.array(picture).reshape(pixels.shape)


# ---- the batched transforms ----


def mixed(
    augment: Augment, images: Tensor, labels: Tensor, num_classes: int, seed: int, epoch: int, step: int
) -> tuple[Tensor, Tensor]:
    """The batch mixed with itself in reverse order, and float32 (n, num_classes) shares of the classes.

    timm's Mixup in its mode for whole batches: every pair of a batch is mixed by the same share, which is a function
    of (seed, epoch, step). n must be even; `images` are changed in place.
    """
    from timm.data.mixup import Mixup

    mixup = Mixup(augment.mixup, augment.cutmix, label_smoothing=0.0, num_classes=num_classes)
    with drawn_from(seed, epoch, step, _MIX):
        return mixup(images, labels)


def hard_labels(labels: Tensor) -> Tensor:
    """The class of each image, (n,) int64: of mixed images the one that has the larger share."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def pad_crop_flip(images: Tensor, padding: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Each uint8 image (n, H, W, C) padded with black, cropped to H x W at (top, left), mirrored where flip is 1."""
    count, height, width, channels = images.shape
    device = images.device
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    rows = top[:, None] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(flip[:, None] != 0, width - 1 - columns, columns) + left[:, None]
    sample = torch.arange(count, device=device)[:, None, None]
    # One gather of whole pixels by flat index: half the time of indexing with three tensors on a CPU.
    flat = (sample * padded.shape[1] + rows[:, :, None]) * padded.shape[2] + columns[:, None, :]
    return padded.view(-1, channels).index_select(0, flat.view(-1)).view(count, height, width, channels)


def cut_out(images: Tensor, side: int, center_y: Tensor, center_x: Tensor) -> Tensor:
    """Sets a square of `side` pixels (side // 2 to each side of the centre) of each image (n, C, H, W) to 0, in place.

    As in DARTS: the centre is any pixel, the square is cut off at the border, an odd side loses its last pixel.
    """
    half = side // 2
    y = torch.arange(images.shape[2], device=images.device)
    x = torch.arange(images.shape[3], device=images.device)
    in_y = (y >= center_y[:, None] - half) & (y < center_y[:, None] + half)
    in_x = (x >= center_x[:, None] - half) & (x < center_x[:, None] + half)
    return images.masked_fill_((in_y[:, :, None] & in_x[:, None, :])[:, None], 0.0)
