"""One way from bytes to pixels: kinds of pictures, orientation, ranges of values, and memory whatever the shape."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data.named import open_source
from nas_zoo.data.pictures import decode, fit
from nas_zoo.export.graph.real_images import real_images
from nas_zoo.export.runtime.classifier import OnnxClassifier
from tests.export.test_runtime import foreign

RAMP = (np.indices((64, 64)).sum(0) * 2).clip(0, 255)


def saved(picture: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def tiff(values: np.ndarray, bits: int, photometric: int) -> bytes:
    """A grey TIFF as cameras of 12 bits write it and Pillow does not: two values in three bytes."""
    height, width = values.shape
    if bits == 12:
        pairs = values.reshape(-1, 2).astype(np.uint32)
        both = (pairs[:, 0] << 12) | pairs[:, 1]
        data = np.stack([both >> 16, both >> 8, both], 1).astype(np.uint8).tobytes()
    else:
        data = values.astype("<u2").tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, height)]
    tags.append((279, len(data)))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def deep_rgb(values: np.ndarray) -> bytes:
    """A PNG of three channels of 16 bits, which Pillow reads and does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape
    rows = np.repeat(values[:, :, None], 3, 2).astype(">u2").reshape(height, -1)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


# ---- ranges of values ----


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize(
    "data",
    [
        saved(Image.fromarray((RAMP * 257).astype(np.uint16))),
        saved(Image.fromarray((RAMP * 257).astype(np.uint16)), "TIFF"),
        tiff(RAMP * 16, 12, 1),
        tiff(65535 - RAMP * 257, 16, 0),  # white is 0
        b"P5 64 64 4095\n" + (RAMP * 4095 / 255).astype(">u2").tobytes(),
        deep_rgb(RAMP * 257),
    ],
    ids=["16-bit PNG", "16-bit TIFF", "12-bit TIFF", "TIFF of white 0", "12-bit PGM", "16-bit RGB"],
)
def test_twelve_and_sixteen_bits_keep_their_range(data: bytes, in_chans: int) -> None:
    assert abs(decode(data, 64, in_chans).astype(int) - RAMP[:, :, None]).max() <= 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "32-bit pixels have no known range"),
        (saved(Image.fromarray(RAMP.astype(np.float32)), "TIFF"), "floating-point pixels have no known range"),
        (saved(Image.fromarray((RAMP * 16).astype(np.uint16))), "only the lower 12 or fewer"),
        (saved(Image.fromarray((RAMP * 16).astype(np.uint16)), "TIFF"), "only the lower 12 or fewer"),
        (deep_rgb(RAMP * 16), "only the lower 12 or fewer"),
    ],
    ids=["32-bit", "float", "12 in 16 PNG", "12 in 16 TIFF", "12 in 16 RGB"],
)
def test_values_of_no_known_range_are_refused_not_shown_black(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(data, 64, 3)


def test_a_black_picture_of_sixteen_bits_is_black() -> None:
    assert decode(saved(Image.fromarray(np.zeros((8, 8), np.uint16))), 8, 1).max() == 0


# ---- orientation ----


def corner(orientation: int, form: str = "JPEG") -> bytes:
    """A picture whose upper left quarter is white once it is turned as its EXIF says."""
    upright = np.zeros((32, 64, 3), np.uint8)
    upright[:16, :32] = 255
    undo = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.transpose(1, 0, 2),
        6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(Image.fromarray(np.ascontiguousarray(undo[orientation])), form, exif=exif)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_as_their_exif_says(orientation: int, form: str) -> None:
    pixels = decode(corner(orientation, form), None, 3)
    assert pixels.shape == (32, 64, 3)
    assert pixels[2:14, 2:30].min() > 200
    assert pixels[18:].max() < 50
    assert pixels[:, 34:].max() < 50


def test_training_calibration_and_prediction_see_the_same_pixels(tmp_path: Path) -> None:
    palette = Image.fromarray(RAMP.astype(np.uint8)).quantize(16)
    pictures = {
        "turned.jpg": corner(6),
        "deep.png": saved(Image.fromarray((RAMP * 257).astype(np.uint16))),
        "palette.png": saved(palette, transparency=bytes(range(16))),
        "cmyk.jpg": saved(Image.fromarray(RAMP.astype(np.uint8)).convert("CMYK"), "JPEG"),
        "alpha.png": saved(Image.fromarray(RAMP.astype(np.uint8)).convert("RGBA")),
    }
    for word in ("cat", "dog"):
        (tmp_path / "set" / word).mkdir(parents=True)
        for name, data in pictures.items():
            (tmp_path / "set" / word / name).write_bytes(data)
    file = foreign(tmp_path / "tiny.onnx", channels=3, side=16)
    classifier = OnnxClassifier(file, mean=[0.0] * 3, std=[1.0] * 3)
    source = open_source(tmp_path / "set", test_data=tmp_path / "set", image_size=16)
    found = real_images(str(tmp_path / "set"), split=None)
    assert source.files is not None
    for i, name in enumerate(source.files.names):
        expected = source.image(i).transpose(2, 0, 1).astype(np.float32) / 255
        np.testing.assert_array_equal(classifier.preprocess(tmp_path / "set" / name), expected)
        np.testing.assert_array_equal(classifier.preprocess(found.images[i]), expected)
        np.testing.assert_array_equal(classifier.preprocess(Image.open(tmp_path / "set" / name)), expected)


# ---- memory ----

MEASURE = """
import resource, sys
from nas_zoo.data.pictures import decode, read_file
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    shapes = [decode(read_file(path), size, 3, crop_pct=0.875).shape for size in (224, (10, 300), None)]
    print(path, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, max(map(max, shapes)))
"""


def test_memory_is_bounded_whatever_the_shape(tmp_path: Path) -> None:
    """A picture of 141 bytes, 21,000 x 1 pixels, took 5 GB: its shorter side was made 224, the longer 4,704,000."""
    shapes = {
        "wide.png": (21_000, 1, "1"),
        "high.png": (1, 21_000, "P"),
        "high.jpg": (1, 65_000, "RGB"),
        "wide.jpg": (65_000, 3, "CMYK"),
        "very_wide.png": (4_000_000, 2, "P"),
        "very_high.png": (3, 3_000_000, "L"),
    }
    for name, (width, height, mode) in shapes.items():
        Image.new(mode, (width, height)).save(tmp_path / name)
    files = [str(tmp_path / name) for name in shapes]
    done = subprocess.run([sys.executable, "-c", MEASURE, *files], capture_output=True, check=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert len(lines) == len(shapes)
    for file, megabytes, longest in lines:
        assert int(megabytes) < 150, file
        assert int(longest) <= 300, file


@pytest.mark.slow
def test_a_large_picture_is_looked_at_at_half_its_size_without_a_second_copy() -> None:
    side = 6400
    grey = np.add.outer(np.arange(side), np.arange(side)) / (2 * side) * 250
    large = Image.fromarray(grey.astype(np.uint8))
    expected = np.asarray(fit(large, 64)).astype(int)
    for data in (saved(large, compress_level=1), saved(large, "JPEG"), saved(large.convert("P"), "BMP")):
        assert abs(decode(data, 64, 1)[:, :, 0].astype(int) - expected).max() <= 3
    assert decode(saved(large, "JPEG"), None, 1).shape == (side // 2, side // 2, 1)


def test_only_the_part_that_is_kept_is_resized_of_an_extreme_shape() -> None:
    values = np.random.default_rng(0).integers(0, 256, (4, 4000, 3), dtype=np.uint8)
    picture = Image.fromarray(values)
    assert 4000 / 4 * 256**2 > 2**24  # the other way
    whole = picture.resize((256_000, 256), Image.Resampling.BILINEAR)
    left = (256_000 - 224) // 2
    expected = np.asarray(whole.crop((left, 16, left + 224, 240))).astype(int)
    assert abs(np.asarray(fit(picture, 224, crop_pct=0.875)).astype(int) - expected).max() <= 1


def test_what_is_too_large_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(ValueError, match="more than the 89478485 pixels that are read"):
        decode(saved(Image.new("1", (10_000, 9_000))), 224, 3)
    with pytest.raises(ValueError, match="more than 64 MiB"):
        decode(saved(Image.new("1", (8, 8))) + bytes(64 * 2**20), 224, 3)
    with pytest.raises(ValueError, match="the file is empty"):
        decode(b"", 224, 3)
