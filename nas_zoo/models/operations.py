"""Candidate operations of the DARTS search space, in the form they take in a search and in a derived network.

Operations as in DARTS (Liu, Simonyan, Yang, "DARTS: Differentiable Architecture Search", ICLR 2019, section 3.1 and
its appendix), named as there. The two forms differ in two switches only:

    search form    affine=False, pool_bn=True    BatchNorm without scale and shift, pooling followed by a BatchNorm
    final form     affine=True,  pool_bn=False   BatchNorm with scale and shift, bare pooling

DARTS begins every convolution with a ReLU of its own. Up to eight operations read one state of a cell, so here the
cell takes the ReLU of a state once and hands it to the operations that want it: ``reads_relu`` says which do. The
arithmetic is the same (tests compare with the layer-by-layer form).

An operation from outside the package (``nas_zoo.runs.outside``) is a function or class that is called with channels,
stride and affine and gives a module of the shapes below; it reads the state itself, so a ReLU in front is its own.

Shapes: every operation maps (N, C, H, W) to (N, C, ceil(H / stride), ceil(W / stride)), for odd sizes too. ``dd`` is
device and dtype of the parameters, as torch's own layers take them.
"""

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from nas_zoo.genotype import OPERATIONS
from nas_zoo.models.depthwise import DepthwiseConv, every_other_pixel
from nas_zoo.runs import outside

__all__ = [
    "SEARCH_OPERATIONS", "DilatedConv", "FactorizedReduce", "NormalizedPool", "PointwiseNorm", "SeparableConv",
    "StackedConv", "build_op", "load_operation", "reads_relu",
]  # fmt: skip

#: Candidate operations of DARTS without 'none' (DA2S, section 4.1); EDAS puts 'none' in front of them.
SEARCH_OPERATIONS = (
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)

_SEPARABLE = {"sep_conv_3x3": 3, "sep_conv_5x5": 5, "sep_conv_7x7": 7}
_DILATED = {"dil_conv_3x3": 3, "dil_conv_5x5": 5}


def reads_relu(name: str, stride: int) -> bool:
    """True where the operation reads the ReLU of the state, False where it reads the state itself."""
    if outside.is_outside(name):
        return False
    return name.endswith("_pool_3x3") is False and not (name == "skip_connect" and stride == 1)


def load_operation(text: str) -> str:
    """Loads FILE.py:NAME, which runs the file, or what an installed package brings; returns its name in genotypes.

    A name of our own is returned as it is.

    Raises:
        ValueError: In one line, for what is not there, fails, or does not keep to the shapes above.
    """
    name = outside.load(text, "operation", ("none", *OPERATIONS))
    if name is None:
        return text
    for stride, affine in ((1, True), (2, False)):
        with torch.random.fork_rng(devices=[]):
            op = _outside_op(name, 4, stride, affine)
        with torch.no_grad():
            try:
                shape = tuple(op.eval()(torch.zeros(2, 4, 7, 7)).shape)
            except Exception as error:
                raise ValueError(f"operation {name!r} fails with stride {stride}: {_in_a_line(error)}") from error
        side = -(-7 // stride)
        if shape != (2, 4, side, side):
            raise ValueError(
                f"operation {name!r} with stride {stride} must make (2, 4, {side}, {side}) of (2, 4, 7, 7), got {shape}"
            )
    return name


def _outside_op(name: str, channels: int, stride: int, affine: bool) -> nn.Module:
    make = outside.find(name, "operation").value
    try:
        op = make(channels, stride, affine)
    except Exception as error:
        called = f"{name}({channels}, {stride}, {affine})"
        raise ValueError(f"operation {name!r} cannot be made by {called}: {_in_a_line(error)}") from error
    if not isinstance(op, nn.Module):
        raise ValueError(f"operation {name!r} must make a torch.nn.Module, got a {type(op).__name__}")
    return op


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


class PointwiseNorm(nn.Module):
    """1x1 convolution and BatchNorm of an activated input: (N, C_in, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_chs: int, out_chs: int, affine: bool = True, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv(x))


class FactorizedReduce(nn.Module):
    """Halves the resolution of an activated input: (N, C_in, H, W) -> (N, C_out, ceil(H / 2), ceil(W / 2)).

    Two 1x1 convolutions side by side, of the pixels at even rows and columns and of those at odd ones. The original
    takes a stride of 2 for that, of ``x`` and of ``x[:, :, 1:, 1:]``, whose second half is one row short when the
    height is odd and then cannot be concatenated; here a zero row or column takes the missing one's place.

    The pixels are taken out first because oneDNN writes past its memory in the weight gradient of a strided 1x1
    convolution in channels_last with few input channels (uxlfoundation/oneDNN issue 6035).
    """

    def __init__(self, in_chs: int, out_chs: int, affine: bool = True, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chs, out_chs // 2, 1, bias=False, **dd)
        self.conv2 = nn.Conv2d(in_chs, out_chs - out_chs // 2, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        even, odd = every_other_pixel(x)
        return self.bn(torch.cat([self.conv1(even), self.conv2(odd)], dim=1))


class SeparableConv(nn.Module):
    """Depthwise and pointwise convolution, BatchNorm, twice; the stride is in the first depthwise convolution."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool, **dd: Any) -> None:
        super().__init__()
        self.dw1 = DepthwiseConv(channels, kernel, stride, **dd)
        self.pw1 = nn.Conv2d(channels, channels, 1, bias=False, **dd)
        self.bn1 = nn.BatchNorm2d(channels, affine=affine, **dd)
        self.dw2 = DepthwiseConv(channels, kernel, **dd)
        self.pw2 = nn.Conv2d(channels, channels, 1, bias=False, **dd)
        self.bn2 = nn.BatchNorm2d(channels, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place is safe here and only here: nothing but this operation ever sees bn1's output.
        x = self.dw2(F.relu(self.bn1(self.pw1(self.dw1(x))), inplace=True))
        return self.bn2(self.pw2(x))


class DilatedConv(nn.Module):
    """Depthwise convolution of dilation 2, pointwise convolution, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int, affine: bool, **dd: Any) -> None:
        super().__init__()
        self.dw = DepthwiseConv(channels, kernel, stride, dilation=2, **dd)
        self.pw = nn.Conv2d(channels, channels, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(channels, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.pw(self.dw(x)))


class StackedConv(nn.Module):
    """1x7 then 7x1 convolution over all channels, BatchNorm (conv_7x1_1x7 of NASNet, as DARTS renders it)."""

    def __init__(self, channels: int, stride: int, affine: bool, **dd: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False, **dd)
        self.conv2 = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False, **dd)
        self.bn = nn.BatchNorm2d(channels, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.conv2(self.conv1(x)))


class NormalizedPool(nn.Module):
    """Pooling followed by a BatchNorm: the search form, where all candidates shall have the same scale."""

    def __init__(self, pool: nn.Module, channels: int, affine: bool, **dd: Any) -> None:
        super().__init__()
        self.pool = pool
        self.bn = nn.BatchNorm2d(channels, affine=affine, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bn(self.pool(x))


def build_op(
    name: str, channels: int, stride: int, *, affine: bool = True, pool_bn: bool = False, **dd: Any
) -> nn.Module:
    """The module of an operation, without the ReLU in front (see ``reads_relu``).

    Args:
        name: One of ``nas_zoo.genotype.OPERATIONS``, or one from outside.
        channels: C, the same at input and output.
        stride: 1, or 2 on the edges that leave an input node of a reduction cell.
        affine: BatchNorm with scale and shift (final form) or without (search form).
        pool_bn: Pooling followed by a BatchNorm (search form) or bare (final form).

    Raises:
        ValueError: For a name that is no operation; for one from outside it says which file or package brings it.
    """
    if outside.is_outside(name):
        device = dd.get("device")
        with contextlib.nullcontext() if device is None else torch.device(device):
            return _outside_op(name, channels, stride, affine).to(dtype=dd.get("dtype"))
    if name in _SEPARABLE:
        return SeparableConv(channels, _SEPARABLE[name], stride, affine, **dd)
    if name in _DILATED:
        return DilatedConv(channels, _DILATED[name], stride, affine, **dd)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine, **dd)
    if name in ("max_pool_3x3", "avg_pool_3x3"):
        average = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
        pool = average if name == "avg_pool_3x3" else nn.MaxPool2d(3, stride, 1)
        return NormalizedPool(pool, channels, affine, **dd) if pool_bn else pool
    if name == "conv_7x1_1x7":
        return StackedConv(channels, stride, affine, **dd)
    raise ValueError(f"there is no operation {name!r}; those that there are: {', '.join(OPERATIONS)}")
