"""The cells that come with the package: their names, and the record of each (cells, paper, source, conflicts)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, NoReturn

from nas_zoo.genotype.cell import near
from nas_zoo.genotype.genotype import SCHEMA, VERSION, from_record, parse_json
from nas_zoo.text import show

__all__ = [
    "NAME",
    "count_cells",
    "describe_cells",
    "genotype_record",
    "list_found",
    "list_genotypes",
    "list_records",
    "no_such_name",
    "package_record",
]

NAME = re.compile(r"[a-z0-9_]+")  # of every cell
_LINE_START = '{"name":"'  # of every line of published.jsonl
_CANNOT_BUILD = '"cannot_build":'


def list_genotypes(tier: int | None = None) -> list[str]:
    """Names of the genotypes that come with the package, sorted: all that load_genotype takes.

    tier 1: what a paper or its repository presents as its result; 2: other published cells (ablations, other seeds or
    search spaces, searches repeated by others); None: both, and those that this package has found.
    """
    names = _file_names() if tier in (1, None) else []
    if tier is None:
        names += list_found()
    if tier in (2, None):
        names += [name for name, line in _published_lines().items() if _CANNOT_BUILD not in line]
    elif tier != 1:
        raise ValueError(f"tier must be 1, 2 or None, got {show(tier)}")
    return sorted(names)


def list_found() -> list[str]:
    """Names of the cells that searches of this package have found, sorted; no paper publishes them."""
    return _names_in("found")


def count_cells() -> dict[str, int]:
    """How many there are: "published", "found" here, "records" of both, "genotypes" that can be built."""
    found, records = len(list_found()), len(list_records())
    return {"published": records - found, "found": found, "records": records, "genotypes": len(list_genotypes())}


def describe_cells() -> str:
    """The same in words, as the command line and its errors give it."""
    counts = count_cells()
    unbuilt = counts["records"] - counts["genotypes"]
    found = f"{counts['found']} found here"
    return f"{counts['published']} published cells ({unbuilt} of which cannot be built here) and {found}"


def list_records() -> list[str]:
    """Names that genotype_record takes, sorted: the genotypes, and published cells that cannot be built here."""
    return sorted({*_file_names(), *list_found(), *_published_lines()})


def genotype_record(name: str) -> dict[str, Any]:
    """The whole JSON record of a cell that comes with the package: the cells, "name" and "provenance".

    The provenance says paper and source, tier, and where sources conflict; figures in it are the paper's own ("by"),
    not measured here. A cell that cannot be built has "cannot_build", the reason, and "published", its edges as its
    source writes them, in place of the cells.
    """
    record = package_record(name) if isinstance(name, str) else None
    if record is None:
        no_such_name(name, list_records())
    if "cannot_build" not in record:
        from_record(record)
    return record


def package_record(name: str) -> dict[str, Any] | None:
    """The record of that name, or None."""
    record: dict[str, Any]
    for folder, names in (("", _file_names()), ("found", list_found())):
        if name in names:
            record = parse_json(_folder().joinpath(folder, f"{name}.json").read_bytes())
            return record
    line = _published_lines().get(name)
    if line is None:
        return None
    record = parse_json(line)
    return record if "cannot_build" in record else {"schema": SCHEMA, "version": VERSION} | record


def no_such_name(name: Any, names: list[str], models: Sequence[str] = ()) -> NoReturn:
    """ValueError with the nearest names; `models` are those that would do as well."""
    alike = near(name, dict.fromkeys([*names, *models])) if isinstance(name, str) else ""
    raise ValueError(
        f"genotype {show(name)}: no such file, and none of the {describe_cells()} has that name"
        f"{', nor has a model' if models else ''}{alike}; "
        f"`nas-zoo list --cells` shows them{', `nas-zoo list` the models' if models else ''}"
    )


def _folder() -> Any:
    return resources.files("nas_zoo.genotype").joinpath("cells")


def _file_names() -> list[str]:
    """Names of the published cells that have a file each, those of tier 1."""
    return _names_in("")


def _names_in(folder: str) -> list[str]:
    names = (entry.name for entry in _folder().joinpath(folder).iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


@cache
def _published_lines() -> dict[str, str]:
    """The lines of published.jsonl by name: tier 2, and what cannot be built. A line is parsed when it is asked for."""
    lines = _folder().joinpath("published.jsonl").read_text(encoding="ascii").splitlines()
    return {line[len(_LINE_START) : line.index('"', len(_LINE_START))]: line for line in lines}
