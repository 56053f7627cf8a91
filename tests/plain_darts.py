"""Plain, layer-by-layer DARTS networks: the reference that tests compare the package with.

Written from the paper's description (https://arxiv.org/abs/1806.09055, section 3 and appendix A), as directly as can
be: every operation is one nn.Sequential that begins with its own ReLU, every cell and every node is built and computed,
whether something reads it or not, and nothing is shared or done in place. So it is slow, and independent of the tricks
in nas_zoo.models.operations, nas_zoo.models.layout and nas_zoo.models.network: none of them is used here.

`plain_copy` gives a plain network the weights of a CellNet. What a CellNet leaves out keeps its random weights here:
equal logits then show that it has no influence.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_zoo.genotype import Cell, Genotype
from nas_zoo.models.network import Cell as BuiltCell
from nas_zoo.models.network import CellNet, Node, SkippedCell
from nas_zoo.search.supernet import Mixing, Supernet


class HalveResolution(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 on pixels (0, 0) and (1, 1) of every 2x2 block, BatchNorm."""

    def __init__(self, in_channels: int, channels: int, affine: bool = True) -> None:
        super().__init__()
        self.even = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(in_channels, channels - channels // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        height, width = x.shape[2:]
        if height % 2 or width % 2:  # DARTS knows even sizes only: a row and a column of zeros make it one
            full = x.new_zeros(*x.shape[:2], height + height % 2, width + width % 2)
            full[:, :, :height, :width] = x
            x = full
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


def pointwise(in_channels: int, channels: int, affine: bool = True) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels, affine=affine)
    )


def depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    """ReLU, depthwise convolution, 1x1 convolution, BatchNorm; the size stays or is halved."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    ]


def plain_op(name: str, channels: int, stride: int, affine: bool = True, pool_bn: bool = False) -> nn.Module:
    """The operation of that name, with its ReLU; 'none' gives zeros."""
    kind, _, kernel_text = name.rpartition("_")
    kernel = int(kernel_text[0]) if kernel_text[0].isdigit() else 0
    if name == "skip_connect":
        return nn.Sequential() if stride == 1 else HalveResolution(channels, channels, affine)
    if kind in ("max_pool", "avg_pool"):
        pool: nn.Module = nn.MaxPool2d(kernel, stride, padding=1)
        if kind == "avg_pool":
            pool = nn.AvgPool2d(kernel, stride, padding=1, count_include_pad=False)
        return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=affine)) if pool_bn else nn.Sequential(pool)
    if kind == "sep_conv":
        return nn.Sequential(
            *depthwise(channels, kernel, stride, 1, affine), *depthwise(channels, kernel, 1, 1, affine)
        )
    if kind == "dil_conv":
        return nn.Sequential(*depthwise(channels, kernel, stride, 2, affine))
    if name == "conv_7x1_1x7":
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
            nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
            nn.BatchNorm2d(channels, affine=affine),
        )
    if name == "none":
        return Zeros(stride)
    raise AssertionError(name)


class Zeros(nn.Module):
    """The operation 'none'."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


# Derived networks -----------------------------------------------------------------------------------------------------


class PlainCell(nn.Module):
    """A cell of a genotype; `edges[node][edge]` are its operations."""

    def __init__(
        self, cell: Cell, in0: int, in1: int, channels: int, reduction: bool, halve0: bool, pool_bn: bool = False
    ) -> None:
        super().__init__()
        self.cell = cell
        self.input0 = HalveResolution(in0, channels) if halve0 else pointwise(in0, channels)
        self.input1 = pointwise(in1, channels)
        self.edges = nn.ModuleList(
            nn.ModuleList(
                plain_op(edge.operation, channels, 2 if reduction and edge.source < 2 else 1, pool_bn=pool_bn)
                for edge in node
            )
            for node in cell.nodes
        )

    def forward(self, before_last: Tensor, last: Tensor) -> Tensor:
        states = [self.input0(before_last), self.input1(last)]
        for node, operations in zip(self.cell.nodes, self.edges, strict=True):
            assert isinstance(operations, nn.ModuleList)
            terms = [op(states[edge.source]) for edge, op in zip(node, operations, strict=True)]
            states.append(torch.stack(terms).sum(0) if terms else torch.tensor(float("nan")))
        return torch.cat([states[number] for number in self.cell.concat], dim=1)


class PlainNetwork(nn.Module):
    """A network of plain cells in the CIFAR or the ImageNet layout: images to logits."""

    def __init__(
        self,
        genotype: Genotype,
        layout: str,
        channels: int,
        num_cells: int,
        num_classes: int,
        in_chans: int = 3,
        pool_bn: bool = False,
    ) -> None:
        super().__init__()
        self.layout = layout
        if layout == "cifar":
            self.stem = nn.Sequential(
                nn.Conv2d(in_chans, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
            )
            width0 = width1 = 3 * channels
        else:
            self.stem0 = nn.Sequential(
                nn.Conv2d(in_chans, channels // 2, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels // 2),
                nn.ReLU(),
                nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(),
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(channels),
            )
            width0 = width1 = channels
        halve0 = layout == "imagenet"
        self.cells = nn.ModuleList()
        for index in range(num_cells):
            reduction = index == num_cells // 3 or index == num_cells * 2 // 3
            if reduction:
                channels *= 2
            cell = genotype.reduce if reduction else genotype.normal
            self.cells.append(PlainCell(cell, width0, width1, channels, reduction, halve0, pool_bn))
            width0, width1, halve0 = width1, channels * len(cell.concat), reduction
        self.classifier = nn.Linear(width1, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        if self.layout == "cifar":
            before_last = last = self.stem(images)
        else:
            before_last = self.stem0(images)
            last = self.stem1(before_last)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        return self.classifier(last.mean(dim=(2, 3)))


def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Copies parameters and buffers one by one, in order; both must have the same number and shapes.

    Counters of batches are passed over: a search's supernet has none.
    """
    ours, theirs = (
        {name: value for name, value in module.state_dict().items() if not name.endswith("num_batches_tracked")}
        for module in (source, target)
    )
    assert [value.shape for value in ours.values()] == [value.shape for value in theirs.values()]
    keys = target.load_state_dict(dict(zip(theirs, ours.values(), strict=True)), strict=False)
    assert not keys.unexpected_keys


def matching_modules(source: CellNet, target: PlainNetwork) -> Iterator[tuple[nn.Module, nn.Module]]:
    """The modules of both networks that hold the same weights; together they make up all of `source`."""
    stems = [target.stem] if target.layout == "cifar" else [target.stem0[:2], target.stem0[3:], target.stem1]
    for block, layers in zip(source.stem, stems, strict=True):
        if not isinstance(block, nn.Identity):
            yield block, layers
    for ours, theirs in zip(source.cells, target.cells, strict=True):
        assert isinstance(theirs, PlainCell)
        if isinstance(ours, SkippedCell):  # left out: nothing reads it
            continue
        assert isinstance(ours, BuiltCell)
        for part, plain_part in ((ours.preprocess0, theirs.input0), (ours.preprocess1, theirs.input1)):
            if not isinstance(part, nn.Identity):
                yield part, plain_part
        live = [theirs.edges[number - 2] for number in theirs.cell.live_nodes]
        for node, operations in zip(ours.nodes, live, strict=True):
            assert isinstance(node, Node)
            yield node.ops, operations
    yield source.classifier, target.classifier


def plain_copy(source: CellNet) -> PlainNetwork:
    """The plain network of the same genotype, settings, weights, dtype and mode."""
    target = PlainNetwork(
        source.genotype,
        source.layout,
        source.init_channels,
        source.num_cells,
        source.num_classes,
        source.in_chans,
        source.pool_bn,
    ).to(source.classifier.weight.dtype)
    for ours, theirs in matching_modules(source, target):
        copy_weights(ours, theirs)
    return target.train(source.training)


# Search networks ------------------------------------------------------------------------------------------------------


class PlainSearchCell(nn.Module):
    """A cell with a weighted sum of all operations on all edges: equation 2 of DARTS.

    Edges in the order (node 2 from 0), (2 from 1), (3 from 0), ...; search form: BatchNorm without scale and shift,
    one behind each pooling.
    """

    def __init__(
        self,
        operations: Sequence[str],
        num_nodes: int,
        in0: int,
        in1: int,
        channels: int,
        reduction: bool,
        halve0: bool,
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        self.num_nodes, self.reduction = num_nodes, reduction
        self.partial_channels, self.op_channels = partial_channels, channels // partial_channels
        self.input0 = HalveResolution(in0, channels, False) if halve0 else pointwise(in0, channels, False)
        self.input1 = pointwise(in1, channels, False)
        self.edges = nn.ModuleList()
        for node in range(2, num_nodes + 2):
            for source in range(node):
                stride = 2 if reduction and source < 2 else 1
                self.edges.append(
                    nn.ModuleList(plain_op(op, self.op_channels, stride, False, True) for op in operations)
                )

    def on_edge(self, edge: int, source: int, state: Tensor, weights: Tensor, edge_weight: Tensor | None) -> Tensor:
        """Equation 2 of DARTS; with partial channels equation 1 of PC-DARTS, its channel shuffle and edge weight."""
        mixed = self.edges[edge]
        assert isinstance(mixed, nn.ModuleList)
        part = state[:, : self.op_channels]
        total = torch.stack([weight * op(part) for weight, op in zip(weights, mixed, strict=True)]).sum(0)
        if self.partial_channels > 1:
            rest = state[:, self.op_channels :]
            if self.reduction and source < 2:
                rest = nn.functional.max_pool2d(rest, 2)
            n, _, height, width = total.shape
            total = torch.cat([total, rest], dim=1)
            total = total.view(n, self.partial_channels, -1, height, width).transpose(1, 2).reshape(total.shape)
        return total if edge_weight is None else edge_weight * total

    def forward(self, before_last: Tensor, last: Tensor, weights: Tensor, edge_weights: Tensor | None = None) -> Tensor:
        """`weights`: (edges, operations), the factor of every operation on every edge; `edge_weights`: (edges,)."""
        states = [self.input0(before_last), self.input1(last)]
        edge = 0
        for _ in range(self.num_nodes):
            terms = []
            for source, state in enumerate(states):
                edge_weight = None if edge_weights is None else edge_weights[edge]
                terms.append(self.on_edge(edge, source, state, weights[edge], edge_weight))
                edge += 1
            states.append(torch.stack(terms).sum(0))
        return torch.cat(states[2:], dim=1)


class PlainSearchNetwork(nn.Module):
    """Search cells in the CIFAR layout: images and the weights of both cell kinds to logits."""

    def __init__(
        self,
        operations: Sequence[str],
        channels: int,
        num_cells: int,
        num_classes: int,
        num_nodes: int = 4,
        in_chans: int = 3,
        partial_channels: int = 1,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels)
        )
        width0 = width1 = 3 * channels
        halve0 = False
        self.cells = nn.ModuleList()
        self.is_reduction: list[bool] = []
        for index in range(num_cells):
            reduction = index == num_cells // 3 or index == num_cells * 2 // 3
            if reduction:
                channels *= 2
            self.cells.append(
                PlainSearchCell(operations, num_nodes, width0, width1, channels, reduction, halve0, partial_channels)
            )
            self.is_reduction.append(reduction)
            width0, width1, halve0 = width1, channels * num_nodes, reduction
        self.classifier = nn.Linear(width1, num_classes)

    def forward(
        self,
        images: Tensor,
        normal: Tensor,
        reduce: Tensor,
        normal_edges: Tensor | None = None,
        reduce_edges: Tensor | None = None,
    ) -> Tensor:
        before_last = last = self.stem(images)
        for cell, reduction in zip(self.cells, self.is_reduction, strict=True):
            weights, edges = (reduce, reduce_edges) if reduction else (normal, normal_edges)
            before_last, last = last, cell(before_last, last, weights, edges)
        return self.classifier(last.mean(dim=(2, 3)))


class PlainSupernet(nn.Module):
    """A PlainSearchNetwork called as a Supernet is, with the mixing of both cell kinds; all operations are active."""

    def __init__(self, supernet: Supernet) -> None:
        super().__init__()
        first = supernet.plan.cells[0]
        self.network = PlainSearchNetwork(
            supernet.space.operations,
            first.channels // (2 if first.kind == "reduce" else 1),
            len(supernet.plan.cells),
            supernet.classifier.out_features,
            supernet.space.num_nodes,
            supernet.plan.stem[0].in_channels,
            supernet.partial_channels,
        )
        self.load_from(supernet)

    def load_from(self, supernet: Supernet) -> None:
        copy_weights(supernet, self.network)

    def forward(self, images: Tensor, mixing: Mapping[str, Mixing]) -> Tensor:
        weights: dict[str, Tensor] = {}
        edges: dict[str, Any] = {}
        for kind, mixes in mixing.items():
            whole = torch.stack([mix.weights for mix in mixes if mix.weights is not None])
            factors = [mix.edge for mix in mixes if mix.edge is not None]
            edges[kind] = torch.stack(factors) if factors else None
            weights[kind] = whole / edges[kind][:, None] if factors else whole
        return self.network(images, weights["normal"], weights["reduce"], edges["normal"], edges["reduce"])
