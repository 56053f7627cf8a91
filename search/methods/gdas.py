"""GDAS: one operation an edge, drawn by Gumbel-softmax, and a gradient for what was drawn.

Dong and Yang, "Searching for A Robust Neural Architecture in Four GPU Hours" (https://arxiv.org/abs/1910.04465). Each
step runs one cell out of all, so it costs what a derived network costs; the draws become rarer as the logits part.

    paper          here          shape    meaning
    A_i,j          alpha[kind]   (E, O)   operation logits, 'none' ("zeroize") among the O = 8 operations
    o_k            gumbel        (E, O)   noise, -log(-log u) with u uniform in (0, 1)
    tau            temperature            of the relaxation, 10 at first and 0.1 at the end, linear
    h_i,j          ops           (E,)     the operation drawn; one-hot in the paper
    h~_i,j         soft          (E, O)   its relaxation, through which A gets its gradient

The paper writes an edge as (from j, to i); here the edges of a cell are one axis E, ordered node by node.

Differs from the paper: the reduction cell is searched as the normal one is (the paper's GDAS; its GDAS (FRC) has a
fixed one); 'none' gives A no gradient, as its output is 0 whatever its weight.

Not said in the paper, chosen here: A starts at 1e-3 N(0, 1), as in the authors' code; architecture step, weight step
and each batch of an evaluation draw anew; the decay of A is in the loss (the gradient is that of Adam's L2); gradients
of the weights are clipped at 5 as in DARTS.
"""

from dataclasses import dataclass

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.settings import require_finite, setting
from nas_zoo.search.discretize import derive, read_configuration
from nas_zoo.search.host import Reading
from nas_zoo.search.method import EDGES, Problem, SearchSettings, Step, generator_of
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["Gdas", "GdasSettings", "draw", "temperature"]


def temperature(step: Step, first: float, last: float) -> float:
    """tau in an epoch: `first` in the first, `last` in the last, linear between (section 4.2)."""
    return first + (last - first) * step.epoch / max(1, step.num_epochs - 1)


def perturbed(alpha_EO: torch.Tensor, uniform_EO: torch.Tensor) -> torch.Tensor:
    """Of each edge the numbers whose largest is the operation drawn."""
    # 3.2   Pr(f_i,j = F_k) = exp(A^k_i,j) / sum_k' exp(A^k'_i,j), drawn as the k with the largest A^k_i,j + o_k
    #       o_k = -log(-log(u)),   u ~ Uniform(0, 1)
    return torch.log_softmax(alpha_EO, dim=-1) - torch.log(-torch.log(uniform_EO))


def draw(alpha_EO: torch.Tensor, uniform_EO: torch.Tensor, tau: float, known_EO: torch.Tensor | None = None) -> Mixing:
    """Section 3.2: of each edge the operation drawn, with weight 1 and the gradient of its relaxation.

    `uniform_EO` in (0, 1), on the CPU. The smaller tau, the nearer the relaxation to the draw itself. `known_EO`: what
    alpha is, on the CPU; None: it is read.
    """
    known_EO = alpha_EO.detach().cpu() if known_EO is None else known_EO
    chosen = perturbed(known_EO, uniform_EO).argmax(dim=-1).tolist()
    # 3.2   h~^k_i,j = exp((A^k_i,j + o_k) / tau) / sum_k' exp((A^k'_i,j + o_k') / tau)
    soft_EO = torch.softmax(perturbed(alpha_EO, uniform_EO.to(alpha_EO.device, non_blocking=True)) / tau, dim=-1)
    # 3.2   forward: h_i,j = one_hot(argmax_k);   backward: the gradient of h~_i,j, of the operation that ran alone
    return tuple(
        EdgeMixing((k,), (1.0 + soft_O[k] - soft_O[k].detach())[None])
        for k, soft_O in zip(chosen, soft_EO, strict=True)
    )


@dataclass(frozen=True)
class GdasSettings(SearchSettings):
    """GDAS; defaults: the paper, section 4.2."""

    method: str = setting("gdas", "search method")
    epochs: int = setting(250, "epochs; one epoch sees each half of the training images once")
    operations: tuple[str, ...] = setting(("none", *SEARCH_OPERATIONS), "candidate operations of an edge")
    alpha_decay: float = setting(1e-3, "L2 on the logits")
    tau: float = setting(10.0, "temperature of the relaxation in the first epoch")
    tau_last: float = setting(0.1, "and in the last, linear between")
    edges: str | None = setting(None, EDGES)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "alpha_decay")
        require_finite(self, "tau", "tau_last", above=True)
        read_configuration(self.edges, self.space)


class Gdas(nn.Module):
    """GDAS."""

    def __init__(self, settings: GdasSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.space.num_edges, self.space.num_operations)
        self.alpha = nn.ParameterDict({kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS})
        self._alphas = [self.alpha[kind] for kind in KINDS]
        self._known = Reading(self._read)

    def _read(self) -> dict[str, torch.Tensor]:
        """Alpha as the host knows it, which draws from it until an architecture step has moved it."""
        return dict(zip(KINDS, torch.stack(self._alphas).detach().cpu(), strict=True))

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Section 3.2: a cell of each kind, drawn for this step."""
        generator = generator_of("gdas", self.settings.seed, step)
        tau = temperature(step, self.settings.tau, self.settings.tau_last)
        mixing: dict[str, Mixing] = {}
        for kind, known_EO in self._known(self._alphas).items():
            # away from 0 and 1, where the noise is infinite; on the CPU, so that the draw is the same on every device
            uniform_EO = torch.rand(known_EO.shape, generator=generator).clamp(1e-7, 1 - 1e-7)
            mixing[kind] = draw(self.alpha[kind], uniform_EO, tau, known_EO)
        return mixing

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """Cross-entropy of the cell drawn on held-out images, with L2 on the logits."""
        decay = sum(logits.square().sum() for logits in self.alpha.values())
        return problem.held_out_loss(self.mixing(step)) + 0.5 * self.settings.alpha_decay * decay

    def genotype(self, rule: str | None = None) -> Genotype:
        """Section 3.3: each node keeps the edges whose best operation but 'none' is likeliest, as many as were set."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        return derive(self.settings.edges if rule is None else rule, scores, self.space)
