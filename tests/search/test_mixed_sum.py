"""The sum of normalised operations at once against the same layer by layer."""

import copy

import pytest
import torch
from torch import nn

from nas_zoo.genotype import KINDS, OPERATIONS
from nas_zoo.models.operations import SEARCH_OPERATIONS, build_op
from nas_zoo.search.mixed_sum import mixed_sum, split
from nas_zoo.search.supernet import EdgeMixing, SearchCell, SearchSpace, Supernet
from tests.plain_darts import PlainSupernet
from tests.present import present

WITH_NONE = SearchSpace(operations=("none", *SEARCH_OPERATIONS))


@pytest.mark.parametrize(
    ("name", "stride"), [(n, s) for n in OPERATIONS for s in (1, 2) if (n, s) != ("skip_connect", 1)]
)
def test_an_operation_is_its_start_its_pointwise_convolution_and_its_norm(name, stride):
    torch.manual_seed(0)
    op = build_op(name, 4, stride, affine=False, pool_bn=True)
    x = torch.randn(3, 4, 6, 7)
    expected, names = op(x), list(op.state_dict())
    start, weight, norm = split(op)
    u = start(x)
    assert torch.equal(norm(u if weight is None else nn.functional.conv2d(u, weight)), expected)
    parts = {*start.parameters(), *(() if weight is None else (weight,))}
    assert parts == set(op.parameters())  # its own, no copies
    assert list(op.state_dict()) == names  # and the operation itself is as it was


def layer_by_layer(terms, weights, mix, norms):
    total = 0
    for u, weight, factor, norm in zip(terms, weights, mix, norms, strict=True):
        z = u if weight is None else nn.functional.conv2d(u, weight)
        total = total + factor * norm(z)
    return total


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-10), (torch.float, 1e-5)], ids=str)
def test_sum_gradients_and_running_statistics_are_those_of_the_layers(dtype, tolerance, momentum):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.double).to(dtype)

    terms = [(2 * random(6, 5, 8, 7) + k).to(memory_format=torch.channels_last).requires_grad_() for k in range(4)]
    weights = [random(5, 5, 1, 1).requires_grad_(), None, random(5, 5, 1, 1).requires_grad_(), None]
    mix = torch.tensor([0.1, 0.7, 0.0, 1.0], dtype=dtype, requires_grad=True)
    norms: list[nn.Module] = [nn.BatchNorm2d(5, affine=False, momentum=momentum).to(dtype) for _ in terms]
    direction = random(6, 5, 8, 7)
    inputs = [*terms, weights[0], weights[2], mix]
    results = []
    for form in (mixed_sum, layer_by_layer):
        theirs = copy.deepcopy(norms)
        total = form(terms, weights, mix, theirs)
        total = form(terms, weights, mix, theirs)  # twice: momentum is at work
        results.append(
            [total, *torch.autograd.grad((total * direction).sum(), inputs), *[b for n in theirs for b in n.buffers()]]
        )
    for ours, expected in zip(*results, strict=True):
        scale = max(1.0, float(expected.detach().abs().max()))
        torch.testing.assert_close(ours, expected, rtol=0, atol=tolerance * scale)


def test_a_channel_without_variance_stays_finite():
    terms = [torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last).requires_grad_()]
    total = mixed_sum(terms, [None], torch.ones(1), [nn.BatchNorm2d(3, affine=False)])
    total.sum().backward()
    assert torch.isfinite(total).all()
    assert torch.isfinite(present(terms[0].grad)).all()


@pytest.mark.slow
@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-9), (torch.float, 1e-5)], ids=str)
def test_a_training_step_in_channels_last_is_that_of_the_plain_supernet(dtype, tolerance, partial, monkeypatch):
    """Logits, gradients of the mixing and of all weights, and running statistics, against tests/plain_darts.py.

    In float32 the logits alone: two pixels that are all but equal are max-pooled one way or the other, and from there
    on gradients differ by more than rounding.
    """
    calls = []
    at_once = SearchCell._sum_at_once

    def counted(*args):
        calls.append(1)
        return at_once(*args)

    monkeypatch.setattr(SearchCell, "_sum_at_once", counted)
    torch.manual_seed(0)
    supernet = Supernet(WITH_NONE, init_channels=8, num_cells=4, partial_channels=partial).to(dtype)
    plain = PlainSupernet(supernet).to(dtype)
    supernet = supernet.to(memory_format=torch.channels_last)
    x = torch.randn(4, 3, 16, 16, dtype=torch.double).to(dtype)
    alpha = {kind: torch.rand(14, 8, dtype=torch.double).to(dtype).requires_grad_() for kind in KINDS}
    beta = {kind: torch.rand(14, dtype=torch.double).to(dtype).requires_grad_() for kind in KINDS}
    everything = tuple(range(8))

    def mixing():
        return {
            kind: tuple(
                EdgeMixing(everything, row * b if partial > 1 else row, b if partial > 1 else None)
                for row, b in zip(alpha[kind], beta[kind], strict=True)
            )
            for kind in KINDS
        }

    ours, theirs = supernet(x.to(memory_format=torch.channels_last), mixing()), plain(x, mixing())
    assert len(calls) == 4 * 4
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.detach().abs().max()))
    if dtype == torch.double:
        architecture = [*alpha.values(), *(beta.values() if partial > 1 else ())]
        results = []
        for network, logits in ((supernet, ours), (plain, theirs)):
            loss = logits.square().sum()
            results.append(torch.autograd.grad(loss, [*architecture, *network.parameters()]))
        for got, expected in zip(*results, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-9 * max(1.0, float(expected.abs().max())))
        for got, expected in zip(supernet.buffers(), plain.buffers(), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)
