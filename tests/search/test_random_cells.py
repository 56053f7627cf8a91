"""Random cells: seeded, uniform, of any edge configuration."""

from collections import Counter

import pytest
import torch

from nas_zoo.genotype import KINDS
from nas_zoo.search.discretize import CONFIGURATIONS, choices, one_hot_mixing, read_configuration
from nas_zoo.search.method import Step
from nas_zoo.search.methods.random_cells import RandomCells, RandomSettings
from nas_zoo.search.supernet import SearchSpace

SPACE = SearchSpace()


def drawn(seed: int, edges: str = "8/14"):
    return RandomCells(RandomSettings(seed=seed, edges=edges)).genotype()


def test_the_seed_decides_and_nothing_else():
    torch.manual_seed(5)
    first = drawn(3)
    torch.manual_seed(6)
    assert drawn(3) == first
    assert len({drawn(seed).digest for seed in range(30)}) == 30
    assert first.normal != first.reduce


@pytest.mark.parametrize("edges", CONFIGURATIONS)
def test_every_configuration_has_its_number_of_edges(edges):
    for seed in range(10):
        genotype = drawn(seed, edges)
        for kind in KINDS:
            assert sum(map(len, genotype.cell(kind).nodes)) == int(edges.split("/")[0])


def test_edges_and_operations_are_drawn_uniformly():
    allowed = choices(read_configuration("3/14", SPACE), SPACE)
    counts: Counter = Counter()
    operations: Counter = Counter()
    for seed in range(1500):
        genotype = drawn(seed, "3/14")
        for kind in KINDS:
            nodes = genotype.cell(kind).nodes
            counts[tuple(tuple(edge.source for edge in node) for node in nodes)] += 1
            operations.update(edge.operation for node in nodes for edge in node)
    assert len(counts) == len(allowed)
    mean = 3000 / len(allowed)
    assert mean - 5 * mean**0.5 < min(counts.values()) <= max(counts.values()) < mean + 5 * mean**0.5
    assert set(operations) == set(SPACE.operations)
    assert 9000 / 7 * 0.85 < min(operations.values()) <= max(operations.values()) < 9000 / 7 * 1.15


def test_the_supernet_trains_the_drawn_network_and_nothing_is_learned():
    method = RandomCells(RandomSettings(edges="4/14"))
    for phase in ("alpha", "weights", "eval"):
        mixing = method.mixing(Step(0, 0, 50, phase))
        assert mixing == one_hot_mixing(method.genotype(), SPACE)
    assert not any(parameter.requires_grad for parameter in method.parameters())


def test_fewer_edges_are_some_of_those_drawn():
    method = RandomCells(RandomSettings(edges="8/14"))
    whole, cut = method.genotype(), method.genotype("4/14")
    for kind in KINDS:
        for node, few in zip(whole.cell(kind).nodes, cut.cell(kind).nodes, strict=True):
            assert set(few) <= set(node)
