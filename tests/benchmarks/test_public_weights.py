"""The program that measures other people's weights: a table, with reasons where a file cannot be had."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env=env)


def test_what_cannot_be_had_is_a_row_with_its_reason(tmp_path):
    # Nothing listens there: no network, whatever the machine has.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
    table = tmp_path / "table.csv"
    words = ["benchmarks/public_weights.py", "--only", "relativenas_c10.*", "--csv", str(table)]
    done = python(*words, TORCH_HOME=str(tmp_path), **nowhere)
    assert done.returncode == 1, done.stderr
    (row,) = csv.DictReader(io.StringIO(done.stdout))
    assert (row["name"], row["reported_err"], row["measured_err"]) == ("relativenas_c10.emi", "2.26", "")
    assert "the server cannot be reached (Connection refused); fetch https://raw." in row["why_not"]
    assert list(csv.DictReader(io.StringIO(table.read_text()))) == [row]


def test_tests_of_the_real_network_are_left_out_unless_asked_for():
    words = ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/models/test_public_network.py"]
    assert "no tests collected (52 deselected)" in python(*words).stdout
    assert "52 tests collected" in python(*words, "-m", "network").stdout
