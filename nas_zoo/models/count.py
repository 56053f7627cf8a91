"""Parameters and multiply-adds of a network, under one stated convention.

Three conventions are in use for one and the same network (521M, 530M and 574M multiply-adds for DARTS_V2 on ImageNet).
Here: the multiply-adds of all convolutions and of the classifier, one for each weight and output position (padding
counted as if it were data); BatchNorm, pooling, ReLU and sums count nothing. Parameters: all of the network's, the
classifier's too; an auxiliary head is no part of a network here.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_zoo.genotype import KINDS, OPERATIONS, Genotype
from nas_zoo.models.layout import CellSpec, find_live, plan_network

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CONVENTION", "Counts", "Stage", "count", "count_stages", "require_memory", "work_out"]

CONVENTION = "multiply-adds of convolutions and classifier; parameters without auxiliary head"

#: Of an image's side: more than any picture has, and what a tensor can still be counted for.
MOST_PIXELS = 100_000


@dataclass(frozen=True)
class Counts:
    """Of one network at one input size and a batch of one."""

    params: int
    macs: int  # multiply-adds
    activations: int  # elements of all outputs of convolutions and classifier
    input_size: tuple[int, int, int]  # (C, H, W)


@dataclass(frozen=True)
class Stage:
    """The layers of one resolution, or the classifier."""

    name: str
    output_size: tuple[int, ...]  # (C, H, W), or (classes,)
    params: int
    macs: int
    activations: int


def count(model: nn.Module, input_size: tuple[int, int, int]) -> Counts:
    """Counts by running the model once on an image of zeros; on the meta device that costs nothing.

    Args:
        model: Maps images (N, C, H, W) to logits.
        input_size: (C, H, W) of the image.
    """
    seen, _ = _see(model, input_size)
    macs, activations = (sum(numbers[i] for numbers in seen.values()) for i in (0, 1))
    return Counts(sum(p.numel() for p in model.parameters()), macs, activations, input_size)


def count_stages(model: Any, input_size: tuple[int, int, int]) -> list[Stage]:
    """Counts of a CellNet's stem, of its cells resolution by resolution, and of its classifier; they add up to count's.

    Args:
        model: A CellNet.
        input_size: (C, H, W) of the image.
    """
    seen, shapes = _see(model, input_size)
    plan = plan_network(
        model.layout,
        model.init_channels,
        model.num_cells,
        {kind: len(model.genotype.cell(kind).concat) for kind in KINDS},
        model.in_chans,
    )
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for i in range(len(plan.stem)):
        groups["stem", 0].append(f"stem.{i}")
    for spec in plan.cells:
        groups["cells", spec.reduction].append(f"cells.{spec.index}")
    groups["classifier", 0].append("classifier")
    stages = []
    for (kind, _), parts in groups.items():
        name = kind
        if kind == "cells":
            first, last = parts[0].removeprefix("cells."), parts[-1].removeprefix("cells.")
            name = f"cells {first}" + (f" to {last}" if first != last else "")
        inside = [numbers for key, numbers in seen.items() if ".".join(key.split(".")[:2]) in parts]
        modules = [model.get_submodule(part) for part in parts]
        size = next((shapes[part] for part in reversed(parts) if part in shapes), ())
        params = sum(parameter.numel() for module in modules for parameter in module.parameters())
        stages.append(Stage(name, size, params, sum(n[0] for n in inside), sum(n[1] for n in inside)))
    return stages


def require_memory(model: nn.Module, input_size: tuple[int, int, int], batch: int = 1) -> None:
    """ValueError where the largest layer alone, in and out in float32, takes more memory than is free.

    Before it is tried: a system that runs out of memory ends programs, and not always the one that took it.
    """
    from nas_zoo.runs.facts import free_memory  # which imports torch

    free, shapes = free_memory(), dict[str, tuple[int, ...]]()
    if next(model.parameters(), None) is not None:  # whose device is where it runs
        with contextlib.suppress(Exception):  # of a model that is none of ours, which may not run on meta
            _, shapes = _see(copy.deepcopy(model).to("meta"), input_size)
    least = 4 * batch * max([math.prod(input_size), *(2 * math.prod(shape) for shape in shapes.values())])
    if free is not None and least > free:
        raise ValueError(
            f"input_size={input_size}: one layer alone takes {least / 1e9:,.1f} GB for a batch of {batch}, "
            f"{free / 1e9:,.1f} GB are free; smaller images or a smaller batch would do"
        )


def _see(
    model: nn.Module, input_size: tuple[int, int, int]
) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, ...]]]:
    """Of one run: {layer: (multiply-adds, elements put out)} and {module: shape put out, without the batch}."""
    import torch  # here, because the arithmetic below needs none
    from torch import nn

    if not all(1 <= size <= MOST_PIXELS for size in input_size):
        raise ValueError(f"input_size must be numbers from 1 to {MOST_PIXELS}, got {input_size}")
    seen: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
    shapes: dict[str, tuple[int, ...]] = {}
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def see(_: nn.Module, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                shapes[name] = tuple(output.shape[1:])
            if isinstance(module, nn.Conv2d | nn.Linear):
                macs, activations = seen[name]
                # Each output element takes one multiply-add for each weight of its output channel.
                macs += output.numel() * module.weight[0].numel()
                seen[name] = macs, activations + output.numel()

        handles.append(module.register_forward_hook(see))

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) or name.count(".") == 1:
            watch(name, module)
    training, device = model.training, next(model.parameters()).device
    try:
        model.eval()
        with torch.no_grad():
            model(torch.zeros(1, *input_size, device=device))
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return seen, shapes


# Without a network ----------------------------------------------------------------------------------------------------


def work_out(
    genotype: Genotype,
    layout: str,
    init_channels: int,
    num_cells: int,
    num_classes: int,
    input_size: tuple[int, int, int],
) -> Counts:
    """The same counts from the cells alone, by arithmetic: no network is made, a model takes milliseconds.

    Args:
        genotype: The cells.
        layout: "cifar" or "imagenet".
        init_channels: C.
        num_cells: Cells in all.
        num_classes: Outputs of the classifier, 0 for none.
        input_size: (C, H, W) of the image.
    """
    in_chans, *size = input_size
    num_concat: dict[str, int] = {kind: len(genotype.cell(kind).concat) for kind in KINDS}
    plan = plan_network(layout, init_channels, num_cells, num_concat, in_chans)
    live = find_live([genotype.cell(spec.kind).inputs_read for spec in plan.cells], [num_cells - 1])
    total = _Sum()
    height, width = size
    for i, stem in enumerate(plan.stem):
        height, width = _strided(height, stem.stride), _strided(width, stem.stride)
        if i < len(plan.stem) - 1 or len(plan.stem) == 1 or -1 in live:
            total.conv(9 * stem.in_channels, stem.out_channels, height * width)
            total.params += 2 * stem.out_channels  # of the BatchNorm, here and below
    for spec in plan.cells:
        inner = (height, width)
        height, width = _strided(height, spec.stride), _strided(width, spec.stride)
        if spec.index in live:
            _add_cell(total, genotype, spec, inner, (height, width))
    if num_classes:
        total.conv(plan.cells[-1].out_channels, num_classes, 1)
        total.params += num_classes
    return Counts(total.params, total.macs, total.activations, input_size)


class _Sum:
    def __init__(self) -> None:
        self.params = self.macs = self.activations = 0

    def conv(self, weights: int, channels: int, positions: int) -> None:
        """A convolution of `weights` for each of its output channels, at that many output positions."""
        self.params += weights * channels
        self.macs += weights * channels * positions
        self.activations += channels * positions


def _strided(size: int, stride: int) -> int:
    return -(-size // stride)


def _add_cell(
    total: _Sum, genotype: Genotype, spec: CellSpec, size_in: tuple[int, int], size_out: tuple[int, int]
) -> None:
    cell, c = genotype.cell(spec.kind), spec.channels
    inside, outside = size_in[0] * size_in[1], size_out[0] * size_out[1]
    for source in cell.inputs_read:
        total.conv(spec.in_channels[source], c, inside)
        total.params += 2 * c
    for number in cell.live_nodes:
        for operation, source in cell.nodes[number - 2]:
            if operation not in OPERATIONS:
                raise ValueError(f"what {operation!r} counts is not known from its name: count(model, input_size)")
            stride = spec.stride if source < 2 else 1
            kernel = int(operation[-1]) if operation[-1].isdigit() else 0
            if operation.startswith(("sep_conv", "dil_conv")):
                for _ in range(2 if operation.startswith("sep_conv") else 1):
                    total.conv(kernel**2, c, outside)
                    total.conv(c, c, outside)
                    total.params += 2 * c
            elif operation == "conv_7x1_1x7":
                rows = size_in[0] if stride == 2 else size_out[0]
                total.conv(7 * c, c, rows * size_out[1])
                total.conv(7 * c, c, outside)
                total.params += 2 * c
            elif operation == "skip_connect" and stride == 2:
                total.conv(c, c, outside)
                total.params += 2 * c
