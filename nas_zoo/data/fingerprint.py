"""What tells two data sets apart: a hash of all labels and of every file's contents, or of all pixels held in memory.

index = FileIndex(Path("runs/x/data_index.jsonl"))
fingerprint(source, index)      # a file whose path, size and time are those of the index is not read again
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from tqdm import tqdm

from nas_zoo.data.index import Facts, one_at_a_time
from nas_zoo.data.sources import ImageFiles, ImageSource
from nas_zoo.runs.distributed import is_first
from nas_zoo.runs.files import write_text

__all__ = ["FileIndex", "data_state", "fingerprint", "fingerprints", "is_same_data", "take_up_data"]

_INDEX_NAME = "data_index.jsonl"  # in the folder of a run

_OLD_DIGITS = 16  # of a fingerprint as runs before November 2026 have it


class FileIndex:
    """Hashes of files' contents by path, size and time of change, in a file beside the run (JSON lines).

    path None: nothing is kept. writes: whether this process writes the file. A damaged index is made anew.
    """

    def __init__(self, path: Path | None, writes: bool = True) -> None:
        self.path, self.writes = path, writes
        self._known: dict[str, dict[str, list[object]]] = {}  # place: name: size, time, hash
        try:
            lines = [] if path is None or not path.is_file() else path.read_text("utf-8").splitlines()
            entries: dict[str, list[object]] = {}
            for line in lines:
                name, *entry = json.loads(line)
                if entry:
                    bytes.fromhex(entry[2])
                    entries[name] = entry
                else:
                    entries = self._known.setdefault(name, {})
        except (OSError, ValueError, TypeError, IndexError, RecursionError):
            self._known = {}

    def digests(self, files: ImageFiles) -> list[str]:
        """32 hex digits for each file, which is read only where its path, size or time has changed.

        Of a large set they are kept in the index beside the data, from where every run has them.
        """
        with one_at_a_time(files.place):
            facts, rows = files.facts(), files.rows
            if facts is not None and rows is not None:
                return self._large(files, facts, rows)
        place = os.path.abspath(files.place)
        known = self._known.get(place, {})
        stamps = [list(files.stamp(i)) for i in range(len(files))]
        found = [known.get(name, []) for name in files.names]
        missing = [i for i, (entry, stamp) in enumerate(zip(found, stamps, strict=True)) if entry[:2] != stamp]

        for i, digest in zip(missing, _hashed(files, missing), strict=True):
            found[i] = [*stamps[i], digest.hex()]
        if missing and (files.blobs is None or hasattr(files.blobs, "stamp")):
            self._known[place] = known | dict(zip(files.names, found, strict=True))
            self._write()
        return [str(entry[2]) for entry in found]

    def _large(self, files: ImageFiles, facts: Facts, rows: np.ndarray) -> list[str]:
        facts.forget_changed(rows, files.stamps())
        missing = np.flatnonzero(~facts.digests[rows].any(1)).tolist()
        for i, digest in zip(missing, _hashed(files, missing), strict=True):
            facts.digests[rows[i]] = np.frombuffer(digest, np.uint8)
        if missing:
            facts.save()
        text = facts.digests[rows].tobytes().hex()
        return [text[at : at + 32] for at in range(0, len(text), 32)]

    def _write(self) -> None:
        if self.path is None or not self.writes:
            return
        lines = []
        for place, entries in self._known.items():
            lines += [json.dumps([place]), *(json.dumps([name, *entry]) for name, entry in entries.items())]
        with contextlib.suppress(OSError):  # it saves time only, and the folder may be one that is only read
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path, "\n".join(lines) + "\n")


def _hashed(files: ImageFiles, which: Sequence[int]) -> Iterator[bytes]:
    """16 bytes of each file's contents."""

    def digest(part: Sequence[int]) -> list[bytes]:
        return [hashlib.blake2b(files.read(i), digest_size=16).digest() for i in part]

    parts = [which[first : first + 64] for first in range(0, len(which), 64)]  # a thread's task costs more than a file
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(which), desc=f"hashing {files.place.name}", unit="file", delay=2, disable=None) as bar,
    ):
        for digests in pool.map(digest, parts):
            yield from digests
            bar.update(len(digests))


def fingerprint(source: ImageSource, index: FileIndex | None = None) -> str:
    """32 hex digits of classes, size, labels and every image: of the pixels where they are held, else of the files."""
    facts = json.dumps([source.classes, source.image_size, source.in_chans])
    digest = hashlib.blake2b(facts.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(source.labels.tobytes())
    if source.images is not None:
        digest.update(np.ascontiguousarray(source.images).data)
    else:
        assert source.files is not None
        for text in (index or FileIndex(None)).digests(source.files):
            digest.update(bytes.fromhex(text))
    return digest.hexdigest()


def fingerprints(sources: Sequence[ImageSource], folder: Path, accelerator: Accelerator) -> list[str]:
    """``fingerprint`` of each; the first process leaves an index of the files in the run's folder to the others."""
    with accelerator.main_process_first():
        index = FileIndex(folder / _INDEX_NAME, writes=accelerator.is_main_process)
        return [fingerprint(source, index) for source in sources]


def data_state(source: ImageSource, now: Sequence[str] | str) -> dict[str, Any]:
    """What a checkpoint holds of the data: fingerprints, and which images the run has gone on without."""
    return {"data": now, "unreadable": sorted(source.skips.found)}


def take_up_data(state: Mapping[str, Any], sources: Sequence[ImageSource], now: Sequence[str]) -> None:
    """Takes up what ``data_state`` gave. ValueError where a fingerprint is none of the sources': see ``is_same_data``.

    UnreadableImage where the run has met more unreadable images than it may go on without.
    """
    saved = [state["data"]] if isinstance(state["data"], str) else state["data"]
    if not is_same_data(saved, sources, now):
        raise ValueError(
            f"data={sources[0].name!r} holds other images or labels than the data the checkpoint was made with"
        )
    before = [_as_it_lies_now(str(error), sources[0]) for error in state.get("unreadable", ())]
    sources[0].skips.agree(before, tell=is_first())


_UNREADABLE = re.compile(r"((?:corrupt image|cannot read) ('.*?'|\".*?\") in )(?:'[^']*'|\"[^\"]*\")(.*)", re.DOTALL)


def _as_it_lies_now(error: str, source: ImageSource) -> str:
    """The words on an image that cannot be read, of data that may lie elsewhere now: each image is counted once."""
    if (match := _UNREADABLE.fullmatch(error)) is None:
        return error
    for other in source.skips.found:  # as it was opened
        now = _UNREADABLE.fullmatch(other)
        if now is not None and (now[1], now[3]) == (match[1], match[3]):
            return other
    names = () if source.files is None else source.files.names
    which = next((i for i, name in enumerate(names) if repr(name) == match[2]), None)
    if which is None or source.files is None:
        return error
    return match[1].removesuffix(f"{match[2]} in ") + source.files.where(which) + match[3]


def is_same_data(saved: Sequence[str], sources: Sequence[ImageSource], now: Sequence[str]) -> bool:
    """Whether a checkpoint's fingerprints are those of the sources, `now`; one may have fewer parts than these.

    Runs before November 2026 wrote another fingerprint, of all labels and the first image only: it is computed again.
    """
    return all(
        old == (_old_fingerprint(source) if len(old) == _OLD_DIGITS else new)
        for old, source, new in zip(saved, sources, now, strict=False)
    )


def _old_fingerprint(source: ImageSource) -> str:
    digest = hashlib.sha256(json.dumps([source.classes, source.image_size, source.in_chans]).encode())
    digest.update(source.labels.tobytes())
    digest.update(source.image(0).tobytes())
    return digest.hexdigest()[:_OLD_DIGITS]
