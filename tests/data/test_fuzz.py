"""A thousand damaged pictures, tars and zips each: the error that a user is told, and nothing else."""

import gzip
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data.listing import list_images
from nas_zoo.data.sources import ImageFiles, UnreadableImage
from tests.data.test_listing import write_zip
from tests.data.test_pictures import RAMP, corner, saved, tiff
from tests.data.test_sources import encoded, tree, write_tar

COUNT = 1000


def damaged(data: bytes, rng: np.random.Generator, header: int) -> bytes:
    """A copy with a few bytes changed (half of them among the first `header`), cut out, put in, or cut off."""
    copy = bytearray(data)
    for _ in range(int(rng.integers(1, 5))):
        reach = min(header, len(copy)) if rng.random() < 0.5 else len(copy)
        at = int(rng.integers(0, max(reach, 1)))
        kind = rng.random()
        if kind < 0.5:
            copy[at : at + 1] = bytes([int(rng.integers(0, 256))])
        elif kind < 0.7:
            copy[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
        elif kind < 0.8:
            del copy[at : at + int(rng.integers(1, 64))]
        elif kind < 0.9:
            copy[at:at] = rng.bytes(int(rng.integers(1, 64)))
        else:
            del copy[at:]
    return bytes(copy)


def check(errors: list[str], place: str) -> None:
    assert COUNT // 10 < len(errors) < COUNT
    for error in errors:
        assert place in error
        assert "\n" not in error


def test_a_damaged_picture_is_read_or_refused_by_name() -> None:
    grey = Image.fromarray(RAMP.astype(np.uint8))
    seeds = [corner(6, form) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    seeds += [saved(grey, form) for form in ("GIF", "BMP", "PPM")]
    seeds += [
        saved(grey.quantize(9), transparency=bytes(9)),
        tiff(RAMP * 16, 12, 1),
        saved(grey.convert("CMYK"), "JPEG"),
    ]
    seeds += [saved(grey, "TIFF", compression=kind) for kind in ("tiff_lzw", "jpeg")]
    rng, errors = np.random.default_rng(0), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of damaged metadata
        for number in range(COUNT):
            data = damaged(seeds[number % len(seeds)], rng, 64)
            files = ImageFiles(Path("set"), ("cat/1.png",), blobs=(data,))
            try:
                assert files.decode(0, 8, 3).shape == (8, 8, 3)
            except UnreadableImage as error:
                errors.append(str(error))
    check(errors, "'cat/1.png' in 'set'")


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip"])
def test_a_damaged_archive_is_read_or_refused_by_name(tmp_path: Path, kind: str) -> None:
    files = tree(3) | {"cat/" + "long" * 40 + ".png": encoded(5)}
    write: Callable[..., Path] = write_zip if kind == "zip" else write_tar
    whole = write(tmp_path / "whole", files).read_bytes()
    names = sorted(files)
    rng, errors, smaller = np.random.default_rng(1), [], 0
    place = tmp_path / "set"
    for _ in range(COUNT):
        data = damaged(whole, rng, 1024)
        place.write_bytes(gzip.compress(data, 1) if kind == "tar.gz" else data)
        try:
            found = list_images(place).files
            for i in range(len(found)):
                found.read(i)
            smaller += kind != "zip" and len(found) < len(names)
        except ValueError as error:
            errors.append(str(error))
    check(errors, str(place))
    assert smaller == 0  # never taken for a smaller whole
