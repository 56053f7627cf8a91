"""The one place that writes files: each stands whole under its name, or what was there before stands as it was.

    write_json(out / "result.json", record)
    with staged(folder) as aside:           # several files that belong together
        write_weights(aside / "model.safetensors", tensors)
        write_text(aside / "README.md", text)

A write goes to `.NAME.partial` beside the target, is synced to disk and then renamed. What an error or a signal
interrupts is removed at once; what a killed process left is written over by the next one that writes the same file.
Two processes that write the same file do it one after the other.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "json_value",
    "keep_as",
    "read_bytes",
    "replacing",
    "staged",
    "type_name",
    "write_bytes",
    "write_json",
    "write_text",
    "write_weights",
]


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends.

    Raises:
        ValueError: `path` is something that a file cannot take the place of: a folder, a device, a pipe.
        OSError: The disk is full, or whatever else the system says; it names `path`.
    """
    path = Path(path)
    _check_place(path)
    partial = _partial(path)
    try:
        with open(_claim(partial), "wb") as file:
            try:
                if os.fstat(file.fileno()).st_size:  # of a process that was killed
                    file.truncate(0)
                yield file
                file.flush()
                os.fsync(file.fileno())
                if fcntl is None:  # Windows renames no open file
                    file.close()
                os.replace(partial, path)
            except BaseException:
                _remove(partial)
                raise
        _sync_folder(path.parent)
    except OSError as error:
        # of another file: whoever filled this one has read it
        if error.errno is None or (error.filename is not None and Path(error.filename) != partial):
            raise
        raise OSError(error.errno, f"cannot be written: {error.strerror}", str(path)) from None


def _check_place(path: Path) -> None:
    """ValueError where no file can take the place of what is there: root's rename would end a device for everybody."""
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device or a pipe"
        raise ValueError(f"{str(path)!r} is {kind}; the name of a file is needed, which is written anew")


@contextlib.contextmanager
def staged(folder: Path | str, *, last: str = "", gone: Collection[str] = ()) -> Iterator[Path]:
    """An empty folder to fill; when the block ends all its files take their places in `folder`, or none does.

    A `folder` that is not there yet appears whole. In one that is there, files of the same names are replaced and
    others stay; where one of them cannot be, those before it are put back.
    ValueError where one is a folder, a device or a pipe.

    Args:
        folder: Is made where it does not exist, and those above it.
        last: The file that takes its place after all others, since it is the one that speaks of them.
        gone: Files of `folder` that go when the others are in their places.
    """
    folder = Path(folder)
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise ValueError(f"{str(place)!r} is a file; the name of a folder is needed")
    new = not folder.exists()
    made = [place for place in (folder, *folder.parents) if not place.exists()][1:]
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = _partial(folder if new else folder / "files")
    try:
        claim = _claim(aside, folder=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot be written to: {error.strerror}", str(folder)) from None
    try:
        _empty(aside)
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                _sync_file(file)
        if new:
            os.rename(aside, folder)
            _sync_folder(folder.parent)
        else:
            _move_together(aside, folder, last, gone)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        for place in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                place.rmdir()
        if isinstance(error, OSError) and error.errno:
            for name in map(str, (error.filename2, error.filename)):  # of a copy the first is where it goes
                if Path(name).is_relative_to(aside):  # the user knows the place that it would have
                    raise OSError(error.errno, error.strerror, str(folder / Path(name).relative_to(aside))) from None
        raise
    finally:
        os.close(claim)


def _move_together(aside: Path, folder: Path, last: str, gone: Collection[str]) -> None:
    names = [str(file.relative_to(aside)) for file in sorted(aside.rglob("*")) if file.is_file()]
    names.sort(key=lambda name: name == last)
    for name in names:
        _check_place(folder / name)
    old = aside / ".old"  # what is replaced, until nothing can fail any more
    moved: list[str] = []
    folders: list[Path] = []
    try:
        for name in [*names, *gone]:
            target, kept = folder / name, old / name
            for place in reversed([place for place in target.parents if not place.exists()]):
                place.mkdir()
                folders.append(place)
            kept.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                keep_as(target, kept)
            moved.append(name)
            if name in gone:
                target.unlink(missing_ok=True)
            else:
                os.replace(aside / name, target)
        for place in {folder, *((folder / name).parent for name in names)}:
            _sync_folder(place)
    except BaseException:
        for name in reversed(moved):
            if (old / name).exists():
                os.replace(old / name, folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
        for place in reversed(folders):
            place.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def keep_as(path: Path, other: Path) -> None:
    """`path` also under the name `other`, in one step: as a second name of the file, or where that cannot be, a copy.

    The copy is complete on disk before it has its name.
    """
    link = other.with_name(f".{other.name}.link")
    _remove(link)
    try:
        try:
            os.link(path, link)
        except OSError:  # no hard links on this file system
            shutil.copyfile(path, link)
            _sync_file(link)
        os.replace(link, other)
    finally:
        _remove(link)  # rename does nothing when both are the same file already


def read_bytes(path: Path) -> bytes:
    """The content of a file. OSError where it is a pipe or a device too, on which reading would wait for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "is a pipe or a device, not a file", str(path))
    return path.read_bytes()


def write_bytes(path: Path | str, data: bytes) -> None:
    """The file with this content; see ``replacing``."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Path | str, text: str) -> None:
    """The file with this text in UTF-8; see ``replacing``."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, record: Mapping[str, Any]) -> None:
    """`record` as a JSON file, in a folder that is made where it does not exist. NaN and infinity become null."""
    text = json.dumps(json_value(record, "record"), indent=1) + "\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def write_weights(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A .safetensors file in a folder that is made where it does not exist; equal weights give equal bytes.

    Tensors may be on any device and in any memory format. The metadata have "format": "pt" as transformers wants it.
    """
    import safetensors.torch

    # safetensors takes contiguous tensors only, which those of a channels_last model are not
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, {"format": "pt", **(metadata or {})})
    # it writes the metadata in an order that changes from call to call
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:  # not save_file, whose files only their owner can read
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(memoryview(data)[8 + size :])


def json_value(value: Any, name: str) -> Any:
    """`value` as JSON has it: NaN and infinity None, one-element tensors and NumPy scalars numbers, paths texts."""
    if isinstance(value, Mapping):
        return {str(key): json_value(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_value(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # tensors and NumPy: numbers or nested lists
        return json_value(value.tolist(), name)
    raise ValueError(f"{name} is a {type_name(type(value))}, which JSON cannot hold")


def type_name(kind: type) -> str:
    """A type's name with its module, `numpy.float64`; a builtin's without."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


# ------------------------------------------------------------------------------------------------------ on the disk


def _partial(path: Path) -> Path:
    """Where what shall be called `path` is written."""
    return path.with_name(f".{path.name}.partial")


def _claim(path: Path, *, folder: bool = False) -> int:
    """A descriptor of the file or folder of that name, made if need be, that this process alone holds until it closes.

    The lock goes with the process, so that what a killed one left is free.
    """
    while True:
        if folder:
            path.mkdir(exist_ok=True)
        if folder and fcntl is None:  # Windows opens no folders
            return os.open(os.devnull, os.O_RDONLY)
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                return descriptor
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            # Whoever held it may have given it its name in the meantime, or removed it.
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for left in folder.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _remove(path: Path) -> None:
    # the first error is the one to tell, and what stays is removed by the next process
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
