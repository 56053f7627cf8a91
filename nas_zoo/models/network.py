"""Cell networks: one timm model family for every genotype of the DARTS search space.

Papers: DARTS (https://arxiv.org/abs/1806.09055) for space and layouts; EDAS (https://arxiv.org/abs/1912.01237) and
DA2S (https://arxiv.org/abs/2007.03154) for cells found by this project's searches.

Differs from the original code: every output of a cell is activated once, in place, where the original applies a ReLU in
each of its readers (only the last cell's output is pooled as it is, as there); odd input sizes work; a cell that
reads input 0 only makes every second cell superfluous, and such cells are left out; no auxiliary head (it lives in
``nas_zoo.train``); drop path acts per sample and its rate is fixed when the model is made.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint
from timm.models._features import feature_take_indices
from torch import nn

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.genotype import Cell as Edges
from nas_zoo.models.catalog import cells_named
from nas_zoo.models.depthwise import concatenate
from nas_zoo.models.layout import CellSpec, Plan, find_live, plan_network, reduction_cells
from nas_zoo.models.operations import FactorizedReduce, PointwiseNorm, build_op, reads_relu

__all__ = ["CellNet", "SkippedCell", "StemBlock", "build"]


class StemBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, **dd: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Node(nn.Module):
    """Sum of the operations on the edges that enter a node."""

    def __init__(
        self, edges: list[tuple[str, int]], input_stride: int, channels: int, drop_path: float, pool_bn: bool, **dd: Any
    ) -> None:
        super().__init__()
        self.sources = [source for _, source in edges]
        self.wants_relu: list[bool] = []
        self.ops = nn.ModuleList()
        self.drops = nn.ModuleList()
        for name, source in edges:
            stride = input_stride if source < 2 else 1
            self.wants_relu.append(reads_relu(name, stride))
            self.ops.append(build_op(name, channels, stride, pool_bn=pool_bn, **dd))
            # Dropping an identity would only scale the state (DARTS, appendix A.1 leaves it out too).
            identity = isinstance(self.ops[-1], nn.Identity)
            self.drops.append(DropPath(drop_path) if drop_path > 0.0 and not identity else nn.Identity())

    def forward(self, states: list[torch.Tensor], relus: list[torch.Tensor]) -> torch.Tensor:
        out: list[torch.Tensor] = []
        for i, (op, drop) in enumerate(zip(self.ops, self.drops, strict=False)):
            x = relus[self.sources[i]] if self.wants_relu[i] else states[self.sources[i]]
            out.append(drop(op(x)))
        total = out[0]
        for y in out[1:]:
            total = total + y
        return total


class Cell(nn.Module):
    """One cell; both inputs arrive activated. Nodes that do not reach the output are not built."""

    def __init__(
        self, cell: Edges, spec: CellSpec, activate: bool, drop_path: float = 0.0, pool_bn: bool = False, **dd: Any
    ) -> None:
        super().__init__()
        self.activate = activate
        reads = cell.inputs_read
        self.preprocess0: nn.Module = nn.Identity()
        self.preprocess1: nn.Module = nn.Identity()
        if 0 in reads:
            bring_down = FactorizedReduce if spec.halve_input0 else PointwiseNorm
            self.preprocess0 = bring_down(spec.in_channels[0], spec.channels, **dd)
        if 1 in reads:
            self.preprocess1 = PointwiseNorm(spec.in_channels[1], spec.channels, **dd)
        live = [number for number in range(2, len(cell.nodes) + 2) if number in cell.live_nodes]
        position = {0: 0, 1: 1} | {number: i + 2 for i, number in enumerate(live)}
        self.nodes = nn.ModuleList()
        self.wants_relu = [False] * len(position)
        for number in live:
            edges = [(edge.operation, position[edge.source]) for edge in cell.nodes[number - 2]]
            node = Node(edges, spec.stride, spec.channels, drop_path, pool_bn, **dd)
            self.nodes.append(node)
            for source, wants in zip(node.sources, node.wants_relu, strict=True):
                self.wants_relu[source] = self.wants_relu[source] or wants
        self.concat = [position[number] for number in cell.concat]

    def forward(self, s0: torch.Tensor, s1: torch.Tensor) -> torch.Tensor:
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        relus = [
            F.relu(states[0]) if self.wants_relu[0] else states[0],
            F.relu(states[1]) if self.wants_relu[1] else states[1],
        ]
        for i, node in enumerate(self.nodes):
            state = node(states, relus)
            states.append(state)
            relus.append(F.relu(state) if self.wants_relu[i + 2] else state)
        out = concatenate([states[i] for i in self.concat])
        # The concatenation is a fresh tensor that no backward formula needs: in place saves its copy.
        return F.relu(out, inplace=True) if self.activate else out


class SkippedCell(nn.Module):
    """Stands where a cell's output has no reader."""

    def forward(self, s0: torch.Tensor, s1: torch.Tensor) -> torch.Tensor:
        return s1


class CellNet(nn.Module):
    """A network of stacked cells.

    Args:
        genotype: A Genotype, the name of a published or found cell, a path, JSON or DARTS text, or nested lists.
        layout: "cifar" or "imagenet" (see ``nas_zoo.models.layout``).
        init_channels: C, channels of a node in the first cells.
        num_cells: Cells in all; reduction cells stand at 1/3 and 2/3.
        drop_rate: Dropout before the classifier, probability.
        drop_path_rate: Drop path per sample on every edge but identities, probability.
        pool_bn: A BatchNorm behind each pooling, as in a search; lets a network start from a search's weights.

    ``forward`` maps (N, in_chans, H, W) to logits (N, num_classes), in training too.
    """

    # torch.jit.script compiles properties unless told not to.
    __jit_unused_properties__: ClassVar[list[str]] = ["_model_args"]

    def __init__(
        self,
        genotype: Any = "darts_v2",
        layout: str = "cifar",
        init_channels: int = 36,
        num_cells: int = 20,
        num_classes: int = 10,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        pool_bn: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        dd: dict = {"device": device, "dtype": dtype}
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate must be at least 0 and less than 1, got {drop_path_rate!r}")
        self.genotype = cells_named(genotype)
        self.layout = layout
        self.init_channels = init_channels
        self.num_cells = num_cells
        self.num_classes = num_classes
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.drop_path_rate = drop_path_rate
        self.pool_bn = pool_bn
        self.grad_checkpointing = False

        plan = _plan(self.genotype, layout, init_channels, num_cells, in_chans)
        self.reads = [sorted(self.genotype.cell(spec.kind).inputs_read) for spec in plan.cells]
        live = find_live(self.reads, [num_cells - 1])
        self.shared_stem = len(plan.stem) == 1
        self.stem = nn.ModuleList(
            nn.Identity()
            if i == len(plan.stem) - 1 and not self.shared_stem and -1 not in live
            else StemBlock(spec.in_channels, spec.out_channels, spec.stride, **dd)
            for i, spec in enumerate(plan.stem)
        )
        self.cells = nn.ModuleList(
            Cell(self.genotype.cell(spec.kind), spec, spec.index < num_cells - 1, drop_path_rate, pool_bn, **dd)
            if spec.index in live
            else SkippedCell()
            for spec in plan.cells
        )
        # Layers are numbered through: stem blocks, then cells. The feature levels are the last computed layers
        # before the resolution changes.
        self.feature_info, self.feature_ends = _feature_levels(plan, live)
        # The second reduction cell, or the next one behind it that is computed.
        self.auxiliary_cell = min(index for index in live if index >= max(reduction_cells(num_cells)))
        self.num_features = plan.cells[-1].out_channels
        self.global_pool, self.head_drop, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, drop_rate=drop_rate, **dd
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    @property
    def _model_args(self) -> dict[str, Any]:
        """What timm writes to config.json: always with the cells themselves, never with a name or a local path."""
        return self.__dict__.get("_model_args_value", {"genotype": self.genotype})

    @_model_args.setter
    def _model_args(self, value: dict[str, Any]) -> None:
        self.__dict__["_model_args_value"] = dict(value, genotype=self.genotype)

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        return {"stem": r"^stem", "blocks": [(r"^cells\.(\d+)", None)]}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.classifier

    @torch.jit.ignore
    def set_drop_path(self, rate: float) -> None:
        """Changes the drop path probability of a network that was made with ``drop_path_rate`` > 0.

        Raises:
            ValueError: For a rate outside [0, 1), or above 0 where the network was made without drop path.
        """
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the drop path rate must be at least 0 and less than 1, got {rate!r}")
        if rate > 0.0 and self.drop_path_rate == 0.0:
            raise ValueError(f"the drop path rate can only be 0 in a network made with drop_path_rate=0, got {rate!r}")
        for module in self.modules():
            if isinstance(module, DropPath):
                module.drop_prob = rate

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        like = next(self.parameters())
        self.global_pool, self.classifier = create_classifier(
            self.num_features, num_classes, pool_type=global_pool, device=like.device, dtype=like.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.classifier.train(self.training)

    def forward_intermediates(
        self,
        x: torch.Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[torch.Tensor] | tuple[torch.Tensor, list[torch.Tensor]]:
        """The last layer's output and those of the feature levels asked for.

        Args:
            x: Images (N, in_chans, H, W).
            indices: Levels (see ``feature_info``): the last n if an int, all if None.
            norm: Without effect, there is no final normalisation.
            stop_early: Stop behind the last level asked for.
            output_fmt: "NCHW" only.
            intermediates_only: Return the levels alone.
        """
        assert output_fmt == "NCHW", "Output shape must be NCHW."
        take_indices, max_index = feature_take_indices(len(self.feature_ends), indices)
        taps = [self.feature_ends[i] for i in take_indices]
        x, taken = self._run(x, taps, self.feature_ends[max_index] if stop_early else -1)
        if intermediates_only:  # a statement: torch.jit.script wants both sides of an expression to have one type
            return taken
        return x, taken

    @torch.jit.ignore
    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes what the feature levels asked for do not need; returns the levels as a list of indices."""
        take_indices, max_index = feature_take_indices(len(self.feature_ends), indices)
        num_stem, end = len(self.stem), self.feature_ends[max_index]
        shortened = end + 1 < num_stem + len(self.cells)
        if shortened:
            self.stem = self.stem[: end + 1]
            self.cells = self.cells[: max(0, end + 1 - num_stem)]
            live = find_live(self.reads, [self.feature_ends[i] - num_stem for i in take_indices])
            for index in range(len(self.cells)):
                if index not in live:
                    self.cells[index] = SkippedCell()
            if not self.shared_stem and len(self.stem) == num_stem and -1 not in live:
                self.stem[-1] = nn.Identity()
            self.num_features = self.feature_info[max_index]["num_chs"]
            self.head_hidden_size = self.num_features
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return take_indices

    def _run(self, x: torch.Tensor, taps: list[int], stop: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Runs the layers up to ``stop`` (-1: all); returns the last output and the outputs of the layers in taps."""
        taken: list[torch.Tensor] = []
        layer = 0
        s0, s1 = x, x
        for block in self.stem:
            if stop < 0 or layer <= stop:
                s0, s1 = s1, block(s1)
                if layer in taps:
                    taken.append(s1)
            layer += 1
        if self.shared_stem:
            s0 = s1
        for cell in self.cells:
            if stop < 0 or layer <= stop:
                if self.grad_checkpointing and not torch.jit.is_scripting():
                    s0, s1 = s1, checkpoint(cell, s0, s1)
                else:
                    s0, s1 = s1, cell(s0, s1)
                if layer in taps:
                    taken.append(s1)
            layer += 1
        return s1, taken

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        taps: list[int] = []
        return self._run(x, taps, -1)[0]

    @torch.jit.ignore
    def forward_auxiliary(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of the last cell and the activated output of ``auxiliary_cell`` (for an auxiliary head)."""
        x, taken = self._run(x, [len(self.stem) + self.auxiliary_cell], -1)
        return x, F.relu(taken[0]) if self.auxiliary_cell == self.num_cells - 1 else taken[0]

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        x = self.global_pool(x)
        x = self.head_drop(x)
        return x if pre_logits else self.classifier(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.forward_head(self.forward_features(x))


def _plan(genotype: Genotype, layout: str, init_channels: int, num_cells: int, in_chans: int) -> Plan:
    num_concat: dict[str, int] = {kind: len(genotype.cell(kind).concat) for kind in KINDS}
    return plan_network(layout, init_channels, num_cells, num_concat, in_chans)


def _feature_levels(plan: Plan, live: set[int]) -> tuple[list[dict[str, Any]], list[int]]:
    """timm's feature_info (channels, reduction, module of each level) and the layer numbers of the levels."""
    layers = [
        (spec.reduction, spec.out_channels, f"stem.{i}", i < len(plan.stem) - 1 or i == 0 or -1 in live)
        for i, spec in enumerate(plan.stem)
    ] + [(spec.reduction, spec.out_channels, f"cells.{spec.index}", spec.index in live) for spec in plan.cells]
    last_of_level = {reduction: i for i, (reduction, _, _, computed) in enumerate(layers) if computed}
    info = [
        {"num_chs": layers[i][1], "reduction": reduction, "module": layers[i][2]}
        for reduction, i in last_of_level.items()
    ]
    return info, list(last_of_level.values())


def build(variant: str, pretrained: bool = False, **kwargs: Any) -> CellNet:
    """The network of a registered model, made by timm; its weights come from where its configuration says."""
    genotype = cells_named(kwargs["genotype"])
    plan = _plan(genotype, kwargs["layout"], kwargs["init_channels"], kwargs["num_cells"], kwargs.get("in_chans", 3))
    reads = [genotype.cell(spec.kind).inputs_read for spec in plan.cells]
    num_levels = len(_feature_levels(plan, find_live(reads, [len(plan.cells) - 1]))[1])
    return build_model_with_cfg(
        CellNet,
        variant,
        pretrained,
        pretrained_filter_fn=_in_float32,
        feature_cfg={"out_indices": tuple(range(num_levels)), "feature_cls": "getter"},
        **(kwargs | {"genotype": genotype}),
    )


def _in_float32(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights stored as float16 as float32, before timm adapts a stem to other channels and rounds the outcome."""
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state_dict.items()}
