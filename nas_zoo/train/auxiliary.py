"""What stands beside a network while it is trained, and is never saved with it: auxiliary head, compiled drop path."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from nas_zoo.models.network import CellNet
from nas_zoo.train.recipes import TrainSettings

__all__ = ["AuxiliaryHead", "TensorDropPath", "Trained", "make_auxiliary", "take_tensor_drop_paths"]


class AuxiliaryHead(nn.Module):
    """Logits (N, num_classes) of a tap (N, channels, size, size): DARTS's head at two thirds of the depth.

    The tap is activated already. 5x5 pooling of stride 3 (8 pixels: CIFAR) or 2 (7: ImageNet) gives 2x2 as in DARTS;
    other sizes are pooled to 2x2 adaptively. Behind the second convolution stands a BatchNorm, which DARTS's code for
    ImageNet leaves out (by its own comment a slip).
    """

    def __init__(self, channels: int, size: int, num_classes: int) -> None:
        super().__init__()
        stride = {8: 3, 7: 2}.get(size)
        self.pool = nn.AvgPool2d(5, stride, count_include_pad=False) if stride else nn.AdaptiveAvgPool2d(2)
        self.conv1 = nn.Conv2d(channels, 128, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(128)
        self.conv2 = nn.Conv2d(128, 768, 2, bias=False)
        self.bn2 = nn.BatchNorm2d(768)
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, tap: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(self.pool(tap))), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        return self.classifier(x.flatten(1))


class Trained(nn.Module):
    """The model and, beside it and never saved with it, its auxiliary head."""

    def __init__(self, model: nn.Module, auxiliary: AuxiliaryHead | None, decay_all: bool = True) -> None:
        super().__init__()
        self.model, self.auxiliary, self.decay_all = model, auxiliary, decay_all

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.auxiliary is None:
            return self.model(images), None
        model: Any = self.model
        features, tap = model.forward_auxiliary(images)
        return model.forward_head(features), self.auxiliary(tap)

    def no_weight_decay(self) -> set[str]:
        """For timm: what has no decay beside biases and BatchNorms, such as a transformer's positions."""
        own: Any = getattr(self.model, "no_weight_decay", set)
        return set() if self.decay_all else {f"model.{name}" for name in own()}


class TensorDropPath(DropPath):
    """timm's DropPath with its rate in a tensor: torch.compile then need not compile anew when the rate changes."""

    keep: Tensor

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.register_buffer("keep", torch.ones(()), persistent=False)

    @property
    def drop_prob(self) -> float:
        return 1.0 - float(self.keep)

    @drop_prob.setter
    def drop_prob(self, rate: float) -> None:
        self.keep.fill_(1.0 - rate)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        mask = torch.bernoulli(self.keep.expand(x.shape[0], *[1] * (x.ndim - 1)))
        return x * (mask / self.keep).to(x.dtype)


def make_auxiliary(
    model: nn.Module, settings: TrainSettings, in_chans: int, size: int, num_classes: int
) -> AuxiliaryHead | None:
    """The head for images of `size` pixels, if its loss has a weight; ValueError for a model that has no tap."""
    if not settings.aux_weight:
        return None
    if not isinstance(model, CellNet):
        raise ValueError(
            f"aux_weight must be 0 (as in recipe quick) for {settings.model}, which is no cell network and has "
            f"no place for an auxiliary head, got {settings.aux_weight}"
        )
    with torch.no_grad():
        tap = model.eval().forward_auxiliary(torch.zeros(1, in_chans, size, size))[1]
    return AuxiliaryHead(tap.shape[1], tap.shape[2], num_classes)


def take_tensor_drop_paths(model: nn.Module) -> None:
    """Every DropPath of the model becomes a TensorDropPath."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, TensorDropPath())
