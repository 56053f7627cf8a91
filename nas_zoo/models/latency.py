"""What a network's latency is made of, and its estimate from measured times of the pieces: plain data and arithmetic.

A network is a list of pieces: stem blocks, preprocessing, operations at their channels, resolution and stride, ReLUs,
sums, concatenations, the classifier. ``nas_zoo.export.runtime.latency`` times each distinct piece as a graph of its
own with the runtime that will serve the network; here their times are added up, each without what a call itself costs
(the time of ``CALL``). Alone a piece also pays for two conversions of layout that it does not pay for inside a network,
so the sum is too high by a factor that is much the same for all networks of one shape: scale and offset are fitted on
some whole networks, and a table says on which.

Times are milliseconds a call, of the batch that the table names.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nas_zoo.genotype import KINDS, Genotype
from nas_zoo.models.layout import CellSpec, Plan, find_live, plan_network
from nas_zoo.runs.outside import is_outside

__all__ = [
    "CALL",
    "Conditions",
    "Estimate",
    "Expected",
    "Fit",
    "LatencyTable",
    "Part",
    "Piece",
    "Shape",
    "all_pieces",
    "edge_pieces",
    "pieces",
]

#: Costs nothing where its stride is 1.
_FREE = "skip_connect"
_POOLS = ("max_pool_3x3", "avg_pool_3x3")
#: 2: a fit's sums count equal pools of one state once. Of version 1 the times are read, not the fits.
VERSION = 2


@dataclass(frozen=True)
class Shape:
    """Everything of a network but its cells."""

    layout: str  # "cifar" or "imagenet"
    init_channels: int
    num_cells: int
    num_classes: int
    input_size: tuple[int, int, int]  # (C, H, W)

    def __str__(self) -> str:
        channels, height, width = self.input_size
        what = f"{self.layout}, C={self.init_channels} x {self.num_cells} cells, {self.num_classes} classes"
        return f"{what}, {channels}x{height}x{width}"


class Piece(NamedTuple):
    """A part of a network that is timed on its own: maps (N, in_channels, height, width) by what its name says."""

    operation: str  # an operation of the space, or stem, pointwise, factorized_reduce, relu, sum, concat, classifier
    in_channels: int
    out_channels: int
    height: int
    width: int
    stride: int = 1
    inputs: int = 1  # of a sum or a concatenation

    def __str__(self) -> str:
        text = f"{self.operation} {self.in_channels}>{self.out_channels} {self.height}x{self.width}"
        return text + (f" /{self.stride}" if self.stride > 1 else "") + (f" x{self.inputs}" if self.inputs > 1 else "")

    @classmethod
    def read(cls, text: str) -> Piece:
        """The piece of which this is the text; ValueError for another text."""
        try:
            operation, channels, size, *rest = text.split(" ")
            numbers = [int(number) for number in (*channels.split(">"), *size.split("x"))]
            in_channels, out_channels, height, width = numbers
            more = {part[0]: int(part[1:]) for part in rest}
            piece = cls(operation, in_channels, out_channels, height, width, more.get("/", 1), more.get("x", 1))
        except (ValueError, IndexError):
            raise ValueError(f"{text!r} names no piece of a network") from None
        if str(piece) != text or min(piece[1:]) < 1:
            raise ValueError(f"{text!r} names no piece of a network")
        return piece


#: As good as nothing: what it takes is the call.
CALL = Piece("relu", 1, 1, 1, 1)


class Part(NamedTuple):
    """A piece at its place: "stem", "cell 3", "classifier"."""

    place: str
    piece: Piece


def pieces(genotype: Genotype, shape: Shape) -> list[Part]:
    """The pieces of a network from the image to the logits, as its exported file has them.

    What never reaches the logits is left out, and of equal pools of one state all but one.
    """
    plan = _plan(shape, {kind: len(genotype.cell(kind).concat) for kind in KINDS})
    live = find_live([genotype.cell(spec.kind).inputs_read for spec in plan.cells], [shape.num_cells - 1])
    parts = _stem(plan, shape, live)
    cells = list(_placed(plan, shape))
    for cell in cells:
        if cell.spec.index in live:
            activated = cell.spec.index < shape.num_cells - 1
            parts += [Part(f"cell {cell.spec.index}", piece) for piece in _cell_pieces(genotype, cell, activated)]
    return [*parts, Part("classifier", _classifier(cells[-1], shape))]


def edge_pieces(operation: str, source: int, kind: str, shape: Shape, num_nodes: int = 4) -> list[Piece]:
    """The pieces of an operation on an edge from `source` in all cells of a kind; none for one that costs nothing."""
    plan = _plan(shape, dict.fromkeys(KINDS, num_nodes))
    of_kind = [cell for cell in _placed(plan, shape) if cell.spec.kind == kind]
    return [piece for cell in of_kind for piece in _operation_pieces(operation, source, cell)]


def all_pieces(operations: Iterable[str], shape: Shape, num_nodes: int = 4) -> list[Piece]:
    """Every piece that some network of this shape with these operations can have, each once, in a fixed order.

    With 'none' among the operations a node may end without an input, and the output of a cell is then narrower.
    """
    operations = tuple(operations)
    counts = range(1, num_nodes + 1) if "none" in operations else (num_nodes,)
    found = {CALL: None}
    for normal, reduce in itertools.product(counts, counts):
        plan = _plan(shape, {"normal": normal, "reduce": reduce})
        found |= dict.fromkeys(part.piece for part in _stem(plan, shape, {-1}))
        cells = list(_placed(plan, shape))
        for cell in cells:
            c, out = cell.spec.channels, cell.spec.out_channels
            of_cell = [_preprocess(source, cell) for source in (0, 1)]
            for operation in operations:
                of_cell += [piece for source in (0, 2) for piece in _operation_pieces(operation, source, cell)]
            of_cell += [_elementwise("relu", c, cell.size(source)) for source in (0, 2)]
            of_cell += [_elementwise("sum", c, cell.nodes, inputs) for inputs in range(2, num_nodes + 2)]
            if (joined := out // c) > 1:
                of_cell.append(Piece("concat", c, out, *cell.nodes, inputs=joined))
            of_cell.append(_elementwise("relu", out, cell.nodes))
            found |= dict.fromkeys(of_cell)
        found[_classifier(cells[-1], shape)] = None
    return list(found)


# Of a cell ------------------------------------------------------------------------------------------------------------

Size = tuple[int, int]


def _plan(shape: Shape, num_concat: Mapping[str, int]) -> Plan:
    return plan_network(shape.layout, shape.init_channels, shape.num_cells, num_concat, shape.input_size[0])


def _strided(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def _stem(plan: Plan, shape: Shape, live: set[int]) -> list[Part]:
    """The blocks of the stem that have a reader."""
    size: Size = shape.input_size[1:]
    parts = []
    for i, block in enumerate(plan.stem):
        if i < len(plan.stem) - 1 or len(plan.stem) == 1 or -1 in live:
            parts.append(Part("stem", Piece("stem", block.in_channels, block.out_channels, *size, block.stride)))
        size = _strided(size, block.stride)
    return parts


def _classifier(last: Placed, shape: Shape) -> Piece:
    return Piece("classifier", last.spec.out_channels, shape.num_classes, *last.nodes)


class Placed(NamedTuple):
    """A cell with the sizes of its inputs and of its nodes."""

    spec: CellSpec
    inputs: tuple[Size, Size]
    nodes: Size

    def size(self, source: int) -> Size:
        """Of a state that an edge leaves, preprocessed."""
        return self.inputs[1] if source < 2 else self.nodes


def _placed(plan: Plan, shape: Shape) -> Iterable[Placed]:
    size: Size = shape.input_size[1:]
    sizes = [size := _strided(size, block.stride) for block in plan.stem]
    before = sizes[-1] if len(sizes) == 1 else sizes[-2]
    for spec in plan.cells:
        nodes = _strided(size, spec.stride)
        yield Placed(spec, (before, size), nodes)
        before, size = size, nodes


def _preprocess(source: int, cell: Placed) -> Piece:
    spec = cell.spec
    halved = source == 0 and spec.halve_input0
    name, stride = ("factorized_reduce", 2) if halved else ("pointwise", 1)
    return Piece(name, spec.in_channels[source], spec.channels, *cell.inputs[source], stride)


def _operation_pieces(operation: str, source: int, cell: Placed) -> list[Piece]:
    c, stride = cell.spec.channels, cell.spec.stride if source < 2 else 1
    if operation == "none" or (operation == _FREE and stride == 1):
        return []
    return [Piece(operation, c, c, *cell.size(source), stride)]


def _elementwise(operation: str, channels: int, size: Size, inputs: int = 1) -> Piece:
    return Piece(operation, channels, channels, *size, inputs=inputs)


def _weightless(operation: str, stride: int) -> bool:
    return operation in _POOLS or (operation == _FREE and stride == 1)


def _reads_relu(operation: str, stride: int) -> bool:
    """As ``operations.reads_relu``, which needs torch to be imported."""
    return not _weightless(operation, stride) and not is_outside(operation)


def _cell_pieces(genotype: Genotype, placed: Placed, activated: bool) -> Iterable[Piece]:
    """As the exported file has them: equal pools of one state, and sums of such, are run once.

    They have no weights, so exporter and runtime merge them (common subexpressions).
    """
    spec = placed.spec
    cell, c = genotype.cell(spec.kind), spec.channels
    for source in sorted(cell.inputs_read):
        yield _preprocess(source, placed)
    state = {0: 0, 1: 1}  # of a node the first one with the same values
    of_edges: dict[tuple[tuple[str, int], ...], int] = {}
    read_as_relu, merged = set(), set()
    for number in sorted(cell.live_nodes):
        edges = tuple((operation, state[source]) for operation, source in cell.nodes[number - 2])
        strides = [spec.stride if source < 2 else 1 for _, source in edges]
        weightless = [_weightless(operation, stride) for (operation, _), stride in zip(edges, strides, strict=True)]
        if edges[0][0] == _FREE and weightless == [True]:
            state[number] = edges[0][1]
            continue
        state[number] = of_edges.setdefault(edges, number) if all(weightless) else number
        if state[number] != number:
            continue
        for edge, stride, shared in zip(edges, strides, weightless, strict=True):
            operation, source = edge
            if _reads_relu(operation, stride):
                read_as_relu.add(source)
            if edge not in merged:
                yield from _operation_pieces(operation, source, placed)
            if shared:
                merged.add(edge)
        if len(edges) > 1:
            yield _elementwise("sum", c, placed.nodes, len(edges))
    for source in sorted(read_as_relu):
        yield _elementwise("relu", c, placed.size(source))
    if len(cell.concat) > 1:
        yield Piece("concat", c, spec.out_channels, *placed.nodes, inputs=len(cell.concat))
    if activated:
        yield _elementwise("relu", spec.out_channels, placed.nodes)


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conditions:
    """What times depend on besides the piece."""

    device: str  # name of the processor or the GPU
    runtime: str  # "onnxruntime 1.31.1"
    provider: str  # "cpu", "cuda", "tensorrt"
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {self.provider}, {self.threads} thread(s), batch {self.batch}"


@dataclass(frozen=True)
class Fit:
    """latency = scale * sum of the pieces + offset, for networks of one shape."""

    scale: float
    offset: float
    #: of each network that was fitted on: [sum of its pieces, its latency as measured]
    networks: tuple[tuple[float, float], ...] = ()

    @classmethod
    def of(cls, networks: Sequence[tuple[float, float]]) -> Fit:
        """Least squares of the relative error, on (sum of pieces, measured latency) of two networks at least."""
        if len(networks) < 2:
            raise ValueError(f"a fit takes two networks at least, got {len(networks)}")
        # weights 1 / latency**2: an error of 5 % counts the same in a small network and a large one
        weight = [1 / latency**2 for _, latency in networks]
        total = sum(weight)
        x = sum(w * a for w, (a, _) in zip(weight, networks, strict=True)) / total
        y = sum(w * b for w, (_, b) in zip(weight, networks, strict=True)) / total
        around = [(w, a - x, b - y) for w, (a, b) in zip(weight, networks, strict=True)]
        spread = sum(w * a * a for w, a, _ in around)
        slope = sum(w * a * b for w, a, b in around) / spread if spread > 1e-9 * x * x * total else y / x
        if slope <= 0:  # networks so alike that noise decides: the mean ratio then says more
            slope = y / x
        return cls(slope, y - slope * x, tuple((float(a), float(b)) for a, b in networks))

    def __call__(self, total: Any) -> Any:
        """Of a sum of pieces the latency; of a tensor a tensor."""
        return self.scale * total + self.offset


@dataclass(frozen=True)
class Estimate:
    """Of one network, in milliseconds a call."""

    ms: float
    parts: tuple[tuple[str, str, float], ...]  # (place, operation, its share), which add up to ms with `call`
    call: float  # what a call costs beside the pieces

    def by(self, key: int) -> dict[str, float]:
        """The shares by place (0) or by operation (1)."""
        sums: dict[str, float] = {}
        for part in self.parts:
            sums[str(part[key])] = sums.get(str(part[key]), 0.0) + part[2]
        return sums


@dataclass
class LatencyTable:
    """Measured times of pieces under some conditions, and the fits for the shapes that were asked for."""

    conditions: Conditions
    ms: dict[Piece, float] = field(default_factory=dict)
    fits: dict[Shape, Fit] = field(default_factory=dict)

    def missing(self, wanted: Iterable[Piece]) -> list[Piece]:
        """Those that the table has no time of, each once."""
        return [piece for piece in dict.fromkeys(wanted) if piece not in self.ms]

    def total(self, wanted: Iterable[Piece]) -> float:
        """Sum of the times of pieces without their calls, before the fit.

        Raises:
            ValueError: The table lacks one; it is named.
        """
        found = list(wanted)
        if lacking := self.missing([CALL, *found]):
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise ValueError(f"the latency table has no time of '{lacking[0]}'{more}")
        return math.fsum(map(self._alone, found))

    def _alone(self, piece: Piece) -> float:
        return max(0.0, self.ms[piece] - self.ms[CALL])

    def fit(self, shape: Shape) -> Fit:
        """The fit for networks of a shape; ValueError where none was made."""
        if shape not in self.fits:
            known = "; ".join(map(str, self.fits)) or "none"
            raise ValueError(f"the latency table has no fit for networks of {shape}; it has fits for: {known}")
        return self.fits[shape]

    def estimate(self, genotype: Genotype, shape: Shape) -> Estimate:
        """The latency of a network, with the share of each piece; ValueError where something was not measured."""
        fit, parts = self.fit(shape), pieces(genotype, shape)
        total = self.total(part.piece for part in parts)
        shares = tuple((part.place, part.piece.operation, fit.scale * self._alone(part.piece)) for part in parts)
        return Estimate(fit(total), shares, fit.offset)

    def to_json(self) -> str:
        """The table as text: a piece a line, so that two tables can be compared."""
        record = {
            "version": VERSION,
            "conditions": asdict(self.conditions),
            "fits": [{"shape": asdict(shape), **asdict(fit)} for shape, fit in self.fits.items()],
            "ms": {str(piece): float(f"{value:.5g}") for piece, value in sorted(self.ms.items())},
        }
        return json.dumps(record, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """The table in a file.

        Raises:
            ValueError: There is none, or what is there is none.
        """
        path = Path(path)
        try:
            record = json.loads(path.read_text("utf-8"))
            if record["version"] not in (1, VERSION):
                raise ValueError(f"version {record['version']!r} is not {VERSION}")
            conditions = Conditions(**record["conditions"])
            ms = {Piece.read(text): _time(value) for text, value in record["ms"].items()}
            fits = {_shape(**row["shape"]): _fit(row) for row in record["fits"] if record["version"] == VERSION}
        except OSError as error:
            raise ValueError(f"latency table {str(path)!r}: {error.strerror or error}") from None
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            what = " ".join(str(error).split())[:200]
            raise ValueError(
                f"latency table {str(path)!r} is none that `nas-zoo latency` wrote ({type(error).__name__}: {what})"
            ) from None
        return cls(conditions, ms, fits)


def _time(value: Any, least: float = 0.0) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"{value!r} is no time")
    return float(value)


def _shape(layout: str, init_channels: int, num_cells: int, num_classes: int, input_size: Sequence[int]) -> Shape:
    channels, height, width = input_size
    return Shape(layout, init_channels, num_cells, num_classes, (channels, height, width))


def _fit(row: Mapping[str, Any]) -> Fit:
    networks = tuple((_time(a), _time(b)) for a, b in row["networks"])
    return Fit(_time(row["scale"]), _time(row["offset"], -math.inf), networks)


# Expected latency -----------------------------------------------------------------------------------------------------


class Expected:
    """The expected latency of the network that a relaxed mixing stands for, as plain sums over edges and operations.

    latency = scale * (fixed + sum_n k_n / m_n * sum_(e into n) sum_o w_eo * t_o(e)) + offset

    with w_eo the mixing's weight of operation o on edge e, t_o(e) the time of o at its places in all cells of that kind
    of the network that will be trained, and m_n the sum of the weights that enter node n, of which the rule keeps k_n
    edges. At a mixing of one operation an edge this is the table's estimate of that network: that equal pools of one
    state are run once is a part of ``fixed``, which may be negative by it.
    """

    def __init__(self, table: LatencyTable, shape: Shape, operations: Sequence[str], num_nodes: int = 4) -> None:
        self.table, self.shape, self.operations = table, shape, tuple(operations)
        self.fit = table.fit(shape)
        edges = [source for node in range(2, num_nodes + 2) for source in range(node)]
        #: {kind: [edge][operation]}, in milliseconds before the fit
        self.ms = {
            kind: [
                [table.total(edge_pieces(name, source, kind, shape, num_nodes)) for name in self.operations]
                for source in edges
            ]
            for kind in KINDS
        }

    def fixed(self, genotype: Genotype) -> float:
        """What a network costs beside the operations on its edges: stem, preprocessing, sums, ReLUs, classifier.

        Without what operations on several edges have in common.
        """
        edges = [
            self.ms[kind][number * (number - 1) // 2 - 1 + source][self.operations.index(operation)]
            for kind in KINDS
            for number, node in enumerate(genotype.cell(kind).nodes, 2)
            for operation, source in node
        ]
        return self.table.total(part.piece for part in pieces(genotype, self.shape)) - math.fsum(edges)
