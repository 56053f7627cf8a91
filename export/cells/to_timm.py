"""Writes a genotype for use without this package: as a Python module with its network, or as text.

nas-zoo export-model darts_v2 --to timm-module --output my_darts.py     # then: import my_darts, timm
nas-zoo export-model runs/edas --to darts

timm-module  one readable .py file of the derived network, torch and timm only; importing it registers the model
             with timm, and it loads the state dicts of the same network here
darts        the tuple text that the DARTS code and its relatives read
json         this package's own text
dot          both cells as one Graphviz graph
"""

import inspect
import keyword
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas_zoo import __version__
from nas_zoo.genotype import KINDS, Cell, Genotype, as_genotype
from nas_zoo.models import operations
from nas_zoo.models.depthwise import DepthwiseConv
from nas_zoo.models.layout import LAYOUTS, plan_network
from nas_zoo.models.registry import DATA
from nas_zoo.runs.files import write_text

__all__ = ["FORMATS", "export_model", "to_dot", "to_timm_module"]

FORMATS = ("timm-module", "darts", "json", "dot")

#: Classes of nas_zoo.models.operations that an operation's module is made of.
_CLASSES: dict[str, Callable[..., Any]] = {
    "sep_conv": operations.SeparableConv,
    "dil_conv": operations.DilatedConv,
    "conv_7x1": operations.StackedConv,
}


def export_model(
    genotype: Any, to: str, output: Path | str | None = None, *, name: str | None = None, **kw: Any
) -> str:
    """The text in that format, written to `output` if one is given.

    Args:
        genotype: What ``as_genotype`` takes.
        to: One of FORMATS.
        output: A file; one that is there is replaced.
        name: Of the model or of the assignment; default: the genotype's own name, or that of the output.
        kw: Of to_timm_module: layout, init_channels, num_cells, num_classes.
    """
    if to not in FORMATS:
        raise ValueError(f"format {to!r} is unknown; accepted: {', '.join(FORMATS)}")
    if name is None:
        name = Path(output).stem if output is not None and to == "timm-module" else Path(str(genotype)).stem
        name = re.sub(r"\W+", "_", name) if isinstance(genotype, str | Path) or output is not None else "derived"
    cells = as_genotype(genotype)
    if to == "timm-module":
        text = to_timm_module(cells, name, **kw)
    elif any(value is not None for value in kw.values()):
        given = ", ".join(key for key, value in kw.items() if value is not None)
        raise ValueError(f"{given}: accepted with --to timm-module only, a genotype as {to} has no size")
    elif to == "darts":
        text = cells.to_darts(name.upper() if name.isidentifier() else None) + "\n"
    elif to == "json":
        text = cells.to_json(2, name=name)
    else:
        text = to_dot(cells, name)
    if output is not None:
        write_text(output, text)
    return text


def to_dot(genotype: Genotype, name: str = "cells") -> str:
    """Both cells as a Graphviz digraph with a cluster each; edges bear their operations."""
    lines = [f'digraph "{name}" {{', "  rankdir=LR; node [shape=box, style=rounded, fontname=Helvetica];"]
    for kind in KINDS:
        cell = genotype.cell(kind)
        lines += [f"  subgraph cluster_{kind} {{", f'    label="{kind} cell";']
        titles = ["cell before last", "last cell", *(str(number) for number in range(2, len(cell.nodes) + 2))]
        lines += [f'    {kind}_{number} [label="{title}"];' for number, title in enumerate(titles)]
        lines.append(f'    {kind}_out [label="concat"];')
        for number, node in enumerate(cell.nodes, start=2):
            lines += [f'    {kind}_{edge.source} -> {kind}_{number} [label="{edge.operation}"];' for edge in node]
        lines += [f"    {kind}_{number} -> {kind}_out;" for number in cell.concat]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def to_timm_module(
    genotype: Genotype,
    name: str,
    *,
    layout: str | None = None,
    init_channels: int | None = None,
    num_cells: int | None = None,
    num_classes: int | None = None,
) -> str:
    """The text of a module with the derived network, which registers it with timm under that name.

    Its state dict has the names of a CellNet of the same settings. What does not reach the output is not in it.

    Args:
        genotype: The cells.
        name: Of the model; a Python name in lower case.
        layout: "cifar" (the default) or "imagenet".
        init_channels: C; default 36, ImageNet 48.
        num_cells: Default 20, ImageNet 14.
        num_classes: Default 10, ImageNet 1000.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise ValueError(f"name {name!r}: a Python name in lower case (letters, digits, _) is accepted for a model")
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout={layout!r} is unknown; accepted: {', '.join(LAYOUTS)}")
    data = DATA["in1k" if layout == "imagenet" else "c10"]
    channels, cells = init_channels or data.init_channels, num_cells or data.num_cells
    classes = data.num_classes if num_classes is None else num_classes
    plan_network(data.layout, channels, cells, {kind: len(genotype.cell(kind).concat) for kind in KINDS})  # checks them
    blocks: list[Any] = [operations.PointwiseNorm, operations.FactorizedReduce]
    blocks += [made for start, made in _CLASSES.items() if any(op.startswith(start) for op in genotype.operations)]
    imagenet = data.layout == "imagenet"
    text = _TEMPLATE
    for mark, words in {
        "NAME": name,
        "CLASS": "".join(part.capitalize() for part in name.split("_")) or "Derived",
        "VERSION": __version__,
        "DIGEST": genotype.digest,
        "LAYOUT": data.layout,
        "CHANNELS": str(channels),
        "CELLS": str(cells),
        "CLASSES": str(classes),
        "NORMAL": _cell_text(genotype.normal),
        "REDUCE": _cell_text(genotype.reduce),
        "BLOCKS": _block_text(blocks),
        "OPERATIONS": _OPERATIONS_START + "".join(_branch(op) for op in sorted(genotype.operations)).rstrip(),
        "STEM": _STEM_IMAGENET if imagenet else _STEM_CIFAR,
        "INPUTS": _INPUTS_IMAGENET if imagenet else _INPUTS_CIFAR,
        "SIZE": "(3, 224, 224)" if imagenet else "(3, 32, 32)",
        "POOL": "(7, 7)" if imagenet else "(8, 8)",
        "CROP": "0.875" if imagenet else "1.0",
        "INTERPOLATION": "bicubic" if imagenet else "bilinear",
        "MEAN": repr(data.mean),
        "STD": repr(data.std),
    }.items():
        text = text.replace(f"<{mark}>", words)
    return text


#: Stands for nas_zoo.models.depthwise.every_other_pixel, whose backward pass is of use on a CPU only.
_EVERY_OTHER_PIXEL = '''def every_other_pixel(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x at even rows and columns, and at odd ones; where a side is odd the second has zeros at its end."""
    return x[:, :, ::2, ::2], F.pad(x[:, :, 1::2, 1::2], (0, x.shape[3] % 2, 0, x.shape[2] % 2))


'''


def _block_text(blocks: list[Any]) -> str:
    """The code of these classes as it is, below that of what they call of nas_zoo.models.depthwise."""
    text = "\n\n".join(inspect.getsource(block) for block in blocks).rstrip()
    depthwise = _depthwise_text() if "DepthwiseConv(" in text else ""
    return depthwise + (_EVERY_OTHER_PIXEL if "every_other_pixel(" in text else "") + text


def _depthwise_text() -> str:
    """DepthwiseConv without its own backward pass, which is of use to long runs on CPUs only."""
    made = inspect.getsource(DepthwiseConv.__init__)
    return (
        "class DepthwiseConv(nn.Conv2d):\n"
        '    """One odd square kernel a channel; keeps the size or halves it (rounded up)."""\n\n'
        f"{made}\n\n"
    )


def _cell_text(cell: Cell) -> str:
    """The cell as a literal, without nodes that do not reach its output."""
    live = cell.live_nodes
    position = {0: 0, 1: 1} | {number: i for i, number in enumerate(live, start=2)}
    lines = []
    for number in live:
        edges = [(edge.operation, position[edge.source]) for edge in cell.nodes[number - 2]]
        lines.append(f"        {str(edges).replace(chr(39), chr(34))},  # node {position[number]}\n")
    concat = [position[number] for number in cell.concat]
    return f'{{\n    "nodes": [\n{"".join(lines)}    ],\n    "concat": {concat},\n}}'


def _branch(operation: str) -> str:
    made = {
        "max_pool_3x3": "nn.MaxPool2d(3, stride, 1)",
        "avg_pool_3x3": "nn.AvgPool2d(3, stride, 1, count_include_pad=False)",
        "skip_connect": "nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, **dd)",
        "conv_7x1_1x7": "StackedConv(channels, stride, True, **dd)",
    }.get(operation)
    if made is None:
        kind = "SeparableConv" if operation.startswith("sep") else "DilatedConv"
        made = f"{kind}(channels, {operation[-1]}, stride, True, **dd)"
    return f'    if operation == "{operation}":\n        return {made}\n'


_OPERATIONS_START = '''\
def make_operation(operation: str, channels: int, stride: int, device=None, dtype=None) -> nn.Module:
    """The operation on an edge, without the ReLU in front of it."""
    dd = {"device": device, "dtype": dtype}
'''

_STEM_CIFAR = """        self.stem = nn.ModuleList([StemBlock(in_chans, 3 * init_channels, 1, **dd)])
        before, last, halved, reduction = 3 * init_channels, 3 * init_channels, False, 1"""
_STEM_IMAGENET = """        c = init_channels
        self.stem = nn.ModuleList(
            [StemBlock(in_chans, c // 2, 2, **dd), StemBlock(c // 2, c, 2, **dd), StemBlock(c, c, 2, **dd)]
        )
        if -1 not in live:
            self.stem[2] = nn.Identity()  # no cell reads it
        before, last, halved, reduction = c, c, True, 8"""
_INPUTS_CIFAR = """        last = self.stem[0](x)
        before = last"""
_INPUTS_IMAGENET = """        before = self.stem[1](self.stem[0](x))
        last = self.stem[2](before)"""

_TEMPLATE = '''"""<NAME>: a cell network of the DARTS search space (https://arxiv.org/abs/1806.09055) as one file.

    import <NAME>, timm  # importing this file registers the model
    model = timm.create_model("<NAME>")
    model.load_state_dict(safetensors.torch.load_file("model.safetensors"))

Written by nas-zoo <VERSION> from genotype <DIGEST>; it needs torch and timm only. Apache-2.0.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from torch import nn

__all__ = ["<CLASS>"]

# Edges of each node: (operation, node it reads). Nodes 0 and 1 are the outputs of the cell before last and of the last
# cell, 2 and up those listed here; a node is the sum of its edges, the output of a cell the nodes in "concat".
NORMAL = <NORMAL>
REDUCE = <REDUCE>


class StemBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


<BLOCKS>


<OPERATIONS>
    raise ValueError(operation)


class Node(nn.Module):
    """The sum of the operations on a node's edges."""

    def __init__(self, edges, channels: int, input_stride: int, drop_path: float, device=None, dtype=None) -> None:
        super().__init__()
        self.sources, self.reads_relu = [], []
        self.ops, self.drops = nn.ModuleList(), nn.ModuleList()
        for operation, source in edges:
            stride = input_stride if source < 2 else 1
            op = make_operation(operation, channels, stride, device=device, dtype=dtype)
            identity = isinstance(op, nn.Identity)
            self.sources.append(source)
            # Convolutions read the ReLU of a state; poolings and identities the state itself.
            self.reads_relu.append(not operation.endswith("pool_3x3") and not identity)
            self.ops.append(op)
            self.drops.append(DropPath(drop_path) if drop_path > 0.0 and not identity else nn.Identity())

    def forward(self, states: list[torch.Tensor]) -> torch.Tensor:
        total = None
        for source, relu, op, drop in zip(self.sources, self.reads_relu, self.ops, self.drops, strict=True):
            x = states[source]
            y = drop(op(F.relu(x) if relu else x))
            total = y if total is None else total + y
        return total


class Cell(nn.Module):
    """One cell. Its inputs come activated, and it activates its output where `activate`."""

    def __init__(
        self, cell, before: int, last: int, halved: bool, channels: int, stride: int, activate: bool,
        drop_path: float, device=None, dtype=None,
    ) -> None:  # fmt: skip
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.activate = activate
        self.concat = cell["concat"]
        reads = inputs_read(cell)
        self.preprocess0, self.preprocess1 = nn.Identity(), nn.Identity()
        if 0 in reads:
            # Behind a reduction cell, input 0 has twice the resolution of input 1.
            self.preprocess0 = (FactorizedReduce if halved else PointwiseNorm)(before, channels, **dd)
        if 1 in reads:
            self.preprocess1 = PointwiseNorm(last, channels, **dd)
        self.nodes = nn.ModuleList(Node(edges, channels, stride, drop_path, **dd) for edges in cell["nodes"])

    def forward(self, before: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        states = [self.preprocess0(before), self.preprocess1(last)]
        for node in self.nodes:
            states.append(node(states))
        out = torch.cat([states[i] for i in self.concat], dim=1)
        return F.relu(out, inplace=True) if self.activate else out


class SkippedCell(nn.Module):
    """Stands where a cell's output has no reader."""

    def forward(self, before: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        return last


def inputs_read(cell) -> set[int]:
    """Which of the outputs of the two cells before the cell reads."""
    return {source for edges in cell["nodes"] for _, source in edges if source < 2}


class <CLASS>(nn.Module):
    """(N, in_chans, H, W) -> logits (N, num_classes)."""

    def __init__(
        self,
        init_channels: int = <CHANNELS>,
        num_cells: int = <CELLS>,
        num_classes: int = <CLASSES>,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.num_classes, self.in_chans = num_classes, in_chans
        self.grad_checkpointing = False
        reductions = (num_cells // 3, 2 * num_cells // 3)
        kinds = [REDUCE if index in reductions else NORMAL for index in range(num_cells)]
        # Cells whose output reaches the last one; -1 and -2 are the outputs of the stem.
        live, waiting = set(), [num_cells - 1]
        while waiting:
            index = waiting.pop()
            if index >= 0 and index not in live:
                waiting += [index - 2 + source for source in inputs_read(kinds[index])]
            live.add(index)
<STEM>
        channels = init_channels
        self.cells = nn.ModuleList()
        self.feature_info = []
        for index, cell in enumerate(kinds):
            stride = 2 if index in reductions else 1
            if stride == 2:
                name = f"cells.{max(0, index - 1)}"
                self.feature_info.append({"num_chs": last, "reduction": reduction, "module": name})
                channels, reduction = 2 * channels, 2 * reduction
            self.cells.append(
                Cell(cell, before, last, halved, channels, stride, index < num_cells - 1, drop_path_rate, **dd)
                if index in live
                else SkippedCell()
            )
            before, last, halved = last, channels * len(cell["concat"]), stride == 2
        self.feature_info.append({"num_chs": last, "reduction": reduction, "module": f"cells.{num_cells - 1}"})
        self.num_features = last
        self.global_pool, self.head_drop, self.classifier = create_classifier(
            last, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd
        )
        self.head_hidden_size = last * self.global_pool.feat_mult()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        like = next(self.parameters())
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=pool, device=like.device, dtype=like.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
<INPUTS>
        for cell in self.cells:
            if self.grad_checkpointing:
                before, last = last, checkpoint(cell, before, last)
            else:
                before, last = last, cell(before, last)
        return last

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.head_drop(self.global_pool(x))
        return x if pre_logits else self.classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


default_cfgs = generate_default_cfgs({
    "<NAME>": {
        "url": "", "num_classes": <CLASSES>, "input_size": <SIZE>, "pool_size": <POOL>, "crop_pct": <CROP>,
        "interpolation": "<INTERPOLATION>", "mean": <MEAN>, "std": <STD>,
        "first_conv": "stem.0.conv", "classifier": "classifier", "license": "apache-2.0",
    },
})  # fmt: skip


@register_model
def <NAME>(pretrained: bool = False, **kwargs) -> <CLASS>:
    """<LAYOUT> layout: C=<CHANNELS>, <CELLS> cells."""
    return build_model_with_cfg(<CLASS>, "<NAME>", pretrained, **kwargs)
'''
