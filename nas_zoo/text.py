"""Words on their way to a reader: what comes from a file made safe for where it is shown, and the one template engine.

Names of files and classes, labels in an ONNX file, a run's settings: whoever wrote them, they shall be seen as text and
nothing else, neither as a terminal's commands nor as Markdown or HTML.
"""

import functools
import re
import reprlib
from typing import Any

__all__ = ["counted", "fill", "markdown", "plain", "show"]

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
    """repr of a value, cut short; a value from outside may be huge, deep or without a repr."""
    try:
        return _REPR.repr(value)
    except (ValueError, RecursionError):  # an integer over the digit limit of int -> str
        return f"a {type(value).__name__} too large to show"


def counted(number: int, one: str = "", many: str | None = None) -> str:
    """ "1 epoch", "6,000 epochs"; the number alone without a word."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}" if one else f"{number:,}"


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
