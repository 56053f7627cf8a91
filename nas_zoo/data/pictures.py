"""One way from a file's bytes to pixels, for training, evaluation, calibration and prediction alike.

Imports NumPy and Pillow only, so that a program that predicts needs no torch.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

__all__ = ["EXTENSIONS", "MAX_PIXELS", "Box", "Part", "fit", "open_picture", "to_array", "to_mode"]

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm"}
)  # compared in lower case
# The decoders Pillow may use: those of the extensions only, so that a renamed PostScript file starts no interpreter.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_PIXELS = 89_478_485  # an image, as Pillow's own warning level: 256 MB decoded
MAX_MEMBER_BYTES = 64 * 2**20  # an encoded image in a tar

# What Pillow's decoders raise on damaged files.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Part = Callable[[int, int], Box]  # (width, height) of the whole image -> the part of it to take


def fit(picture: Image.Image, image_size: int, *, crop_pct: float = 1.0, part: Part | None = None) -> Image.Image:
    """The picture made `image_size` pixels square: shorter side resized (bilinear, antialiased), then centre crop.

    A picture that has the size already passes unchanged. The shorter side becomes floor(image_size / crop_pct) as in
    timm. With `part` the part of the picture that it names is resized to the square, whatever its shape.
    """
    width, height = picture.size
    if part is not None:
        return picture.resize((image_size, image_size), Image.Resampling.BILINEAR, box=part(width, height))
    shorter = int(image_size / crop_pct)
    if min(width, height) != shorter:
        scale = shorter / min(width, height)
        width, height = max(shorter, round(width * scale)), max(shorter, round(height * scale))
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - image_size) // 2, (height - image_size) // 2
    if (width, height) != (image_size, image_size):
        picture = picture.crop((left, top, left + image_size, top + image_size))
    return picture


def open_picture(data: bytes | io.BufferedReader) -> Image.Image:
    """The picture, its header read; OSError for what is none, ValueError for one of more than MAX_PIXELS."""
    picture = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"{picture.width} x {picture.height} pixels, more than {MAX_PIXELS} (a decompression bomb?)")
    return picture


def to_mode(picture: Image.Image, in_chans: int) -> Image.Image:
    """RGB, or grey (ITU-R 601) for in_chans 1. Transparency is dropped as torchvision's ImageFolder drops it."""
    mode = "L" if in_chans == 1 else "RGB"
    if picture.mode == mode:
        return picture
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no known range; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255, not scale
        high = np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)
        picture = Image.fromarray(high)
    if picture.mode in ("P", "PA", "LA"):  # by way of RGBA, since Pillow warns when a transparent palette goes straight
        picture = picture.convert("RGBA")
    if picture.mode == "CMYK" and mode == "L":
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)


def to_array(picture: Image.Image, in_chans: int) -> np.ndarray:
    array = np.array(picture)  # np.asarray would give a read-only view, of which torch warns
    return array[:, :, None] if in_chans == 1 else array
