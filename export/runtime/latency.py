"""Measures what the pieces of a network take in ONNX Runtime here, and estimates a network's latency from them.

    nas-zoo latency edas_c10_s --threads 1 --measure
    nas-zoo latency runs/search --init-channels 16 --num-cells 8 --image-size 32
    nas-zoo latency da2s_c10 --layout imagenet --image-size 160 --to table.json

The pieces (an operation at its channels, resolution and stride, and what stands around it) are timed once a machine,
each as an ONNX file of its own, then some whole networks of the same shape with random cells, on which scale and offset
of the estimate are fitted. That takes minutes; the times are kept in the cache, with what they depend on: processor,
runtime and its version, provider, threads, batch. After that an estimate is arithmetic, also inside a search
(`nas-zoo search --max-latency`, which takes the file of --to).

A time is the least of 15 means of some calls. Where the three best of them lie further apart than 5 % it is taken
again, three times at most; how often that did not help is told: the machine was busy then.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nas_zoo.data.named import cache_folder
from nas_zoo.export.graph.onnx_file import export_onnx, plain_copy, to_graph
from nas_zoo.export.runtime.classifier import MAX_THREADS, PROVIDERS, ProviderError, provider_problems
from nas_zoo.genotype import Genotype
from nas_zoo.models.catalog import MODELS, cells_named
from nas_zoo.models.config import check_config
from nas_zoo.models.count import require_memory
from nas_zoo.models.latency import Conditions, Estimate, Fit, LatencyTable, Piece, Shape, all_pieces, pieces
from nas_zoo.models.load import find_cfg, make_named
from nas_zoo.models.network import CellNet, StemBlock
from nas_zoo.models.operations import SEARCH_OPERATIONS, FactorizedReduce, PointwiseNorm, build_op
from nas_zoo.runs.ending import program
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    given_flags,
    require,
    require_least,
    require_most,
    setting,
    settings_from,
)  # fmt: skip
from nas_zoo.text import plain

__all__ = [
    "LatencySettings", "Timer", "conditions_here", "measure_file", "measure_in_turns", "measure_network",
    "measure_table", "random_cells", "table_path",
]  # fmt: skip

SPREAD = 0.05  # of the three best means of a time that is believed
_NETWORKS = 12  # that a fit is made on


class _Sum(nn.Module):
    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        total = xs[0]
        for x in xs[1:]:
            total = total + x
        return total


class _Concat(nn.Module):
    def forward(self, xs: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(xs, dim=1)


def _module(piece: Piece) -> nn.Module:
    """The piece as the network has it."""
    name, cin, cout = piece.operation, piece.in_channels, piece.out_channels
    if name == "stem":
        return StemBlock(cin, cout, piece.stride)
    if name == "pointwise":
        return PointwiseNorm(cin, cout)
    if name == "factorized_reduce":
        return FactorizedReduce(cin, cout)
    if name == "classifier":
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, cout))
    plain: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "sum": _Sum, "concat": _Concat}
    return plain[name]() if name in plain else build_op(name, cin, piece.stride)


# Times ----------------------------------------------------------------------------------------------------------------


class Timer:
    """Takes times of calls; counts those whose spread shows that the machine did something else meanwhile."""

    def __init__(self, rounds: int = 15, least_s: float = 0.001, repeats: int = 3) -> None:
        self.rounds, self.least_s, self.repeats = rounds, least_s, repeats
        self.taken = self.unsteady = 0

    def ms(self, call: Callable[[], Any]) -> float:
        """Milliseconds of a call: the least of the means of some calls that take ``least_s`` together."""
        for _ in range(3):
            call()
        begin = time.perf_counter()
        call()
        count = max(3, int(self.least_s / max(time.perf_counter() - begin, 1e-7)))
        means: list[float] = []
        self.taken += 1
        for _ in range(self.repeats):
            for _ in range(self.rounds):
                begin = time.perf_counter()
                for _ in range(count):
                    call()
                means.append((time.perf_counter() - begin) / count)
            best = sorted(means)[:3]
            if best[-1] <= (1 + SPREAD) * best[0]:
                return 1e3 * best[0]
        self.unsteady += 1
        return 1e3 * min(means)

    def word(self) -> str | None:
        """What is to be told of a busy machine; None where there is nothing."""
        if not self.unsteady:
            return None
        return (
            f"this machine is busy: {self.unsteady} of {self.taken} times spread by more than {SPREAD:.0%} after "
            f"{self.repeats} rounds; for figures that count, measure again when it is idle"
        )


def conditions_here(provider: str, threads: int | None, batch: int) -> Conditions:
    """What times taken here depend on; ValueError where the provider does not work."""
    import onnxruntime

    facts = run_facts("cpu" if provider == "cpu" else None)
    count = threads if threads is not None else len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return Conditions(facts["device_name"], f"onnxruntime {onnxruntime.__version__}", provider, count, batch)


def table_path(conditions: Conditions) -> Path:
    """Where the table of these conditions is kept: latency/HASH.json in $NAS_ZOO_CACHE, else in ~/.cache/nas_zoo."""
    digest = hashlib.sha256(str(conditions).encode()).hexdigest()[:16]
    return cache_folder() / "latency" / f"{digest}.json"


def _session(graph: bytes | Path, conditions: Conditions) -> Any:
    """A session on the provider of the conditions, or ProviderError."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = conditions.threads
    if conditions.provider != "cpu" and (problems := provider_problems(conditions.provider)):
        raise ProviderError(f"provider {conditions.provider!r} does not work here: {'; '.join(problems)}")
    source = graph if isinstance(graph, bytes) else os.fspath(graph)
    session = onnxruntime.InferenceSession(source, options, providers=[PROVIDERS[conditions.provider]])
    if (got := session.get_providers()[0]) != PROVIDERS[conditions.provider]:
        raise ProviderError(f"provider {conditions.provider!r}: ONNX Runtime took {got} instead; see `nas-zoo doctor`")
    return session


def _call_of(graph: bytes | Path, conditions: Conditions, arrays: Sequence[np.ndarray]) -> Callable[[], Any]:
    """A run of a graph on these inputs; on a GPU inputs and output stay there."""
    session = _session(graph, conditions)
    names = [one.name for one in session.get_inputs()]
    if conditions.provider == "cpu":
        feed = dict(zip(names, arrays, strict=True))
        try:
            session.run(None, feed)
        except Exception as error:  # ONNX Runtime's own, which have no common class
            raise ValueError(f"ONNX Runtime does not run it here: {' '.join(str(error).split())[:300]}") from error
        return lambda: session.run(None, feed)
    import onnxruntime

    binding = session.io_binding()
    for name, array in zip(names, arrays, strict=True):
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    binding.bind_output(session.get_outputs()[0].name, "cuda")

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def measure_piece(piece: Piece, conditions: Conditions, timer: Timer) -> float:
    """Milliseconds of a piece on its own."""
    import onnx_ir

    torch.manual_seed(0)
    size = (piece.in_channels, piece.height, piece.width)
    many = piece.operation in ("sum", "concat")
    examples: tuple[Any, ...] = (
        ([torch.zeros(2, *size) for _ in range(piece.inputs)],) if many else (torch.zeros(2, *size),)
    )
    with warnings.catch_warnings():  # two inputs that share their batch share its name
        warnings.simplefilter("ignore", UserWarning)
        graph = to_graph(plain_copy(_module(piece)), examples, [f"x{i}" for i in range(piece.inputs)])
    data: bytes = onnx_ir.to_proto(graph).SerializeToString()
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((conditions.batch, *size), dtype=np.float32) for _ in range(piece.inputs)]
    return timer.ms(_call_of(data, conditions, arrays))


def measure_network(genotype: Genotype, shape: Shape, conditions: Conditions, timer: Timer) -> float:
    """Milliseconds of a whole network as ``nas-zoo export`` writes it, with random weights."""
    torch.manual_seed(0)
    model = CellNet(
        genotype, shape.layout, shape.init_channels, shape.num_cells, shape.num_classes, shape.input_size[0]
    )
    channels = shape.input_size[0]
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(
            model, Path(folder) / "model.onnx", input_size=shape.input_size, mean=[0.5] * channels, std=[0.5] * channels
        )
        return measure_file(path, shape.input_size, conditions, timer)


def measure_file(path: Path, input_size: Sequence[int], conditions: Conditions, timer: Timer) -> float:
    """Milliseconds of an exported file that takes scaled images of this size."""
    images = np.random.default_rng(0).standard_normal((conditions.batch, *input_size), dtype=np.float32)
    return timer.ms(_call_of(path, conditions, [images]))


def measure_in_turns(
    files: Sequence[tuple[Path, Sequence[int]]], conditions: Conditions, *, rounds: int = 30, count: int = 5
) -> list[float]:
    """Milliseconds of several exported files, (path, input size) each, measured so that they can be compared.

    They take turns, and of each the least mean of `count` calls counts: what else the machine does for a while
    meets all of them. Where the three best means of one lie further apart than 5 % they go on, for ten times as long.
    """
    calls = []
    for path, size in files:
        images = np.random.default_rng(0).standard_normal((conditions.batch, *size), dtype=np.float32)
        calls.append(_call_of(path, conditions, [images]))
    best = [[math.inf] * 3 for _ in calls]
    for turn in range(10 * rounds + 1):  # the first one warms up
        if turn > rounds and all(three[-1] <= (1 + SPREAD) * three[0] for three in best):
            break
        for i, call in enumerate(calls):
            begin = time.perf_counter()
            for _ in range(count):
                call()
            if turn:
                best[i] = sorted([*best[i], 1e3 * (time.perf_counter() - begin) / count])[:3]
    return [three[0] for three in best]


# The table ------------------------------------------------------------------------------------------------------------


def random_cells(seed: int, operations: Sequence[str] = SEARCH_OPERATIONS, num_nodes: int = 4) -> Genotype:
    """Cells for a fit, operations and sources drawn uniformly: of even seeds two edges a node, of odd ones 1 to 3.

    Rules keep different numbers of edges (DARTS 8 of 14, EDAS up to all), and a fit shall hold for both.
    """
    rng = random.Random(f"latency {seed}")

    def count(node: int) -> int:
        return 2 if seed % 2 == 0 else rng.randint(1, min(3, node))

    def cell() -> tuple[list[list[tuple[str, int]]], list[int]]:
        nodes = [
            [(rng.choice(list(operations)), source) for source in sorted(rng.sample(range(node), count(node)))]
            for node in range(2, num_nodes + 2)
        ]
        return nodes, list(range(2, num_nodes + 2))

    return Genotype(cell(), cell())


def measure_table(
    table: LatencyTable,
    shape: Shape,
    *,
    operations: Sequence[str] = SEARCH_OPERATIONS,
    more: Iterable[Piece] = (),
    num_nodes: int = 4,
    networks: int = _NETWORKS,
    timer: Timer | None = None,
    keep: Callable[[LatencyTable], None] | None = None,
    again: bool = False,
) -> LatencyTable:
    """Adds to a table what the networks of a shape need: times of the pieces it lacks, and the fit.

    Args:
        table: Of the conditions to measure under; changed in place.
        shape: Of the networks.
        operations: That may stand on their edges, beside 'none'.
        more: Pieces beside those, such as those of a network with other cells.
        num_nodes: Of a cell.
        networks: With random cells, to fit on.
        timer: Takes the times.
        keep: Is given the table from time to time, so that a long measurement can go on where it was stopped.
        again: Measure what the table has already, too.
    """
    timer = timer or Timer()
    wanted = list(dict.fromkeys([*all_pieces((*operations, "none"), shape, num_nodes), *more]))
    lacking = wanted if again else table.missing(wanted)
    for i, piece in enumerate(tqdm(lacking, "pieces", unit="piece", disable=None)):
        table.ms[piece] = measure_piece(piece, table.conditions, timer)
        if keep is not None and i % 10 == 9:
            keep(table)
    if again or shape not in table.fits:
        cells = [random_cells(seed, operations, num_nodes) for seed in range(networks)]
        points = []
        for genotype in tqdm(cells, "whole networks", unit="network", disable=None):
            total = table.total(part.piece for part in pieces(genotype, shape))
            points.append((total, measure_network(genotype, shape, table.conditions, timer)))
        table.fits[shape] = Fit.of(points)
    if keep is not None:
        keep(table)
    return table


# Program --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LatencySettings:
    """The network, and what is measured"""

    layout: str | None = setting(None, "cifar or imagenet; none: the model's, cifar for bare cells")
    init_channels: int | None = setting(None, "channels of a node in the first cells; none: the model's")
    num_cells: int | None = setting(None, "cells in all; none: the model's")
    num_classes: int | None = setting(None, "classes; none: the model's")
    image_size: int | None = setting(None, "side of an image; none: the model's", unit="pixels")
    provider: str = setting("cpu", "of ONNX Runtime: cpu or cuda")
    threads: int | None = setting(None, "of the CPU provider; none: one a core")
    batch: int = setting(1, "images a call")
    networks: int = setting(_NETWORKS, "whole networks that the fit is made on")
    table: Path | None = setting(None, "file of the table; none: one in the cache for each machine and its conditions")
    to: Path | None = setting(None, "another file to write the table to, for a search")
    measure: bool = setting(False, "time the whole network too, as it is exported")
    again: bool = setting(False, "measure anew what the table has already")
    json: bool = setting(False, "print JSON")

    def __post_init__(self) -> None:
        require_least(self, init_channels=2, num_cells=1, num_classes=1, image_size=8, threads=1, batch=1, networks=2)
        require_most(self, threads=MAX_THREADS)
        require(self.provider in ("cpu", "cuda"), "provider", self.provider, "cpu or cuda")


def named_network(name: str, settings: LatencySettings) -> tuple[Genotype, Shape]:
    """Cells and shape of what a user names: a model, a trained run's folder, or cells."""
    given = {key: getattr(settings, key) for key in ("layout", "init_channels", "num_cells", "num_classes")}
    kwargs: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if (config := Path(name) / "config.json").is_file():
        check_config(config)
        made = f"local-dir:{name}"
    elif name.split(".")[0] in MODELS:
        find_cfg(name)  # which knows its tags
        made = name
    else:
        kwargs["genotype"] = cells_named(name)
        made = f"cell_net_{settings.layout or 'cifar'}"
        require(made in MODELS, "layout", settings.layout, "cifar or imagenet")
    model: Any = make_named(made, name, device="meta", **kwargs)
    if not isinstance(model, CellNet):
        raise ValueError(f"model {name!r} is no network of cells, of which alone the pieces are known")
    size: Any = model.pretrained_cfg["input_size"]  # type: ignore[index]
    side, channels = settings.image_size, model.in_chans
    input_size = (channels, side or size[1], side or size[2])
    require_memory(model, input_size, settings.batch)
    shape = Shape(model.layout, model.init_channels, model.num_cells, model.num_classes, input_size)
    return model.genotype, shape


def estimate_network(
    genotype: Genotype, shape: Shape, settings: LatencySettings
) -> tuple[LatencyTable, Estimate, Timer]:
    """The estimate, after measuring what the table lacks for it."""
    conditions = conditions_here(settings.provider, settings.threads, settings.batch)
    path = settings.table or table_path(conditions)
    table = LatencyTable.read(path) if path.exists() else LatencyTable(conditions)
    if table.conditions != conditions:
        raise ValueError(f"table {str(path)!r} was measured on {table.conditions}; this is {conditions}")

    # Before minutes of measuring: where the table goes must be there.
    path.parent.mkdir(parents=True, exist_ok=True)
    for place in (path, settings.to):
        right = place is None or (place.parent.is_dir() and (place.is_file() or not place.exists()))
        require(right, "to" if place is settings.to else "table", place, "the name of a file in an existing folder")

    def keep(changed: LatencyTable) -> None:
        write_text(path, changed.to_json())

    timer = Timer()
    own = [part.piece for part in pieces(genotype, shape)]
    measure_table(table, shape, more=own, networks=settings.networks, timer=timer, keep=keep, again=settings.again)
    if settings.to is not None:
        write_text(settings.to, table.to_json())
    print(plain(f"table: {settings.to or path}"), file=sys.stderr)
    return table, table.estimate(genotype, shape), timer


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo latency", description=__doc__)
    parser.add_argument("model", help="name of `nas-zoo list`, folder of a run, or cells: a name, a file")
    add_flags(parser, LatencySettings)
    return parser


@program("nas-zoo latency")
def main(argv: Sequence[str] | None = None) -> int:
    """The program: 0, or 2 for a mistake of the user's."""
    namespace = make_parser().parse_args(None if argv is None else list(argv))
    settings = settings_from(LatencySettings, given_flags(namespace))
    genotype, shape = named_network(namespace.model, settings)
    table, estimate, timer = estimate_network(genotype, shape, settings)
    measured = measure_network(genotype, shape, table.conditions, timer) if settings.measure else None
    if settings.json:
        record = {
            "model": namespace.model, "shape": str(shape), "conditions": str(table.conditions),
            "predicted_latency_ms": estimate.ms, "measured_latency_ms": measured, "call_ms": estimate.call,
            "by_place_ms": estimate.by(0), "by_operation_ms": estimate.by(1),
        }  # fmt: skip
        print(json.dumps(record, indent=1))
    else:
        print(_shown(namespace.model, shape, table, estimate, measured))
    if (word := timer.word()) is not None:
        print(f"{word} (--again)", file=sys.stderr)
    return 0


def _shown(name: str, shape: Shape, table: LatencyTable, estimate: Estimate, measured: float | None) -> str:
    fit = table.fit(shape)
    errors = [abs(fit(total) / latency - 1) for total, latency in fit.networks]
    lines = [
        f"{plain(name)} ({shape})",
        f"{table.conditions}",
        f"estimate  {estimate.ms:8.3f} ms   fitted on {len(errors)} networks with random cells, which it meets to "
        f"{100 * sum(errors) / len(errors):.1f} % on average, {100 * max(errors):.1f} % at worst",
    ]
    if measured is not None:
        off = 100 * (estimate.ms / measured - 1)
        lines.append(f"measured  {measured:8.3f} ms   the exported file, of which the estimate is {off:+.1f} % off")
    for title, key in (("by cell", 0), ("by operation", 1)):
        lines.append(f"\n{title}")
        shares = estimate.by(key)
        if key == 1:
            shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
        shares |= {"a call": estimate.call}
        width = max(map(len, shares))
        longest = max(shares.values())
        for place, ms in shares.items():
            bar = "█" * round(30 * ms / longest)
            lines.append(f"  {place:<{width}}  {ms:8.3f} ms  {100 * ms / estimate.ms:5.1f} %  {bar}".rstrip())
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
