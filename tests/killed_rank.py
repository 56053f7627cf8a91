"""Run by runs/test_elastic.py under torchrun --max-restarts: a program whose second process is killed once.

    killed_rank.py [--kill EPOCH STEP] search|train FLAGS

With --kill a checkpoint is written after every iteration, and at that iteration, both from 0, process 1 gets SIGKILL.
"""

import os
import signal
import sys
from typing import Any

import torch

from nas_zoo.runs import loop
from nas_zoo.search import run as search
from nas_zoo.train import run as train

if __name__ == "__main__":
    torch.set_num_threads(1)
    words = sys.argv[1:]
    fatal = None
    if words[0] == "--kill":
        fatal, words = (int(words[1]), int(words[2])), words[3:]
    program: Any = {"search": search, "train": train}[words[0]]
    of = program.Search if words[0] == "search" else program.Training
    if fatal is not None and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        loop.CHECKPOINT_SECONDS = -1.0
        iteration = of.step

        def step(self: Any, epoch: int, step: int, *rest: Any) -> Any:
            if os.environ["RANK"] == "1" and (epoch, step) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return iteration(self, epoch, step, *rest)

        of.step = step
    sys.exit(program.main(words[1:]))
