"""Large sets: names, sizes and hashes kept beside the data, and what makes them be read again."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_zoo.data import index, listing, named
from nas_zoo.data.fingerprint import FileIndex, fingerprint
from nas_zoo.data.index import INDEX_MARK, Names, load_index
from nas_zoo.data.listing import list_images
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.data.sources import ImageFiles, ImageSource
from tests.data.test_listing import write_zip
from tests.data.test_sources import encoded, tree, write_folder, write_tar

ODD = ["a/1.png", "", "ü/é.png", "b\udc80c.png", "猫/😀.png"]


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(index, "MIN_FILES", 1)
    monkeypatch.setenv("NAS_ZOO_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often places are listed, headers looked at, and files read."""
    done = {"lists": 0, "headers": 0, "reads": 0}

    def counting(owner: Any, name: str, what: str) -> None:
        real = getattr(owner, name)

        def counted(*args: Any) -> Any:
            done[what] += 1
            return real(*args)

        monkeypatch.setattr(owner, name, counted)

    counting(listing, "list_folder", "lists")
    counting(listing, "list_tar", "lists")
    counting(listing, "list_zip", "lists")
    counting(ImageFiles, "size", "headers")
    counting(ImageFiles, "read", "reads")
    return done


def settle(place: Path) -> Path:
    """As if nothing had changed there for an hour."""
    for path in (place, *place.rglob("*")):
        stamp = path.stat().st_mtime_ns - 3600 * 10**9
        os.utime(path, ns=(stamp, stamp))
    return place


def written(kind: str, place: Path) -> Path:
    if kind == "folder":
        return settle(write_folder(place / "data", tree()))
    write = write_zip if kind == "zip" else write_tar
    return settle(write(place / f"data.{kind}", tree()))


def opened(place: Path) -> ImageSource:
    return open_source(place, test_data=place, image_size=12, stream=True)


def same(first: ImageSource, second: ImageSource) -> bool:
    assert first.files is not None
    assert second.files is not None
    pixels = all((first.image(i) == second.image(i)).all() for i in range(len(first)))
    return first.files.names == second.files.names and (first.labels == second.labels).all() and pixels


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_the_second_opening_lists_and_reads_nothing(kind: str, tmp_path: Path, work: dict[str, int]) -> None:
    place = written(kind, tmp_path)
    first = opened(place)
    text = fingerprint(first, FileIndex(tmp_path / "run" / "data_index.jsonl"))
    assert work["lists"] == 1
    assert work["headers"] == 15
    assert len(list(tmp_path.glob(f".data*{INDEX_MARK}*.npz"))) == 2
    work.update(lists=0, headers=0, reads=0)
    second = opened(place)
    assert fingerprint(second, FileIndex(None)) == text  # in whatever run
    assert work == {"lists": 0, "headers": 0, "reads": 0}
    assert same(first, second)


def test_what_changes_is_read_again_and_nothing_else(tmp_path: Path, work: dict[str, int]) -> None:
    place = written("folder", tmp_path)
    text = fingerprint(opened(place))

    def again() -> dict[str, int]:
        work.update(lists=0, headers=0, reads=0)
        source = opened(place)
        changed = {"changed": int(fingerprint(source) != text)}
        return {name: work[name] for name in work} | changed

    assert again() == {"lists": 0, "headers": 0, "reads": 0, "changed": 0}
    (place / "dog" / "3.png").write_bytes(encoded(99))  # the folder does not change with it
    assert again() == {"lists": 0, "headers": 1, "reads": 1, "changed": 1}
    (place / "dog" / "new.png").write_bytes(encoded(98))
    assert again()["lists"] == 2
    assert again()["lists"] == 2  # within two seconds of a change there may be another at the same time
    shutil.rmtree(place / "owl")
    settle(place)
    again()
    assert again()["lists"] == 0
    assert opened(place).classes == ("cat", "dog")


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_damaged_or_foreign_index_is_made_anew(kind: str, tmp_path: Path) -> None:
    place = written(kind, tmp_path)
    first = opened(place)
    text = fingerprint(first)
    kept = {path: path.read_bytes() for path in tmp_path.glob(f".*{INDEX_MARK}*")}
    assert len(kept) == 2
    rng = np.random.default_rng(0)
    for turn in range(30):
        for path, data in kept.items():
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), 1 + turn % 3):
                damaged[at] = rng.integers(0, 256)
            path.write_bytes(damaged[: int(rng.integers(1, len(data)))] if turn % 5 == 0 else damaged)
        found = opened(place)  # the zip inside has checksums of its contents
        assert same(first, found)
        assert fingerprint(found) == text
    for path in kept:
        path.write_bytes(b"")
    assert same(first, opened(place))


def test_where_the_place_is_only_read_the_index_lies_in_the_cache(
    tmp_path: Path, work: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = written("folder", tmp_path)
    real = index.replacing

    def only_in_the_cache(path: Path) -> Any:
        if "cache" not in str(path):
            raise OSError(30, "Read-only file system", str(path))
        return real(path)

    monkeypatch.setattr(index, "replacing", only_in_the_cache)
    opened(place)
    assert not list(tmp_path.glob(".data*"))
    work.update(lists=0)
    opened(place)
    assert work["lists"] == 0
    assert len(list((tmp_path / "cache" / "index").iterdir())) == 2


def test_the_index_of_a_set_inside_a_set_is_no_file_of_it(tmp_path: Path, caplog: Any) -> None:
    place = write_folder(
        tmp_path / "d", {f"{part}/{name}": data for part in ("train", "test") for name, data in tree().items()}
    )
    opened(place / "train")
    assert list(place.glob(f".train{INDEX_MARK}*"))
    open_parts(place)
    assert "left out" not in caplog.text


def test_small_sets_have_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "MIN_FILES", 10_000)
    fingerprint(opened(written("folder", tmp_path)))
    assert not list(tmp_path.rglob(f"*{INDEX_MARK}*"))


def test_of_several_processes_of_a_machine_one_builds(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from nas_zoo.data import index, listing
index.MIN_FILES, real = 1, listing.list_folder
def list_folder(place):
    with open(sys.argv[2], "a") as stream:
        stream.write("listed\\n")
    time.sleep(1)
    return real(place)
listing.list_folder = list_folder
print(len(listing.list_images(Path(sys.argv[1])).files))
"""
    place, told = written("folder", tmp_path), tmp_path / "told"
    environment = os.environ | {"LOCAL_WORLD_SIZE": "2", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", script, str(place), str(told)]
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=300)[0] for process in processes] == ["15\n", "15\n"]
    assert told.read_text() == "listed\n"
    assert list(tmp_path.glob("nas_zoo-*.lock"))


def test_names_are_texts_in_any_form() -> None:
    names = Names(ODD)
    assert list(names) == ODD == [names[i] for i in range(5)]
    assert names == tuple(ODD)
    assert names != ODD[:4]
    some = names.take(np.array([3, 0]))
    assert list(some) == [ODD[3], ODD[0]]
    assert names[-1] == ODD[-1]
    assert list(names[1:3]) == ODD[1:3]
    assert list(Names.of(*some.arrays())) == [ODD[3], ODD[0]]
    with pytest.raises(ValueError, match="differ"):
        Names.of(names.arrays()[0], np.array([1, 2], np.int64))


# ---- several archives ----


def shards(place: Path, count: int = 3) -> list[Path]:
    files = sorted(tree().items())
    return [write_tar(place / f"shard-{n}.tar", dict(files[n::count])) for n in range(count)]


@pytest.mark.parametrize("how", ["list", "pattern", "folder"])
def test_several_tars_are_one_set(how: str, tmp_path: Path, work: dict[str, int]) -> None:
    expected = open_parts(write_tar(tmp_path / "whole.tar", tree()))
    inner = tmp_path / "shards"
    inner.mkdir()
    paths = shards(inner)
    settle(inner)
    data = {"list": ",".join(map(str, paths)), "pattern": str(inner / "shard-*.tar"), "folder": str(inner)}[how]
    for _ in range(2):
        found = open_parts(data)
        assert all(same(found[split], expected[split]) for split in expected)
        assert fingerprint(found["train"]) == fingerprint(expected["train"])
        work.update(lists=0)
    open_parts(data)
    assert work["lists"] == (1 if how == "folder" else 0)  # a folder without pictures is listed each time


def test_each_tar_of_a_class_is_that_class(tmp_path: Path) -> None:
    paths = [write_tar(tmp_path / f"{word}.tar", {f"{i}.png": encoded(i) for i in range(5)}) for word in ("cat", "owl")]
    source = open_source(f"{paths[0]},{paths[1]}")
    assert source.classes == ("cat", "owl")
    assert len(source) == 8


def test_archives_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    one, two = shards(tmp_path, 2)
    for data, message in (
        (f"{one},{one}", "names an archive twice"),
        (f"{one},{tmp_path / 'missing.tar'}", "there is nothing of the name or pattern '.*missing.tar'"),
        (str(tmp_path / "*.zip"), r"there is nothing of the name or pattern '.*\*.zip'"),
        (f"{one},{shutil.copy(one, tmp_path / 'copy.tar')}", "is in more than one of the archives"),
        (f"{one},{write_tar(tmp_path / 'b.tar.gz', tree(), 'w:gz')}", "make all of them plain ones"),
    ):
        with pytest.raises(ValueError, match=message):
            open_source(data)
    packed = [write_tar(tmp_path / f"{n}.tar.gz", dict(sorted(tree().items())[n::2]), "w:gz") for n in range(2)]
    assert same(open_source(f"{packed[0]},{packed[1]}"), open_source(f"{one},{two}"))


def test_a_large_listing_of_a_large_set_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "DEVICE_LIMIT_GB", 0.0)
    place = written("folder", tmp_path)
    open_parts(place)
    kept = load_index(place, "files")
    assert kept is not None
    assert (kept["pixels"] > 0).all()  # both parts are one listing
    assert len(list_images(place).files) == len(kept["pixels"]) == len(tree())
