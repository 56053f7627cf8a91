"""Networks with the modules of four repositories that name DARTS' cells otherwise, whose files people have.

Written for the tests from reading, of each, the modules of the network as it is trained at the end:

    FairDARTS   xiaomi-automl/FairDARTS, fairdarts/model.py and operations.py at 675a0c8
    NNI         microsoft/nni, nni/nas/hub/pytorch/nasnet.py at 009e1f7 and nas/nn/pytorch/cell.py at 231ba12
    CDARTS      microsoft/Cream, CDARTS/lib/models/model_test.py, augment_cells.py at 6fb89a2 and ops.py at a733e2c
    pt.darts    khanrc/pt.darts, models/augment_cnn.py, augment_cells.py and ops.py at 029de08, genotypes.py at c48f506

Nothing here knows of nas_zoo's converter; what a module is called follows from where it stands, as in those programs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_zoo.genotype import Cell, Genotype


def depthwise(c: int, kernel: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(c, c, kernel, stride, dilation * (kernel // 2), dilation, groups=c, bias=False)


def pointwise(c_in: int, c_out: int) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, 1, bias=False)


def half(c: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """ReLU, depthwise and pointwise convolution, BatchNorm: a dilated convolution, or half a separable one."""
    return [nn.ReLU(), depthwise(c, kernel, stride, dilation), pointwise(c, c), nn.BatchNorm2d(c)]


def halves(name: str, c: int, stride: int) -> list[list[nn.Module]]:
    """The layers of sep_conv_KxK or dil_conv_KxK, half by half."""
    kernel = int(name[-1])
    if name.startswith("dil_conv"):
        return [half(c, kernel, stride, 2)]
    assert name.startswith("sep_conv"), name
    return [half(c, kernel, stride), half(c, kernel, 1)]


def pool(name: str, stride: int) -> nn.Module:
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride, 1)
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


class Reduce(nn.Module):
    """FactorizedReduce, with or without underscores in the names of its convolutions."""

    def __init__(self, c_in: int, c: int, underscore: str) -> None:
        super().__init__()
        self.names = (f"conv{underscore}1", f"conv{underscore}2")
        for name in self.names:
            self.add_module(name, nn.Conv2d(c_in, c // 2, 1, 2, bias=False))
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        first, second = (getattr(self, name) for name in self.names)
        return self.bn(torch.cat([first(x), second(x[:, :, 1:, 1:])], 1))


class Under(nn.Module):
    """A sequence of layers under a name of its own: `op` or `net`."""

    def __init__(self, name: str, *layers: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, nn.Sequential(*layers))

    def forward(self, x: Tensor) -> Tensor:
        return getattr(self, self.name)(x)


def stride_of(reduction: bool, source: int) -> int:
    return 2 if reduction and source < 2 else 1


# ----------------------------------------------------------------------------------------------------------- FairDARTS


class FairCell(nn.Module):
    """Operations in dictionaries: node, input, then a list; the output is every node that is there, in their order."""

    def __init__(self, cell: Cell, in0: int, in1: int, c: int, reduction: bool, reduced_before: bool) -> None:
        super().__init__()
        relu_conv_bn = lambda c_in: Under("op", nn.ReLU(), pointwise(c_in, c), nn.BatchNorm2d(c))  # noqa: E731
        self.preprocess0 = Reduce(in0, c, "_") if reduced_before else relu_conv_bn(in0)
        self.preprocess1 = relu_conv_bn(in1)
        self._ops = nn.ModuleDict()
        for number, node in enumerate(cell.nodes, start=2):
            for name, source in node:
                if str(number) not in self._ops:
                    self._ops[str(number)] = nn.ModuleDict()
                edges: Any = self._ops[str(number)]
                if str(source) not in edges:
                    edges[str(source)] = nn.ModuleList()
                edges[str(source)].append(self.operation(name, c, stride_of(reduction, source)))
        self.width = c * len(self._ops)

    def operation(self, name: str, c: int, stride: int) -> nn.Module:
        if name.endswith("_pool_3x3"):
            return pool(name, stride)
        if name == "skip_connect":
            return nn.Identity() if stride == 1 else Reduce(c, c, "_")
        return Under("op", *(layer for one in halves(name, c, stride) for layer in one))

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = {"0": self.preprocess0(s0), "1": self.preprocess1(s1)}
        nodes: Any = self._ops
        for number, edges in nodes.items():
            states[number] = sum(sum(op(states[source]) for op in ops) for source, ops in edges.items())
        return torch.cat(list(states.values())[2:], 1)


# ----------------------------------------------------------------------------------------------------------------- NNI


class Preprocessor(nn.Module):
    def __init__(self, in0: int, in1: int, c: int, reduced_before: bool) -> None:
        super().__init__()
        relu_conv_bn = lambda c_in: nn.Sequential(nn.ReLU(), pointwise(c_in, c), nn.BatchNorm2d(c))  # noqa: E731
        self.pre0 = Reduce(in0, c, "_") if reduced_before else relu_conv_bn(in0)
        self.pre1 = relu_conv_bn(in1)


class NniCell(nn.Module):
    """Operations by node and edge, each a plain sequence, with drop path in one more around it."""

    def __init__(self, cell: Cell, in0: int, in1: int, c: int, reduction: bool, before: bool, drop_path: bool) -> None:
        super().__init__()
        self.cell, self.drop_path = cell, drop_path
        self.preprocessor = Preprocessor(in0, in1, c, before)
        self.ops = nn.ModuleList(
            nn.ModuleList(self.operation(name, c, stride_of(reduction, source)) for name, source in node)
            for node in cell.nodes
        )
        self.width = c * len(cell.concat)

    def operation(self, name: str, c: int, stride: int) -> nn.Module:
        op: nn.Module
        if name == "skip_connect" and stride == 1:
            return nn.Identity()
        if name.endswith("_pool_3x3"):
            op = pool(name, stride)
        elif name == "skip_connect":
            op = Reduce(c, c, "_")
        elif name == "conv_7x1_1x7":
            across = nn.Conv2d(c, c, (1, 7), (1, stride), (0, 3), bias=False)
            down = nn.Conv2d(c, c, (7, 1), (stride, 1), (3, 0), bias=False)
            op = nn.Sequential(nn.ReLU(), across, down, nn.BatchNorm2d(c))
        else:
            op = nn.Sequential(*(layer for one in halves(name, c, stride) for layer in one))
        return nn.Sequential(op, nn.Identity()) if self.drop_path else op

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preprocessor.pre0(s0), self.preprocessor.pre1(s1)]
        operations: Any = self.ops
        for node, ops in zip(self.cell.nodes, operations, strict=True):
            states.append(sum(op(states[source]) for op, (_, source) in zip(ops, node, strict=True)))
        return torch.cat([states[i] for i in self.cell.concat], 1)


# -------------------------------------------------------------------------------------------------- pt.darts and CDARTS


class PoolBN(nn.Module):
    def __init__(self, name: str, c: int, stride: int) -> None:
        super().__init__()
        self.pool = pool(name, stride)
        self.bn = nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pool(x))


class DagCell(nn.Module):
    """Operations by node and edge, each but the identity in a sequence with its drop path."""

    def __init__(self, cell: Cell, in0: int, in1: int, c: int, reduction: bool, before: bool, pool_bn: bool) -> None:
        super().__init__()
        self.cell, self.pool_bn = cell, pool_bn
        std_conv = lambda c_in: Under("net", nn.ReLU(), pointwise(c_in, c), nn.BatchNorm2d(c))  # noqa: E731
        self.preproc0 = Reduce(in0, c, "") if before else std_conv(in0)
        self.preproc1 = std_conv(in1)
        self.dag = nn.ModuleList(
            nn.ModuleList(self.operation(name, c, stride_of(reduction, source)) for name, source in node)
            for node in cell.nodes
        )
        self.width = c * len(cell.concat)

    def operation(self, name: str, c: int, stride: int) -> nn.Module:
        op: nn.Module
        if name == "skip_connect" and stride == 1:
            return nn.Identity()
        if name.endswith("_pool_3x3"):
            op = PoolBN(name, c, stride) if self.pool_bn else nn.Sequential(pool(name, stride))
        elif name == "skip_connect":
            op = Reduce(c, c, "")
        else:
            parts = [Under("net", *layers) for layers in halves(name, c, stride)]
            op = parts[0] if len(parts) == 1 else Under("net", *parts)
        return nn.Sequential(op, nn.Identity())

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        states = [self.preproc0(s0), self.preproc1(s1)]
        operations: Any = self.dag
        for node, ops in zip(self.cell.nodes, operations, strict=True):
            states.append(sum(op(states[source]) for op, (_, source) in zip(ops, node, strict=True)))
        return torch.cat([states[i] for i in self.cell.concat], 1)


# ------------------------------------------------------------------------------------------------------ whole networks


class TheirNetwork(nn.Module):
    """A network as one of the four builds it: "fairdarts", "nni", "nni_drop_path", "cdarts" or "pt_darts"."""

    def __init__(self, whose: str, genotype: Genotype, layout: str, c: int, num_cells: int, num_classes: int) -> None:
        super().__init__()
        self.whose = whose
        imagenet = layout == "imagenet"
        stems: tuple[nn.Module, ...] = self.two_stems(c) if imagenet else (self.one_stem(3 * c),)
        if whose == "cdarts":
            self.feature_extractor = nn.ModuleList(stems)
        elif imagenet:
            self.stem0, self.stem1 = stems
        else:
            (self.stem,) = stems
        in0 = in1 = c if imagenet else 3 * c
        cells, before = [], imagenet
        for index in range(num_cells):
            reduction = index in (num_cells // 3, 2 * num_cells // 3)
            c = 2 * c if reduction else c
            cells.append(self.cell(genotype.reduce if reduction else genotype.normal, in0, in1, c, reduction, before))
            in0, in1, before = in1, cells[-1].width, reduction
        self.in_stages(cells)
        head = "fc" if whose == "cdarts" else "linear" if whose == "pt_darts" else "classifier"
        self.add_module(head, nn.Linear(in1, num_classes))
        self.head = head

    def one_stem(self, width: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))

    def two_stems(self, c: int) -> tuple[nn.Module, nn.Module]:
        strided = lambda c_in, c_out: nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False)  # noqa: E731
        first = nn.Sequential(
            strided(3, c // 2), nn.BatchNorm2d(c // 2), nn.ReLU(), strided(c // 2, c), nn.BatchNorm2d(c)
        )
        return first, nn.Sequential(nn.ReLU(), strided(c, c), nn.BatchNorm2d(c))

    def cell(
        self, cell: Cell, in0: int, in1: int, c: int, reduction: bool, before: bool
    ) -> FairCell | NniCell | DagCell:
        if self.whose == "fairdarts":
            return FairCell(cell, in0, in1, c, reduction, before)
        if self.whose.startswith("nni"):
            return NniCell(cell, in0, in1, c, reduction, before, drop_path=self.whose == "nni_drop_path")
        return DagCell(cell, in0, in1, c, reduction, before, pool_bn=self.whose == "pt_darts")

    def in_stages(self, cells: Sequence[nn.Module]) -> None:
        """NNI's stages begin with a reduction cell, CDARTS' end with one; the others have one row of cells."""
        self.row = [cells]  # not a module: only the order
        n = len(cells)
        if self.whose.startswith("nni"):
            ends = [n // 3, 2 * n // 3, n]
        elif self.whose == "cdarts":
            ends = [n // 3 + 1, 2 * n // 3 + 1, n]
        else:
            self.cells = nn.ModuleList(cells)
            return
        stages = nn.ModuleList(nn.ModuleList(cells[a:b]) for a, b in zip([0, *ends], ends, strict=False))
        self.add_module("nas_layers" if self.whose == "cdarts" else "stages", stages)

    def forward(self, x: Tensor) -> Tensor:
        if self.whose == "cdarts":
            s0 = self.feature_extractor[0](x)
            s1 = self.feature_extractor[1](s0) if len(self.feature_extractor) == 2 else s0
        elif hasattr(self, "stem1"):
            s0 = self.stem0(x)
            s1 = self.stem1(s0)
        else:
            s0 = s1 = self.stem(x)
        for cell in self.row[0]:
            s0, s1 = s1, cell(s0, s1)
        return getattr(self, self.head)(s1.mean((2, 3)))
