"""One way from a file's bytes to pixels, for training, evaluation, calibration and prediction alike.

bytes -> `open_picture` (the header; sizes are limited) -> `load` -> upright, by EXIF -> RGB or grey of 8 bits -> `fit`.
`decode` is all of it. Imports NumPy and Pillow only, so that a program that predicts needs no torch.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import threading
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

__all__ = ["DECODE_ERRORS", "EXTENSIONS", "RESAMPLING", "Box", "Part", "decode", "fit", "open_picture", "read_file"]

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".pnm"}
)  # compared in lower case
# The decoders Pillow may use: those of the extensions only, so that a renamed PostScript file starts no interpreter.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
MAX_FILE_BYTES = 64 * 2**20  # an encoded picture
MAX_PIXELS = 89_478_485  # a picture, as Pillow's own warning level: 358 MB decoded
# by timm's names
RESAMPLING = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}
LARGE_PIXELS = 2**25  # 33 million: from here on half the resolution is all that is looked at, one picture at a time
LONGEST = 16  # of a picture that is not resized here, times its shorter side: the middle of longer ones is taken
_RESIZED_PIXELS = 2**24  # of a picture resized whole, before the crop: 67 MB

# What Pillow's decoders raise on damaged files.
DECODE_ERRORS = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip

Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels
Part = Callable[[int, int], Box]  # (width, height) of the whole image -> the part of it to take

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
_TOO_MANY = f"it has more than the {MAX_PIXELS} pixels that are read of one picture (a decompression bomb?)"
_one_large = threading.Lock()  # threads that decode do so side by side, but for large pictures


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file; ValueError for a folder, a pipe, and one of more than MAX_FILE_BYTES."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise ValueError("it is no regular file")
        with open(path, "rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error  # without the name, which the caller tells
    _check_bytes(data)
    return data


def _check_bytes(data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"the file has more than {MAX_FILE_BYTES // 2**20} MiB, the most that is read of one picture")


def open_picture(data: bytes | io.BufferedReader) -> Image.Image:
    """The picture, its header read; ValueError for what is none, is empty, or has more than MAX_PIXELS."""
    if isinstance(data, bytes):
        _check_bytes(data)
        if not data:
            raise ValueError("the file is empty")
    try:
        picture = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    except UnidentifiedImageError:  # whose own words are the address of a buffer
        raise ValueError("it is no picture, or of a kind that is not read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ValueError(_TOO_MANY) from None
    _check_pixels(picture)
    return picture


def _check_pixels(picture: Image.Image) -> None:
    if not picture.width or not picture.height:
        raise ValueError("there are no pixels in it")
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(_TOO_MANY)


def decode(
    image: bytes | Image.Image,
    size: int | tuple[int, int] | None,
    in_chans: int,
    *,
    crop_pct: float = 1.0,
    part: Part | None = None,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """uint8 (H, W, in_chans) of a file's bytes or an opened picture: upright, in RGB or grey, as `fit` makes it.

    size None: in its own size, but of a picture of more than LARGE_PIXELS half of that, and the middle of one that is
    more than LONGEST times as long as wide. Raises one of DECODE_ERRORS for what is damaged, too large, or has values
    of no known range (floating point, 32 bits, 12 bits in 16). The first frame of several; transparency is dropped.
    """
    picture = open_picture(image) if isinstance(image, bytes) else image
    _check_pixels(picture)
    large = picture.width * picture.height > LARGE_PIXELS
    with _one_large if large else contextlib.nullcontext():
        depth = _Depth(picture)
        if large and isinstance(image, bytes):  # a JPEG is decoded at half its size; other formats do not listen
            picture.draft(None, (picture.width // 2, picture.height // 2))
        picture.load()
        depth.check(picture)
        turn = _UPRIGHT.get(_orientation(picture))
        if size is None:
            picture = _middle(picture)
        halve = picture.width * picture.height > LARGE_PIXELS and min(picture.size) >= 2
        picture = _halved(picture, in_chans, depth) if halve else _to_mode(picture, in_chans, depth)
        if turn is not None:
            picture = picture.transpose(turn)
        if size is not None:
            picture = fit(picture, size, crop_pct=crop_pct, part=part, resampling=resampling)
    array = np.array(picture)  # np.asarray would give a read-only view, of which torch warns
    return array[:, :, None] if in_chans == 1 else array


def fit(
    picture: Image.Image,
    size: int | tuple[int, int],
    *,
    crop_pct: float = 1.0,
    part: Part | None = None,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> Image.Image:
    """The picture at `size` (a square's side, or height and width): resized to cover size / crop_pct, then centre crop.

    Sides of size / crop_pct are rounded down, as in timm; Pillow's resampling is antialiased. Where crop_pct is 1 a
    picture that has the size already passes unchanged. With `part` the part of the picture that it names is resized,
    whatever its shape. Of a picture of an extreme shape only what the crop keeps is resized, so that memory is bounded
    by `size`.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if part is not None:
        return picture.resize((width, height), resampling, box=part(*picture.size))
    least = (int(width / crop_pct), int(height / crop_pct))
    scale = max(least[0] / picture.width, least[1] / picture.height)
    wide, high = picture.size
    if scale != 1.0:
        wide, high = max(least[0], round(wide * scale)), max(least[1], round(high * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    if scale != 1.0:
        if wide * high > max(_RESIZED_PIXELS, 16 * least[0] * least[1]):
            x, y = picture.width / wide, picture.height / high
            box = (left * x, top * y, min((left + width) * x, picture.width), min((top + height) * y, picture.height))
            return picture.resize((width, height), resampling, box=box)
        picture = picture.resize((wide, high), resampling)
    if picture.size != (width, height):
        picture = picture.crop((left, top, left + width, top + height))
    return picture


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none that can be read; of a TIFF Pillow has turned it by itself."""
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except (*DECODE_ERRORS, AttributeError):  # damaged metadata are no reason to refuse the pixels
        return 1


def _middle(picture: Image.Image) -> Image.Image:
    most = LONGEST * min(picture.size)
    width, height = min(picture.width, most), min(picture.height, most)
    if (width, height) == picture.size:
        return picture
    left, top = (picture.width - width) // 2, (picture.height - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _halved(picture: Image.Image, in_chans: int, depth: _Depth) -> Image.Image:
    """Every 2 x 2 pixels one, in RGB or grey; in strips, so that no second copy of a large picture is made."""
    width, height = picture.width // 2, picture.height // 2
    half = Image.new("L" if in_chans == 1 else "RGB", (width, height))
    rows = max(1, 2**20 // width)
    for top in range(0, height, rows):
        strip = picture.crop((0, 2 * top, 2 * width, 2 * min(top + rows, height)))
        half.paste(_to_mode(strip, in_chans, depth).reduce(2), (0, top))
    return half


class _Depth:
    """What the header of a picture says of its values and Pillow forgets when it loads the pixels."""

    def __init__(self, picture: Image.Image) -> None:
        tiles: Any = getattr(picture, "tile", None)  # empty where the pixels are there already
        raw = str(tiles[0][3][0] if isinstance(tiles[0][3], tuple) else tiles[0][3]) if tiles else ""
        self.twelve = raw == "I;12"
        self.sixteen = not self.twelve and (";16" in raw or picture.mode.startswith("I"))
        # 32 bits, or 16 with a sign; but a PGM says its largest value, and Pillow makes 65535 of it
        self.unknown = picture.mode == "F" or (picture.mode == "I" and picture.format != "PPM")
        tags: Any = getattr(picture, "tag_v2", {})
        self.inverted = self.sixteen and tags.get(262) == 0  # a TIFF whose white is 0

    def check(self, picture: Image.Image) -> None:
        """ValueError for values whose range nobody can know; `picture` is the whole one."""
        if self.unknown:
            kind = "floating-point" if picture.mode == "F" else "32-bit"
            raise ValueError(f"its {kind} pixels have no known range; save it with 8 or 16 bits")
        if not self.sixteen or self.inverted:
            return
        if picture.mode.startswith("I"):
            dark = 0 < np.asarray(picture).max() <= 4095
        else:  # of RGB Pillow has kept the upper 8 bits only
            dark = max(int(high) for _, high in picture.convert("RGB").getextrema()) <= 15  # type: ignore[misc]
        if dark:
            raise ValueError(
                "of its 16 bits only the lower 12 or fewer are used, so that it would be almost black; save it with "
                "values up to 65535, or with 8 bits"
            )

    def eight(self, picture: Image.Image) -> Image.Image:
        """Grey of 8 bits from grey of 12 or 16: the upper ones. Pillow's own conversion clips at 255."""
        values = np.asarray(picture) >> (4 if self.twelve else 8)
        return Image.fromarray((255 - values if self.inverted else values).astype(np.uint8))


def _to_mode(picture: Image.Image, in_chans: int, depth: _Depth) -> Image.Image:
    """RGB, or grey (ITU-R 601) for in_chans 1, of 8 bits. Transparency is dropped as torchvision's ImageFolder does."""
    mode = "L" if in_chans == 1 else "RGB"
    if picture.mode.startswith("I"):
        picture = depth.eight(picture)
    if picture.mode == mode:
        return picture
    if picture.mode in ("P", "PA", "LA"):  # by way of RGBA, since Pillow warns when a transparent palette goes straight
        picture = picture.convert("RGBA")
    if picture.mode == "CMYK" and mode == "L":
        picture = picture.convert("RGB")
    return picture if picture.mode == mode else picture.convert(mode)
