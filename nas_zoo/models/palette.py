"""The colours of the operations: one set for drawings of cells and for the curves of a search."""

import zlib

__all__ = ["OPERATION_COLORS", "color_of"]

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
#: Of operations from outside, by their names.
_OTHERS = ("#8E6BBF", "#C0392B", "#5C7A29", "#9A6324")


def color_of(operation: str) -> str:
    """An operation's colour; the same on every page, for those from outside too."""
    return OPERATION_COLORS.get(operation) or _OTHERS[zlib.crc32(operation.encode()) % len(_OTHERS)]
