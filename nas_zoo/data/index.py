"""What is known of a large set of files, kept beside it: names, and of each file its size in pixels and its contents.

A folder of a million files is listed once, and each header and each byte is read once, by the first process of the
first program. Later ones compare: of a folder the time of change of every folder in it, of an archive its size and
time, of every file both. What has changed is read again. The index is a file `.NAME.nas_zoo-KIND.npz` beside the data,
or in the user's cache where that place is only read. Sets of fewer than MIN_FILES files are as quickly read themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from nas_zoo.runs.files import replacing

__all__ = [
    "INDEX_MARK",
    "MIN_FILES",
    "Facts",
    "Names",
    "cache_folder",
    "load_index",
    "one_at_a_time",
    "save_index",
    "settled",
]

MIN_FILES = 10_000
INDEX_MARK = ".nas_zoo-"  # in the names of indexes
_VERSION = 1
_UNSETTLED_NS = 2 * 10**9  # what changed so shortly before it was indexed may have changed again within a clock's tick
# What NumPy raises on a damaged file, as its zip and its headers do.
_DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError, SyntaxError, zipfile.BadZipFile, zlib.error,
            NotImplementedError, OverflowError, MemoryError)  # fmt: skip


class Names(Sequence[str]):
    """Many texts as one array of bytes: a million names take their characters, and processes share them."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        self._set(np.frombuffer(b"".join(encoded), np.uint8), np.cumsum(lengths) - lengths, lengths)

    def _set(self, data: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self._data, self._starts, self._lengths = data, starts, lengths

    @classmethod
    def of(cls, data: np.ndarray, lengths: np.ndarray) -> Names:
        """From ``arrays``; ValueError where they do not belong together."""
        if data.dtype != np.uint8 or lengths.dtype != np.int64 or lengths.sum() != len(data) or (lengths < 0).any():
            raise ValueError("names and lengths differ")
        made = cls.__new__(cls)
        made._set(data, np.cumsum(lengths) - lengths, lengths)
        return made

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """All characters (uint8) and the bytes of each text (int64)."""
        whole = Names(self) if int(self._lengths.sum()) != len(self._data) else self
        return whole._data, whole._lengths

    def take(self, rows: np.ndarray) -> Names:
        """The texts of `rows`; the characters stay shared."""
        made = Names.__new__(Names)
        made._set(self._data, self._starts[rows], self._lengths[rows])
        return made

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return self.take(np.arange(len(self))[i])
        start = int(self._starts[i])
        return self._data[start : start + int(self._lengths[i])].tobytes().decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        data = self._data.tobytes()
        for start, length in zip(self._starts.tolist(), self._lengths.tolist(), strict=True):
            yield data[start : start + length].decode("utf-8", "surrogatepass")

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Names of {len(self)}: {', '.join(self[:3])}"


def cache_folder() -> Path:
    """Where downloads go: $NAS_ZOO_CACHE, else ~/.cache/nas_zoo. ValueError where the user has no home."""
    if named := os.environ.get("NAS_ZOO_CACHE"):
        return Path(named)
    try:
        return Path.home() / ".cache" / "nas_zoo"
    except RuntimeError:
        raise ValueError(
            "the user has no home folder in which downloads could lie; give --data-root or set NAS_ZOO_CACHE"
        ) from None


def _places(place: Path, kind: str) -> list[Path]:
    """Where the index of a place may lie, the better one first."""
    absolute = Path(os.path.abspath(place))
    found = [absolute.parent / f".{absolute.name}{INDEX_MARK}{kind}.npz"] if place.exists() else []
    with contextlib.suppress(ValueError):
        found.append(cache_folder() / "index" / f"{_digest(str(absolute))}{INDEX_MARK}{kind}.npz")
    return found


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def load_index(place: Path, kind: str) -> dict[str, np.ndarray] | None:
    """The arrays of an index; None where there is none that can be read."""
    for path in _places(place, kind):
        with contextlib.suppress(*_DAMAGED), open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            if int(arrays["version"]) == _VERSION:
                return {name: arrays[name] for name in arrays.files}
    return None


def save_index(place: Path, kind: str, arrays: Mapping[str, Any]) -> None:
    """Writes an index, which saves time only: where it cannot be written there is none."""
    for path in _places(place, kind):
        with contextlib.suppress(OSError, ValueError):
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.savez(file, version=np.int64(_VERSION), **arrays)
            return


def settled(times_ns: np.ndarray, begun_ns: int) -> bool:
    """Whether nothing changed so shortly before an index was begun that its time of change may miss a later change."""
    return bool((times_ns < begun_ns - _UNSETTLED_NS).all())


@contextlib.contextmanager
def one_at_a_time(place: Path) -> Iterator[None]:
    """Of the processes that a launcher has started on this machine the first one builds an index, the others wait."""
    if int(os.environ.get("LOCAL_WORLD_SIZE") or 1) < 2:
        yield
        return
    name = f"nas_zoo-{getattr(os, 'getuid', int)()}-{_digest(os.path.abspath(place))}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield


class Facts:
    """Of each file of a large listing, by its row: size and time of change, (width, height), and a hash.

    Zeros stand for what is not known.
    """

    def __init__(self, place: Path, names: Names) -> None:
        self.place = place
        data, _ = names.arrays()
        self._identity = np.frombuffer(hashlib.blake2b(data.tobytes(), digest_size=16).digest(), np.uint8)
        shapes = {"stamps": (2, np.int64), "pixels": (2, np.int64), "digests": (16, np.uint8)}
        kept = load_index(place, "files") or {}
        fitting = np.array_equal(kept.get("identity", ()), self._identity) and all(
            kept[name].shape == (len(names), width) and kept[name].dtype == kind
            for name, (width, kind) in shapes.items()
            if name in kept
        )
        for name, (width, kind) in shapes.items():
            known = kept.get(name) if fitting else None
            setattr(self, name, np.zeros((len(names), width), kind) if known is None else known)
        self.stamps: np.ndarray
        self.pixels: np.ndarray
        self.digests: np.ndarray

    def forget_changed(self, rows: np.ndarray, stamps: np.ndarray) -> None:
        """Takes `stamps` for those of the files now; nothing more is known of a file that had another."""
        changed = rows[(self.stamps[rows] != stamps).any(1)]
        self.pixels[changed], self.digests[changed] = 0, 0
        self.stamps[rows] = stamps

    def save(self) -> None:
        arrays = {"stamps": self.stamps, "pixels": self.pixels, "digests": self.digests}
        save_index(self.place, "files", {"identity": self._identity, **arrays})
