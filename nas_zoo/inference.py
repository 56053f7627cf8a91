"""The same network in a form that only infers, and does so faster: ``optimize_for_inference``.

Equal logits up to rounding; what differs is how they are computed:

* Every BatchNorm is folded into the 1x1 convolution (or the pooling) in front of it.
* Maps are kept as (N, H, W, C), where a 1x1 convolution is a matrix product. The products that end in a node add to
  its part of the cell's output where it stands: no sums, no concatenation.
* Depthwise convolutions of one size that can run at the same time (all those that read the cell's inputs, say) run as
  one, on their maps side by side.
* A cell's output is read by two 1x1 convolutions, those of the next cell and of the one behind it: one product.
* On a CPU a large batch is worked off a few images at a time, whose maps stay in the cache.

The papers' networks are bound by memory and by the number of calls, not by arithmetic, hence the gain.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from nas_zoo.layout import CellSpec
from nas_zoo.network import Cell, CellNet, StemBlock, _plan
from nas_zoo.ops import (
    DilatedConv,
    FactorizedReduce,
    NormalizedPool,
    PointwiseNorm,
    SeparableConv,
    StackedConv,
)

__all__ = ["InferenceNet", "optimize_for_inference"]

#: Bytes of a cell's output that a part of a batch may have on a CPU: about what a core's own cache holds.
CACHE_BYTES = 3_000_000


def optimize_for_inference(model: nn.Module, *, images_at_once: int | None = None) -> "InferenceNet":
    """A new network with the logits of ``model`` (to about 1e-6 of the largest), for inference only.

    The model itself is left as it is; device and dtype are those of its weights. The result can be moved and compiled
    like any module; it has no gradients, no training mode and no parameters that a checkpoint would fit.

    Args:
        model: A network of this package, in eval mode.
        images_at_once: On a CPU a larger batch is cut into parts of so many images; None chooses by the size of the
            maps, 0 never cuts.

    Raises:
        ValueError: For another kind of model, one in training mode, or a number below 0.
    """
    if not isinstance(model, CellNet):
        kind = type(model).__name__
        hint = " (compile what comes out, not what goes in)" if hasattr(model, "_orig_mod") else ""
        raise ValueError(f"optimize_for_inference: {kind} is no network of nas-zoo{hint}; a CellNet is accepted")
    if model.training:
        raise ValueError(
            "optimize_for_inference: the model is in training mode, where BatchNorm depends on the batch and cannot be "
            "folded; call model.eval() first"
        )
    if images_at_once is not None and images_at_once < 0:
        raise ValueError(f"images_at_once={images_at_once}: a number from 0, or None, is accepted")
    with torch.no_grad():
        return InferenceNet(model, images_at_once)


# Folding --------------------------------------------------------------------------------------------------------------


def _scale_and_shift(bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """What a BatchNorm multiplies with and adds, in float64: (C), (C)."""
    assert bn.running_mean is not None
    assert bn.running_var is not None
    scale = torch.rsqrt(bn.running_var.double() + bn.eps)
    if bn.weight is not None:
        scale = scale * bn.weight.double()
    shift = -bn.running_mean.double() * scale
    return scale, shift if bn.bias is None else shift + bn.bias.double()


def _as_matrix(conv: nn.Conv2d, scale: Tensor) -> Tensor:
    """A 1x1 convolution whose outputs are scaled: (C_in, C_out), float64."""
    return (conv.weight.double().flatten(1) * scale[:, None]).t()


def _fold(conv: nn.Conv2d, bn: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """1x1 convolution and BatchNorm as a product: (C_in, C_out), (C_out)."""
    scale, shift = _scale_and_shift(bn)
    return _as_matrix(conv, scale), shift


def _fixed(value: Tensor, like: Tensor) -> nn.Parameter:
    """A weight that is not trained, in dtype of ``like``; depthwise kernels in channels_last."""
    value = value.detach().to(like.dtype)
    layout = torch.channels_last if value.ndim == 4 else torch.contiguous_format
    return nn.Parameter(value.contiguous(memory_format=layout), requires_grad=False)


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_at_end(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


# Parts ----------------------------------------------------------------------------------------------------------------


class _Stem(nn.Module):
    """3x3 convolution with its BatchNorm, ReLU: (N, H, W, C)."""

    def __init__(self, block: StemBlock) -> None:
        super().__init__()
        scale, shift = _scale_and_shift(block.bn)
        self.weight = _fixed(block.conv.weight.double() * scale[:, None, None, None], block.conv.weight)
        self.bias = _fixed(shift, block.conv.weight)
        self.stride = block.conv.stride[0]

    def forward(self, x: Tensor) -> Tensor:
        y = F.conv2d(_channels_first(x), self.weight, self.bias, self.stride, 1).relu_()
        return _channels_at_end(y).contiguous()


class _Halve(nn.Module):
    """FactorizedReduce: adds to (N * H/2 * W/2, C_out) what it makes of (N, H, W, C)."""

    def __init__(self, reduce: FactorizedReduce) -> None:
        super().__init__()
        scale, self.shift = _scale_and_shift(reduce.bn)
        half = reduce.conv1.out_channels
        self.even = _fixed(_as_matrix(reduce.conv1, scale[:half]), reduce.conv1.weight)
        self.odd = _fixed(_as_matrix(reduce.conv2, scale[half:]), reduce.conv1.weight)

    def forward(self, x: Tensor, out: Tensor) -> None:
        height, width, channels = x.shape[1:]
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        half = self.even.shape[1]
        out[:, :half].addmm_(x[:, ::2, ::2].reshape(-1, channels), self.even)
        out[:, half:].addmm_(x[:, 1::2, 1::2].reshape(-1, channels), self.odd)


class _Entry(nn.Module):
    """What is made of a layer's output: input 1 of the cell behind it, and input 0 of the cell behind that one."""

    def __init__(self, preprocess1: nn.Module | None, preprocess0: nn.Module | None, like: Tensor) -> None:
        super().__init__()
        parts = [_fold(part.conv, part.bn) for part in (preprocess1, preprocess0) if isinstance(part, PointwiseNorm)]
        self.reads_1 = isinstance(preprocess1, PointwiseNorm)
        self.reads_0 = isinstance(preprocess0, PointwiseNorm | FactorizedReduce)
        self.channels_1 = parts[0][0].shape[1] if self.reads_1 else 0
        self.weight = _fixed(torch.cat([weight for weight, _ in parts], 1), like) if parts else None
        self.bias = _fixed(torch.cat([shift for _, shift in parts]), like) if parts else None
        self.halve = _Halve(preprocess0) if isinstance(preprocess0, FactorizedReduce) else None
        self.halve_bias = None if self.halve is None else _fixed(self.halve.shift, like)

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        n, height, width, channels = x.shape
        input_1 = input_0 = None
        if self.weight is not None:
            assert self.bias is not None
            both = torch.addmm(self.bias, x.reshape(-1, channels), self.weight).view(n, height, width, -1)
            input_1 = both[..., : self.channels_1] if self.reads_1 else None
            input_0 = both[..., self.channels_1 :] if self.reads_0 else None
        if self.halve is not None:
            assert self.halve_bias is not None
            height, width = -(-height // 2), -(-width // 2)
            rows = self.halve_bias.expand(n * height * width, -1).contiguous()
            self.halve(x, rows)
            input_0 = rows.view(n, height, width, -1)
        return input_1, input_0


class _Depthwise(nn.Module):
    """Convolutions of one kind, kernel and stride, side by side: adds what they give to the nodes they end in.

    A dilated one is depthwise, product; a separable one is depthwise, product, ReLU, depthwise, product.
    """

    def __init__(self, edges: Sequence[tuple[int, int, SeparableConv | DilatedConv]]) -> None:
        """``edges``: state that is read, node that is added to, operation; those of one node follow each other."""
        super().__init__()
        ops = [op for _, _, op in edges]
        self.sources = [source for source, _, _ in edges]
        firsts = [op.dw1 if isinstance(op, SeparableConv) else op.dw for op in ops]
        like = firsts[0].weight
        self.channels = firsts[0].in_channels
        self.stride, self.padding, self.dilation = firsts[0].stride, firsts[0].padding, firsts[0].dilation
        self.first = _fixed(torch.cat([conv.weight for conv in firsts]), like)
        self.separable = isinstance(ops[0], SeparableConv)
        self.between = nn.ParameterList()
        lasts = []
        if self.separable:
            inner = [_fold(op.pw1, op.bn1) for op in ops if isinstance(op, SeparableConv)]
            lasts = [_fold(op.pw2, op.bn2) for op in ops if isinstance(op, SeparableConv)]
            self.between = nn.ParameterList([_fixed(weight, like) for weight, _ in inner])
            self.between_bias = _fixed(torch.cat([shift for _, shift in inner]), like)
            seconds = [op.dw2 for op in ops if isinstance(op, SeparableConv)]
            self.second = _fixed(torch.cat([conv.weight for conv in seconds]), like)
            self.second_padding = seconds[0].padding
        else:
            lasts = [_fold(op.pw, op.bn) for op in ops if isinstance(op, DilatedConv)]
        self.shifts = [(node, shift) for (_, node, _), (_, shift) in zip(edges, lasts, strict=True)]
        # The products of one node: one product of the maps side by side and the matrices one above the other.
        self.targets: list[tuple[int, int, int]] = []  # node, first column, last column
        matrices: list[list[Tensor]] = []
        for i, (node, (weight, _)) in enumerate(zip((node for _, node, _ in edges), lasts, strict=True)):
            begin = i * self.channels
            if self.targets and self.targets[-1][0] == node:
                self.targets[-1] = (node, self.targets[-1][1], begin + self.channels)
                matrices[-1].append(weight)
            else:
                self.targets.append((node, begin, begin + self.channels))
                matrices.append([weight])
        self.lasts = nn.ParameterList([_fixed(torch.cat(parts), like) for parts in matrices])

    def forward(self, relus: list[Tensor], nodes: list[Tensor]) -> None:
        c, total = self.channels, self.first.shape[0]
        sources = [relus[source] for source in self.sources]
        x = _channels_first(sources[0] if len(sources) == 1 else torch.cat(sources, 3))
        y = F.conv2d(x, self.first, None, self.stride, self.padding, self.dilation, total)
        if self.separable:
            n, _, height, width = y.shape
            rows = _channels_at_end(y).reshape(-1, total)
            if len(sources) == 1:
                inner = torch.addmm(self.between_bias, rows, self.between[0])
            else:
                inner = self.between_bias.expand(len(rows), -1).contiguous()
                for i, weight in enumerate(self.between):
                    inner[:, i * c : (i + 1) * c].addmm_(rows[:, i * c : (i + 1) * c], weight)
            y = _channels_first(inner.relu_().view(n, height, width, total))
            y = F.conv2d(y, self.second, None, 1, self.second_padding, 1, total)
        rows = _channels_at_end(y).reshape(-1, total)
        for (node, begin, end), weight in zip(self.targets, self.lasts, strict=True):
            nodes[node].addmm_(rows[:, begin:end], weight)


class _Stacked(nn.Module):
    """1x7 and 7x1 convolution."""

    def __init__(self, op: StackedConv) -> None:
        super().__init__()
        self.conv1, self.stride, self.padding = copy.deepcopy(op.conv1), op.conv2.stride, op.conv2.padding
        self.conv1.requires_grad_(False)
        scale, self.shift = _scale_and_shift(op.bn)
        self.weight = _fixed(op.conv2.weight.double() * scale[:, None, None, None], op.conv2.weight)

    def forward(self, x: Tensor, out: Tensor) -> None:
        y = F.conv2d(self.conv1(_channels_first(x)), self.weight, None, self.stride, self.padding)
        out.add_(_channels_at_end(y).reshape(out.shape))


class _Pool(nn.Module):
    """A pooling, scaled where a BatchNorm follows."""

    def __init__(self, pool: nn.Module, bn: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.pool = copy.deepcopy(pool)
        self.scale, self.shift = None, None
        if bn is not None:
            scale, self.shift = _scale_and_shift(bn)
            like = bn.running_mean
            assert like is not None
            self.scale = _fixed(scale, like)

    def forward(self, x: Tensor, out: Tensor) -> None:
        y = _channels_at_end(self.pool(_channels_first(x))).reshape(out.shape)
        if self.scale is None:
            out.add_(y)
        else:
            out.addcmul_(y, self.scale)


class _Identity(nn.Module):
    def forward(self, x: Tensor, out: Tensor) -> None:
        out.view(x.shape).add_(x)


def _single(op: nn.Module) -> "_Halve | _Stacked | _Pool | _Identity":
    """The form of an operation that runs by itself; its ``shift``, if it has one, is for the node's bias."""
    if isinstance(op, nn.Identity):
        return _Identity()
    if isinstance(op, FactorizedReduce):
        return _Halve(op)
    if isinstance(op, StackedConv):
        return _Stacked(op)
    if isinstance(op, NormalizedPool):
        return _Pool(op.pool, op.bn)
    if isinstance(op, nn.MaxPool2d | nn.AvgPool2d):
        return _Pool(op, None)
    raise ValueError(f"optimize_for_inference: {type(op).__name__} has no form for inference")


class _Edge(nn.Module):
    """One operation between two states."""

    def __init__(self, source: int, node: int, wants_relu: bool, op: nn.Module) -> None:
        super().__init__()
        self.source, self.node, self.wants_relu = source, node, wants_relu
        self.op = _single(op)


class _FastCell(nn.Module):
    """The nodes of a cell: inputs (N, H, W, C) to output (N, H, W, C * nodes in the concat)."""

    def __init__(self, cell: Cell, spec: CellSpec, like: Tensor) -> None:
        super().__init__()
        self.activate, self.stride = cell.activate, spec.stride
        self.num_nodes = len(cell.nodes)
        self.wants_relu = list(cell.wants_relu)
        # The nodes of the concat, then the others; node i has the columns of place[i].
        places = [state - 2 for state in cell.concat]
        places += [i for i in range(self.num_nodes) if i not in places]
        self.place = [places.index(i) for i in range(self.num_nodes)]
        self.num_out = len(cell.concat)
        # What reads state s runs as soon as s is there; both inputs are there at once (stage 1).
        self.groups = nn.ModuleList(nn.ModuleList() for _ in range(self.num_nodes + 2))
        self.singles = nn.ModuleList(nn.ModuleList() for _ in range(self.num_nodes + 2))
        together: dict[tuple[Any, ...], list[tuple[int, int, SeparableConv | DilatedConv]]] = {}
        shifts: list[tuple[int, Tensor]] = []
        for i, node in enumerate(cell.nodes):
            for op, source, wants in zip(node.ops, node.sources, node.wants_relu, strict=True):  # type: ignore[arg-type]
                stage = max(1, source)
                if isinstance(op, SeparableConv | DilatedConv):
                    first = op.dw1 if isinstance(op, SeparableConv) else op.dw
                    together.setdefault((stage, type(op), first.kernel_size, first.stride), []).append((source, i, op))
                else:
                    edge = _Edge(source, i, wants, op)
                    self._add(self.singles, stage, edge)
                    shift = getattr(edge.op, "shift", None)
                    if shift is not None:
                        shifts.append((i, shift))
        for (stage, *_), edges in together.items():
            group = _Depthwise(edges)
            self._add(self.groups, stage, group)
            shifts += group.shifts
        bias = torch.zeros(self.num_nodes, spec.channels, dtype=torch.float64, device=like.device)
        for i, shift in shifts:
            bias[self.place[i]] += shift
        self.bias = _fixed(bias.flatten(), like)

    @staticmethod
    def _add(lists: nn.ModuleList, stage: int, module: nn.Module) -> None:
        stages = lists[stage]
        assert isinstance(stages, nn.ModuleList)
        stages.append(module)

    def forward(self, input_0: Tensor | None, input_1: Tensor | None) -> Tensor:
        given = input_0 if input_1 is None else input_1
        assert given is not None
        n, height, width, c = given.shape
        height, width = -(-height // self.stride), -(-width // self.stride)
        width_out = self.num_out * c
        rows = n * height * width
        out = self.bias[:width_out].expand(rows, -1).contiguous()
        others = None
        if self.num_nodes > self.num_out:
            others = self.bias[width_out:].expand(rows, -1).contiguous()
        nodes: list[Tensor] = []
        for place in self.place:
            if place < self.num_out or others is None:
                nodes.append(out[:, place * c : (place + 1) * c])
            else:
                nodes.append(others[:, (place - self.num_out) * c : (place - self.num_out + 1) * c])
        # An input that nothing reads is never looked at; the other stands in for it.
        states = [given if input_0 is None else input_0, given]
        relus = [F.relu(state) if self.wants_relu[i] else state for i, state in enumerate(states)]
        for stage, (groups, singles) in enumerate(zip(self.groups, self.singles, strict=True)):
            if stage >= 2:  # all that ends in this node has been added
                state = nodes[stage - 2].view(n, height, width, c)
                states.append(state)
                relus.append(F.relu(state) if self.wants_relu[stage] else state)
            assert isinstance(groups, nn.ModuleList)
            assert isinstance(singles, nn.ModuleList)
            for edge in singles:
                assert isinstance(edge, _Edge)
                edge.op((relus if edge.wants_relu else states)[edge.source], nodes[edge.node])
            for group in groups:
                group(relus, nodes)
        if self.activate:
            out.relu_()
        return out.view(n, height, width, width_out)


# Network --------------------------------------------------------------------------------------------------------------


class InferenceNet(nn.Module):
    """What ``optimize_for_inference`` makes: images (N, in_chans, H, W) to logits (N, num_classes)."""

    def __init__(self, model: CellNet, images_at_once: int | None = None) -> None:
        super().__init__()
        self.genotype, self.layout = model.genotype, model.layout
        self.init_channels, self.num_cells = model.init_channels, len(model.cells)
        self.num_classes, self.in_chans, self.num_features = model.num_classes, model.in_chans, model.num_features
        self.head_hidden_size = model.head_hidden_size
        self.feature_info, self.feature_ends = copy.deepcopy(model.feature_info), list(model.feature_ends)
        self.pretrained_cfg = self.default_cfg = copy.deepcopy(getattr(model, "pretrained_cfg", None))
        self.images_at_once = images_at_once
        like = next(model.parameters())
        self.stem = nn.ModuleList(
            _Stem(block) if isinstance(block, StemBlock) else nn.Identity() for block in model.stem
        )
        cells: list[nn.Module] = list(model.cells)
        inputs = [(_part(cell, "preprocess0"), _part(cell, "preprocess1")) for cell in cells] + [(None, None)]
        # Entry i reads what cell i reads as its input 1; the first of them reads input 0 of the first cell.
        self.first = _Entry(None, inputs[0][0] if cells else None, like)
        self.entries = nn.ModuleList(_Entry(inputs[i][1], inputs[i + 1][0], like) for i in range(len(cells)))
        plan = _plan(model.genotype, model.layout, model.init_channels, model.num_cells, model.in_chans)
        self.cells = nn.ModuleList(
            _FastCell(cell, spec, like) if isinstance(cell, Cell) else nn.Identity()
            for cell, spec in zip(cells, plan.cells, strict=False)  # a pruned network has fewer
        )
        self.global_pool, self.classifier = copy.deepcopy(model.global_pool), copy.deepcopy(model.classifier)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "InferenceNet":
        """Accepts eval mode only.

        Raises:
            ValueError: For training mode.
        """
        if mode:
            raise ValueError("this network is for inference only: its BatchNorms are folded; train the original model")
        return super().train(False)

    def _run(self, x: Tensor, taps: list[int], stop: int) -> tuple[Tensor, list[Tensor]]:
        """As CellNet's: layers up to ``stop`` (-1: all), the last output and those of the layers in ``taps``."""
        taken: list[Tensor] = []
        layer = 0
        x = _channels_at_end(x.contiguous(memory_format=torch.channels_last)).contiguous()
        before = x
        for block in self.stem:
            if stop < 0 or layer <= stop:
                before, x = x, block(x)
                if layer in taps:
                    taken.append(_channels_first(x))
            layer += 1
        if stop >= 0 and layer > stop:
            return _channels_first(x), taken
        input_0 = self.first(x if len(self.stem) == 1 else before)[1]
        for entry, cell in zip(self.entries, self.cells, strict=True):
            if stop < 0 or layer <= stop:
                input_1, next_input_0 = entry(x)
                if isinstance(cell, _FastCell):
                    x = cell(input_0, input_1)
                input_0 = next_input_0
                if layer in taps:
                    taken.append(_channels_first(x))
            layer += 1
        return _channels_first(x), taken

    @torch.no_grad()
    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, num_features, H', W') in channels_last."""
        return self._run(x, [], -1)[0]

    @torch.no_grad()
    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """As CellNet's: the last layer's output and those of the feature levels asked for."""
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        take_indices, max_index = feature_take_indices(len(self.feature_ends), indices)
        taps = [self.feature_ends[i] for i in take_indices]
        x, taken = self._run(x, taps, self.feature_ends[max_index] if stop_early else -1)
        return taken if intermediates_only else (x, taken)

    @torch.no_grad()
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features to logits, or to what the classifier reads."""
        x = self.global_pool(x)
        return x if pre_logits else self.classifier(x)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        at_once = self._images_at_once(x)
        if not at_once or len(x) <= at_once:
            return self.forward_head(self.forward_features(x))
        return torch.cat([self.forward_head(self.forward_features(part)) for part in x.split(at_once)])

    def _images_at_once(self, x: Tensor) -> int:
        """Into parts of how many images a batch is cut; 0 for not at all."""
        if self.images_at_once is not None:
            return self.images_at_once
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return 0
        pixels = x.shape[2] * x.shape[3] / (1 if self.layout == "cifar" else 64)
        image_bytes = pixels * 4 * self.init_channels * x.element_size()
        return max(1, round(CACHE_BYTES / image_bytes))


def _part(cell: nn.Module, name: str) -> nn.Module | None:
    part = getattr(cell, name, None)
    return None if isinstance(part, nn.Identity) else part
