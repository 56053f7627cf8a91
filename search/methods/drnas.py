"""DrNAS: the mixing weights of an edge are drawn from a Dirichlet distribution, whose parameters are learned.

Chen, Wang, Cheng, Tang, Hsieh, "DrNAS: Dirichlet Neural Architecture Search" (https://arxiv.org/abs/2006.10355). The
draw explores, most where the concentrations are small; the pathwise derivative gives them their gradient.

    paper          here          shape    meaning
    theta          mix_EO        (E, O)   mixing weights, drawn anew in each step; 'none' among the O = 8 operations
    beta           concentration (E, O)   of the Dirichlet distribution, above 0
    eta            alpha[kind]   (E, O)   beta = ELU(eta) + 1
    beta^          1                      the anchor, at which all mixings are equally likely
    lambda         anchor_weight          of the distance from it, 1e-3

The paper's beta is no weight of edges (``beta`` elsewhere here): what is logged as alpha is eta. ELU keeps its order.

Differs from the paper: the progressive scheme (section 3.2: two stages, operations pruned between them, K = 6 and then
3 of partial channels) is left out, so that the search is one stage with everything; ``--partial-channels`` is there.

Not said in the paper, chosen here: eta starts at 1e-3 N(0, 1) and rests in the first 10 of 25 epochs, as in the
authors' code (as large a part of fewer or more epochs); the distance is half the squared one of eta from 0, where beta
is 1, which is the decay that the authors' code gives Adam; an evaluation takes the mean of the distribution; edges are
ranked by the mean of their best operation but 'none'; batch 64 is the authors' code's.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.settings import require, require_finite, setting
from nas_zoo.search.discretize import derive, read_configuration
from nas_zoo.search.host import Reading
from nas_zoo.search.method import EDGES, Problem, SearchSettings, Step, seed_of
from nas_zoo.search.methods.pc_darts import part_of_epochs
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["DrNas", "DrNasSettings", "concentration", "draw_simplex"]

_LEAST = 1e-4  # of a concentration: below it float32 draws zeros whose derivative is not finite


def concentration(alpha_EO: torch.Tensor) -> torch.Tensor:
    """Section 2.2: beta, above 0; 1 at eta = 0."""
    # 2.2   beta = ELU(eta) + 1
    return (F.elu(alpha_EO) + 1.0).clamp_min(_LEAST)


class _Drawn(torch.autograd.Function):
    """theta, drawn on the CPU, whose gradient goes on to beta where beta is."""

    @staticmethod
    def forward(ctx: Any, beta_EO: torch.Tensor, known_EO: torch.Tensor, seed: int) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):  # torch's sampler takes no generator
            torch.manual_seed(seed)
            theta_EO = torch._sample_dirichlet(known_EO)
        total_EO = known_EO.sum(-1, keepdim=True).expand_as(known_EO)
        slope_EO = torch._dirichlet_grad(theta_EO, known_EO, total_EO)
        both = torch.stack([theta_EO, slope_EO]).to(beta_EO.device, non_blocking=True)
        ctx.save_for_backward(both)
        return both[0].clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        theta_EO, slope_EO = ctx.saved_tensors[0]
        return slope_EO * (grads[0] - (theta_EO * grads[0]).sum(-1, keepdim=True)), None, None


def draw_simplex(beta_EO: torch.Tensor, seed: int, known_EO: torch.Tensor | None = None) -> torch.Tensor:
    """Section 2.2: theta ~ Dir(beta) of each edge, sums to 1, with the pathwise derivative with respect to beta.

    `known_EO`: what beta is, on the CPU; None: it is read.
    """
    # 2.2   theta ~ q(theta | beta) = Dir(beta);   d theta_i / d beta_j by the derivative of the Beta distribution's CDF
    return _Drawn.apply(beta_EO, beta_EO.detach().cpu() if known_EO is None else known_EO, seed)


@dataclass(frozen=True)
class DrNasSettings(SearchSettings):
    """DrNAS; defaults: the paper, section 4 and appendix, in one stage."""

    method: str = setting("drnas", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    operations: tuple[str, ...] = setting(("none", *SEARCH_OPERATIONS), "candidate operations of an edge")
    lr: float = setting(0.1, "learning rate of SGD on the weights, at the start")
    lr_min: float = setting(0.0, "and at the end of its cosine")
    alpha_lr: float = setting(6e-4, "learning rate of Adam on eta")
    anchor_weight: float = setting(1e-3, "lambda: of the distance of beta from 1, where all mixings are equally likely")
    freeze_epochs: int | None = setting(None, "epochs at the start without architecture steps; default: 20 of 50")
    edges: str | None = setting(None, EDGES)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "anchor_weight")
        what = f"from 0 to below epochs ({self.epochs})"
        require(0 <= self.frozen < self.epochs, "freeze_epochs", self.freeze_epochs, what)
        read_configuration(self.edges, self.space)

    @property
    def frozen(self) -> int:
        return part_of_epochs(self.freeze_epochs, 20, self.epochs)


class DrNas(nn.Module):
    """DrNAS in one stage."""

    def __init__(self, settings: DrNasSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.space.num_edges, self.space.num_operations)
        self.alpha = nn.ParameterDict({kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS})
        self._etas = [self.alpha[kind] for kind in KINDS]
        self._known = Reading(self._read)

    def _read(self) -> dict[str, torch.Tensor]:
        """beta as the host knows it, which draws from it until an architecture step has moved it."""
        return dict(zip(KINDS, concentration(torch.stack(self._etas).detach().cpu()), strict=True))

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Section 2.2: a mixture of every operation of every edge, drawn for this step; its mean in an evaluation."""
        everything = tuple(range(self.space.num_operations))
        mixing: dict[str, Mixing] = {}
        for kind in KINDS:
            beta_EO = concentration(self.alpha[kind])
            if step.phase == "eval":
                mix_EO = beta_EO / beta_EO.sum(-1, keepdim=True)
            else:
                known_EO = self._known(self._etas)[kind]
                mix_EO = draw_simplex(beta_EO, seed_of(f"drnas {kind}", self.settings.seed, step), known_EO)
            mixing[kind] = tuple(EdgeMixing(everything, mix_O) for mix_O in mix_EO)
        return mixing

    def loss(self, problem: Problem, step: Step) -> torch.Tensor | None:
        """Cross-entropy on held-out images under the draw, and the distance from the anchor; None while eta rests."""
        if step.epoch < self.settings.frozen:
            return None
        # 2.2   min_beta E_q(theta|beta)[L_val(w*, theta)] + lambda d(beta, beta^)
        distance = 0.5 * sum(eta.square().sum() for eta in self.alpha.values())
        return problem.held_out_loss(self.mixing(step)) + self.settings.anchor_weight * distance

    def genotype(self, rule: str | None = None) -> Genotype:
        """The edges whose best operation but 'none' has the largest mean weight, as many as were set."""
        # softmax(log beta) is the mean of Dir(beta)
        scores = {kind: concentration(self.alpha[kind].detach()).log() for kind in KINDS}
        return derive(self.settings.edges if rule is None else rule, scores, self.space)
