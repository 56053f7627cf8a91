"""Tars as ours are, from small sets laid out as people download them."""

import io
import runpy
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data.named import open_source

main = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "make_tars.py"))["main"]
CLASSES = ("n01440764", "n02102040")


@pytest.fixture
def imagenette(tmp_path: Path) -> Path:
    """imagenette2-320/{train,val}/CLASS/NAME.JPEG, shorter side 320; one picture is grey, as some are."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 3), ("val", 2)):
        for name in CLASSES:
            folder = tmp_path / "imagenette2-320" / part / name
            folder.mkdir(parents=True)
            for i in range(count):
                shape = (320, 400) if i == 1 and name == CLASSES[1] else (400, 320, 3)
                coarse = rng.integers(0, 256, (shape[0] // 40, shape[1] // 40, *shape[2:]), dtype=np.uint8)
                image = Image.fromarray(coarse).resize((shape[1], shape[0]))
                image.save(folder / f"{name}_{10 - i}.JPEG")
    return tmp_path / "imagenette2-320"


def test_photographs_become_small_jpegs_of_the_same_classes_in_the_order_of_their_names(imagenette, tmp_path, capsys):
    train, val = tmp_path / "train.tar", tmp_path / "val.tar"
    words = [str(imagenette), "--size", "64", "--train-limit", "2", "--train-to", str(train), "--test-to", str(val)]
    assert main(words) == 0
    assert "train.tar: 4 images of 2 classes" in capsys.readouterr().out
    with tarfile.open(train) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == [f"{name}/{i:04d}.jpg" for name in CLASSES for i in range(2)]
        assert {(member.mtime, member.uid, member.uname) for member in members} == {(0, 0, "")}
        first = Image.open(io.BytesIO(archive.extractfile(members[0]).read()))  # type: ignore[union-attr]
    assert (first.size, first.mode, first.format) == ((64, 64), "RGB", "JPEG")
    assert first.quantization[0][:4] == [8, 6, 5, 8]  # type: ignore[attr-defined]  # quality 75, as in our tars
    made, theirs = open_source(str(train), test_data=str(val)), open_source(str(imagenette), image_size=64)
    assert made.classes == theirs.classes == CLASSES
    difference = np.abs(made.image(0).astype(int) - theirs.image(0)).mean()
    assert 0 < difference < 6  # the same picture, encoded once more
    before = train.read_bytes()
    assert main(words) == 0
    assert train.read_bytes() == before


def test_arrays_keep_their_size_and_order(tmp_path):
    train, test = tmp_path / "train.tar.xz", tmp_path / "test.tar.xz"
    assert main(["digits", "--train-to", str(train), "--test-to", str(test)]) == 0
    digits, made = open_source("digits"), open_source(str(train), test_data=str(test), in_chans=1)
    assert made.classes == digits.classes
    assert np.bincount(made.labels).tolist() == np.bincount(digits.labels).tolist()
    zeros, again = (source.subset(np.flatnonzero(source.labels == 0)) for source in (digits, made))
    assert made.image_size == digits.image_size
    errors = [np.abs(zeros.image(i).astype(int) - again.image(i)).mean() for i in range(20)]
    others = [np.abs(zeros.image(i).astype(int) - again.image(i + 1)).mean() for i in range(20)]
    assert max(errors) < min(others)


def test_a_set_that_is_not_there_is_told_in_one_line(tmp_path, capsys):
    assert main(["nowhere", "--train-to", str(tmp_path / "a.tar"), "--test-to", str(tmp_path / "b.tar")]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
