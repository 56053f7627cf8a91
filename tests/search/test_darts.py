"""DARTS against its equations: the first order by hand, the second against autograd's exact derivative."""

from typing import cast

import pytest
import torch
import torch.nn.functional as F

from nas_zoo.genotype import KINDS
from nas_zoo.search.discretize import Batch
from nas_zoo.search.method import Step
from nas_zoo.search.methods.darts import Darts, DartsSettings, relax_all
from nas_zoo.search.problem import Iteration
from nas_zoo.search.supernet import EdgeMixing, SearchSpace, Supernet
from tests.present import present

STEP = Step(epoch=0, index=0, num_epochs=50, phase="alpha")


def problem_of(
    net: torch.nn.Module, optimizer: torch.optim.Optimizer, held_out: Batch, for_weights: Batch
) -> Iteration:
    return Iteration(cast(Supernet, net), held_out, for_weights, optimizer, torch.enable_grad)


class SmoothNet(torch.nn.Module):
    """A network whose loss is smooth in weights and mixing: alpha of edge e and operation o scales a hidden unit."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 5)
        self.second = torch.nn.Linear(5, 4)

    def forward(self, x, mixing):
        scale = sum(
            (k + 1) * torch.stack([mix.weights[o] for o in range(1, 6)])
            for kind in KINDS
            for k, mix in enumerate(mixing[kind])
        )
        return self.second(torch.tanh(self.first(x)) * scale)


def smooth_problem(momentum_steps: int):
    torch.manual_seed(0)
    net = SmoothNet().double()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.01)
    method = Darts(DartsSettings(order=2, alpha_decay=0.0, radius=1e-5)).double()
    with torch.no_grad():
        for alpha in method.parameters():
            alpha.normal_()
    batches = [(torch.randn(6, 3, dtype=torch.double), torch.randint(4, (6,))) for _ in range(2)]
    for _ in range(momentum_steps):  # so that the optimizer has momentum
        optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(6, 3, dtype=torch.double), method.mixing(STEP)), batches[0][1]).backward()
        optimizer.step()
    optimizer.zero_grad()
    method.zero_grad()
    return method, net, optimizer, batches


def exact_second_order(method: Darts, net, optimizer, held_out, for_weights) -> list[torch.Tensor]:
    """d L_val(w - lr (m buf + dL_train(w, alpha)/dw + decay w), alpha) / d alpha, differentiated through the step."""
    group = optimizer.param_groups[0]
    weights = dict(net.named_parameters())
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}

    def loss(batch, new):
        logits = torch.func.functional_call(net, {**buffers, **new}, (batch[0], method.mixing(STEP)))
        return F.cross_entropy(logits, batch[1])

    gradients = torch.autograd.grad(loss(for_weights, weights), list(weights.values()), create_graph=True)
    ahead = {}
    for (name, w), gradient in zip(weights.items(), gradients, strict=True):
        step = gradient + group["weight_decay"] * w
        buffer = optimizer.state.get(w, {}).get("momentum_buffer")
        ahead[name] = w - group["lr"] * (step if buffer is None else step + group["momentum"] * buffer)
    return list(torch.autograd.grad(loss(held_out, ahead), list(method.parameters())))


def test_eq6_first_order_is_the_gradient_at_the_weights_as_they_are():
    method, net, optimizer, batches = smooth_problem(0)
    first = Darts(DartsSettings(order=1, alpha_decay=0.0)).double()
    first.load_state_dict(method.state_dict())
    first.loss(problem_of(net, optimizer, *batches), STEP).backward()
    images, labels = batches[0]
    expected = torch.autograd.grad(F.cross_entropy(net(images, method.mixing(STEP)), labels), list(method.parameters()))
    assert [present(alpha.grad).tolist() for alpha in first.parameters()] == [value.tolist() for value in expected]
    assert all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize("momentum_steps", [0, 3])
def test_eq7_second_order_is_autograds_exact_derivative_through_the_weight_step(momentum_steps):
    method, net, optimizer, (held_out, for_weights) = smooth_problem(momentum_steps)
    exact = exact_second_order(method, net, optimizer, held_out, for_weights)
    loss = method.loss(problem_of(net, optimizer, held_out, for_weights), STEP)
    ours = torch.autograd.grad(loss, list(method.parameters()))
    first_order = Darts(DartsSettings(alpha_decay=0.0)).double()
    first_order.load_state_dict(method.state_dict())
    plain = torch.autograd.grad(
        first_order.loss(problem_of(net, optimizer, held_out, for_weights), STEP), list(first_order.parameters())
    )
    for mine, theirs, first in zip(ours, exact, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-9)
        assert (first - theirs).abs().max() > 1e-3  # the term that is tested is there


def test_eq8_the_error_of_the_finite_difference_falls_with_the_square_of_its_step():
    method, net, optimizer, (held_out, for_weights) = smooth_problem(0)
    exact = torch.cat([g.flatten() for g in exact_second_order(method, net, optimizer, held_out, for_weights)])
    errors = []
    for radius in (0.02, 0.002):
        other = Darts(DartsSettings(order=2, alpha_decay=0.0, radius=radius)).double()
        other.load_state_dict(method.state_dict())
        loss = other.loss(problem_of(net, optimizer, held_out, for_weights), STEP)
        ours = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(other.parameters()))])
        errors.append(float((ours - exact).norm()))
    assert 80 < errors[0] / errors[1] < 125


@pytest.mark.slow
def test_second_order_on_a_supernet_is_autograds_derivative_and_changes_nothing():
    """With ReLUs and BatchNorm, in float64; a smaller step than the default keeps clear of the kinks."""
    torch.manual_seed(0)
    method = Darts(DartsSettings(order=2, alpha_decay=0.0, radius=1e-6)).double()
    net = Supernet(method.space, init_channels=2, num_cells=3, num_classes=3).double()
    optimizer = torch.optim.SGD(net.parameters(), 0.05, momentum=0.9, weight_decay=3e-4)
    batches = [(torch.randn(2, 3, 8, 8, dtype=torch.double), torch.randint(3, (2,))) for _ in range(2)]
    exact = exact_second_order(method, net, optimizer, *batches)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    loss = method.loss(problem_of(net, optimizer, *batches), STEP)
    ours = torch.autograd.grad(loss, list(method.parameters()))
    for mine, theirs in zip(ours, exact, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-8)
    running = [name for name in before if "running" in name or "tracked" in name]
    for name, value in net.state_dict().items():
        if name not in running:
            assert torch.equal(value, before[name]), name
    assert all(p.grad is None for p in net.parameters())


def test_the_look_ahead_is_the_step_the_optimizer_takes():
    method, net, optimizer, (held_out, for_weights) = smooth_problem(2)
    problem = problem_of(net, optimizer, held_out, for_weights)
    loss = problem.training_loss(method.mixing(STEP))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    ahead = problem.stepped(dict(zip(problem.weights, gradients, strict=True)))
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(ahead[name], parameter, rtol=0, atol=1e-15)
        assert ahead[name].is_leaf
        assert ahead[name].requires_grad


def test_passes_under_other_weights_leave_running_statistics_alone():
    method = Darts(DartsSettings())
    net = Supernet(method.space, init_channels=2, num_cells=1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    batch = (torch.randn(4, 3, 8, 8), torch.randint(10, (4,)))
    problem = problem_of(net, optimizer, batch, batch)
    before = {name: value.clone() for name, value in net.named_buffers()}
    with torch.no_grad():
        problem.held_out_loss(method.mixing(STEP), problem.stepped({}))
        assert all(torch.equal(value, before[name]) for name, value in net.named_buffers())
        problem.held_out_loss(method.mixing(STEP))
        assert not torch.equal(net.get_buffer("stem.0.bn.running_mean"), before["stem.0.bn.running_mean"])


def test_eq2_relaxes_every_edge_over_all_operations():
    mixing = relax_all(torch.zeros(14, 8))
    assert [mix.ops for mix in mixing] == [tuple(range(8))] * 14
    torch.testing.assert_close(torch.stack([present(mix.weights) for mix in mixing]), torch.full((14, 8), 1 / 8))
    assert mixing[0].edge is None
    assert isinstance(mixing[0], EdgeMixing)


def test_derivation_never_chooses_none_and_keeps_the_edges_that_were_set():
    method = Darts(DartsSettings(edges="4/14"))
    with torch.no_grad():
        for kind in KINDS:
            method.alpha[kind][:, 0] = 5.0
    genotype = method.genotype()
    assert [len(node) for node in genotype.normal.nodes] == [1, 1, 1, 1]
    assert "none" not in genotype.operations
    assert [len(node) for node in method.genotype("darts").reduce.nodes] == [2, 2, 2, 2]


def test_settings_are_those_of_the_paper():
    s = DartsSettings()
    assert (s.num_cells, s.init_channels, s.epochs, s.batch_size, s.order) == (8, 16, 50, 64, 1)
    assert (s.lr, s.lr_min, s.momentum, s.weight_decay, s.grad_clip) == (0.025, 0.001, 0.9, 3e-4, 5.0)
    assert (s.alpha_lr, s.alpha_betas, s.alpha_decay, s.radius) == (3e-4, (0.5, 0.999), 1e-3, 0.01)
    assert Darts(s).space == SearchSpace(operations=("none", *SearchSpace().operations))
    with pytest.raises(ValueError, match="radius must be a finite number greater than 0, got 0"):
        DartsSettings(radius=0)
