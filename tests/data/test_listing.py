"""What folders and archives hold: nothing left out in silence, nothing damaged taken for a smaller whole."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data.listing import list_folder, list_images, list_zip
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.export.graph.real_images import real_images
from tests.data.test_sources import encoded, names, tree, write_folder, write_tar


def write_zip(place: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(place, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return place


@pytest.fixture(scope="module")
def whole_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of a hundred pictures, 8 by 8."""
    rng = np.random.default_rng(0)
    files = {}
    for name in ("cat", "dog", "emu"):
        for i in range(100):
            data = io.BytesIO()
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(data, "PNG")
            files[f"train/{name}/{i:03}.png"] = data.getvalue()
    return write_tar(tmp_path_factory.mktemp("whole") / "whole.tar", files)


# ---- damaged archives ----


def damaged_copies(whole: Path) -> dict[str, bytes]:
    data = whole.read_bytes()
    with tarfile.open(whole) as tar:
        members = tar.getmembers()
        at, end = members[210].offset, members[-1].offset_data + -(-members[-1].size // 512) * 512
    flipped, zeroed = bytearray(data), bytearray(data)
    flipped[at + 3] ^= 1
    zeroed[at : at + 4096] = bytes(4096)
    return {
        "flipped.tar": bytes(flipped),
        "flipped.tar.gz": gzip.compress(bytes(flipped)),
        "flipped.tar.bz2": bz2.compress(bytes(flipped)),
        "flipped.tar.xz": lzma.compress(bytes(flipped)),
        "zeroed.tar": bytes(zeroed),
        "zeroed.tar.gz": gzip.compress(bytes(zeroed)),
        "cut_at_header.tar": data[:at],
        "cut_at_header.tar.gz": gzip.compress(data[:at]),
        "cut_in_header.tar": data[: at + 100],
        "cut_in_data.tar": data[: at + 600],
        "cut_in_data.tar.xz": lzma.compress(data[: at + 600]),
        "cut_compressed.tar.gz": gzip.compress(data)[:-20],
        "no_end_blocks.tar": data[:end],
        "one_end_block.tar": data[: end + 512],
        "two_tars_in_one.tar": data + data,
    }


def test_a_damaged_tar_is_refused_by_name_and_place_never_read_as_a_smaller_set(whole_tar: Path) -> None:
    assert len(list_images(whole_tar).files) == 300
    for name, data in damaged_copies(whole_tar).items():
        place = whole_tar.parent / name
        place.write_bytes(data)
        words = rf"{name}' is damaged near byte \d+.*after member 'train/(dog/209|dog/...|emu/...)\.png'"
        with pytest.raises(ValueError, match=words) as caught:
            list_images(place)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"near byte 215040, after member 'train/emu/009.png': its header is damaged"):
        list_images(whole_tar.parent / "flipped.tar")
    with pytest.raises(ValueError, match="unpack it with tar -xf, and pack the folder with tar -cf"):
        list_images(whole_tar.parent / "no_end_blocks.tar")


def test_a_member_whose_notes_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    note = tarfile.TarInfo("x")
    note.type, note.size = tarfile.XHDTYPE, 2**30
    (tmp_path / "a.tar").write_bytes(note.tobuf() + bytes(10_240))
    with pytest.raises(ValueError, match="a size of 1073741824 bytes"):
        list_images(tmp_path / "a.tar")


def test_a_zip_is_read_like_a_tar(tmp_path: Path) -> None:
    files = tree(prefix="photos/") | {"__MACOSX/cat/._0.png": b"x", "photos/notes.txt": b"x"}
    tar = open_parts(write_tar(tmp_path / "a.tar", files))
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        found = open_parts(write_zip(tmp_path / f"{method}.zip", files, method))
        for split, source in found.items():
            assert names(source) == names(tar[split])
            np.testing.assert_array_equal(source.decoded(12), tar[split].decoded(12))
    assert len(real_images(str(tmp_path / "8.zip"), split=None)) == 15
    backslashes = write_zip(tmp_path / "b.zip", {name.replace("/", "\\"): data for name, data in tree().items()})
    assert open_source(backslashes).classes == ("cat", "dog", "owl")


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_zip_whose_directory_has_lost_a_member_is_refused(tmp_path: Path, lost: int) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in tree().items():
            archive.writestr(name, data)
        del archive.filelist[lost]
    with pytest.raises(ValueError, match=r"a.zip' holds a member at byte \d+ that its directory does not list"):
        list_images(tmp_path / "a.zip")


def test_two_zips_in_one_file_are_refused_and_a_streamed_one_is_read(tmp_path: Path) -> None:
    first, second = (write_zip(tmp_path / name, tree()).read_bytes() for name in ("a.zip", "b.zip"))
    (tmp_path / "both.zip").write_bytes(first + second)
    with pytest.raises(ValueError, match="two zips in one file"):
        list_images(tmp_path / "both.zip")
    (tmp_path / "begun.zip").write_bytes(b"#!/bin/sh\n" * 20 + first)  # as those that unpack themselves
    with open(tmp_path / "streamed.zip", "wb") as file:
        pipe = SimpleNamespace(write=file.write, flush=file.flush)  # it cannot seek: sizes then follow each member
        with zipfile.ZipFile(pipe, "w") as archive:
            for name, data in tree().items():
                archive.writestr(name, data)
    assert len(list_images(tmp_path / "streamed.zip").files) == len(tree())
    assert len(list_zip(tmp_path / "begun.zip").files) == len(tree())


def test_a_zip_is_guarded_like_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = write_zip(tmp_path / "a.zip", tree(size=(40, 40)), zipfile.ZIP_STORED)
    data = place.read_bytes()
    middle = len(data) // 2
    place.write_bytes(data[:middle])
    with pytest.raises(ValueError, match=r"a.zip' is damaged, or no zip"):
        list_images(place)
    place.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])  # a bit of an image
    with pytest.raises(ValueError, match=r"cannot read '.*/..png' in .*a.zip': the archive is damaged there"):
        open_parts(place)
    headers = data.replace(b"PK\x03\x04", b"PK\x03\x05")
    place.write_bytes(b"PK\x03\x04" + headers[4:])
    with pytest.raises(ValueError, match=r"a.zip' is damaged at byte \d+, member 'cat/1.png'"):
        list_images(place)
    with pytest.raises(ValueError, match="leads out of the archive"):
        list_images(write_zip(tmp_path / "b.zip", {"../cat/0.png": encoded()}))
    link = zipfile.ZipInfo("cat/0.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"'cat/0.png' is a link"):
        list_images(tmp_path / "c.zip")
    with pytest.raises(ValueError, match="packed in a rare way"):
        list_images(write_zip(tmp_path / "d.zip", tree(), zipfile.ZIP_LZMA))
    encrypted = bytearray(write_zip(tmp_path / "e.zip", {"cat/0.png": encoded()}).read_bytes())
    encrypted[encrypted.index(b"PK\x01\x02") + 8] |= 1
    (tmp_path / "e.zip").write_bytes(encrypted)
    with pytest.raises(ValueError, match=r"'cat/0.png' is encrypted"):
        list_images(tmp_path / "e.zip")


def test_a_zip_member_that_inflates_to_more_than_it_says_is_refused(tmp_path: Path) -> None:
    place = write_zip(tmp_path / "a.zip", {"cat/0.png": bytes(10**6)})
    data = bytearray(place.read_bytes())
    at = data.index(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 1000)  # the size once inflated
    place.write_bytes(data)
    with pytest.raises(ValueError, match="the archive is damaged there"):
        list_images(place).files.read(0)


# ---- nothing is left out in silence ----


def test_jfif_is_read_and_others_are_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jpeg = encoded(form="JPEG")
    files = {f"{word}/{i}.{'jpg' if i < 10 else 'jfif'}": jpeg for word in "ab" for i in range(30)}
    assert sum(map(len, open_parts(write_folder(tmp_path / "d", files)).values())) == 60
    others = {f"a/{i}.heic": b"x" for i in range(20)} | {"a/.DS_Store": b"x", "b/readme": b"x", "b/x.JPG": jpeg}
    caplog.clear()
    place = write_folder(tmp_path / "d", others)
    for _ in range(2):
        assert sum(map(len, open_parts(place).values())) == 61
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    kinds = "20 .heic, 1 hidden, 1 without an ending"
    assert len(told) == 1
    assert "61 images read, 22 other files left out: " in told[0]
    assert sorted(told[0].split(": ")[-1].split(", ")) == sorted(kinds.split(", "))
    caplog.clear()
    real_images(str(tmp_path / "d"), split=None)
    assert [record for record in caplog.records if "left out" in record.getMessage()] == []  # told already


def test_a_member_that_occurs_twice_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = write_tar(tmp_path / "a.tar", tree())
    with tarfile.open(place, "a") as archive:
        member = tarfile.TarInfo("cat/0.png")
        member.size = len(encoded())
        archive.addfile(member, io.BytesIO(encoded()))
    open_parts(place)
    assert "15 images read, 1 other file left out: 1 replaced by a later one of the same name" in caplog.text


def test_a_folder_is_read_to_any_depth_and_links_that_lead_back_end(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a/b/c/d/e/f/g/h/0.png": encoded(), "a/1.png": encoded()})
    os.symlink(tmp_path / "a", tmp_path / "a" / "b" / "back")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    found = list_folder(tmp_path)
    assert found.files.names == ("a/1.png", "a/b/c/d/e/f/g/h/0.png")
    assert found.left_out == {"a link to a folder above it": 1, "a pipe, a socket or a device": 1}


def test_a_pipe_where_an_archive_is_meant_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(ValueError, match="is no regular file"):
        open_source(tmp_path / "a.tar")


# ---- spellings and parts ----


def test_class_names_are_equal_in_every_unicode_form(tmp_path: Path) -> None:
    words = ("caf\u00e9", "na\u00efve")
    files: dict[str, bytes] = {}
    for split, form in (("train", "NFD"), ("val", "NFC")):
        for word in words:
            files |= {f"{split}/{unicodedata.normalize(form, word)}/{i}.png": encoded(i) for i in range(3)}  # type: ignore[arg-type]
    for place in (write_folder(tmp_path / "d", files), write_tar(tmp_path / "a.tar", files)):
        parts = open_parts(place)
        assert parts["train"].classes == parts["test"].classes == words
        assert [len(part) for part in parts.values()] == [6, 6]
    decomposed = [unicodedata.normalize("NFD", word) for word in words]
    assert real_images(str(tmp_path / "d"), classes=decomposed).labels is not None
    assert real_images(str(tmp_path / "a.tar"), classes=decomposed).labels is not None


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_of_three_parts_the_valid_one_watches_the_run(tmp_path: Path, kind: str) -> None:
    files = tree(5, prefix="train/") | tree(2, prefix="valid/") | tree(3, prefix="test/")
    write = {"folder": write_folder, "tar": write_tar, "zip": write_zip}[kind]
    place = write(tmp_path / f"d.{kind}", files)
    parts = open_parts(place)
    assert {split: (len(part), part.part) for split, part in parts.items()} == {
        "train": (15, "train/"), "val": (6, "valid/"), "test": (9, "test/"),
    }  # fmt: skip
    assert parts["val"].mean == parts["train"].mean
    other = write_folder(tmp_path / "other", tree(4))
    shutil.rmtree(tmp_path / "d.folder" / "test") if kind == "folder" else None
    if kind == "folder":  # the test images lie elsewhere, so valid/ need not stand in for them
        sizes = {split: len(part) for split, part in open_parts(place, test_data=other).items()}
        assert sizes == {"train": 15, "val": 6, "test": 12}
