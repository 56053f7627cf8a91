"""timm's tests on our models: what docs/models.md says of them is what was recorded, and nothing is left out unsaid."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nas_zoo.models.catalog import MODELS
from nas_zoo.models.public import public_weights
from nas_zoo.models.results import package_results

ROOT = Path(__file__).parents[2]

#: As timm's file has them: one test of every model, one that loads weights.
TESTS = """
import pytest, timm

@pytest.mark.parametrize("model_name", timm.list_models("darts_v2*"))
def test_model_forward(model_name):
    assert timm.create_model(model_name, pretrained=False, device="meta").num_classes

@pytest.mark.parametrize("model_name", timm.list_models("darts_v2*", pretrained=True))
def test_model_load_pretrained(model_name):
    assert timm.create_model(model_name, pretrained=True, in_chans=1, num_classes=5).num_classes == 5
"""


def test_the_page_of_the_models_says_how_many_models_and_checkpoints_have_passed():
    lines = [json.loads(line) for line in (ROOT / "benchmarks" / "timm_contract.jsonl").read_text().splitlines()]
    last = {line["model"]: line for line in lines}
    assert not [name for name, line in last.items() if line["failed"]]
    # 10 under the model's name where one, of the configuration alone, is run under that of its checkpoint
    models = [name for name in MODELS if last.get(name, {}).get("passed", 0) >= 10]
    ours = [row.name for row in package_results() if last.get(row.name, {}).get("passed", 0) >= 3]
    theirs = [row for row in public_weights() if row.tag]
    text = " ".join((ROOT / "docs" / "models.md").read_text(encoding="utf-8").split())
    found = re.search(
        r"passed for (\d+) of the (\d+) models, 11 each.*?two that load weights passed for (\d+) of the (\d+) "
        r"checkpoints of the package.*?the (\d+) of other people need a network",
        text,
    )
    assert found is not None
    said = [len(models), len(MODELS), len(ours), len(package_results()), len(theirs)]
    assert list(map(int, found.groups())) == said


@pytest.mark.slow
def test_weights_that_need_a_network_are_told_and_those_that_passed_are_left_out(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_models.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text("")
    results = tmp_path / "results.jsonl"
    words = [sys.executable, str(ROOT / "tests" / "timm_contract.py"), "--source", str(tmp_path), "--results", results]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCH_HOME": str(tmp_path / "torch")}

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, capture_output=True, text=True, env=environment, cwd=tmp_path)

    done = run()
    assert "needs network, not run: test_model_load_pretrained of 1 checkpoints of other people" in done.stdout
    assert "has 2 tests for a model, known are 13" in done.stdout  # another set of tests does not go unseen
    assert done.returncode == 1
    lines = {line["model"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert "darts_v2_in1k" in lines
    assert "darts_v2_in1k.darmo" not in lines
    assert all((line["passed"], line["failed"]) == (1, 0) for line in lines.values())
    assert {"darts_v2_c10_s.jpeg_e4", "darts_v2_in1k.imagenette_e20_r128"} < lines.keys()
    again = run()
    assert f"{len(lines)} models have passed already, 0 are run" in again.stdout
    assert results.read_text().count("\n") == len(lines)
