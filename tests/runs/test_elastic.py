"""--resume auto, and a process that is killed and started again by torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog, run_to_resume
from nas_zoo.search import run as search
from tests.search.test_run import assert_same_run

ROOT = Path(__file__).parents[2]
SEARCH = ["--num-cells", "3", "--init-channels", "2", "--batch-size", "16", "--train-limit", "96", "--epochs", "2"]
TRAIN = ["--recipe", "quick", "--model", "cell_net_cifar", "--init-channels", "2", "--num-cells", "3", "--epochs", "2",
         "--batch-size", "32", "--train-limit", "96"]  # fmt: skip


def torchrun(*words: str) -> str:
    """What two processes print, one restart allowed."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, "--max-restarts", "1", str(ROOT / "tests" / "killed_rank.py"), *words],
        env=environment, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_search_whose_process_is_killed_and_restarted_ends_as_if_nothing_had_happened(tmp_path):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    torchrun("search", *SEARCH, "--out", str(whole), "--resume", "auto")
    shown = torchrun("--kill", "1", "2", "search", *SEARCH, "--out", str(disturbed), "--resume", "auto")
    assert "resumed at epoch 2, iteration 2 of 3" in shown
    assert_same_run(whole, disturbed)
    assert [event["kind"] for event in RunLog.read(disturbed / "events.jsonl")] == ["resumed"]
    checkpoint = load_checkpoint(disturbed / "checkpoint.pt", "search")
    assert [vector.ndim for vector in checkpoint["statistics"]] == [1, 1]


@pytest.mark.slow
def test_a_training_whose_process_is_killed_and_restarted_ends_as_if_nothing_had_happened(tmp_path):
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    torchrun("train", *TRAIN, "--out", str(whole), "--resume", "auto")
    torchrun("--kill", "1", "2", "train", *TRAIN, "--out", str(disturbed), "--resume", "auto")
    one, other = (load_checkpoint(folder / "checkpoint.pt", "train") for folder in (whole, disturbed))
    assert (one["epoch"], one["processes"]) == (other["epoch"], other["processes"]) == (2, 2)
    for part in ("trained", "ema"):
        assert all(torch.equal(value, other[part][name]) for name, value in one[part].items())
    assert (whole / "model.safetensors").read_bytes() == (disturbed / "model.safetensors").read_bytes()


def test_auto_starts_a_run_and_goes_on_with_it(tmp_path, capsys):
    out = tmp_path / "run"
    words = [*SEARCH, "--out", str(out), "--resume", "auto", "--time-budget", "0.0001"]
    assert search.main(words) == 0
    assert "resumed" not in capsys.readouterr().out
    assert search.main(words) == 0
    assert "resumed at epoch 1, iteration 1 of 3" in capsys.readouterr().out
    assert search.main([*words, "--seed", "7"]) == 2  # another run than the folder's
    assert "seed must stay 0" in capsys.readouterr().err


def test_auto_begins_anew_where_a_run_was_killed_in_its_first_line(tmp_path):
    assert run_to_resume(tmp_path, "auto", "search") == (None, None)
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "run", "vers')
    assert run_to_resume(tmp_path, "auto", "search") == (None, None)
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "run", "settings": {"seed": 3}}\n')
    assert run_to_resume(tmp_path, "auto", "search") == ({"seed": 3}, None)


@pytest.mark.slow
def test_one_process_goes_on_where_two_were_and_says_so(tmp_path, capsys):
    out = tmp_path / "run"
    torchrun("search", *SEARCH, "--out", str(out), "--time-budget", "0.0001")
    checkpoint = load_checkpoint(out / "checkpoint.pt", "search")
    first, second = checkpoint["statistics"]
    assert not torch.equal(first, second)
    assert search.main(["--resume", "--out", str(out)]) == 0
    assert "resumed at epoch 1, iteration 1 of 3; it goes on with 1 instead of 2 processes" in capsys.readouterr().out
