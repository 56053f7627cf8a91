"""How Sphinx builds docs/ to a site (`make docs`): no network, and a warning of any kind ends the build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import nas_zoo

project = "nas-zoo"
version = release = nas_zoo.__version__
copyright = "the authors of nas-zoo, Apache-2.0"

extensions = ["myst_parser"]
exclude_patterns = ["_generated"]
nitpicky = True  # a reference that leads nowhere is a warning too

myst_heading_anchors = 3  # FILE.md#a-heading, as hosts of Git repositories make them
myst_enable_extensions = ["deflist"]

html_theme = "furo"
html_title = f"nas-zoo {version}"
html_show_sphinx = False
html_copy_source = False
