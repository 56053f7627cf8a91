"""Data sets opened by name, folder and tar; the faults told before training."""

import io
import logging
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data import listing
from nas_zoo.data.augment import default_augment
from nas_zoo.data.named import STATISTICS, _computed, channel_statistics, hold_out, open_source, search_split
from nas_zoo.data.pictures import fit
from nas_zoo.data.sources import ImageSource

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
CLASSES = ("cat", "dog", "owl")


def held(source: ImageSource) -> np.ndarray:
    assert source.images is not None
    return source.images


def names(source: ImageSource) -> tuple[str, ...]:
    assert source.files is not None
    return tuple(source.files.names)


def encoded(value=0, size=(12, 12), mode="RGB", form="PNG", **options) -> bytes:
    """A one-coloured picture file; value is its grey level."""
    rng = np.random.default_rng(value)
    shape = (size[1], size[0]) if mode in ("L", "1") else (size[1], size[0], len(mode))
    pixels = (rng.integers(0, 16, shape) + min(value, 239)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels, "L" if mode == "L" else None).save(stream, form, **options)
    return stream.getvalue()


def tree(per_class=5, classes=CLASSES, prefix="", size=(12, 12)) -> dict[str, bytes]:
    """Files of a small data set by path."""
    return {
        f"{prefix}{word}/{number}.png": encoded(50 * label + number, size)
        for label, word in enumerate(classes)
        for number in range(per_class)
    }


def write_folder(place: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    return place


def write_tar(place: Path, files: dict[str, bytes], mode="w", extra=()) -> Path:
    with tarfile.open(place, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in extra:
            archive.addfile(member)
    return place


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


# ---- digits ----


@pytest.mark.slow
def test_digits_are_split_the_same_way_every_time_and_share_no_image():
    from sklearn.datasets import load_digits

    train, test = open_source("digits"), open_source("digits", "test")
    assert (len(train), len(test)) == (1438, 359)
    assert train.classes == tuple("0123456789")
    assert held(train).shape == (1438, 8, 8, 1)
    assert (held(train).min(), held(train).max()) == (0, 255)
    assert not train.flip_ok
    shares = np.bincount(test.labels) / (np.bincount(test.labels) + np.bincount(train.labels))
    np.testing.assert_allclose(shares, 0.2, atol=0.004)
    # Together they are all of the digits, by content.
    ours = sorted(image.tobytes() for image in np.concatenate([held(train), held(test)]))
    whole = np.round(held(load_digits()) * (255 / 16)).astype(np.uint8)
    assert ours == sorted(image.tobytes() for image in whole)
    # The split is part of what published figures mean: it may never change.
    assert train.labels[:12].tolist() == EXPECTED_DIGITS
    assert open_source("digits", split_seed=3).labels.tolist() == train.labels.tolist()


EXPECTED_DIGITS = [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]


def test_known_statistics_of_the_digits_are_those_of_their_training_images():
    assert channel_statistics(held(open_source("digits"))) == STATISTICS["digits"]


def test_channel_statistics_agree_with_numpy_in_double_precision():
    images = np.random.default_rng(0).integers(0, 256, (1500, 3, 4, 2), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), atol=1e-8)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), atol=1e-8)
    assert channel_statistics(np.full((2, 4, 4, 1), 51, np.uint8)) == ((0.2,), (1.0,))


def test_digits_can_be_larger_and_rgb():
    small, large = open_source("digits"), open_source("digits", image_size=16, in_chans=3)
    assert large.image(0).shape == (16, 16, 3)
    assert large.mean == small.mean * 3
    assert (large.image(0)[..., 0] == large.image(0)[..., 2]).all()
    # Bilinear: the average brightness stays.
    assert abs(float(large.image(5).mean()) - float(small.image(5).mean())) < 4
    assert large.decoded(16).shape == (1438, 16, 16, 3)


# ---- CIFAR ----


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """A tiny CIFAR-10 in torchvision's file format; only its list of checksums is replaced."""
    import hashlib

    from torchvision.datasets import CIFAR10

    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    rng = np.random.default_rng(0)

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def part(count):
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [i % 10 for i in range(count)]}

    words = [f"word{i}" for i in range(10)]
    monkeypatch.setattr(CIFAR10, "train_list", [write("data_batch_1", part(20))])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", part(10))])
    name, md5 = write("batches.meta", {"label_names": words})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": name, "key": "label_names", "md5": md5})
    _computed.clear()
    return tmp_path


def test_cifar_is_read_from_an_existing_root_or_from_its_own_folder(cifar_root):
    train = open_source("cifar10", root=cifar_root, download=False)
    assert held(train).shape == (20, 32, 32, 3)
    assert (train.mean, train.std) == STATISTICS["cifar10"]
    assert train.classes[3] == "word3"
    test = open_source("cifar10", "test", root=cifar_root / "cifar-10-batches-py", download=False)
    assert test.labels.tolist() == list(range(10))


def test_cifar_in_grey_is_what_pillow_makes_of_it_and_has_the_training_statistics(cifar_root):
    colour = open_source("cifar10", root=cifar_root)
    test = open_source(
        "cifar10", "test", root=cifar_root, in_chans=1
    )  # opened first: has to look at the training images
    train = open_source("cifar10", root=cifar_root, in_chans=1)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in held(colour)])
    assert (held(train)[..., 0] == expected).all()
    assert (test.mean, test.std) == (train.mean, train.std) == channel_statistics(held(train))


def test_absent_cifar_names_the_place_and_what_to_do(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"no intact cifar100 in .*cifar-100-python.*give its place .--data-root"):
        open_source("cifar100", root=tmp_path, download=False)
    monkeypatch.setenv("NAS_ZOO_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ValueError, match=r"no intact cifar10 in .*cache"):
        open_source("cifar10", download=False)


def test_failed_cifar_download_is_a_clear_error(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar.tar.gz")  # nothing listens there
    with pytest.raises(
        ValueError, match=r"could not be downloaded from http://127.0.0.1:9/.*give the folder .*--data-root"
    ):
        open_source("cifar10", root=tmp_path)


# ---- folders and tars ----


@pytest.mark.parametrize("kind", ["folder", "tar", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("prefix", ["", "photos/", "./"])
def test_folder_and_every_tar_of_class_folders_give_the_same_images(tmp_path, kind, prefix):
    files = tree(prefix=prefix)
    if kind == "folder":
        place = write_folder(tmp_path / "data", files)
    else:
        place = write_tar(tmp_path / f"data.{kind}", files, f"w:{kind[4:]}")
    train, test = open_source(place), open_source(place, "test")
    assert train.classes == CLASSES
    assert (len(train), len(test)) == (12, 3)
    assert test.labels.tolist() == [0, 1, 2]
    assert train.image_size == 12
    assert (train.mean, train.std) == (test.mean, test.std) == channel_statistics(held(train))
    by_name = {name.removeprefix("photos/"): i for i, name in enumerate(names(train))}
    for name, i in by_name.items():
        expected = np.asarray(Image.open(io.BytesIO(files[prefix + name])))
        assert (train.image(i) == expected).all()
        assert train.classes[train.labels[i]] == name.split("/")[0]
    assert not set(names(train)) & set(names(test))


def test_hold_out_is_logged_and_depends_on_split_seed_only(tmp_path, caplog):
    place = write_folder(tmp_path / "data", tree(per_class=20))
    caplog.set_level(logging.INFO, "nas_zoo")
    first = open_source(place)
    assert "has no test split: 12 of its 60 images (20 % of each class, split_seed 0) are held out" in caplog.text
    assert names(first) == names(open_source(place))
    other = open_source(place, split_seed=1)
    assert names(first) != names(other)
    assert not set(names(other)) & set(names(open_source(place, "test", split_seed=1)))


@pytest.mark.parametrize("word", ["test", "val", "valid", "validation"])
@pytest.mark.parametrize("prefix", ["", "set/"])
def test_train_and_test_folders_are_the_splits(tmp_path, word, prefix):
    files = tree(3, prefix=f"{prefix}train/") | tree(2, prefix=f"{prefix}{word}/")
    for place in (write_folder(tmp_path / "data", files), write_tar(tmp_path / "data.tar", files)):
        train, test = open_source(place), open_source(place, "test")
        assert (len(train), len(test)) == (9, 6)
        assert all("train/" in name for name in names(train))
        assert all(f"{word}/" in name for name in names(test))


def test_test_folder_wins_over_val_and_other_folders_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nas_zoo")
    files = tree(3, prefix="train/") | tree(2, prefix="val/") | tree(1, prefix="test/") | tree(1, prefix="extra/")
    place = write_folder(tmp_path / "data", files)
    assert len(open_source(place, "test")) == 3
    assert len(open_source(place, "val")) == 6
    assert "18 images read, 3 other files left out: 3 in extra/" in caplog.text


def test_classes_called_train_and_test_are_classes(tmp_path):
    place = write_folder(tmp_path / "data", tree(classes=("plane", "test", "train")))
    assert open_source(place).classes == ("plane", "test", "train")


def test_separate_test_data_is_the_test_split_and_training_has_all_of_data(tmp_path):
    place = write_folder(tmp_path / "data", tree(4))
    other = write_tar(tmp_path / "other.tar.xz", tree(2), "w:xz")
    train, test = open_source(place, test_data=other), open_source(place, "test", test_data=str(other))
    assert (len(train), len(test)) == (12, 6)
    assert (train.name, test.name) == (str(place), str(other))  # what messages and results call them
    assert test.mean == train.mean == channel_statistics(held(train))[0]


def test_classes_that_differ_between_train_and_test_are_listed(tmp_path):
    place = write_folder(tmp_path / "data", tree(4))
    other = write_folder(tmp_path / "other", tree(2, classes=("cat", "emu", "dog")))
    for split in ("train", "test"):
        with pytest.raises(
            ValueError, match=r"\(3\).*\(3\) differ; only in the training images: 'owl'; .*test.*: 'emu'"
        ):
            open_source(place, split, test_data=other)
    write_folder(tmp_path / "both", tree(2, prefix="train/") | tree(2, prefix="val/", classes=("cat", "dog")))
    with pytest.raises(ValueError, match=r"\(3\).*\(2\) differ; only in train/: 'owl'"):
        open_source(tmp_path / "both")


def test_hidden_and_other_files_are_counted_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO, "nas_zoo")
    files = tree() | {"cat/.hidden.png": b"x", "cat/notes.txt": b"x", "__MACOSX/cat/._0.png": b"x", ".git/a.png": b"x"}
    assert len(open_source(write_tar(tmp_path / "a.tar", files))) == 12
    assert "15 images read, 4 other files left out: 3 hidden, 1 .txt" in caplog.text
    assert len(open_source(write_folder(tmp_path / "a", files))) == 12  # there a hidden folder counts once


def test_symbolic_links_in_a_folder_are_followed(tmp_path):
    write_folder(tmp_path / "real", tree(classes=("dog",)))
    place = write_folder(tmp_path / "data", tree(classes=("cat",)))
    os.symlink(tmp_path / "real" / "dog", place / "dog")
    assert open_source(place).classes == ("cat", "dog")


# ---- sizes ----


def test_size_is_native_if_all_share_a_small_one_else_224_and_crops_are_centred(tmp_path):
    assert open_source(write_folder(tmp_path / "a", tree(size=(20, 12)))).image_size == 12
    assert open_source(write_folder(tmp_path / "b", tree(size=(65, 65)))).image_size == 224
    mixed = write_folder(tmp_path / "c", tree() | {"cat/9.png": encoded(9, (13, 12))})
    assert open_source(mixed).image_size == 224
    assert held(open_source(mixed, image_size=6)).shape == (13, 6, 6, 3)

    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200  # the middle square
    picture = Image.fromarray(wide)
    assert (np.asarray(fit(picture, 10)) == 200).all()
    assert fit(picture, 7, crop_pct=0.5).size == (7, 7)
    assert fit(picture, 64).size == (64, 64)
    square = Image.fromarray(wide[:, 10:20])
    assert fit(square, 10) is square


def test_image_of_another_size_is_made_from_the_original_file(tmp_path):
    place = write_folder(tmp_path / "a", tree(size=(40, 30)))
    source = open_source(place, image_size=8)
    original = Image.open(place / names(source)[3])
    assert (source.image(3, 24) == np.asarray(fit(original, 24))).all()
    assert source.decoded(24).shape == (12, 24, 24, 3)
    assert source.decoded(8) is held(source)


def test_streamed_source_holds_no_pixels_and_gives_the_same_images(tmp_path):
    place = write_tar(tmp_path / "a.tar", tree(size=(40, 30)))
    held, streamed = open_source(place, image_size=8), open_source(place, image_size=8, stream=True)
    assert streamed.images is None
    assert (streamed.mean, streamed.std) == STATISTICS["imagenet"]
    for i in range(len(held)):
        assert (held.image(i) == streamed.image(i)).all()
    assert len(open_source(place, image_size=8, stream=True, in_chans=1).mean) == 1


# ---- pixels ----


@pytest.mark.parametrize(
    ("mode", "form"),
    [("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "GIF"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("CMYK", "TIFF")],
)
@pytest.mark.parametrize("in_chans", [1, 3])
def test_every_kind_of_picture_becomes_rgb_or_grey(tmp_path, mode, form, in_chans):
    colour = np.zeros((16, 16, 3), np.uint8)
    colour[:, 8:] = 255  # black and white survive every mode
    stream = io.BytesIO()
    Image.fromarray(colour).convert(mode).save(stream, form)
    place = write_folder(tmp_path / "a", {f"{c}/{i}.{form.lower()}": stream.getvalue() for c in "xy" for i in range(2)})
    image = open_source(place, in_chans=in_chans).image(0)
    assert image.shape == (16, 16, in_chans)
    np.testing.assert_allclose(image, colour[..., :in_chans], atol=6)


def test_palette_with_transparency_does_not_warn(tmp_path):
    stream = io.BytesIO()
    palette = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("P")
    palette.save(stream, "PNG", transparency=bytes(range(64)))
    place = write_folder(tmp_path / "a", {f"{c}/{i}.png": stream.getvalue() for c in "xy" for i in range(2)})
    assert (open_source(place, in_chans=1).image(0)[..., 0] == np.arange(64).reshape(8, 8)).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    levels = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    for form in ("PNG", "TIFF"):
        stream = io.BytesIO()
        Image.fromarray(levels).save(stream, form)
        files = {f"{c}/{i}.{form.lower()}": stream.getvalue() for c in "xy" for i in range(2)}
        place = write_folder(tmp_path / form, files)
        assert (open_source(place, in_chans=1).image(0)[..., 0] == levels >> 8).all()
        assert (open_source(place).image(0)[..., 2] == levels >> 8).all()


# ---- faults ----


def test_missing_path_and_misspelled_name_say_what_is_accepted(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"data .*nowhere' does not exist; it may be digits, cifar10, cifar100, or a path",
    ):
        open_source(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean 'cifar10'"):
        open_source("cifar-10")
    place = write_folder(tmp_path / "data", tree(4))
    with pytest.raises(ValueError, match=r"test_data .*gone' does not exist"):
        open_source(place, test_data=tmp_path / "gone")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"split": "valid"}, "split must be 'train', 'val' or 'test', got 'valid'"),
        ({"split": "val"}, "'digits' has no val part: a folder val/ or valid/ beside train/ and test/"),
        ({"in_chans": 4}, r"in_chans must be 3 \(RGB\) or 1 \(grey\), got 4"),
        ({"image_size": 0}, "image_size must be 1 pixel or more, got 0"),
        ({"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1, got 1.5"),
        ({"test_data": "x"}, "digits has a test split of its own"),
    ],
)
def test_options_out_of_range_are_errors(options, words):
    with pytest.raises(ValueError, match=words):
        open_source("digits", **options)


def test_empty_class_is_named(tmp_path):
    place = write_folder(tmp_path / "data", tree(4))
    (place / "yak").mkdir()
    with pytest.raises(ValueError, match=r"class folder 'yak' in .* has no images"):
        open_source(place)
    extra = [special("set/yak", tarfile.DIRTYPE)]
    with pytest.raises(ValueError, match=r"class folder 'yak' in .* has no images"):
        open_source(write_tar(tmp_path / "a.tar.gz", tree(4, prefix="set/"), "w:gz", extra))
    (place / "ant").mkdir()
    (place / "cat" / "deep").mkdir()
    for name in ("cat/deep/0.png", "loose.png"):
        (place / name).write_bytes(encoded())
    with pytest.raises(ValueError, match=r"2 images, 'cat/deep/0.png' in .*'loose.png'.*class folders 'ant', 'yak' in"):
        open_source(place)  # one error for all of them
    files = tree(2, prefix="train/") | tree(2, prefix="val/") | {"val/yak/notes.txt": b""}
    with pytest.raises(ValueError, match="class folder 'yak'"):
        open_source(write_folder(tmp_path / "both", files))


def test_layouts_that_are_no_class_folders_are_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no images in .*\(0 other files\); expected <class>/<image>"):
        open_source(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"'loose.png' in .* must lie in a class folder"):
        open_source(write_folder(tmp_path / "a", tree() | {"loose.png": encoded()}))
    with pytest.raises(ValueError, match=r"'cat/deep/0.png' in .* must lie in a class folder"):
        open_source(write_folder(tmp_path / "b", tree() | {"cat/deep/0.png": encoded()}))
    with pytest.raises(ValueError, match="only one class, 'cat'"):
        open_source(write_folder(tmp_path / "c", tree(classes=("cat",))))
    place = write_folder(tmp_path / "d", tree(prefix="train/"))
    assert len(open_source(place)) == 12  # train/ alone: a test split is held out
    (place / "val").mkdir()
    with pytest.raises(ValueError, match="folder 'val' without images"):
        open_source(place)


def test_a_test_part_that_lacks_all_classes_but_one_is_told_as_a_difference(tmp_path):
    place = write_folder(tmp_path / "d", tree(prefix="train/") | tree(prefix="test/", classes=("cat",)))
    with pytest.raises(
        ValueError, match=r"classes of '.*train' \(3\) and '.*test' \(1\) differ; only in train/: 'dog', 'owl'"
    ):
        open_source(place)


def test_names_that_are_no_text_and_links_in_a_circle_are_named(tmp_path):
    place = write_folder(tmp_path / "d", tree())
    (place / "cat" / "circle.png").symlink_to("circle.png")
    with pytest.raises(ValueError, match=r"'cat/circle.png'.*symbolic links"):
        open_source(place)
    (place / "cat" / "circle.png").unlink()
    os.rename(place / "dog", os.fsencode(place) + b"/\xff")
    with pytest.raises(ValueError, match=r"class folder '.udcff' in .* no text in UTF-8.*rename it"):
        open_source(place)


def test_class_with_one_image_cannot_be_held_out(tmp_path):
    place = write_folder(tmp_path / "data", tree() | {"yak/0.png": encoded()})
    with pytest.raises(ValueError, match=r"class 'yak' has 1 image, which cannot be split .* test_data"):
        open_source(place)
    (place / "ant").mkdir()
    (place / "ant" / "0.png").write_bytes(encoded())
    with pytest.raises(ValueError, match="class 'ant' has 1 image, 'yak' has 1 image, which cannot be split"):
        open_source(place)
    labels = np.repeat(np.arange(2), [2, 7])
    assert np.bincount(labels[hold_out(labels, ("a", "b"), "test", 0, "x")]).tolist() == [1, 1]


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_corrupt_images_are_named_whatever_their_format(tmp_path, form, damage):
    good = encoded(3, (12, 12), form=form)
    bad = {"truncated": good[: len(good) // 2], "garbage": b"no picture" * 20, "empty": b""}[damage]
    files = {f"{c}/{i}.{form.lower()}": good for c in "xy" for i in range(3)}
    for name in ("folder", "tar"):
        changed = files | {f"x/bad.{form.lower()}": bad}
        place = write_folder(tmp_path / name, changed) if name == "folder" else write_tar(tmp_path / "a.tar", changed)
        with pytest.raises(ValueError, match=rf"corrupt image 'x/bad.{form.lower()}' in .*{place.name}"):
            open_source(place, image_size=12, test_data=place)


def test_corrupt_image_is_found_in_threads_and_in_a_streamed_header(tmp_path):
    place = write_folder(tmp_path / "a", tree(size=(100, 100)) | {"owl/bad.png": encoded(1)[:60]})
    with pytest.raises(ValueError, match=r"corrupt image 'owl/bad.png'"):
        open_source(place, image_size=112, test_data=place)
    write_folder(place, {"owl/bad.png": b"\x89PNG"})
    with pytest.raises(ValueError, match=r"corrupt image 'owl/bad.png'"):
        open_source(place, image_size=32, stream=True, test_data=place)


def test_image_that_has_gone_since_is_named(tmp_path):
    place = write_folder(tmp_path / "a", tree())
    source = open_source(place, stream=True)
    (place / names(source)[0]).unlink()
    with pytest.raises(ValueError, match=r"cannot read 'cat/.* in .*No such file"):
        source.image(0)


def test_decompression_bomb_is_refused(tmp_path):
    bomb = io.BytesIO()
    Image.new("1", (10_000, 9_000)).save(bomb, "PNG")
    place = write_folder(tmp_path / "a", tree() | {"owl/bomb.png": bomb.getvalue()})
    with pytest.raises(ValueError, match=r"corrupt image 'owl/bomb.png'.*bomb"):
        open_source(place, image_size=12, test_data=place)


def test_postscript_under_another_name_starts_no_interpreter(tmp_path):
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 12\nshowpage\n"
    place = write_folder(tmp_path / "a", tree() | {"owl/script.png": script})
    with pytest.raises(ValueError, match=r"corrupt image 'owl/script.png'.*it is no picture"):
        open_source(place, image_size=12, test_data=place)


def test_floating_point_pixels_are_refused(tmp_path):
    stream = io.BytesIO()
    Image.fromarray(np.ones((12, 12), np.float32)).save(stream, "TIFF")
    place = write_folder(tmp_path / "a", tree() | {"owl/depth.tif": stream.getvalue()})
    with pytest.raises(ValueError, match=r"'owl/depth.tif'.*floating-point"):
        open_source(place, test_data=place)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind, mode):
    extra = [special("owl/x.png", kind, "/etc/passwd")]
    with pytest.raises(ValueError, match=r"member 'owl/x.png' is a link, a device"):
        open_source(write_tar(tmp_path / "a.tar", tree(), mode, extra))


@pytest.mark.parametrize("name", ["../owl/x.png", "/owl/x.png", "owl/../../x.png"])
def test_names_that_lead_out_of_a_tar_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match="leads out of the archive"):
        open_source(write_tar(tmp_path / "a.tar", tree() | {name: encoded()}))


def test_tar_member_over_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(listing, "MAX_FILE_BYTES", 1000)
    place = write_tar(tmp_path / "a.tar", tree() | {"owl/big.png": b"x" * 1001})
    with pytest.raises(ValueError, match=r"'owl/big.png' has 1001 bytes, more than 1000"):
        open_source(place)
    monkeypatch.setattr(listing, "MAX_HELD_BYTES", 2000)
    assert len(open_source(write_tar(tmp_path / "b.tar", tree()))) == 12  # a plain tar is read in place
    with pytest.raises(ValueError, match=r"GiB of images in a compressed tar; make it a plain .tar"):
        open_source(write_tar(tmp_path / "b.tar.xz", tree(), "w:xz"))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_damaged_tar_is_a_clear_error(tmp_path, mode):
    place = write_tar(tmp_path / "a.tar", tree(size=(60, 60)), mode)
    place.write_bytes(place.read_bytes()[: place.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a.tar' (is damaged near byte \d+.*after member '|cannot be read as a tar)"):
        open_source(place)


def test_file_that_is_no_tar_is_a_clear_error(tmp_path):
    for content in (b"", b"hello" * 500, encoded()):
        (tmp_path / "x.bin").write_bytes(content)
        with pytest.raises(ValueError, match=r"x.bin' (cannot be read as a tar or a zip: .*|is empty); a folder"):
            open_source(tmp_path / "x.bin")


def test_last_of_two_tar_members_with_one_name_counts(tmp_path):
    for mode in ("w", "w:gz"):
        place = write_tar(tmp_path / "a.tar", tree(), mode)
        if mode == "w":
            with tarfile.open(place, "a") as archive:
                member = tarfile.TarInfo("cat/0.png")
                member.size = len(encoded(200))
                archive.addfile(member, io.BytesIO(encoded(200)))
            source = open_source(place, test_data=place)
            assert len(source) == 15
            assert (source.image(0) == np.asarray(Image.open(io.BytesIO(encoded(200))))).all()


# ---- the type ----


def test_image_source_refuses_what_does_not_fit_together():
    images, labels = np.zeros((3, 4, 4, 1), np.uint8), np.array([0, 1, 1])
    good: dict[str, Any] = {
        "name": "x",
        "classes": ("a", "b"),
        "labels": labels,
        "mean": (0.5,),
        "std": (0.5,),
        "in_chans": 1,
    }
    good |= {"image_size": 4, "images": images}
    assert len(ImageSource(**good)) == 3
    for change, words in (
        ({"images": None}, "needs images or files"),
        ({"labels": labels.astype(np.int32)}, "labels must be one int64 an image"),
        ({"labels": labels + 1}, "labels from 1 to 2 do not fit its 2 classes"),
        ({"images": images[:2]}, "2 images for 3 labels"),
        ({"in_chans": 3}, r"images must be uint8 \(N, H, W, 3\)"),
        ({"mean": (0.5, 0.5)}, "must have 1 values each"),
    ):
        with pytest.raises(ValueError, match=words):
            ImageSource(**(good | change))


def test_subset_keeps_order_classes_and_files(tmp_path):
    source = open_source(write_tar(tmp_path / "a.tar.xz", tree(), "w:xz"))
    part = source.subset([7, 2])
    assert part.labels.tolist() == source.labels[[7, 2]].tolist()
    assert (part.image(1) == source.image(2)).all()
    assert (part.image(0, 5) == source.image(7, 5)).all()
    assert part.classes == source.classes
    faulty: list[Any] = [[], [12], [-1], [0.5]]
    for wrong in faulty:
        with pytest.raises(ValueError, match=r"no samples chosen|from 0 to 11"):
            source.subset(wrong)


def test_search_split_is_two_disjoint_halves_that_a_seed_decides():
    source = open_source("digits").subset(range(101))
    weights, alphas = search_split(source, 0)
    assert (len(weights), len(alphas)) == (50, 51)
    assert sorted(np.concatenate([weights, alphas]).tolist()) == list(range(101))
    assert weights.tolist() == search_split(source, 0)[0].tolist()
    assert weights.tolist() != search_split(source, 1)[0].tolist()
    with pytest.raises(ValueError, match="needs two halves"):
        search_split(source.subset([0]), 0)


def test_default_augmentation_fits_the_source(tmp_path):
    digits = open_source("digits")
    assert (default_augment(digits).crop_padding, default_augment(digits).flip) == (1, False)
    photos = open_source(write_folder(tmp_path / "a", tree(size=(32, 32))))
    augment = default_augment(photos, cutout=16)
    assert (augment.crop_padding, augment.flip, augment.cutout, augment.random_resized_crop) == (4, True, 16, False)
    assert default_augment(photos, 224).random_resized_crop


# ---- the data beside the checkout ----


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data, which is not part of the project")
def test_shared_cifar_test_tar_opens_as_a_tar_of_ten_classes():
    place = SHARED / "cifar10-jpeg-test.tar.xz"
    train, test = open_source(place), open_source(place, "test")
    assert (len(train), len(test)) == (8000, 2000)
    assert held(train).shape[1:] == (32, 32, 3)
    assert train.classes[0] == "airplane"
    assert np.bincount(test.labels).tolist() == [200] * 10
    np.testing.assert_allclose(train.mean, STATISTICS["cifar10"][0], atol=0.01)
    np.testing.assert_allclose(train.std, STATISTICS["cifar10"][1], atol=0.01)
