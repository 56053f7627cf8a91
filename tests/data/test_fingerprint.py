"""Whether a run goes on with the data it began with: every file counts, and none is read twice."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from nas_zoo.data.fingerprint import FileIndex, _as_it_lies_now, _old_fingerprint, fingerprint, is_same_data
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.data.sources import ImageFiles, ImageSource
from tests.data.test_listing import write_zip
from tests.data.test_sources import encoded, tree, write_folder, write_tar
from tests.weights import write_images


def opened(place: Path) -> ImageSource:
    return open_source(place, test_data=place, image_size=12, stream=True)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are read, in their order."""
    found: list[str] = []
    read = ImageFiles.read

    def counted(self: ImageFiles, i: int) -> bytes:
        found.append(self.names[i])
        return read(self, i)

    monkeypatch.setattr(ImageFiles, "read", counted)
    return found


def test_a_file_is_read_again_only_where_path_size_or_time_have_changed(tmp_path: Path, reads: list[str]) -> None:
    place, path = write_folder(tmp_path / "data", tree()), tmp_path / "run" / "data_index.jsonl"
    source = opened(place)
    first = fingerprint(source, FileIndex(path))
    assert sorted(reads) == sorted(tree())
    reads.clear()
    assert fingerprint(source, FileIndex(path)) == first
    assert reads == []
    os.utime(place / "dog" / "3.png", ns=(0, 10**18))
    assert fingerprint(source, FileIndex(path)) == first  # touched, not changed
    assert reads == ["dog/3.png"]
    (place / "dog" / "3.png").write_bytes(encoded(99))
    assert fingerprint(source, FileIndex(path)) != first
    assert is_same_data([first], [source], [first])
    assert not is_same_data([first], [source], [fingerprint(source, FileIndex(path))])


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz", "a.zip"])
def test_the_same_images_are_the_same_data_wherever_they_lie(tmp_path: Path, kind: str, reads: list[str]) -> None:
    files = tree()
    write = write_zip if kind == "a.zip" else lambda place, files: write_tar(place, files, f"w:{kind[6:]}")
    source = opened(write(tmp_path / kind, files))
    path = tmp_path / "data_index.jsonl"
    expected = fingerprint(opened(write_folder(tmp_path / "data", files)))
    assert fingerprint(source, FileIndex(path)) == expected
    reads.clear()
    assert fingerprint(source, FileIndex(path)) == expected
    if kind != "a.tar.gz":  # which is held in memory, and hashed whole
        assert reads == []
    changed = opened(write(tmp_path / kind, files | {"owl/4.png": encoded(98)}))
    assert fingerprint(changed, FileIndex(path)) != expected


def test_pixels_in_memory_are_hashed_whole() -> None:
    digits = open_source("digits")
    assert digits.images is not None
    images = digits.images.copy()
    images[700, 3, 3] ^= 1
    changed = ImageSource("x", digits.classes, digits.labels, (0.5,), (0.5,), in_chans=1, image_size=8, images=images)
    assert _old_fingerprint(changed) == _old_fingerprint(digits)  # which saw the first image only
    assert fingerprint(changed) != fingerprint(digits)
    labels = digits.labels.copy()
    labels[5] = (labels[5] + 1) % 10
    other = ImageSource("x", digits.classes, labels, (0.5,), (0.5,), in_chans=1, image_size=8, images=digits.images)
    assert fingerprint(other) != fingerprint(digits)


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    source, path = opened(write_folder(tmp_path / "data", tree())), tmp_path / "data_index.jsonl"
    expected = fingerprint(source, FileIndex(path))
    whole = path.read_text()
    for text in ("", "no json", "3\n", "[[]]\n", whole[:-20], whole.replace('"]', 'x"]', 3), "[" * 100_000):
        path.write_text(text)
        assert fingerprint(source, FileIndex(path)) == expected
        assert [json.loads(line) for line in path.read_text().splitlines()]


def test_checkpoints_of_before_are_compared_as_they_were_written() -> None:
    digits, other = open_source("digits"), open_source("digits", "test")
    old = [_old_fingerprint(digits), _old_fingerprint(other)]
    now = [fingerprint(digits), fingerprint(other)]
    assert is_same_data(old, [digits, other], now)
    assert not is_same_data(old[::-1], [digits, other], now)
    assert old[0] == OLD_DIGITS
    assert len(np.unique([*old, *now])) == 4


OLD_DIGITS = "8e3283fdeca7a8d8"


def test_words_on_an_unreadable_image_follow_data_that_has_moved(tmp_path: Path) -> None:
    source = open_parts(str(write_images(tmp_path / "new", 1)), ("train",), stream=True)["train"]
    assert source.files is not None
    name, here = source.files.names[3], source.files.where(3)
    for start in ("corrupt image", "cannot read"):
        assert _as_it_lies_now(f"{start} {name!r} in '/old': it's cut", source) == f"{start} {here}: it's cut"
    for other in ("corrupt image 'gone.png' in '/old': cut", "words of something else"):
        assert _as_it_lies_now(other, source) == other
