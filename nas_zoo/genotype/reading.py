"""Whatever a user holds (a name, a path, text, lists) -> Genotype.

Names come from the catalog, JSON of this package's schema from genotype.py, and everything else from the dialects,
which are asked in order. Everything a user can get wrong is a ValueError that names the place, the value found and what
would do. Nothing read here is ever executed.
"""

from __future__ import annotations

import os
import re
import stat
from typing import Any

from nas_zoo.genotype.catalog import NAME, list_genotypes, no_such_name, package_record
from nas_zoo.genotype.cell import check_size, listed, show
from nas_zoo.genotype.dialects import dialect_of
from nas_zoo.genotype.genotype import MAX_BYTES, Genotype, decoded, from_record, parse_json

__all__ = ["as_genotype", "load_genotype"]

_CALL = re.compile(r"\bGenotype\s*\(")


def as_genotype(value: Any) -> Genotype:
    """The genotype that `value` stands for.

    A Genotype; a name of list_genotypes(); a path (see load_genotype); JSON or DARTS text; the dictionary of a JSON
    text, of this schema or one of those in nas_zoo.genotype.dialects; nested lists or tuples `[[nodes, concat], [nodes,
    concat]]`, which is what json.dumps makes of a Genotype; the four fields of a DARTS namedtuple; or 28 numbers of
    operations (RLNAS, GeNAS).
    """
    if isinstance(value, Genotype):
        return value
    if isinstance(value, (str, bytes)):
        text = decoded(value, "genotype") if isinstance(value, bytes) else value
        return _from_text(text) if _is_genotype_text(text) else load_genotype(text)
    if isinstance(value, os.PathLike):
        return load_genotype(value)
    if isinstance(value, (dict, list, tuple)):
        return _from_value(value)
    raise ValueError(
        "genotype must be a Genotype, a name, a path, JSON or DARTS text, a dictionary or nested lists, "
        f"got {show(value)}"
    )


def load_genotype(name_or_path: str | os.PathLike[str]) -> Genotype:
    """The genotype of that name (list_genotypes), in that file (JSON or DARTS text) or in that run folder.

    A run folder is one that holds genotype.json. A name goes before a path: write ./darts_v2 for a folder of that name.
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
            no_such_name(name_or_path, list_genotypes())
    elif not isinstance(name_or_path, (str, os.PathLike)):
        raise ValueError(f"genotype must be a name or a path here, got {show(name_or_path)}")
    return _from_file(name_or_path)


def _from_file(name_or_path: str | os.PathLike[str]) -> Genotype:
    path = os.fsdecode(name_or_path)
    shown = show(path)
    try:
        if os.path.isdir(path):
            inner = os.path.join(path, "genotype.json")
            if not os.path.isfile(inner):
                raise ValueError("a folder without genotype.json; it must be a file or a run's folder")
            path = inner
        text = decoded(_file_bytes(path), "the file")
        if not text.strip("\ufeff \t\r\n"):
            raise ValueError("the file is empty; it must hold a JSON or DARTS genotype")
        return _from_text(text)
    except FileNotFoundError:
        no_such_name(path, list_genotypes())
    except OSError as error:
        raise ValueError(f"genotype {shown}: {error.strerror or error}; it must be a readable file") from error
    except ValueError as error:
        raise ValueError(f"genotype {shown}: {error}") from error


def _file_bytes(path: str) -> bytes:
    """The bytes of a regular file, no more than just over MAX_BYTES; opening a pipe could wait for ever."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("no regular file; it must be a file with a JSON or DARTS genotype")
    with open(path, "rb") as file:
        data = file.read(MAX_BYTES + 1)
    check_size(len(data), "the file", MAX_BYTES)
    return data


def _is_genotype_text(text: str) -> bool:
    return text.lstrip("\ufeff \t\r\n")[:1] in ("{", "[", '"') or _CALL.search(text) is not None


def _from_text(text: str) -> Genotype:
    """The genotype of a JSON text (an object, nested lists, a string of DARTS text) or of a DARTS text."""
    start = text.lstrip("\ufeff \t\r\n")[:1]
    if start in ("{", "["):
        return _from_value(parse_json(text))
    return Genotype.from_darts(parse_json(text) if start == '"' else text)


def _from_value(value: Any) -> Genotype:
    """The genotype of a dictionary or of nested lists: this schema, or a dialect that claims it."""
    if isinstance(value, dict) and "schema" in value:
        return from_record(value)
    dialect = dialect_of(value)
    if dialect is not None:
        return Genotype(*dialect.read(value))
    if isinstance(value, dict) and any(_is_text(held) for held in value.values()):
        return _from_text_in_json(value)
    return from_record(value)


def _from_text_in_json(record: dict[Any, Any]) -> Genotype:
    """The genotype of a DARTS text that is a value of the dictionary, such as one of a log or of a search's result.

    Where several values are such texts (CDARTS writes one for each stage), they must say the same.
    """
    found: dict[str, Genotype] = {}
    for key, value in record.items():
        if _is_text(value):
            try:
                found[str(key)] = Genotype.from_darts(value)
            except ValueError as error:
                raise ValueError(f"key {show(key)}: {error}") from error
    if len(set(found.values())) > 1:
        raise ValueError(
            f"keys {listed(found)}: texts of different genotypes; there must be one, a network of stages with "
            "cells of their own cannot be built here"
        )
    return next(iter(found.values()))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and _CALL.search(value) is not None
