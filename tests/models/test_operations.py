"""Operations: shapes by the formula, arithmetic against the plain layer-by-layer form."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_zoo.genotype import OPERATIONS
from nas_zoo.models.operations import SEARCH_OPERATIONS, FactorizedReduce, PointwiseNorm, build_op, reads_relu
from tests.plain_darts import HalveResolution, copy_weights, plain_op, pointwise

CHANNELS = 4
SIZES = [(8, 8), (7, 7), (9, 6), (1, 5), (2, 1)]

# name of the form: settings of build_op. "final" is what a network has, "search" what a supernet has.
FORMS: dict[str, dict[str, Any]] = {
    "final": {"affine": True, "pool_bn": False},
    "search": {"affine": False, "pool_bn": True},
    "final_pool_bn": {"affine": True, "pool_bn": True},
}


def randomize(module: nn.Module) -> None:
    """BatchNorms start as identities: other numbers show where one is missing."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)


def run(module: nn.Module, x: torch.Tensor, relu_first: bool) -> list[torch.Tensor]:
    """Output, gradient of the input, gradients of the parameters, running statistics."""
    x = x.clone().requires_grad_()
    before = x.detach().clone()
    module.zero_grad()
    y = module(F.relu(x) if relu_first else x)
    # A reader of the same state must find it unchanged, so nothing may have been done in place.
    torch.testing.assert_close(x.detach(), before, rtol=0, atol=0)
    torch.manual_seed(3)
    (y * torch.randn_like(y)).sum().backward()
    grads = [parameter.grad for parameter in module.parameters()]
    assert x.grad is not None
    return [y.detach(), x.grad, *[grad for grad in grads if grad is not None], *module.buffers()]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_its_plain_form(name, stride, form, training):
    torch.manual_seed(0)
    ours = build_op(name, CHANNELS, stride, **FORMS[form]).double().train(training)
    plain = plain_op(name, CHANNELS, stride, **FORMS[form]).double().train(training)
    randomize(ours)
    copy_weights(ours, plain)
    for size in SIZES:
        x = torch.randn(3, CHANNELS, *size, dtype=torch.float64)
        results = run(ours, x, reads_relu(name, stride))
        expected = run(plain, x, relu_first=False)
        assert results[0].shape == (3, CHANNELS, *(-(-length // stride) for length in size))
        assert len(results) == len(expected)
        for mine, theirs in zip(results, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_two_forms_differ_in_batch_norm_only(name):
    final, search = build_op(name, CHANNELS, 2), build_op(name, CHANNELS, 2, affine=False, pool_bn=True)
    norms = [[m for m in op.modules() if isinstance(m, nn.BatchNorm2d)] for op in (final, search)]
    assert all(norm.affine for norm in norms[0])
    assert not any(norm.affine for norm in norms[1])
    pool = name.endswith("_pool_3x3")
    assert len(norms[1]) == (1 if pool else len(norms[0]))
    assert (len(norms[0]) == 0) == pool
    convs = [[m.weight.shape for m in op.modules() if isinstance(m, nn.Conv2d)] for op in (final, search)]
    assert convs[0] == convs[1]


def test_pooling_and_identity_read_the_state_and_all_others_its_relu():
    without = {(name, stride) for name in OPERATIONS for stride in (1, 2) if not reads_relu(name, stride)}
    pools = {(name, stride) for name in ("max_pool_3x3", "avg_pool_3x3") for stride in (1, 2)}
    assert without == pools | {("skip_connect", 1)}


def test_skip_connect_of_stride_1_is_an_identity_without_parameters():
    x = torch.randn(2, CHANNELS, 5, 5)
    assert build_op("skip_connect", CHANNELS, 1, affine=False, pool_bn=True)(x) is x


def test_average_pooling_leaves_the_border_out_of_its_mean():
    ones = torch.ones(1, CHANNELS, 5, 5)
    for stride in (1, 2):
        assert build_op("avg_pool_3x3", CHANNELS, stride)(ones).eq(1).all()


def test_candidates_of_a_search_are_seven_known_operations():
    assert len(SEARCH_OPERATIONS) == 7
    assert set(SEARCH_OPERATIONS) < set(OPERATIONS)


def test_factorized_reduce_equals_the_original_slices_on_even_sizes():
    torch.manual_seed(0)
    module = FactorizedReduce(3, 6).double()
    randomize(module)
    x = torch.randn(2, 3, 8, 6, dtype=torch.float64)
    halves = (F.conv2d(x, module.conv1.weight, stride=2), F.conv2d(x[:, :, 1:, 1:], module.conv2.weight, stride=2))
    original = module.bn(torch.cat(halves, dim=1))
    torch.testing.assert_close(module(x), original, rtol=1e-12, atol=1e-12)


def test_factorized_reduce_sees_every_second_diagonal_by_hand():
    module = FactorizedReduce(1, 2).eval()
    for conv in (module.conv1, module.conv2):
        nn.init.ones_(conv.weight)
    x = torch.arange(1.0, 16.0).reshape(1, 1, 3, 5)  # 1..5, 6..10, 11..15
    first, second = module(x)[0] * (1 + module.bn.eps) ** 0.5
    torch.testing.assert_close(first, torch.tensor([[1.0, 3.0, 5.0], [11.0, 13.0, 15.0]]))
    torch.testing.assert_close(second, torch.tensor([[7.0, 9.0, 0.0], [0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("in_chs", [3, 5])
@pytest.mark.parametrize("out_chs", [4, 7])
@pytest.mark.parametrize("affine", [True, False])
def test_preprocessing_equals_its_plain_form(in_chs, out_chs, affine):
    torch.manual_seed(0)
    for ours_class, plain_class in ((PointwiseNorm, pointwise), (FactorizedReduce, HalveResolution)):
        ours, plain = ours_class(in_chs, out_chs, affine).double(), plain_class(in_chs, out_chs, affine).double()
        copy_weights(ours, plain)
        for size in ((6, 6), (5, 7)):
            x = torch.randn(2, in_chs, *size, dtype=torch.float64)
            for mine, theirs in zip(run(ours, x, True), run(plain, x, False), strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_made_on_the_device_and_in_the_dtype_asked_for(name):
    for stride in (1, 2):
        op = build_op(name, CHANNELS, stride, pool_bn=True, device="meta", dtype=torch.float64)
        for tensor in (*op.parameters(), *op.buffers()):
            assert tensor.device.type == "meta"
            assert tensor.dtype in (torch.float64, torch.int64)


@pytest.mark.parametrize("name", ["none", "sep_conv", "sep_conv_9x9", ""])
def test_an_unknown_operation_is_told(name):
    with pytest.raises(ValueError, match=f"there is no operation '{name}'"):
        build_op(name, CHANNELS, 1)
