"""Random cells: the baseline that every search has to beat.

Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search" (https://arxiv.org/abs/1902.07638)
and DARTS, section 3.1, ask for it. A choice of edges is drawn uniformly from all that the configuration allows, an
operation for each edge uniformly from the seven; both from the seed, nothing is learned. The supernet then trains that
one network, so a run costs as much as its derived network and has no discretization gap, and its log stands beside
those of the other methods.

    here          shape    meaning
    alpha[kind]   (E, O)   random logits, of which the largest names the operation; constant
    beta[kind]    (E,)     above 1 on the drawn edges, in [0, 1) on the others, by which other configurations are cut
"""

import random
from dataclasses import dataclass

import torch
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.runs.settings import setting
from nas_zoo.search.discretize import choices, derive, one_hot_mixing, read_configuration
from nas_zoo.search.host import Reading
from nas_zoo.search.method import Problem, SearchSettings, Step
from nas_zoo.search.supernet import Mixing

__all__ = ["RandomCells", "RandomSettings"]


@dataclass(frozen=True)
class RandomSettings(SearchSettings):
    """Random cells, their weights trained as those of a search."""

    method: str = setting("random", "search method")
    epochs: int = setting(50, "epochs; one epoch sees each half of the training images once")
    edges: str | None = setting(None, "edges of the cells: 8/14 to 3/14, or groups, 2+3:1,4:1,5:1; default: two a node")

    def __post_init__(self) -> None:
        super().__post_init__()
        read_configuration(self.edges, self.space)


class RandomCells(nn.Module):
    """One normal and one reduction cell, drawn from the seed."""

    def __init__(self, settings: RandomSettings) -> None:
        super().__init__()
        self.settings = settings
        self.space = settings.space
        generator = torch.Generator().manual_seed(settings.seed)
        rng = random.Random(f"random cells {settings.seed}")
        allowed = choices(read_configuration(settings.edges, self.space), self.space)
        alpha, beta = {}, {}
        for kind in KINDS:
            scores_EO = torch.randn(self.space.num_edges, self.space.num_operations, generator=generator)
            order_E = torch.rand(self.space.num_edges, generator=generator)
            order_E[list(rng.choice(allowed))] += 1
            alpha[kind] = nn.Parameter(scores_EO, requires_grad=False)
            beta[kind] = nn.Parameter(order_E, requires_grad=False)
        self.alpha, self.beta = nn.ParameterDict(alpha), nn.ParameterDict(beta)
        self._constants = list(self.parameters())
        self._network = Reading(lambda: one_hot_mixing(self.genotype(), self.space))

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """The network itself, in every step."""
        return self._network(self._constants)

    def loss(self, problem: Problem, step: Step) -> None:
        """None: there is nothing to learn."""
        return None

    def genotype(self, rule: str | None = None) -> Genotype:
        """The cells drawn, or cut by another rule in the random order of their edges."""
        scores = {kind: self.alpha[kind].detach() for kind in KINDS}
        return derive(
            self.settings.edges if rule is None else rule, scores, self.space, {kind: self.beta[kind] for kind in KINDS}
        )
