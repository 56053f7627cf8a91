"""DA2S: entropy losses push the supernet to the configuration that discretization will cut it to.

Tian, Liu, Xie, Jiao, Ye, "Discretization-aware Architecture Search" (https://arxiv.org/abs/2007.03154). On the base of
PC-DARTS (``search.pc_darts``), without 'none': operations and edges that will be dropped lose their weight while the
network's weights still train, so that dropping them costs little; for any number of edges a node shall keep.

    paper           here          shape    meaning
    alpha^o_i,j     alpha[kind]   (E, O)   operation logits, O = 7
    beta_i,j        beta[kind]    (E,)     edge logits, used as min(beta, 1) everywhere
    a^o_i,j         softmax       (E, O)   weight of an operation on its edge
    b_i,j           edge_softmax  (E,)     weight of an edge among the inputs of its node
    theta           weights                of the supernet F; not alpha or beta
    L_C             held_out_loss          Eq. 1, cross-entropy on the alpha half of the images
    L^O, L^E        operation_loss, edge_loss   Eq. 2-3 and 4-5
    "2" in Eq. 4    EdgeGroup.keep         edges that a node, or a group of nodes, shall keep
    lambda_c,1,2    control       t in 1..T     regularization factors, Figure 5; lambda_alpha = lambda_1 and
                                           lambda_beta = 4 lambda_2 (section 4.2)

The paper writes an edge as (from i, to j) and sums over nodes j and their inputs i < j; here the edges of a cell are
one axis E, ordered node by node, and the two cell kinds are two keys. Its Eq. 1 lacks the minus sign of a
cross-entropy. Eq. 6 is Eq. 7 with every factor 1, and is not used.

The losses reach alpha and beta only; the network's weights see L_C alone, in the weight step.

Not said in the paper, chosen here:
- Eq. 4 stands for a group of nodes that keep edges between them as well (3/14: one edge for nodes 2 and 3): entropy
  and sum then run over all edges that enter the group. In the forward pass b stays a softmax over one node's inputs
  (section 3.1), so a node that is to lose its only candidate passes its full signal until the end: the paper's own drop
  under 3/14 (85.52 -> 64.23) is in line with that. An edge that no choice can keep (3/14: from node 2 to node 3, one of
  which is without input) is no candidate in the group's loss.
- A group that keeps all of its edges (8/14: node 2) has no edge loss: entropy would push it to one edge. The authors'
  Figure 4 shows, and their code has, nodes 3 to 5 only.
- Kept are the edges with the largest beta, ("select the largest one", section 4.2), as in the authors' code; alpha
  chooses the operation alone.
- alpha starts at 1e-3 N(0, 1), beta at count / edges of its group plus 1e-3 N(0, 1), where the second term of Eq. 4
  is 0 (the authors' code starts at 2/n). From N(0, 1) alone the noise would decide: Eq. 4 lifts the betas that happen
  to be positive and leaves the others (``beta_start="zero"``, as in PC-DARTS).
- The clamp of beta at 1 holds in b as well, as in the authors' code; beyond 1 a beta has no gradient but its decay.
- A delayed function is 0 in the first 8 of 50 epochs (as large a part of fewer or more) and then runs over the rest as
  over a whole search: it begins in epoch 9, with the value that it has at t = 1. ("Since the 8th epochs before which
  lambda_2 is fixed as 0", section 4.2, can also mean that it begins in epoch 8, as in the authors' code:
  ``delay_epochs=7``.) 'exp' keeps its base 2^(1/5) whatever T is, 'step' rises at t = 13, 25 and 38 of 50, the first
  epochs from a quarter, a half and three quarters of T on, as in the authors' code.
- Batch size and learning rate. The defaults, ``da2s_c10``, take 0.25 at the paper's word, with the batch of 256 and the
  partial channels of PC-DARTS, on which the paper says it builds (which has 0.1 there). ``da2s_lr0025_c10`` has 0.025
  with a batch of 64 and all channels. For it speak the authors' code, which has these; DARTS, whose settings the
  paper follows otherwise and of whose 0.025 its 0.25 would be a slip; and 0.3 GPU-days, three times what PC-DARTS takes
  with partial channels. Against it: the text, which says 0.25, and PC-DARTS as its base.
- Weights' gradients are clipped at 5 as in the base; alpha and beta are not frozen at the start (the base's 15 epochs
  are not spoken of).

The authors' code (https://github.com/sunsmarterjie/DAAS, cnn/) is another algorithm in many places. The preset
``da2s_released`` follows it:
- no partial channels, batch 64, learning rate 0.025 -> 0.001;
- b times the number of inputs, and 1 for every edge of a group that keeps all (node 2, which has no beta there);
- alpha passes through x = 2 alpha, x^3 where x < -1, before every softmax (``strengthen``);
- the whole penalty times 0.1, the second term of Eq. 4 times 0.2;
- alpha and beta start with noise of 1e-4; alpha rests until the eighth epoch, when lambda_1 begins: lambda_1 is
  log(t - 7) to base 42 there, here to base 43, so that it ends at 1 and not at 1.006. (The code steps alpha with a
  learning rate of 0 in the first 7 epochs, which only fills Adam's moments; here alpha has no gradient then.)
- it mixes reduction cells with the normal cells' beta and the other way round: mended here.
- it keeps two edges a node, fixed; here every configuration works.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.discretize import EdgeGroup, candidates, derive, read_configuration
from nas_zoo.search.host import constant
from nas_zoo.search.method import Problem, SearchSettings, Step
from nas_zoo.search.methods.pc_darts import edge_softmax, part_of_epochs, relax_weighted
from nas_zoo.search.supernet import Mixing, SearchSpace

__all__ = ["Da2s", "Da2sReleasedSettings", "Da2sSettings", "control", "edge_loss", "entropy", "operation_loss"]

Control = Literal[
    "const", "linear", "log", "exp", "step",
    "const_delayed", "linear_delayed", "log_delayed", "exp_delayed", "step_delayed",
]  # fmt: skip


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of softmax(logits) over the last axis, in nats: 0 when one has all, log n when n are equal."""
    # Eq. 2   L^O_i,j(alpha) = -sum_{o in O} [exp(alpha^o_i,j) / sum_{o' in O} exp(alpha^o'_i,j)]
    #                                * log [exp(alpha^o_i,j) / sum_{o' in O} exp(alpha^o'_i,j)]
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1)


def operation_loss(alpha_EO: torch.Tensor) -> torch.Tensor:
    """Eq. 2 and 3 for one cell: 0 when each edge has settled, E log O when none has a preference."""
    # Eq. 3   L^O(alpha) = sum_j sum_{i<j} L^O_i,j(alpha)
    return entropy(alpha_EO).sum()


def edge_loss(
    beta_E: torch.Tensor, groups: tuple[EdgeGroup, ...], space: SearchSpace, count_weight: float = 1.0
) -> torch.Tensor:
    """Eq. 4 and 5 for one cell, with beta clamped at 1, for the groups that do not keep all of their edges.

    A group with n edges of beta 1 and the others far below: log n. All m edges equal at n / m: log m.
    """
    loss = beta_E.new_zeros(())
    for group, members in zip(groups, candidates(groups, space), strict=True):
        if group.keep < len(members):
            # Eq. 4   L^E_j(beta) = -sum_{i<j} [exp(beta_i,j) / sum_{i'<j} exp(beta_i',j)]
            #                               * log [exp(beta_i,j) / sum_{i'<j} exp(beta_i',j)]
            #                       + |sum_B beta_i,j - 2|^2   with B = {beta_i,j | i < j, beta_i,j > 0}, beta_i,j <= 1
            # Eq. 5   L^E(beta) = sum_j L^E_j(beta)
            beta = beta_E[constant(tuple(members), beta_E.device)].clamp(max=1.0)
            loss = loss + entropy(beta) + count_weight * (beta.relu().sum() - group.keep).square()
    return loss


def control(name: str, t: int, total: int, delay: int) -> float:
    """Figure 5: a regularization factor in epoch t of 1..total, in [0, 1]; delayed ones are 0 in the first epochs."""
    if name.endswith("_delayed"):
        return 0.0 if t <= delay else control(name.removesuffix("_delayed"), t - delay, total - delay, 0)
    if name == "const":
        return 1.0
    if name == "linear":
        return (t - 1) / (total - 1) if total > 1 else 1.0
    if name == "log":
        return math.log(t) / math.log(total) if total > 1 else 1.0
    if name == "exp":
        return 2.0 ** ((t - total) / 5)
    assert name == "step", name
    return min(3, 4 * t // total) / 3


def strengthened(alpha: torch.Tensor) -> torch.Tensor:
    """The authors' code: 2 alpha, cubed where that is below -1; the order of the alphas stays."""
    x = 2 * alpha
    return torch.where(x < -1, x**3, x)


@dataclass(frozen=True)
class Da2sSettings(SearchSettings):
    """DA2S; defaults: the paper, section 4.1."""

    method: str = setting("da2s", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    batch_size: int = setting(256, "images a step, over all processes")
    partial_channels: int = setting(4, "K of the base, PC-DARTS: operations work on 1/K of the channels")
    lr: float = setting(0.25, "learning rate of SGD on the weights, at the start (section 4.1)")
    lr_min: float = setting(0.0, "and at the end of its cosine")
    alpha_decay: float = setting(1e-3, "L2 on alpha and beta")
    edges: str | None = setting(None, "edges to keep: 8/14 to 3/14, or groups, 2+3:1,4:1,5:1; default: two a node")
    lambda_c: Control = setting("linear", "control function of both losses (Table 2)")
    lambda_1: Control = setting("log_delayed", "of the operations' loss (Table 3)")
    lambda_2: Control = setting("const", "of the edges' loss (Table 3)")
    delay_epochs: int | None = setting(None, "epochs at the start in which a delayed function is 0; it begins in the "
                                             "one after them; default: 8 of 50")  # fmt: skip
    freeze_epochs: int | None = setting(0, "epochs at the start in which alpha rests; none: 7 of 50")
    penalty_weight: float = setting(1.0, "factor of both losses beside lambda_c")
    count_weight: float = setting(1.0, "factor of the second term of Eq. 4")
    beta_start: Literal["share", "zero"] = setting("share", "beta at first: count / edges of its group, or 0")
    start_noise: float = setting(1e-3, "deviation of alpha and beta at first")
    strengthen: bool = setting(False, "alpha -> 2 alpha, cubed below -1, before the softmax; as the authors' code")
    scale_edges: bool = setting(False, "edge weights times the number of the node's inputs; as the authors' code")

    #: Of the paper's 50 epochs; the authors' code begins one epoch earlier.
    delay_of_50: ClassVar[int] = 8

    def __post_init__(self) -> None:
        for name in ("lambda_c", "lambda_1", "lambda_2"):
            value = getattr(self, name)
            require(value in get_args(Control), name, value, f"one of {', '.join(get_args(Control))}")
        super().__post_init__()
        require_finite(self, "alpha_decay", "penalty_weight", "count_weight", "start_noise")
        for name, epochs in (("delay_epochs", self.delay), ("freeze_epochs", self.frozen)):
            what = f"from 0 to below epochs ({self.epochs})"
            require(0 <= epochs < self.epochs, name, getattr(self, name), what)
        read_configuration(self.edges, self.space)

    @property
    def delay(self) -> int:
        return part_of_epochs(self.delay_epochs, self.delay_of_50, self.epochs)

    @property
    def frozen(self) -> int:
        return part_of_epochs(self.freeze_epochs, 7, self.epochs)


@dataclass(frozen=True)
class Da2sReleasedSettings(Da2sSettings):
    """The choices of the authors' code, its crossed betas mended."""

    method: str = setting("da2s_released", "search method")
    batch_size: int = setting(64, "images a step, over all processes")
    partial_channels: int = setting(1, "K of PC-DARTS: operations work on 1/K of the channels")
    lr: float = setting(0.025, "learning rate of SGD on the weights, at the start")
    lr_min: float = setting(0.001, "and at the end of its cosine")
    delay_epochs: int | None = setting(None, "epochs at the start in which a delayed function is 0; default: 7 of 50")
    freeze_epochs: int | None = setting(None, "epochs at the start in which alpha rests; default: 7 of 50")
    penalty_weight: float = setting(0.1, "factor of both losses beside lambda_c")
    count_weight: float = setting(0.2, "factor of the second term of Eq. 4")
    start_noise: float = setting(1e-4, "deviation of alpha and beta at first")
    strengthen: bool = setting(True, "alpha -> 2 alpha, cubed below -1, before the softmax")
    scale_edges: bool = setting(True, "edge weights times the number of the node's inputs")

    delay_of_50: ClassVar[int] = 7


class Da2s(nn.Module):
    """DA2S, as the paper or as the authors' code has it."""

    def __init__(self, settings: Da2sSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = space = settings.space
        self.groups = read_configuration(settings.edges, space)
        generator = torch.Generator().manual_seed(settings.seed)
        start_E = torch.zeros(space.num_edges)
        self.has_choice = [False] * space.num_edges  # of nodes in groups that do not keep all of their edges
        for group, members in zip(self.groups, candidates(self.groups, space), strict=True):
            if group.keep < len(members):
                for e, (node, _) in enumerate(space.edges):
                    self.has_choice[e] |= node in group.nodes
                start_E[members] = group.keep / len(members) if settings.beta_start == "share" else 0.0

        def noise(*shape: int) -> torch.Tensor:
            return settings.start_noise * torch.randn(shape, generator=generator)

        self.alpha = nn.ParameterDict({kind: noise(space.num_edges, space.num_operations) for kind in KINDS})
        self.beta = nn.ParameterDict({kind: start_E + noise(space.num_edges) for kind in KINDS})

    def _alpha(self, kind: str, step: Step) -> torch.Tensor:
        """Alpha as all softmaxes see it; without a gradient while it rests."""
        alpha = self.alpha[kind]
        if step.epoch < self.settings.frozen:
            alpha = alpha.detach()
        return self.in_softmax(alpha)

    def in_softmax(self, alpha: torch.Tensor) -> torch.Tensor:
        """What of alpha goes into every softmax."""
        return strengthened(alpha) if self.settings.strengthen else alpha

    def edge_weights(self, kind: str) -> torch.Tensor:
        """b, (E,): sums to 1 over the inputs of a node, or to their number (``scale_edges``, 1 each without choice)."""
        b_E = edge_softmax(self.beta[kind].clamp(max=1.0), self.space)
        if not self.settings.scale_edges:
            return b_E
        b_E = b_E * constant(tuple(node for node, _ in self.space.edges), b_E.device)  # node n has n inputs
        return torch.where(constant(tuple(self.has_choice), b_E.device), b_E, 1.0)

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Section 3.1: every operation of every edge with a times b, in every step."""
        # 3.1   z_j = sum_{i<j} b_i,j f_i,j(z_i)   with f_i,j(z_i) = sum_{o in O} a^o_i,j o(z_i)
        return {kind: relax_weighted(self._alpha(kind, step), self.edge_weights(kind)) for kind in KINDS}

    def factors(self, epoch: int) -> tuple[float, float]:
        """What the operations' and the edges' loss are multiplied by in an epoch, from 0: Eq. 7."""
        # Eq. 7   lambda_c lambda_alpha and lambda_c lambda_beta, with lambda_alpha = lambda_1, lambda_beta = 4 lambda_2
        s = self.settings
        c, one, two = (control(name, epoch + 1, s.epochs, s.delay) for name in (s.lambda_c, s.lambda_1, s.lambda_2))
        return s.penalty_weight * c * one, s.penalty_weight * c * 4 * two

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """Eq. 7, with L2 on what moves."""
        s = self.settings
        for_operations, for_edges = self.factors(step.epoch)
        # Eq. 1   L_C(alpha, theta) = 1/M sum_{m=1..M} y_m' log F_alpha,theta(x_m)
        loss = problem.held_out_loss(self.mixing(step))
        # Eq. 7   L(theta, alpha, beta) = L_C(alpha, theta) + lambda_c (lambda_alpha L^O(alpha) + lambda_beta L^E(beta))
        for kind in KINDS:
            loss = loss + for_operations * operation_loss(self._alpha(kind, step))
            loss = loss + for_edges * edge_loss(self.beta[kind], self.groups, self.space, s.count_weight)
            loss = loss + 0.5 * s.alpha_decay * self.beta[kind].square().sum()
            if step.epoch >= s.frozen:
                loss = loss + 0.5 * s.alpha_decay * self.alpha[kind].square().sum()
        return loss

    def genotype(self, rule: str | None = None) -> Genotype:
        """The configuration's edges with the largest beta, each with its strongest operation."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        strength = {kind: self.beta[kind].detach() for kind in KINDS}
        return derive(self.settings.edges if rule is None else rule, scores, self.space, strength)
