"""How far alpha's order of the operations changes from one epoch to the next (EDAS, section 5.3 and Figure 5)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nas_zoo.genotype import KINDS

__all__ = ["changed_edges", "kendall_tau", "ranking_changes"]


def changed_edges(before_EO: ArrayLike, after_EO: ArrayLike) -> int:
    """On how many edges another operation is the strongest now; (E, O) each."""
    return int((np.asarray(before_EO).argmax(1) != np.asarray(after_EO).argmax(1)).sum())


def kendall_tau(before_EO: ArrayLike, after_EO: ArrayLike) -> float:
    """Kendall's tau of the operations' order, (E, O) each, mean over the edges: 1 for the same order, -1 reversed.

    Tau-a: pairs that are equal in one of the two count as neither kept nor turned.
    """
    if np.shape(before_EO)[1] < 2:  # of one operation there is one order
        return 1.0
    scores = [np.asarray(logits_EO) for logits_EO in (before_EO, after_EO)]
    first, second = np.triu_indices(scores[0].shape[1], k=1)
    before, after = (np.sign(s[:, first] - s[:, second]) for s in scores)
    return float((before * after).mean())


def ranking_changes(before: Mapping[Any, ArrayLike], after: Mapping[Any, ArrayLike]) -> dict[str, Any]:
    """ "changed": in how many of all edges another operation is the strongest now; "kendall_tau": {cell kind: tau}.

    Args:
        before, after: {cell kind: logits (E, O)} of two epochs.
    """
    return {
        "changed": sum(changed_edges(before[kind], after[kind]) for kind in KINDS),
        "kendall_tau": {kind: kendall_tau(before[kind], after[kind]) for kind in KINDS},
    }
