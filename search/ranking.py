"""How far alpha's order of the operations changes from one epoch to the next (EDAS, section 5.3 and Figure 5)."""

from collections.abc import Mapping

import torch

from nas_zoo.genotype import KINDS

__all__ = ["kendall_tau", "ranking_changes"]


def kendall_tau(before_EO: torch.Tensor, after_EO: torch.Tensor) -> float:
    """Kendall's tau of the operations' order, (E, O) each, mean over the edges: 1 for the same order, -1 reversed.

    Tau-a: pairs that are equal in one of the two count as neither kept nor turned.
    """
    pairs = torch.triu_indices(before_EO.shape[1], before_EO.shape[1], offset=1)
    order = [torch.sign(scores[:, pairs[0]] - scores[:, pairs[1]]) for scores in (before_EO, after_EO)]
    return float((order[0] * order[1]).mean())


def ranking_changes(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> dict[str, object]:
    """ "changed": in how many of all edges another operation is the strongest now; "kendall_tau": {cell kind: tau}.

    Args:
        before, after: {cell kind: logits (E, O)} of two epochs.
    """
    changed = sum(int((before[kind].argmax(-1) != after[kind].argmax(-1)).sum()) for kind in KINDS)
    return {"changed": changed, "kendall_tau": {kind: kendall_tau(before[kind], after[kind]) for kind in KINDS}}
