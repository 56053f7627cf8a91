"""Settings of a program: one frozen dataclass gives its flags, the keys of its YAML file, the help and the defaults.

    @dataclass(frozen=True)
    class TrainSettings:
        epochs: int = setting(600, "passes over the training images")
        lr: float = setting(0.025, "learning rate at the start")
        time_budget_s: float | None = setting(None, "stop after this long", unit="s")

    parser = Parser(description=__doc__)
    parser.add_argument("--config", type=Path)
    add_flags(parser, TrainSettings)
    ns = parser.parse_args()
    settings = settings_from(TrainSettings, given_flags(ns), ns.config)

The class default stands below the YAML file, the YAML file below the flag. A field may be int, float, str, bool, Path,
Literal[...], a tuple of these, or a union of these with None. The file is YAML 1.2: `1e-3` is a float, `no` and `12:30`
are texts, 010 is ten. A class says its limits in `__post_init__` with `require`, after `settle_types` has seen to the
types of what a Python program has given.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import numbers
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

from nas_zoo.text import near_names, plain

__all__ = [
    "CHANGEABLE",
    "MOST_WORKERS",
    "Parser",
    "add_flags",
    "add_resume_flag",
    "check_call",
    "check_settings",
    "describe",
    "given_flags",
    "read_config",
    "require",
    "require_finite",
    "require_least",
    "require_most",
    "resumed_settings",
    "setting",
    "settings_from",
    "settle_types",
    "source_of",
    "to_dict",
    "whole",
]

S = TypeVar("S")

#: Loading processes; more than that no machine has cores for.
MOST_WORKERS = 1024

#: What a resumed run may change: where things lie and how long it may take, never what is computed.
CHANGEABLE = (
    "data", "test_data", "image_column", "label_column", "data_root", "division", "out", "time_budget",
    "workers", "skip_unreadable", "log_with", "latency_table",
)  # fmt: skip

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_DEST = "settings:"  # starts the argparse name of every flag made here, so that given_flags finds its own
_WHOLE_END = 2**63  # whole numbers lie below; 64 bits is what torch, numpy and a checkpoint hold
_MAX_SHOWN = 80  # characters of a wrong value that an error repeats


def setting(default: Any = dataclasses.MISSING, help: str = "", unit: str | None = None) -> Any:
    """A dataclass field with its help text and unit; without a default the setting has to be given."""
    metadata = {"help": help, "unit": unit}
    if isinstance(default, (list, dict, set)):
        raise TypeError(f"default {default!r} can be changed in place; write a tuple")
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, name: str, value: Any, what: str) -> None:
    """Nothing, or ValueError "NAME must be WHAT, got VALUE" where the condition does not hold."""
    if not condition:
        raise ValueError(f"{name} must be {what}, got {_got(value)}")


def require_finite(settings: Any, *names: str, above: bool = False) -> None:
    """``require`` for numbers by name: finite, and at least 0 or, where it is `above`, greater than 0."""
    what = f"a finite number {'greater than' if above else 'of at least'} 0"
    for name in names:
        value = getattr(settings, name)
        require(0 <= value < math.inf and (value > 0 or not above), name, value, what)


def require_least(settings: Any, **least: int) -> None:
    """``require`` for whole-number settings by name, each number of a tuple; None says nothing and passes."""
    for name, lowest in least.items():
        value = getattr(settings, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        require(all(number >= lowest for number in numbers), name, value, f"at least {lowest}")


def require_most(settings: Any, **most: int) -> None:
    """``require`` for whole-number settings by name; None says nothing and passes."""
    for name, highest in most.items():
        value = getattr(settings, name)
        require(value is None or value <= highest, name, value, f"at most {highest}")


def settle_types(settings: Any) -> None:
    """Puts each value in the type of its field, as a flag's text and a file's are: "runs/a" is a path, [1, 2] a tuple.

    ValueError "NAME must be ..., got ..." for a value of another type. Data that are no text are left as they are.
    """
    hints = _types(type(settings))
    for name in _fields(type(settings)):
        value, members = getattr(settings, name), _members(hints[name])
        if any(map(_is_protocol, members)) and not isinstance(value, (str, type(None))):
            if isinstance(value, Path):
                object.__setattr__(settings, name, str(value))
            continue
        if isinstance(value, numbers.Real) and not isinstance(value, bool):  # numpy's too
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
        try:
            object.__setattr__(settings, name, _convert(value, hints[name]))
        except ValueError as error:
            raise ValueError(f"{name} {error}") from None


def check_call(settings: Any, wanted: type, callbacks: Any) -> tuple[Callable[..., Any], ...]:
    """The callbacks of a Python program's call; ValueError where they, or its settings, are something else."""
    if not isinstance(settings, wanted):
        raise ValueError(f"settings must be {wanted.__name__}(...), or of a class of its kind, got {_got(settings)}")
    called = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    if called == (callbacks,) or not all(map(callable, called)):
        raise ValueError(f"callbacks must be a list of functions of an epoch's line, got {_got(callbacks)}")
    return called


def whole(least: int) -> Callable[[str], int]:
    """The `type` of an argparse flag that takes whole numbers from `least` on."""

    def read(text: str) -> int:
        try:
            number: int = _convert(text, int)
            require(number >= least, "", number, f"a whole number of at least {least}")
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error).strip()) from None
        return number

    return read


def _got(value: Any) -> str:
    """A wrong value as an error repeats it: on one line, and not a whole file of it."""
    text = repr(value) if not isinstance(value, Path) else repr(str(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


class _TooLarge(ValueError):
    """A whole number that 64 bits do not hold: right in kind, so that another member of a union says nothing of it."""


# ---------------------------------------------------------------------------------------------------------- fields


def _fields(settings_class: type) -> dict[str, dataclasses.Field[Any]]:
    assert dataclasses.is_dataclass(settings_class), f"{settings_class!r} is no dataclass"
    return {field.name: field for field in dataclasses.fields(settings_class) if field.init}


def _types(settings_class: type) -> dict[str, Any]:
    return typing.get_type_hints(settings_class)


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def check_settings(settings_class: type, base: type, reserved: Sequence[str] = ()) -> None:
    """ValueError where a class of settings from outside cannot become flags beside those of its `base`.

    That is: no frozen dataclass, a setting whose name a flag of the program has (`reserved`), one of the base's with
    another type, one without a type that a flag can have.
    """
    name = settings_class.__name__
    bare = [key for key in inspect.get_annotations(settings_class) if key not in _fields(settings_class)]
    hints = _types(settings_class)
    bare = [key for key in bare if typing.get_origin(hints[key]) is not typing.ClassVar]
    frozen = getattr(settings_class, "__dataclass_params__").frozen  # noqa: B009
    if bare or not frozen or "__dataclass_fields__" not in settings_class.__dict__:
        told = f", so that {', '.join(bare)} are settings" if bare else ""
        raise ValueError(f"{name} must be decorated with @dataclass(frozen=True){told}")
    own = _types(base)
    for key, field in _fields(settings_class).items():
        if key in reserved:
            raise ValueError(f"{name}: the program has a flag {_flag(key)} itself; give the setting {key} another name")
        if key in own and hints[key] != own[key]:
            raise ValueError(
                f"{name}: the setting {key} must stay {_type_name(own[key])}, as {base.__name__} has it; give yours "
                "another name"
            )
        try:
            _type_name(hints[key]), _metavar(hints[key])
        except (KeyError, IndexError):
            raise ValueError(
                f"{name}: the setting {key} must be int, float, str, bool, Path, Literal[...], a tuple of these or one "
                f"of them or None, got {hints[key]!r}"
            ) from None
        if field.default is not dataclasses.MISSING:
            try:
                _convert(_plain(field.default), hints[key])
            except ValueError as error:
                raise ValueError(f"{name}: the default of {key} {error}") from None


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (Union, types.UnionType) else (kind,)


def _without_none(kind: Any) -> tuple[Any, ...]:
    return tuple(member for member in _members(kind) if member is not type(None))


def _is_protocol(kind: Any) -> bool:
    """Something that a Python program gives, and neither a flag nor a file can."""
    return bool(getattr(kind, "_is_protocol", False))


def _type_name(kind: Any) -> str:
    """What a setting takes, in words: "a whole number", "one of 'avg', 'max'"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(member) for member in args if not _is_protocol(member))
    if origin is Literal:
        return "one of " + ", ".join(repr(choice) for choice in args)
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return f"a list in which each value is {_type_name(args[0])}"
        return f"a list of {len(args)} values ({', '.join(_type_name(arg) for arg in args)})"
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Path: "a path"}
    return "none" if kind is type(None) else names[kind]


def _convert(value: Any, kind: Any) -> Any:
    """`value` (from YAML, from a flag's text or already right) as `kind`; else ValueError "must be ..., got ..."."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if _is_protocol(kind):
        if isinstance(value, kind):
            return value
        raise ValueError(f"must be a {kind.__name__}, got {_got(value)}")
    wrong = ValueError(f"must be {_type_name(kind)}, got {_got(value)}")
    if origin in (Union, types.UnionType):
        if type(None) in args and (value is None or (isinstance(value, str) and value.lower() in ("none", "null"))):
            return None
        for member in _without_none(kind):
            try:
                return _convert(value, member)
            except _TooLarge:
                raise
            except ValueError:
                continue
        raise wrong
    if origin is Literal:
        for choice in args:
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
            if isinstance(value, str) and not isinstance(choice, str) and value == str(choice):
                return choice
        near = (
            near_names(value, [choice for choice in args if isinstance(choice, str)]) if isinstance(value, str) else ""
        )
        raise ValueError(f"{wrong}{near}")
    if origin is tuple:
        if isinstance(value, str):
            value = [part for part in re.split(r"[,\s]+", value.strip()) if part]
        if not isinstance(value, (list, tuple)):
            raise wrong
        many = len(args) == 2 and args[1] is Ellipsis
        if not many and len(value) != len(args):
            raise wrong
        parts = []
        for i, part in enumerate(value):
            try:
                parts.append(_convert(part, args[0] if many else args[i]))
            except _TooLarge:
                raise
            except ValueError:
                raise ValueError(f"must be {_type_name(kind)}, got {_got(part)} in it") from None
        return tuple(parts)
    if kind is bool:
        word = value.lower() if isinstance(value, str) else None
        if isinstance(value, bool) or word in _TRUE or word in _FALSE:
            return value if isinstance(value, bool) else word in _TRUE
        raise wrong
    if isinstance(value, bool) or value is None:
        raise wrong
    if kind is int:
        given = value
        if isinstance(value, str) and re.fullmatch(r"[-+]?(\d+|\d{1,3}(_\d{3})+)", value):
            # Python refuses to read more than some thousand digits
            value = int(value) if len(value) <= 1000 else -_WHOLE_END - 1 if value[0] == "-" else _WHOLE_END
        if not isinstance(value, int):
            raise wrong
        if value >= _WHOLE_END:
            raise _TooLarge(f"must be at most {_WHOLE_END - 1}, got {_got(given)}")
        if value < -_WHOLE_END:
            raise _TooLarge(f"must be at least {-_WHOLE_END}, got {_got(given)}")
        return value
    if kind is float:
        if not isinstance(value, (int, float, str)):
            raise wrong
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise wrong from None
        if math.isnan(number):
            raise wrong
        return number
    if kind is Path:
        if not isinstance(value, (str, Path)) or not str(value):
            raise wrong
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise ValueError(f"must be a path without '~', whose folder is not known here, got {_got(value)}") from None
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError(f"{wrong}; write it in quotes")
    raise TypeError(f"a setting of type {kind!r} is not supported")


def _show(value: Any) -> str:
    """A value the way it may be written in YAML or behind a flag."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, (tuple, list)):
        return ",".join(_show(part) for part in value)
    return str(_plain(value))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


# ----------------------------------------------------------------------------------------------------------- flags


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that takes no abbreviations and names the nearest flags for an unknown one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)  # a shortened flag changes its meaning when a flag is added
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **kwargs)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Its own unknown flags are told by the parser that the command has, which knows the nearest ones."""
        given, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self._of_command(given).error(f"unrecognized arguments: {' '.join(unknown)}")
        return given

    def _of_command(self, given: argparse.Namespace) -> argparse.ArgumentParser:
        groups = [action for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        chosen = [
            group.choices[name] for group in groups if (name := getattr(given, group.dest, None)) in group.choices
        ]
        return chosen[0] if chosen else self

    def error(self, message: str) -> NoReturn:
        """Ends the program with status 2 and one line; the usage, which may fill a screen, is told by --help."""
        told = re.sub(r"^argument (\S+): must ", r"\1 must ", _with_nearest_flags(self, message))
        self.exit(2, f"{self.prog}: {told}\n")


def _with_nearest_flags(parser: argparse.ArgumentParser, message: str) -> str:
    if choice := re.search(r"^argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message):
        flag, given, known = choice.groups()
        said = near_names(given, re.findall(r"[^\s',]+", known)) or f"; it must be one of {known.replace(chr(39), '')}"
        return f"there is no {flag.removeprefix('--')} {given!r}{said}"
    if not message.startswith("unrecognized arguments: "):
        return message
    flags = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    unknown = [word.split("=")[0] for word in message.split(": ", 1)[1].split() if word.startswith("--")]
    told = [f"there is no flag {word}{near_names(word, flags) or '; --help lists them all'}" for word in unknown]
    return " and ".join(told) or message


def add_flags(parser: argparse.ArgumentParser, settings_class: type) -> None:
    """One flag a field under a heading of the class: `--num-cells` for num_cells, `--x` and `--no-x` for a bool.

    A tuple takes several words or one with commas. A flag that is not given leaves no trace in the namespace, so
    that it does not hide what the YAML file says.
    """
    parser.allow_abbrev = False
    # argparse takes -1 for a number and -1e-3 for a flag
    parser._negative_number_matcher = re.compile(r"^-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")
    hints = _types(settings_class)
    group = parser.add_argument_group(_title(settings_class))
    for name, field in _fields(settings_class).items():
        kind = hints[name]
        common: dict[str, Any] = {
            "dest": f"{_DEST}{name}",
            "default": argparse.SUPPRESS,
            "help": _help(field),
        }
        inner = _without_none(kind)
        if inner == (bool,):
            group.add_argument(_flag(name), action=argparse.BooleanOptionalAction, **common)
        elif any(typing.get_origin(member) is tuple for member in inner):
            group.add_argument(_flag(name), nargs="*", action=_Joined, kind=kind, metavar=_metavar(kind), **common)
        else:
            group.add_argument(_flag(name), type=_Converter(kind), metavar=_metavar(kind), **common)


class _Converter:
    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def __call__(self, text: str) -> Any:
        try:
            return _convert(text, self.kind)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


class _Joined(argparse.Action):
    """`--mean 0.5 0.5` and `--mean 0.5,0.5` alike."""

    def __init__(self, *args: Any, kind: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.kind = kind

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        try:
            setattr(namespace, self.dest, _convert(" ".join(values), self.kind))
        except ValueError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def _title(settings_class: type) -> str:
    """The first line of the class's docstring, else its name."""
    text = (settings_class.__doc__ or "").strip().split("\n")[0].rstrip(".")
    # dataclass itself writes a docstring `Name(field: type = default, ...)`
    return settings_class.__name__ if not text or text.startswith(f"{settings_class.__name__}(") else text


def _metavar(kind: Any) -> str:
    member = _without_none(kind)[0]
    origin, args = typing.get_origin(member), typing.get_args(member)
    if origin is Literal:
        return "{" + ",".join(str(choice) for choice in args) + "}"
    if origin is tuple:
        return _metavar(args[0])
    return {int: "INT", float: "FLOAT", str: "TEXT", bool: "BOOL", Path: "PATH"}[member]


def _help(field: dataclasses.Field[Any]) -> str:
    text, unit, default = field.metadata.get("help", ""), field.metadata.get("unit"), _default(field)
    notes = [f"in {unit}"] if unit else []
    notes.append("needed" if default is dataclasses.MISSING else f"default: {_show(default)}")
    return f"{text} ({', '.join(notes)})".strip().replace("%", "%%")


def add_resume_flag(parser: argparse.ArgumentParser) -> None:
    """--resume [CHECKPOINT], as ``runs.log.run_to_resume`` reads it."""
    told = "continue the run in --out, or from this checkpoint; auto: continue the run if --out has one, else start it"
    parser.add_argument("--resume", nargs="?", const="", metavar="CHECKPOINT", help=told)


def given_flags(namespace: argparse.Namespace) -> dict[str, Any]:
    """The settings that stood on the command line, by field name."""
    return {key.removeprefix(_DEST): value for key, value in vars(namespace).items() if key.startswith(_DEST)}


# ------------------------------------------------------------------------------------------------------------ YAML


def read_config(config: Path | str) -> dict[str, Any]:
    """The names and values in a YAML 1.2 (or JSON) file; {} for an empty one. ValueError naming the file and line."""
    return {name: value for name, (value, _) in _read_lines(config).items()}


def _read_lines(config: Path | str) -> dict[str, tuple[Any, int]]:
    from nas_zoo.runs.yaml_file import read_yaml  # here, so that programs start without it

    return read_yaml(Path(config))


# -------------------------------------------------------------------------------------------------------- settings


def settings_from(
    settings_class: type[S],
    flags: Mapping[str, Any] | None = None,
    config: Path | str | None = None,
    *,
    under: Mapping[str, Mapping[str, Any]] | None = None,
) -> S:
    """An instance of the class: defaults, over them the YAML file, over it the flags.

    `under` are layers between the defaults and the file, the later over the earlier, by the name that `describe` and
    errors give them ("recipe quick").
    ValueError for an unknown name, a value of the wrong type, a missing one, or what the class's own __post_init__
    refuses; each names the setting, the value and where it was written.
    """
    fields = _fields(settings_class)
    values, sources = _read_layers(settings_class, flags, config, under)
    for name, field in fields.items():
        if name not in values and _default(field) is dataclasses.MISSING:
            raise ValueError(f"{name} is needed: give {_flag(name)} or write `{name}:` in the config file")
    try:
        settings = settings_class(**values)
    except ValueError as error:
        raise ValueError(_with_sources(str(error), fields, values, sources)) from error
    # beside the fields, so that equality, repr and asdict do not see it
    object.__setattr__(settings, "_sources", sources)
    return settings


def _read_layers(
    settings_class: type[Any],
    flags: Mapping[str, Any] | None,
    config: Path | str | None,
    under: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that are given, each in its field's type, and where each was written."""
    fields, hints = _fields(settings_class), _types(settings_class)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    given = [(where, name, value) for where, layer in (under or {}).items() for name, value in layer.items()]
    if config is not None:
        given += [(f"config {config}, line {n}", name, value) for name, (value, n) in _read_lines(config).items()]
    given += [(f"flag {_flag(name)}", name, value) for name, value in (flags or {}).items()]
    for source, name, value in given:
        if name not in fields:
            near = near_names(name, fields) or "; the settings are " + ", ".join(fields)
            raise ValueError(f"{source}: there is no setting {_got(name)}{near}")
        try:
            values[name] = _convert(value, hints[name])
        except ValueError as error:
            raise ValueError(f"{source}: {name} {error}") from None
        sources[name] = source
    return values, sources


def _with_sources(
    message: str, fields: Mapping[str, Any], values: Mapping[str, Any], sources: Mapping[str, str]
) -> str:
    """The class's own complaint and where the settings it speaks of were written."""
    words = set(re.findall(r"\w+", message))
    named = [name for name in fields if name in words] or list(sources)
    told = [f"{name} = {_show(values[name])} from {sources[name]}" for name in named if name in sources]
    told += [f"{name} from its default" for name in named if name not in sources]
    return f"{message} ({'; '.join(told)})" if told else message


def resumed_settings(
    settings_class: type[S],
    saved: Mapping[str, Any],
    flags: Mapping[str, Any],
    config: Path | str | None = None,
    *,
    changeable: Sequence[str] = CHANGEABLE,
    forgotten: Sequence[str] = ("time_budget",),
    under: Mapping[str, Mapping[str, Any]] | None = None,
) -> S:
    """The settings of a stopped run (`saved`, as to_dict gave them), for its continuation.

    Flags and the file may change what is `changeable` (where things lie, how long it may take) and may repeat the
    rest; `forgotten` ones count for one start only and are not taken over. `under`: layers that may repeat what the
    run has, such as what accelerate was asked for; a flag holds against them. ValueError for a setting that would
    change what is computed, naming it and both values.
    """
    given, _ = _read_layers(settings_class, flags, config)
    for name in sorted(given.keys() - set(changeable)):
        if (now := _plain(given[name])) != saved.get(name):
            raise ValueError(f"{name} must stay {saved.get(name)!r} as in the run that is resumed, got {now!r}")
    for where, layer in (under or {}).items():
        for name, value in layer.items():
            before = saved.get(name, _default(_fields(settings_class)[name]))
            if name not in given and value != before:
                raise ValueError(
                    f"{name} must stay {before!r} as in the run that is resumed, got {value!r} from {where}; "
                    f"{_flag(name)} {_show(before)} holds against it"
                )
    # What is given has to fit what the run has, not the defaults of the class.
    kept = {name: value for name, value in saved.items() if name not in forgotten}
    return settings_from(settings_class, flags, config, under={"the run": kept})


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as JSON has them (a path is a text, a tuple a list, infinity "inf"); settings_from reads it back."""
    return {name: _plain(getattr(settings, name)) for name in _fields(type(settings))}


def _plain(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    return value if isinstance(value, (str, int, float, type(None))) else type(value).__name__


def source_of(settings: Any, name: str) -> str:
    """Who decided a setting: "flag --lr", "config a.yaml, line 3", "recipe quick", "default", "program" ..."""
    sources = getattr(settings, "_sources", None)
    if sources is not None:
        return str(sources.get(name, "default"))
    # made by hand or by dataclasses.replace
    return "default" if getattr(settings, name) == _default(_fields(type(settings))[name]) else "program"


def describe(settings: Any) -> str:
    """A table: one line a setting with its value, unit and where that came from (default, config or flag)."""
    rows = [("setting", "value", "from")]
    for name, field in _fields(type(settings)).items():
        value = getattr(settings, name)
        unit = field.metadata.get("unit")
        shown = plain(_show(value)) + (f" {unit}" if unit and value is not None else "")
        rows.append((name, shown, source_of(settings, name)))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    return "\n".join(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}" for name, value, source in rows)
