"""How the names in other people's checkpoints are made up, each turned into DARTS' own, which ``convert`` reads.

    darts      cells.0._ops.1.op.5.weight              quark0/darts and most of what was built on it
    fairdarts  cells.0._ops.2.1.0.op.5.weight          xiaomi-automl/FairDARTS: node, input, number on that edge
    nni        stages.0.0.ops.0.1.5.weight             microsoft/nni's model hub: stage, cell in it; node, edge
    cdarts     nas_layers.0.0.dag.0.1.0.net.1.net.1.weight   microsoft/Cream, CDARTS: the same, other modules
    pt_darts   cells.0.dag.0.1.0.net.1.net.1.weight    khanrc/pt.darts, with a BatchNorm behind each pooling

Only names are looked at here. What a scheme does not know keeps its name, and ``convert`` says that it is too much. A
scheme is added with a function here and a network written from its repository in the tests.
"""

import re
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

from nas_zoo.genotype import Genotype
from nas_zoo.models.layout import reduction_cells

__all__ = ["SCHEMES", "Scheme", "find_scheme"]


class Scheme(NamedTuple):
    """One way of naming."""

    name: str
    whose: str
    mark: re.Pattern[str]  # a name that no other scheme has
    #: {their name: DARTS' name}; without a genotype, operations keep what stands behind their cell.
    rename: Callable[[Collection[str], Genotype | None], dict[str, str]]
    pool_bn: bool = False  # a BatchNorm behind each pooling


#: Two 1x1 convolutions side by side, as pt.darts calls them.
_REDUCE = {"conv1": "conv_1", "conv2": "conv_2", "bn": "bn"}
_EDGE = re.compile(r"cells\.(\d+)\.(?:_ops|ops|dag)\.(\d+)\.(\d+)\.(.+)")


def _darts(names: Collection[str], genotype: Genotype | None) -> dict[str, str]:
    return {name: name for name in names}


def _fairdarts(names: Collection[str], genotype: Genotype | None) -> dict[str, str]:
    """`_ops.TO.FROM.N` is the N-th operation on the edge between two nodes."""
    renamed, reductions = {name: name for name in names}, _reductions(names)
    for name, index, to, source, rest in _edges(names, r"cells\.(\d+)\._ops\.(\d+)\.(\d+)\.(.+)"):
        number, _, tail = rest.partition(".")
        if genotype is None or not number.isdecimal():
            continue
        edges = _numbered(genotype, index in reductions)
        found = [k for k, (node, _, (_, from_node)) in enumerate(edges) if (node, from_node) == (to, source)]
        if int(number) < len(found):
            renamed[name] = f"cells.{index}._ops.{found[int(number)]}.{tail}"
    return renamed


def _nni(names: Collection[str], genotype: Genotype | None) -> dict[str, str]:
    """Stages of cells, and no `op` in the names: every operation is itself a sequence of layers."""
    return _of_node_and_edge(_through_stages(names, "stages"), genotype, _nni_tail)


def _nni_tail(tail: str, operation: str) -> str:
    tail = tail.removeprefix("0.")  # with drop path, a sequence around it
    plain = not tail[:1].isdecimal() or operation == "conv_7x1_1x7"
    return tail if plain else f"op.{tail}"


def _cdarts(names: Collection[str], genotype: Genotype | None) -> dict[str, str]:
    imagenet = any(name.startswith("feature_extractor.1.") for name in names)
    framed = _through_stages(names, "nas_layers")
    for name, new in framed.items():
        for theirs, darts in (
            ("feature_extractor.0.", "stem0." if imagenet else "stem."),
            ("feature_extractor.1.", "stem1."),
            ("fc.", "classifier."),
        ):
            if new.startswith(theirs):
                framed[name] = darts + new.removeprefix(theirs)
    return _of_node_and_edge(framed, genotype, _net_tail)


def _pt_darts(names: Collection[str], genotype: Genotype | None) -> dict[str, str]:
    framed = {name: name for name in names}
    for name in names:
        for theirs, darts in (
            ("linear.", "classifier."),
            ("aux_head.net.", "auxiliary_head.features."),
            ("aux_head.linear.", "auxiliary_head.classifier."),
        ):
            if name.startswith(theirs):
                framed[name] = darts + name.removeprefix(theirs)
    return _of_node_and_edge(framed, genotype, _net_tail)


def _net_tail(tail: str, operation: str) -> str:
    """Of pt.darts' operations, each in a sequence with its drop path: `0.net.1.net.2` is the second half's second."""
    tail = tail.removeprefix("0.")
    if match := re.fullmatch(r"net\.([01])\.net\.(\d+)\.(.+)", tail):
        return f"op.{4 * int(match[1]) + int(match[2])}.{match[3]}"
    first, _, rest = tail.partition(".")
    return f"op.{rest}" if first == "net" else f"{_REDUCE.get(first, first)}.{rest}"


# ------------------------------------------------------------------------------------------------- what several share


def _through_stages(names: Collection[str], word: str) -> dict[str, str]:
    """`WORD.STAGE.CELL.` as `cells.NUMBER.`, counted through."""
    pattern = re.compile(rf"{word}\.(\d+)\.(\d+)\.(.+)")
    sizes: dict[int, int] = {}
    for name in names:
        if match := pattern.fullmatch(name):
            stage = int(match[1])
            sizes[stage] = max(sizes.get(stage, 0), int(match[2]) + 1)
    renamed = {name: name for name in names}
    for name in names:
        if match := pattern.fullmatch(name):
            before = sum(size for stage, size in sizes.items() if stage < int(match[1]))
            renamed[name] = f"cells.{before + int(match[2])}.{match[3]}"
    return renamed


def _of_node_and_edge(
    framed: dict[str, str], genotype: Genotype | None, rename_tail: Callable[[str, str], str]
) -> dict[str, str]:
    """Cells with `preprocessor.preN` or `preprocN`, and operations numbered by node and by edge of the node."""
    renamed = dict(framed)
    for name, new in framed.items():
        if match := re.fullmatch(r"(cells\.\d+)\.(?:preprocessor\.pre|preproc)([01])\.(?:net\.)?([^.]+)\.(.+)", new):
            cell, number, layer, rest = match.groups()
            layer = f"op.{layer}" if layer.isdecimal() else _REDUCE.get(layer, layer)
            renamed[name] = f"{cell}.preprocess{number}.{layer}.{rest}"
    if genotype is None:
        return renamed
    back, reductions = {new: name for name, new in framed.items()}, _reductions(framed.values())
    for new, index, node, edge, tail in _edges(framed.values(), _EDGE.pattern):
        edges = _numbered(genotype, index in reductions)
        found = [(k, op) for k, (at, number, (op, _)) in enumerate(edges) if (at - 2, number) == (node, edge)]
        if found:
            k, operation = found[0]
            renamed[back[new]] = f"cells.{index}._ops.{k}.{rename_tail(tail, operation)}"
    return renamed


def _edges(names: Collection[str], pattern: str) -> Iterator[tuple[str, int, int, int, str]]:
    """(name, cell, first number, second number, the rest) of the names of operations."""
    compiled = re.compile(pattern)
    for name in names:
        if match := compiled.fullmatch(name):
            yield name, int(match[1]), int(match[2]), int(match[3]), match[4]


def _numbered(genotype: Genotype, reduction: bool) -> list[tuple[int, int, tuple[str, int]]]:
    """(node, number at that node, (operation, source)) of the edges of a cell, in their order."""
    nodes = genotype.cell("reduce" if reduction else "normal").nodes
    return [(at, number, edge) for at, node in enumerate(nodes, start=2) for number, edge in enumerate(node)]


def _reductions(names: Collection[str]) -> set[int]:
    cells = [int(match[1]) for name in names if (match := re.match(r"cells\.(\d+)\.", name))]
    return reduction_cells(1 + max(cells, default=-1))


SCHEMES = (
    Scheme("nni", "NNI's model hub", re.compile(r"stages\.\d+\.\d+\.preprocessor\..+"), _nni),
    Scheme("cdarts", "CDARTS", re.compile(r"nas_layers\.\d+\.\d+\.preproc1\..+"), _cdarts),
    Scheme("pt_darts", "pt.darts", re.compile(r"cells\.\d+\.preproc1\..+"), _pt_darts, pool_bn=True),
    Scheme(
        "fairdarts", "FairDARTS", re.compile(r"cells\.\d+\._ops\.\d+\.\d+\.\d+\.(?:op|conv_[12]|bn)\..+"), _fairdarts
    ),
    Scheme("darts", "DARTS", re.compile(r"cells\.\d+\.preprocess1\..+"), _darts),
)


def find_scheme(names: Collection[str]) -> Scheme | None:
    """The scheme whose mark is among the names; None where none is."""
    return next((scheme for scheme in SCHEMES if any(scheme.mark.fullmatch(name) for name in names)), None)
