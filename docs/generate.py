"""Writes the pages that are made of the code: models, the command line, the Python interface.

Sphinx calls it (docs/conf.py). Tables and flags go to docs/_generated, which models.md and command_line.md include, the
pages of the rooms to docs/api, which api.md lists. Neither is in the repository.
"""

import argparse
import dataclasses
import importlib
import inspect
import pkgutil
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import GenericAlias, ModuleType
from typing import Any

import nas_zoo
from nas_zoo import cli
from nas_zoo.genotype import genotype_record
from nas_zoo.models import table
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.results import package_results
from nas_zoo.search import arguments, methods
from nas_zoo.search.method import METHODS, find_method
from nas_zoo.text import markdown

DOCS = Path(__file__).parent
MADE = DOCS / "_generated", DOCS / "api"


def generate() -> None:
    for folder in MADE:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, lines in {"weights": weights(), "weights_of_others": weights_of_others(), "zoo": zoo(), "cells": cells(),
                        "commands": commands()}.items():  # fmt: skip
        (MADE[0] / f"{name}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for room in rooms():
        (MADE[1] / f"{room.__name__}.rst").write_text("\n".join(page_of(room)) + "\n", encoding="utf-8")


# Models ---------------------------------------------------------------------------------------------------------------


def rows(heads: Sequence[str], body: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table; None is an empty cell."""
    yield f"| {' | '.join(heads)} |"
    yield "| --- " * len(heads) + "|"
    for row in body:
        yield f"| {' | '.join('' if value is None else str(value) for value in row)} |"


def millions(number: int, digits: int = 1) -> str:
    return f"{number / 1e6:,.{digits}f}M"


def weights() -> Iterator[str]:
    heads = ["name", "top-1, %", "test images", "trained on", "parameters", "multiply-adds", "MB"]
    return rows(heads, (
        [f"`{row.name}`", f"{row.top1:.2f}", f"{row.test_images:,} of {row.dataset}",
         f"{row.train_images:,} images, {row.epochs} epochs, seed {row.seed}", f"{row.params:,}", millions(row.macs),
         f"{row.size / 1e6:.1f}"]
        for row in package_results()
    ))  # fmt: skip


def weights_of_others() -> Iterator[str]:
    heads = ["name", "wrong, %, reported by its authors", "of", "licence", "from"]
    return rows(heads, (
        [f"`{row['name']}`", row["reported_err"] and f"{row['reported_err']:.2f}", row["reported_of"],
         table.license_in_short(row["license"]), markdown(row["source"])]
        for row in table.pretrained_rows() if row["name"] and row["source"] != "nas-zoo" and not row["not_by_name"]
    ))  # fmt: skip


def zoo() -> Iterator[str]:
    heads = ["name", "method", "input", "parameters", "multiply-adds", "*the paper's error, %*"]
    return rows(heads, (
        [f"`{row['name']}`", markdown(row["method"]), row["input_size"], millions(row["params"], 2),
         millions(row["macs"]), papers_error(row)]
        for row in table.model_rows(sorted(MODELS))
    ))  # fmt: skip


def papers_error(row: dict[str, Any]) -> str | None:
    if row["paper_err"] is None:
        return None
    return f"*{row['paper_err']}*" + (f" (*{markdown(row['paper_network'])}*)" if row["paper_network"] else "")


def cells() -> Iterator[str]:
    heads = ["name", "method", "*CIFAR-10*", "*CIFAR-100*", "*ImageNet*", "paper"]
    errors = ("paper_c10_err", "paper_c100_err", "paper_in1k_err")
    return rows(heads, (
        [f"`{row['name']}`", markdown(row["method"]), *(row[key] and f"*{row[key]}*" for key in errors),
         markdown(genotype_record(row["name"])["provenance"].get("paper") or "")]
        for row in table.cell_rows(1) if row["builds"]
    ))  # fmt: skip


# Commands -------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[str]:
    parser = cli.make_parser(whole_programs=True)
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    words = {action.dest: action.help or "" for action in found._choices_actions}
    for name in sorted(found.choices):
        yield from command(name, words[name], found.choices[name])
        if name == "search":
            for method in METHODS:
                if method != "edas":
                    yield from flags_of_method(method)


def command(name: str, words: str, parser: argparse.ArgumentParser) -> Iterator[str]:
    program = cli.program_parser(name) if name in cli.PROGRAMS else parser
    values = [metavar(action) for action in program._get_positional_actions()]
    yield from (f"## {name}", "", f"`{' '.join(['nas-zoo', name, *filter(None, values), '[flags]'])}`", "")
    if name in cli.PROGRAMS and program.description:
        yield as_markdown(program.description)
    else:
        yield f"{with_code(words[0].upper() + words[1:])}."
    for group in program._action_groups:
        yield from flags(group.title or "", group._group_actions)
    if program.epilog and name != "search":
        yield from ("", f"`{program.epilog.removeprefix('example: ')}`" if name not in cli.PROGRAMS else program.epilog)
    yield ""


def flags(title: str, actions: Iterable[argparse.Action]) -> Iterator[str]:
    shown = [action for action in actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    if shown:
        yield from ("", f"**{markdown(title[0].upper() + title[1:])}**", "")
    for action in shown:
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{metavar(action)}`"
        value = f" `{metavar(action)}`" if action.option_strings and action.nargs != 0 and metavar(action) else ""
        yield from (f"{names}{value}", f": {with_code((action.help or '').replace('%%', '%'))}", "")


def with_code(text: str) -> str:
    """Words of a flag as Markdown, in which `so` is code and nothing else means anything."""
    return "".join(part if part.startswith("`") else markdown(part) for part in re.split("(`[^`]+`)", text))


def metavar(action: argparse.Action) -> str:
    if isinstance(action, argparse.BooleanOptionalAction):
        return ""
    if action.metavar:
        return str(action.metavar if isinstance(action.metavar, str) else action.metavar[0])
    if action.choices is not None:
        return "{" + ",".join(map(str, action.choices)) + "}"
    return action.dest.rpartition(":")[2].upper()


def flags_of_method(name: str) -> Iterator[str]:
    """Those that a method has beside EDAS' or with other words or another default."""
    known = {tuple(a.option_strings): a.help for a in arguments.make_parser()._actions}
    actions = [
        action for action in arguments.make_parser(find_method(name)[0])._actions
        if known.get(tuple(action.option_strings)) != action.help
    ]  # fmt: skip
    yield from flags(f"--method {name}: its own flags and defaults", actions)


def as_markdown(text: str) -> str:
    """A docstring as Markdown: what is indented is code already, ``so`` is this, and <these> are no tags."""
    return re.sub(r"^(?! {4}).*$", lambda line: line[0].replace("<", "\\<"), text.strip(), flags=re.MULTILINE)


# Python ---------------------------------------------------------------------------------------------------------------


def rooms() -> Iterator[ModuleType]:
    """The packages whose `__init__` names something; of search.methods every method."""
    for found in pkgutil.walk_packages(nas_zoo.__path__, "nas_zoo."):
        if found.ispkg and (named(module := importlib.import_module(found.name)) or modules(module)):
            yield module


def named(module: ModuleType) -> list[str]:
    values = {name: getattr(module, name) for name in getattr(module, "__all__", [])}
    return [name for name, value in values.items() if not isinstance(value, ModuleType | GenericAlias)]


def modules(room: ModuleType) -> list[str]:
    """Those that others use, by the room's docstring."""
    if room is methods:
        return sorted(found.name for found in pkgutil.iter_modules(methods.__path__))
    listed = re.search(r"(?:import of it|take|rooms around take):\n\n((?: {4}.*\n?)+)", room.__doc__ or "")
    return re.findall(r"^    (\w+)", listed[1], re.MULTILINE) if listed else []


def page_of(room: ModuleType) -> Iterator[str]:
    yield from heading(room.__name__, "=")
    yield from (f".. automodule:: {room.__name__}", "   :no-members:", "")
    yield from members(room, named(room))
    for name in modules(room):
        module = importlib.import_module(f"{room.__name__}.{name}")
        yield from heading(module.__name__, "-")
        yield from (f".. automodule:: {module.__name__}", "   :no-members:", "")
        yield from members(module, [each for each in named(module) if getattr(getattr(module, each), "__doc__", None)])


def members(module: ModuleType, names: list[str]) -> Iterator[str]:
    for name in names:
        value = getattr(module, name)
        is_class = inspect.isclass(value)
        kind = "class" if is_class else "function" if inspect.isroutine(value) else "data"
        yield from (f".. auto{kind}:: {module.__name__}.{name}", *(["   :members:"] * is_class), "")


def settings_of_its_own(thing: Any) -> Iterator[str]:
    """Those that a dataclass of settings adds to the class it is made of, as a definition list in reStructuredText."""
    for field in dataclasses.fields(thing) if dataclasses.is_dataclass(thing) else ():
        if "help" in field.metadata and field.name in vars(thing).get("__annotations__", {}):
            unit = f", in {field.metadata['unit']}" if field.metadata["unit"] else ""
            default = "" if field.default is dataclasses.MISSING else f" = {field.default!r}"
            yield from (
                f"``{field.name}: {inspect.formatannotation(field.type)}{default}``",
                f"    {field.metadata['help']}{unit}",
                "",
            )


def heading(text: str, line: str) -> Iterator[str]:
    yield from (text, line * len(text), "")


if __name__ == "__main__":
    generate()
