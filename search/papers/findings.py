"""What an experiment found: figures of each seed, statements that hold or do not, and the verdict by a rule.

The rule, the same for every experiment. A statement of direction ("EDAS is above DARTS") compares two means; a
difference smaller than two standard errors (of the seeds, or of chance with so many images or counts, whichever is
larger) decides nothing, nor do retrained networks of a single seed. A statement of figures ("error within the
paper's") asks that ours and the paper's differ by at most twice what our standard error and the paper's standard
deviation come to together, and is asked at scale paper alone.

    not comparable at this scale   at tiny, and where no statement of direction is decided
    contradicted                   a statement is decided against the paper
    reproduced                     at scale paper, all are decided and hold
    the direction only             all else
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "RULE",
    "Check",
    "Column",
    "Findings",
    "Picture",
    "Row",
    "above",
    "agrees",
    "better",
    "exact",
    "mean",
    "more_often",
    "standard_error",
    "verdict",
]  # fmt: skip

#: The rule in words, for the pages.
RULE = " ".join((__doc__ or "").split("\n\n", 1)[1].split("    not comparable", 1)[0].split())

Verdict = Literal["reproduced", "the direction only", "contradicted", "not comparable at this scale"]
Values = Sequence[float]  # of each seed


@dataclass(frozen=True)
class Column:
    """A column of the table: its figures times `scale`, in `unit`."""

    name: str
    unit: str = ""
    digits: int = 1
    scale: float = 1.0


@dataclass
class Row:
    """A row: what it is of, its class in the style sheet, figures of each seed and the paper's words by column."""

    name: str
    style: str
    values: Mapping[str, Values]
    paper: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """A statement of the paper, and whether it holds; None: the figures do not decide it."""

    words: str
    holds: bool | None
    of: Literal["direction", "figures"] = "direction"


@dataclass(frozen=True)
class Picture:
    """A figure: caption, SVG, and what is to be said of it."""

    caption: str
    svg: str
    note: str = ""


@dataclass
class Findings:
    """All that a page shows but the runs themselves."""

    seen: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    checks: Sequence[Check]
    pictures: Sequence[Picture] = ()
    notes: Sequence[str] = ()


def mean(values: Values) -> float:
    return statistics.fmean(values)


def standard_error(values: Values, chance: float = 0.0) -> float:
    """Of the mean over seeds: by their spread, or by `chance`, the variance that one of them has at least."""
    spread = statistics.variance(values) if len(values) > 1 else 0.0
    return math.sqrt(max(spread, chance) / len(values))


def _decided(words: str, difference: float, error: float) -> Check:
    return Check(words, None if abs(difference) < 2 * error or difference == 0 else difference > 0)


def above(words: str, higher: Values, lower: Values, n: int) -> Check:
    """That shares of `n` images are larger on the left; undecided without figures, as below."""
    if not (higher and lower):
        return Check(words, None)
    errors = [standard_error(v, mean(v) * (1 - mean(v)) / n) for v in (higher, lower)]
    return _decided(words, mean(higher) - mean(lower), math.hypot(*errors))


def better(words: str, higher: Values, lower: Values, n: int) -> Check:
    """The same of networks retrained from scratch, whose seeds differ by more than chance: one seed decides nothing."""
    return above(words, higher, lower, n) if min(len(higher), len(lower)) > 1 else Check(words, None)


def more_often(words: str, often: Values, seldom: Values) -> Check:
    """That counts are larger on the left; a count's variance is the count."""
    if not (often and seldom):
        return Check(words, None)
    errors = [standard_error(v, mean(v)) for v in (often, seldom)]
    return _decided(words, mean(often) - mean(seldom), math.hypot(*errors))


def exact(words: str, holds: bool | None) -> Check:
    """What needs no statistics."""
    return Check(words, holds)


_DEVIATION = 0.1


def agrees(words: str, ours: Values, paper: float, deviation: float | None, at_paper: bool) -> Check:
    """That our mean is the paper's figure, which has that standard deviation; asked at scale paper only.

    Where the paper gives none (None), that of DARTS' retrained networks (arXiv:1806.09055, Table 1: 0.09 to 0.14) is
    taken, and told.
    """
    if deviation is None:
        words, deviation = f"{words} (the paper gives no deviation; {_DEVIATION} points are assumed)", _DEVIATION
    if not (ours and at_paper):
        return Check(words, None, "figures")
    return Check(words, abs(mean(ours) - paper) <= 2 * math.hypot(standard_error(ours), deviation), "figures")


def verdict(checks: Sequence[Check], scale: str) -> Verdict:
    """By the rule above."""
    if scale == "tiny" or all(check.holds is None for check in checks if check.of == "direction"):
        return "not comparable at this scale"
    if any(check.holds is False for check in checks):
        return "contradicted"
    if scale == "paper" and all(check.holds for check in checks):
        return "reproduced"
    return "the direction only"
