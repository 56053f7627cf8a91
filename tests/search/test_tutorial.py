"""docs/tutorial_search.md as it is written, from the first command to the last."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from nas_zoo.cli import main
from nas_zoo.genotype import load_genotype
from nas_zoo.runs.log import RunLog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial_search.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tutorial_runs_and_its_search_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, text in re.findall(r"```(\w+)\n(.*?)```", PAGE, re.DOTALL):
        if kind == "sh":
            for program, *words in map(shlex.split, text.splitlines()):
                assert program == "nas-zoo"
                assert main(words) == 0, words
        elif kind == "python" and "class " in text:
            Path("my_method.py").write_text(text)
        elif kind == "python":
            done = subprocess.run([sys.executable, "-W", "ignore", "-c", text], capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            assert done.stdout.startswith("MY_CELLS = Genotype(")
    first, *_, last = (line for line in RunLog.read(Path("runs/edas")) if line["kind"] == "epoch")
    assert all(last["entropy"][kind] < first["entropy"][kind] - 0.1 for kind in ("normal", "reduce"))
    # as the text says: nothing is lost by the method's own rule, much by the other
    held_out = last["held_out"]
    assert held_out["derived"]["argmax"] > held_out["supernet"] - 0.05
    assert held_out["derived"]["darts"] < held_out["supernet"] - 0.2
    assert sum(map(len, load_genotype("eight_edges.json").normal.nodes)) == 8
    assert {"cells.svg", "digits.onnx", "comparison.html"} <= {path.name for path in Path().iterdir()}
    assert (Path("runs/edas") / "report.html").is_file()
    assert RunLog.read(Path("runs/reluctant"))[0]["settings"]["reluctance"] == 2
