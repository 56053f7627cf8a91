"""DARTS: every operation on every edge, weighted by a softmax; first and second order.

Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search" (https://arxiv.org/abs/1806.09055). The baseline that
EDAS and DA2S are measured against.

    paper              here         shape    meaning
    alpha^(i,j)        alpha[kind]  (E, O)   operation logits, 'none' among the O = 8 operations
    w, xi              problem      -        weights of the supernet, learning rate of their step
    w' = w - xi ...    look_ahead   -        weights after the step that would come next, momentum and decay included
    epsilon            radius / |v|          step of the finite difference, v = d L_val(w', alpha) / d w'
    w+, w-             moved                 w + epsilon v, w - epsilon v
    nabla_alpha        autograd.grad         derivative with respect to alpha

Eq. 2 is the mixing. Eq. 6 is the gradient that alpha gets: with xi = 0 the first order (``order=1``), at the weights as
they are; else the second (``order=2``), Eq. 7 and 8. The paper writes an edge as (from i, to j); here the edges of a
cell are one axis E, ordered node by node.

Differs from the paper: nothing known. As in the authors' code, w' takes momentum and weight decay into account but no
clipping, and xi is the weights' learning rate of the epoch; BatchNorm's running statistics are not touched by passes
under w', w+ and w- (only evaluations use them).

Not said in the paper, chosen here: alpha's decay stands in the loss (the gradient is that of Adam's L2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs.settings import require_finite, setting
from nas_zoo.search.discretize import derive, read_configuration
from nas_zoo.search.method import EDGES, Problem, SearchSettings, Step
from nas_zoo.search.supernet import EdgeMixing, Mixing

__all__ = ["Darts", "DartsSettings", "relax_all"]


def relax_all(alpha_EO: torch.Tensor) -> Mixing:
    """Eq. 2: every operation of every edge, weighted by softmax(alpha); 1/O each at alpha = 0."""
    # Eq. 2   obar^(i,j)(x) = sum_{o in O} [exp(alpha_o^(i,j)) / sum_{o' in O} exp(alpha_o'^(i,j))] o(x)
    everything = tuple(range(alpha_EO.shape[1]))
    return tuple(EdgeMixing(everything, mix_O) for mix_O in torch.softmax(alpha_EO, dim=-1))


@dataclass(frozen=True)
class DartsSettings(SearchSettings):
    """Section 3.1 and appendix A.1.1 of the paper."""

    method: str = setting("darts", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    order: Literal[1, 2] = setting(1, "1: at the weights as they are; 2: at the weights one step ahead, three times "
                                      "the work")  # fmt: skip
    alpha_decay: float = setting(1e-3, "L2 on alpha")
    radius: float = setting(0.01, "length of the weights' step in the finite difference of the second order")
    operations: tuple[str, ...] = setting(("none", *SEARCH_OPERATIONS), "candidate operations of an edge")
    edges: str | None = setting(None, EDGES)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_finite(self, "alpha_decay")
        require_finite(self, "radius", above=True)
        read_configuration(self.edges, self.space)


class Darts(nn.Module):
    """DARTS of either order."""

    def __init__(self, settings: DartsSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)
        shape = (self.space.num_edges, self.space.num_operations)
        self.alpha = nn.ParameterDict({kind: 1e-3 * torch.randn(shape, generator=generator) for kind in KINDS})

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Eq. 2, in every step."""
        return {kind: relax_all(self.alpha[kind]) for kind in KINDS}

    def loss(self, problem: Problem, step: Step) -> torch.Tensor:
        """Cross-entropy on held-out images, at the weights or one step ahead of them, with L2 on alpha."""
        # Eq. 6   nabla_alpha L_val(w - xi nabla_w L_train(w, alpha), alpha)   order 1: xi = 0
        ahead = self.settings.order == 2
        loss = self.look_ahead(problem, step) if ahead else problem.held_out_loss(self.mixing(step))
        return loss + 0.5 * self.settings.alpha_decay * sum(logits.square().sum() for logits in self.alpha.values())

    def look_ahead(self, problem: Problem, step: Step) -> torch.Tensor:
        """L_val(w', alpha) as a value whose gradient is that of Eq. 7 and 8."""
        alphas = list(self.alpha.values())
        weights = problem.weights
        mixing = {
            kind: tuple(EdgeMixing(mix.ops, mix.weights.detach()) for mix in edges if mix.weights is not None)
            for kind, edges in self.mixing(step).items()
        }
        # in Eq. 7   w' = w - xi nabla_w L_train(w, alpha)
        gradients = gradients_of(problem.training_loss(mixing), weights)
        ahead = problem.stepped(problem.mean_over_processes(gradients))

        loss = problem.held_out_loss(self.mixing(step), ahead)
        both = torch.autograd.grad(loss, [*alphas, *ahead.values()], allow_unused=True)
        direct, v = both[: len(alphas)], named(ahead, both[len(alphas) :])
        problem.mean_over_processes(v)

        # in Eq. 8   epsilon = 0.01 / |nabla_w' L_val(w', alpha)|,   w+- = w +- epsilon nabla_w' L_val(w', alpha)
        norms = torch.stack([torch.linalg.vector_norm(value, dtype=torch.float64) for value in v.values()])
        epsilon = self.settings.radius / torch.linalg.vector_norm(norms)  # stays on the device
        sides = []
        for sign in (1, -1):
            moved = {
                name: w.detach() + sign * epsilon * v[name] if name in v else w.detach() for name, w in weights.items()
            }
            loss_there = problem.training_loss(self.mixing(step), moved)
            sides.append(torch.autograd.grad(loss_there, alphas, allow_unused=True))
        result = loss.detach()
        for alpha, first, plus, minus in zip(alphas, direct, *sides, strict=True):
            if first is not None:  # a network of one or two cells has no normal cell
                # Eq. 7   nabla_alpha L_val(w', alpha) - xi nabla^2_alpha,w L_train(w, alpha) nabla_w' L_val(w', alpha)
                # Eq. 8   nabla^2_alpha,w L_train(w, alpha) nabla_w' L_val(w', alpha)
                #             ~ [nabla_alpha L_train(w+, alpha) - nabla_alpha L_train(w-, alpha)] / (2 epsilon)
                total = first - problem.lr * (plus - minus) / (2 * epsilon)
                result = result + (total * (alpha - alpha.detach())).sum()  # adds 0, and the gradient
        return result

    def genotype(self, rule: str | None = None) -> Genotype:
        """Section 2.4: the edges whose best operation but 'none' is strongest, as many as were set."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        return derive(self.settings.edges if rule is None else rule, scores, self.space)


def named(weights: Mapping[str, torch.Tensor], gradients: tuple[torch.Tensor | None, ...]) -> dict[str, torch.Tensor]:
    """The gradients by name, without the weights that have none."""
    return {name: value for name, value in zip(weights, gradients, strict=True) if value is not None}


def gradients_of(loss: torch.Tensor, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return named(weights, torch.autograd.grad(loss, list(weights.values()), allow_unused=True))
