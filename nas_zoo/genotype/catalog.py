"""The cells that come with the package: their names, and the record of each (cells, paper, source, conflicts)."""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import Any, NoReturn

from nas_zoo.genotype.cell import near, show
from nas_zoo.genotype.genotype import SCHEMA, VERSION, from_record, parse_json

__all__ = ["NAME", "genotype_record", "list_genotypes", "list_records", "no_such_name", "package_record"]

NAME = re.compile(r"[a-z0-9_]+")  # of every cell
_LINE_START = '{"name":"'  # of every line of published.jsonl
_CANNOT_BUILD = '"cannot_build":'


def list_genotypes(tier: int | None = None) -> list[str]:
    """Names of the genotypes that come with the package, sorted: all that load_genotype takes.

    tier 1: found by this package, or what a paper or its repository presents as its result; 2: other published cells
    (ablations, other seeds or search spaces, searches repeated by others); None: both.
    """
    names = _file_names() if tier in (1, None) else []
    if tier in (2, None):
        names += [name for name, line in _published_lines().items() if _CANNOT_BUILD not in line]
    elif tier != 1:
        raise ValueError(f"tier must be 1, 2 or None, got {show(tier)}")
    return sorted(names)


def list_records() -> list[str]:
    """Names that genotype_record takes, sorted: the genotypes, and published cells that cannot be built here."""
    return sorted({*_file_names(), *_published_lines()})


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
    if name in _file_names():
        record = parse_json(_folder().joinpath(f"{name}.json").read_bytes())
        return record
    line = _published_lines().get(name)
    if line is None:
        return None
    record = parse_json(line)
    return record if "cannot_build" in record else {"schema": SCHEMA, "version": VERSION} | record


def no_such_name(name: Any, names: list[str]) -> NoReturn:
    alike = near(name, names) if isinstance(name, str) else ""
    raise ValueError(
        f"genotype {show(name)}: no such file, and none of the {len(names)} cells has that name{alike}; "
        "`nas-zoo list --cells` shows them"
    )


def _folder() -> Any:
    return resources.files("nas_zoo.genotype").joinpath("cells")


def _file_names() -> list[str]:
    """Names of the cells that have a file each, those of tier 1."""
    names = (entry.name for entry in _folder().iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


@cache
def _published_lines() -> dict[str, str]:
    """The lines of published.jsonl by name: tier 2, and what cannot be built. A line is parsed when it is asked for."""
    lines = _folder().joinpath("published.jsonl").read_text(encoding="ascii").splitlines()
    return {line[len(_LINE_START) : line.index('"', len(_LINE_START))]: line for line in lines}
