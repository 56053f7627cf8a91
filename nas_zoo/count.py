"""Parameters and multiply-adds of a network, under one stated convention.

Three conventions are in use for one and the same network (521M, 530M and 574M multiply-adds for DARTS_V2 on ImageNet).
Here: the multiply-adds of all convolutions and of the classifier, one for each weight and output position (padding
counted as if it were data); BatchNorm, pooling, ReLU and sums count nothing. Parameters: all of the network's, the
classifier's too; an auxiliary head is no part of a network here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["CONVENTION", "Counts", "count"]

CONVENTION = "multiply-adds of convolutions and classifier; parameters without auxiliary head"


@dataclass(frozen=True)
class Counts:
    """Of one network at one input size and a batch of one."""

    params: int
    macs: int  # multiply-adds
    activations: int  # elements of all outputs of convolutions and classifier
    input_size: tuple[int, int, int]  # (C, H, W)


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Counts:
    """Counts by running the model once on an image of zeros; on the meta device that costs nothing.

    Args:
        model: Maps images (N, C, H, W) to logits.
        input_size: (C, H, W) of the image.
    """
    macs = activations = 0
    handles = []

    def see(module: nn.Module, _: Any, output: torch.Tensor) -> None:
        nonlocal macs, activations
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        # Each output element takes one multiply-add for each weight of its output channel.
        macs += output.numel() * weight[0].numel()
        activations += output.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(see))
    training, device = model.training, next(model.parameters()).device
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_size, device=device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return Counts(sum(p.numel() for p in model.parameters()), macs, activations, input_size)
