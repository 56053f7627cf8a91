"""Python as people leave it lying about (a log line, a repr, a module): what it says, without running it.

    literal(text)     the value of a dictionary, list, tuple ... with numpy's and torch's scalars and arrays in it
    bracketed(text)   where the outermost brackets of a text stand, whatever is around them
    calls_of(text, "Genotype")   where `Genotype(...)` is called in it, and by which names the result is known

Every function takes time and memory in proportion to the text, however it is made.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from typing import Any

from nas_zoo.genotype.cell import check_size
from nas_zoo.text import show

__all__ = ["Call", "bracketed", "calls_of", "literal", "parse", "unwrapped"]

MAX_BYTES = 1 << 16  # of a text; Python's parser takes about a thousand bytes of memory for each byte of it
_MAX_DEPTH = 12
_MAX_CALLS = 1000

#: Callables around one value in a repr: numpy 2 prints np.int64(0), torch tensor(0).
_SCALARS = re.compile(r"(u?int|float)(8|16|32|64)|intp|longlong|str_|bool_|bool")
_ARRAYS = ("array", "tensor", "asarray")
_INSIDE = re.compile(r"[()\[\]{}'\"#]")
_OPENING = re.compile(r"[(\[{]")
_STRINGS = {quote: re.compile(rf"(?:\\.|[^{quote}\\\n])*") for quote in "'\""}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_NAMES_BEFORE = re.compile(r"((?:[^\W\d]\w*[ \t]*=[ \t]*)*)(?:[^\W\d]\w*\.)*(?:[^\W\d]\w*)?$")
_ALIAS = re.compile(r"^[ \t]*([^\W\d]\w*)[ \t]*=[ \t]*([^\W\d]\w*)[ \t]*(?:#[^\n]*)?$", re.MULTILINE)


def parse(text: str) -> ast.Module:
    """Python's tree of the text. SyntaxError, or ValueError for what its parser cannot take."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bad escape in a string
            return ast.parse(text)
    except (RecursionError, MemoryError) as error:
        raise ValueError("nested too deeply") from error


def unwrapped(node: ast.expr) -> tuple[ast.expr, bool]:
    """What stands in np.int64(...), array(..., dtype=...), tensor(...), and whether it was an array."""
    array = False
    for _ in range(_MAX_DEPTH):
        if not isinstance(node, ast.Call) or not node.args or isinstance(node.args[0], ast.Starred):
            break
        function = node.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in _ARRAYS and not (_SCALARS.fullmatch(name) and len(node.args) == 1 and not node.keywords):
            break
        array = array or name in _ARRAYS
        node = node.args[0]
    return node, array


def literal(text: str) -> Any:
    """The value that a text of Python literals says. ValueError for anything else."""
    check_size(len(text), "Python text", MAX_BYTES)
    try:
        tree = parse(text.strip("\ufeff \t\r\n"))
    except SyntaxError as error:
        raise ValueError(f"Python text, line {error.lineno}: {error.msg}") from error
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.Expr):
        raise ValueError("Python text must be one dictionary, list or tuple")
    return _value(tree.body[0].value, 0)


def _value(node: ast.expr, depth: int) -> Any:
    node, _ = unwrapped(node)
    if depth > _MAX_DEPTH:
        raise ValueError(f"Python text, line {node.lineno}: nested too deeply")
    if isinstance(node, ast.List):
        return [_value(item, depth + 1) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item, depth + 1) for item in node.elts)
    if isinstance(node, ast.Dict):
        if not all(isinstance(key, ast.Constant) for key in node.keys):
            raise ValueError(f"Python text, line {node.lineno}: a key must be a string or a number")
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        return dict(zip(keys, (_value(item, depth + 1) for item in node.values), strict=True))
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, int, float, bool, type(None))):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand, depth + 1)
        if isinstance(number, (int, float)) and not isinstance(number, bool):
            return -number
    if isinstance(node, ast.Call) and not node.keywords and isinstance(node.func, ast.Name):
        if node.func.id == "range" and 1 <= len(node.args) <= 2:
            bounds = [_value(bound, depth + 1) for bound in node.args]
            if all(type(bound) is int for bound in bounds):
                return range(*bounds)
        if node.func.id == "OrderedDict" and len(node.args) == 1:
            pairs = _value(node.args[0], depth + 1)
            if isinstance(pairs, dict):
                return pairs
            if isinstance(pairs, (list, tuple)) and all(
                isinstance(pair, (list, tuple)) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs
            ):
                return dict(pairs)
    what = show(node.value) if isinstance(node, ast.Constant) else type(node).__name__
    raise ValueError(f"Python text, line {node.lineno}: {what} is no literal")


def bracketed(text: str, comments: bool = False) -> list[tuple[int, int]]:
    """(start, end) of each outermost pair of brackets; strings, and comments if asked, count inside brackets only."""
    spans: list[tuple[int, int]] = []
    closing: list[str] = []
    unclosed = {"'": 0, '"': 0}  # up to where no string of that quote ends
    start = position = 0
    while match := (_INSIDE if closing else _OPENING).search(text, position):
        token, position = match[0], match.end()
        if token in _CLOSING:
            if not closing:
                start = match.start()
            closing.append(_CLOSING[token])
        elif token == closing[-1]:
            closing.pop()
            if not closing:
                spans.append((start, position))
        elif token in ")]}":
            closing = []  # brackets that do not match: begin anew behind them
        elif token == "#" and comments:
            position = text.find("\n", position)
            if position < 0:
                break
        elif token in unclosed and position > unclosed[token]:
            string = _STRINGS[token].match(text, position)
            end = string.end() if string else position
            if text[end : end + 1] == token:
                position = end + 1
            else:
                unclosed[token] = end  # an apostrophe of prose
    return spans


@dataclass(frozen=True)
class Call:
    """`NAME = Genotype(...)`: the names it is assigned to, its line (from 1), where the call starts and ends."""

    names: tuple[str, ...]
    line: int
    start: int
    end: int
    comment: bool


def calls_of(text: str, function: str) -> list[Call]:
    """Every call in the text of a function whose name ends so, in order. `A = B` makes A a name of B's call too."""
    starts = [match.start() for match in re.finditer(rf"{function}\s*\(", text)]
    if len(starts) > _MAX_CALLS:
        raise ValueError(f"{len(starts)} genotypes in one text; it may hold up to {_MAX_CALLS}")
    if not starts:
        return []
    aliases: dict[str, list[str]] = {}
    for alias, name in _ALIAS.findall(text):
        aliases.setdefault(name, []).append(alias)
    found = []
    for start, following in zip(starts, [*starts[1:], len(text)], strict=True):
        line_start = text.rfind("\n", 0, start) + 1
        before = text[max(line_start, start - 200) : start]
        match = _NAMES_BEFORE.search(before)
        names = [name.strip() for name in match[1].split("=")[:-1]] if match else []
        first = start - len(before) + (match.end(1) if match else len(before))
        following = min(following, start + MAX_BYTES + 1)
        opening = text.index("(", start)
        spans = bracketed(text[opening:following], comments=True)
        end = opening + spans[0][1] if spans and spans[0][0] == 0 else following
        names += [alias for name in names for alias in aliases.get(name, [])]
        comment = text[line_start:start].lstrip().startswith("#")
        found.append(Call(tuple(names), text.count("\n", 0, start) + 1, first, end, comment))
    return found
