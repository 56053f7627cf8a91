"""Words on their way to a reader: what comes from a file made safe for where it is shown, and the one template engine.

Names of files and classes, labels in an ONNX file, a run's settings: whoever wrote them, they shall be seen as text and
nothing else, neither as a terminal's commands nor as Markdown or HTML.
"""

import functools
import os
import re
import reprlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["counted", "fill", "listed", "markdown", "near_names", "plain", "show", "table", "terminal_width", "wrapped"]

#: Control characters, the ends of lines and paragraphs, what turns the direction of writing, halves of characters.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: What Markdown (as on the Hub: tables and formulas too) takes for more than text; "_" only at a word's edge.
_ACTIVE = re.compile(r"[\\`*\[\]<|~$]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|^(?=[#+\-=>])|(?<=^\d)(?=[.)](?:\s|$))")


def plain(text: object) -> str:
    """The text as one line that a terminal prints and does not obey: "\\x1b" for what cannot be seen."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def markdown(text: object) -> str:
    """The text as Markdown that shows it as it is, in a line of prose or a cell of a table."""
    return _ACTIVE.sub(lambda found: "\\" + found[0], plain(text))


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 4


def show(value: Any) -> str:
    """repr of a value, on one line and cut short; a value from outside may be huge, deep or without a repr."""
    try:
        return plain(_REPR.repr(value))
    except (ValueError, RecursionError):  # an integer over the digit limit of int -> str
        return f"a {type(value).__name__} too large to show"


def counted(number: int, one: str = "", many: str | None = None) -> str:
    """ "1 epoch", "6,000 epochs"; the number alone without a word."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}" if one else f"{number:,}"


def listed(names: Iterable[object], most: int = 3, between: str = "; ") -> str:
    """The first `most` of the names, each on one line, and how many more there are: "a; b; c; and 27 more"."""
    known = [plain(name) for name in names]
    more = [f"and {len(known) - most:,} more"] if len(known) > most else []
    return between.join([*known[:most], *more])


def near_names(name: str, known: Iterable[str]) -> str:
    """What an error goes on with after an unknown name: "; did you mean edas_c10 or da2s_c10?", or nothing."""
    import difflib

    lowered = {one.lower(): one for one in known}
    found = difflib.get_close_matches(name[:100].lower(), list(lowered), n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(lowered[one] for one in found)}?" if found else ""


def terminal_width() -> int | None:
    """Columns of the terminal that stdout goes to, or what COLUMNS says; None in a pipe or file, which has no width."""
    if os.environ.get("COLUMNS", "").isdecimal() or sys.stdout.isatty():
        import shutil

        return shutil.get_terminal_size().columns
    return None


_LEAST = 16  # characters of a column that is cut


def table(rows: Sequence[Mapping[str, Any]], width: int | None = None, first: Sequence[str] = ()) -> str:
    """The rows below their columns' names, in lines of at most `width` characters; None: as wide as they are.

    Where they are wider, columns are left out, those last that `first` names, and long texts are cut ("…"); a last line
    says what is not shown. The first column, which has names that somebody may want to copy, is always whole.
    """
    if not rows:
        return "(none)"
    columns = list(rows[0])
    cells = {
        name: [name, *("" if (v := row[name]) is None else ("no", "yes")[v] if isinstance(v, bool) else plain(v)
                       for row in rows)]
        for name in columns
    }  # fmt: skip
    widths = {name: max(map(len, cells[name])) for name in columns}
    shown = _fitting(widths, width, first) if width is not None else widths
    lines = [
        "  ".join(_cut(cells[name][i], size).ljust(size) for name, size in shown.items()).rstrip()
        for i in range(len(rows) + 1)
    ]
    hidden = [name for name in columns if name not in shown]
    left_out = [wrapped(f"Too wide for {width} columns: {', '.join(hidden)}.", width)] if hidden else []
    return "\n".join([*lines, *(["", *left_out] if hidden else [])])


def wrapped(text: str, width: int | None) -> str:
    """Each line of the text in lines of at most `width` characters; None: as it is."""
    if width is None:
        return text
    import textwrap

    return "\n".join(textwrap.fill(line, max(width, 20), break_on_hyphens=False) for line in text.splitlines())


def _fitting(widths: Mapping[str, int], width: int, first: Sequence[str]) -> dict[str, int]:
    """Those of the columns that fit, in their order, and how wide each is then."""
    columns = list(widths)
    wanted = [columns[0], *first, *(name for name in columns[1:] if name not in first)]
    # A column needs its own name and a piece of its texts.
    least = {name: min(widths[name], max(len(name), _LEAST)) for name in columns} | {columns[0]: widths[columns[0]]}
    room, kept = width + 2, []
    for name in wanted:
        if least[name] + 2 <= room or name == columns[0]:
            kept.append(name)
            room -= least[name] + 2
    given = dict(least)
    for name in kept:
        more = max(0, min(widths[name] - least[name], room))
        given[name] += more
        room -= more
    return {name: given[name] for name in columns if name in kept}


def _cut(text: str, size: int) -> str:
    return text if len(text) <= size else f"{text[: size - 1]}…"


def fill(package: str, name: str, /, **values: Any) -> str:
    """The text of a template of that package with these values.

    Values are escaped as the template's ending asks (.html.j2, .md), but for what passes `| safe`.

    Raises:
        ValueError: The template is missing from the installation.
    """
    from jinja2 import TemplateNotFound

    try:
        template = _environment(package, name.removesuffix(".j2").rpartition(".")[2]).get_template(name)
    except (TemplateNotFound, ModuleNotFoundError) as error:
        raise ValueError(f"the template {name} is missing from the installation: install nas-zoo again") from error
    text: str = template.render(**values)
    return text


@functools.cache
def _environment(package: str, form: str) -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def escaped(value: Any) -> Any:
        return value if isinstance(value, Markup) or form != "md" else markdown(value)

    made = Environment(
        loader=PackageLoader(package, ""), undefined=StrictUndefined, autoescape=form == "html", finalize=escaped,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["counted"] = counted
    return made
