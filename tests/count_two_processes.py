"""Run by runs/test_collectives.py under torchrun: what an iteration dispatches, for all methods and retraining."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nas_zoo.runs.distributed import start_accelerator, world_size
from nas_zoo.search.method import METHODS, find_method
from nas_zoo.search.run import Search
from nas_zoo.train.run import Training, parse

SEARCH = {"data": "digits", "num_cells": 6, "init_channels": 4, "batch_size": 8, "epochs": 4, "train_limit": 64}
TRAIN = ["--recipe", "quick", "--model", "cell_net_cifar", "--init-channels", "4", "--num-cells", "6", "--data",
         "digits", "--train-limit", "64", "--batch-size", "8", "--out", "does-not-exist"]  # fmt: skip


class Counted(TorchDispatchMode):
    """Operations and collectives, backward pass and optimizer included."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.collectives = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations += 1
        self.collectives += func.namespace == "c10d" and "wait" not in func.__name__
        return func(*args, **(kwargs or {}))


def iteration(run: Any) -> dict[str, int]:
    """Of the second iteration, the first of which fills the optimizers' state."""
    batches = iter(run.batches(0, 0))
    run.step(0, 0, next(batches), torch.zeros(4))
    batch, votes = next(batches), torch.zeros(4)
    with Counted() as counted:
        run.step(0, 1, batch, votes)
    return {"operations": counted.operations, "collectives": counted.collectives}


def counts(sync_bn: bool = False) -> dict[str, dict[str, int]]:
    accelerator, found = start_accelerator(), {}
    for name in ["edas"] if sync_bn else METHODS:
        partial = 2 if name in ("da2s", "pc_darts") else 1
        settings: Any = find_method(name)[0]
        found[name] = iteration(Search(settings(**SEARCH, partial_channels=partial, sync_bn=sync_bn), accelerator))
    if not sync_bn:
        second: Any = find_method("darts")[0]
        found["darts, second order"] = iteration(Search(second(**SEARCH, order=2), accelerator))
        found["retraining"] = iteration(Training(parse(TRAIN)[0], accelerator))
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {"default": counts(), "sync_bn": counts(sync_bn=True)}
    if start_accelerator().is_main_process:
        assert world_size() == 2
        Path(sys.argv[1]).write_text(json.dumps(found))
