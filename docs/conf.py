"""How Sphinx builds docs/ to a site (`make docs`): no network, and a warning of any kind ends the build."""

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import generate

import nas_zoo

project = "nas-zoo"
version = release = nas_zoo.__version__
copyright = "the authors of nas-zoo, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
exclude_patterns = ["_generated"]
nitpicky = True  # a reference that leads nowhere is a warning too
nitpick_ignore_regex = [("py:.*", ".*")]  # types in signatures: those of other packages have no page here
highlight_language = "none"
smartquotes = False  # --flag
default_role = "code"  # `so` in a docstring
suppress_warnings = ["ref.python"]  # a class that a room and its module name: either will do
autodoc_inherit_docstrings = False  # torch's own words of forward
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"

myst_heading_anchors = 3  # FILE.md#a-heading, as hosts of Git repositories make them
myst_enable_extensions = ["deflist"]

html_theme = "furo"
html_title = f"nas-zoo {version}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False


def docstring(app: Sphinx, what: str, name: str, thing: Any, options: object, lines: list[str]) -> None:
    """Docstrings are plain text here: what is indented is shown as it is. Settings are listed with their words."""
    plain, lines[:] = list(lines), []
    if what == "data" and plain and plain[0] in (inspect.getdoc(type(thing)) or ""):
        return  # what Python says of every dict
    inside = False
    for line in plain:
        indented = line.startswith("    ") or (inside and not line)
        if indented and not inside:
            lines += ["", "::", ""]
        begins_list = line.startswith("- ") and lines and not lines[-1].startswith(("- ", "  "))
        if (inside and not indented) or begins_list:
            lines.append("")
        inside = indented
        lines.append(line)
    if what == "class" and dataclasses.is_dataclass(thing):
        lines += ["", *generate.settings_of_its_own(thing)]


def signature(app: Sphinx, what: str, name: str, thing: Any, *rest: object) -> tuple[str, None] | None:
    """None: as it is; of settings, which are dozens, nothing."""
    return ("", None) if what == "class" and any(generate.settings_of_its_own(thing)) else None


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: generate.generate())
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
