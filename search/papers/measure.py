"""Seconds and memory of search iterations, methods and depths in turn in one process."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.runs.facts import run_facts
from nas_zoo.search.method import Step, find_method
from nas_zoo.search.run import Search

__all__ = ["measure_iterations", "peak_gb", "seconds", "synchronised"]


@contextmanager
def synchronised(device: torch.device) -> Iterator[None]:
    """Waits for the device before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(action: Callable[[], None], device: torch.device) -> float:
    """How long it takes."""
    with synchronised(device):
        start = time.perf_counter()
        action()
    return time.perf_counter() - start


def peak_gb(action: Callable[[], None], device: torch.device) -> float:
    """Largest amount of tensor data alive during the action beyond what was alive before it, in 1e9 bytes."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        action()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 1e9
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        action()
    alive = peak = 0
    events = recorded.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak / 1e9


def measure_iterations(
    networks: Mapping[str, tuple[str, int]], size: tuple[int, int, int], rounds: int = 2, each: int = 1
) -> dict[str, Any]:
    """For each network "seconds" (of an iteration, a value a round) and "gb" (its largest); "facts" beside them.

    An iteration is one architecture step and one weight step, with all that the loop does. In a round each network has
    its turn, so that what else the machine does falls on all of them.

    Args:
        networks: By name: method and number of cells.
        size: C, pixels and batch; the images are noise.
        rounds: After one to warm up.
        each: Iterations of a turn, four times as many where the method draws what it runs (as EDAS draws an edge).
    """
    channels, pixels, batch = size
    accelerator = start_accelerator()
    device = accelerator.device
    generator = torch.Generator().manual_seed(0)
    runs: dict[str, Search] = {}
    for name, (method, cells) in networks.items():
        settings_class = find_method(method)[0]
        own: dict[str, Any] = {} if method == "pc_darts" else {"partial_channels": 1}
        runs[name] = Search(
            settings_class(
                data="digits", image_size=pixels, num_cells=cells, init_channels=channels, batch_size=batch, **own
            ),
            accelerator,
        )

    def images(run: Search) -> tuple[torch.Tensor, torch.Tensor]:
        data = torch.randn(batch, run.source.in_chans, pixels, pixels, generator=generator).to(device)
        return data.contiguous(memory_format=torch.channels_last), torch.randint(10, (batch,)).to(device)

    batches = {name: (images(run), images(run)) for name, run in runs.items()}

    counts = {name: each if _runs_all(run) else 4 * each for name, run in runs.items()}

    def turn(name: str, start: int, count: int) -> Callable[[], None]:
        run = runs[name]
        epoch = run.settings.epochs - 1  # in the last one nothing is frozen

        def action() -> None:
            for index in range(start, start + count):
                run.step(epoch, index, batches[name])

        return action

    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name in runs:
            count = counts[name]
            taken = seconds(turn(name, number * count, count), device) / count
            times[name] += [taken] if number else []
    memory = {name: max(peak_gb(turn(name, 1000 + i, 1), device) for i in range(counts[name])) for name in runs}
    return {
        "networks": {
            name: {"seconds": times[name], "median": statistics.median(times[name]), "gb": memory[name]}
            for name in runs
        },
        "facts": run_facts(device),
    }


def _runs_all(run: Search) -> bool:
    """Whether an iteration runs every operation of every edge."""
    mixing = run.method.mixing(Step(0, 0, run.settings.epochs, "weights"))
    return all(len(mix.ops) == run.method.space.num_operations for mixes in mixing.values() for mix in mixes)
