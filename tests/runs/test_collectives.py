"""What several processes cost: collectives and operations of an iteration, counted where PyTorch dispatches them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.count_two_processes import counts

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_need_few_collectives_and_hardly_more_operations_than_one(tmp_path):
    script, file = ROOT / "tests" / "count_two_processes.py", tmp_path / "counts.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*launch, str(script), str(file)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    two, one = json.loads(file.read_text()), counts()
    for name, alone in one.items():
        both = two["default"][name]
        assert alone["collectives"] == 0
        assert 1 <= both["collectives"] <= 4, name
        assert both["operations"] <= 1.05 * alone["operations"], name
    assert two["sync_bn"]["edas"]["collectives"] > 100  # the counter sees what it is to see
