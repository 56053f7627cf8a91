"""Real images to calibrate and check an exported file on: a folder or a data set by name, with labels if it has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from nas_zoo.data.listing import list_folder, nfc, parts_of, same_names, tell_left_out
from nas_zoo.data.named import NAMES, open_source
from nas_zoo.data.pictures import open_picture
from nas_zoo.data.sources import ImageFiles, ImageSource
from nas_zoo.data.tables import is_table
from nas_zoo.export.runtime.classifier import ImageLike
from nas_zoo.text import counted

__all__ = ["RealImages", "real_images", "source_images"]


@dataclass(frozen=True, eq=False)
class RealImages:
    """Images in their own size, as OnnxClassifier.predict takes them, and their classes (int64) or None."""

    name: str  # of the data set or the folder
    images: Sequence[ImageLike]
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.images)


class _Pictures(Sequence[Image.Image]):
    """The pictures of an archive in their own size, opened one by one: whoever classifies them resizes."""

    def __init__(self, files: ImageFiles) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return _Pictures(self._files.subset(range(len(self))[i]))
        i = range(len(self))[i]
        picture = open_picture(self._files.read(i))
        picture.filename = self._files.names[i]  # type: ignore[attr-defined]  # for errors
        return picture


def real_images(
    place: str,
    *,
    split: str | None = "test",
    classes: Sequence[str] | None = None,
    num_classes: int | None = None,
    in_chans: int = 3,
    limit: int | None = None,
) -> RealImages:
    """At most `limit` images, taken evenly from all of them.

    Args:
        place: digits, cifar10, cifar100, a tar, a zip or a table, whose images of `split` are taken; or a folder, of
            which all images are taken, at any depth, or those of `split` where it has train/ beside test/ or val/. A
            folder's images have labels where the folder that each lies in has the name of one of `classes`.
        split: None for all images of an archive or folder that is not split itself, and the test images of one that is.
        classes: Of the file, in the order of its logits; None where it does not say.
        num_classes, in_chans: Of the file.

    Raises:
        ValueError: Nothing there, no images in it, or a data set of other classes.
    """
    folder = Path(place)
    if place not in NAMES and folder.is_dir() and not is_table(place):
        tree = list_folder(folder)
        names = tree.files.names
        if not names:
            raise ValueError(f"{place!r}: no images in this folder")
        tell_left_out(folder, len(names), tree.left_out)
        parts = parts_of([PurePosixPath(name).parts for name in names])
        rows = parts[split or "test"] if "test" in parts else np.arange(len(names))
        chosen = [names[rows[i]] for i in _evenly(len(rows), limit)]
        parents = [nfc(PurePosixPath(name).parent.name) for name in chosen]
        known = {nfc(word): i for i, word in enumerate(classes or ())}
        labels = [known[word] for word in parents] if all(word in known for word in parents) else None
        array = None if labels is None else np.array(labels, np.int64)
        return RealImages(folder.name or "folder", [folder / name for name in chosen], array)
    test_data = place if split is None and place not in NAMES else None
    split = split or "test"
    source = open_source(place, split, test_data=test_data, in_chans=in_chans, stream=True)
    if classes is not None and not same_names(classes, source.classes):
        raise ValueError(
            f"{place}: its classes ({', '.join(source.classes[:3])} ...) are not those of the model "
            f"({', '.join(list(classes)[:3])} ...)"
        )
    if num_classes is not None and num_classes != len(source.classes):
        raise ValueError(f"{place}: {counted(len(source.classes), 'class', 'classes')}, the model has {num_classes}")
    return source_images(source, f"{Path(source.name).name} ({split})", limit=limit)


def source_images(source: ImageSource, name: str | None = None, *, limit: int | None = None) -> RealImages:
    """At most `limit` images of a source in their own size, taken evenly; `name`: the source's if None."""
    rows = _evenly(len(source), limit)
    images: Sequence[ImageLike] = (
        [source.image(int(i)) for i in rows] if source.files is None else _Pictures(source.files.subset(rows))
    )
    return RealImages(name or Path(source.name).name, images, source.labels[rows])


def _evenly(count: int, limit: int | None) -> np.ndarray:
    if limit is None or limit >= count:
        return np.arange(count)
    return np.linspace(0, count - 1, limit).round().astype(np.int64)
