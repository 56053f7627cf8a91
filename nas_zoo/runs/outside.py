"""Code from outside the package: a file that the user names, or an installed package.

    --method my_method.py:MyMethod                   a class in a file
    --operations skip_connect,my_ops.py:my_op        a function or class in a file
    --method their_method                            of a package with the entry point group nas_zoo.methods

What a file brings is called FILE.py:NAME (its own name, without folders), what a package brings PACKAGE:NAME, wherever
it is written down: so a genotype, a log or a checkpoint says by the name alone where its code is. Reading such a name
runs nothing. A file is run by ``load`` alone, which is called where the user has named it; installed packages were
installed to be run, and are found by their names too.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

__all__ = ["Outside", "check_marks", "find", "is_outside", "load", "marks_of", "place_of"]

Kind = Literal["method", "operation"]
_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]{0,99}:[A-Za-z_]\w{0,99}", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Outside:
    """Something from outside: its name, itself, and what tells one state of its code from another."""

    name: str
    value: Any
    mark: str  # "sha256 ..." of a file, "version ..." of a package
    path: Path | None = None  # of the file


_loaded: dict[tuple[Kind, str], Outside] = {}
_modules: dict[tuple[Path, str], ModuleType] = {}


def is_outside(name: str) -> bool:
    """Whether that is how something from outside is called: FILE.py:NAME or PACKAGE:NAME."""
    return _NAME.fullmatch(name) is not None


def load(text: str, kind: Kind, own: Iterable[str]) -> str | None:
    """Runs the file in FILE.py:NAME, or takes what an installed package brings; returns its name for ``find``.

    None for a name that neither file nor package has: it may be one of nas-zoo's `own`.

    Raises:
        ValueError: In one line, for a file that is not there or fails, a name that is not in it, and a name that
            nas-zoo has itself.
    """
    file, colon, name = text.rpartition(":")
    if text.endswith(".py") or (colon and file.endswith(".py")):
        if text.endswith(".py"):
            raise ValueError(f"{kind} {text!r}: the name in the file is missing, as in {text}:NAME")
        found = _from_file(Path(file).expanduser(), name, kind, own)
    else:
        points = _installed(kind)
        brought = [key for key in points if text in (key, key.partition(":")[2])]
        if not brought or (text in own and not colon):
            if brought:
                raise ValueError(
                    f"{kind} {text!r} is nas-zoo's own, and the package {brought[0].partition(':')[0]} brings one of "
                    f"that name; say {brought[0]!r} for that one, or remove the package"
                )
            return None
        if len(brought) > 1:
            raise ValueError(f"{kind} {text!r} is in several packages; say one of {', '.join(brought)}")
        found = _from_package(brought[0], points[brought[0]], kind)
    _loaded[kind, found.name] = found
    return found.name


def find(name: str, kind: Kind, marks: Mapping[str, str] | None = None) -> Outside:
    """What is called FILE.py:NAME or PACKAGE:NAME, where it was loaded or is installed.

    Raises:
        ValueError: Else; it says which file or package brings it. `marks`: of a run that was made with it.
    """
    if (kind, name) in _loaded:
        return _loaded[kind, name]
    points = _installed(kind)
    if name in points:
        return _loaded.setdefault((kind, name), _from_package(name, points[name], kind))
    origin = name.partition(":")[0]
    mark = marks.get(name) if isinstance(marks, Mapping) else None  # a checkpoint may be forged
    of_then = f" ({mark} then)" if mark else ""
    if origin.endswith(".py"):
        flag = "--method" if kind == "method" else "--operations"
        raise ValueError(
            f"the {kind} {name!r} comes from the file {origin}{of_then}, which is run only where you name it: give "
            f"{flag} FOLDER/{name}"
        )
    raise ValueError(f"the {kind} {name!r} comes from the package {origin}{of_then}, which is not installed here")


def place_of(name: str, kind: Kind) -> str:
    """How the user names it: FOLDER/FILE.py:NAME for what a file brings, its name else."""
    path = find(name, kind).path
    return name if path is None else f"{path.parent}/{name}"


def marks_of(names: Mapping[str, Kind]) -> dict[str, str]:
    """The mark of each name that is from outside."""
    return {name: find(name, kind).mark for name, kind in names.items() if is_outside(name)}


def check_marks(saved: Mapping[str, str], now: Mapping[str, str]) -> None:
    """ValueError where code from outside is not what it was when a run began."""
    if not isinstance(saved, Mapping):
        raise ValueError("the run does not say what its code from outside was")
    for name, mark in saved.items():
        if name in now and now[name] != mark:
            raise ValueError(
                f"{name} has changed since the run began: {mark} then, {now[name]} now; put back what it was, or begin "
                "another run"
            )


def _from_file(path: Path, name: str, kind: Kind, own: Iterable[str]) -> Outside:
    called = f"{path.name}:{name}"
    if not is_outside(called):
        raise ValueError(f"{kind} {path!s}:{name}: file and name must be of letters, digits, '_', '-' and '.'")
    if name in own:
        raise ValueError(f"{kind} {called!r} has the name of one of nas-zoo's own; rename it")
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{kind} {called!r}: the file {str(path)!r} cannot be read: {error.strerror}") from None
    mark = f"sha256 {hashlib.sha256(source).hexdigest()}"
    before = _loaded.get((kind, called))
    if before is not None and before.path is not None and before.path != path.resolve():
        raise ValueError(f"{kind} {called!r}: {before.path.parent} and {path.resolve().parent} both have a {path.name}")
    module = _run(path, source, mark)
    if not hasattr(module, name):
        there = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise ValueError(f"{kind} {called!r}: there is no {name} in it; there are {', '.join(there) or 'no names'}")
    return Outside(called, getattr(module, name), mark, path.resolve())


def _run(path: Path, source: bytes, mark: str) -> ModuleType:
    key = (path.resolve(), mark)
    if key not in _modules:
        # under a name of its own, so that it hides no module; dataclasses look for their module there
        module = ModuleType(f"nas_zoo_outside_{re.sub(r'[^0-9A-Za-z]', '_', path.stem)}_{len(_modules)}")
        module.__file__ = str(path.resolve())
        sys.modules[module.__name__] = module
        try:
            exec(compile(source, str(path.resolve()), "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[module.__name__]
            line = error.lineno if isinstance(error, SyntaxError) else _line_in(path, error)
            words = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
            raise ValueError(f"{path.name}, line {line}: {type(error).__name__}: {words}") from error
        _modules[key] = module
    return _modules[key]


def _line_in(path: Path, error: Exception) -> int:
    """The last line of the file that the error came through."""
    line, tb = 0, error.__traceback__
    while tb is not None:
        if tb.tb_frame.f_code.co_filename == str(path.resolve()):
            line = tb.tb_lineno
        tb = tb.tb_next
    return line


def _installed(kind: Kind) -> dict[str, EntryPoint]:
    """PACKAGE:NAME of all that installed packages bring."""
    return {
        f"{point.dist.name}:{point.name}": point
        for point in entry_points(group=f"nas_zoo.{kind}s")
        if point.dist is not None
    }


def _from_package(name: str, point: EntryPoint, kind: Kind) -> Outside:
    assert point.dist is not None
    try:
        value = point.load()
    except Exception as error:
        words = " ".join(str(error).split())
        raise ValueError(f"{kind} {name!r} cannot be loaded: {type(error).__name__}: {words}") from error
    return Outside(name, value, f"version {point.dist.version}")
