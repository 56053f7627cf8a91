"""The two-machine launch of the README: two torchrun agents that meet on loopback."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ["-m", "nas_zoo.train", "--recipe", "quick", "--model", "cell_net_cifar", "--init-channels", "2", "--num-cells",
         "3", "--epochs", "2", "--warmup-epochs", "1", "--batch-size", "32", "--train-limit", "96"]  # fmt: skip


def torchrun(*words: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def machine(number: int, port: int, timeout: int, out: Path) -> "subprocess.Popen[str]":
    """One machine's command, as the README has it but for numbers."""
    meet = ["--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1", "--master-addr", "127.0.0.1",
            "--master-port", str(port), "--rdzv-conf", f"timeout={timeout}"]  # fmt: skip
    return torchrun(*meet, *TRAIN, "--out", str(out))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def ended(process: "subprocess.Popen[str]") -> str:
    told = process.communicate(timeout=400)[0]
    assert process.returncode == 0, told
    return told


@pytest.mark.slow
def test_two_machines_end_with_the_weights_of_two_processes_on_one(tmp_path: Path) -> None:
    ended(torchrun("--standalone", "--nproc-per-node", "2", *TRAIN, "--out", str(tmp_path / "one")))
    port = free_port()
    first, second = (machine(number, port, 300, tmp_path / "two") for number in range(2))
    assert "2/2" in ended(first)
    assert "top-1" not in ended(second)  # the first process alone writes and tells
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "told"),
    [
        pytest.param(0, r"Timed out after \d+ seconds waiting for clients. 1/2 clients joined", id="no second machine"),
        pytest.param(1, r"timed out .* while trying to connect to \(127.0.0.1, \d+\)", id="a wrong address"),
    ],
)
def test_a_machine_that_meets_no_other_ends_after_the_timeout_and_says_so(
    number: int, told: str, tmp_path: Path
) -> None:
    process = machine(number, free_port(), 3, tmp_path / "alone")
    text = process.communicate(timeout=200)[0]
    assert process.returncode == 1
    assert re.search(told, text.splitlines()[-1]), text
    assert not (tmp_path / "alone").exists()
