"""Networks with the modules and names of the original DARTS code, whose checkpoints nas_zoo.models.convert reads.

Written for the tests from the paper (https://arxiv.org/abs/1806.09055, appendix A) and from the names in checkpoints
that people have (`cells.3._ops.5.op.1.weight`), and compared, module by module, with cnn/model.py of quark0/darts at
28419ac; PC-DARTS and P-DARTS write the same names. As there, each operation begins with its own ReLU, everything is
built and computed, and the auxiliary head is part of the network; on ImageNet DARTS' own lacks the last BatchNorm,
P-DARTS' has it.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from nas_zoo.genotype import Cell as Edges
from nas_zoo.genotype import Genotype
from tests.present import present


class OpSequence(nn.Module):
    """Layers under the name `op`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.op = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class FactorizedReduce(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        return self.bn(torch.cat([self.conv_1(x), self.conv_2(x[:, :, 1:, 1:])], dim=1))


def pointwise(in_channels: int, channels: int) -> nn.Module:
    return OpSequence(nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))


def separable_half(c: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    depthwise = nn.Conv2d(c, c, kernel, stride, padding, dilation, groups=c, bias=False)
    return [nn.ReLU(), depthwise, nn.Conv2d(c, c, 1, bias=False), nn.BatchNorm2d(c)]


OPS: dict[str, Callable[[int, int], nn.Module]] = {
    "max_pool_3x3": lambda c, s: nn.MaxPool2d(3, s, 1),
    "avg_pool_3x3": lambda c, s: nn.AvgPool2d(3, s, 1, count_include_pad=False),
    "skip_connect": lambda c, s: nn.Identity() if s == 1 else FactorizedReduce(c, c),
    "sep_conv_3x3": lambda c, s: OpSequence(*separable_half(c, 3, s), *separable_half(c, 3, 1)),
    "sep_conv_5x5": lambda c, s: OpSequence(*separable_half(c, 5, s), *separable_half(c, 5, 1)),
    "sep_conv_7x7": lambda c, s: OpSequence(*separable_half(c, 7, s), *separable_half(c, 7, 1)),
    "dil_conv_3x3": lambda c, s: OpSequence(*separable_half(c, 3, s, dilation=2)),
    "dil_conv_5x5": lambda c, s: OpSequence(*separable_half(c, 5, s, dilation=2)),
    "conv_7x1_1x7": lambda c, s: nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(c, c, (1, 7), (1, s), (0, 3), bias=False),
        nn.Conv2d(c, c, (7, 1), (s, 1), (3, 0), bias=False),
        nn.BatchNorm2d(c),
    ),
}


class Cell(nn.Module):
    def __init__(self, edges: Edges, in0: int, in1: int, channels: int, reduction: bool, reduction_before: bool):
        super().__init__()
        self.edges = edges
        self.preprocess0 = (FactorizedReduce if reduction_before else pointwise)(in0, channels)
        self.preprocess1 = pointwise(in1, channels)
        self._ops = nn.ModuleList(
            OPS[name](channels, 2 if reduction and source < 2 else 1) for node in edges.nodes for name, source in node
        )

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        ops = iter(self._ops)
        for node in self.edges.nodes:
            terms = [next(ops)(states[source]) for _, source in node]
            states.append(sum(terms[1:], terms[0]))
        return torch.cat([states[number] for number in self.edges.concat], dim=1)


def auxiliary_head(channels: int, num_classes: int) -> nn.Module:
    head = nn.Module()
    head.features = nn.Sequential(
        nn.ReLU(),
        nn.AvgPool2d(5, stride=3),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        nn.BatchNorm2d(768),
    )
    head.classifier = nn.Linear(768, num_classes)
    return head


class OriginalNetwork(nn.Module):
    """`stem` (CIFAR) or `stem0` and `stem1` (ImageNet), `cells`, `auxiliary_head`, `classifier`."""

    def __init__(self, genotype: Genotype, layout: str, channels: int, num_cells: int, num_classes: int = 10):
        super().__init__()
        self.imagenet = layout == "imagenet"
        c = channels
        if self.imagenet:
            self.stem0 = nn.Sequential(
                nn.Conv2d(3, c // 2, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c // 2),
                nn.ReLU(),
                nn.Conv2d(c // 2, c, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(c),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(c, c, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(c)
            )
            in0 = in1 = c
        else:
            self.stem = nn.Sequential(nn.Conv2d(3, 3 * c, 3, padding=1, bias=False), nn.BatchNorm2d(3 * c))
            in0 = in1 = 3 * c
        self.cells = nn.ModuleList()
        before = self.imagenet
        for index in range(num_cells):
            reduction = index in (num_cells // 3, 2 * num_cells // 3)
            c = 2 * c if reduction else c
            edges = genotype.reduce if reduction else genotype.normal
            self.cells.append(Cell(edges, in0, in1, c, reduction, before))
            in0, in1, before = in1, c * len(edges.concat), reduction
            if index == 2 * num_cells // 3:
                self.auxiliary_head = auxiliary_head(in1, num_classes)
        self.classifier = nn.Linear(in1, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        s0 = self.stem0(x) if self.imagenet else self.stem(x)
        s1 = self.stem1(s0) if self.imagenet else s0
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.classifier(s1.mean(dim=(2, 3)))


def original(genotype: Genotype, layout: str, channels: int, num_cells: int, num_classes: int = 10) -> OriginalNetwork:
    """An original network in evaluation mode whose BatchNorms have statistics and weights of their own."""
    torch.manual_seed(0)
    network = OriginalNetwork(genotype, layout, channels, num_cells, num_classes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.running_var):
                nn.init.uniform_(present(value), 0.5, 1.5)
            for value in (module.bias, module.running_mean):
                nn.init.uniform_(present(value), -0.3, 0.3)
            present(module.num_batches_tracked).fill_(7)
    return network.eval()
