"""What a search's own weights are worth, on digits: every row begins with the weights of its own rule."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_both_rules_are_trained_from_scratch_and_from_the_searchs_weights() -> None:
    words = ["--search-epochs", "1", "--num-cells", "3", "--init-channels", "4", "--epochs", "1"]
    command = [sys.executable, "benchmarks/own_weights.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(row["rule"], row["epochs"]) for row in found["rows"]] == [("darts", 1), ("argmax", 1)]
    assert all(0 <= row[key] <= 1 for row in found["rows"] for key in ("before", "scratch", "own_weights"))
    assert found["test_n"] == 359
