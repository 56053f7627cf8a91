"""NAS-Bench-201: the string of an architecture. Known by name, and refused: it is of another search space.

|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

NAME = "NAS-Bench-201"

_EDGE = re.compile(r"\|[a-z]\w{0,40}~\d{1,2}\|")


def claims(value: Any) -> bool:
    return isinstance(value, str) and _EDGE.search(value) is not None


def read(value: str) -> NoReturn:
    """ValueError, always."""
    raise ValueError(
        f"{NAME} architecture |...~0|+|...|: a network of that search space has one kind of cell, with operations of "
        "its own (nor_conv_3x3, ...), so it cannot be built here; a genotype must have a normal and a reduction cell "
        "of DARTS' space"
    )
