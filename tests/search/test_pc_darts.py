"""PC-DARTS against its equations, and partial channels against their plain form."""

import math
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F

from nas_zoo.genotype import KINDS, load_genotype
from nas_zoo.search.discretize import derived_network, one_hot_mixing
from nas_zoo.search.method import Problem, Step
from nas_zoo.search.methods.pc_darts import PcDarts, PcDartsSettings, edge_softmax, part_of_epochs, relax_weighted
from nas_zoo.search.supernet import EdgeMixing, SearchSpace, Supernet, shuffle_channels
from tests.present import present

SPACE = SearchSpace(operations=("none", *SearchSpace().operations))
STEP = Step(epoch=20, index=0, num_epochs=50, phase="alpha")


def test_edge_normalization_is_a_softmax_over_the_inputs_of_each_node():
    b = edge_softmax(torch.zeros(14), SPACE)
    torch.testing.assert_close(b, torch.tensor([1 / 2] * 2 + [1 / 3] * 3 + [1 / 4] * 4 + [1 / 5] * 5))
    beta = torch.zeros(14)
    beta[2] = math.log(6.0)  # node 3: 6, 1, 1
    torch.testing.assert_close(edge_softmax(beta, SPACE)[:5], torch.tensor([1 / 2, 1 / 2, 6 / 8, 1 / 8, 1 / 8]))


def test_operations_are_weighed_by_both_softmaxes():
    alpha, b = torch.zeros(14, 8), torch.linspace(0.1, 1.4, 14)
    for e, mix in enumerate(relax_weighted(alpha, b)):
        torch.testing.assert_close(mix.weights, torch.full((8,), float(b[e]) / 8))
        assert mix.edge == b[e]


def test_channels_are_shuffled_as_in_shufflenet():
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert shuffle_channels(x, 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert shuffle_channels(x, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def plain_partial_cell(cell, s0, s1, alpha, beta):
    """PC-DARTS edge by edge: split, mix, pool the rest, concatenate, shuffle, weigh, add."""
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    edge = 0
    for _ in range(4):
        total: Any = 0
        for source, state in enumerate(states):
            part, rest = state.tensor_split([cell.op_channels], dim=1)
            mixed: Any = 0
            for op, name in enumerate(cell.space.operations):
                if name == "none":
                    continue
                x = F.relu(part) if cell.wants_relu[edge][op] else part
                mixed = mixed + alpha[edge, op] * cell.operation(edge, op)(x)
            if cell.stride == 2 and source < 2:
                rest = F.max_pool2d(rest, 2)
            total = total + beta[edge] * shuffle_channels(torch.cat([mixed, rest], 1), cell.partial_channels)
            edge += 1
        states.append(total)
    out = torch.cat(states[2:], 1)
    return F.relu(out) if cell.activate else out


@pytest.mark.parametrize("k", [2, 4])
def test_partial_channels_are_the_plain_edge_by_edge_form_in_both_kinds_of_cell(k):
    torch.manual_seed(0)
    supernet = Supernet(SPACE, init_channels=8, num_cells=3, partial_channels=k).double()
    x = torch.randn(3, 3, 8, 8, dtype=torch.double)
    alpha: dict[str, torch.Tensor] = {kind: torch.rand(14, 8, dtype=torch.double, requires_grad=True) for kind in KINDS}
    beta: dict[str, torch.Tensor] = {kind: torch.rand(14, dtype=torch.double, requires_grad=True) for kind in KINDS}
    mixing = {
        kind: tuple(EdgeMixing(tuple(range(8)), beta[kind][e] * alpha[kind][e], beta[kind][e]) for e in range(14))
        for kind in KINDS
    }
    s0 = s1 = supernet.stem[0](x)
    for spec, cell in zip(supernet.plan.cells, supernet.cells, strict=True):
        s0, s1 = s1, plain_partial_cell(cell, s0, s1, alpha[spec.kind], beta[spec.kind])
    expected = supernet.classifier(s1.mean((2, 3)))
    logits = supernet(x, mixing)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    inputs = [*alpha.values(), *beta.values()]
    for ours, theirs in zip(
        torch.autograd.grad(logits.square().sum(), inputs),
        torch.autograd.grad(expected.square().sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


def test_one_part_is_the_supernet_of_all_channels_bit_for_bit():
    logits = []
    given: tuple[dict[str, Any], ...] = ({}, {"partial_channels": 1})
    for kwargs in given:
        torch.manual_seed(0)
        supernet = Supernet(SPACE, init_channels=4, num_cells=3, **kwargs)
        everything = (EdgeMixing(tuple(range(8)), torch.linspace(0, 1, 8)),) * 14
        logits.append(supernet(torch.randn(2, 3, 8, 8), dict.fromkeys(KINDS, everything)))
    assert torch.equal(*logits)


def test_operations_of_a_partial_supernet_have_a_k_th_of_the_channels():
    whole, part = (Supernet(SPACE, init_channels=8, num_cells=3, partial_channels=k) for k in (1, 4))
    assert whole.get_parameter("cells.0.edges.0.4.pw1.weight").shape[:2] == (8, 8)
    assert part.get_parameter("cells.0.edges.0.4.pw1.weight").shape[:2] == (2, 2)


def test_with_partial_channels_none_lets_the_other_channels_pass_and_a_dropped_edge_nothing():
    supernet = Supernet(SearchSpace(("none", "skip_connect"), num_nodes=1), 4, 1, partial_channels=2)
    supernet.plan.cells[0].kind  # noqa: B018
    features = []
    supernet.classifier.register_forward_hook(lambda module, args, out: features.append(args[0]))
    x = torch.randn(2, 3, 8, 8)
    drop = EdgeMixing(())
    none, skip = EdgeMixing((0,)), EdgeMixing((1,))
    with torch.no_grad():
        for pair in ((none, drop), (skip, drop), (drop, drop)):
            supernet(x, dict.fromkeys(KINDS, pair))
    shuffled = shuffle_channels(torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1]).view(1, 8, 1, 1), 2).flatten().bool()
    assert (features[0][:, ~shuffled] == 0).all()
    torch.testing.assert_close(features[0][:, shuffled], features[1][:, shuffled])
    assert (features[1][:, ~shuffled] != 0).any()
    assert (features[2] == 0).all()


def test_odd_sizes_and_both_layouts_work_with_partial_channels():
    mixing = dict.fromkeys(KINDS, (EdgeMixing(tuple(range(8)), torch.full((8,), 1 / 8)),) * 14)
    assert Supernet(SPACE, 4, 3, partial_channels=4)(torch.randn(2, 3, 9, 9), mixing).shape == (2, 10)
    supernet = Supernet(SPACE, 4, 3, partial_channels=2, layout="imagenet")
    assert supernet(torch.randn(2, 3, 41, 41), mixing).shape == (2, 10)


def test_channels_that_do_not_divide_are_refused_and_there_is_no_derived_network():
    with pytest.raises(ValueError, match=r"partial_channels must be a divisor of init_channels \(4\), got 3"):
        Supernet(SPACE, 4, 3, partial_channels=3)
    supernet = Supernet(SPACE, 4, 3, partial_channels=2)
    genotype = load_genotype("pc_darts_c10")
    assert supernet(torch.randn(2, 3, 8, 8), one_hot_mixing(genotype, SPACE)).shape == (2, 10)
    with pytest.raises(ValueError, match="weights for 1/2 of the channels"):
        derived_network(supernet, genotype)


def test_alpha_and_beta_are_frozen_at_the_start_and_not_after():
    class HeldOutOnly:
        def held_out_loss(self, mixing, weights=None):
            return torch.stack([mix.weights.square().sum() for kind in KINDS for mix in mixing[kind]]).sum()

    problem = cast(Problem, HeldOutOnly())
    method = PcDarts(PcDartsSettings())
    for epoch in (0, 14):
        assert method.loss(problem, Step(epoch, 0, 50, "alpha")) is None
    loss = method.loss(problem, Step(15, 0, 50, "alpha"))
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(present(loss), list(method.parameters())))


def test_derivation_ranks_edges_by_operation_times_edge_weight_without_none():
    method = PcDarts(PcDartsSettings(edges="4/14"))
    with torch.no_grad():
        for kind in KINDS:
            method.alpha[kind].zero_()
            method.beta[kind].zero_()
        method.alpha["normal"][0, 3] = 2.0  # node 2: 0.51 x 0.27 against 0.125 x 0.73
        method.beta["normal"][1] = 1.0
        method.beta["normal"][4] = 0.5  # node 3: the edge weight alone decides
        method.alpha["normal"][3, 0] = 9.0  # 'none' is no candidate and takes the others' share
    cell = method.genotype().normal
    assert [edge.source for node in cell.nodes for edge in node][:2] == [0, 2]
    assert cell.nodes[0][0].operation == SPACE.operations[3]
    with torch.no_grad():
        method.beta["normal"][1] = 2.0  # 0.51 x 0.12 against 0.125 x 0.88
    assert method.genotype().normal.nodes[0][0].source == 1


def test_settings_are_those_of_section_4_2():
    s = PcDartsSettings()
    assert (s.epochs, s.batch_size, s.partial_channels, s.frozen, s.num_cells, s.init_channels) == (
        50,
        256,
        4,
        15,
        8,
        16,
    )
    assert (s.lr, s.lr_min, s.alpha_lr, s.alpha_decay, s.alpha_betas) == (0.1, 0.0, 6e-4, 1e-3, (0.5, 0.999))
    assert PcDarts(s).space == SPACE
    assert PcDartsSettings(epochs=10).frozen == 3
    assert part_of_epochs(2, 15, 50) == 2
    with pytest.raises(ValueError, match=r"freeze_epochs must be from 0 to below epochs \(10\), got 10"):
        PcDartsSettings(epochs=10, freeze_epochs=10)
