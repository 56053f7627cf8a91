"""FairDARTS: each operation's weight is a sigmoid of its own, so that none rises at another's cost.

Chu, Zhou, Zhang, Li, "Fair DARTS: Eliminating Unfair Advantages in Differentiable Architecture Search"
(https://arxiv.org/abs/1911.12126). Skip connections win a softmax because others pay for them; without the competition
they do not. A loss pushes every weight to 0 or 1, where cutting down costs nothing.

    paper          here           shape    meaning
    alpha_o_i,j    alpha[kind]    (E, O)   logits of O = 7 operations, without 'none'
    sigma          mix_EO         (E, O)   sigmoid(alpha), the weight of an operation
    N                                      number of all weights, of both cell kinds
    w_0-1          zero_one_weight         of the zero-one loss, 10

The paper writes an edge as (from i, to j); here the edges of a cell are one axis E, ordered node by node.

Derivation (``derive="threshold"``, as in the authors' code): of all operations on all edges that enter a node, the two
with the largest sigma among those above the threshold of 0.85, so that one edge may keep two operations and a node may
be left without any. Where no node is left, as at the start, and for other numbers of edges, DARTS' rule holds.

Differs from the paper: the zero-one loss does not reach the weights' step, where it has no gradient.

Not said in the paper, chosen here as in the authors' code: alpha starts at 1e-3 N(0, 1) and decays by 1e-3; batch 128;
SGD from 0.005 to 0.001, Adam with 3e-3 and betas 0.9 and 0.999; gradients of the weights are clipped at 5.
"""

from dataclasses import dataclass

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Edge, Genotype
from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.discretize import cell_of, derive, read_configuration
from nas_zoo.search.method import Problem, SearchSettings, Step
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["FairDarts", "FairDartsSettings", "relax_independently", "zero_one_loss"]


def relax_independently(alpha_EO: torch.Tensor) -> Mixing:
    """Section 3.2: every operation of every edge, weighted by sigmoid(alpha); 1/2 each at alpha = 0."""
    # 3.2   obar_i,j(x) = sum_{o in O} sigma(alpha_o_i,j) o(x)
    everything = tuple(range(alpha_EO.shape[1]))
    return tuple(EdgeMixing(everything, mix_O) for mix_O in torch.sigmoid(alpha_EO))


def zero_one_loss(alpha: torch.Tensor) -> torch.Tensor:
    """Section 3.3: 0 where every weight is 1/2, -1/4 where every one is 0 or 1."""
    # 3.3   L_0-1 = -1/N sum_i^N (sigma(alpha_i) - 0.5)^2
    return -(torch.sigmoid(alpha) - 0.5).square().mean()


@dataclass(frozen=True)
class FairDartsSettings(SearchSettings):
    """FairDARTS; defaults: the paper, and the authors' code where it is silent."""

    method: str = setting("fairdarts", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    batch_size: int = setting(128, "images a step, over all processes")
    lr: float = setting(0.005, "learning rate of SGD on the weights, at the start")
    alpha_lr: float = setting(3e-3, "learning rate of Adam on alpha")
    alpha_betas: tuple[float, float] = setting((0.9, 0.999), "betas of Adam on alpha")
    alpha_decay: float = setting(1e-3, "L2 on alpha")
    zero_one_weight: float = setting(10.0, "w_0-1: of the loss that pushes the weights to 0 or 1")
    threshold: float = setting(0.85, "least sigmoid(alpha) of an operation that is kept")
    derive: str = setting("threshold", "derivation rule of the result: threshold, darts, or edges such as 4/14")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "alpha_decay", "zero_one_weight")
        require(0 <= self.threshold < 1, "threshold", self.threshold, "from 0 to below 1")
        if self.derive not in ("threshold", "darts", "argmax"):
            read_configuration(self.derive, self.space)


class FairDarts(nn.Module):
    """FairDARTS."""

    def __init__(self, settings: FairDartsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.space.num_edges, self.space.num_operations)
        self.alpha = nn.ParameterDict({kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS})

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Section 3.2, in every step."""
        return {kind: relax_independently(self.alpha[kind]) for kind in KINDS}

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """Cross-entropy on held-out images and the zero-one loss, with L2 on alpha."""
        everything = torch.cat([alpha.flatten() for alpha in self.alpha.values()])
        # 3.3   L_total = L_val(w*(alpha), alpha) + w_0-1 L_0-1
        loss = problem.held_out_loss(self.mixing(step)) + self.settings.zero_one_weight * zero_one_loss(everything)
        return loss + 0.5 * self.settings.alpha_decay * everything.square().sum()

    def genotype(self, rule: str | None = None) -> Genotype:
        """The operations above the threshold, at most two a node; DARTS' rule where they leave a cell without nodes."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        # as strength of an edge, sigma of its best operation but 'none': the softmax of derive is not this method's
        allowed = [o for o, name in enumerate(self.space.operations) if name != "none"]
        strength = {kind: torch.sigmoid(scores[kind].double())[:, allowed].amax(1) for kind in KINDS}
        rule = self.settings.derive if rule is None else rule
        if rule == "threshold":
            try:
                return Genotype(**{kind: cell_of(self._above_threshold(scores[kind])) for kind in KINDS})
            except ValueError:  # a cell has no node left
                rule = "darts"
        return derive(rule, scores, self.space, strength)

    def _above_threshold(self, alpha_EO: torch.Tensor) -> list[list[Edge]]:
        """Of each node the two edges with the largest sigma above the threshold, several operations apart."""
        sigma, nodes = torch.sigmoid(alpha_EO.double()).tolist(), []
        for node in range(2, self.space.num_nodes + 2):
            entering = [
                (sigma[e][o], source, o)
                for e, (target, source) in enumerate(self.space.edges)
                for o, name in enumerate(self.space.operations)
                if target == node and name != "none" and sigma[e][o] > self.settings.threshold
            ]
            best = sorted(entering, key=lambda one: (-one[0], one[1:]))[:2]
            nodes.append(
                [Edge(self.space.operations[o], source) for _, source, o in sorted(best, key=lambda one: one[1:])]
            )
        return nodes
