"""Run by test_run.py under torchrun: a few iterations and a whole run in two processes; what each one ends with."""

import sys
from itertools import islice
from pathlib import Path

import torch
from accelerate import Accelerator

from nas_zoo.genotype import KINDS
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.search.arguments import CHECKPOINT_KIND
from nas_zoo.search.method import SearchSettings, Step
from nas_zoo.search.methods.da2s import Da2sSettings
from nas_zoo.search.methods.darts import DartsSettings
from nas_zoo.search.methods.edas import EdasSettings
from nas_zoo.search.run import Search, search

COMMON = {"sync_bn": True, "data": "digits", "num_cells": 3, "init_channels": 4, "batch_size": 32, "epochs": 1}
#: Searches whose end is compared, and after how many iterations.
SEARCHES: dict[str, tuple[type[SearchSettings], dict, int]] = {
    "edas": (EdasSettings, {"train_limit": 512}, 6),
    "second order": (DartsSettings, {"train_limit": 128, "order": 2}, 2),
    "da2s": (Da2sSettings, {"train_limit": 192, "partial_channels": 2, "edges": "4/14", "lambda_1": "const"}, 3),
}


def relaxed(mixing) -> list[tuple[str, int]]:
    return [(kind, e) for kind in KINDS for e, mix in enumerate(mixing[kind]) if mix.weights is not None]


def iterate(name: str) -> dict:
    """The state after some iterations in float64, and the edges that were relaxed in them."""
    settings_class, changes, iterations = SEARCHES[name]
    run = Search(settings_class(**{**COMMON, **changes}), Accelerator(cpu=True))
    run.supernet.double()
    run.method.double()
    drawn = []
    for i, ((x, y), (u, v)) in enumerate(islice(run.batches(0, 0), iterations)):
        at = [Step(0, i, run.settings.epochs, phase) for phase in ("alpha", "weights")]
        drawn.append(tuple(relaxed(run.method.mixing(step)) for step in at))
        run.step(0, i, ((x.double(), y), (u.double(), v)))
    return {"alpha": run.method.state_dict(), "supernet": run.supernet.state_dict(), "drawn": drawn}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    states = {name: iterate(name) for name in SEARCHES}
    accelerator = Accelerator(cpu=True)
    assert accelerator.num_processes == 2
    torch.save(states, folder / f"rank{accelerator.process_index}.pt")
    Accelerator.end_training = lambda self: None  # it would part the processes
    settings = {**COMMON, "sync_bn": False, "train_limit": 128, "out": folder / "run"}
    search(EdasSettings(**settings))  # type: ignore[arg-type]

    pieces = EdasSettings(**{**settings, "out": folder / "pieces", "time_budget": 1e-4})  # type: ignore[arg-type]
    state = None
    while search(pieces, state) is not None:
        state = load_checkpoint(pieces.out / "checkpoint.pt", CHECKPOINT_KIND)
