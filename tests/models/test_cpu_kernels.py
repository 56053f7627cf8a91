"""Backward passes on a CPU against float64, over the shapes where a kernel of its library has been seen to go wrong.

Run once more with ONEDNN_MAX_CPU_ISA=AVX2 (`make test-avx2`): which kernels there are depends on the processor.
"""

import pytest
import torch
from torch import nn

from nas_zoo.genotype import OPERATIONS
from nas_zoo.models.depthwise import strided_pointwise
from nas_zoo.models.network import StemBlock
from nas_zoo.models.operations import FactorizedReduce, PointwiseNorm, build_op

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
BLOCKS = {
    "factorized_reduce": lambda channels, stride: FactorizedReduce(channels, 2 * channels),
    "pointwise": lambda channels, stride: PointwiseNorm(channels, channels),
    "stem": lambda channels, stride: StemBlock(3, channels, stride),
}


def gradients(block: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    block.zero_grad()
    block(x).backward(grad)
    assert x.grad is not None
    return {"input": x.grad, **{name: p.grad for name, p in block.named_parameters() if p.grad is not None}}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", [*OPERATIONS, *BLOCKS])
def test_gradients_agree_with_float64(name, stride, layout):
    torch.manual_seed(0)
    for channels in (2, 4, 8, 16):
        for size, images in ((8, 64), (9, 8), (56, 8)):
            make = BLOCKS.get(name) or (lambda c, s: build_op(name, c, s, affine=False, pool_bn=True))
            x = torch.randn(images, 3 if name == "stem" else channels, size, size)
            x = x.contiguous(memory_format=LAYOUTS[layout])
            # With a batch's own statistics a gradient is what is left of large terms, and float32 keeps less of it.
            for training, largest in ((False, 1e-5), (True, 1e-3)):
                block = make(channels, stride).to(memory_format=LAYOUTS[layout]).train(training)
                with torch.no_grad():
                    grad = torch.randn_like(block(x))
                found = gradients(block, x, grad)
                right = gradients(block.double(), x.double(), grad.double())
                for key, value in found.items():
                    error = float((value.double() - right[key]).abs().max() / right[key].abs().max().clamp(min=1e-3))
                    told = f"{key}, {channels} channels, {images} images of {size} pixels, training={training}"
                    assert error < largest, f"{told}: off by {error:.1e}"


def test_no_block_strides_a_1x1_convolution():
    for make in (*BLOCKS.values(), *(lambda c, s, name=name: build_op(name, c, s) for name in OPERATIONS)):
        assert strided_pointwise(make(4, 2)) == []


def test_a_foreign_model_with_a_narrow_strided_1x1_convolution_is_found():
    wide, narrow = nn.Conv2d(16, 8, 1, 2), nn.Conv2d(8, 8, 1, 2)
    assert strided_pointwise(nn.Sequential(wide, nn.Conv2d(8, 8, 3, 2), nn.Conv2d(8, 8, 1))) == []
    assert strided_pointwise(nn.Sequential(wide, narrow)) == ["1"]
