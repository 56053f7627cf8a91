"""Labelled images out of tables: the library `datasets` (hf:owner/name, a saved folder, Parquet), and CSV files.

`datasets` keeps a table as Arrow files that are mapped into memory: any row can be read by any process, and no process
holds more than it reads. It comes with an extra: pip install 'nas-zoo[datasets]'. CSV files need nothing.
"""

from __future__ import annotations

import csv
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from nas_zoo.data.index import Names
from nas_zoo.data.sources import ImageFiles, LabelledFiles

__all__ = ["HUB", "Columns", "csv_paths", "is_table", "open_table"]

HUB = "hf:"
_TEST_WORDS = ("test", "val", "valid", "validation")  # the first that has labels
_CSV_NAMES = ("metadata.csv", "labels.csv")
_FILE_COLUMNS = ("file_name", "filename", "file", "image", "image_name", "path", "image_path", "image_id", "id", "name")
_LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "target")
_MOST_CLASSES = 100_000  # of whole numbers without names: more are no classes


@dataclass(frozen=True)
class Columns:
    """Names of the columns that hold the images and their classes; None: found by their types and usual names."""

    image: str | None = None
    label: str | None = None


# ---- the library datasets ----


class _Column(Sequence[bytes]):
    """The encoded images of a column, read where they are mapped into memory."""

    def __init__(self, data: Any, name: str) -> None:
        self._data, self._name = data, name
        files = [os.stat(file["filename"]) for file in data.cache_files]
        self.stamp = (sum(f.st_size for f in files), max((f.st_mtime_ns for f in files), default=0)) if files else None

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, i: Any) -> Any:
        value = self._data[int(i)].column(self._name)[0].as_py()
        if isinstance(value, bytes):
            return value
        if value is not None and value.get("bytes") is not None:
            return value["bytes"]
        if value is None or value.get("path") is None:
            raise ValueError("there is no image in this row")
        return Path(value["path"]).read_bytes()

    def take(self, rows: np.ndarray) -> _Column:
        return _Column(self._data.select(rows), self._name)


def is_table(data: str) -> bool:
    """Whether `data` is for the library datasets: hf:..., a folder that it saved, a Parquet file or folder of them."""
    if data.startswith(HUB):
        return True
    place = Path(data).expanduser()
    if place.is_dir():
        saved = (place / "dataset_dict.json").is_file() or (place / "dataset_info.json").is_file()
        return saved or _parquet_in(place)
    return place.suffix == ".parquet" and place.is_file()


def _parquet_in(folder: Path) -> bool:
    return any(True for inner in ("", "data", "train") for _ in (folder / inner).glob("*.parquet"))


def open_table(data: str, columns: Columns) -> dict[str, LabelledFiles]:
    """The "train", "test" and "val" images of what ``is_table`` knows, as far as they are there and have labels.

    A test split without labels (all -1) is passed over, as ImageNet's is; the validation split is then the test part.

    Raises:
        ValueError: The library is not there, it cannot open the data, or they are no image classification set.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"data {data!r} is read by the library datasets, which is not installed: pip install 'nas-zoo[datasets]'"
        ) from None
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        found = _load(datasets, data)
    except Exception as error:  # whatever of Arrow, fsspec, the Hub and itself the library lets through
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"data {data!r} cannot be opened by the library datasets: {text[0]}") from error
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    if len(splits) == 1:
        splits = {"train": next(iter(splits.values()))}
    if "train" not in splits:
        raise ValueError(f"data {data!r} has no train split, but {', '.join(map(repr, splits))}")
    image, label = _image_column(splits["train"], data, columns), _label_column(splits["train"], data, columns)
    kept = {split: table for split, table in splits.items() if split in ("train", *_TEST_WORDS)}
    values = {split: _values(table, label) for split, table in kept.items() if label in table.column_names}
    labelled = {split: v for split, v in values.items() if split == "train" or any(x not in (None, -1) for x in v)}
    classes = _classes(splits["train"].features[label], labelled, label, data)
    number: dict[Any, int] = {word: i for i, word in enumerate(classes)}
    parts = {"train": "train"}
    tests = [word for word in _TEST_WORDS if word in labelled]
    parts |= {"test": tests[0]} if tests else {}
    parts |= {"val": tests[1]} if len(tests) > 1 and tests[0] == "test" else {}
    made = {}
    for part, split in parts.items():
        table, words = kept[split], labelled[split]
        labels = np.array([number.get(w, -1) if isinstance(w, str) else w for w in words], np.int64)
        column = _Column(_bytes_of(datasets, table, image, data).with_format("arrow"), image)
        files = ImageFiles(Path(data), Names(f"row {i} of {split}" for i in range(len(labels))), blobs=column)
        made[part] = LabelledFiles(files, classes, labels, f"{split} split" if len(splits) > 1 else "")
    return made


def _load(datasets: Any, data: str) -> Any:
    if not data.startswith(HUB):
        place = Path(data).expanduser()
        if place.is_file():
            return datasets.load_dataset("parquet", data_files=str(place))
        if _parquet_in(place):
            return datasets.load_dataset(str(place))
        return datasets.load_from_disk(str(place))
    form = re.fullmatch(r"([\w.-]+(?:/[\w.-]+)?)(?::([\w.-]+))?(?:@(.+))?", data.removeprefix(HUB))
    if form is None:
        raise ValueError("hf:owner/name is expected, with :CONFIG and @REVISION behind it where they are wanted")
    return datasets.load_dataset(form[1], form[2], revision=form[3])


def _chosen(kind: str, named: str | None, fitting: list[str], usual: Sequence[str], table: Any, data: str) -> str:
    """The column that was named, or the only one that fits, or the one of them with a usual name."""
    if named is not None:
        if named not in table.column_names:
            raise ValueError(f"data {data!r} has no column {named!r}; it has {', '.join(table.column_names)}")
        return named
    found = fitting if len(fitting) == 1 else [name for name in usual if name in fitting][:1]
    if found:
        return found[0]
    several = f"several columns that may be ({', '.join(fitting)})" if fitting else "no column that is"
    raise ValueError(
        f"data {data!r} has {several} the {kind}; name it with --{kind}-column. It has: "
        + ", ".join(f"{name} ({_kind(feature)})" for name, feature in table.features.items())
    )


def _kind(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__)


def _image_column(table: Any, data: str, columns: Columns) -> str:
    features = table.features
    images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
    encoded = [name for name, feature in features.items() if _holds_bytes(feature)]
    return _chosen("image", columns.image, images or encoded, ("image", "img"), table, data)


def _holds_bytes(feature: Any) -> bool:
    if isinstance(feature, Mapping):
        return "bytes" in feature and _kind(feature["bytes"]) in ("binary", "large_binary")
    return _kind(feature) in ("binary", "large_binary")


def _label_column(table: Any, data: str, columns: Columns) -> str:
    features = table.features
    named = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    plain = [name for name, feature in features.items() if re.match(r"u?int|(large_)?string|bool", _kind(feature))]
    usual = [name for name in _LABEL_COLUMNS if name in plain]
    return _chosen("label", columns.label, named or usual, _LABEL_COLUMNS, table, data)


def _bytes_of(datasets: Any, table: Any, image: str, data: str) -> Any:
    """The image column alone, not decoded: that is done in one way for all data."""
    feature = table.features[image]
    if type(feature).__name__ == "Image":
        return table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    if not _holds_bytes(feature):
        raise ValueError(f"data {data!r}: column {image!r} holds no images, but {_kind(feature)}")
    return table.select_columns([image])


def _values(table: Any, label: str) -> list[Any]:
    return table.select_columns([label]).with_format("arrow")[:].column(label).to_pylist()


def _classes(feature: Any, values: Mapping[str, list[Any]], label: str, data: str) -> tuple[str, ...]:
    """Names of the classes: those of ClassLabel, the texts themselves, or the whole numbers from 0 on."""
    faulty = f"data {data!r}: column {label!r}"
    if any(isinstance(value, (list, dict)) for words in values.values() for value in words):
        raise ValueError(f"{faulty} holds no classes, but {_kind(feature)}; one number or text an image is needed")
    found = {value for words in values.values() for value in words}
    if found & {None, -1}:
        count = sum(word in (None, -1) for words in values.values() for word in words)
        raise ValueError(f"{faulty} has no class for {count} of its images; leave them out of the set")
    if all(isinstance(value, str) for value in found):
        return tuple(sorted(found))
    if not all(isinstance(value, int) for value in found):
        raise ValueError(f"{faulty} holds no classes, but {_kind(feature)}; one number or text an image is needed")
    if getattr(feature, "names", None):
        return tuple(map(str, feature.names))
    if min(found) < 0 or max(found) >= _MOST_CLASSES:
        raise ValueError(f"{faulty} has values from {min(found)} to {max(found)}, which are no classes")
    return tuple(map(str, range(int(max(found)) + 1)))


# ---- CSV beside pictures ----


def csv_paths(place: Path, names: Sequence[str], columns: Columns) -> tuple[list[tuple[str, ...]], Counter[str]] | None:
    """For each picture of a folder (part/,) class and name, by metadata.csv or labels.csv; None where there is none.

    The file lies beside the pictures that it speaks of, in the folder or in its train/, test/ and so on. Pictures that
    it does not name get (), and are counted among what is left out, where the file itself does not belong. A name may
    lack its ending.

    Raises:
        ValueError: No such columns, a picture that is not there, an empty label.
    """
    if not place.is_dir():
        return None
    tables = [f"{part}{name}" for part in ("", "train/", *(f"{word}/" for word in _TEST_WORDS)) for name in _CSV_NAMES]
    tables = [table for table in tables if (place / table).is_file()]
    if not tables:
        return None
    label_of: dict[str, str] = {}
    known = set(names)
    without_ending = {os.path.splitext(name)[0]: name for name in names}
    for table in tables:
        folder = table.rpartition("/")[0]
        for line, (file, label) in enumerate(_rows(place / table, columns), 2):
            name = str(PurePosixPath(folder) / file)
            name = name if name in known else without_ending.get(name, "")
            if not name or not label:
                what = f"picture {file!r} is not there" if label else f"picture {file!r} has no label"
                raise ValueError(f"{str(place / table)!r}, line {line}: {what}")
            if label_of.setdefault(name, label) != label:
                raise ValueError(
                    f"{str(place / table)!r}, line {line}: picture {file!r} has the label {label!r}, and "
                    f"{label_of[name]!r} in a line before; one class an image is needed"
                )
    paths: list[tuple[str, ...]] = []
    for name in names:
        first, _, rest = name.partition("/")
        part = (first,) if rest and first in ("train", *_TEST_WORDS) else ()
        paths.append((*part, label_of[name], name) if name in label_of else ())
    missing = len(names) - len(label_of)
    return paths, Counter({f"not named in {tables[0]}": missing, ".csv": -len(tables)})


def _rows(path: Path, columns: Columns) -> list[tuple[str, str]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            header = list(reader.fieldnames or ())
            file = _csv_column("image", columns.image, _FILE_COLUMNS, header, path)
            label = _csv_column("label", columns.label, _LABEL_COLUMNS, [c for c in header if c != file], path)
            return [((row[file] or "").strip(), (row[label] or "").strip()) for row in reader]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} cannot be read as CSV: {error}") from None


def _csv_column(kind: str, named: str | None, usual: Sequence[str], header: list[str], path: Path) -> str:
    found = [name for name in usual if name in header] if named is None else [n for n in header if n == named]
    if not found and named is None and kind == "label" and len(header) == 1:
        return header[0]  # of two columns the one that names no files
    if not found:
        what = f"no column {named!r}" if named is not None else f"no column that is the {kind}"
        raise ValueError(
            f"{str(path)!r} has {what}; name it with --{kind}-column. It has: {', '.join(header) or 'none'}"
        )
    return found[0]
