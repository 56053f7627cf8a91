"""Layers whose backward pass is written out where a CPU's own one is slow; the mathematics is the same.

PyTorch 2.14 on a CPU takes 10 to 100 times as long for some gradients as for the forward pass they belong to. Measured
at 64 images, 16 channels, 32 x 32, channels_last, float32, one thread (forward, input's gradient, weight's gradient):

    depthwise 3x3                0.5    0.6    0.6 ms
    depthwise 5x5                0.6    1.0   12.4 ms
    depthwise 3x3, dilation 2    0.5    4.9    5.0 ms
    depthwise 5x5, dilation 2    0.7    8.2    9.1 ms
    the last with stride 2 (32 channels)    0.5   54   24 ms
    BatchNorm: dense gradient in 6 ms, a strided view (what torch.cat sends back) in 54 ms (on a busy machine)

So here every gradient of a depthwise convolution is put together from the two fast passes, the forward one and that of
3x3 weights. Scripting, tracing, compiling, export, autocast and other devices see an ordinary convolution and an
ordinary torch.cat.
"""

from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["DepthwiseConv", "concatenate", "every_other_pixel", "may_run_by_hand", "strided_pointwise"]


def _is_eager(x: Tensor) -> bool:
    """True where a backward pass may follow that is neither compiled nor traced."""
    return (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not isinstance(x, torch.fx.Proxy)
    )


def may_run_by_hand(x: Tensor) -> bool:
    """True for a channels_last image batch (N, C, H, W) on a CPU in an eager forward pass with gradients."""
    return (
        _is_eager(x)
        and x.device.type == "cpu"
        and x.is_contiguous(memory_format=torch.channels_last)
        and not torch.is_autocast_enabled("cpu")
    )


def strided_pointwise(model: nn.Module) -> list[str]:
    """Names of the convolutions that must not see channels_last on a CPU: 1x1, strided, of few input channels.

    oneDNN writes past its memory in their weight gradient (uxlfoundation/oneDNN issue 6035): below a block of its
    kernels, which is 8 channels under AVX2 and 16 under AVX-512. No network of this package has one; timm's others may.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < 16
    ]


# Concatenation --------------------------------------------------------------------------------------------------------


class _Concatenate(torch.autograd.Function):
    """torch.cat over channels whose backward pass gives every part a dense gradient of its own."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*parts: Tensor) -> Tensor:
        return torch.cat(parts, dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.sizes = [part.shape[1] for part in inputs]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        grad = grads[0]
        last = grad.ndim == 4 and grad.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        return tuple(part.contiguous(memory_format=layout) for part in grad.split(ctx.sizes, dim=1))


@torch.jit.ignore
def _concatenate_densely(parts: list[Tensor]) -> Tensor:
    return _Concatenate.apply(*parts) if _is_eager(parts[0]) else torch.cat(parts, dim=1)


def concatenate(parts: list[Tensor]) -> Tensor:
    """(N, C_i, H, W) side by side: (N, sum C_i, H, W); the gradient of each part is dense."""
    if torch.jit.is_scripting():
        return torch.cat(parts, dim=1)
    return _concatenate_densely(parts)


# Every other pixel ----------------------------------------------------------------------------------------------------


def _take_apart(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, :, ::2, ::2], F.pad(x[:, :, 1::2, 1::2], (0, x.shape[3] % 2, 0, x.shape[2] % 2))


class _EveryOtherPixel(torch.autograd.Function):
    """Both halves copied once, and one gradient filled; autograd's own way makes a full-sized zero for each slice."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        even, odd = _take_apart(x)
        return _dense(even), odd

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        even, odd = grads
        n, c, h, w = ctx.shape
        grad = even.new_zeros(n, h, w, c).permute(0, 3, 1, 2)
        grad[:, :, ::2, ::2] = even
        grad[:, :, 1::2, 1::2] = odd[:, :, : h // 2, : w // 2]
        return grad


@torch.jit.ignore
def _every_other_pixel(x: Tensor) -> tuple[Tensor, Tensor]:
    return _EveryOtherPixel.apply(x) if may_run_by_hand(x) else _take_apart(x)


def every_other_pixel(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, C, H, W) -> x at even rows and columns, and at odd ones; both (N, C, ceil(H / 2), ceil(W / 2)).

    Where a side is odd the second has a row or column of zeros at its end.
    """
    if torch.jit.is_scripting():
        return _take_apart(x)
    return _every_other_pixel(x)


# Depthwise convolution ------------------------------------------------------------------------------------------------


class DepthwiseConv(nn.Conv2d):
    """nn.Conv2d of one odd square kernel a channel, no bias, that keeps the size or halves it (rounded up).

    (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)). Same state-dict keys and forward pass as nn.Conv2d.
    """

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1, **dd: Any) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(channels, channels, kernel, stride, padding, dilation, channels, bias=False, **dd)

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():
            return self._conv_forward(input, self.weight, self.bias)
        return self._fast_forward(input)

    @torch.jit.ignore
    def _fast_forward(self, x: Tensor) -> Tensor:
        if may_run_by_hand(x) and (x.requires_grad or self.weight.requires_grad):
            return _Depthwise.apply(x, self.weight, self.stride[0], self.dilation[0])
        return self._conv_forward(x, self.weight, self.bias)


class _Depthwise(torch.autograd.Function):
    """The gradients of a depthwise convolution out of forward passes and 3x3 weight gradients.

    With y[h] = sum_i w[i] x[s h + d i - p], one axis shown:

    input, s = 1       a forward pass of the gradient with the kernel turned round
    d = s              only every s-th row and column of x is read: undilated, of stride 1, on those
    weight, d > 1      rows and columns fall into d classes that never meet: undilated, on d^2 times as many images
    weight, s = 2      taps of even and of odd i read one parity of x each: stride 1, half the taps, four times
    weight, 5x5        taps -2..0 and 0..2 are 3x3 kernels on shifted images, four blocks in all
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        return _convolve(x, weight, stride, dilation)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, ctx.stride, ctx.dilation = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].contiguous(memory_format=torch.channels_last)
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(grad, x, weight, ctx.stride, ctx.dilation)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(grad, x, weight, ctx.stride, ctx.dilation)
        return grad_x, grad_weight, None, None


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    padding = dilation * (weight.shape[-1] - 1) // 2
    return F.conv2d(x, weight, None, stride, padding, dilation, weight.shape[0])


def _native(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int, wanted: tuple[bool, bool]) -> Any:
    """PyTorch's own gradients (of the input, of the weight)."""
    padding = dilation * (weight.shape[-1] - 1) // 2
    return torch.ops.aten.convolution_backward(
        grad, x, weight, None, [stride] * 2, [padding] * 2, [dilation] * 2, False, [0, 0], weight.shape[0],
        [*wanted, False],
    )[:2]  # fmt: skip


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    if stride == 1:
        return _convolve(grad, weight.flip(2, 3), 1, dilation)
    if _reads_every_other(weight, stride, dilation):
        full = torch.zeros_like(x)
        full[:, :, ::stride, ::stride] = _convolve(grad, weight.flip(2, 3), 1, 1)
        return full
    return _native(grad, x, weight, stride, dilation, (True, False))[0]


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    kernel = weight.shape[-1]
    if _reads_every_other(weight, stride, dilation):
        x, stride, dilation = _dense(x[:, :, ::stride, ::stride]), 1, 1
    even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    if stride == 1 and dilation == 2 and even:
        x, grad, dilation = _split_parities(x), _split_parities(grad), 1
    # below 16 pixels the margin, and for 7x7 the nine blocks, cost more than they save
    if stride == 1 and dilation == 1 and kernel == 5 and x.shape[3] >= 16:
        return _in_blocks(grad, x, weight)
    if stride == 2 and dilation == 1 and kernel == 5 and even:
        result = weight.new_empty(weight.shape)
        for a in (0, 1):
            for b in (0, 1):
                # x[2 h + i - 2] with i = 2 u + a is tap u of three on the rows of parity a; u = 2 is none for odd i
                part = _small(grad, _dense(x[:, :, a::2, b::2]), weight)
                result[:, :, a::2, b::2] = part[:, :, : 3 - a, : 3 - b]
        return result
    return _native(grad, x, weight, stride, dilation, (False, True))[1]


def _reads_every_other(weight: Tensor, stride: int, dilation: int) -> bool:
    """True where dilation and padding are multiples of the stride, so that the rows between are never read."""
    padding = dilation * (weight.shape[-1] - 1) // 2
    return stride > 1 and dilation == stride and padding % stride == 0


def _dense(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _split_parities(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (4 N, C, H / 2, W / 2): the four parities of row and column as images of their own."""
    n, c, h, w = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c)
    return rows.permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h // 2, w // 2, c).permute(0, 3, 1, 2)


def _small(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of 3x3 weights, stride 1, the size kept: (C, 1, 3, 3)."""
    return _native(grad, x, weight.new_empty(weight.shape[0], 1, 3, 3), 1, 1, (False, True))[1]


def _in_blocks(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Gradient of k x k weights, k > 3, stride 1, the size kept, in overlapping 3x3 blocks.

    Both tensors are laid out with a margin of zeros. In channels_last, shifting an image is then reading from another
    place of the same memory: what wraps round at a row's end meets the gradient's zeros, and no block needs a copy.
    """
    kernel, (n, c, h, w) = weight.shape[-1], x.shape
    margin = kernel // 2
    height, width = h + 2 * margin, w + 2 * margin
    size = n * height * width * c
    slack = (margin * width + margin) * c  # the largest shift, on either side
    inside = slice(margin, margin + h), slice(margin, margin + w)

    canvas = x.new_zeros(size + 2 * slack)
    canvas[slack : slack + size].view(n, height, width, c)[:, inside[0], inside[1]] = x.permute(0, 2, 3, 1)
    framed = grad.new_zeros(n, height, width, c)
    framed[:, inside[0], inside[1]] = grad.permute(0, 2, 3, 1)
    framed = framed.permute(0, 3, 1, 2)

    result = weight.new_empty(weight.shape)
    starts = [min(start, kernel - 3) for start in range(0, kernel, 3)]
    for i in starts:
        for j in starts:
            # the block's middle tap is i + 1, which reads i + 1 - margin rows further down
            shift = slack + ((i + 1 - margin) * width + (j + 1 - margin)) * c
            shifted = canvas[shift : shift + size].view(n, height, width, c).permute(0, 3, 1, 2)
            result[:, :, i : i + 3, j : j + 3] = _small(framed, shifted, weight)
    return result
