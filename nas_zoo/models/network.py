"""Cell networks: one timm model family for every genotype of the DARTS search space.

Papers: DARTS (https://arxiv.org/abs/1806.09055) for space and layouts; EDAS (https://arxiv.org/abs/1912.01237) and
DA2S (https://arxiv.org/abs/2007.03154) for cells found by this project's searches.

Differs from the original code: every output of a cell is activated once, in place, where the original applies a ReLU in
each of its readers (only the last cell's output is pooled as it is, as there); odd input sizes work; a cell that
reads input 0 only makes every second cell superfluous, and such cells are left out; no auxiliary head (it lives in
``nas_zoo.train``); drop path acts per sample and its rate is fixed when the model is made.
"""

import json
from collections.abc import Callable
from importlib import resources
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint, generate_default_cfgs, register_model
from timm.models._builder import resolve_pretrained_cfg
from timm.models._features import feature_take_indices
from torch import nn

from nas_zoo.genotype import KINDS, Genotype, as_genotype
from nas_zoo.genotype import Cell as Edges
from nas_zoo.models import results
from nas_zoo.models.depthwise import concatenate
from nas_zoo.models.layout import CellSpec, Plan, find_live, plan_network
from nas_zoo.models.operations import FactorizedReduce, PointwiseNorm, build_op, reads_relu

__all__ = ["CIFAR10_CLASSES", "CellNet", "find_result"]

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Of the training images.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CIFAR100_MEAN, CIFAR100_STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class StemBlock(nn.Module):
    """3x3 convolution, BatchNorm, ReLU."""

    def __init__(self, in_chs: int, out_chs: int, stride: int, device=None, dtype=None) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.conv = nn.Conv2d(in_chs, out_chs, 3, stride, 1, bias=False, **dd)
        self.bn = nn.BatchNorm2d(out_chs, **dd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Node(nn.Module):
    """Sum of the operations on the edges that enter a node."""

    def __init__(
        self,
        edges: list[tuple[str, int]],
        input_stride: int,
        channels: int,
        drop_path: float,
        pool_bn: bool,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
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
        self,
        cell: Edges,
        spec: CellSpec,
        activate: bool,
        drop_path: float = 0.0,
        pool_bn: bool = False,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
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
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate={drop_path_rate!r}: a probability in [0, 1) is accepted")
        self.genotype = as_genotype(genotype)
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
        self.auxiliary_cell = min(index for index in live if index >= 2 * num_cells // 3)
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
            raise ValueError(f"drop path rate {rate!r}: a probability in [0, 1) is accepted")
        if rate > 0.0 and self.drop_path_rate == 0.0:
            raise ValueError(f"drop path rate {rate!r}: made with drop_path_rate=0, the network accepts 0 only")
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


#: Where weights may lie, in the order in which timm looks.
_PLACES = ("file", "hf_hub_id", "url")


def _create(variant: str, pretrained: bool = False, **kwargs: Any) -> CellNet:
    genotype = as_genotype(kwargs["genotype"])
    plan = _plan(genotype, kwargs["layout"], kwargs["init_channels"], kwargs["num_cells"], kwargs.get("in_chans", 3))
    reads = [genotype.cell(spec.kind).inputs_read for spec in plan.cells]
    num_levels = len(_feature_levels(plan, find_live(reads, [len(plan.cells) - 1]))[1])
    places = _place_of_weights(variant, genotype, kwargs) if pretrained else {}
    model: CellNet = build_model_with_cfg(
        CellNet,
        variant,
        pretrained,
        pretrained_filter_fn=_in_float32,
        feature_cfg={"out_indices": tuple(range(num_levels)), "feature_cls": "getter"},
        **(kwargs | places | {"genotype": genotype}),
    )
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    cfg.pop("description", None)  # of older configurations: a figure that was measured on published weights
    own_weights = any((kwargs.get("pretrained_cfg_overlay") or {}).get(place) for place in _PLACES)
    other_head = kwargs.get("num_classes") not in (None, cfg.get("num_classes"))
    if not pretrained or own_weights or other_head:
        cfg.pop("tag", None)  # it names weights, and this network has not got them
    return model


def _in_float32(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """Weights stored as float16 as float32, before timm adapts a stem to other channels and rounds the outcome."""
    return {name: value.float() if value.dtype == torch.float16 else value for name, value in state_dict.items()}


def _place_of_weights(variant: str, genotype: Genotype, kwargs: dict[str, Any]) -> dict[str, Any]:
    """What timm has to be told of where the weights lie, once they are there and are the published ones.

    Raises:
        ValueError: The model has no weights, they are damaged or cannot be had, or the network asked for is another.
    """
    given, overlay = kwargs.get("pretrained_cfg"), dict(kwargs.get("pretrained_cfg_overlay") or {})
    first = next((place for place in _PLACES if overlay.get(place)), None)
    if first is not None:  # what the user sets wins over what stands before it in ours
        overlay |= dict.fromkeys(_PLACES[: _PLACES.index(first)])
    cfg = resolve_pretrained_cfg(variant, given, overlay)
    if cfg.source in ("hf-hub", "local-dir") or cfg.state_dict:  # hf-hub:ORG/NAME and the like
        return {}
    if not cfg.has_weights:
        other = [f"{row.name} ({row.dataset})" for row in results.package_results() if row.model == variant]
        having = [name for name in MODELS if find_result(name)]
        raise ValueError(
            f"{variant} has no trained weights{f' of its {cfg.num_classes} classes' if other else ''}: make them with "
            f"`nas-zoo train --model {variant} --out FOLDER` and "
            f"timm.create_model('local-dir:FOLDER', pretrained=True)"
            f"{'; it has them as ' + ', '.join(other) if other else ''}"
            f"{'; with weights come ' + ', '.join(having) if having else ''}"
        )
    row = find_result(f"{variant}.{cfg.tag}")
    if first is not None:
        return {"pretrained_cfg_overlay": overlay}
    if row is None or not isinstance(given, str | None):
        return {}
    asked = {"genotype": genotype.digest, **{key: kwargs[key] for key in ("init_channels", "num_cells")}}
    for key, value in asked.items():
        if value != getattr(row, key):
            raise ValueError(f"{key}={value!r}: the weights of {row.name} are of a network with {getattr(row, key)!r}")
    # A file of checked content, which timm prefers to the Hub.
    return {"pretrained_cfg_overlay": {**overlay, "file": str(results.fetch_weights(row))}}


class Data(NamedTuple):
    """What the papers train on, and the network they do it with."""

    layout: str
    init_channels: int
    num_cells: int
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_names: tuple[str, ...] | None = None


DATA = {
    "c10": Data("cifar", 36, 20, 10, CIFAR10_MEAN, CIFAR10_STD, CIFAR10_CLASSES),
    "c100": Data("cifar", 36, 20, 100, CIFAR100_MEAN, CIFAR100_STD),
    "in1k": Data("imagenet", 48, 14, 1000, IMAGENET_MEAN, IMAGENET_STD),
}


def _cfg(data: Data, **kwargs: Any) -> dict[str, Any]:
    cifar = data.layout == "cifar"
    input_size = kwargs.get("input_size") or ((3, 32, 32) if cifar else (3, 224, 224))
    return {
        "url": "",
        "num_classes": data.num_classes,
        "input_size": input_size,
        "pool_size": tuple(-(-side // (4 if cifar else 32)) for side in input_size[1:]),
        "crop_pct": 1.0 if cifar else 0.875,
        "interpolation": "bilinear" if cifar else "bicubic",
        "mean": data.mean,
        "std": data.std,
        "first_conv": "stem.0.conv",
        "classifier": "classifier",
        "license": "apache-2.0",
        "label_names": data.label_names,
    } | kwargs


def _read_models() -> dict[str, dict[str, Any]]:
    """models.json, {name: {"cell", "data", and what differs from that data's layout}}, and the two for any cells."""
    models: dict[str, dict[str, Any]] = {
        "cell_net_cifar": {"cell": "darts_v2", "data": "c10"},
        "cell_net_imagenet": {"cell": "darts_v2", "data": "in1k"},
    }
    return models | json.loads(resources.files("nas_zoo.models").joinpath("models.json").read_text(encoding="ascii"))


#: The models; cells are read when a model is made, so importing stays cheap.
MODELS = _read_models()


def _all_cfgs() -> dict[str, Any]:
    """timm's configurations by model, or by model.tag where there are weights.

    A model's default is the first tag of its own number of classes. Weights of another are had by their tag alone: what
    MODEL means, and how many parameters it has, must not change with somebody's weights.
    """
    cfgs: dict[str, Any] = {}
    for name, model in MODELS.items():
        data = DATA[model["data"]]
        more = {"label_names": None} if name.startswith("cell_net_") else {}
        rows = [row for row in results.package_results() if row.model == name]
        rows.sort(key=lambda row: row.num_classes != data.num_classes)
        cfgs |= {row.name: _cfg(data, **row.cfg()) for row in rows}
        if not rows:
            cfgs[name] = _cfg(data, **more)
        elif rows[0].num_classes != data.num_classes:
            cfgs[f"{name}.*"] = _cfg(data, **more)  # timm: the default, without a tag
    return cfgs


default_cfgs = generate_default_cfgs(_all_cfgs())


def find_result(name: str) -> results.Result | None:
    """The published row of MODEL.TAG, or that of MODEL: the weights that ``pretrained=True`` takes; None without."""
    model, _, tag = name.partition(".")
    if not tag and model in default_cfgs:
        tag = default_cfgs[model].tags[0]
    return next((row for row in results.package_results() if row.name == f"{model}.{tag}"), None)


def _make_entrypoint(name: str, cell: str, data: str, **differing: Any) -> Callable[..., CellNet]:
    """An entrypoint as timm wants it: a function of this module that bears the model's name."""
    layout, init_channels, num_cells = DATA[data][:3]
    # No num_classes here: timm takes it from the cfg, which for a saved model is the one saved.
    settings = {"genotype": cell, "layout": layout, "init_channels": init_channels, "num_cells": num_cells} | differing

    def entrypoint(pretrained: bool = False, **kwargs: Any) -> CellNet:
        return _create(name, pretrained, **(settings | kwargs))

    entrypoint.__name__ = entrypoint.__qualname__ = name
    size = f"C={settings['init_channels']}, {settings['num_cells']} cells"
    entrypoint.__doc__ = f"Cells {cell!r}, {layout} layout: {size}."
    return register_model(entrypoint)


for _name, _model in MODELS.items():
    globals()[_name] = _make_entrypoint(_name, **_model)
