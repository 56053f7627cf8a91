"""What test_train.py runs in two processes: some steps in float64, then the program itself."""

import sys
from pathlib import Path

import torch
from torch import Tensor

from nas_zoo.runs.distributed import start_accelerator
from nas_zoo.train.run import Training, main, parse


def iterate_in_float64(flags: list[str], steps: int) -> dict[str, Tensor]:
    """Weights, auxiliary head, moving average and optimizer after some steps, sums of the losses included."""
    run = Training(parse([*flags, "--out", "does-not-exist"])[0], start_accelerator())
    assert run.ema is not None
    run.trained.double()
    run.ema.module.double()
    for epoch in range(steps // run.steps):
        for step, (images, labels) in enumerate(run.batches(epoch, 0)):
            run.step(epoch, step, (images.double(), labels))
    tensors = {f"trained.{name}": value for name, value in run.trained.state_dict().items()}
    tensors |= {f"ema.{name}": value for name, value in run.ema.module.state_dict().items()}
    for number, state in run.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": value for name, value in state.items()}
    return {name: value.detach().clone() for name, value in tensors.items()}


if __name__ == "__main__":
    out, flags = Path(sys.argv[1]), sys.argv[2:]
    exact = iterate_in_float64(flags, 10)
    code = main([*flags, "--out", str(out)])
    if start_accelerator().is_main_process:
        torch.save(exact, out / "float64.pt")
    sys.exit(code)
