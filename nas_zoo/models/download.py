"""Fetches other people's weights into the usual cache: resumed where it stopped, checked before anything reads them.

    path = fetch_public(find_public("relativenas_c10.emi"))
    state = public_state_dict(find_public("relativenas_c10.emi"))      # of the CellNet, converted

The cache is torch's (``TORCH_HOME``, by default ~/.cache/torch), folder hub/checkpoints/nas-zoo. A download grows as
NAME.partial and gets its name when it is whole and checked: by the git blob id, SHA-256 or MD5 of its row. Of a file of
which no hash is published the SHA-256 is kept in NAME.json at first use, which is said, and compared from then on; so a
file that is damaged later, or replaced by another under the same link, is told in either case.

Whatever goes wrong is one line with the link and what to do by hand.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from nas_zoo.models.catalog import DATA, MODELS, settings_of
from nas_zoo.models.public import PublicWeights
from nas_zoo.runs.files import write_json
from nas_zoo.text import plain

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["cache_folder", "fetch_public", "public_state_dict"]

#: No file of the table is near it; a link that leads to something else might be.
MAX_BYTES = 1 << 30
#: Seconds without a byte after which a server is given up.
TIMEOUT = 60.0
#: How often a connection that broke is taken up again, as long as each brings some bytes more.
ATTEMPTS = 5

_CHUNK = 1 << 18
_log = logging.getLogger(__name__)


class _Failed(Exception):
    """Words for what went wrong, without the link."""


class _Cut(_Failed):
    """The connection broke before the end; what came is kept."""


def cache_folder() -> Path:
    """Where fetched files are kept: hub/checkpoints/nas-zoo in torch's cache.

    Raises:
        ValueError: The user has no home folder, and TORCH_HOME names no other.
    """
    from torch.hub import get_dir

    place = Path(get_dir())
    if place.parts[0].startswith("~"):  # as it stays where nobody knows a home
        raise ValueError(f"there is no home folder to keep fetched weights in ({place}): set TORCH_HOME to a folder")
    return place / "checkpoints" / "nas-zoo"


def fetch_public(
    row: PublicWeights, *, folder: Path | None = None, local_only: bool = False, timeout: float = TIMEOUT
) -> Path:
    """The file of a row, from the cache or from its authors, whole and the one that the row tells of.

    Args:
        row: Of ``nas_zoo.models.public``, one that is had by name.
        folder: To keep it in; None: ``cache_folder()``. A file that was put there by hand is taken.
        local_only: Do not ask the network.
        timeout: Seconds without a byte after which the server is given up.

    Raises:
        ValueError: It cannot be had, or is another file; one line with the link and what to do by hand.
    """
    folder = cache_folder() if folder is None else folder
    path = folder / row.file_name
    try:
        if not path.is_file():
            if local_only:
                raise _Failed(f"{path.name} is not in the cache")
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(path):
                if not path.is_file():
                    _fetch(row, path, timeout)
        _check_kept(row, path)
    except _Failed as error:
        _by_hand(row, path, str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        reason = "the disk is full" if full else error.strerror or str(error)
        _by_hand(row, path, f"it cannot be written to {folder}: {reason}")
    return path


def public_state_dict(row: PublicWeights, **how: Any) -> dict[str, Tensor]:
    """The weights of a row in our names, every tensor in its place and none left over; `how` is of ``fetch_public``.

    Raises:
        ValueError: They cannot be had, or are not of the row's model; one line.
    """
    from nas_zoo.models.convert import convert_state_dict
    from nas_zoo.models.key_schemes import find_scheme
    from nas_zoo.models.load import read_state_dict

    path = fetch_public(row, **how)
    data = DATA[MODELS[row.model]["data"]]
    try:
        read = read_state_dict(path)
        scheme = find_scheme(read)
        if scheme is not None and scheme.name != row.keys:
            raise ValueError(f"checkpoint: its names are those of {scheme.whose}, expected are those of {row.keys}")
        state = convert_state_dict(read, **settings_of(row.model), numbering=row.numbering)
        found = (state["classifier.weight"].shape[0], state["stem.0.conv.weight"].shape[1])
        wanted = (data.num_classes, row.input_size[0])
        if found != wanted:
            have, want = ("{} classes and {} image channels".format(*pair) for pair in (found, wanted))
            raise ValueError(f"checkpoint: it has {have}, the model has {want}")
    except ValueError as error:
        raise ValueError(f"weights of {row.name}, fetched from {row.link} to {path}: {error}") from None
    return state


def _by_hand(row: PublicWeights, path: Path, words: str) -> NoReturn:
    raise ValueError(
        f"weights of {row.name}: {plain(words)}; fetch {row.link} with a browser and put it at {path}, "
        f"or turn it into ours with `nas-zoo convert FILE --model {row.name} OUT.safetensors`"
    ) from None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two processes that want one file fetch it one after the other, and the second finds it there."""
    from filelock import FileLock

    with FileLock(f"{path}.lock"):
        yield


# ------------------------------------------------------------------------------------------------------ what is right


@dataclasses.dataclass(frozen=True)
class _Hashes:
    git_blob: str
    sha256: str
    md5: str


def _hashes(path: Path) -> _Hashes:
    """Of a file's bytes; git puts "blob SIZE" and a null byte in front of them."""
    blob = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            for one in (blob, sha256, md5):
                one.update(data)
    return _Hashes(blob.hexdigest(), sha256.hexdigest(), md5.hexdigest())


def _check_published(row: PublicWeights, found: _Hashes) -> None:
    """That the file is the one of the row, as far as the row can tell."""
    for name, words in (("git_blob", "git blob id"), ("sha256", "SHA-256"), ("md5", "MD5")):
        published, have = getattr(row, name), getattr(found, name)
        if published and not have.startswith(published):
            raise _Failed(f"another file came: its {words} is {have[:16]}..., published is {published[:16]}...")


def _check_kept(row: PublicWeights, path: Path) -> None:
    """That a file of the cache is the one that was fetched; one put there by hand is looked at like a fetched one."""
    _check_is_checkpoint(path)
    found, kept = _hashes(path), _notes(path).get("sha256")
    try:
        _check_published(row, found)
    except _Failed as error:
        raise _Failed(f"{path} is not the published file ({str(error).partition(': ')[2]}); remove it") from None
    if kept is None:
        with contextlib.suppress(OSError):  # a cache that may be read only
            _keep(row, path, found)
    elif kept != found.sha256:
        raise _Failed(
            f"{path} is no longer what was fetched: SHA-256 {found.sha256[:16]}..., at first use it was {kept[:16]}...;"
            f" remove it and {_notes_path(path).name}"
        )


def _keep(row: PublicWeights, path: Path, found: _Hashes) -> None:
    write_json(_notes_path(path), {"link": row.link, "sha256": found.sha256, "size": path.stat().st_size})
    if not (row.git_blob or row.sha256 or row.md5):
        _log.warning(
            "%s: no hash is published for this file; its SHA-256 %s is kept and compared from now on",
            row.name,
            found.sha256,
        )


def _check_is_checkpoint(path: Path) -> None:
    """That the bytes begin as torch's files do, and not as what servers send instead."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if re.match(rb"[\s\xef\xbb\xbf]*<(!doctype|!--|html|head|body|\?xml)", head, re.IGNORECASE):
        if b"drive.google.com" in head or b"drive.usercontent.google.com" in head:
            raise _Failed("Google Drive answered with a page that wants a confirmation or a sign-in")
        raise _Failed("a web page came instead of a file")
    if head.startswith(b"version https://git-lfs"):
        raise _Failed("a pointer of Git LFS came instead of a file")
    # torch since 1.6; before it, a pickle of protocol 2; before 0.1.10 or so, a tar.
    if not (head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")) or head[257:262] == b"ustar"):
        raise _Failed(f"no torch file came: it begins with {head[:8]!r}" if head else "an empty file came")


# ------------------------------------------------------------------------------------------------------------ fetching


def _fetch(row: PublicWeights, path: Path, timeout: float) -> None:
    partial = path.with_name(f"{path.name}.partial")
    had = partial.stat().st_size if partial.is_file() else 0
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _receive(row, path, partial, timeout)
                break
            except _Cut:
                now = partial.stat().st_size if partial.is_file() else 0
                if now <= had or attempt == ATTEMPTS:
                    raise
                had = now
        _check_is_checkpoint(partial)
        found = _hashes(partial)
        _check_published(row, found)
        os.replace(partial, path)
        _keep(row, path, found)
    except _Cut as error:
        goes_on = "; the same command goes on from there" if partial.is_file() and partial.stat().st_size else ""
        raise _Failed(f"{error}{goes_on}") from None
    except (_Failed, OSError):
        partial.unlink(missing_ok=True)  # of another file, or room that somebody needs
        _notes_path(path).unlink(missing_ok=True)
        raise


def _receive(row: PublicWeights, path: Path, partial: Path, timeout: float) -> None:
    """Takes up the download where it stopped, if the server can and still has the same file; else from the start."""
    from tqdm import tqdm

    have = partial.stat().st_size if partial.is_file() else 0
    etag = _notes(path).get("etag", "")
    headers = {"User-Agent": "nas-zoo", "Accept-Encoding": "identity"}
    # Without either, bytes of two files could be joined and nobody would see it.
    if have and (etag or row.git_blob or row.sha256 or row.md5):
        headers |= {"Range": f"bytes={have}-"} | ({"If-Range": etag} if etag else {})
    request = urllib.request.Request(row.link, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            if (packed := answer.headers.get("Content-Encoding", "identity").lower()) != "identity":
                raise _Failed(f"the server sent it packed ({packed}), which was not asked for")
            part = answer.headers.get("Content-Range") or ""
            if answer.status == 206 and not part.startswith(f"bytes {have}-"):
                raise _Failed("the server sent another part of the file than was asked for")
            start = have if answer.status == 206 else 0
            write_json(_notes_path(path), {"link": row.link, "etag": answer.headers.get("ETag")})
            length = answer.headers.get("Content-Length")
            total = start + int(length) if length and length.isdecimal() else None
            _check_room(path, start, total)
            with (
                partial.open("r+b" if start else "wb") as file,
                tqdm(total=total, initial=start, desc=row.name, unit="B", unit_scale=True, disable=None) as bar,
            ):
                file.seek(start)
                file.truncate()
                got = start
                try:
                    while data := _read(answer):
                        file.write(data)
                        got += len(data)
                        bar.update(len(data))
                        if got > MAX_BYTES:
                            raise _Failed(f"more than {MAX_BYTES >> 20} MiB came, which is no file of the table")
                finally:
                    file.flush()
                os.fsync(file.fileno())
            if total is not None and got < total:
                raise _Cut(f"the connection broke after {got:,} of {total:,} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and have:  # what there is, is all of it already, or of another file: begin anew
            partial.unlink(missing_ok=True)
            return _receive(row, path, partial, timeout)
        _tell_status(error.code)
    except TimeoutError:
        raise _Cut(f"the server sent nothing for {timeout:g} seconds") from None
    except (http.client.HTTPException, ConnectionError) as error:
        raise _Cut(f"the connection broke ({_said(error)})") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise _Cut(f"the server sent nothing for {timeout:g} seconds") from None
        raise _Cut(f"the server cannot be reached ({_said(error.reason)})") from None
    except ValueError as error:  # of a link that leads on to what is no address
        raise _Failed(f"the link leads to what is no address ({_said(error)})") from None


def _read(answer: Any) -> bytes:
    """The next bytes; what the network raises (TLS, no route) is told apart from what a full disk does."""
    try:
        data: bytes = answer.read1(_CHUNK)
    except TimeoutError:
        raise
    except OSError as error:
        raise _Cut(f"the connection broke ({_said(error)})") from None
    return data


def _tell_status(code: int) -> NoReturn:
    if code in (404, 410):
        raise _Failed(f"the file is not there any more (the server answered {code})")
    if code in (401, 403):
        raise _Failed(f"the server does not give it to everybody (it answered {code})")
    if 300 <= code < 400:
        raise _Failed(f"the link leads in a circle or to no web address (the server answered {code})")
    raise _Cut(f"the server answered {code}: try again later")


def _check_room(path: Path, start: int, total: int | None) -> None:
    if total is None:
        return
    if total > MAX_BYTES:
        raise _Failed(f"the link leads to {total >> 20:,} MiB, which is no file of the table")
    free = shutil.disk_usage(path.parent).free
    if free < total - start:
        raise _Failed(f"{(total - start) >> 20:,} MiB are needed in {path.parent}, {free >> 20:,} MiB are free")


def _said(error: object) -> str:
    words = (getattr(error, "strerror", None) or str(error)).strip()
    return words.splitlines()[0] if words else type(error).__name__


# ------------------------------------------------------------------------------------- what is kept of a file beside it


def _notes_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _notes(path: Path) -> dict[str, str]:
    """What was kept; nothing where it is damaged. An ETag is sent again, so it must be what headers may hold."""
    try:
        notes = json.loads(_notes_path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    kept = notes.items() if isinstance(notes, dict) else ()
    return {key: value for key, value in kept if isinstance(value, str) and value.isascii() and value.isprintable()}
