"""nas-zoo gap: it repeats the log of the run and cuts the supernet to any configuration."""

import json
from pathlib import Path

import pytest

from nas_zoo.cli import main
from nas_zoo.runs.log import RunLog
from nas_zoo.search import run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("gap") / "run"
    argv = ["--method", "darts", "--num-cells", "3", "--init-channels", "4", "--batch-size", "16", "--lr", "0.1",
            "--train-limit", "100", "--epochs", "1", "--gap-batches", "2"]  # fmt: skip
    assert run.main([*argv, "--out", str(out)]) == 0
    return out


def test_found_and_the_rules_are_as_the_log_tells(finished, capsys):
    before = (finished / "checkpoint.pt").read_bytes()
    assert main(["gap", str(finished), "--edges", "found", "darts", "argmax", "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)
    line = RunLog.read(finished)[-1]
    assert {key: gap[key] for key in ("before", "after")} == line["gap"]
    assert (gap["n"], gap["method"], gap["epochs"]) == (50, "darts", 1)
    assert (finished / "checkpoint.pt").read_bytes() == before


@pytest.mark.slow
def test_a_darts_supernet_is_cut_to_every_configuration(finished, capsys):
    assert main(["gap", str(finished), "--edges", "8/14", "3/14", "2:1,3+4:2,5:4"]) == 0
    title, head, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("held-out accuracy in percent, supernet -> after discretization, 50 images")
    assert head.split() == ["cells", "edges", "edge", "weights", "running", "statistics", "re-estimated"]
    assert [row.split()[:2] for row in rows] == [["8/14", "8+8"], ["3/14", "3+3"], ["2:1,3+4:2,5:4", "7+7"]]
    assert main(["gap", str(finished), "--edges", "4/14", "--images", "20", "--batches", "0", "--json"]) == 0
    gap = json.loads(capsys.readouterr().out)
    assert gap["n"] == 20
    assert gap["after"][0]["reestimated"] is None


def test_save_keeps_the_figures_for_the_report(finished, capsys):
    assert not (finished / "gap.json").exists()  # so far nothing has been asked to
    assert main(["gap", str(finished), "--edges", "4/14", "--images", "20", "--batches", "0", "--save", "--json"]) == 0
    assert json.loads((finished / "gap.json").read_text()) == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["RUN", "--edges", "20/14"], "edges must be one of 8/14"),
        (["RUN", "--data", "no/such/folder"], "no/such/folder"),
        (["nowhere"], "nowhere: there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(argv, message, finished, capsys):
    assert main(["gap", *(str(finished) if word == "RUN" else word for word in argv)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nas-zoo gap: ")
    assert message in error
    assert error.count("\n") == 1
