"""The one reader of YAML: a file of `name: value` lines, as settings are given in.

YAML 1.2, so that `1e-3` is a float, `no` and `12:30` are texts, and 010 is ten. Values may be lists; what settings have
no use for, and what a reader can be harmed with (anchors, tags, lists nested a thousand deep), is refused.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, MappingNode, ScalarNode
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

__all__ = ["read_yaml"]

_MAX_BYTES = 1_000_000  # the largest of ours has 1,000
_MAX_DEPTH = 8  # of lists in lists; a setting has one


class _Constructor(SafeConstructor):
    """YAML 1.2 has no dates: 2024-01-01 is a text."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def read_yaml(path: Path) -> dict[str, tuple[Any, int]]:
    """Of each name in the file: its value and the line it stands on, from 1; {} for an empty file.

    Raises:
        ValueError: For anything else than lines of `name: value`, naming the file and the line.
    """
    text = _text_of(path)
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    read: dict[str, tuple[Any, int]] = {}
    line = 1
    try:
        _refuse_machinery(yaml.parse(text))
        root = yaml.compose(text)
        if root is None or (isinstance(root, ScalarNode) and root.value == ""):
            return {}
        line = root.start_mark.line + 1
        if not isinstance(root, MappingNode):
            raise ValueError("a file of settings must hold lines of `name: value` and nothing else")
        for key, value in root.value:
            line = key.start_mark.line + 1
            if not isinstance(key, ScalarNode) or key.tag != "tag:yaml.org,2002:str":
                raise ValueError("a line must begin with the name of a setting")
            if key.value in read:
                raise ValueError(f"{key.value!r} stands on line {read[key.value][1]} already")
            try:
                read[key.value] = (yaml.constructor.construct_object(value, deep=True), line)
            except ValueError:  # Python's int: beyond 4,300 digits
                raise ValueError(f"{key.value!r} has a number of too many digits") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ValueError(f"config {path}, line {line}: YAML allows no U+{error.character:04X}") from None
    except MarkedYAMLError as error:
        line = line if error.problem_mark is None else error.problem_mark.line + 1
        raise ValueError(f"config {path}, line {line}: {repr(error.problem)[1:-1]}") from None
    except ValueError as error:
        raise ValueError(f"config {path}, line {line}: {error}") from None
    return read


def _text_of(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a FIFO would be waited for
            raise ValueError(f"config {path} must be a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"config {path} must be a file of settings, which has at most {_MAX_BYTES:,} bytes")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ValueError(f"config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"config {path} must be UTF-8 text") from None


def _refuse_machinery(events: Iterable[Any]) -> None:
    """MarkedYAMLError at the first thing that no setting needs. Before composing, which follows the nesting."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind in ("SequenceStartEvent", "MappingStartEvent")
        depth -= kind in ("SequenceEndEvent", "MappingEndEvent")
        tag = getattr(event, "tag", None)
        if getattr(event, "version", None) not in (None, (1, 2)):
            problem = "a file of settings is YAML 1.2 and must not ask for another version"
        elif getattr(event, "anchor", None) is not None:
            problem = "anchors (&name) and aliases (*name) are not read; write the value itself"
        elif tag is not None:
            problem = f"tags (here {str(tag)!r}) are not read; write the value alone"
        elif depth > _MAX_DEPTH:
            problem = f"lists must not lie deeper than {_MAX_DEPTH} in one another"
        else:
            continue
        raise MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
