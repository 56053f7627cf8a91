"""Writes a genotype for use without this package: as a Python module with its network, or as text.

nas-zoo export-model darts_v2 --to timm-module --output my_darts.py     # then: import my_darts, timm
nas-zoo export-model runs/edas --to darts

timm-module  one readable .py file of the derived network, torch and timm only; importing it registers the model
             with timm, and it loads the state dicts of the same network here
darts        the tuple text that the DARTS code and its relatives read
json         this package's own text
dot          both cells as one Graphviz graph
"""

import ast
import builtins
import inspect
import keyword
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nas_zoo import __version__
from nas_zoo.genotype import KINDS, Cell, Genotype
from nas_zoo.models import operations
from nas_zoo.models.catalog import DATA, cells_named
from nas_zoo.models.depthwise import DepthwiseConv
from nas_zoo.models.layout import LAYOUTS, plan_network
from nas_zoo.models.network import SkippedCell, StemBlock
from nas_zoo.runs import outside
from nas_zoo.runs.files import write_text
from nas_zoo.text import fill, near_names

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
        genotype: What ``cells_named`` takes.
        to: One of FORMATS.
        output: A file; one that is there is replaced.
        name: Of the model or of the assignment; default: the genotype's own name, or that of the output.
        kw: Of to_timm_module: layout, init_channels, num_cells, num_classes.
    """
    if to not in FORMATS:
        raise ValueError(f"format {to!r} is unknown; it must be one of {', '.join(FORMATS)}{near_names(to, FORMATS)}")
    if name is None:
        name = _default_name(genotype, output if to == "timm-module" else None)
        name = name.lower() if to == "timm-module" else name
    cells = cells_named(genotype)
    if to == "timm-module":
        text = to_timm_module(cells, name, **kw)
    elif any(value is not None for value in kw.values()):
        given = ", ".join(key for key, value in kw.items() if value is not None)
        raise ValueError(f"{given}: only --to timm-module takes it, a genotype as {to} has no size")
    elif to == "darts":
        text = cells.to_darts(name.upper() if name.isidentifier() else None) + "\n"
    elif to == "json":
        text = cells.to_json(2, name=name)
    else:
        text = to_dot(cells, name)
    if output is not None:
        write_text(output, text)
    return text


def _default_name(genotype: Any, output: Path | str | None) -> str:
    """Of the file it will be, else of where the cells come from: "genotypes.py:DARTS_V2" is DARTS_V2."""
    if output is None and not isinstance(genotype, str | Path):
        return "derived"
    before, _, last = str(genotype).rpartition(":")
    own = last if before and last.isidentifier() else Path(str(genotype)).stem
    return re.sub(r"\W+", "_", own if output is None else Path(output).stem)


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
        raise ValueError(f"name {name!r}: a model's must be a Python name in lower case (letters, digits, _)")
    class_name = "".join(part.capitalize() for part in name.split("_")) or "Derived"
    if not class_name.isidentifier():  # of "_1"
        class_name = f"Network{class_name}"
    if {name, class_name} & _TAKEN or name in _OF_OTHERS:
        raise ValueError(f"name {name!r}: means something else in Python, in torch or in the module; take another")
    if layout not in (None, *LAYOUTS):
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    data = DATA["in1k" if layout == "imagenet" else "c10"]
    channels, cells = init_channels or data.init_channels, num_cells or data.num_cells
    classes = data.num_classes if num_classes is None else num_classes
    plan_network(data.layout, channels, cells, {kind: len(genotype.cell(kind).concat) for kind in KINDS})  # checks them
    blocks: list[Any] = [StemBlock, operations.PointwiseNorm, operations.FactorizedReduce]
    blocks += [made for start, made in _CLASSES.items() if any(op.startswith(start) for op in genotype.operations)]
    imagenet = data.layout == "imagenet"
    own, futures = _from_outside(genotype, {name, class_name})
    return fill(
        "nas_zoo.export.cells", "module.py.j2",
        name=name,
        class_name=class_name,
        version=__version__,
        digest=genotype.digest,
        layout=data.layout,
        init_channels=channels,
        num_cells=cells,
        num_classes=classes,
        normal=_live_part(genotype.normal),
        reduce=_live_part(genotype.reduce),
        # code as it is
        own=own,
        futures=futures,
        blocks="\n\n".join(inspect.getsource(block) for block in blocks).rstrip(),
        depthwise_init=inspect.getsource(DepthwiseConv.__init__).rstrip(),
        skipped_cell=inspect.getsource(SkippedCell).rstrip(),
        operations=sorted(op for op in genotype.operations if not outside.is_outside(op)),
        outside={op: op.rpartition(":")[2] for op in sorted(genotype.operations) if outside.is_outside(op)},
        input_size=(3, 224, 224) if imagenet else (3, 32, 32),
        pool_size=(7, 7) if imagenet else (8, 8),
        crop_pct=0.875 if imagenet else 1.0,
        interpolation="bicubic" if imagenet else "bilinear",
        mean=data.mean,
        std=data.std,
    )  # fmt: skip


#: Names at the top of module.py.j2, which a file of operations must leave to it.
_TAKEN = {
    "NORMAL", "REDUCE", "every_other_pixel", "DepthwiseConv", "StemBlock", "PointwiseNorm", "FactorizedReduce",
    "SeparableConv", "DilatedConv", "StackedConv", "make_operation", "Node", "Cell", "SkippedCell", "inputs_read",
    "default_cfgs", "DropPath", "create_classifier", "build_model_with_cfg", "checkpoint", "generate_default_cfgs",
    "register_model", "__all__", "Any", "torch", "F", "nn",
}  # fmt: skip

#: What a file or a function of that name would hide from the module or from torch.
_OF_OTHERS = {"timm", *dir(builtins), *sys.stdlib_module_names}


_TWO_ONLY = "the module shall need torch and timm only"


def _from_outside(genotype: Genotype, names: set[str]) -> tuple[str, list[str]]:
    """The source of the files that the genotype's own operations come from, and what they import from __future__.

    `names` are those of the model, which the files must leave to it as they must _TAKEN.

    Raises:
        ValueError: For operations of installed packages, for files that need nas-zoo, and for names that two files, or
            a file and the module, both have.
    """
    sources: dict[str, str] = {}
    for name in sorted(filter(outside.is_outside, genotype.operations)):
        found = outside.find(name, "operation")
        if found.path is None:
            raise ValueError(f"the operation {name!r} comes from a package; {_TWO_ONLY}")
        sources.setdefault(f"{found.path.name} ({found.mark})", found.path.read_text("utf-8"))
    texts, futures, taken = [], [], dict.fromkeys(_TAKEN | names, "the module")
    for place, source in sources.items():
        tree, lines = ast.parse(source), source.splitlines()
        for node in tree.body:
            aliases: list[ast.alias] = getattr(node, "names", [])
            module = getattr(node, "module", "") or ""
            if "nas_zoo" in {module.partition(".")[0], *(alias.name.partition(".")[0] for alias in aliases)}:
                raise ValueError(f"{place}, line {node.lineno}: imports nas_zoo; {_TWO_ONLY}")
            future = isinstance(node, ast.ImportFrom) and module == "__future__"
            if future:
                futures += [alias.name for alias in aliases]
            if future or (node is tree.body[0] and ast.get_docstring(tree) is not None):
                for i in range(node.lineno - 1, node.end_lineno or node.lineno):
                    lines[i] = ""
            if isinstance(node, ast.Import | ast.ImportFrom):
                continue
            targets: list[ast.AST] = [one for target in getattr(node, "targets", ()) for one in ast.walk(target)]
            named = [one.id for one in targets if isinstance(one, ast.Name)]
            for one in [*named, *([node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else [])]:
                if one in taken:
                    raise ValueError(f"{place}: the name {one} is in {taken[one]} too; rename yours")
                taken[one] = place
        texts.append(f"# From {place}.\n" + "\n".join(lines).strip("\n"))
    return "\n\n\n".join(texts), sorted(set(futures))


def _live_part(cell: Cell) -> dict[str, Any]:
    """The cell without nodes that do not reach its output: the edges of each node as text, and the concat."""
    live = cell.live_nodes
    position = {0: 0, 1: 1} | {number: i for i, number in enumerate(live, start=2)}
    nodes = [[(edge.operation, position[edge.source]) for edge in cell.nodes[number - 2]] for number in live]
    return {
        "nodes": [str(edges).replace("'", '"') for edges in nodes],
        "concat": [position[number] for number in cell.concat],
    }
