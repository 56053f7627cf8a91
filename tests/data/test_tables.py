"""Data as tables: the library datasets' folders, Parquet and Hub names, and CSV files beside pictures."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data.batches import Batches
from nas_zoo.data.fingerprint import FileIndex, fingerprint
from nas_zoo.data.named import open_parts, open_source
from nas_zoo.data.sources import ImageFiles, ImageSource
from nas_zoo.export.graph.real_images import real_images
from nas_zoo.train import run as train_run
from tests.data.test_batches import assert_same
from tests.data.test_programs import TRAIN
from tests.data.test_sources import encoded, write_folder
from tests.hub_server import Blob, HubServer, Repo

datasets = pytest.importorskip("datasets")
WORDS = ("owl", "cat")  # ClassLabel's own order, which is not the alphabet's


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of this test, and no network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows(count: int, first: int = 0, label: str = "label") -> dict[str, list[Any]]:
    numbers = range(first, first + count)
    return {"image": [{"bytes": encoded(i), "path": None} for i in numbers], label: [i % 2 for i in numbers]}


def table(data: dict[str, list[Any]], **features: Any) -> Any:
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(WORDS))} | features
    return datasets.Dataset.from_dict(data, features=datasets.Features({name: kinds[name] for name in data}))


def folder_of(place: Path, train: int, test: int) -> Path:
    """The same images as class folders."""
    files = {f"{part}/{WORDS[i % 2]}/{i:02}.png": encoded(i) for part, numbers in
             (("train", range(train)), ("test", range(train, train + test))) for i in numbers}  # fmt: skip
    return write_folder(place, files)


def by_class(source: ImageSource) -> dict[str, list[bytes]]:
    """The pixels of each class, in an order that the images' numbers have no part in."""
    return {word: sorted(source.image(int(i)).tobytes() for i in np.flatnonzero(source.labels == label))
            for label, word in enumerate(source.classes)}  # fmt: skip


def saved(place: Path) -> Path:
    datasets.DatasetDict({"train": table(rows(12)), "test": table(rows(4, first=12))}).save_to_disk(str(place))
    return place


def parquet(place: Path) -> Path:
    place.mkdir(parents=True)
    table(rows(6)).to_parquet(str(place / "train-00000-of-00002.parquet"))
    table(rows(6, first=6)).to_parquet(str(place / "train-00001-of-00002.parquet"))
    table(rows(4, first=12)).to_parquet(str(place / "test-00000-of-00001.parquet"))
    return place


@pytest.mark.parametrize("write", [saved, parquet])
def test_a_table_gives_the_pixels_that_the_same_files_give(write: Any, tmp_path: Path) -> None:
    expected = open_parts(folder_of(tmp_path / "folder", 12, 4))
    for stream in (True, False):
        found = open_parts(write(tmp_path / f"table{stream}"), stream=stream)
        assert found.keys() == {"train", "test"}
        for split, source in found.items():
            assert source.classes == WORDS
            assert (source.images is None) == stream
            assert by_class(source) == by_class(expected[split])
            assert len(source) == len(expected[split])
        if not stream:
            assert found["train"].mean == expected["train"].mean


def test_rows_are_read_one_by_one_by_any_process(tmp_path: Path) -> None:
    source = open_source(saved(tmp_path / "d"), stream=True)
    batches = Batches(source, None, 4, shuffle=True, device_limit_gb=0, workers=1)
    assert_same(batches.epoch(0), Batches(source, None, 4, shuffle=True, device_limit_gb=0).epoch(0))
    assert_same(batches.epoch(1), Batches(source, None, 4, shuffle=True, device_limit_gb=0).epoch(1))


def test_a_table_is_hashed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = tmp_path / "run" / "data_index.jsonl"
    source, again = open_source(saved(tmp_path / "d"), stream=True), open_source(tmp_path / "d", stream=True)
    reads: list[int] = []
    read = ImageFiles.read

    def counted(self: ImageFiles, i: int) -> bytes:
        reads.append(i)
        return read(self, i)

    monkeypatch.setattr(ImageFiles, "read", counted)
    first = fingerprint(source, FileIndex(index))
    assert sorted(reads) == list(range(12))
    reads.clear()
    assert fingerprint(again, FileIndex(index)) == first
    assert reads == []
    datasets.DatasetDict({"train": table(rows(12, first=50))}).save_to_disk(str(tmp_path / "other"))
    assert fingerprint(open_source(tmp_path / "other", stream=True)) != first


def test_the_test_part_is_the_first_split_with_labels(tmp_path: Path) -> None:
    unlabelled = rows(3, first=20)
    unlabelled["label"] = [-1] * 3
    splits = {"train": table(rows(8)), "validation": table(rows(4, first=8)), "test": table(unlabelled)}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "imagenet"))
    found = open_parts(tmp_path / "imagenet")
    assert {split: (len(part), part.part) for split, part in found.items()} == {
        "train": (8, "train split"), "test": (4, "validation split")}  # fmt: skip
    splits["test"] = table(rows(2, first=20))
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "both"))
    assert {split: part.part for split, part in open_parts(tmp_path / "both").items()} == {
        "train": "train split", "test": "test split", "val": "validation split"}  # fmt: skip
    table(rows(20)).save_to_disk(str(tmp_path / "one"))
    assert {split: len(part) for split, part in open_parts(tmp_path / "one").items()} == {"train": 16, "test": 4}


def test_several_labels_an_image_are_no_class(tmp_path: Path) -> None:
    """A column of lists that is named, as the message without one advises."""
    datasets.Dataset.from_dict({"image": [encoded(0), encoded(1)], "labels": [[0, 1], [1]]}).to_parquet(
        str(tmp_path / "a.parquet")
    )
    with pytest.raises(ValueError, match=r"'labels' holds no classes, but .*; one number or text an image is needed"):
        open_source(tmp_path, label_column="labels")


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    fine = datasets.ClassLabel(names=["a", "b", "c"])
    data = {"img": rows(9)["image"], "fine": [i % 3 for i in range(9)], "coarse": [i % 2 for i in range(9)]}
    features = {"img": datasets.Image(), "fine": fine, "coarse": datasets.ClassLabel(names=["x", "y"])}
    table(data, **features).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(
        ValueError, match=r"several columns that may be \(fine, coarse\) the label; name it with --label"
    ):
        open_source(tmp_path / "a.parquet")
    assert open_source(tmp_path / "a.parquet", label_column="coarse").classes == ("x", "y")
    with pytest.raises(ValueError, match="has no column 'colour'; it has img, fine, coarse"):
        open_source(tmp_path / "a.parquet", label_column="colour")
    text = {"picture": [encoded(i) for i in range(8)], "class": [WORDS[i % 2] for i in range(8)]}
    datasets.Dataset.from_dict(text).to_parquet(str(tmp_path / "b.parquet"))
    assert open_source(tmp_path / "b.parquet").classes == ("cat", "owl")
    numbers = {"image": [encoded(i) for i in range(8)], "target": [i % 2 for i in range(8)]}
    datasets.Dataset.from_dict(numbers).to_parquet(str(tmp_path / "c.parquet"))
    assert open_source(tmp_path / "c.parquet").classes == ("0", "1")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"text": ["a", "b"], "label": [0, 1]}, r"no column that is the image; .* It has: text \(string\)"),
        ({"image": [encoded(0)], "caption": ["a dog"]}, "no column that is the label; name it with --label-column"),
        ({"image": [encoded(0)], "label": [[0, 1]]}, "no column that is the label"),
        ({"image": [encoded(0), encoded(1)], "label": [0, None]}, "has no class for 1 of its images"),
        ({"image": [encoded(0), encoded(1)], "label": [0, 10**9]}, "values from 0 to 1000000000, which are no classes"),
        ({"image": [encoded(0), b"no picture"] * 4, "label": [0, 1] * 4}, "corrupt image 'row [1357] of train' in"),
        ({"image": [encoded(0), None] * 4, "label": [0, 1] * 4}, "there is no image in this row"),
    ],
)
def test_what_is_no_image_classification_set_is_told(data: Any, message: str, tmp_path: Path) -> None:
    datasets.Dataset.from_dict(data).to_parquet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "a.parquet")


def test_what_cannot_be_opened_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"a.parquet' cannot be opened by the library datasets: "):
        open_source(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"data 'hf:owner/name' cannot be opened by the library datasets: ") as told:
        open_source("hf:owner/name")
    assert "\n" not in str(told.value)
    with pytest.raises(ValueError, match="hf:owner/name is expected, with :CONFIG and @REVISION"):
        open_source("hf:what is this")
    datasets.DatasetDict({"a": table(rows(2)), "b": table(rows(2))}).save_to_disk(str(tmp_path / "s"))
    with pytest.raises(ValueError, match="has no train split, but 'a', 'b'"):
        open_source(tmp_path / "s")


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert train_run.main([*TRAIN, "--data", "hf:uoft-cs/cifar10", "--out", str(tmp_path / "r")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not installed: pip install 'nas-zoo[datasets]'" in line


@pytest.mark.hub
@pytest.mark.slow
def test_a_name_on_the_hub_is_fetched_once_and_opened_without_network(tmp_path: Path) -> None:
    made = parquet(tmp_path / "p")
    script = """
import sys
from nas_zoo.data.named import open_parts
for data in sys.argv[1:]:
    try:
        print({split: (len(part), part.classes) for split, part in open_parts(data).items()})
    except ValueError as error:
        print(error)
"""

    def opened(*data: str, **environment: str) -> list[str]:
        given = os.environ | {"HF_HOME": str(tmp_path / "home")} | environment
        command = [sys.executable, "-c", script, *data]
        return subprocess.run(command, env=given, check=True, capture_output=True, text=True).stdout.splitlines()

    expected = str({"train": (12, WORDS), "test": (4, WORDS)})
    with HubServer() as hub:
        repo = hub.repos["owner/name"] = Repo(private=False)
        repo.commit("main", {f"data/{f.name}": Blob(f.read_bytes(), lfs=False) for f in made.iterdir()}, "images")
        found, missing = opened("hf:owner/name@main", "hf:owner/other", **hub.environment)
        assert found == expected
        assert missing.startswith("data 'hf:owner/other' cannot be opened by the library datasets: ")
    assert opened("hf:owner/name", HF_HUB_OFFLINE="1") == [expected]


def test_a_run_trains_on_a_table_and_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {"pixels": rows(24)["image"], "kind": rows(24)["label"]}
    features = {"pixels": datasets.Image(), "kind": datasets.ClassLabel(names=list(WORDS))}
    table(data, **features).to_parquet(str(tmp_path / "a.parquet"))
    flags = [*TRAIN, "--data", str(tmp_path / "a.parquet"), "--epochs", "1", "--label-column", "kind"]
    assert train_run.main([*flags, "--out", str(tmp_path / "r"), "--time-budget", "0.0001"]) == 0
    assert train_run.main(["--resume", "--out", str(tmp_path / "r")]) == 0
    assert json.loads((tmp_path / "r" / "config.json").read_text())["label_names"] == list(WORDS)


@pytest.mark.parametrize("write", [saved, parquet])
def test_an_exported_file_is_checked_on_the_images_of_a_table(write: Any, tmp_path: Path) -> None:
    found = real_images(str(write(tmp_path / "table")), classes=WORDS)
    assert found.labels is not None
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1]
    assert [np.asarray(image).shape for image in found.images] == [np.asarray(found.images[0]).shape] * 4


# ---- CSV ----


def picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((12, 12, 3), number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("name", ["metadata.csv", "labels.csv"])
def test_a_csv_beside_pictures_says_their_classes(name: str, tmp_path: Path, caplog: Any) -> None:
    files = {f"sub/{i}.png": picture(i) for i in range(13)}
    lines = [f"sub/{i}.png,{WORDS[i % 2]},{i}" for i in range(12)]
    place = write_folder(tmp_path / "d", files | {name: "\n".join(["file_name,label,more", *lines]).encode()})
    parts = open_parts(place)
    assert parts["train"].classes == ("cat", "owl")
    assert {split: len(part) for split, part in parts.items()} == {"train": 10, "test": 2}
    for part in parts.values():
        assert part.images is not None
        assert (part.images[:, 0, 0, 0] % 2 == 1 - part.labels).all()
    assert f"12 images read, 1 other file left out: 1 not named in {name}" in caplog.text


def test_a_csv_of_each_part_and_names_without_endings(tmp_path: Path) -> None:
    files = {f"{part}/{i}.png": picture(i) for part in ("train", "test") for i in range(6)}
    body = "\n".join(["id,breed", *(f"{i},{WORDS[i % 2]}" for i in range(6))]).encode()
    place = write_folder(tmp_path / "d", files | {"train/labels.csv": body, "test/labels.csv": body})
    parts = open_parts(place)
    assert {split: (len(part), part.part) for split, part in parts.items()} == {
        "train": (6, "train/"), "test": (6, "test/")}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,label\n0.png,cat\n7.png,owl\n", r"labels.csv', line 3: picture '7.png' is not there"),
        ("file_name,label\n0.png,\n", r"line 2: picture '0.png' has no label"),
        ("a,b,c\n0.png,cat,1\n", r"has no column that is the image; name it with --image-column. It has: a, b, c"),
        ("file,b,c\n0.png,cat,1\n", r"has no column that is the label; name it with --label-column"),
        ("", r"has no column that is the image.* It has: none"),
        (
            "file_name,label\n0.png,cat\n1.png,owl\n0.png,owl\n",
            r"line 4: picture '0.png' has the label 'owl', and 'cat'",
        ),
        ("file_name,label\n0.png,cat\n1.png,cat\n", "has only one class, 'cat'"),
    ],
)
def test_a_csv_that_does_not_fit_is_told(text: str, message: str, tmp_path: Path) -> None:
    place = write_folder(tmp_path / "d", {"0.png": picture(0), "1.png": picture(1), "labels.csv": text.encode()})
    with pytest.raises(ValueError, match=message):
        open_source(place)
    if "c\n" in text:
        (place / "labels.csv").write_text("a,b,c\n0,cat,1\n1,owl,2\n")
        assert len(open_source(place, image_column="a", label_column="b", test_data=place)) == 2
