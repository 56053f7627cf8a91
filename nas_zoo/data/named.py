"""Opens labelled images by name, folder, tar or zip, as one type, with every fault found before training starts.

train = open_source("digits", "train")
train = open_source("photos.tar.xz", "train");  test = open_source("photos.tar.xz", "test")
batches = Batches(train, None, 64, augment=default_augment(train), shuffle=True, seed=0, drop_last=True)
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_zoo.data.augment import epoch_order
from nas_zoo.data.division import Division
from nas_zoo.data.index import cache_folder
from nas_zoo.data.listing import KINDS, TEST_FOLDERS, FileTree, list_archives, list_images, nfc, parts_of, tell_left_out
from nas_zoo.data.own import LabelledImages, name_of, read_own
from nas_zoo.data.pictures import EXTENSIONS, RESAMPLING
from nas_zoo.data.sources import (
    DEVICE_LIMIT_GB,
    ImageFiles,
    ImageSource,
    LabelledFiles,
    Skips,
    UnreadableImage,
    decode_readable,
)
from nas_zoo.data.tables import Columns, csv_paths, is_table, open_table
from nas_zoo.text import counted, listed

__all__ = [
    "NAMES",
    "SPLITS",
    "cache_folder",
    "hold_out",
    "limited",
    "open_for_run",
    "open_parts",
    "open_source",
    "search_split",
]

logger = logging.getLogger("nas_zoo")

NAMES = ("digits", "cifar10", "cifar100")
SPLITS = ("train", "val", "test")
NATIVE_PIXELS = 64  # images that share a size up to this are used at that size
PHOTOGRAPH_SIZE = 224  # all others, unless told
HOLD_OUT = 0.2  # of each class, where a data set has no test split of its own

# Per channel on the 0..1 scale, of the training images. CIFAR-10: as DARTS has them (cnn/utils.py); CIFAR-100: as
# weiaicunzai/pytorch-cifar100 has them (conf/global_settings.py); ImageNet: torchvision's and timm's; digits: computed
# here over the training part of the fixed split (test_data.py computes it again).
STATISTICS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": ((0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)),
    "cifar100": ((0.50707516, 0.48654887, 0.44089178), (0.26733429, 0.25643846, 0.27615047)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet grey": ((0.459,), (0.226,)),  # of the above, weighted as luminance is
    "digits": ((0.30526198,), (0.37595134,)),
}

# Computed statistics of training images by what they depend on, so that opening the test split decodes no image twice.
_computed: dict[tuple[object, ...], tuple[tuple[float, ...], tuple[float, ...]]] = {}


def open_source(data: str | os.PathLike[str] | LabelledImages, split: str = "train", **options: Any) -> ImageSource:
    """One part of a data set: "train", "test", or "val" where it has one. See `open_parts`."""
    found = open_parts(data, (split,), **options)
    if split not in found:
        shown = repr(os.fspath(data)) if isinstance(data, (str, os.PathLike)) else name_of(data)
        raise ValueError(f"{shown} has no val part: a folder val/ or valid/ beside train/ and test/")
    return found[split]


def open_for_run(settings: Any, splits: Sequence[str], **options: Any) -> dict[str, ImageSource]:
    """``open_parts`` by a program's settings of the data, divided and limited as they say."""
    skips = Skips(settings.skip_unreadable, offered=True)
    where: dict[str, Any] = {"root": settings.data_root, "test_data": settings.test_data}
    where |= {"image_column": settings.image_column, "label_column": settings.label_column}
    parts = open_parts(settings.data, splits, skips=skips, **where, **options)
    if settings.division is not None:
        parts = Division.read(settings.division).of(parts)
    return parts | {"train": limited(parts["train"], settings.train_limit, settings.seed)}


def open_parts(
    data: str | os.PathLike[str] | LabelledImages,
    splits: Sequence[str] = SPLITS,
    *,
    root: str | os.PathLike[str] | None = None,
    test_data: str | os.PathLike[str] | LabelledImages | None = None,
    image_size: int | None = None,
    in_chans: int | None = None,
    crop_pct: float = 1.0,
    interpolation: str = "bilinear",
    stream: bool | None = None,
    split_seed: int = 0,
    download: bool = True,
    skips: Skips | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    few: bool = False,
) -> dict[str, ImageSource]:
    """The "train", "val" and "test" images of a data set; "val" is left out of what is returned where there is none.

    data: "digits" (scikit-learn's, 8x8 grey), "cifar10", "cifar100" (torchvision's, in the folder `root`, downloaded
    there if absent; without root $NAS_ZOO_CACHE or ~/.cache/nas_zoo), or the path of a folder, tar or zip of class
    folders, or of train/ and test/ or val/ folders of those (with both, val/ or valid/ is the val part, which watches
    a run), in either case with one leading folder allowed. A name wins over a path that is spelled like it; write
    ./digits for the path. Several archives are one set: "a.tar,b.tar", a pattern, or a folder of tars. A folder may
    have a metadata.csv or labels.csv instead of class folders. With the library datasets also "hf:owner/name" (with
    :CONFIG and @REVISION), a folder that it saved, and Parquet. image_column, label_column: of a table; None: found.

    Or any map-style data set of (image, label), which is read into memory (``nas_zoo.data.own``).

    Where files or a data set come without a test part, a fifth of each class is held out for it: the same one for every
    run, since it depends on split_seed only, not on the run's seed. test_data, a second folder, tar or zip, is the test
    part instead; training then has all of `data`, and a val/ of it is the val part.

    image_size: None for the size that all images share if it is 64 pixels or less, else 224; crop_pct, interpolation (a
    name of ``pictures.RESAMPLING``): how others are brought to it. in_chans: 3 or 1 (grey); None for 3 with files.
    stream: leave files encoded and check headers only; None for so if more than 2 GB decoded. Otherwise every image is
    decoded here, so a corrupt one is found now. skips: what to go on without, none if None. few: a class with no or one
    image is not refused; the caller counts them.

    Raises ValueError for a missing path, an unknown name, an empty class, classes that differ between the parts,
    a corrupt image or archive and what else cannot be trained on, naming the value and what would do.
    """
    for split in splits:
        if split not in SPLITS:
            raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    if in_chans not in (None, 1, 3):
        raise ValueError(f"in_chans must be 3 (RGB) or 1 (grey), got {in_chans}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be 1 pixel or more, got {image_size}")
    if interpolation not in RESAMPLING:
        raise ValueError(f"interpolation must be one of {', '.join(RESAMPLING)}, got {interpolation!r}")
    if not 0 < crop_pct <= 1:
        raise ValueError(f"crop_pct must be above 0 and at most 1, got {crop_pct}")
    own, others = (None if one is None or isinstance(one, (str, os.PathLike)) else one for one in (data, test_data))
    if own is not None:
        if test_data is not None and others is None:
            raise ValueError(f"test_data must be a data set as data is, got {test_data!r}")
        return _open_own(own, splits, others, image_size, in_chans, crop_pct, interpolation, split_seed)
    if others is not None:
        raise ValueError(f"test_data must be a path as data is, got a {name_of(others)}")
    assert isinstance(data, (str, os.PathLike))
    assert test_data is None or isinstance(test_data, (str, os.PathLike))
    name = os.fspath(data)
    if name not in NAMES:
        test_path = None if test_data is None else os.fspath(test_data)
        return _open_files(
            name, splits, test_path, image_size, in_chans or 3, crop_pct, interpolation, stream, split_seed,
            skips or Skips(), Columns(image_column, label_column), few,
        )  # fmt: skip
    if test_data is not None:
        raise ValueError(f"test_data {os.fspath(test_data)!r}: {name} has a test split of its own")
    found = {}
    for split in splits:
        if split != "val":
            source = _open_digits(split) if name == "digits" else _open_cifar(name, split, root, download)
            source = _with_channels(source, in_chans or source.in_chans, split, root)
            found[split] = replace(
                source, image_size=image_size or source.image_size, crop_pct=crop_pct, interpolation=interpolation
            )
    return found


def search_split(source: ImageSource, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint halves of the training images, (indices for the weights, indices for the alphas), int64 each.

    A seeded permutation cut in the middle, as in DARTS; of an odd number the alphas get one more.
    """
    if len(source) < 2:
        raise ValueError(f"{source.name} has {counted(len(source), 'image')}; a search needs two halves")
    order = epoch_order(seed, -1, np.arange(len(source)))  # epoch -1: not the order of any epoch of training
    half = len(source) // 2
    return order[:half], order[half:]


def limited(source: ImageSource, count: int | None, seed: int) -> ImageSource:
    """`count` images of the source, chosen by the seed, in their order; the source itself for None or no fewer."""
    if count is None or count >= len(source):
        return source
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return source.subset(order[:count].sort().values.numpy())


def hold_out(
    labels: np.ndarray, classes: tuple[str, ...], split: str, seed: int, name: str, few: bool = False
) -> np.ndarray:
    """Indices, ascending, of the "train" (80 %) or "test" (20 %) part; of each class the same share, at least 1.

    ValueError names the classes that have not two images, unless `few`.
    """
    order = epoch_order(seed, -2, np.arange(len(labels)))
    chosen = np.zeros(len(labels), dtype=bool)
    counts = np.bincount(labels, minlength=len(classes))
    if not few and (counts < 2).any():
        words = listed((f"{classes[i]!r} has {counted(int(counts[i]), 'image')}" for i in np.flatnonzero(counts < 2)),
                       between=", ")  # fmt: skip
        raise ValueError(
            f"{name}: class {words}, which cannot be split into train and test; add images or name a separate test_data"
        )
    for label in np.flatnonzero(counts):
        members = order[labels[order] == label]
        chosen[members[: max(1, round(HOLD_OUT * len(members)))]] = True
    return np.flatnonzero(chosen if split == "test" else ~chosen)


# ---- by name ----


def _open_digits(split: str) -> ImageSource:
    try:
        from sklearn.datasets import load_digits  # here: it takes a second to import
    except ImportError as error:
        raise ValueError("the data set 'digits' comes with scikit-learn: pip install scikit-learn") from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    classes = tuple(str(word) for word in digits.target_names)
    rows = hold_out(labels, classes, split, 0, "digits")
    mean, std = STATISTICS["digits"]
    return ImageSource(
        "digits", classes, labels[rows], mean, std, in_chans=1, image_size=8, images=images[rows], flip_ok=False
    )


def _open_cifar(name: str, split: str, root: str | os.PathLike[str] | None, download: bool) -> ImageSource:
    from torchvision.datasets import CIFAR10, CIFAR100  # here: only this needs torchvision

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    place = cache_folder() if root is None else Path(root).expanduser()
    if place.name == kind.base_folder:  # the folder of the batches themselves
        place = place.parent
    try:
        data_set = kind(str(place), train=split == "train", download=False)
    except (RuntimeError, OSError):  # torchvision: "Dataset not found or corrupted"
        if not download:
            raise ValueError(
                f"no intact {name} in {str(place)!r}: expected its folder {kind.base_folder!r} there, as torchvision "
                "unpacks it; give its place (--data-root, or root= in Python), or allow the download"
            ) from None
        try:
            place.mkdir(parents=True, exist_ok=True)
            data_set = kind(str(place), train=split == "train", download=True)
        except (RuntimeError, OSError) as error:  # URLError is an OSError
            raise ValueError(
                f"{name} is not in {str(place)!r} and could not be downloaded from {kind.url}: {error}; "
                f"give the folder that holds {kind.base_folder!r} (--data-root, or root= in Python)"
            ) from error
    labels = np.asarray(data_set.targets, dtype=np.int64)
    mean, std = STATISTICS[name]
    images = np.ascontiguousarray(data_set.data)
    return ImageSource(name, tuple(data_set.classes), labels, mean, std, in_chans=3, image_size=32, images=images)


def _with_channels(source: ImageSource, in_chans: int, split: str, root: str | os.PathLike[str] | None) -> ImageSource:
    """The source in grey or RGB, its statistics converted with it."""
    if in_chans == source.in_chans:
        return source
    assert source.images is not None
    if in_chans == 3:
        return replace(
            source, in_chans=3, images=np.repeat(source.images, 3, axis=3), mean=source.mean * 3, std=source.std * 3
        )
    key = (source.name, "grey")
    if split == "train":
        grey = _grey(source.images)
        _computed[key] = channel_statistics(grey)
    else:
        if key not in _computed:
            open_source(source.name, "train", root=root, in_chans=1, download=False)
        grey = _grey(source.images)
    mean, std = _computed[key]
    return replace(source, in_chans=1, images=grey, mean=mean, std=std)


def _grey(images: np.ndarray) -> np.ndarray:
    """uint8 (N, H, W, 1) of RGB: ITU-R 601 in Pillow's whole numbers, so equal to what a grey image file gives."""
    weighted = images.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) per channel on the 0..1 scale of uint8 (N, H, W, C), exact to the last image.

    A channel that never changes gets 1 for its deviation: scaling then only moves it.
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(images.shape[3]):
        share = np.zeros(256)
        for first in range(0, len(images), 1024):  # by histogram: 2 GB of pixels are never held as floats
            share += np.bincount(images[first : first + 1024, :, :, channel].ravel(), minlength=256)
        share /= share.sum()
        center = float(share @ values)
        mean.append(round(center, 8))
        std.append(round(float(np.sqrt(share @ (values - center) ** 2)), 8) or 1.0)
    return tuple(mean), tuple(std)


# ---- of a program ----


def _open_own(
    data: LabelledImages,
    splits: Sequence[str],
    test_data: LabelledImages | None,
    image_size: int | None,
    in_chans: int | None,
    crop_pct: float,
    interpolation: str,
    split_seed: int,
) -> dict[str, ImageSource]:
    name = name_of(data)
    kept: dict[str, Any] = {"native": NATIVE_PIXELS, "otherwise": PHOTOGRAPH_SIZE, "crop_pct": crop_pct}
    kept["interpolation"] = interpolation
    images, labels, classes = read_own(data, None, image_size, in_chans, **kept)
    size, chans = images.shape[1], images.shape[3]
    found = {"train": (name, images, labels)}
    if test_data is not None:
        if "test" in splits:
            found["test"] = (name_of(test_data), *read_own(test_data, classes, size, chans, **kept)[:2])
    else:
        rows = {word: hold_out(labels, classes, word, split_seed, name) for word in ("train", "test")}
        found = {word: (name, images[rows[word]], labels[rows[word]]) for word in rows}
    mean, std = channel_statistics(found["train"][1])
    return {
        word: ImageSource(called, classes, of_each, mean, std, in_chans=chans, image_size=size, images=pixels,
                          crop_pct=crop_pct, interpolation=interpolation)
        for word, (called, pixels, of_each) in found.items() if word in splits
    }  # fmt: skip


# ---- by path ----


def _open_files(
    data: str,
    splits: Sequence[str],
    test_data: str | None,
    image_size: int | None,
    in_chans: int,
    crop_pct: float,
    interpolation: str,
    stream: bool | None,
    split_seed: int,
    skips: Skips,
    columns: Columns,
    few: bool,
) -> dict[str, ImageSource]:
    place = Path(data).expanduser()
    parts = _parts_of(data, "data", columns, has_test=test_data is not None and Path(test_data) != Path(data), few=few)
    size = image_size or _default_size(parts["train"].files)  # of the training files: all parts must agree on it
    if test_data is not None:
        others = _parts_of(test_data, "test_data", columns, few=few)
        parts["test"] = others.get("test", others["train"])
    if "test" in parts:
        for part in parts.values():
            _same_classes(parts["train"], part)
    else:
        whole = parts["train"]
        for word in ("train", "test"):
            parts[word] = whole.subset(hold_out(whole.labels, whole.classes, word, split_seed, repr(data), few))
        logger.log(
            logging.WARNING if "train" in splits else logging.INFO,  # said once in a program that opens both
            "%s has no test split: %d of its %d images (%.0f %% of each class, split_seed %d) are held out for it",
            place, len(parts["test"].labels), len(whole.labels), 100 * HOLD_OUT, split_seed,
        )  # fmt: skip

    def streamed(part: LabelledFiles) -> bool:
        return len(part.labels) * size**2 * in_chans > DEVICE_LIMIT_GB * 1e9 if stream is None else stream

    def read(part: LabelledFiles) -> tuple[LabelledFiles, np.ndarray | None]:
        """The part without what is skipped, and its pixels unless they are streamed."""
        files, images = part.files, None
        rows = np.arange(len(files))
        if streamed(part):
            faults = files.unreadable_headers()
            for fault in faults.values():
                skips.add(str(fault))
            rows = np.delete(rows, list(faults))
        else:
            one = partial(
                files.decode, image_size=size, in_chans=in_chans, crop_pct=crop_pct, interpolation=interpolation
            )
            words = f"decoding {files.place.name}"
            images, rows = decode_readable(one, len(files), size, in_chans, words, skips)
        return (part.subset(rows) if len(rows) < len(files) else part), images

    images: dict[str, np.ndarray | None] = {}
    with skips.together():
        for split in splits:
            if split in parts:
                parts[split], images[split] = read(parts[split])
    train = parts["train"]
    if streamed(train):
        mean, std = STATISTICS["imagenet"] if in_chans == 3 else STATISTICS["imagenet grey"]
    else:
        stamps = train.files.stamps().tobytes()
        key = (os.path.abspath(place), stamps, tuple(train.files.names), size, in_chans, crop_pct, interpolation)
        if key not in _computed:
            held = images.get("train")
            held = read(train)[1] if held is None else held
            assert held is not None  # not streamed
            _computed[key] = channel_statistics(held)
        mean, std = _computed[key]
    return {
        split: ImageSource(
            test_data if split == "test" and test_data is not None else data,
            parts[split].classes,
            parts[split].labels,
            mean,
            std,
            in_chans=in_chans,
            image_size=size,
            images=pixels,
            files=parts[split].files,
            crop_pct=crop_pct,
            interpolation=interpolation,
            part=parts[split].folder,
            skips=skips,
        )
        for split, pixels in images.items()
    }


def _existing(path: str, what: str) -> Path:
    place = Path(path).expanduser()
    if not place.exists():
        near = difflib.get_close_matches(path, NAMES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{what} {path!r} does not exist{hint}; it may be {', '.join(NAMES)}, or a path: {KINDS}")
    return place


def _parts_of(
    data: str, what: str, columns: Columns, *, has_test: bool = False, few: bool = False
) -> dict[str, LabelledFiles]:
    """The images of a path or a name on the Hub: "train", and "test" and "val" if there.

    has_test: the test images come from elsewhere, so that a val/ is the val part, not the test for want of another.
    few: a class folder may be empty.
    """
    if is_table(data):
        parts = open_table(data, columns)
        if has_test and "test" in parts and not (own := parts.pop("test")).folder.startswith("test"):
            parts["val"] = own
        return parts
    archives = _archives(data)
    place = Path(data).expanduser() if archives else _existing(data, what)
    if not archives:
        tree = list_images(place)
        archives = [] if tree.files.names or not place.is_dir() else sorted(place.glob("*.tar"))
    return _class_parts(place, list_archives(archives, place) if archives else tree, columns, has_test, few)


def _archives(data: str) -> list[Path]:
    """The archives of "a.tar,b.tar" or of a pattern; none for the path of one thing."""
    if Path(data).expanduser().exists() or not any(mark in data for mark in ",*?["):
        return []
    found: list[Path] = []
    for piece in data.split(","):
        paths = sorted(glob.glob(os.path.expanduser(piece.strip()), recursive=True))
        if not paths:
            raise ValueError(f"data {data!r}: there is nothing of the name or pattern {piece.strip()!r}")
        found += map(Path, paths)
    if len(set(found)) < len(found):
        raise ValueError(f"data {data!r} names an archive twice")
    return found


def _class_parts(place: Path, tree: FileTree, columns: Columns, has_test: bool, few: bool) -> dict[str, LabelledFiles]:
    """The images of a folder, or of one or more archives; ValueError if they are not laid out by class."""
    left_out = tree.left_out.copy()
    folders = [tuple(nfc(name).split("/")) for name in tree.folders]
    by_table = csv_paths(place, tree.files.names, columns)
    if by_table is None:
        paths = [tuple(nfc(name).split("/")) for name in tree.files.names]
    else:
        paths, folders = [tuple(map(nfc, path)) for path in by_table[0] if path], []
        chosen = np.array([i for i, path in enumerate(by_table[0]) if path], np.int64)
        tree = replace(tree, files=tree.files.subset(chosen))
        left_out.update(by_table[1])
    if not paths:
        raise ValueError(
            f"no images in {str(place)!r} ({sum(tree.left_out.values())} other files); expected <class>/<image> with "
            f"the endings {' '.join(sorted(EXTENSIONS))}"
        )
    prefix: tuple[str, ...] = ()
    # One leading folder, as archives tend to have; and a lone train/ in it.
    while len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 2 and len(prefix) < 2:
        lead = paths[0][0]
        if prefix and lead not in ("train", *TEST_FOLDERS):
            break
        here = {folder[0] for folder in folders}
        if lead == "train" and here & set(TEST_FOLDERS):
            raise ValueError(
                f"{str(place)!r} has a folder {'/'.join((*prefix, min(here & set(TEST_FOLDERS))))!r} without images"
            )
        prefix = (*prefix, lead)
        paths = [path[1:] for path in paths]
        folders = [folder[1:] for folder in folders if folder[0] == lead and len(folder) > 1]
    rows_of = parts_of(paths)
    if not rows_of:
        parts = {"train": _one_part(tree.files, paths, {folder[0] for folder in folders if len(folder) == 1}, few)}
    else:
        used = {paths[rows[0]][0] for rows in rows_of.values()}
        left_out.update(f"in {path[0]}/" for path in paths if len(path) > 1 and path[0] not in used)
        left_out["beside train/"] += sum(len(path) == 1 for path in paths)
        parts = {}
        for word, rows in rows_of.items():
            first = paths[rows[0]][0]
            inner = {folder[1] for folder in folders if len(folder) == 2 and folder[0] == first}
            parts[word] = replace(
                _one_part(tree.files.subset(rows), [paths[i][1:] for i in rows], inner, few, word != "train"),
                folder=f"{first}/",
            )
        if has_test and "test" in parts:
            own = parts.pop("test")
            if own.folder != "test/":
                parts["val"] = own
            else:
                left_out[f"in {own.folder} (there is test_data)"] += len(own.labels)
    tell_left_out(place, sum(len(part.labels) for part in parts.values()), +left_out)
    return parts


def _is_text(word: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in word)


def _one_part(
    files: ImageFiles, paths: list[tuple[str, ...]], folders: set[str], few: bool, beside: bool = False
) -> LabelledFiles:
    """Files whose paths must be <class>/<image>; an empty class folder is an error unless `few`, as is a single class.

    One error tells of all that is wrong. beside: of a part whose classes are compared with those of the training part.
    """
    faults = []
    if amiss := [i for i, path in enumerate(paths) if len(path) != 2]:
        words = listed(map(files.where, amiss))
        faults.append(
            f"{'image' if len(amiss) == 1 else f'{len(amiss):,} images,'} {words} must lie in a class folder: expected "
            "<class>/<image> or train/<class>/<image> beside test/ or val/, with at most one folder around all of it"
        )
    known = {path[0] for path in paths if len(path) == 2}
    if few and known:
        known |= folders
    if empty := sorted(folders - known - {paths[i][0] for i in amiss}):
        words, one = listed(map(repr, empty), between=", "), len(empty) == 1
        faults.append(
            f"class folder{'' if one else 's'} {words} in {str(files.place)!r} {'has' if one else 'have'} no images "
            f"(endings: {' '.join(sorted(EXTENSIONS))}); fill {'it, remove it' if one else 'them, remove them'}, or "
            f"put a dot before {'its name' if one else 'their names'}"
        )
    if no_text := [word for word in sorted(known) if not _is_text(word)]:
        faults.append(
            f"class folder {listed(map(repr, no_text), between=', ')} in {str(files.place)!r}: a name that is no text "
            "in UTF-8, which no file of a network can hold; rename it"
        )
    if len(known) == 1 and not beside:
        faults.append(f"{str(files.place)!r} has only one class, {min(known)!r}; expected a folder for each of several")
    if faults:
        raise ValueError("; ".join(faults))
    classes = tuple(sorted(known))
    number = {word: label for label, word in enumerate(classes)}
    return LabelledFiles(files, classes, np.array([number[path[0]] for path in paths], dtype=np.int64))


def _same_classes(train: LabelledFiles, test: LabelledFiles) -> None:
    """ValueError that lists the difference unless both parts have the same classes."""
    if train.classes == test.classes:
        return
    faults = []
    for words, where in (
        (sorted(set(train.classes) - set(test.classes)), f"only in {train.folder or 'the training images'}"),
        (
            sorted(set(test.classes) - set(train.classes)),
            f"only in {test.folder or 'the test images'}",
        ),
    ):
        if words:
            more = f" and {len(words) - 5} more" if len(words) > 5 else ""
            faults.append(f"{where}: {', '.join(map(repr, words[:5]))}{more}")
    one, other = (str(part.files.place / part.folder) for part in (train, test))
    raise ValueError(
        f"the classes of {one!r} ({len(train.classes)}) and {other!r} ({len(test.classes)}) differ; {'; '.join(faults)}"
    )


def _default_size(files: ImageFiles) -> int:
    """The size in pixels that all images share, if it is small; else that of photographs."""
    sizes = set()
    for i in range(len(files)):
        with contextlib.suppress(UnreadableImage):  # which is told when the image is read
            sizes.add(files.size(i))
        if len(sizes) > 1 or any(max(size) > NATIVE_PIXELS for size in sizes):
            return PHOTOGRAPH_SIZE
    return min(sizes.pop()) if sizes else PHOTOGRAPH_SIZE
