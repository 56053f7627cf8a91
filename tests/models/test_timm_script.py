"""Other people's scripts with our models: `nas-zoo timm SCRIPT ...`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas_zoo.cli import main

SCRIPT = """\
import argparse
import sys

import beside  # a module in the script's folder, as timm's own are run
import timm

parser = argparse.ArgumentParser()
parser.add_argument("--model")
parser.add_argument("--code", type=int, default=0)
options = parser.parse_args()
if __name__ == "__main__":
    model = timm.create_model(options.model, device="meta")
    print(type(model).__name__, model.genotype.num_edges, beside.WORD, sys.argv[1:])
    if options.code < 0:
        raise ValueError("of the script")
    sys.exit(options.code)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "make_it.py").write_text(SCRIPT)
    (tmp_path / "beside.py").write_text("WORD = 'beside'\n")
    return tmp_path


def ended(words: list[str]) -> int | str | None:
    try:
        return main(words)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("form", ["path", "name", "stem"])
def test_a_script_finds_our_models_and_its_own_words(form, folder, capsys):
    place = {
        "path": [str(folder / "make_it.py")],
        "name": ["--scripts", str(folder), "make_it.py"],
        "stem": ["--scripts", str(folder), "make_it"],
    }[form]
    before = sys.argv, sys.path[:]
    assert ended(["timm", *place, "--model", "darts_v2_c10", "--code", "3"]) == 3
    assert capsys.readouterr().out == "CellNet 16 beside ['--model', 'darts_v2_c10', '--code', '3']\n"
    assert (sys.argv, sys.path) == before
    sys.modules.pop("beside")


def test_help_behind_the_script_is_the_scripts(folder, capsys):
    assert ended(["timm", str(folder / "make_it.py"), "--help"]) == 0
    assert "--code CODE" in capsys.readouterr().out
    sys.modules.pop("beside")


def test_an_error_in_a_script_is_told_with_its_place(folder, capsys):
    assert ended(["timm", str(folder / "make_it.py"), "--model", "edas_c10", "--code", "-1"]) == 1
    error = capsys.readouterr().err
    assert "make_it.py" in error
    assert error.endswith("ValueError: of the script\n")
    sys.modules.pop("beside")


def test_a_script_that_is_not_there_is_one_line_that_says_where_timms_are(folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    for words in (["make_ti.py"], ["--scripts", str(folder), "make_ti.py"], [str(folder / "make_ti.py")]):
        assert main(["timm", *words]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "did you mean make_it.py?" in line
        assert "git clone" in line
        assert "pytorch-image-models" in line
    assert main(["timm", str(folder / "nowhere" / "train.py")]) == 2
    assert "git clone" in capsys.readouterr().err


@pytest.mark.slow
def test_python_m_nas_zoo_runs_them_too(folder):
    done = subprocess.run(
        [sys.executable, "-m", "nas_zoo", "timm", "make_it.py", "--model", "edas_c10"],
        cwd=folder, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "CellNet 22 beside ['--model', 'edas_c10']\n"), done.stderr
