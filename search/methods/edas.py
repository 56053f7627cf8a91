"""EDAS: relax one edge a step, clamp all others to their strongest operation.

Hong, Ahn, Kim, "EDAS: Efficient and Differentiable Architecture Search" (https://arxiv.org/abs/1912.01237). The network
that is trained is at every moment the one that would be derived, but for one edge, so cutting it down costs nothing.

    paper          here           shape    meaning
    alpha^(i,j)    alpha[kind][e] (O,)     operation logits of edge e = (j, i), one parameter an edge
    O              space          O = 8    candidate operations, 'none' among them
    (k, l)         drawn edge              the edge relaxed in this iteration, one of 28
    o_m            argmax                  the operation with the largest alpha
    f_j(x_i)       EdgeMixing              what node i sends to node j: which operations o, and with which factor;
                                           the supernet runs them

The paper writes an edge as (from i, to j) and knows one cell; here edges are numbered node by node and there is an
alpha for each cell kind. Its Eq. 1 is DARTS' edge (``search.methods.darts``), which Eq. 2 keeps on one edge alone.

Differs from the paper: alpha's weight decay in warm-up is part of the loss and of the drawn edge only (with Adam's L2
the gradient is the same; the paper wants no other edge to move, section 4.1).

Not said in the paper, chosen here: the drawn edge is one of the 28 of both cell kinds (``draw="per_kind"`` relaxes one
in each kind); architecture and weight step of an iteration share it; alpha starts at 1e-3 N(0, 1) as in DARTS; the
warm-up inverts on every second iteration ("alternately", section 3.2; section 4.1 says "every iteration":
``invert="every"``) and -alpha then also chooses the clamped operations; gradients of the weights are clipped at 5 as in
DARTS, images are cropped and flipped as there.

Two readings of Eq. 3. Taken at its word it holds in both steps of an iteration. The architecture step then descends the
loss of softmax(-alpha), which lowers the alpha of what is good: were the weights to stand still, ``invert="every"``
would leave the best operation last, and alternate iterations would push it up and down in turn. The purpose named in
section 4.1, "fair learning of candidate operations", is the weight step's alone: ``invert_in="weights"`` inverts there
and lets alpha learn as ever. Both are measured in docs/results.md.

Derivation: every edge keeps its strongest operation, and 'none' drops the edge (``derive="argmax"``). So say sections
3.1 ("leaving only one operation with the highest alpha at each edge"), 3.2 ("exactly represents the derived model") and
4.2 ("pruning all operations other than the top-1 operation for each edge"); it is the network that was trained, and the
claim that nothing is lost in pruning holds for it alone (docs/results.md). ``derive="darts"`` keeps the two strongest
edges a node, for cells like everybody's: section 4.2 also says that the derivation is adopted from DARTS.
"""

import random
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.discretize import derive
from nas_zoo.search.host import Reading
from nas_zoo.search.method import Problem, SearchSettings, Step
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["AlphaMaxSettings", "Edas", "EdasSettings", "clamp", "draw_edges", "relax"]


def relax(alpha_O: torch.Tensor) -> EdgeMixing:
    """Eq. 2, first line: all operations of the drawn edge, weighted by softmax(alpha); 1/O each at alpha = 0."""
    # Eq. 2   f_j(x_i) = sum_{o in O} [exp(alpha_o^(i,j)) / sum_{o' in O} exp(alpha_o'^(i,j))] * o(x_i)   i = k, j = l
    return EdgeMixing(tuple(range(alpha_O.numel())), torch.softmax(alpha_O, dim=0))


def clamp(alpha_O: torch.Tensor) -> EdgeMixing:
    """Eq. 2, second line: the operation with the largest alpha, with weight 1; the first one of equals."""
    # Eq. 2   f_j(x_i) = o_m(x_i)   otherwise
    return clamp_all(alpha_O[None])[0]


def clamp_all(alpha_EO: torch.Tensor) -> Mixing:
    """The same for many edges, all operations read from the device at once."""
    return tuple(EdgeMixing((choice,)) for choice in alpha_EO.argmax(dim=-1).tolist())


def sign_of(step: Step, warmup_epochs: int, invert: str, invert_in: str = "both") -> float:
    """Eq. 3: -1 where this step uses -alpha, else 1. An evaluation never does, with "weights" only a weight step."""
    # Eq. 3   f_j(x_i) = sum_{o in O} [exp(-alpha_o^(i,j)) / sum_{o' in O} exp(-alpha_o'^(i,j))] * o(x_i)
    if step.phase == "eval" or step.epoch >= warmup_epochs or (step.phase == "alpha" and invert_in == "weights"):
        return 1.0
    return -1.0 if invert == "every" or step.index % 2 == 1 else 1.0


def draw_edges(seed: int, step: Step, num_edges: int, draw: str) -> dict[str, int]:
    """The edge relaxed in each cell kind, {kind: edge}, uniform; a kind that is missing relaxes none.

    A function of seed and step alone: the same in every process, in both steps of an iteration, and after a resume.
    """
    rng = random.Random(f"edas {seed} {'eval' if step.phase == 'eval' else 'train'} {step.epoch} {step.index}")
    if draw == "per_kind":
        return {kind: rng.randrange(num_edges) for kind in KINDS}
    number = rng.randrange(len(KINDS) * num_edges)
    return {KINDS[number // num_edges]: number % num_edges}


@dataclass(frozen=True)
class EdasSettings(SearchSettings):
    """EDAS; defaults: the paper, section 4.1."""

    method: str = setting("edas", "search method")
    epochs: int = setting(25, "epochs (section 4.1); one epoch sees each half of the training images once")
    operations: tuple[str, ...] = setting(("none", *SEARCH_OPERATIONS), "candidate operations of an edge")
    num_cells: int = setting(20, "cells of the supernet: as deep as the derived network (section 4.1)")
    alpha_lr: float = setting(0.025, "learning rate of Adam on alpha (section 4.1)")
    warmup_epochs: int = setting(0, "epochs with inverted alpha, Eq. 3; 10 is the paper's EDAS with warm-up")
    invert: Literal["alternate", "every"] = setting(
        "alternate", "in warm-up, invert every second iteration or every one"
    )
    invert_in: Literal["both", "weights"] = setting(
        "both", "in these iterations, invert in both steps as Eq. 3 is written, or in the weight step alone"
    )
    warmup_alpha_decay: float = setting(1e-3, "L2 on the drawn edge's alpha during warm-up; none after (section 4.1)")
    draw: Literal["one", "per_kind"] = setting("one", "relax one edge of all, or one in each cell kind")
    derive: Literal["argmax", "darts"] = setting(
        "argmax", "derivation rule of the result: the network that was trained, or two edges a node"
    )

    #: Eq. 2 holds in the weight step too; the ablation alpha-max clamps every edge there (section 5.3, Figure 5).
    relax_in_weight_step: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        what = f"from 0 to epochs ({self.epochs})"
        require(0 <= self.warmup_epochs <= self.epochs, "warmup_epochs", self.warmup_epochs, what)
        require_finite(self, "warmup_alpha_decay")


@dataclass(frozen=True)
class AlphaMaxSettings(EdasSettings):
    """The paper's ablation: the weights are trained in the clamped network, no edge relaxed (section 5.3)."""

    method: str = setting("alpha_max", "search method")
    relax_in_weight_step: ClassVar[bool] = False


class Edas(nn.Module):
    """EDAS, and alpha-max with its settings."""

    def __init__(self, settings: EdasSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        # One parameter an edge, whose gradient is None where it is not drawn: Adam then leaves it and its moments
        # alone. As rows of one tensor they would drift on by their momentum at a gradient of zero.
        generator = torch.Generator().manual_seed(settings.seed)
        self.alpha = nn.ModuleDict(
            {
                kind: nn.ParameterList(
                    nn.Parameter(1e-3 * torch.randn(self.space.num_operations, generator=generator))
                    for _ in self.space.edges
                )
                for kind in KINDS
            }
        )

        self._alphas = [alpha_O for kind in KINDS for alpha_O in self._logits(kind)]
        # An architecture step alone moves them: what is read behind it holds until the next one.
        self._clamped = Reading(self._clamp)

    def _logits(self, kind: str) -> list[nn.Parameter]:
        logits: Any = self.alpha[kind]
        return list(logits)

    def _clamp(self) -> dict[float, dict[str, Mixing]]:
        """Every edge clamped, with either sign of alpha."""
        alpha_EO = torch.stack([alpha_O.detach() for alpha_O in self._alphas])
        edges = iter(clamp_all(torch.cat([alpha_EO, -alpha_EO])))
        return {sign: {kind: tuple(islice(edges, self.space.num_edges)) for kind in KINDS} for sign in (1.0, -1.0)}

    def _drawn(self, step: Step) -> dict[str, int]:
        return draw_edges(self.settings.seed, step, self.space.num_edges, self.settings.draw)

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Eq. 2, with Eq. 3's sign in warm-up."""
        settings = self.settings
        sign = sign_of(step, settings.warmup_epochs, settings.invert, settings.invert_in)
        drawn = self._drawn(step) if step.phase != "weights" or settings.relax_in_weight_step else {}
        mixing = dict(self._clamped(self._alphas)[sign])
        for kind, edge in drawn.items():
            relaxed = relax(sign * self._logits(kind)[edge])
            mixing[kind] = (*mixing[kind][:edge], relaxed, *mixing[kind][edge + 1 :])
        return mixing

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """Cross-entropy on held-out images; in warm-up with L2 on the drawn alpha."""
        loss = problem.held_out_loss(self.mixing(step))
        decay = self.settings.warmup_alpha_decay if step.epoch < self.settings.warmup_epochs else 0.0
        if decay:
            for kind, edge in self._drawn(step).items():
                loss = loss + 0.5 * decay * self._logits(kind)[edge].square().sum()
        return loss

    def genotype(self, rule: str | None = None) -> Genotype:
        """Section 4.2: every edge's strongest operation by default, or another rule (see ``search.discretize``)."""
        scores = {kind: torch.stack([alpha_O.detach() for alpha_O in self._logits(kind)]) for kind in KINDS}
        return derive(self.settings.derive if rule is None else rule, scores, self.space)
