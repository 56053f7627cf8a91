"""Looks at the pictures before anything long starts: classes, sizes, what cannot be read, what lies in two places.

A picture is the same as another where their decoded pixels are, whatever their files are called, and where they are
nearly so once both are shrunk to 16 x 16 pixels, as after resizing or saving as JPEG again. What a person would want to
know is told in sentences; what cannot be trained on is refused.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from nas_zoo.data.augment import epoch_order
from nas_zoo.data.division import Division, image_names
from nas_zoo.data.pictures import DECODE_ERRORS, decode, open_picture
from nas_zoo.data.sources import ImageSource, UnreadableImage
from nas_zoo.models.results import titles_of_classes
from nas_zoo.text import counted, listed, plain

__all__ = ["LEAST_IN_CLASS", "Look", "Seen", "divide", "look", "same_pictures", "see"]

LEAST_IN_CLASS = 10  # of all parts together: some train, some watch, some test
FEW_IN_CLASS = 50  # below it a class is told of
IMBALANCE = 3.0  # largest class over smallest, from which on it is told
VAL_SHARE = 0.1  # of each class of the training part
_THUMB = 16  # side of what two pictures are compared by
_COMPARED_PIXELS = 32  # smaller pictures are the same only where all their pixels are
_NEAR = 3.0  # mean difference of grey values, of 255, up to which two thumbnails are of one picture
_FLAT = 8.0  # standard deviation of grey values below which a picture shows too little to be compared


class Seen(NamedTuple):
    """What was seen of a picture."""

    digest: str  # of its decoded pixels
    width: int
    height: int
    thumb: bytes = b""  # grey, 16 x 16; empty for a picture that is compared by all its pixels only


@dataclass(frozen=True)
class Look:
    """What was found; names are as ``image_names`` gives them, with the part before them."""

    data: str
    classes: tuple[str, ...]
    counts: dict[str, dict[str, int]]  # part: class: pictures that are used; train, val, test
    widths: tuple[int, int, int]  # least, median, largest, in pixels
    heights: tuple[int, int, int]
    shorter: int  # median of the shorter side
    channels: int
    unreadable: tuple[str, ...] = ()
    repeated: tuple[tuple[str, ...], ...] = ()  # the same picture several times in one class of one part
    contradictions: tuple[tuple[str, ...], ...] = ()  # the same picture in several classes
    leaks: tuple[tuple[str, ...], ...] = ()  # the same picture in several parts
    left_out: tuple[str, ...] = ()  # training pictures that are not used, because another part has them
    held_out: tuple[str, ...] = ("val",)  # parts that the data set did not have
    fingerprints: tuple[str, ...] = field(default=(), repr=False)

    @property
    def n(self) -> dict[str, int]:
        """Pictures of each part."""
        return {part: sum(counts.values()) for part, counts in self.counts.items()}

    @property
    def imbalance(self) -> float:
        """The largest class over the smallest, of the training part."""
        sizes = self.counts["train"].values()
        return max(sizes) / max(1, min(sizes))

    def sentences(self) -> list[str]:
        """What there is to say, most important last."""
        n, title = self.n, titles_of_classes(self.classes)
        train, test = (
            {title[word]: number for word, number in self.counts[part].items()} for part in ("train", "test")
        )
        wide, high = self.widths, self.heights
        size = f"{wide[1]} x {high[1]} pixels" if wide[0] == wide[2] and high[0] == high[2] else (
            f"{wide[0]} to {wide[2]} pixels wide (median {wide[1]}) and {high[0]} to {high[2]} high (median {high[1]})"
        )  # fmt: skip
        told = [
            f"{plain(self.data)}: {counted(sum(n.values()), 'picture')} of {len(self.classes)} classes, {size}.",
            f"{n['train']:,} train, {n['val']:,} watch ({_whose('val', self)}), {n['test']:,} give the final figure "
            f"({_whose('test', self)}) and decide nothing.",
        ]
        if self.unreadable:
            told.append(
                f"{counted(len(self.unreadable), 'picture')} cannot be read and left out: {listed(self.unreadable)}."
            )
        told += self.doubles()
        if self.contradictions:
            told[-1] += " look.json names all."
        if blind := [repr(word) for word, number in test.items() if not number]:
            told.append(
                f"{counted(len(blind), 'class has', 'classes have')} no test pictures: {listed(blind, between=', ')}; "
                "the final figure says nothing of them."
            )
        if few := [f"{word!r} ({number})" for word, number in train.items() if number < FEW_IN_CLASS]:
            told.append(
                f"{counted(len(few), 'class has', 'classes have')} fewer than {FEW_IN_CLASS} training pictures: "
                f"{listed(few, between=', ')}; expect large errors there."
            )
        if self.imbalance >= IMBALANCE:
            most, least = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
            told.append(
                f"The classes differ in size ({plain(most)!r} {train[most]:,}, {plain(least)!r} {train[least]:,}): "
                "the balanced accuracy, the mean over the classes, says more than the accuracy."
            )
        return told

    def doubles(self) -> list[str]:
        """What there is to say of pictures that are there several times."""
        same, told = " = ".join, list[str]()
        if self.repeated:
            told.append(
                f"{counted(len(self.repeated), 'picture')} of a class there several times: "
                f"{listed(map(same, self.repeated))}."
            )
        of_training = [names for names in self.leaks if any(name.startswith("train: ") for name in names)]
        if of_training:
            told.append(
                f"{counted(len(of_training), 'training picture')} also in the part that watches or tests; the training "
                f"copies are left out ({len(self.left_out)}): {listed(map(same, of_training))}."
            )
        if both := [names for names in self.leaks if names not in of_training]:
            told.append(
                f"{counted(len(both), 'picture')} both in the part that watches and in the one that tests, so that the "
                f"test is not quite independent; they stay in: {listed(map(same, both))}."
            )
        if self.contradictions:
            told.append(
                f"{counted(len(self.contradictions), 'picture')} in more than one class, which no network can "
                f"learn; one of the labels is wrong: {listed(map(same, self.contradictions))}. They stay in: take the "
                "wrong copies out and begin anew."
            )
        return told

    def to_dict(self) -> dict[str, Any]:
        """As look.json has it: the fields, the sentences and what follows from them."""
        return asdict(self) | {"n": self.n, "imbalance": self.imbalance, "sentences": self.sentences()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Look:
        """That of a look.json."""
        pairs = {name: record[name] for name in cls.__dataclass_fields__}
        nested = ("repeated", "contradictions", "leaks")
        frozen: dict[str, Any] = {
            key: tuple(map(tuple, value)) if key in nested else tuple(value) if isinstance(value, list) else value
            for key, value in pairs.items()
        }
        return cls(**frozen)


def _whose(part: str, found: Look) -> str:
    return "held out" if part in found.held_out else "the data set's own"


def see(source: ImageSource, step: Callable[[int], None] | None = None) -> tuple[list[Seen | None], np.ndarray]:
    """Each picture decoded once, and which can be read: None for one that cannot, counted by the source's skips.

    `step` is told how many more have been seen.
    """
    files, images = source.files, source.images

    def one(i: int) -> Seen | None:
        if files is None:
            assert images is not None  # a source has one of them
            pixels = images[i]
        else:
            try:
                data = files.read(i)
                picture = open_picture(data)
                size = picture.size
                pixels = decode(picture, None, source.in_chans)
            except UnreadableImage as error:
                source.skips.add(str(error))
                return None
            except DECODE_ERRORS as error:
                source.skips.add(f"corrupt image {files.where(i)}: {error or type(error).__name__}")
                return None
        digest = hashlib.blake2b(np.ascontiguousarray(pixels).data, digest_size=16).hexdigest()
        height, width = pixels.shape[:2]
        if files is not None and size != (width, height):  # of what is huge or long only a part has been looked at
            width, height = size if (size[0] < size[1]) == (width < height) else size[::-1]
        return Seen(f"{digest} {width}x{height}", width, height, _thumb(pixels))

    def some(rows: range) -> list[Seen | None]:
        return [one(i) for i in rows]

    found: list[Seen | None] = []
    parts = [range(first, min(first + 64, len(source))) for first in range(0, len(source), 64)]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        try:
            for seen in pool.map(some, parts):
                found += seen
                if step is not None:
                    step(len(seen))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found, np.array([seen is not None for seen in found])


def _thumb(pixels: np.ndarray) -> bytes:
    if min(pixels.shape[:2]) < _COMPARED_PIXELS:
        return b""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("L")
    small = np.asarray(picture.resize((_THUMB, _THUMB), Image.Resampling.BOX))
    return small.tobytes() if small.std() >= _FLAT else b""


def same_pictures(seen: Sequence[Seen | None]) -> list[int]:
    """A number for each picture, equal for those that are the same; -1 for those that could not be read.

    Thumbnails are compared where they agree in one of four groups of 14 signs of differences between neighbours, so
    that not all pairs have to be.
    """
    first: dict[str, int] = {}
    number = [-1 if one is None else first.setdefault(one.digest, i) for i, one in enumerate(seen)]
    buckets = defaultdict[tuple[int, bytes], list[int]](list)
    thumbs = {
        i: np.frombuffer(one.thumb, np.uint8).reshape(_THUMB, _THUMB).astype(np.float32)
        for i, one in enumerate(seen)
        if one is not None and one.thumb and number[i] == i
    }
    for i, thumb in thumbs.items():
        pooled = thumb.reshape(8, 2, 8, 2).mean((1, 3))
        signs = (pooled[:, 1:] > pooled[:, :-1]).reshape(4, 14)
        for group, bits in enumerate(signs):
            if bits.any():  # else a plain background, which a whole set may share
                buckets[group, bits.tobytes()].append(i)

    def root(i: int) -> int:
        while number[i] != i:
            i = number[i]
        return i

    for members in buckets.values():
        together = np.stack([thumbs[j] for j in members])
        for at, i in enumerate(members[:-1]):
            away = np.abs(together[at + 1 :] - together[at]).mean((1, 2))
            for j in np.flatnonzero(away <= _NEAR):
                low, high = sorted((root(i), root(members[at + 1 + j])))
                number[high] = low
    return [i if i < 0 else root(i) for i in number]


def divide(source: ImageSource, number: Sequence[int], others: Iterable[int], seed: int, *, hold_out: bool) -> Division:
    """Which training pictures watch, and which are left out because the others have them too.

    A tenth of each class watches, one at least, as a function of the seed; what is the same picture as one of those, or
    one of `others`, does not train. `number` is that of ``same_pictures``; unreadable ones are in neither part.
    """
    taken, names = set(others), image_names(source)
    val: list[int] = []
    if hold_out:
        order = epoch_order(seed, -4, np.arange(len(source)))  # epoch -4: the order of nothing else
        for label in range(len(source.classes)):
            members = [int(i) for i in order if source.labels[i] == label]
            free = [i for i in members if number[i] >= 0 and number[i] not in taken]
            val += free[: max(1, round(VAL_SHARE * len(free)))]
    chosen = set(val)
    taken |= {number[i] for i in val}
    out = [i for i, same in enumerate(number) if same in taken and i not in chosen]
    return Division(tuple(names[i] for i in sorted(val)), tuple(names[i] for i in out), source.name, seed)


def look(
    parts: Mapping[str, ImageSource],
    seed: int,
    *,
    own_test: bool,
    fingerprints: Sequence[str] = (),
    step: Callable[[int], None] | None = None,
) -> tuple[Look, Division]:
    """What is found in the parts of a data set, and how its training part is divided.

    Args:
        parts: "train", "test" and, where the data set has one, "val".
        seed: Of the division.
        own_test: The test part is the data set's own, not held out of it.
        fingerprints: Of the parts, to be kept.
        step: Is told how many more pictures have been seen.

    Raises:
        ValueError: A class has too few pictures, or more cannot be read than may be left out. It tells of all that is
            wrong with the pictures, not of the first that was met.
    """
    train = parts["train"]
    with train.skips.together():
        seen = {part: see(source, step)[0] for part, source in parts.items()}
        found, division = _found(parts, seen, seed, own_test, tuple(fingerprints))
        refused = [*filter(None, [train.skips.too_many()]), *_too_few(parts, seen, found.counts)]
        if refused:
            raise ValueError(" ".join([f"{plain(train.name)}: {'; '.join(refused)}.", *found.doubles()]))
    return found, division


def _found(
    parts: Mapping[str, ImageSource],
    seen: Mapping[str, Sequence[Seen | None]],
    seed: int,
    own_test: bool,
    fingerprints: tuple[str, ...],
) -> tuple[Look, Division]:
    train = parts["train"]
    every = iter(same_pictures([one for part in parts for one in seen[part]]))
    number = {part: [next(every) for _ in seen[part]] for part in parts}
    others = {same for part in parts if part != "train" for same in number[part] if same >= 0}
    division = divide(train, number["train"], others, seed, hold_out="val" not in parts)
    val, out = set(division.val), set(division.left_out)
    places = defaultdict[int, list[tuple[str, str, str]]](list)  # number of a picture: (part, class, name)
    counts = {part: dict.fromkeys(train.classes, 0) for part in ("train", "val", "test")}
    for part, source in parts.items():
        for name, label, same in zip(image_names(source), source.labels, number[part], strict=True):
            if same < 0:
                continue
            mine = "val" if part == "train" and name in val else part
            word = source.classes[label]
            places[same].append((mine, word, f"{part}: {name}"))
            if not (part == "train" and name in out):
                counts[mine][word] += 1
    shared = [found for found in places.values() if len(found) > 1]
    sides = np.array([(one.width, one.height) for some in seen.values() for one in some if one is not None] or [(0, 0)])

    def names_of(found: Sequence[tuple[str, str, str]]) -> tuple[str, ...]:
        return tuple(name for _, _, name in found)

    def spread(values: np.ndarray) -> tuple[int, int, int]:
        return int(values.min()), int(np.median(values)), int(values.max())

    return Look(
        data=train.name,
        classes=train.classes,
        counts=counts,
        widths=spread(sides[:, 0]),
        heights=spread(sides[:, 1]),
        shorter=int(np.median(sides.min(1))),
        channels=train.in_chans,
        unreadable=tuple(sorted(train.skips.known)),
        repeated=tuple(
            names_of(found) for found in shared if max(Counter((part, word) for part, word, _ in found).values()) > 1
        ),
        contradictions=tuple(names_of(found) for found in shared if len({word for _, word, _ in found}) > 1),
        leaks=tuple(names_of(found) for found in shared if len({part for part, _, _ in found}) > 1),
        left_out=division.left_out,
        held_out=tuple(part for part, own in (("val", "val" in parts), ("test", own_test)) if not own),
        fingerprints=fingerprints,
    ), division


def _too_few(
    parts: Mapping[str, ImageSource], seen: Mapping[str, Sequence[Seen | None]], counts: Mapping[str, Mapping[str, int]]
) -> list[str]:
    """What there is too little of to train, to watch and to test."""
    totals = Counter(dict.fromkeys(parts["train"].classes, 0))
    for part, source in parts.items():
        totals.update(
            source.classes[label] for label, one in zip(source.labels, seen[part], strict=True) if one is not None
        )
    told = []
    if few := [f"{word!r} has {total}" for word, total in totals.items() if total < LEAST_IN_CLASS]:
        told.append(
            f"class {listed(few, 5, ', ')}; each class needs at least {LEAST_IN_CLASS} pictures, some to train, some "
            "to watch and some to test: add pictures, or take the class out"
        )
    if none := [repr(word) for word, n in counts["train"].items() if not n and totals[word] >= LEAST_IN_CLASS]:
        told.append(
            f"class {listed(none, 5, ', ')}: none is left to train on, since all are, or are the same pictures as, "
            "those that watch and test"
        )
    told += [f"none of the pictures of the {part} part can be read" for part in ("val", "test")
             if not any(counts[part].values()) and not few and not none]  # fmt: skip
    return told
