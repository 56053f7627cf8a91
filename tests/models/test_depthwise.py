"""The hand-written backward passes against PyTorch's own, and what scripting, tracing and compiling see of them."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_zoo.models.depthwise import DepthwiseConv, _Depthwise, concatenate, every_other_pixel, may_run_by_hand
from tests.present import present

LAST = torch.channels_last


def run(conv: nn.Conv2d, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Output, and gradients of input and weight under a fixed linear loss."""
    x = x.detach().requires_grad_()
    y = conv(x)
    loss = (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum()
    return y.detach(), *torch.autograd.grad(loss, [x, conv.weight])


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (9, 9), (8, 17)], ids=str)
@pytest.mark.parametrize(("kernel", "dilation"), [(3, 1), (5, 1), (7, 1), (3, 2), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_an_ordinary_depthwise_convolution(stride, kernel, dilation, size):
    torch.manual_seed(0)
    ours = DepthwiseConv(6, kernel, stride, dilation).double()
    pad = dilation * (kernel - 1) // 2
    plain = nn.Conv2d(6, 6, kernel, stride, pad, dilation, 6, bias=False).double()
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(3, 6, *size, dtype=torch.double)
    assert ours(x.to(memory_format=LAST)).grad_fn.name() == "_DepthwiseBackward"
    results = run(ours, x.to(memory_format=LAST))
    for got, expected in zip(results, run(plain, x), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("kernel", "dilation", "stride"), [(5, 1, 1), (3, 2, 1), (5, 2, 2), (5, 1, 2)])
def test_in_float32_they_are_as_exact_as_pytorchs_own(kernel, dilation, stride):
    torch.manual_seed(0)
    conv = DepthwiseConv(8, kernel, stride, dilation)
    x = torch.randn(8, 8, 32, 32)
    reference = run(conv.double(), x.double())
    results = run(conv.float(), x.to(memory_format=LAST))
    for got, expected in zip(results, reference, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_only_the_gradients_asked_for_are_computed():
    conv = DepthwiseConv(4, 5).requires_grad_(False)
    x = torch.randn(2, 4, 8, 8).to(memory_format=LAST).requires_grad_()
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is None
    conv.requires_grad_()
    conv(x.detach()).sum().backward()
    assert conv.weight.grad is not None


def test_second_derivatives_are_right_too():
    x = torch.randn(1, 2, 6, 6, dtype=torch.double).to(memory_format=LAST).requires_grad_()
    weight = torch.randn(2, 1, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, w: _Depthwise.apply(x, w, 1, 2), (x, weight))


def test_parts_of_a_concatenation_get_dense_gradients():
    for layout, other in itertools.permutations((LAST, torch.contiguous_format)):
        parts = [torch.randn(2, 3 + i, 4, 5).to(memory_format=layout).requires_grad_() for i in range(3)]
        strides = []
        for part in parts:
            part.register_hook(lambda grad: strides.append(grad.is_contiguous(memory_format=layout)))  # noqa: B023
        out = concatenate(parts)
        torch.testing.assert_close(out, torch.cat(parts, 1), rtol=0, atol=0)
        weight = torch.randn_like(out)
        (out * weight).sum().backward()
        torch.testing.assert_close([part.grad for part in parts], list(weight.split([3, 4, 5], 1)), rtol=0, atol=0)
        assert strides == [True] * 3
        assert out.is_contiguous(memory_format=layout)
        assert not out.is_contiguous(memory_format=other)


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = DepthwiseConv(4, 3, 2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(concatenate([self.conv(x), self.conv(x + 1)]))


@pytest.mark.parametrize("size", [(6, 6), (7, 5), (1, 4), (1, 1)])
def test_every_other_pixel_and_its_gradient_are_those_of_the_slices(size):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *size, dtype=torch.float64).to(memory_format=LAST).requires_grad_()
    assert may_run_by_hand(x)
    even, odd = every_other_pixel(x)
    assert present(even.grad_fn).name() == "_EveryOtherPixelBackward"
    torch.testing.assert_close(even, x[:, :, ::2, ::2], rtol=0, atol=0)
    padded = F.pad(x, (0, size[1] % 2, 0, size[0] % 2))
    torch.testing.assert_close(odd, padded[:, :, 1::2, 1::2], rtol=0, atol=0)
    torch.autograd.gradcheck(every_other_pixel, x)
    torch.autograd.gradgradcheck(every_other_pixel, x)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("how", ["script", "trace", "fx", "export"])
def test_scripting_tracing_and_export_see_ordinary_operators(how):
    torch.manual_seed(0)
    module = Both()
    x = torch.randn(2, 4, 8, 8).to(memory_format=LAST)
    made: Any
    if how == "script":
        made = torch.jit.script(module)
    elif how == "trace":
        made = torch.jit.trace(module, x)
        assert "PythonOp" not in str(made.inlined_graph)
    elif how == "fx":
        made = torch.fx.symbolic_trace(module)
        assert "conv2d" in made.code
        assert "cat(" in made.code
    else:
        program = torch.export.export(module, (x,))
        targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
        assert targets <= {f"aten.{op}.default" for op in ("conv2d", "cat", "relu", "to")} | {"aten.add.Tensor"}
        made = program.module()
    torch.testing.assert_close(made(x), module(x), rtol=0, atol=1e-6)


def test_under_autocast_it_is_an_ordinary_convolution():
    conv = DepthwiseConv(4, 3)
    x = torch.randn(2, 4, 8, 8).to(memory_format=LAST)
    with torch.autocast("cpu", torch.bfloat16):
        y = conv(x)
    assert y.dtype == torch.bfloat16
    assert y.grad_fn.name() != "_DepthwiseBackward"
