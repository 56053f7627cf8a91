"""Labelled images as one type, whether they lie decoded in memory or as files in a folder, a tar or a zip."""

from __future__ import annotations

import contextlib
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from nas_zoo.data import index
from nas_zoo.data.index import Facts, Names
from nas_zoo.data.pictures import DECODE_ERRORS, RESAMPLING, Part, decode, open_picture, read_file
from nas_zoo.runs.ending import Agreed
from nas_zoo.text import counted, listed

__all__ = [
    "ImageFiles",
    "ImageSource",
    "LabelledFiles",
    "Skips",
    "UnreadableImage",
    "checked_indices",
    "decode_all",
    "decode_readable",
]

logger = logging.getLogger("nas_zoo")

DEVICE_LIMIT_GB = 2.0  # decoded images up to this size live in memory, on the device
_THREADED_PIXELS = (
    96 * 96
)  # below it, threads wait for each other longer than they decode (measured at 32x32: 2x slower)


class UnreadableImage(ValueError):
    """One image that cannot be read; the text names it."""


class TooManyUnreadable(UnreadableImage, Agreed):
    """More of them than the program may go on without, counted over all processes."""


class Skips:
    """The images that a program goes on without, each named once; more than `limit` over all processes end it.

    offered: whether the program has a setting skip_unreadable, which its errors then speak of. noted: what this process
    has found and the others have not been told of.
    """

    def __init__(self, limit: int = 0, offered: bool = False) -> None:
        self.limit, self.offered = limit, offered
        self.found: set[str] = set()
        self.noted: set[str] = set()
        self._held: set[str] | None = None

    def add(self, error: str, begun: bool = False) -> None:
        """Counts one more; UnreadableImage if there are too many now. begun: a run would have to be resumed."""
        if self._held is None:
            self._count({error} - self.found, begun, UnreadableImage, tell=True)
        elif error not in self.found:
            self._held.add(error)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Counts what is added in the block at its end, so that one error tells all; a block within is part of it."""
        if self._held is not None:
            yield
            return
        self._held = held = set[str]()
        try:
            yield
        finally:
            self._held = None
        self._count(held, False, UnreadableImage, tell=True)

    @property
    def known(self) -> set[str]:
        """All so far, those of the block too."""
        return self.found | (self._held or set())

    def too_many(self) -> str | None:
        """What the end of the block is going to refuse."""
        return self._refusal(self._held or set(), begun=False)

    def agree(self, noted: Iterable[str], tell: bool) -> None:
        """Counts what all processes have noted; each calls it at the same place, and one of them tells it."""
        self.noted = set()
        new = set(noted) - self.found
        try:
            self._count(new, True, TooManyUnreadable, tell)
        finally:
            self.found |= new  # the state that is saved now has gone on without them

    def _count(self, new: set[str], begun: bool, too_many: type[UnreadableImage], tell: bool) -> None:
        if (refusal := self._refusal(new, begun)) is not None:
            raise too_many(refusal)
        for error in sorted(new):
            self.found.add(error)
            if tell:
                logger.warning("%s; skipped (%d of at most %d)", error, len(self.found), self.limit)

    def _refusal(self, new: set[str], begun: bool) -> str | None:
        many = len(self.found) + len(new)
        if not new or many <= self.limit:
            return None
        told = sorted(new)[max(0, self.limit - len(self.found)) :]
        it = "it" if len(told) == 1 else "them"
        words = ("" if len(told) == 1 else f"{len(told):,} images cannot be read: ") + listed(told)
        before = f" ({counted(many - len(told), 'other')} skipped before)" if many > len(told) else ""
        flag, cure = f"--skip-unreadable {many}", f"replace or remove {it}"
        if self.offered:
            cure = f"go on without {it}: --resume {flag}" if begun else f"{cure}, or leave {it} out: {flag}"
        return f"{words}{before}; {cure}"


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Encoded images that can be read one by one, from any process or thread.

    `names` are paths inside `place` (a folder or an archive). With `blobs` image i is held in memory or in a table,
    with `spans` it is a part of the file `place`, or of the one of `archives` (N, 5: offset, bytes there, bytes once
    inflated or -1, CRC-32 or -1, number of the archive), and with neither it is the file `place / names[i]`. In the
    listing `whole`, of which these are a part, image i has the number `rows[i]`.
    """

    place: Path
    names: Sequence[str]
    spans: np.ndarray | None = None
    blobs: Sequence[bytes] | None = None
    archives: tuple[Path, ...] = ()
    whole: Names | None = None
    rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> bytes:
        """The encoded bytes of image i; UnreadableImage naming it if it has gone since it was listed."""
        try:
            if self.blobs is not None:
                return self.blobs[i]
            if self.spans is None:
                return read_file(self._file(i))
            offset, stored, size, checksum, _ = (int(v) for v in self.spans[i])
            with open(self._file(i), "rb") as archive:  # opened anew: a file position shared by workers would be a race
                archive.seek(offset)
                data = archive.read(stored)
            whole = len(data) == stored
            if size >= 0:  # a byte more than it should have, so that more is noticed, and not unpacked
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
                whole = len(data) == size
            if not whole or (checksum >= 0 and zlib.crc32(data) != checksum):
                raise ValueError("the archive is damaged there, or has been changed since it was listed")
            return data
        except (OSError, ValueError, zlib.error) as error:
            raise UnreadableImage(f"cannot read {self.where(i)}: {error}") from error

    def where(self, i: int) -> str:
        """Words that name image i in an error."""
        return f"{self.names[i]!r} in {str(self.place if self.spans is None else self._file(i))!r}"

    def _file(self, i: int) -> str | Path:
        """The file that image i is, or is a part of."""
        if self.spans is not None:
            return self.archives[self.spans[i, 4]] if self.archives else self.place
        return self.place if self.blobs is not None else os.path.join(self.place, self.names[i])

    def subset(self, indices: Iterable[int]) -> ImageFiles:
        """The files of `indices`, in their order."""
        rows = np.fromiter(indices, np.int64)
        return replace(
            self,
            names=_taken(self.names, rows),
            spans=None if self.spans is None else self.spans[rows],
            blobs=None if self.blobs is None else _taken(self.blobs, rows),
            rows=None if self.rows is None else self.rows[rows],
        )

    def decode(
        self,
        i: int,
        image_size: int,
        in_chans: int,
        *,
        crop_pct: float = 1.0,
        part: Part | None = None,
        interpolation: str = "bilinear",
    ) -> np.ndarray:
        """Image i as uint8 (image_size, image_size, in_chans).

        As `pictures.decode` makes it; with `part`, the part of the original image that it names. UnreadableImage if it
        is corrupt.
        """
        data = self.read(i)
        try:
            resampling = RESAMPLING[interpolation]
            return decode(data, image_size, in_chans, crop_pct=crop_pct, part=part, resampling=resampling)
        except DECODE_ERRORS as error:
            raise self._corrupt(i, error) from error

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of image i as its header says; UnreadableImage if the header is corrupt."""
        try:
            if self.spans is None and self.blobs is None:
                with open(self._file(i), "rb") as stream:  # the header only, not the whole photograph
                    return open_picture(stream).size
            return open_picture(self.read(i)).size
        except DECODE_ERRORS as error:
            raise self._corrupt(i, error) from error

    def stamp(self, i: int) -> tuple[int, int]:
        """Bytes and time of change (ns) of the file that image i is, or is a part of."""
        if (stamp := getattr(self.blobs, "stamp", None)) is not None:  # of the files of a table
            return stamp
        try:
            files = [self._file(i)] if self.blobs is None else self.archives or [self.place]
            found = [os.stat(file) for file in files]
        except OSError as error:
            raise UnreadableImage(f"cannot read {self.where(i)}: {error}") from error
        return sum(one.st_size for one in found), max(one.st_mtime_ns for one in found)

    def stamps(self) -> np.ndarray:
        """``stamp`` of each, (N, 2) int64; zeros for one that has gone, which is told where it is read."""
        if self.spans is not None or self.blobs is not None:
            number = np.zeros(len(self), np.int64) if self.spans is None else self.spans[:, 4]
            which, first, back = np.unique(number, return_index=True, return_inverse=True)
            return np.array([self.stamp(int(i)) for i in first], np.int64).reshape(len(which), 2)[back]
        found: list[tuple[int, int]] = []
        above = os.path.join(self.place, "")
        for name in self.names:
            try:
                now = os.stat(above + name)
                found.append((now.st_size, now.st_mtime_ns))
            except OSError:
                found.append((0, 0))
        return np.array(found, np.int64).reshape(-1, 2)

    def facts(self) -> Facts | None:
        """What an index knows of the listing that these are a part of; None for a small one, and with `blobs`."""
        if self.whole is None or self.rows is None or self.blobs is not None or len(self.whole) < index.MIN_FILES:
            return None
        return Facts(self.place, self.whole)

    def unreadable_headers(self) -> dict[int, UnreadableImage]:
        """By number, the images whose headers cannot be read; of a large set only what has changed is looked at."""
        faults: dict[int, UnreadableImage] = {}
        with index.one_at_a_time(self.place):
            facts, rows = self.facts(), self.rows
            todo = np.arange(len(self))
            if facts is not None and rows is not None:
                facts.forget_changed(rows, self.stamps())
                todo = np.flatnonzero(facts.pixels[rows, 0] == 0)
            for i in tqdm(todo.tolist(), f"checking {self.place.name}", unit="image", delay=2, disable=None):
                try:
                    size = self.size(i)
                    if facts is not None and rows is not None:
                        facts.pixels[rows[i]] = size
                except UnreadableImage as error:
                    faults[i] = error
            if facts is not None and len(todo):
                facts.save()
        return faults

    def _corrupt(self, i: int, error: BaseException) -> UnreadableImage:
        return UnreadableImage(f"corrupt image {self.where(i)}: {error or type(error).__name__}")


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """The images of one split with the class each is of; `folder` is what they lie in, where the splits have one."""

    files: ImageFiles
    classes: tuple[str, ...]
    labels: np.ndarray
    folder: str = ""

    def subset(self, rows: np.ndarray) -> LabelledFiles:
        return replace(self, files=self.files.subset(rows), labels=self.labels[rows])


def _taken(held: Any, rows: np.ndarray) -> Any:
    """The items of `rows`, by a sequence's own `take` where it has one."""
    take = getattr(held, "take", None)
    return tuple(held[i] for i in rows.tolist()) if take is None else take(rows)


@dataclass(frozen=True, eq=False)
class ImageSource:
    """One split of a data set: N images with labels, decoded (`images`), as files (`files`) or both.

    labels (N,) int64 in [0, len(classes)); images (N, H, W, in_chans) uint8; mean and std per channel on the 0..1
    scale, of the training split; image_size in pixels, the side of `image(i)`, to which images held in another size are
    resized when asked for; crop_pct: the part of the shorter side that the centre crop keeps (1: all of it);
    interpolation: how they are resized, a name of RESAMPLING; flip_ok: a mirrored image is still of its class;
    part: the folder of the data set that these images lie in, such as "valid/".
    skips: what batches of it may go on without.
    """

    name: str
    classes: tuple[str, ...]
    labels: np.ndarray = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_chans: int
    image_size: int
    images: np.ndarray | None = field(default=None, repr=False)
    files: ImageFiles | None = field(default=None, repr=False)
    flip_ok: bool = True
    crop_pct: float = 1.0
    interpolation: str = "bilinear"
    part: str = ""
    skips: Skips = field(default_factory=Skips, repr=False)

    def __post_init__(self) -> None:
        count = len(self.labels)
        if self.images is None and self.files is None:
            raise ValueError(f"{self.name}: an image source needs images or files")
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise ValueError(
                f"{self.name}: labels must be one int64 an image, got {self.labels.dtype} {self.labels.shape}"
            )
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes):
            raise ValueError(
                f"{self.name}: labels from {self.labels.min()} to {self.labels.max()} do not fit its "
                f"{counted(len(self.classes), 'class', 'classes')}"
            )
        if self.images is not None and (
            self.images.ndim != 4 or self.images.dtype != np.uint8 or self.images.shape[3] != self.in_chans
        ):
            raise ValueError(
                f"{self.name}: images must be uint8 (N, H, W, {self.in_chans}), "
                f"got {self.images.dtype} {self.images.shape}"
            )
        for what, held in (("images", self.images), ("files", self.files)):
            if held is not None and len(held) != count:
                raise ValueError(f"{self.name}: {len(held)} {what} for {counted(count, 'label')}")
        if len(self.mean) != self.in_chans or len(self.std) != self.in_chans:
            raise ValueError(f"{self.name}: mean {self.mean} and std {self.std} must have {self.in_chans} values each")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def subset(self, indices: Sequence[int] | np.ndarray) -> ImageSource:
        """The images of `indices` in their order; classes, mean and std stay those of the whole."""
        rows = checked_indices(indices, len(self), self.name)
        return replace(
            self,
            labels=self.labels[rows],
            images=None if self.images is None else self.images[rows],
            files=None if self.files is None else self.files.subset(rows),
        )

    def image(self, i: int, image_size: int | None = None, part: Part | None = None) -> np.ndarray:
        """Image i as uint8 (size, size, in_chans) with size = image_size, by default the source's own (see `fit`)."""
        i = range(len(self))[i]
        held = None if self.images is None else self.images[i]
        size = image_size or self.image_size
        if held is not None and part is None and held.shape[:2] == (size, size):
            return held
        if self.files is not None:  # from the original pixels: an image that was resized once is not resized again
            return self.files.decode(
                i, size, self.in_chans, crop_pct=self.crop_pct, part=part, interpolation=self.interpolation
            )
        assert held is not None
        picture = Image.fromarray(held[:, :, 0] if self.in_chans == 1 else held)
        resampling = RESAMPLING[self.interpolation]
        return decode(picture, size, self.in_chans, crop_pct=self.crop_pct, part=part, resampling=resampling)

    def readable(self, image_size: int) -> tuple[np.ndarray, np.ndarray]:
        """`decoded` without what is skipped, and the rows that are left."""
        if self.images is not None:
            return self.decoded(image_size), np.arange(len(self))
        words = f"{self.name}: decoding"
        return decode_readable(
            lambda i: self.image(i, image_size), len(self), image_size, self.in_chans, words, self.skips
        )

    def decoded(self, image_size: int) -> np.ndarray:
        """All images as uint8 (N, image_size, image_size, in_chans); the array that is held where it fits already."""
        if self.images is not None and self.images.shape[1:3] == (image_size, image_size):
            return self.images
        return decode_all(
            lambda i: self.image(i, image_size), len(self), image_size, self.in_chans, f"{self.name}: decoding"
        )


def checked_indices(indices: Sequence[int] | np.ndarray, count: int, name: str) -> np.ndarray:
    rows = np.asarray(indices)
    if rows.size == 0:
        raise ValueError(f"{name}: no samples chosen (an empty list of indices)")
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= count:
        raise ValueError(f"{name}: sample indices must be whole numbers from 0 to {count - 1}")
    return rows.astype(np.int64)


def decode_readable(
    one: Callable[[int], np.ndarray], count: int, image_size: int, in_chans: int, words: str, skips: Skips
) -> tuple[np.ndarray, np.ndarray]:
    """`decode_all` of those that can be read, and their numbers; the others are counted by `skips`."""
    unreadable: list[int] = []

    def one_or_black(i: int) -> np.ndarray:
        try:
            return one(i)
        except UnreadableImage as error:
            skips.add(str(error))
            unreadable.append(i)
            return np.zeros((image_size, image_size, in_chans), np.uint8)

    with skips.together():
        images = decode_all(one_or_black, count, image_size, in_chans, words)
    rows = np.delete(np.arange(count), unreadable)
    return (images[rows] if unreadable else images), rows


def decode_all(one: Callable[[int], np.ndarray], count: int, image_size: int, in_chans: int, words: str) -> np.ndarray:
    """uint8 (count, image_size, image_size, in_chans) of one(0), one(1) ...; a progress bar where it takes long."""
    images = np.empty((count, image_size, image_size, in_chans), dtype=np.uint8)

    def work(rows: range) -> int:
        for i in rows:
            images[i] = one(i)
        return len(rows)

    parts = [range(first, min(first + 64, count)) for first in range(0, count, 64)]
    threads = 1 if image_size**2 < _THREADED_PIXELS else min(8, os.cpu_count() or 1)
    with tqdm(total=count, desc=words, unit="image", delay=2.0, disable=None) as bar:
        if threads == 1:
            for rows in parts:
                bar.update(work(rows))
        else:
            with ThreadPoolExecutor(threads) as pool:
                try:
                    for done in pool.map(work, parts):
                        bar.update(done)
                except BaseException:
                    pool.shutdown(wait=True, cancel_futures=True)  # the first bad image ends it, not the last part
                    raise
    return images
