"""What a folder, a tar or a zip holds: its images, and a count by kind of everything that is left out.

Nothing is ever unpacked to disk: a plain tar and a zip are read in place by offset, a compressed tar (which cannot be
read from the middle) once from front to end, its still encoded members kept in memory. An archive is whole or refused.
"""

from __future__ import annotations

import bz2
import gzip
import json
import logging
import lzma
import os
import stat
import struct
import tarfile
import time
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from tqdm import tqdm

from nas_zoo.data import index
from nas_zoo.data.index import Names
from nas_zoo.data.pictures import EXTENSIONS, MAX_FILE_BYTES
from nas_zoo.data.sources import ImageFiles
from nas_zoo.text import counted

__all__ = [
    "PLACES",
    "FileTree",
    "list_archives",
    "list_folder",
    "list_images",
    "list_tar",
    "list_zip",
    "nfc",
    "parts_of",
    "same_names",
    "tell_left_out",
]

logger = logging.getLogger("nas_zoo")

TEST_FOLDERS = ("test", "val", "valid", "validation")  # beside train/; the first that is there
MAX_HELD_BYTES = 4 * 2**30  # encoded images of one compressed tar, held in memory
MAX_NOTE_BYTES = 2**20  # a tar's own notes on a member, such as a long name
PLACES = "folder, tar or zip"  # of images, as help texts say it
KINDS = "a folder, a .tar (also compressed with gzip, bzip2 or xz) or a .zip of images is read"

_COMPRESSED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # first bytes
_ARCHIVE_ERRORS = (
    tarfile.TarError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError, OSError,
    lzma.LZMAError, zlib.error, struct.error, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError,
)  # fmt: skip
_NOTES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_ENCRYPTED, _UTF8 = 1, 0x800  # bits of a zip member's flags
_DESCRIPTORS = (0, 12, 16, 20, 24)  # bytes that may follow a member: its checksum and sizes
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip's member: signature ... lengths of its name and of what follows


@dataclass(frozen=True, eq=False)
class FileTree:
    """What lies below a place: its images, its folders, and how many other files of each kind were left out.

    stamps: size and time of change of the archive, or time of change of the folder itself and of `folders` sorted.
    """

    files: ImageFiles
    folders: frozenset[str]
    left_out: Counter[str]
    stamps: np.ndarray | None = None


def list_images(place: Path) -> FileTree:
    """The images in a folder, a tar or a zip, which its first bytes tell; ValueError for what is none or damaged.

    A large listing is kept in an index beside the place, and made again where a folder or the archive has changed.
    """
    if not place.is_dir() and not place.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{str(place)!r} is no regular file; {KINDS}")
    with index.one_at_a_time(place):
        kept = index.load_index(place, "names")
        tree = None if kept is None else _tree_of(place, kept)
        if tree is None:
            begun = time.time_ns()
            tree = list_folder(place) if place.is_dir() else _list_archive(place)
            if len(tree.files) >= index.MIN_FILES and tree.files.blobs is None:
                index.save_index(place, "names", _arrays_of(tree, begun))
    return tree


def _list_archive(place: Path) -> FileTree:
    stamp = _stamp(place)
    with open(place, "rb") as stream:
        zipped = stream.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
    return replace(list_zip(place) if zipped else list_tar(place), stamps=np.array([stamp], np.int64))


def list_archives(places: Sequence[Path], whole: Path) -> FileTree:
    """The images of several tars or zips as if they were one, `whole`.

    Where none of them has a folder in it, each is the class that it is named for, as the parts of ImageNet's own tar.
    """
    trees = [list_images(place) for place in places]
    in_memory = [tree.files.blobs is not None for tree in trees]
    if any(in_memory) and not all(in_memory):
        raise ValueError(f"{str(whole)!r}: some of the archives are compressed tars; make all of them plain ones")
    flat = not any("/" in name for tree in trees for name in tree.files.names)
    names = [
        f"{place.name.partition('.')[0]}/{name}" if flat else name
        for place, tree in zip(places, trees, strict=True)
        for name in tree.files.names
    ]
    order = sorted(range(len(names)), key=names.__getitem__)
    for one, other in pairwise(order):
        if names[one] == names[other]:
            raise ValueError(f"{str(whole)!r}: {names[one]!r} is in more than one of the archives")
    spans, blobs = None, None
    if all(in_memory):
        held = [data for tree in trees for data in tree.files.blobs or ()]
        blobs = tuple(held[i] for i in order)
    else:
        numbered = [np.c_[tree.files.spans[:, :4], np.full(len(tree.files), number)]
                    for number, tree in enumerate(trees) if tree.files.spans is not None]  # fmt: skip
        spans = np.concatenate(numbered)[order]
    classes = {name.partition("/")[0] for name in names if flat}
    folders = frozenset(classes).union(*(tree.folders for tree in trees))
    left_out = sum((tree.left_out for tree in trees), Counter[str]())
    kept = Names(names[i] for i in order)
    files = ImageFiles(whole, kept, spans, blobs, tuple(places), whole=kept, rows=np.arange(len(kept)))
    return FileTree(files, folders, left_out)


# ---- the index of a large listing ----


def _stamp(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return (0 if stat.S_ISDIR(found.st_mode) else found.st_size), found.st_mtime_ns


def _arrays_of(tree: FileTree, begun_ns: int) -> dict[str, Any]:
    names, lengths = Names(tree.files.names).arrays()
    folders, folder_lengths = Names(sorted(tree.folders)).arrays()
    more = {} if tree.files.spans is None else {"spans": tree.files.spans}
    left_out = np.frombuffer(json.dumps(tree.left_out).encode("utf-8", "surrogatepass"), np.uint8)
    return {"names": names, "lengths": lengths, "folders": folders, "folder_lengths": folder_lengths,
            "stamps": tree.stamps, "left_out": left_out, "begun": np.int64(begun_ns), **more}  # fmt: skip


def _tree_of(place: Path, kept: dict[str, np.ndarray]) -> FileTree | None:
    """The listing that an index holds; None where the place has changed since, or where the index is damaged."""
    try:
        names = Names.of(kept["names"], kept["lengths"])
        folders = list(Names.of(kept["folders"], kept["folder_lengths"]))
        spans = kept.get("spans")
        inside = ["", *folders] if spans is None else [""]
        now = np.array([_stamp(os.path.join(place, folder) if folder else place) for folder in inside], np.int64)
        if not np.array_equal(now, kept["stamps"]) or not index.settled(now[:, 1], int(kept["begun"])):
            return None
        if spans is not None and (spans.shape != (len(names), 5) or spans.dtype != np.int64 or place.is_dir()):
            return None
        left_out = Counter({str(kind): int(count) for kind, count in json.loads(kept["left_out"].tobytes()).items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UnicodeError):
        return None
    files = ImageFiles(place, names, spans, whole=names, rows=np.arange(len(names)))
    return FileTree(files, frozenset(folders), left_out, now)


_told: set[str] = set()


def tell_left_out(place: Path, used: int, left_out: Counter[str]) -> None:
    """Says in one line, once in a program, how many files of each kind were left out; nothing where none was."""
    if not left_out:
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in left_out.most_common(8))
    more = sum(left_out.values()) - sum(count for _, count in left_out.most_common(8))
    line = f"{place}: {counted(used, 'image')} read, {counted(sum(left_out.values()), 'other file')} left out: {kinds}"
    line += f", {more} of other kinds" if more else ""
    if line not in _told:
        _told.add(line)
        logger.warning("%s", line)


def parts_of(paths: Sequence[tuple[str, ...]]) -> dict[str, np.ndarray]:
    """Rows of the train, val and test images by the first folder of each path; {} where there is no such division.

    test/ (or else val/, valid/ or validation/) beside train/ is the test part. Where there is a test/, one of the
    others is the val part, which watches a run.
    """
    rows: dict[str, list[int]] = {}
    for i, path in enumerate(paths):
        if len(path) > 1:
            rows.setdefault(path[0], []).append(i)
    deep = {path[0] for path in paths if len(path) > 2}
    if "train" not in deep:
        return {}
    parts = {"train": "train"}
    words = [word for word in TEST_FOLDERS if word in deep]
    if words:
        parts["test"] = words[0]
        if words[0] == "test" and len(words) > 1:
            parts["val"] = words[1]
    return {part: np.array(rows[word], dtype=np.int64) for part, word in parts.items()}


def _hidden(parts: Sequence[str]) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def _kind(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "without an ending"


# ---- folder ----


def list_folder(place: Path) -> FileTree:
    """The image files below a folder, at any depth, sorted by name; links are followed unless they lead back up."""
    names: list[str] = []
    folders: set[str] = set()
    left_out: Counter[str] = Counter()
    try:
        top = os.stat(place)
        open_folders: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", ((top.st_dev, top.st_ino),))]
        times = {"": top.st_mtime_ns}  # of before a folder is read, so that what changes meanwhile is noticed
        while open_folders:
            folder, above = open_folders.pop()
            with os.scandir(place / folder) as entries:
                for entry in entries:
                    name = f"{folder}/{entry.name}" if folder else entry.name
                    if index.INDEX_MARK in entry.name:
                        continue  # our own
                    if _hidden((entry.name,)):
                        left_out["hidden"] += 1
                    elif _leads_to(entry.is_dir):
                        here = entry.stat()
                        identity = (here.st_dev, here.st_ino)
                        if identity in above:
                            left_out["a link to a folder above it"] += 1
                            continue
                        folders.add(name)
                        times[name] = here.st_mtime_ns
                        open_folders.append((name, (*above, identity)))
                    elif PurePosixPath(entry.name).suffix.lower() not in EXTENSIONS:
                        left_out[_kind(entry.name)] += 1
                    elif entry.is_symlink() or entry.is_file():  # a link to nothing is named when it is read
                        names.append(name)
                    else:
                        left_out["a pipe, a socket or a device"] += 1
    except OSError as error:
        raise ValueError(f"cannot list the folder {str(place)!r}: {error}") from error
    kept = Names(sorted(names))
    files = ImageFiles(place, kept, whole=kept, rows=np.arange(len(kept)))
    stamps = np.array([(0, times[name]) for name in ["", *sorted(folders)]], np.int64)
    return FileTree(files, frozenset(folders), left_out, stamps)


def _leads_to(kind: Callable[[], bool]) -> bool:
    try:
        return kind()
    except OSError:  # a link that leads in a circle
        return False


# ---- archives ----


class _Refused(ValueError):
    """What is wrong with an archive, in words of ours."""


class _Listing:
    """Collects the members of an archive; the same guards for every kind."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.found: dict[str, Any] = {}
        self.folders: set[str] = set()
        self.left_out: Counter[str] = Counter()

    def wants(self, name: str, size: int, is_folder: bool, is_plain: bool) -> str | None:
        """The path under which an image is kept; None for what is none. Raises _Refused."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            raise _Refused(f"{str(self.place)!r}: member {name!r} leads out of the archive; pack it anew")
        if _hidden(path.parts):
            self.left_out["hidden"] += not is_folder
            return None
        self.folders.update(str(parent) for parent in path.parents if parent.parts)
        if is_folder:
            self.folders.add(str(path))
            return None
        if not is_plain:
            raise _Refused(
                f"{str(self.place)!r}: member {name!r} is a link, a device or another special file; "
                "an archive of images must hold folders and plain files only"
            )
        if path.suffix.lower() not in EXTENSIONS:
            self.left_out[_kind(name)] += 1
            return None
        if size > MAX_FILE_BYTES:
            raise _Refused(f"{str(self.place)!r}: member {name!r} has {size} bytes, more than {MAX_FILE_BYTES}")
        if str(path) in self.found:  # the last one counts, as when it is unpacked
            self.left_out["replaced by a later one of the same name"] += 1
        return str(path)

    def tree(self, in_place: bool) -> FileTree:
        names = Names(sorted(self.found))
        held = [self.found[name] for name in names]
        if in_place:
            spans = np.array(held, dtype=np.int64).reshape(-1, 5)
            files = ImageFiles(self.place, names, spans, whole=names, rows=np.arange(len(names)))
        else:
            files = ImageFiles(self.place, names, blobs=tuple(held))
        return FileTree(files, frozenset(self.folders), self.left_out)


class _Member(tarfile.TarInfo):
    """A header. tarfile takes a damaged one, and the end of the file, for the archive's end; here they are refused."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        try:
            member = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]  # a block of zeros: the end
            raise
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            raise _Refused(
                "it ends without its end-of-archive blocks, so that nothing says it is whole. Where its writer leaves "
                "them out, pack it anew: unpack it with tar -xf, and pack the folder with tar -cf"
            ) from None
        except tarfile.HeaderError as error:
            raise _Refused(f"its header is damaged ({error})") from None
        if member.size < 0 or (member.type in _NOTES and member.size > MAX_NOTE_BYTES):
            raise _Refused(f"its header is damaged (a size of {member.size} bytes)")
        return member


def list_tar(place: Path) -> FileTree:
    """The image members of a tar, sorted by name; plain, or compressed with gzip, bzip2 or xz.

    ValueError for links, devices, names that lead out of the archive and images of more than 64 MiB; and for what is
    no tar, or one that is damaged or cut off: every header is followed to the end-of-archive blocks, and behind those
    there may be nothing. Of a member that occurs twice the last one counts, as in tar itself.
    """
    with open(place, "rb") as start:
        magic = start.read(6)
    unpack = next((opened for first, opened in _COMPRESSED.items() if magic.startswith(first)), None)
    listing = _Listing(place)
    if not magic:
        raise ValueError(f"{str(place)!r} is empty; {KINDS}")
    held, last, at = 0, "", 0
    stream: IO[bytes] | None = None
    try:
        stream = open(place, "rb") if unpack is None else unpack(place, "rb")  # noqa: SIM115
        assert stream is not None
        for member in _members(stream, place.name):
            if member.offset < at or member.size < 0:  # a size that leads backwards would go round for ever
                raise _Refused("its header is damaged (a negative size)")
            last, at = member.name, member.offset_data
            is_plain = member.isreg() and not member.issparse()
            name = listing.wants(member.name, member.size, member.isdir(), is_plain)
            if name is None:
                continue
            if unpack is None:
                listing.found[name] = (member.offset_data, member.size, -1, -1, 0)
                continue
            held += member.size
            if held > MAX_HELD_BYTES:
                raise _Refused(
                    f"{str(place)!r}: more than {MAX_HELD_BYTES / 2**30:.0f} GiB of images in a compressed tar; "
                    "make it a plain .tar (JPEG hardly shrinks) or a folder, which are read in place"
                )
            stream.seek(member.offset_data)
            listing.found[name] = stream.read(member.size)
            if len(listing.found[name]) < member.size:
                raise tarfile.ReadError("unexpected end of data")
    except _ARCHIVE_ERRORS as error:
        if isinstance(error, _Refused) and str(error).startswith(repr(str(place))):
            raise ValueError(str(error)) from None
        if not last:
            raise ValueError(f"{str(place)!r} cannot be read as a tar or a zip: {error}; {KINDS}") from None
        offset = max(at, stream.tell() - tarfile.BLOCKSIZE) if stream is not None and not stream.closed else at
        where = f"near byte {offset}{'' if unpack is None else ' of what is unpacked'}, after member {last!r}"
        raise ValueError(f"{str(place)!r} is damaged {where}: {error or type(error).__name__}") from None
    finally:
        if stream is not None:
            stream.close()
    return listing.tree(in_place=unpack is None)


def _members(stream: IO[bytes], name: str) -> Iterator[tarfile.TarInfo]:
    """The headers of a tar one by one; _Refused or a tarfile error unless it is whole to its last byte."""
    with (
        tarfile.open(fileobj=stream, mode="r:", tarinfo=_Member) as archive,
        tqdm(desc=f"reading {name}", unit="file", delay=2.0, disable=None) as bar,
    ):
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header: 1 GB for ImageNet
            yield member
            bar.update()
        # tarfile stops at one block of zeros, which a damaged disk leaves in the middle of an archive too.
        rest = stream.read(tarfile.BLOCKSIZE)
        if len(rest) < tarfile.BLOCKSIZE:
            raise _Refused("the second of its two end-of-archive blocks is missing; pack it anew")
        while rest:
            if rest.strip(b"\0"):
                raise _Refused("more follows its end-of-archive blocks (two tars in one file, or a damaged one)")
            rest = stream.read(2**20)


def list_zip(place: Path) -> FileTree:
    """The image members of a zip, sorted by name: stored or deflated, read in place, their checksums compared.

    The same guards as for a tar; ValueError for an encrypted member or another compression, too, and where a member
    lies in the file that its directory does not list.
    """
    listing, spans = _Listing(place), list[tuple[int, int]]()
    try:
        with zipfile.ZipFile(place) as archive, open(place, "rb") as stream:
            infos = archive.infolist()
            for info in tqdm(infos, f"reading {place.name}", unit="file", delay=2.0, disable=None):
                shown = info.filename.replace("\\", "/")  # which some writers on Windows put there
                kind = stat.S_IFMT(info.external_attr >> 16)
                is_folder = shown.endswith("/")
                name = listing.wants(shown, info.file_size, is_folder, kind in (0, stat.S_IFREG))
                stream.seek(info.header_offset)
                signature, *lengths = _LOCAL_HEADER.unpack(stream.read(_LOCAL_HEADER.size))
                start = info.header_offset + _LOCAL_HEADER.size + sum(lengths)
                spans.append((info.header_offset, start + info.compress_size))
                if name is None:
                    continue
                if info.flag_bits & _ENCRYPTED:
                    raise _Refused(f"{str(place)!r}: member {shown!r} is encrypted; pack it anew without a password")
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _Refused(f"{str(place)!r}: member {shown!r} is packed in a rare way; pack anew with deflate")
                encoding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
                same_name = stream.read(lengths[0]).decode(encoding, "replace") == info.orig_filename
                if not same_name or signature != b"PK\x03\x04" or start + info.compress_size > place.stat().st_size:
                    raise _Refused(f"{str(place)!r} is damaged at byte {info.header_offset}, member {shown!r}")
                size = -1 if info.compress_type == zipfile.ZIP_STORED else info.file_size
                listing.found[name] = (start, info.compress_size, size, info.CRC, 0)
            _check_unlisted(place, stream, spans, archive.start_dir)
    except _ARCHIVE_ERRORS as error:
        if isinstance(error, _Refused):
            raise ValueError(str(error)) from None
        raise ValueError(f"{str(place)!r} is damaged, or no zip: {error or type(error).__name__}; {KINDS}") from None
    return listing.tree(in_place=True)


def _check_unlisted(place: Path, stream: IO[bytes], spans: list[tuple[int, int]], end: int) -> None:
    """_Refused where between the members listed, each (begin, end), the header of another lies."""
    at = 0
    for begin, behind in [*sorted(spans), (end, end)]:
        stream.seek(at)
        between = stream.read(min(max(begin - at, 0), 64))
        if (found := between.find(b"PK\x03\x04")) in _DESCRIPTORS:
            raise _Refused(
                f"{str(place)!r} holds a member at byte {at + found} that its directory does not list, so that it is "
                "damaged, or two zips in one file; pack it anew"
            )
        at = max(at, behind)


def nfc(text: str) -> str:
    """The name in Unicode's composed form: macOS writes an accent as a character of its own, others do not."""
    return unicodedata.normalize("NFC", text)


def same_names(some: Iterable[str], others: Iterable[str]) -> bool:
    """Whether both are the same names in the same order, however their accents are written."""
    return [*map(nfc, some)] == [*map(nfc, others)]
