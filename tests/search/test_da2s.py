"""DA2S against its equations."""

import itertools
import math
from typing import Literal, cast

import pytest
import torch

from nas_zoo.genotype import KINDS
from nas_zoo.runs.settings import settings_from, to_dict
from nas_zoo.search.discretize import CONFIGURATIONS, read_configuration
from nas_zoo.search.method import Problem, Step, config_path, entropies, mean_entropy
from nas_zoo.search.methods.da2s import (
    Da2s,
    Da2sReleasedSettings,
    Da2sSettings,
    control,
    edge_loss,
    entropy,
    operation_loss,
    strengthened,
)
from nas_zoo.search.problem import Iteration
from nas_zoo.search.supernet import SearchSpace, Supernet
from tests.present import present

SPACE = SearchSpace()
FAR = -1e4  # a logit that has lost


def step(epoch: int = 0, num_epochs: int = 50, phase: Literal["alpha", "weights", "eval"] = "alpha") -> Step:
    return Step(epoch=epoch, index=0, num_epochs=num_epochs, phase=phase)


class NoData:
    """A bilevel problem whose cross-entropy is a constant 1: what is left of the loss is the method's own."""

    def held_out_loss(self, mixing, weights=None):
        return torch.ones(())


NO_DATA = cast(Problem, NoData())


def test_eq1_is_the_mean_cross_entropy_of_the_held_out_images():
    method = Da2s(Da2sSettings())
    mixing = method.mixing(step(0))
    torch.manual_seed(0)
    supernet = Supernet(SPACE, init_channels=8, num_cells=2, partial_channels=4).double()
    images, labels = torch.randn(4, 3, 8, 8, dtype=torch.double), torch.tensor([3, 1, 4, 1])
    optimizer = torch.optim.SGD(supernet.parameters(), 0.1)
    problem = Iteration(supernet, (images, labels), (images, labels.flip(0)), optimizer, torch.enable_grad)
    p = torch.softmax(supernet(images, mixing), dim=1).detach()
    by_hand = -sum(math.log(float(p[m, y])) for m, y in enumerate(labels.tolist())) / 4
    assert problem.held_out_loss(mixing).item() == pytest.approx(by_hand, rel=1e-12)


def test_eq2_entropy_is_log_o_without_preference_and_zero_when_settled_even_for_far_logits():
    assert float(entropy(torch.zeros(7))) == pytest.approx(math.log(7))
    settled = torch.tensor([0.0, FAR, FAR], requires_grad=True)
    value = entropy(settled)
    assert value.item() == 0.0
    assert torch.isfinite(torch.autograd.grad(value, settled)[0]).all()  # p log p of plain softmax would be NaN
    # p = 1/4, 3/4
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert float(entropy(torch.tensor([0.0, math.log(3.0)]))) == pytest.approx(expected)


def test_eq3_sums_over_all_edges_of_a_cell():
    assert float(operation_loss(torch.zeros(14, 7))) == pytest.approx(14 * math.log(7))


def test_eq4_and_eq5_by_hand_for_two_edges_a_node():
    """Node 2 keeps both of its edges: no loss. Nodes 3, 4, 5: entropy + (sum of positive beta - 2)^2."""
    groups = read_configuration("8/14", SPACE)
    assert float(edge_loss(torch.zeros(14), groups, SPACE)) == pytest.approx(
        math.log(3) + math.log(4) + math.log(5) + 3 * 4
    )
    kept = torch.full((14,), FAR)
    for e in (2, 3, 5, 6, 9, 10):
        kept[e] = 1.0
    assert float(edge_loss(kept, groups, SPACE)) == pytest.approx(3 * math.log(2))
    # beta is clamped at 1 from above, and negative ones do not count
    beyond = torch.where(kept > 0, 5.0, kept)
    assert float(edge_loss(beyond, groups, SPACE)) == pytest.approx(3 * math.log(2))
    one = torch.zeros(14)
    one[2:5] = torch.tensor([0.5, -0.5, -0.5])
    p = math.exp(1.0) / (math.exp(1.0) + 2)
    node3 = -p * math.log(p) - (1 - p) * math.log((1 - p) / 2) + (0.5 - 2) ** 2
    assert float(edge_loss(one, groups, SPACE)) == pytest.approx(node3 + math.log(4) + math.log(5) + 2 * 4)
    assert float(edge_loss(one, groups, SPACE, count_weight=0.0)) == pytest.approx(
        node3 - 2.25 + math.log(4) + math.log(5)
    )


def test_eq4_is_zero_where_each_node_has_settled_on_its_one_edge():
    groups = read_configuration("4/14", SPACE)
    beta = torch.full((14,), FAR)
    beta[[0, 2, 5, 9]] = 1.0
    assert float(edge_loss(beta, groups, SPACE)) == 0.0


def test_a_group_of_nodes_has_one_entropy_and_one_sum_over_the_edges_it_can_keep():
    """3/14: nodes 2 and 3 keep one edge between them, and that is never the one from node 2 to node 3."""
    groups = read_configuration("3/14", SPACE)
    expected = math.log(4) + 1 + math.log(4) + 1 + math.log(5) + 1
    assert float(edge_loss(torch.zeros(14), groups, SPACE)) == pytest.approx(expected)
    beta = torch.zeros(14)
    beta[4] = 0.9  # 3 <- 2
    assert float(edge_loss(beta, groups, SPACE)) == pytest.approx(expected)


def test_the_second_term_lifts_one_beta_and_the_clamp_stops_it_at_one():
    groups = read_configuration("4/14", SPACE)
    beta = torch.full((14,), 0.2, requires_grad=True)
    (gradient,) = torch.autograd.grad(edge_loss(beta, groups, SPACE), beta)
    assert (gradient[:2] < 0).all()  # node 2: 0.4 of 1, so up
    beta = torch.full((14,), 1.5, requires_grad=True)
    (gradient,) = torch.autograd.grad(edge_loss(beta, groups, SPACE), beta)
    assert (gradient == 0).all()


@pytest.mark.parametrize(
    ("name", "first", "middle", "last"),
    [
        ("const", 1.0, 1.0, 1.0),
        ("linear", 0.0, 24 / 49, 1.0),
        ("log", 0.0, math.log(25) / math.log(50), 1.0),
        ("exp", 2 ** (-49 / 5), 2**-5, 1.0),
        ("step", 0.0, 2 / 3, 1.0),
    ],
)
def test_control_functions_at_the_first_the_middle_and_the_last_epoch(name, first, middle, last):
    at = [control(name, t, 50, 8) for t in (1, 25, 50)]
    assert at == pytest.approx([first, middle, last])
    delayed = [control(f"{name}_delayed", t, 50, 8) for t in range(1, 51)]
    assert delayed[:8] == [0.0] * 8
    assert delayed[8] == control(name, 1, 42, 0)
    assert delayed[-1] == pytest.approx(1.0)
    assert all(a <= b for a, b in itertools.pairwise(delayed))


def test_step_rises_in_epochs_13_25_and_38_of_50_as_in_the_authors_code():
    values = [control("step", t, 50, 8) for t in range(1, 51)]
    assert values == pytest.approx([0.0] * 12 + [1 / 3] * 12 + [2 / 3] * 13 + [1.0] * 13)
    delayed = [control("step_delayed", t, 58, 8) for t in range(1, 59)]
    assert delayed == pytest.approx([0.0] * 8 + values)


def test_a_delayed_function_begins_in_the_epoch_after_its_delay_with_its_value_at_one():
    settings = Da2sSettings(lambda_2="const_delayed", lambda_c="const")
    assert settings.delay == 8
    method = Da2s(settings)
    assert [method.factors(t - 1)[1] for t in (1, 8, 9, 50)] == [0.0, 0.0, 4.0, 4.0]
    literal = Da2s(Da2sSettings(lambda_2="const_delayed", lambda_c="const", delay_epochs=7))
    assert [literal.factors(t - 1)[1] for t in (7, 8)] == [0.0, 4.0]


def test_the_paper_s_learning_rate_and_the_authors_stand_side_by_side():
    paper, code = (settings_from(Da2sSettings, {}, config_path(name)) for name in ("da2s_c10", "da2s_lr0025_c10"))
    assert (paper.lr, paper.batch_size, paper.partial_channels) == (0.25, 256, 4)
    assert (code.lr, code.batch_size, code.partial_channels) == (0.025, 64, 1)
    ours, theirs = to_dict(paper), to_dict(code)
    assert {name for name in ours if ours[name] != theirs[name]} == {"lr", "batch_size", "partial_channels"}


@pytest.mark.parametrize("name", ["const", "linear", "log", "exp", "step"])
@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_searches_have_finite_factors_that_end_at_one(name, total):
    for delay in range(total):
        values = [control(f"{name}_delayed", t, total, delay) for t in range(1, total + 1)]
        assert values[-1] == pytest.approx(1.0)
        assert all(0 <= value <= 1 for value in values)


def test_eq7_puts_lambda_c_before_both_and_four_before_the_edges():
    method = Da2s(Da2sSettings(alpha_decay=0.0))  # linear, log after 8 epochs, const
    groups = read_configuration("8/14", SPACE)
    own = {
        kind: (operation_loss(method.alpha[kind]).item(), edge_loss(method.beta[kind], groups, SPACE).item())
        for kind in KINDS
    }
    for epoch, c, one in ((0, 0.0, 0.0), (7, 7 / 49, 0.0), (9, 9 / 49, math.log(2) / math.log(42)), (49, 1.0, 1.0)):
        expected = 1 + sum(c * (one * o + 4 * e) for o, e in own.values())
        assert method.loss(NO_DATA, step(epoch)).item() == pytest.approx(expected, rel=1e-6)


def test_decay_has_the_gradient_of_adams_l2():
    method = Da2s(Da2sSettings())
    parameters = list(method.parameters())
    gradients = torch.autograd.grad(method.loss(NO_DATA, step(0)), parameters)  # lambda_c is 0 in the first epoch
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(gradient, 1e-3 * parameter.detach())


def test_beta_starts_where_the_second_term_is_zero_or_at_zero():
    groups = read_configuration("5/14", SPACE)
    method = Da2s(Da2sSettings(edges="5/14", start_noise=0.0))
    for kind in KINDS:
        torch.testing.assert_close(
            method.beta[kind].detach(), torch.tensor([1 / 2] * 2 + [1 / 3] * 3 + [1 / 4] * 4 + [2 / 5] * 5)
        )
        entropies = sum(math.log(n) for n in (2, 3, 4, 5))
        assert edge_loss(method.beta[kind], groups, SPACE).item() == pytest.approx(entropies)
    assert (Da2s(Da2sSettings(start_noise=0.0, beta_start="zero")).beta["normal"] == 0).all()


def test_edge_weights_sum_to_one_over_a_node_and_clamp_beta_at_one():
    method = Da2s(Da2sSettings())
    with torch.no_grad():
        method.beta["normal"][2:5] = torch.tensor([1.0, 3.0, 1.0 - math.log(2.0)])
    b = method.edge_weights("normal")
    torch.testing.assert_close(b[2:5], torch.tensor([2 / 5, 2 / 5, 1 / 5]))
    for start, end in ((0, 2), (2, 5), (5, 9), (9, 14)):
        assert b[start:end].sum().item() == pytest.approx(1.0)


def test_mixing_is_softmax_alpha_times_edge_weight_on_every_edge_of_every_phase():
    method = Da2s(Da2sSettings())
    for phase in ("alpha", "weights", "eval"):
        mixing = method.mixing(step(phase=phase))
        for kind in KINDS:
            b = method.edge_weights(kind)
            for e, mix in enumerate(mixing[kind]):
                assert mix.ops == tuple(range(7))
                torch.testing.assert_close(mix.weights, b[e] * torch.softmax(method.alpha[kind][e], 0))
                assert mix.edge == b[e]


def test_the_released_preset_scales_edges_and_strengthens_alpha():
    torch.testing.assert_close(
        strengthened(torch.tensor([-2.0, -0.75, -0.5, 0.25, 3.0])), torch.tensor([-64.0, -3.375, -1.0, 0.5, 6.0])
    )
    method = Da2s(Da2sReleasedSettings())
    b = method.edge_weights("reduce")
    assert b[:2].tolist() == [1.0, 1.0]  # node 2 keeps both
    for start, end in ((2, 5), (5, 9), (9, 14)):
        assert b[start:end].sum().item() == pytest.approx(end - start)
    s = method.settings
    assert (s.partial_channels, s.batch_size, s.lr, s.lr_min, s.delay, s.frozen) == (1, 64, 0.025, 0.001, 7, 7)
    # epoch 8: log(1) = 0 and linear 7/49; the code: 0.1 * 7/49 * (0 + 4 * ...)
    assert method.factors(7) == pytest.approx((0.0, 0.1 * 7 / 49 * 4))
    assert method.factors(49) == pytest.approx((0.1, 0.4))


def test_the_entropy_that_is_logged_is_of_the_softmax_that_the_preset_uses():
    """Log and report said two figures of one run."""
    logits: dict[str, torch.Tensor] = {kind: torch.tensor([[0.25, -0.75], [3.0, 0.5]]) for kind in KINDS}
    used = torch.tensor([[0.5, -3.375], [6.0, 1.0]])
    for settings, seen in ((Da2sReleasedSettings(), used), (Da2sSettings(), logits["normal"])):
        assert entropies(Da2s(settings), logits)["reduce"] == pytest.approx(mean_entropy(seen))


def test_alpha_rests_in_the_first_epochs_of_the_released_preset_and_beta_does_not():
    method = Da2s(Da2sReleasedSettings())
    weights = [present(mix.weights) for mix in method.mixing(step(6))["normal"]]
    loss = torch.cat(weights).square().sum() + method.loss(NO_DATA, step(6))
    gradients = dict(
        zip(
            [name for name, _ in method.named_parameters()],
            torch.autograd.grad(loss, list(method.parameters()), allow_unused=True),
            strict=True,
        )
    )
    assert gradients["alpha.normal"] is None
    assert gradients["alpha.reduce"] is None
    assert gradients["beta.normal"].abs().sum() > 0
    weights = [mix.weights for mix in method.mixing(step(7))["normal"]]
    assert torch.autograd.grad(torch.cat(weights).square().sum(), method.alpha["normal"])[0].abs().sum() > 0


def test_derivation_keeps_the_largest_betas_and_the_largest_alpha_on_each():
    method = Da2s(Da2sSettings(edges="6/14"))
    with torch.no_grad():
        for kind, shift in (("normal", 0), ("reduce", 1)):
            method.alpha[kind].zero_()
            method.beta[kind].zero_()
            for e, (_, source) in enumerate(SPACE.edges):
                method.alpha[kind][e, (e + shift) % 7] = 0.1
                method.beta[kind][e] = float(source) if kind == "normal" else -float(source)
    genotype = method.genotype()
    name = SPACE.operations
    assert genotype.normal.nodes == (
        ((name[1], 1),),
        ((name[4], 2),),
        ((name[0], 2), (name[1], 3)),
        ((name[5], 3), (name[6], 4)),
    )
    assert genotype.reduce.nodes == (
        ((name[1], 0),),
        ((name[3], 0),),
        ((name[6], 0), (name[0], 1)),
        ((name[3], 0), (name[4], 1)),
    )


@pytest.mark.parametrize("edges", [*CONFIGURATIONS, "2+3+4+5:9", "2:1,3+4:3,5:5", "5:3,4:1,2+3:2"])
def test_derived_cells_have_exactly_the_edges_of_the_configuration(edges):
    total = sum(group.keep for group in read_configuration(edges, SPACE))
    for seed in range(20):
        method = Da2s(Da2sSettings(edges=edges, seed=seed, start_noise=1.0))
        for kind in KINDS:
            cell = method.genotype().cell(kind)
            assert sum(map(len, cell.nodes)) == total
            filled = {number for number, node in enumerate(cell.nodes, start=2) if node}
            assert set(cell.concat) == filled
            assert all(edge.source < 2 or edge.source in filled for node in cell.nodes for edge in node)


def test_under_3_of_14_one_of_nodes_2_and_3_is_without_input_and_feeds_nothing():
    method = Da2s(Da2sSettings(edges="3/14"))
    with torch.no_grad():
        method.beta["normal"].zero_()
        method.beta["normal"][4] = 9.0  # from node 2 to node 3: cannot be kept alone
        method.beta["normal"][3] = 1.0  # from 1 to 3
        method.beta["normal"][7] = 5.0  # from 2 to 4, but node 2 has no input
        method.beta["normal"][8] = 2.0  # from 3 to 4
    cell = method.genotype().normal
    assert [[edge.source for edge in node] for node in cell.nodes][:3] == [[], [1], [3]]
    assert cell.concat == (3, 4, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"edges": "9/14"}, r"edges must be one of 8/14.* got '9/14'"),
        ({"edges": "2:1,3:1,4:1"}, r"edges must name each of the nodes \[2, 3, 4, 5\] once, got"),
        ({"edges": "2:1,3:1,4:1,5:1,2:1"}, r"which names \[2, 2, 3, 4, 5\]"),
        ({"edges": "2:3,3:1,4:1,5:1"}, "edges must keep no more edges than there are"),
        ({"edges": "2+3:1,4:4,5:1"}, "edges must keep no more edges than there are"),  # one of nodes 2, 3 is empty
        ({"edges": "2:0,3:1,4:1,5:1"}, "edges must keep at least 1 edge in each group"),
        ({"edges": "two"}, "in which 'two' is neither"),
        ({"lambda_1": "quadratic"}, "lambda_1 must be one of const, linear.* got 'quadratic'"),
        ({"delay_epochs": 50}, r"delay_epochs must be from 0 to below epochs \(50\), got 50"),
        ({"partial_channels": 3}, r"partial_channels must be a divisor of init_channels \(16\), got 3"),
        ({"count_weight": -1.0}, "count_weight must be a finite number of at least 0, got -1.0"),
    ],
)
def test_wrong_settings_are_errors_before_anything_runs(settings, message):
    with pytest.raises(ValueError, match=message):
        Da2sSettings(**settings)


def test_settings_are_those_of_section_4_1():
    s = Da2sSettings()
    assert (s.num_cells, s.init_channels, s.epochs, s.partial_channels, s.delay) == (8, 16, 50, 4, 8)
    assert (s.lr, s.lr_min, s.momentum, s.weight_decay) == (0.25, 0.0, 0.9, 3e-4)
    assert (s.alpha_lr, s.alpha_betas, s.alpha_decay) == (3e-4, (0.5, 0.999), 1e-3)
    assert (s.lambda_c, s.lambda_1, s.lambda_2) == ("linear", "log_delayed", "const")
    assert Da2s(s).space.operations == SPACE.operations
    assert "none" not in SPACE.operations
    assert Da2sSettings(epochs=25).delay == 4


@pytest.mark.slow
def test_the_losses_alone_push_the_supernet_to_its_configuration():
    """Adam on Eq. 7 without data: b and a become 0 or the shares that are kept, in every configuration."""
    for edges in ("8/14", "4/14"):
        method = Da2s(Da2sSettings(edges=edges, start_noise=0.05))
        optimizer = torch.optim.Adam(method.parameters(), 0.05, betas=(0.5, 0.999))
        for _ in range(300):
            optimizer.zero_grad()
            method.loss(NO_DATA, step(49)).backward()
            optimizer.step()
        groups = {node: group.keep for group in method.groups for node in group.nodes}
        for kind in KINDS:
            assert (torch.softmax(method.alpha[kind], 1).max(1).values > 0.98).all()
            b = method.edge_weights(kind).detach()
            start = 2
            for node in (3, 4, 5):
                top = b[start : start + node].sort(descending=True).values
                assert float(top[: groups[node]].sum()) > 0.9, (edges, node, top)
                assert float(top[groups[node] - 1]) > 0.3, (edges, node, top)
                start += node


def test_an_edge_that_no_choice_can_keep_loses_its_weight_too():
    """3/14 leaves node 2 or 3 without input, so the edge between them goes in any case."""
    method = Da2s(Da2sReleasedSettings(edges="3/14"))
    hopeless = method.space.edges.index((3, 2))
    assert method.has_choice[hopeless]
    with torch.no_grad():
        method.beta["normal"][hopeless] = -9.0
    assert method.edge_weights("normal")[hopeless] < 1e-3
    assert not Da2s(Da2sReleasedSettings(edges="8/14")).has_choice[0]  # node 2 keeps both
