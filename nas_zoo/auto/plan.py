"""Chooses image size, layout, width and depth for a latency and a time budget: arithmetic on a few measured figures.

A network with reference cells has the latency of its untrained weights, so whole networks are exported and timed before
anything is trained; the largest rung of a ladder of sizes is taken that keeps the latency with a tenth to spare and can
be trained for enough epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from nas_zoo.models.latency import Shape

__all__ = [
    "ENOUGH_EPOCHS", "LADDER", "LEAST_EPOCHS", "SEARCH_SHARE", "SPARE", "Plan", "Rung", "Seconds", "TooTight",
    "batch_for", "default_size", "divide_time", "epochs_in", "layout_for", "search_size_for", "sizes_below", "smaller",
    "widest",
]  # fmt: skip


class Rung(NamedTuple):
    """Width and depth."""

    init_channels: int
    num_cells: int

    def __str__(self) -> str:
        return f"C={self.init_channels} x {self.num_cells} cells"


#: From small to large. Widths are those that kernels take in whole blocks: measured, C=12 is slower than C=16.
LADDER = tuple(
    Rung(*sizes)
    for sizes in (
        (8, 3), (8, 5), (8, 8), (16, 5), (16, 8), (16, 11), (16, 14), (16, 20), (32, 8), (32, 11), (32, 14), (32, 20),
        (36, 20), (48, 14), (48, 20),
    )
)  # fmt: skip
SPARE = 0.9  # of the latency that the reference cells may take: those found may be slower
ENOUGH_EPOCHS = 12  # a larger network that gets fewer is worse than a smaller one that gets them
LEAST_EPOCHS = 5  # with fewer a result says nothing
SIZES = (160, 128, 96, 64)  # of photographs
NATIVE_PIXELS = 64  # images of this shorter side or less are used as they are
SEARCH_PIXELS = 32  # the search looks at no larger ones
SEARCH_SHARE = 0.3  # of the time for search and training


class TooTight(ValueError):
    """Not even the smallest network keeps the latency."""


@dataclass(frozen=True)
class Seconds:
    """How the time budget is divided, from what was measured."""

    table: float
    search: float
    train: float
    finish: float  # export, checks, measuring, page


@dataclass(frozen=True)
class Plan:
    """What is searched for and trained."""

    layout: str
    init_channels: int
    num_cells: int
    image_size: int
    channels: int  # of an image
    num_classes: int
    search_size: int  # pixels of the images that the search looks at
    max_latency_ms: float
    reference_ms: float  # of this size with the reference cells, as measured
    measured: dict[str, float] = field(default_factory=dict)  # rung: ms
    images_per_second: float = 0.0  # that the reference cells train with here
    networks: int = 12  # that the estimate is fitted on
    seconds: Seconds = Seconds(0, 0, 0, 0)
    bound_by: str = ""  # what a larger size would miss: "latency", "time"; "": there is none, or it was given

    @property
    def shape(self) -> Shape:
        """Of the network that will be trained, unless it has to be narrowed."""
        size = (self.channels, self.image_size, self.image_size)
        return Shape(self.layout, self.init_channels, self.num_cells, self.num_classes, size)

    def to_dict(self) -> dict[str, Any]:
        """As the log has it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Plan:
        """That of a log's line."""
        return cls(**record | {"seconds": Seconds(**record["seconds"])})


def default_size(shorter: int) -> int:
    """Side in pixels for pictures of this median shorter side: themselves where small, else at most 128."""
    if shorter <= NATIVE_PIXELS:
        return max(8, shorter)
    return next((size for size in SIZES if size <= min(shorter, 128)), SIZES[-1])


def sizes_below(size: int) -> list[int]:
    """This size and the smaller ones of photographs that may be tried in its place."""
    return [size, *(smaller for smaller in SIZES if smaller < size)] if size > NATIVE_PIXELS else [size]


def layout_for(size: int) -> str:
    """DARTS' layout for images of this side: the ImageNet stem divides it by eight before the first cell."""
    return "cifar" if size <= NATIVE_PIXELS else "imagenet"


def search_size_for(size: int) -> int:
    """Side of the images that the search looks at: its supernet has no stem that shrinks them."""
    return min(size, SEARCH_PIXELS)


def widest(ladder: Sequence[Rung], fits: Callable[[Rung], bool]) -> int:
    """Index of the last rung that fits, by halving; -1 where the first does not. Larger rungs cost more."""
    low, high = -1, len(ladder) - 1
    if high >= 0 and not fits(ladder[0]):
        return -1
    low = 0
    while low < high:
        middle = (low + high + 1) // 2
        if fits(ladder[middle]):
            low = middle
        else:
            high = middle - 1
    return low


def smaller(rung: Rung) -> list[Rung]:
    """What may be tried where a network of this size is too slow, the largest first: fewer cells, or a lower width."""
    less = {other for other in LADDER if _work(other) < _work(rung) and other.init_channels <= rung.init_channels}
    less |= {Rung(rung.init_channels, cells) for cells in (3, 5, 8, 11, 14, 17) if cells < rung.num_cells}
    return sorted(less, key=_work, reverse=True)


def _work(rung: Rung) -> int:
    return rung.init_channels**2 * rung.num_cells


def batch_for(images: int, most: int, least: int = 8, steps: int = 20) -> int:
    """`most`, halved until so many images make `steps` steps, or down to `least`; never more than there are images."""
    batch = most
    while batch > 2 and (batch > images or (batch > least and images // batch < steps)):
        batch //= 2
    return batch


def epochs_in(seconds: float, epoch_s: float, most: int) -> int:
    """Epochs that fit, one at least."""
    return max(1, min(most, int(seconds / epoch_s)))


def divide_time(
    left: float, *, pieces: int, piece_s: float, network_s: float, networks: int, images: int, images_per_second: float
) -> tuple[Seconds, float]:
    """What each stage may take of the seconds that are left, and the seconds that are the least that would do.

    Args:
        left: Of the time budget, after looking and planning.
        pieces: That the latency table lacks; piece_s: what one takes to measure.
        network_s: What exporting and timing a whole network takes.
        networks: That the table's estimate is fitted on.
        images: To train on; images_per_second: that are trained with.
    """
    table = pieces * piece_s + networks * network_s
    finish = 4 * network_s + 10
    both = left - table - finish
    least_train = LEAST_EPOCHS * images / images_per_second
    least = table + finish + max(20.0, least_train / (1 - SEARCH_SHARE))
    return Seconds(table, SEARCH_SHARE * both, (1 - SEARCH_SHARE) * both, finish), least
