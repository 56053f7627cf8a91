"""What the loop knows of a search method, what a method may ask of the loop, and the settings that all share.

A method is an nn.Module that holds the architecture parameters (so checkpoint, device and dtype come free) and answers
three calls: ``mixing``, ``loss``, ``genotype``. It never sees data, devices or processes.
"""

import hashlib
import inspect
import math
import random
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from nas_zoo.data.own import DATA, LabelledImages
from nas_zoo.genotype import KINDS, OPERATIONS, Genotype
from nas_zoo.models.operations import SEARCH_OPERATIONS
from nas_zoo.runs import outside
from nas_zoo.runs.outside import is_outside
from nas_zoo.runs.settings import (
    MOST_WORKERS,
    check_settings,
    require,
    require_finite,
    require_least,
    require_most,
    setting,
    settle_types,
)
from nas_zoo.runs.trackers import Tracker
from nas_zoo.search.supernet import Mixing, SearchSpace
from nas_zoo.text import near_names

__all__ = [
    "LATENCY_MARK",
    "METHODS",
    "Method",
    "Problem",
    "SearchSettings",
    "Step",
    "code_of",
    "config_path",
    "entropies",
    "find_method",
    "generator_of",
    "load_method",
    "logits_of",
    "mean_entropy",
    "seed_of",
    "shipped_configs",
]


@dataclass(frozen=True)
class Step:
    """Where a search stands when a mixing is asked for."""

    epoch: int  # from 0
    index: int  # iterations since the start of the search, from 0; in phase "eval" the batch of the evaluation
    num_epochs: int
    phase: Literal["alpha", "weights", "eval"]  # architecture step, weight step, evaluation of the supernet


def seed_of(what: str, seed: int, step: Step) -> int:
    """A seed for what a method draws in a step: the same in every process and after a resume."""
    return random.Random(f"{what} {seed} {step.phase} {step.epoch} {step.index}").getrandbits(63)


def generator_of(what: str, seed: int, step: Step) -> torch.Generator:
    """A generator of that seed, on the CPU."""
    return torch.Generator().manual_seed(seed_of(what, seed, step))


class Problem(Protocol):
    """The bilevel problem of one iteration, as far as an architecture step may look at it.

    First-order methods need ``held_out_loss`` alone; the rest is for those that look ahead of the weight step.
    Losses under other ``weights`` (as ``weights`` or ``stepped`` give them) leave the supernet as it is.
    """

    def held_out_loss(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Cross-entropy of the supernet on this iteration's batch of the alpha half; its own weights are constants."""

    def training_loss(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The same on this iteration's batch of the weights half."""

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The supernet's parameters by name."""

    @property
    def lr(self) -> float:
        """Learning rate of this iteration's weight step."""

    def stepped(self, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights as the weight optimizer's next step would make them of these gradients, as new leaves."""

    def mean_over_processes(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors themselves with one process; else their mean, in place."""


class Method(Protocol):
    """The three calls. Implementations are nn.Modules."""

    space: SearchSpace

    def mixing(self, step: Step) -> dict[str, Mixing]:
        """Which operations run where, and with which weight; differentiable with respect to alpha."""

    def loss(self, problem: Problem, step: Step) -> torch.Tensor | None:
        """What the architecture step minimises; None where this step leaves the architecture alone."""

    def genotype(self, rule: str | None = None) -> Genotype:
        """The cells found so far, by the method's own rule, a named one or an edge configuration such as "4/14"."""


@dataclass(frozen=True)
class SearchSettings:
    """Settings of the loop; a method's own settings class adds to them and changes the defaults to its paper's."""

    method: str = setting("", "search method")
    data: str | LabelledImages = setting("digits", DATA)
    test_data: str | LabelledImages | None = setting(
        None,
        "folder, tar or zip of its test images; all of data is then searched on; none: a fifth of a set without test "
        "split is kept for one",
    )
    image_column: str | None = setting(None, "column of a table that has the images, or their files; none: found")
    label_column: str | None = setting(None, "column of a table that has the classes; none: found")
    data_root: Path | None = setting(None, "folder of cifar10 / cifar100; none: the user's cache, downloaded if absent")
    division: Path | None = setting(None, "file of training images to hold out and to leave out, of `nas-zoo auto`")
    out: Path = setting(Path("runs/search"), "folder of the run: log.jsonl, checkpoint.pt, genotype.json")
    seed: int = setting(0, "seed of everything: weights, alpha, split, order, augmentation, drawn edges")
    epochs: int = setting(25, "epochs; one epoch sees each half of the training images once")
    num_cells: int = setting(8, "cells of the supernet, reduction cells at 1/3 and 2/3")
    init_channels: int = setting(16, "channels of a node in the first cells")
    nodes: int = setting(4, "intermediate nodes of a cell, 1 to 6; published cells have 3 to 6")
    operations: tuple[str, ...] = setting(SEARCH_OPERATIONS, "candidate operations, 'none' for no edge at all")
    batch_size: int = setting(64, "images a step, over all processes")
    partial_channels: int = setting(1, "K of PC-DARTS: operations work on 1/K of the channels; 1: on all of them")
    image_size: int | None = setting(None, "pixels; default: as the data set has them")
    train_limit: int | None = setting(None, "use only so many training images (seeded choice); default: all")
    lr: float = setting(0.025, "learning rate of SGD on the weights, at the start")
    lr_min: float = setting(0.001, "and at the end of its cosine")
    momentum: float = setting(0.9, "momentum of SGD")
    weight_decay: float = setting(3e-4, "L2 of SGD on the weights")
    grad_clip: float = setting(5.0, "largest norm of the weights' gradient (DARTS); 0: no clipping")
    alpha_lr: float = setting(3e-4, "learning rate of Adam on the architecture parameters")
    alpha_betas: tuple[float, float] = setting((0.5, 0.999), "betas of Adam on the architecture parameters")
    crop_padding: int = setting(4, "random crop after padding, at 32 pixels; scaled to the image size", unit="pixels")
    flip: bool | None = setting(None, "random horizontal flip; default: for photographs, not for digits")
    cutout: int = setting(0, "side in pixels of the square that is blanked out; 0: none")
    eval_size: int = setting(5000, "held-out images for the accuracies after an epoch; 0: all, as after the last")
    gap_batches: int = setting(16, "training batches that BatchNorm statistics are re-estimated over, for the second "
                                   "figure of the discretization gap; 0: that figure is left out")  # fmt: skip
    accumulation: int = setting(1, "batches of a step, whose gradients are averaged, with one draw for all of them; an "
                                   "epoch has so many fewer steps")  # fmt: skip
    max_latency: float | None = setting(None, "limit of the latency of the network that will be trained, of which "
                                              "alpha's loss then has a term", unit="ms")  # fmt: skip
    latency_weight: float = setting(1.0, "its weight: added to the loss where the limit is exceeded by all of itself")
    latency_table: Path | None = setting(None, "times of the pieces, a file of `nas-zoo latency --to`")
    target_layout: Literal["cifar", "imagenet"] = setting("cifar", "of the network that will be trained, whose latency "
                                                                   "counts")  # fmt: skip
    target_channels: int = setting(36, "its channels of a node in the first cells")
    target_cells: int = setting(20, "its cells")
    target_size: int | None = setting(None, "side of its images; default: as in the search", unit="pixels")
    precision: Literal["fp32", "bf16"] = setting("fp32", "bf16: autocast of the network's forward passes")
    channels_last: bool = setting(True, "memory format of images and weights; faster, same mathematics")
    sync_bn: bool = setting(False, "BatchNorm statistics of the batches of all processes, as one process would have "
                                   "them; no: each has its own, and running ones are averaged before use")  # fmt: skip
    workers: int | None = setting(None, "processes that load data too large for memory; none: one a core, up to 16")
    skip_unreadable: int = setting(0, "go on without at most so many images that cannot be read")
    log_with: tuple[Tracker, ...] = setting((), "trackers beside the log, each if it is installed: tensorboard, wandb, "
                                               "mlflow or all that are")  # fmt: skip
    time_budget: float | None = setting(None, "write a checkpoint and stop after this long", unit="s")

    def __post_init__(self) -> None:
        settle_types(self)
        require_least(self, epochs=1, accumulation=1, num_cells=1, init_channels=2, batch_size=2, crop_padding=0,
                      cutout=0, eval_size=0, gap_batches=0, skip_unreadable=0, partial_channels=1, workers=0,
                      target_channels=2, target_cells=1, target_size=8)  # fmt: skip
        require(1 <= self.nodes <= 6, "nodes", self.nodes, "from 1 to 6")
        for operation in self.operations:
            known = ("none", *OPERATIONS)
            if operation not in known and not is_outside(operation):
                near = near_names(str(operation), known)
                raise ValueError(f"operations must be some of {', '.join(known)}, got {operation!r}{near}")
        different = len(set(self.operations)) == len(self.operations) and bool(set(self.operations) - {"none"})
        what = "different ones, and another than 'none' among them"
        require(different, "operations", ", ".join(self.operations), what)
        require_finite(self, "lr", "alpha_lr", above=True)
        require_finite(self, "lr_min", "momentum", "weight_decay", "grad_clip", "latency_weight")
        divides = self.init_channels % self.partial_channels == 0
        what = f"a divisor of init_channels ({self.init_channels})"
        require(divides, "partial_channels", self.partial_channels, what)
        require(self.lr_min <= self.lr, "lr_min", self.lr_min, f"at most lr ({self.lr})")
        both = all(0 <= beta < 1 for beta in self.alpha_betas)
        require(both, "alpha_betas", self.alpha_betas, "two numbers from 0 to below 1")
        for name, least, unit in (("image_size", 8, " pixels"), ("train_limit", 4, " images")):
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"at least {least}{unit}")
        require_most(self, workers=MOST_WORKERS)
        limit = self.max_latency
        require(limit is None or 0 < limit < math.inf, "max_latency", limit, "more than 0 ms and finite")
        if limit is not None and self.latency_table is None:
            raise ValueError("max_latency needs latency_table, the file that `nas-zoo latency --to FILE` writes")
        budget = self.time_budget
        require(budget is None or budget > 0, "time_budget", budget, "more than 0 seconds")

    @property
    def space(self) -> SearchSpace:
        """The cells that can be found."""
        return SearchSpace(self.operations, self.nodes)


#: Of the setting of methods that keep two edges a node unless they are told.
EDGES = "edges of the cells: 8/14, 4/14 ... or groups, 2+3:1,4:1,5:1; default: two a node"
CONFIGS = Path(__file__).parent / "configs"

#: Name of each method -> (module, class of the settings, class of the method). Imported when it is chosen.
METHODS: dict[str, tuple[str, str, str]] = {
    "edas": ("nas_zoo.search.methods.edas", "EdasSettings", "Edas"),
    "alpha_max": ("nas_zoo.search.methods.edas", "AlphaMaxSettings", "Edas"),
    "da2s": ("nas_zoo.search.methods.da2s", "Da2sSettings", "Da2s"),
    "da2s_released": ("nas_zoo.search.methods.da2s", "Da2sReleasedSettings", "Da2s"),
    "darts": ("nas_zoo.search.methods.darts", "DartsSettings", "Darts"),
    "pc_darts": ("nas_zoo.search.methods.pc_darts", "PcDartsSettings", "PcDarts"),
    "gdas": ("nas_zoo.search.methods.gdas", "GdasSettings", "Gdas"),
    "drnas": ("nas_zoo.search.methods.drnas", "DrNasSettings", "DrNas"),
    "fairdarts": ("nas_zoo.search.methods.fairdarts", "FairDartsSettings", "FairDarts"),
    "edas_settled": ("nas_zoo.search.methods.edas_settled", "EdasSettledSettings", "EdasSettled"),
    "random": ("nas_zoo.search.methods.random_cells", "RandomSettings", "RandomCells"),
}


def load_method(text: str) -> str:
    """Loads FILE.py:CLASS, which runs the file, or what an installed package brings; returns the method's name.

    A name of our own is returned as it is.

    Raises:
        ValueError: In one line, for what is not there, fails, or is no method: see ``find_method``.
    """
    name = outside.load(text, "method", METHODS)
    if name is None:
        return text
    find_method(name)
    return name


def find_method(
    name: str, marks: Mapping[str, str] | None = None
) -> tuple[type[SearchSettings], Callable[[Any], nn.Module]]:
    """Settings class and constructor of a method.

    A method from outside is an nn.Module of the Protocol above, whose ``__init__`` takes `settings`, annotated with a
    class of settings of its own: a frozen dataclass that inherits from SearchSettings. Its files or packages are named
    before (``load_method``).

    Args:
        name: Of METHODS, FILE.py:CLASS or PACKAGE:NAME.
        marks: Of the code of a run that was made with it, as its checkpoint has them.

    Raises:
        ValueError: For a name that is no method; it lists the ones there are, or says which file or package brings it.
    """
    import importlib

    if isinstance(name, str) and is_outside(name):
        method = outside.find(name, "method", marks).value
        return _settings_of(method, name), method
    if not isinstance(name, str) or name not in METHODS:
        near = near_names(name, METHODS) if isinstance(name, str) else ""
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or FILE.py:CLASS, got {name!r}{near}")
    module_name, settings_name, method_name = METHODS[name]
    module = importlib.import_module(module_name)
    return getattr(module, settings_name), getattr(module, method_name)


def _settings_of(method: Any, name: str) -> type[SearchSettings]:
    """The settings class of a method from outside; ValueError where it is no method."""
    if not (isinstance(method, type) and issubclass(method, nn.Module)):
        raise ValueError(f"method {name!r} must be a class that inherits from torch.nn.Module, got {method!r:.80}")
    missing = [call for call in ("mixing", "loss", "genotype") if not callable(getattr(method, call, None))]
    if missing:
        raise ValueError(f"method {name!r} must have mixing, loss and genotype; it has no {', '.join(missing)}")
    init: Any = method.__init__
    try:
        annotated = typing.get_type_hints(init).get(next(iter(list(inspect.signature(init).parameters)[1:]), ""))
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"method {name!r}: the annotations of its __init__ cannot be read: {words}") from error
    if not (isinstance(annotated, type) and issubclass(annotated, SearchSettings)):
        raise ValueError(
            f"method {name!r}: its __init__ must take `settings`, annotated with a class that inherits from "
            f"nas_zoo.search.method.SearchSettings, got {annotated!r:.80}"
        )
    check_settings(annotated, SearchSettings, reserved=("config", "resume", "help"))
    return annotated


#: The name under which ``code_of`` has the latency table.
LATENCY_MARK = "the latency table"


def code_of(settings: SearchSettings) -> dict[str, str]:
    """What tells one state of what comes from outside from another: method, operations, latencies; {} without any."""
    kinds: dict[str, Any] = dict.fromkeys(settings.operations, "operation") | {settings.method: "method"}
    marks = outside.marks_of(kinds)
    if settings.max_latency is not None and settings.latency_table is not None:
        marks[LATENCY_MARK] = f"sha256 {hashlib.sha256(settings.latency_table.read_bytes()).hexdigest()}"
    return marks


def config_path(name: str) -> Path:
    """A YAML file, or the name of one of the configurations that come with the project."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.exists():
        return path
    if name not in shipped_configs():
        shipped = ", ".join(shipped_configs())
        raise ValueError(
            f"config {name!r}: neither a YAML file nor one of {shipped}{near_names(name, shipped_configs())}"
        )
    return CONFIGS / f"{name}.yaml"


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the project."""
    return sorted(file.stem for file in CONFIGS.glob("*.yaml"))


def logits_of(method: nn.Module, name: str = "alpha") -> dict[str, torch.Tensor]:
    """The logits of each cell kind as they are now, whether the method keeps one tensor or one for each edge.

    "alpha": of operations, (E, O). "beta": of edges, (E,); {} for a method that has none.
    """
    logits: Any = getattr(method, name, None)
    if logits is None:
        return {}
    return {
        kind: torch.stack(list(logits[kind])).detach().cpu()
        if isinstance(logits[kind], nn.ParameterList)
        else logits[kind].detach().cpu().clone()  # on a CPU it would be the parameter itself, which moves on
        for kind in KINDS
    }


def entropies(method: nn.Module, logits: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """``mean_entropy`` of alpha as the method's softmax has it, where its ``in_softmax`` says what that is."""
    made: Any = getattr(method, "in_softmax", None)
    return {kind: mean_entropy(logits[kind] if made is None else made(logits[kind])) for kind in KINDS}


def mean_entropy(logits_EO: torch.Tensor) -> float:
    """Mean over the edges of the entropy of softmax(alpha), in nats: 0 when each edge has settled, log O at first."""
    log_p = torch.log_softmax(logits_EO.double(), dim=-1)
    return float(-(log_p.exp() * log_p).sum(-1).mean())
