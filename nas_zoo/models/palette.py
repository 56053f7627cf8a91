"""Every colour that means something: of operations, of search methods and their cells, of numbered things.

Each is fixed here by its name, so that it means the same in every drawing and on every page. What has two is for light
and for dark pages. A figure shows things of one kind, under a key or with their names beside them.
"""

import zlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

__all__ = ["DARK_OPERATION_COLORS", "METHOD_COLORS", "NUMBER_COLORS", "OPERATION_COLORS", "color_of", "method_colors"]

#: Colour of an operation. Kinds by hue, after Okabe and Ito's palette for all kinds of colour vision; larger kernels
#: of a kind are darker. The label says the same in words.
OPERATION_COLORS = {
    "max_pool_3x3": "#D55E00",
    "avg_pool_3x3": "#B87A00",
    "skip_connect": "#444444",
    "sep_conv_3x3": "#3A9BD9",
    "sep_conv_5x5": "#0072B2",
    "sep_conv_7x7": "#004C78",
    "dil_conv_3x3": "#00B084",
    "dil_conv_5x5": "#007D5E",
    "conv_7x1_1x7": "#B0578D",
}
#: The same on a dark page: the same hues, larger kernels of a kind darker there too.
DARK_OPERATION_COLORS = {
    "max_pool_3x3": "#ff8a3d",
    "avg_pool_3x3": "#dbb14a",
    "skip_connect": "#d5dae0",
    "sep_conv_3x3": "#9bd2f7",
    "sep_conv_5x5": "#3f9fe6",
    "sep_conv_7x7": "#2f78bd",
    "dil_conv_3x3": "#5fe6bf",
    "dil_conv_5x5": "#1da982",
    "conv_7x1_1x7": "#dd8cc0",
}
#: Of operations from outside, by their names.
_OTHER_OPERATIONS = ("#8E6BBF", "#C0392B", "#5C7A29", "#9A6324")

#: Colours of a search method, and of what are methods of their own on a page: a warm-up, a reading of Eq. 3.
METHOD_COLORS = {
    "edas": ("#0072b2", "#5fb3ee"),
    "darts": ("#d55e00", "#ff9a52"),
    "da2s": ("#007d5e", "#3fcfa6"),
    "da2s_released": ("#007d5e", "#3fcfa6"),
    "edas_warmup": ("#6a4fb3", "#b7a6f5"),
    "alpha_max": ("#a87200", "#e3b04b"),
    "edas_warmup_weights": ("#cf3f95", "#ff8ccb"),
    "pc_darts": ("#11808f", "#5fd3df"),
    "gdas": ("#8c564b", "#c9a197"),
    "drnas": ("#5a7d1b", "#b5d66a"),
    "fairdarts": ("#b3123f", "#ff7d9c"),
    "edas_settled": ("#7b1fa2", "#e38bff"),
    "random": ("#444a52", "#c3cad2"),
}
#: Of methods from outside, by their names.
_OTHER_METHODS = (
    ("#1f3f8f", "#8fa8ff"), ("#3f9b0b", "#8be05a"), ("#ff1f8f", "#ff5fae"), ("#006064", "#8fe3e8"),
    ("#7a2e00", "#ffc9a3"),
)  # fmt: skip

#: Of what is numbered: a node's inputs; and of what has no colour of its own.
NUMBER_COLORS = (
    ("#1b1f24", "#ffffff"), ("#7b2d8b", "#d68ae4"), ("#5a7d1b", "#b5d66a"), ("#b3123f", "#ff7d9c"),
    ("#8c564b", "#c49c94"), ("#0072b2", "#5fb3ee"), ("#a87200", "#e3b04b"),
)  # fmt: skip

_T = TypeVar("_T")


def _own(name: str, colors: Mapping[str, _T], others: Sequence[_T]) -> _T:
    return colors.get(name) or others[zlib.crc32(name.encode(errors="replace")) % len(others)]


def color_of(operation: str) -> str:
    """An operation's colour; the same on every page, for those from outside too."""
    return _own(operation, OPERATION_COLORS, _OTHER_OPERATIONS)


def method_colors(method: str) -> tuple[str, str]:
    """A method's colour on light and on dark pages; the same on every page, for those from outside too."""
    return _own(method, METHOD_COLORS, _OTHER_METHODS)
