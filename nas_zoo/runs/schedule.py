"""Schedules as pure functions of where a run stands: nothing to step, nothing to save."""

from __future__ import annotations

import math

__all__ = ["cosine", "learning_rate"]


def cosine(start: float, end: float, epoch: int, epochs: int) -> float:
    """A rate in an epoch counted from 0: ``start`` in the first, falling towards ``end`` after the last."""
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * epoch / epochs))


def learning_rate(kind: str, lr: float, min_lr: float, at: int, total: int, warmup: int = 0) -> float:
    """The learning rate of unit ``at`` (an epoch or an iteration, from 0) of ``total``.

    "cosine" and "linear" fall from lr at 0 to min_lr at ``total``, which is one unit after the last; "constant" stays.
    In the first ``warmup`` units that is multiplied by 1 / warmup, 2 / warmup ... 1 (P-DARTS and PC-DARTS for
    ImageNet: ``lr * (epoch + 1) / 5.0``). "one_cycle" rises along a line to lr itself in these units and falls along
    another from there to min_lr at ``total`` (Smith and Topin, 2017, without its last, lower stretch).
    """
    if kind == "cosine":
        rate = cosine(lr, min_lr, at, total)
    elif kind == "linear":
        rate = lr + (min_lr - lr) * at / total
    elif kind == "one_cycle":
        rate = lr if at < warmup else lr + (min_lr - lr) * (at - warmup) / (total - warmup)
    elif kind == "constant":
        rate = lr
    else:
        raise ValueError(f"schedule must be one of cosine, linear, one_cycle, constant, got {kind!r}")
    return rate * (at + 1) / warmup if at < warmup else rate
