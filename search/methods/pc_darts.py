"""PC-DARTS: operations on a part of the channels, and a weight for each edge.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search"
(https://arxiv.org/abs/1907.05737). On each edge 1/K of the channels goes through the mixed operations and the rest past
them, which takes a K-th of the memory and lets the batch grow; since the channels that are worked on change with every
step, edges get weights of their own, which are steadier than the operations'.

    paper          here          shape    meaning
    alpha^o_i,j    alpha[kind]   (E, O)   operation logits, 'none' among the O = 8 operations
    beta_i,j       beta[kind]    (E,)     edge logits
    S_i,j          supernet      -        the first C/K channels of every state, then a channel shuffle
    K              partial_channels       4 on CIFAR-10

The paper writes an edge as (from i, to j); here the edges of a cell are one axis E, ordered node by node. The two
softmaxes are multiplied into one factor of each operation, and the supernet adds (1 - S) * x_i, times the edge's own.

Differs from the paper: the mask S is the first C/K channels and not drawn anew, as in the authors' code; the channel
shuffle behind it moves every channel there in turn.

Not said in the paper, chosen here as in the authors' code: alpha and beta start at 1e-3 N(0, 1); edges are ranked by
softmax(alpha) of the best operation but 'none' times softmax(beta); the bypassing channels are max-pooled 2x2 where the
edge has stride 2; alpha and beta decay by 1e-3; gradients of the weights are clipped at 5. The 15 epochs without
architecture steps (section 4.2) are 15 of 50: with fewer or more epochs they are as large a part, unless set.
"""

from dataclasses import dataclass

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.discretize import best_operations, derive, read_configuration
from nas_zoo.search.method import EDGES, Problem, SearchSettings, Step
from nas_zoo.search.supernet import EdgeMixing, Mixing, SearchSpace

__all__ = ["PcDarts", "PcDartsSettings", "edge_softmax", "part_of_epochs", "relax_weighted"]


def edge_softmax(beta_E: torch.Tensor, space: SearchSpace) -> torch.Tensor:
    """Section 3.3: softmax of beta over the inputs of each node, (E,); 1/n for each of n inputs at beta = 0."""
    # 3.3   x_j = sum_{i<j} [exp(beta_i,j) / sum_{i'<j} exp(beta_i',j)] * f_i,j(x_i), of which this is the [ ]
    return torch.cat([torch.softmax(part, dim=0) for part in beta_E.split(list(range(2, space.num_nodes + 2)))])


def relax_weighted(alpha_EO: torch.Tensor, b_E: torch.Tensor) -> Mixing:
    """Sections 3.2 and 3.3: every operation of every edge with softmax(alpha) times the edge's weight."""
    # 3.2   f_i,j(x_i; S_i,j) = sum_{o in O} [exp(alpha^o_i,j) / sum_{o' in O} exp(alpha^o'_i,j)] * o(S_i,j * x_i)
    #                           + (1 - S_i,j) * x_i
    mix_EO = torch.softmax(alpha_EO, dim=-1) * b_E[:, None]
    everything = tuple(range(alpha_EO.shape[1]))
    return tuple(EdgeMixing(everything, mix_O, b) for mix_O, b in zip(mix_EO, b_E, strict=True))


def part_of_epochs(given: int | None, of_50: int, epochs: int) -> int:
    """Epochs as set, or as large a part of all as they are of the paper's 50."""
    return round(of_50 * epochs / 50) if given is None else given


@dataclass(frozen=True)
class PcDartsSettings(SearchSettings):
    """Section 4.2 of the paper."""

    method: str = setting("pc_darts", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    batch_size: int = setting(256, "images a step, over all processes")
    partial_channels: int = setting(4, "K: operations work on 1/K of the channels")
    lr: float = setting(0.1, "learning rate of SGD on the weights, at the start")
    lr_min: float = setting(0.0, "and at the end of its cosine")
    alpha_lr: float = setting(6e-4, "learning rate of Adam on alpha and beta")
    alpha_decay: float = setting(1e-3, "L2 on alpha and beta")
    freeze_epochs: int | None = setting(None, "epochs at the start without architecture steps; default: 15 of 50")
    operations: tuple[str, ...] = setting(("none", *SEARCH_OPERATIONS), "candidate operations of an edge")
    edges: str | None = setting(None, EDGES)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "alpha_decay")
        what = f"from 0 to below epochs ({self.epochs})"
        require(0 <= self.frozen < self.epochs, "freeze_epochs", self.freeze_epochs, what)
        read_configuration(self.edges, self.space)

    @property
    def frozen(self) -> int:
        return part_of_epochs(self.freeze_epochs, 15, self.epochs)


class PcDarts(nn.Module):
    """PC-DARTS."""

    def __init__(self, settings: PcDartsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)

        def start(*shape: int) -> nn.ParameterDict:
            return nn.ParameterDict({kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS})

        self.alpha = start(self.space.num_edges, self.space.num_operations)
        self.beta = start(self.space.num_edges)

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Sections 3.2 and 3.3, in every step."""
        return {kind: relax_weighted(self.alpha[kind], edge_softmax(self.beta[kind], self.space)) for kind in KINDS}

    def loss(self, problem: Problem, step: Step) -> torch.Tensor | None:
        """Cross-entropy on held-out images with L2 on alpha and beta; None while they are frozen."""
        if step.epoch < self.settings.frozen:
            return None
        decay = sum(logits.square().sum() for logits in [*self.alpha.values(), *self.beta.values()])
        return problem.held_out_loss(self.mixing(step)) + 0.5 * self.settings.alpha_decay * decay

    def genotype(self, rule: str | None = None) -> Genotype:
        """Each edge's best operation; the edges where it times the edge weight is largest, as many as were set."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        strength = {
            kind: best_operations(scores[kind], self.space)[0]
            * edge_softmax(self.beta[kind].detach().double(), self.space)
            for kind in KINDS
        }
        return derive(self.settings.edges if rule is None else rule, scores, self.space, strength)
