"""Seconds and memory of one search iteration, against the least it could cost.

    python benchmarks/search_step.py --method edas --num-cells 20 --init-channels 16 --batch-size 64

Prints one JSON line. An iteration is one architecture step and one weight step, with optimizers, clipping and all that
the loop does, averaged over drawn edges of both cell kinds. Against it stand, in the same process and in turn:

    floor     two forward and backward passes of a plain network that is made of exactly the operations active in that
              iteration (the drawn edge's mixing weights as constants) and of nothing else: no idle candidates,
              no architecture parameters, no optimizer
    derived   two forward and backward passes of the derived network, in its search form

and, for methods that relax all edges (darts, pc_darts, da2s ...), instead of the floor

    reference an iteration of the same loop on the plain layer-by-layer supernet of tests/plain_darts.py in PyTorch's
              usual memory layout: a ReLU, a convolution, a BatchNorm and a product for each operation, nothing shared

with ``time_ratio`` and ``memory_ratio`` against it. ``--without`` adds, in the same rounds, iterations that lack one
of the things that make it fast (``without_<name>_s``). On CUDA ``images_per_s`` and ``derived_images_per_s`` say how
much of what the derived network reaches the search does.

Times are medians over ``--repeats`` rounds of the same drawn edges. Memory is the largest amount of tensor data alive
during the passes beyond what was alive before them, counted by PyTorch's own allocation records (not the process's
resident memory, which depends on what ran before); on CUDA it is the allocator's peak.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from nas_zoo.genotype import KINDS
from nas_zoo.models.depthwise import DepthwiseConv
from nas_zoo.models.network import CellNet
from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.facts import run_facts
from nas_zoo.search import supernet as supernet_module
from nas_zoo.search.method import METHODS, SearchSettings, Step, find_method
from nas_zoo.search.papers.measure import peak_gb, seconds
from nas_zoo.search.run import Search
from nas_zoo.search.supernet import Mixing, SearchCell, Supernet


class PlainCell(nn.Module):
    """The active operations of one search cell as an ordinary module; shares its parameters with the supernet's."""

    def __init__(self, cell: SearchCell, mixing: Mixing) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = cell.preprocess0, cell.preprocess1
        self.activate, self.num_nodes = cell.activate, cell.space.num_nodes
        self.channels, self.stride = cell.channels, cell.stride
        none = cell.space.none_index
        self.ops = nn.ModuleList()
        self.plan: list[list[tuple[int, int, bool, float]]] = [[] for _ in range(cell.space.num_nodes)]
        for e, (node, source) in enumerate(cell.space.edges):
            for k, op in enumerate(mixing[e].ops):
                if op == none:
                    continue
                weights = mixing[e].weights
                factor = 1.0 if weights is None else float(weights[k])
                self.plan[node - 2].append((len(self.ops), source, cell.wants_relu[e][op], factor))
                self.ops.append(cell.operation(e, op))

    def forward(self, s0: torch.Tensor, s1: torch.Tensor) -> torch.Tensor:
        states: list = [self.preprocess0(s0), self.preprocess1(s1)]
        relus: list = [None] * (2 + self.num_nodes)
        for terms in self.plan:
            total = None
            for index, source, wants_relu, factor in terms:
                x = states[source]
                if x is None:
                    continue
                if wants_relu:
                    if relus[source] is None:
                        relus[source] = F.relu(x)
                    x = relus[source]
                y = self.ops[index](x)
                y = y if factor == 1.0 else y * factor
                total = y if total is None else total + y
            states.append(total)
        like = next(s for s in states[2:] if s is not None)
        out = torch.cat([torch.zeros_like(like) if s is None else s for s in states[2:]], dim=1)
        return F.relu(out, inplace=True) if self.activate else out


class PlainNetwork(nn.Module):
    """The floor: a network of exactly the active operations."""

    def __init__(self, supernet: Supernet, mixing: dict[str, Mixing]) -> None:
        super().__init__()
        self.stem, self.classifier = supernet.stem, supernet.classifier
        self.cells = nn.ModuleList(
            PlainCell(cast(SearchCell, cell), mixing[spec.kind])
            for spec, cell in zip(supernet.plan.cells, supernet.cells, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        s0 = s1 = x
        for block in self.stem:
            s0, s1 = s1, block(s1)
        s0 = s1 if len(self.stem) == 1 else s0
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.classifier(s1.mean((2, 3)))


def two_passes(network: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for images, labels in batches:
        F.cross_entropy(network(images), labels).backward()
        for parameter in network.parameters():
            parameter.grad = None


def draw_rounds(run: Search, count: int) -> list[int]:
    """Iterations whose drawn edges are spread over both cell kinds and over the cell, as evenly as ``count`` allows.

    The same number from each kind; within a kind evenly over the edges, since early edges (stride 2, inputs) and late
    ones differ in cost.
    """
    seen: dict[tuple[str, int], int] = {}
    for index in range(5000):
        mixing = run.method.mixing(Step(0, index, 1, "alpha"))
        drawn = [(k, e) for k in KINDS for e, mix in enumerate(mixing[k]) if mix.weights is not None]
        if len(drawn) != 1:
            return list(range(count))  # no single-edge method: any iteration is like any other
        seen.setdefault(drawn[0], index)
    wanted = []
    for i in range(count):
        kind, edges = KINDS[i % 2], run.method.space.num_edges
        wanted.append(seen[kind, (i // 2 * edges // max(1, (count + 1) // 2) + edges // (count + 1)) % edges])
    return wanted


#: What makes a relaxed step fast on a CPU, and how to do without: object, attribute, the plain form.
PIECES: dict[str, tuple[Any, str, Any]] = {
    "mixed_sum": (SearchCell, "_may_sum_at_once", lambda self, terms: False),
    "depthwise": (DepthwiseConv, "_fast_forward", lambda self, x: self._conv_forward(x, self.weight, self.bias)),
    "concatenate": (supernet_module, "concatenate", lambda parts: torch.cat(parts, dim=1)),
}


@contextmanager
def lacking(piece: str) -> Iterator[None]:
    place, name, plain = PIECES[piece]
    kept = getattr(place, name)
    setattr(place, name, plain)
    try:
        yield
    finally:
        setattr(place, name, kept)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="edas", choices=METHODS)
    parser.add_argument("--num-cells", type=int, default=20)
    parser.add_argument("--init-channels", type=int, default=16)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--draws", type=int, default=6, help="drawn edges, half of them in each cell kind")
    parser.add_argument("--repeats", type=int, default=2, help="rounds over the drawn edges, after one to warm up")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=True, help="for all three")
    parser.add_argument("--genotype", default="darts_v2", help="of the derived network")
    parser.add_argument("--without", nargs="*", default=[], choices=PIECES, metavar="PIECE",
                        help=f"also time the iteration without some of {', '.join(PIECES)}")  # fmt: skip
    parser.add_argument("--partial-channels", type=int, help="K of PC-DARTS; default: the method's own")
    return parser.parse_args(argv)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """What the program prints: seconds, memory and their ratios, and what they are of."""
    settings_class = find_method(options.method)[0]
    changes = {} if options.partial_channels is None else {"partial_channels": options.partial_channels}
    settings = settings_class(
        data="digits", image_size=32, num_cells=options.num_cells, init_channels=options.init_channels,
        batch_size=options.batch_size, channels_last=options.channels_last, **changes,
    )  # fmt: skip
    accelerator = start_accelerator()
    device = accelerator.device
    run = Search(settings, accelerator)
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[torch.Tensor, torch.Tensor]:
        images = torch.randn(options.batch_size, run.source.in_chans, 32, 32, generator=generator).to(device)
        if options.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images, torch.randint(10, (options.batch_size,), generator=generator).to(device)

    batches = [batch(), batch()]
    derived = CellNet(
        options.genotype, init_channels=options.init_channels, num_cells=options.num_cells,
        in_chans=run.source.in_chans, pool_bn=True,
    ).to(device)  # fmt: skip
    if options.channels_last:
        derived = derived.to(memory_format=torch.channels_last)

    def iteration(index: int, of: Search = run, on: list[tuple[torch.Tensor, torch.Tensor]] = batches) -> Callable:
        def action() -> None:
            of.step(epoch, index, (on[0], on[1]))

        return action

    def floor(index: int) -> Callable[[], None]:
        with torch.no_grad():
            mixing = run.method.mixing(Step(0, index, 1, "weights"))
        network = PlainNetwork(run.supernet, mixing).train()
        return lambda: two_passes(network, batches)

    relaxes_all = all(
        mix.weights is not None and len(mix.ops) == run.method.space.num_operations
        for mixes in run.method.mixing(Step(0, 0, 1, "alpha")).values()
        for mix in mixes
    )
    epoch = settings.epochs - 1 if relaxes_all else 0  # in the last one nothing is frozen
    against = "reference" if relaxes_all else "floor"
    if relaxes_all:
        plain = plain_run(settings, accelerator, run)
        plain_batches = [(images.contiguous(), labels) for images, labels in batches]
        draws = [0] * options.draws
    else:
        draws = draw_rounds(run, options.draws)
    names = ["iteration", against, "derived", *(f"without_{piece}" for piece in options.without)]
    times: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(options.repeats + 1):
        for row in times.values():
            row.append([])
        for index in draws:
            # the floor first: an iteration moves alpha, after which the same index may have other active operations
            for name, action in (
                (against, iteration(index, plain, plain_batches) if relaxes_all else floor(index)),
                ("iteration", iteration(index)),
                ("derived", lambda: two_passes(derived, batches)),
            ):
                times[name][-1].append(seconds(action, device))
            for piece in options.without:
                with lacking(piece):
                    times[f"without_{piece}"][-1].append(seconds(iteration(index), device))
    means = {n: statistics.median(statistics.mean(r) for r in rounds[1:]) for n, rounds in times.items()}
    ratio = statistics.median(
        statistics.mean(a) / statistics.mean(b) for a, b in zip(times["iteration"][1:], times[against][1:], strict=True)
    )
    memory: dict[str, list[float]] = {"iteration": [], against: []}
    for index in draws[:1] if relaxes_all else draws[:2]:
        other = iteration(index, plain, plain_batches) if relaxes_all else floor(index)
        memory[against].append(peak_gb(other, device))
        memory["iteration"].append(peak_gb(iteration(index), device))
    gb = {name: statistics.mean(values) for name, values in memory.items()}
    facts = run_facts(device)
    return {
        "method": options.method,
        "iteration_s": round(means["iteration"], 4),
        f"{against}_s": round(means[against], 4),
        "time_ratio": round(ratio, 4),
        "iteration_gb": round(gb["iteration"], 4),
        f"{against}_gb": round(gb[against], 4),
        "memory_ratio": round(gb["iteration"] / gb[against], 4),
        "derived_s": round(means["derived"], 4),
        **{f"without_{piece}_s": round(means[f"without_{piece}"], 4) for piece in options.without},
        "images_per_s": round(2 * options.batch_size / means["iteration"], 1),
        "derived_images_per_s": round(2 * options.batch_size / means["derived"], 1),
        "n": len(draws) * options.repeats,
        "num_cells": options.num_cells,
        "init_channels": options.init_channels,
        "partial_channels": settings.partial_channels,
        "batch_size": options.batch_size,
        "channels_last": options.channels_last,
        "device": facts["device_name"],
        "threads": facts["threads"],
        "versions": {k: v for k, v in facts["versions"].items() if k in ("python", "torch", "nas-zoo")},
    }


def plain_run(settings: SearchSettings, accelerator: Accelerator, like: Search) -> Search:
    """The same loop on the plain layer-by-layer supernet, with the same weights, in PyTorch's usual memory layout."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    from tests.plain_darts import PlainSupernet

    run = Search(settings, accelerator)
    plain = PlainSupernet(like.supernet).to(accelerator.device)
    run.supernet = cast(Supernet, plain)
    run.weights = list(plain.parameters())
    run.weight_optimizer = torch.optim.SGD(
        run.weights, settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    return run


if __name__ == "__main__":
    print(json.dumps(measured(parse())))
