"""EDAS with DA2S' loss on the relaxed edge: does settling alpha help where the rule is argmax anyway?

No paper has it. EDAS (https://arxiv.org/abs/1912.01237, ``search.methods.edas``) relaxes one edge a step and clamps the
others, so that little is lost in cutting down; DA2S (https://arxiv.org/abs/2007.03154, ``search.methods.da2s``) puts
the entropy of alpha's softmax into the loss, so that nothing is left to lose. Here the edge that is relaxed has that
entropy in its architecture step: of DA2S' Eq. 7

    L = L_C + lambda_c lambda_1 L^O(alpha_k,l)       with (k, l) the drawn edge, L^O by Eq. 2

is left. The other edges have no gradient, as EDAS wants it, and their entropy none either; there is no edge loss
(Eq. 4), as EDAS has no weights of edges, but 'none'. Control functions as in DA2S: lambda_c linear, lambda_1 log,
delayed by 8 of 50 epochs. Symbols as in the two modules.
"""

from dataclasses import dataclass

import torch

from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.method import Problem, Step
from nas_zoo.search.methods.da2s import Control, control, entropy
from nas_zoo.search.methods.edas import Edas, EdasSettings
from nas_zoo.search.methods.pc_darts import part_of_epochs

__all__ = ["EdasSettled", "EdasSettledSettings"]


@dataclass(frozen=True)
class EdasSettledSettings(EdasSettings):
    """EDAS with DA2S' operation loss; defaults: each paper's own."""

    method: str = setting("edas_settled", "search method")
    lambda_c: Control = setting("linear", "DA2S: control function of the loss (Table 2)")
    lambda_1: Control = setting("log_delayed", "DA2S: of the operations' loss (Table 3)")
    delay_epochs: int | None = setting(None, "epochs at the start in which a delayed function is 0; default: 8 of 50")
    penalty_weight: float = setting(1.0, "factor of the loss beside lambda_c lambda_1")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "penalty_weight")
        what = f"from 0 to below epochs ({self.epochs})"
        require(0 <= self.delay < self.epochs, "delay_epochs", self.delay_epochs, what)

    @property
    def delay(self) -> int:
        return part_of_epochs(self.delay_epochs, 8, self.epochs)


class EdasSettled(Edas):
    """EDAS whose drawn edge is also asked to settle."""

    settings: EdasSettledSettings

    def factor(self, epoch: int) -> float:
        """What the drawn edge's entropy is multiplied by in an epoch, from 0."""
        s = self.settings
        c, one = (control(name, epoch + 1, s.epochs, s.delay) for name in (s.lambda_c, s.lambda_1))
        return s.penalty_weight * c * one

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """EDAS' loss and the entropy of the drawn edge's alpha."""
        loss = super().loss(problem, step)
        # DA2S, Eq. 7   L = L_C + lambda_c lambda_alpha L^O(alpha), of the drawn edge
        for kind, edge in self._drawn(step).items():
            loss = loss + self.factor(step.epoch) * entropy(self._logits(kind)[edge])
        return loss
