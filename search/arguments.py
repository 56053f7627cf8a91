"""The flags of a search: those that all methods share, and those of the method that is named among them."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas_zoo.models.operations import load_operation
from nas_zoo.runs.launch import asked_settings
from nas_zoo.runs.log import RunLog, run_to_resume
from nas_zoo.runs.outside import is_outside, place_of
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    add_resume_flag,
    given_flags,
    read_config,
    resumed_settings,
    settings_from,
)
from nas_zoo.search.method import METHODS, SearchSettings, config_path, find_method, load_method, shipped_configs

__all__ = ["CHECKPOINT_KIND", "add_code_flags", "load_code", "make_parser", "parse", "resume_command"]

CHECKPOINT_KIND = "search"


def make_parser(settings_class: type[SearchSettings] | None = None, description: str | None = None) -> Parser:
    """Of `nas-zoo search`, with the flags of a method's settings; None: EDAS'."""
    settings_class = settings_class or find_method("edas")[0]
    parser = Parser(prog="nas-zoo search", description=description)
    shipped = ", ".join(shipped_configs())
    parser.add_argument("--config", help=f"YAML file of settings, or a shipped one: {shipped}")
    add_resume_flag(parser)
    add_flags(parser, settings_class)
    parser.epilog = (
        f"These are the flags of --method {settings_class.method}. Methods: {', '.join(METHODS)};\n"
        "each has some flags of its own and its paper's defaults: nas-zoo search --method da2s --help\n"
        "A method of your own is a class in a file, --method my_method.py:MyMethod, and so is an operation:\n"
        "--operations sep_conv_3x3,skip_connect,my_ops.py:my_op (docs/extending.md)"
    )
    return parser


def parse(argv: Sequence[str], description: str | None = None) -> tuple[SearchSettings, dict[str, Any] | None]:
    """Settings and, with --resume, the checkpoint's contents. Every mistake is a ValueError.

    Files of methods and operations that are named here are run, those that a checkpoint names are not.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method")
    first.add_argument("--config")
    add_resume_flag(first)
    first.add_argument("--out", type=Path)
    known = first.parse_known_args(argv)[0]
    config = None if known.config is None else config_path(known.config)
    in_file = {} if config is None else read_config(config)
    named = known.method or in_file.get("method")
    method = load_method(named) if isinstance(named, str) else named
    if {"-h", "--help"} & set(argv):
        make_parser(find_method(method or "edas")[0], description).parse_args(argv)
    out = Path(str(known.out or in_file.get("out") or SearchSettings.out)).expanduser()
    saved, state = run_to_resume(out, known.resume, CHECKPOINT_KIND)
    begun = {} if saved is None else state or RunLog.read(out)[0]  # killed before its first checkpoint, a run has a log
    marks = begun.get("code")
    settings_class = find_method(method or ("edas" if saved is None else str(saved.get("method"))), marks)[0]
    flags = given_flags(make_parser(settings_class, description).parse_args(argv))
    asked = asked_settings(settings_class)
    if method is not None:
        flags["method"] = method
    operations = flags.get("operations", in_file.get("operations"))
    if isinstance(operations, (list, tuple)) and all(isinstance(name, str) for name in operations):
        flags["operations"] = tuple(load_operation(name) for name in operations)
        named = set(flags["operations"])
        if saved is not None and named <= set(saved.get("operations") or ()) and all(map(is_outside, named)):
            del flags["operations"]  # of a run that goes on, those from outside need naming again and no others
    if saved is None:
        return settings_from(settings_class, flags, config, under=asked), None
    return resumed_settings(settings_class, saved, flags, config, under=asked), state


def resume_command(settings: SearchSettings) -> str:
    """The command that goes on with a run, code from outside named."""
    words = ["nas-zoo", "search", "--resume", "--out", str(settings.out)]
    if is_outside(settings.method):
        words += ["--method", place_of(settings.method, "method")]
    operations = [place_of(name, "operation") for name in settings.operations if is_outside(name)]
    return shlex.join(words + (["--operations", ",".join(operations)] if operations else []))


def add_code_flags(parser: argparse.ArgumentParser) -> None:
    """--method and --operations, by which a run's code from outside is named again, for `load_code`."""
    parser.add_argument("--method", metavar="FILE.py:CLASS", help="of a run whose method comes from a file: that file")
    parser.add_argument("--operations", nargs="+", default=[], metavar="FILE.py:NAME",
                        help="of a run with operations from files: those files")  # fmt: skip


def load_code(options: argparse.Namespace) -> None:
    """Loads what `add_code_flags` was given."""
    if options.method is not None:
        load_method(options.method)
    for text in options.operations:
        for name in text.split(","):
            load_operation(name)
