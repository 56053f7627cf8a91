"""Whatever a user holds (a name, a path, text, lists) -> Genotype.

Names come from the catalog, JSON of this package's schema from genotype.py, and everything else from the dialects,
which are asked in order. Text may be anything that a genotype stands in: a log line with its time stamp, a module of
assignments, Markdown, a notebook, a printed dictionary. Where several different ones stand in it, which is asked for by
its name or its line, as genotypes.py:DARTS_V2 or log.txt:1203.

Everything a user can get wrong is a ValueError that names the place, the value found and what would do. Nothing read
here is ever executed.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from nas_zoo.genotype.catalog import NAME, list_genotypes, no_such_name, package_record
from nas_zoo.genotype.cell import Cell, check_size, listed, near
from nas_zoo.genotype.dialects import darts, dialect_of, enas, lists, nasbench201
from nas_zoo.genotype.dialects.python_text import bracketed, literal
from nas_zoo.genotype.genotype import MAX_BYTES, Genotype, NoJson, decoded, from_record, parse_json
from nas_zoo.text import show

__all__ = ["as_genotype", "load_genotype", "name_of_cells", "provenance_of"]

_CALL = re.compile(r"Genotype\s*\(")
_BLANK = "\ufeff \t\r\n"
_MAX_DEPTH = 8  # of the dictionaries and lists in which genotypes are looked for
_MAX_VALUES = 100_000  # looked at in one dictionary or list
_MAX_FOUND = 1000  # genotypes in one text


def as_genotype(value: Any, *, models: Sequence[str] = ()) -> Genotype:
    """The genotype that `value` stands for.

    A Genotype; a name of list_genotypes(); a path (see load_genotype); JSON or DARTS text, or a text in which one
    stands; a dictionary of this schema; or a dictionary, nested lists or tuples of one of the forms in
    nas_zoo.genotype.dialects, also inside other dictionaries. `models`: what an unknown name may be near to besides.
    """
    if isinstance(value, Genotype):
        return value
    if isinstance(value, (str, bytes)):
        text = decoded(value, "genotype") if isinstance(value, bytes) else value
        is_text = _is_genotype_text(text) and not os.path.isfile(_file_and_name(text)[0])  # "Genotype (1).json"
        return _from_text(text) if is_text else load_genotype(text, models=models)
    if isinstance(value, os.PathLike):
        return load_genotype(value)
    if isinstance(value, (dict, list, tuple)):
        return _only(_in_value(_plain(value)))
    raise ValueError(
        "genotype must be a Genotype, a name, a path, JSON or DARTS text, a dictionary or nested lists, "
        f"got {show(value)}"
    )


def load_genotype(name_or_path: str | os.PathLike[str], *, models: Sequence[str] = ()) -> Genotype:
    """The genotype of that name (list_genotypes), in that file (any text that as_genotype reads) or in that run folder.

    A run folder is one that holds genotype.json. A name goes before a path: write ./darts_v2 for a folder of that name.
    FILE:NAME and FILE:LINE say which one of a file that holds several. `models` is that of ``as_genotype``.
    """
    if isinstance(name_or_path, str) and NAME.fullmatch(name_or_path):
        record = package_record(name_or_path)
        if record is not None and "cannot_build" in record:
            raise ValueError(
                f"genotype {name_or_path!r} is known but cannot be built here: {record['cannot_build']}; "
                "genotype_record gives it as published"
            )
        if record is not None:
            return from_record(record)
        if not os.path.exists(name_or_path):
            no_such_name(name_or_path, list_genotypes(), models)
    elif not isinstance(name_or_path, (str, os.PathLike)):
        raise ValueError(f"genotype must be a name or a path here, got {show(name_or_path)}")
    return _from_file(name_or_path, models)


def name_of_cells(digest: str) -> str:
    """The name of the cells of the package with this digest (``Genotype.digest``), for words; else the digest."""
    return next((name for name in list_genotypes() if load_genotype(name).digest == digest), digest)


def provenance_of(name_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Where cells are from, as the record of that name, file or run folder says: method, paper, source ...

    {} for a record that does not say it, and for other texts.
    """
    record = package_record(name_or_path) if isinstance(name_or_path, str) and NAME.fullmatch(name_or_path) else None
    if record is None:
        path = os.fsdecode(name_or_path)
        inner = os.path.join(path, "genotype.json") if os.path.isdir(path) else path
        try:
            value = parse_json(decoded(_file_bytes(inner), "the file"))
        except (OSError, ValueError):
            return {}
        record = value if isinstance(value, dict) else {}
    found = record.get("provenance")
    return found if isinstance(found, dict) else {}


def _from_file(name_or_path: str | os.PathLike[str], models: Sequence[str]) -> Genotype:
    path = os.fsdecode(name_or_path)
    shown = show(path)
    try:
        path, wanted = _file_and_name(path)
        if os.path.isdir(path):
            inner = os.path.join(path, "genotype.json")
            if not os.path.isfile(inner):
                raise ValueError("a folder without genotype.json; it must be a file or a run's folder")
            path = inner
        text = decoded(_file_bytes(path), "the file")
        if not text.strip(_BLANK):
            raise ValueError("the file is empty; it must hold a JSON or DARTS genotype")
        return _from_text(text, os.path.basename(path), wanted)
    except FileNotFoundError:
        no_such_name(path, list_genotypes(), models)
    except OSError as error:
        raise ValueError(f"genotype {shown}: {error.strerror or error}; it must be a readable file") from error
    except ValueError as error:
        raise ValueError(f"genotype {shown}: {error}") from error


def _file_and_name(path: str) -> tuple[str, str | None]:
    """("genotypes.py", "DARTS_V2") of "genotypes.py:DARTS_V2" where there is such a file."""
    file, colon, name = path.rpartition(":")
    if colon and name and not os.path.exists(path) and os.path.isfile(file):
        return file, name
    return path, None


def _file_bytes(path: str) -> bytes:
    """The bytes of a regular file, no more than just over MAX_BYTES; opening a pipe could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("no regular file; it must be a file with a JSON or DARTS genotype")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    check_size(len(data), "the file", MAX_BYTES)
    return data


# What stands in a text or a value -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """A genotype in a text or value: what it is called in a list, what else it answers to, and the way to it."""

    label: str
    names: tuple[str, ...]
    read: Callable[[], Genotype]


def _is_genotype_text(text: str) -> bool:
    """Whether a string is a genotype itself, not a name or path."""
    start = text.lstrip(_BLANK)[:200]
    return (
        start[:1] in ("{", "[", '"')
        or re.match(r"\(\s*[(\[\d]|```", start) is not None
        or _CALL.search(text) is not None
        or nasbench201.claims(text)
        or bool(enas.find(text))
    )


def _from_text(text: str, file: str = "FILE", wanted: str | None = None) -> Genotype:
    found = _in_text(text)
    if not found:
        return Genotype.from_darts(text)  # which says where it is no genotype
    return _only(found, file, wanted)


def _only(found: list[_Found], file: str = "FILE", wanted: str | None = None) -> Genotype:
    """The genotype that is wanted, or the only one."""
    if wanted is not None:
        chosen = [one for one in found if wanted in (one.label, *one.names)]
        if not chosen:
            raise ValueError(f"no genotype there is called that; there are {_labels(found)}{near(wanted, _all(found))}")
        return chosen[0].read()
    if len(found) == 1:
        return found[0].read()
    read: list[Genotype | None] = []
    errors: list[ValueError] = []
    for one in found:
        try:
            read.append(one.read())
        except ValueError as error:
            read.append(None)
            errors.append(error)
    if len(errors) == len(found):
        raise errors[0]
    first = read[0]
    if first is not None and all(genotype == first for genotype in read):
        return first
    raise ValueError(f"{len(set(read))} different genotypes: {_labels(found)}; say which, as {file}:{_all(found)[-1]}")


def _labels(found: list[_Found]) -> str:
    return listed(one.label or "one without a name" for one in found)


def _all(found: list[_Found]) -> list[str]:
    """What each is asked for by."""
    return [one.names[0] if one.names else one.label for one in found]


def _in_text(text: str, nested: bool = False) -> list[_Found]:
    """The genotypes in a text."""
    check_size(len(text), "the text", MAX_BYTES)
    text = darts.with_plain_newlines(text)
    start = text.lstrip(_BLANK)[:1]
    if nasbench201.claims(text) and not _CALL.search(text):
        nasbench201.read(text)
    problem: ValueError | None = None
    if start in ("{", "[", '"') and not nested:
        try:
            value = parse_json(text)
            if isinstance(value, dict) and "nbformat" in value:
                return _in_text(_notebook_text(value.get("cells")), True)
            if isinstance(value, str):
                return _in_text(value, True) or [_Found("", (), lambda: Genotype.from_darts(value))]
            return _in_value(value)
        except NoJson as error:
            problem = error
    if written := darts.find(text):
        return [
            _Found(listed(one.names) or f"line {one.line}", (*one.names, str(one.line)), _reader(one))
            for one in written
        ]
    if start in ("{", "[", "(") and not nested:
        try:
            return _in_value(literal(text))
        except ValueError as error:
            problem = error if problem is None or "'" in text[:200] else problem
    found = list(_in_brackets(text)) or [
        _Found(f"line {line}", (str(line),), partial(_enas, numbers)) for line, numbers in enas.find(text)
    ]
    if not found and problem is not None:
        raise problem
    return found


def _notebook_text(cells: Any) -> str:
    """What stands in the cells of a Jupyter notebook and in their outputs, one below the other."""
    parts: list[str] = []

    def add(value: Any) -> None:  # a text, or a list of its lines
        lines = value if isinstance(value, list) else [value]
        parts.append("".join(line for line in lines if isinstance(line, str)))

    for cell in cells if isinstance(cells, list) else ():
        if isinstance(cell, dict):
            add(cell.get("source"))
            outputs = cell.get("outputs")
            for output in outputs if isinstance(outputs, list) else ():
                if isinstance(output, dict):
                    add(output.get("text"))
                    data = output.get("data")
                    add(data.get("text/plain") if isinstance(data, dict) else None)
    return "\n".join(parts)


def _enas(numbers: list[int]) -> Genotype:
    return Genotype(*enas.read(numbers))


def _in_brackets(text: str) -> Iterator[_Found]:
    """The genotypes that are a bracketed piece of a text: a dictionary in a log line, JSON in Markdown."""
    spans = bracketed(text)
    if not spans or spans == [(0, len(text))]:
        return
    for start, end in spans:
        if end - start < 40:
            continue
        ordered = "OrderedDict" if text.endswith("OrderedDict", 0, start) else ""
        piece = ordered + text[start:end]
        try:
            value = parse_json(piece)
        except ValueError:
            try:
                value = literal(piece)
            except ValueError:
                continue
        line = str(text.count("\n", 0, start) + 1)
        found = list(_claimed(value, "", _MAX_DEPTH, [0]))
        for one in found:
            label = f"line {line}" + (f" {one.label}" if one.label else "")
            yield _Found(label, (line,) if len(found) == 1 else (f"{line}.{one.label}",), one.read)


def _in_value(value: Any) -> list[_Found]:
    """The genotypes in a parsed value; one to say what is wrong with it where there is none."""
    found = list(_claimed(value, "", _MAX_DEPTH, [0]))
    if len(found) > _MAX_FOUND:
        raise ValueError(f"{len(found)} genotypes in one text; it may hold up to {_MAX_FOUND}")
    if found:
        return found
    if isinstance(value, (list, tuple)):
        return [_Found("", (), lambda: Genotype(*lists.read(value)))]
    return [_Found("", (), lambda: from_record(value))]


def _claimed(value: Any, path: str, depth: int, seen: list[int]) -> Iterator[_Found]:
    """What the dialects claim of a value or of what it holds, keys joined by dots as labels."""
    seen[0] += 1
    if seen[0] > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES} values to look for a genotype in")

    def found(read: Callable[[], Genotype]) -> _Found:
        def with_key() -> Genotype:
            try:
                return read()
            except ValueError as error:
                raise ValueError(f"key {show(path)}: {error}" if path else str(error)) from error

        return _Found(path, (path,), with_key)

    if isinstance(value, dict) and "schema" in value:
        yield found(lambda: from_record(value))
        return
    dialect = dialect_of(value)
    if dialect is not None:
        yield found(lambda: Genotype(*dialect.read(value)))
    elif isinstance(value, str):
        if _CALL.search(value) and len(value) <= MAX_BYTES:
            written = darts.find(value)
            yield found(lambda: _only([_Found(f"line {one.line}", (), _reader(one)) for one in written]))
    elif depth and isinstance(value, (dict, list, tuple)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, held in items:
            if isinstance(held, (str, dict, list, tuple)):
                yield from _claimed(held, f"{path}.{key}" if path else str(key), depth - 1, seen)


def _reader(written: darts.Written) -> Callable[[], Genotype]:
    return lambda: Genotype(*written.read())


def _plain(value: Any, depth: int = _MAX_DEPTH, seen: list[int] | None = None) -> Any:
    """The value with the scalars and arrays of numpy and torch in it as Python's numbers and lists."""
    seen = [0] if seen is None else seen
    seen[0] += 1
    if seen[0] > _MAX_VALUES:
        raise ValueError(f"more than {_MAX_VALUES} values to look for a genotype in")
    if isinstance(value, dict) and depth:
        return {key: _plain(held, depth - 1, seen) for key, held in value.items()}
    if isinstance(value, (list, tuple)) and depth and not isinstance(value, Cell):
        return [_plain(held, depth - 1, seen) for held in value]
    if type(value).__module__.split(".")[0] in ("numpy", "torch") and hasattr(value, "tolist"):
        return value.tolist()
    return value
