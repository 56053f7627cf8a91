"""State dicts of the original DARTS code and of those with other names for the same networks -> of a CellNet.

    nas-zoo convert model.pt --genotype darts_v2 --layout cifar --init-channels 36 --num-cells 20 out.safetensors

    >>> state = convert_state_dict(torch.load("model.pt", weights_only=True), "darts_v2", layout="cifar")
    >>> timm.create_model("darts_v2_c10").load_state_dict(state)

The original's names: `stem.0` and `stem.1` (CIFAR) or `stem0.0`, `.1`, `.3`, `.4` and `stem1.1`, `.2` (ImageNet);
`cells.<i>.preprocess<0|1>.op.<1|2>`, or `.conv_1`, `.conv_2`, `.bn` behind a reduction cell; `cells.<i>._ops.<k>` with
`.op.<n>` for separable and dilated convolutions, `.conv_1`, `.conv_2`, `.bn` for identities of stride 2 and plain
numbers for conv_7x1_1x7, where k counts the edges of a cell node by node, in the genotype's order; `classifier`. The
state dict may lie in a checkpoint and its names have prefixes, as load.state_dict_of says. Other ways of naming are in
``nas_zoo.models.key_schemes``.

What a CellNet has no use for is left out: the auxiliary head, and parts of the original that do not reach its logits.
A tensor of anything else (attention, squeeze-and-excitation, another layout) is too much, and the file is refused.
Edges without weights (poolings, identities of stride 1) leave no trace in a checkpoint: two genotypes that differ in
them alone both fit, and no check can tell which one was trained.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from nas_zoo.genotype import Genotype, list_found, list_genotypes, load_genotype
from nas_zoo.models.catalog import cells_named
from nas_zoo.models.key_schemes import SCHEMES, Scheme, find_scheme
from nas_zoo.models.layout import LAYOUTS, reduction_cells
from nas_zoo.models.load import StateDict, read_state_dict, state_dict_of
from nas_zoo.models.network import CellNet
from nas_zoo.runs.files import write_weights
from nas_zoo.text import counted

__all__ = ["Original", "convert_checkpoint", "convert_state_dict", "describe"]

Numbering = tuple[tuple[int, ...], tuple[int, ...]]

_STEM = {"cifar": {"stem.0": "stem.0.conv", "stem.1": "stem.0.bn"},
         "imagenet": {"stem0.0": "stem.0.conv", "stem0.1": "stem.0.bn", "stem0.3": "stem.1.conv",
                      "stem0.4": "stem.1.bn", "stem1.1": "stem.2.conv", "stem1.2": "stem.2.bn"}}  # fmt: skip
_POINTWISE = {"op.1": "conv", "op.2": "bn"}
_REDUCE = {"conv_1": "conv1", "conv_2": "conv2", "bn": "bn"}
_SEPARABLE = {"op.1": "dw1", "op.2": "pw1", "op.3": "bn1", "op.5": "dw2", "op.6": "pw2", "op.7": "bn2"}
_DILATED = {"op.1": "dw", "op.2": "pw", "op.3": "bn"}
_STACKED = {"1": "conv1", "2": "conv2", "3": "bn"}
_NORMALIZED = {"bn": "bn"}
_COUNTERS = ("total_ops", "total_params")

#: For each edge of a cell that has weights, by its number: its layers, and its kernel.
_Signature = dict[int, tuple[str, tuple[int, ...] | None]]

_CELL = re.compile(r"cells\.(\d+)\.")
_OPERATION = re.compile(r"cells\.(\d+)\._ops\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Original:
    """What the shapes in an original state dict say of its network."""

    layout: str
    init_channels: int
    num_cells: int
    num_classes: int
    in_chans: int
    pool_bn: bool = False  # a BatchNorm behind each pooling

    def __str__(self) -> str:
        shown = {key: value for key, value in vars(self).items() if key != "pool_bn" or value}
        return ", ".join(f"{key}={value}" for key, value in shown.items())


def describe(state_dict: StateDict) -> Original:
    """Layout, width, depth, classes and image channels of an original state dict.

    Raises:
        ValueError: It is no state dict of these programs.
    """
    state, scheme = _in_darts_names(state_dict_of(state_dict), None)
    return _described(state, scheme)


def _in_darts_names(state: StateDict, genotype: Genotype | None) -> tuple[StateDict, Scheme | None]:
    """The state dict in DARTS' names, and whose names it had; as it is where they are nobody's."""
    # thop, which several of these programs count with, leaves its counters in every module.
    state = {name: value for name, value in state.items() if name.rpartition(".")[2] not in _COUNTERS}
    scheme = find_scheme(state)
    if scheme is None:
        return state, None
    renamed = scheme.rename(state, genotype)
    if len(set(renamed.values())) < len(renamed):
        raise ValueError(f"checkpoint: two of its tensors have one place in {scheme.whose}'s way of naming")
    return {renamed[name]: value for name, value in state.items()}, scheme


def _described(state: StateDict, scheme: Scheme | None) -> Original:
    layout = "cifar" if "stem.0.weight" in state else "imagenet" if "stem1.1.weight" in state else None
    cells = {int(match[1]) for key in state if (match := _CELL.match(key))}
    first = state.get("stem.0.weight" if layout == "cifar" else "stem0.0.weight")
    classifier = state.get("classifier.weight")
    if (
        scheme is None
        or layout is None
        or not cells
        or first is None
        or classifier is None
        or first.ndim != 4
        or classifier.ndim != 2
    ):
        if "stem.0.conv.weight" in state:
            raise ValueError("checkpoint: a state dict of nas_zoo already, nothing to convert")
        have = ", ".join(map(repr, list(state)[:3])) or "nothing"
        raise ValueError(
            "checkpoint: no network of the original DARTS code or of one that names the same otherwise "
            f"({', '.join(known.whose for known in SCHEMES if known.name != 'darts')}): stem.0.weight (CIFAR) or "
            f"stem1.1.weight (ImageNet), cells.0... and classifier.weight are expected, found {have} ..."
        )
    if cells != set(range(len(cells))):
        gap = min(set(range(len(cells))) - cells)
        raise ValueError(f"checkpoint: cell {gap} is missing, though there are cells up to {max(cells)}")
    channels = first.shape[0] // 3 if layout == "cifar" else state["stem1.1.weight"].shape[0]
    return Original(layout, channels, max(cells) + 1, classifier.shape[0], first.shape[1], scheme.pool_bn)


def convert_state_dict(
    state_dict: dict[str, Any],
    genotype: Any,
    layout: str | None = None,
    init_channels: int | None = None,
    num_cells: int | None = None,
    numbering: Numbering | None = None,
) -> StateDict:
    """The state dict of the CellNet that computes the same logits.

    Args:
        state_dict: Of the original network, also in a checkpoint (see load.state_dict_of).
        genotype: The cells, as ``cells_named`` takes them.
        layout: "cifar" or "imagenet"; checked if given, else read from the shapes, as are the two that follow.
        init_channels: C.
        num_cells: Cells in all.
        numbering: The numbers that the file gives our edges, of the normal and of the reduction cell, where it counts
            edges that a genotype does not have ('none'); None: counted through.

    Raises:
        ValueError: It does not fit: one line that says what does not, and what would.
    """
    cells = cells_named(genotype)
    state, scheme = _in_darts_names(state_dict_of(state_dict), cells)
    found = _described(state, scheme)
    given = {"layout": layout, "init_channels": init_channels, "num_cells": num_cells}
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    wrong = [f"{key}={value}" for key, value in given.items() if value not in (None, getattr(found, key))]
    if wrong:
        raise ValueError(f"checkpoint: {', '.join(wrong)} does not fit it; {found} would")
    if numbering is not None:
        state = _renumbered(state, numbering, found)
    _check_operations(state, cells, found)
    _check_nothing_else(state, cells, found)
    model = CellNet(
        cells, found.layout, found.init_channels, found.num_cells, found.num_classes, found.in_chans,
        pool_bn=found.pool_bn, device="meta",
    )  # fmt: skip
    theirs = _names(cells, found)
    converted: StateDict = {}
    for key, value in model.state_dict().items():
        source = theirs[key.rpartition(".")[0]] + "." + key.rpartition(".")[2]
        if source not in state:
            if key.endswith(".num_batches_tracked"):  # torch before 0.4.1 did not have it
                converted[key] = torch.zeros((), dtype=torch.long)
                continue
            raise ValueError(f"checkpoint: {source} is missing ({found})")
        if state[source].shape != value.shape:
            have, want = (tuple(tensor.shape) for tensor in (state[source], value))
            raise ValueError(
                f"checkpoint: {source} has shape {have}, the genotype at {found} needs {want}{_fitting(state, found)}"
            )
        converted[key] = state[source].detach().clone().contiguous()
    return converted


def convert_checkpoint(
    checkpoint: Path | str,
    output: Path | str,
    genotype: Any,
    layout: str | None = None,
    init_channels: int | None = None,
    num_cells: int | None = None,
    numbering: Numbering | None = None,
) -> str:
    """Writes the converted state dict as safetensors; returns a line that says what it is and what was left out.

    The checkpoint is read as tensors and plain values only; one that carries code is refused.
    """
    output = Path(output)
    if output.suffix != ".safetensors":
        raise ValueError(f"output {str(output)!r} must end in .safetensors")
    cells = cells_named(genotype)
    read = read_state_dict(Path(checkpoint))
    converted = convert_state_dict(read, cells, layout, init_channels, num_cells, numbering)
    write_weights(output, converted)
    state, scheme = _in_darts_names(state_dict_of(read), cells)
    found = _described(state, scheme)
    state = state if numbering is None else _renumbered(state, numbering, found)
    auxiliary = sum(key.startswith("auxiliary_head.") for key in state)
    used = {f"{name}." for name in _names(cells, found).values()}
    idle = sum(not key.startswith("auxiliary_head.") and f"{key.rpartition('.')[0]}." not in used for key in state)
    sums = ((auxiliary, "the auxiliary head"), (idle, "parts that do not reach the logits"))
    left_out = [f"{counted(n, 'tensor')} of {what}" for n, what in sums if n]
    narrow = CellNet(cells, found.layout, 4, found.num_cells, pool_bn=found.pool_bn, device="meta")
    names = {key for key, _ in narrow.named_parameters()}
    size = sum(value.numel() for key, value in converted.items() if key in names)
    return f"{output}: {found}, {size:,} parameters; left out: {' and '.join(left_out) or 'nothing'}"


def _modules(genotype: Genotype, found: Original) -> Iterator[tuple[str | None, str]]:
    """(module of the CellNet, module of the original), for each with tensors; None: it does not reach the logits."""
    yield from ((ours, theirs) for theirs, ours in _STEM[found.layout].items())
    yield "classifier", "classifier"
    reductions = reduction_cells(found.num_cells)
    for index in range(found.num_cells):
        cell = genotype.cell("reduce" if index in reductions else "normal")
        halved = index - 1 in reductions if index else found.layout == "imagenet"
        for source, table in ((0, _REDUCE if halved else _POINTWISE), (1, _POINTWISE)):
            for theirs, ours in table.items():
                yield f"cells.{index}.preprocess{source}.{ours}", f"cells.{index}.preprocess{source}.{theirs}"
        k = 0
        for number, node in enumerate(cell.nodes, start=2):
            for j, (operation, source) in enumerate(node):
                live = number in cell.live_nodes
                place = f"cells.{index}.nodes.{cell.live_nodes.index(number)}.ops.{j}" if live else ""
                stride = 2 if index in reductions and source < 2 else 1
                for theirs, ours in _table(operation, stride, found.pool_bn).items():
                    yield f"{place}.{ours}" if live else None, f"cells.{index}._ops.{k}.{theirs}"
                k += 1


def _names(genotype: Genotype, found: Original) -> dict[str, str]:
    """{module of the CellNet: module of the original}, for every module with tensors that a CellNet may have."""
    return {ours: theirs for ours, theirs in _modules(genotype, found) if ours is not None}


def _check_nothing_else(state: StateDict, genotype: Genotype, found: Original) -> None:
    """ValueError where there are tensors that no network of these cells has."""
    known = {theirs for _, theirs in _modules(genotype, found)}
    others = [key for key in state if key.rpartition(".")[0] not in known and not key.startswith("auxiliary_head.")]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ValueError(
            f"checkpoint: another network, with more than the cells have ({found}): {others[0]}{more} would be left "
            "over"
        )


def _renumbered(state: StateDict, numbering: Numbering, found: Original) -> StateDict:
    """The edges under our numbers; those that we do not have keep a name that nobody knows."""
    reductions = reduction_cells(found.num_cells)
    renamed = {}
    for key, value in state.items():
        if match := _OPERATION.fullmatch(key):
            numbers = numbering[int(match[1]) in reductions]
            k = numbers.index(int(match[2])) if int(match[2]) in numbers else f"of_no_edge.{match[2]}"
            key = f"cells.{match[1]}._ops.{k}.{match[3]}"
        renamed[key] = value
    return renamed


def _table(operation: str, stride: int, pool_bn: bool = False) -> dict[str, str]:
    """{layer of the original's operation: layer of ours}."""
    if operation.startswith("sep_conv"):
        return _SEPARABLE
    if operation.startswith("dil_conv"):
        return _DILATED
    if operation == "conv_7x1_1x7":
        return _STACKED
    if operation.endswith("_pool_3x3"):
        return _NORMALIZED if pool_bn else {}
    return _REDUCE if operation == "skip_connect" and stride == 2 else {}


def _kernel(operation: str) -> tuple[int, ...]:
    return (1, 7) if operation == "conv_7x1_1x7" else (int(operation[-1]),) * 2


def _signature(genotype: Genotype, reduction: bool, pool_bn: bool) -> _Signature:
    """For each edge of a cell that has weights: its layers, and its kernel, by the edge's number."""
    edges = [edge for node in genotype.cell("reduce" if reduction else "normal").nodes for edge in node]
    signature = {}
    for k, (operation, source) in enumerate(edges):
        table = _table(operation, 2 if reduction and source < 2 else 1, pool_bn)
        if table:
            signature[k] = (" ".join(sorted(table)), None if "bn" in table else _kernel(operation))
    return signature


def _found_signature(state: StateDict, index: int) -> _Signature:
    layers: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in state.items():
        match = _OPERATION.fullmatch(key)
        if match and int(match[1]) == index and key.endswith(".weight"):
            layers.setdefault(int(match[2]), {})[match[3].removesuffix(".weight")] = value
    signature = {}
    for k, found in layers.items():
        first = found.get("op.1", found.get("1"))
        kernel = tuple(first.shape[2:]) if first is not None else None
        signature[k] = (" ".join(sorted(found)), kernel)
    return signature


def _say(signature: tuple[str, tuple[int, ...] | None] | None) -> str:
    """The operation with these layers, in words."""
    if signature is None:
        return "no weights (a pooling or an identity)"
    layers, kernel = signature
    for name, table in (("sep_conv", _SEPARABLE), ("dil_conv", _DILATED)):
        if layers == " ".join(sorted(table)) and kernel is not None and len(kernel) == 2:
            return f"the weights of {name}_{kernel[0]}x{kernel[1]}"
    if layers == " ".join(sorted(_REDUCE)):
        return "the weights of a skip_connect of stride 2"
    if layers == "bn":
        return "the BatchNorm of a pooling"
    if layers == " ".join(sorted(_STACKED)):
        return "the weights of conv_7x1_1x7"
    return f"weights named {layers}"


def _cells_of_both_kinds(found: Original) -> list[tuple[int, bool]]:
    """The first cell of each kind: its index, and whether it is a reduction cell."""
    reductions = reduction_cells(found.num_cells)
    normal = next((index for index in range(found.num_cells) if index not in reductions), None)
    return ([] if normal is None else [(normal, False)]) + [(min(reductions), True)]


def _check_operations(state: StateDict, genotype: Genotype, found: Original) -> None:
    """ValueError where the weights of a cell are not those of the genotype's operations."""
    for index, reduction in _cells_of_both_kinds(found):
        have, want = _found_signature(state, index), _signature(genotype, reduction, found.pool_bn)
        for k in sorted(have.keys() | want.keys()):
            if have.get(k) != want.get(k):
                kind = "reduction" if reduction else "normal"
                edges = [edge for node in genotype.cell("reduce" if reduction else "normal").nodes for edge in node]
                edge = f"is {edges[k].operation} from {edges[k].source}" if k < len(edges) else "does not exist"
                raise ValueError(
                    f"checkpoint: the genotype does not fit it: edge {k} of its {kind} cell {edge}, but "
                    f"cells.{index}._ops.{k} holds {_say(have.get(k))}{_fitting(state, found)}"
                )


@cache
def _package_signatures(tier: int, pool_bn: bool) -> dict[str, tuple[_Signature, ...]]:
    """The signatures of the normal and the reduction cell of each genotype of the package."""
    names = [*list_genotypes(tier), *(list_found() if tier == 1 else ())]
    genotypes = {name: load_genotype(name) for name in sorted(names)}
    return {
        name: tuple(_signature(genotype, reduction, pool_bn) for reduction in (False, True))
        for name, genotype in genotypes.items()
    }


def _fitting(state: StateDict, found: Original) -> str:
    """Words that name genotypes of the package whose weights fit, or say that none does."""
    wanted = [(_found_signature(state, index), reduction) for index, reduction in _cells_of_both_kinds(found)]
    for tier in (1, 2):
        fitting = [
            name
            for name, signatures in _package_signatures(tier, found.pool_bn).items()
            if all(signatures[reduction] == have for have, reduction in wanted)
        ]
        if fitting:
            more = f" and {len(fitting) - 4} more" if len(fitting) > 4 else ""
            return f"; fitting: {', '.join(fitting[:4])}{more}"
    return "; none of the package's genotypes fits"
