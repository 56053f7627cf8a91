"""Runs begun with earlier code go on, and end as that code would have ended them.

tests/expected/interrupted_search and interrupted_train are two small runs stopped after one iteration of their second
epoch; end.jsonl is what the code that made them wrote when it went on. Another type of CPU rounds otherwise, so figures
are compared to 1e-5 and not bit for bit; that a run in pieces is the run in one piece is compared bit for bit.
"""

import copy
import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nas_zoo.runs.checkpoint import load_checkpoint, save_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.search import gap, run
from nas_zoo.search.report import page
from nas_zoo.train import run as train

EXPECTED = Path(__file__).parents[1] / "expected"
TIMES = ("seconds", "peak_memory_gb")
#: Figures that the log has had since those runs were begun.
SINCE = {"/ranking", "/began_with"}
#: Runs of either kind that do not end by themselves.
ENDLESS = {
    "search": [
        "--num-cells",
        "1",
        "--init-channels",
        "2",
        "--batch-size",
        "16",
        "--train-limit",
        "64",
        "--epochs",
        "100000",
    ],
    "train": [
        "--recipe",
        "quick",
        "--model",
        "cell_net_cifar",
        "--init-channels",
        "2",
        "--num-cells",
        "3",
        "--train-limit",
        "64",
        "--batch-size",
        "32",
        "--epochs",
        "100000",
    ],
}
MAINS: dict[str, Callable[[list[str]], int]] = {"search": run.main, "train": train.main}


def interrupted(kind: str, folder: Path) -> Path:
    """A copy of the fixture, as the run's folder was."""
    shutil.copytree(EXPECTED / f"interrupted_{kind}", folder)
    (folder / "end.jsonl").unlink()
    packed = folder / "checkpoint.pt.xz"
    (folder / "checkpoint.pt").write_bytes(lzma.decompress(packed.read_bytes()))
    packed.unlink()
    return folder


def flatten(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        pairs = [(str(key), entry) for key, entry in value.items() if key not in TIMES]
    elif isinstance(value, list):
        pairs = [(str(i), entry) for i, entry in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, entry in pairs for name, leaf in flatten(entry, f"{path}/{key}").items()}


@pytest.mark.parametrize("kind", MAINS)
def test_an_interrupted_run_ends_as_the_code_that_began_it_would_have_ended_it(kind, tmp_path):
    out = interrupted(kind, tmp_path / "run")
    before = (out / "log.jsonl").read_bytes()
    assert MAINS[kind](["--resume", "--out", str(out)]) == 0
    assert (out / "log.jsonl").read_bytes().startswith(before)
    resumed = RunLog.read(out / "events.jsonl")[-1]
    assert (resumed["kind"], resumed["epoch"], resumed["iteration"]) == ("resumed", 2, 1)
    lines = RunLog.read(out)[before.count(b"\n") :]
    expected = RunLog.read(EXPECTED / f"interrupted_{kind}" / "end.jsonl")
    assert len(lines) == len(expected)
    for line, wanted in zip(map(flatten, lines), map(flatten, expected), strict=True):
        assert line.keys() - SINCE == wanted.keys()
        for name, value in wanted.items():
            if "held_out" in name or "gap" in name or "top1" in name:
                # one image of 48, two of 359: a tie of two classes may fall either way
                assert line[name] == (pytest.approx(value, abs=0.03) if isinstance(value, float) else value), name
            else:
                assert line[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_an_interrupted_run_in_pieces_is_the_same_run(kind, tmp_path):
    whole, pieces = (interrupted(kind, tmp_path / name) for name in ("whole", "pieces"))
    assert MAINS[kind](["--resume", "--out", str(whole)]) == 0
    for _ in range(3):  # one iteration each, then the end
        assert MAINS[kind](["--resume", "--out", str(pieces), "--time-budget", "0.0001"]) == 0
    one, other = (load_checkpoint(folder / "checkpoint.pt", kind) for folder in (whole, pieces))
    weights = "supernet" if kind == "search" else "trained"
    assert (one["epoch"], one["step"]) == (other["epoch"], other["step"]) == (2, 0)
    assert one[weights].keys() == other[weights].keys()
    assert all(torch.equal(value, other[weights][name]) for name, value in one[weights].items())
    assert [flatten(line) for line in RunLog.read(whole)] == [flatten(line) for line in RunLog.read(pieces)]


def test_report_and_gap_read_the_interrupted_search(tmp_path, capsys):
    out = interrupted("search", tmp_path / "run")
    assert page.main([str(out)]) == 0
    text = (out / "report.html").read_text()
    assert "1 of 2 epochs" in text
    assert "stopped by time budget" in text
    capsys.readouterr()
    assert gap.main([str(out), "--edges", "found", "3/14", "--images", "20", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["n"], figures["epochs"]) == (20, 1)
    assert [row["cells"] for row in figures["after"]] == ["found", "3/14"]
    assert figures["iterations"] == 1  # so its weights are not those that the log's line is of
    assert gap.main([str(out), "--edges", "found", "3/14", "--images", "20", "--save"]) == 0
    assert "of epoch 2, which has not ended, after 1 iteration\n" in capsys.readouterr().out
    assert page.main([str(out)]) == 0
    text = (out / "report.html").read_text()
    assert text.count("in epoch 2") >= 2  # of both, found too
    assert "after epoch 2" not in text
    assert run.main(["--resume", "--out", str(out)]) == 0  # and of the end of that epoch they are not, either
    assert page.main([str(out)]) == 0
    assert (out / "report.html").read_text().count("in epoch 2") >= 2


@pytest.mark.parametrize("kind", MAINS)
@pytest.mark.parametrize("torn", [b"", b'{"kind": "run", "versio'])
def test_a_run_whose_log_is_torn_is_not_begun_with_other_settings(kind, torn, tmp_path, capsys):
    out = interrupted(kind, tmp_path / "run")
    (out / "log.jsonl").write_bytes(torn)
    assert MAINS[kind](["--resume", "--out", str(out)]) == 2
    assert "log.jsonl has 0 whole lines" in capsys.readouterr().err
    (out / "checkpoint.pt").unlink()
    assert MAINS[kind](["--resume", "--out", str(out)]) == 2
    assert "log.jsonl does not tell the settings" in capsys.readouterr().err
    assert (out / "log.jsonl").read_bytes() == torn


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_a_second_run_in_a_folder_is_refused_until_the_first_is_gone(kind, tmp_path, capsys):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "nas_zoo", kind, *ENDLESS[kind], "--out", str(out)]
    first = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (out / "checkpoint.pt").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert MAINS[kind](["--resume", "--out", str(out)]) == 2
        assert f"another run is at work in {out}" in capsys.readouterr().err
        assert not (out / "events.jsonl").exists()  # nor has it written anything
    finally:
        first.kill()
        first.wait()
    assert MAINS[kind](["--resume", "--out", str(out), "--time-budget", "0.0001"]) == 0
    assert [event["kind"] for event in RunLog.read(out / "events.jsonl")] == ["resumed", "stopped"]


@pytest.mark.parametrize("kind", MAINS)
@pytest.mark.parametrize("name", ["checkpoint.pt", "log.jsonl"])
def test_a_pipe_where_a_file_is_meant_is_told_and_not_waited_for(kind, name, tmp_path, capsys):
    out = interrupted(kind, tmp_path / "run")
    (out / name).unlink()
    os.mkfifo(out / name)
    assert MAINS[kind](["--resume", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "is a pipe or a device, not a file" in error
    assert name in error
    assert error.count("\n") == 1


def test_a_user_without_a_home_is_told_where_downloads_may_go(tmp_path, monkeypatch, capsys):
    """As in a container whose user has no entry in passwd."""

    def nobody(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "NAS_ZOO_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert train.main(["--recipe", "quick", "--data", "cifar10", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "give --data-root or set NAS_ZOO_CACHE" in error
    assert error.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_a_checkpoint_that_lacks_something_is_told_in_one_line(kind, tmp_path, capsys):
    out = interrupted(kind, tmp_path / "run")
    state, before = load_checkpoint(out / "checkpoint.pt", kind), (out / "log.jsonl").read_bytes()
    for name in state:
        save_checkpoint(out / "checkpoint.pt", {key: value for key, value in state.items() if key != name}, kind)
        assert MAINS[kind](["--resume", "--out", str(out)]) == 2, name
        error = capsys.readouterr().err
        assert "checkpoint" in error, name
        assert error.count("\n") == 1, name
        assert (out / "log.jsonl").read_bytes() == before


#: Where in a checkpoint something else stands, and what; GONE: nothing.
GONE = object()
FORGED: dict[str, list[tuple[tuple[Any, ...], Any]]] = {
    "search": [
        (("epoch",), -1), (("epoch",), 3), (("epoch",), 10**30), (("step",), -1), (("step",), 99), (("step",), True),
        (("seconds",), float("nan")), (("sums",), torch.zeros(())), (("sums",), "a"), (("log_lines",), 1),
        (("settings", "lr"), "a"), (("settings", "method"), []), (("settings",), GONE),
        (("last_logits",), {"normal": 3}), (("weight_optimizer", "state", 161, "momentum_buffer"), 3),
        (("alpha_optimizer", "state", 23, "exp_avg"), torch.zeros(3)),
        (("alpha_optimizer", "state", 23, "exp_avg"), GONE),
        (("alpha_optimizer", "state", 23, "step"), b"x"), (("weight_optimizer", "param_groups", 0, "momentum"), "a"),
        (("weight_optimizer", "param_groups", 0, "dampening"), 10**30), (("supernet",), 5), (("data",), None),
    ],
    "train": [
        (("epoch",), -1), (("step",), 99), (("sums",), torch.zeros(2)),
        (("optimizer", "state", 2, "momentum_buffer"), 3),
        (("optimizer", "param_groups"), {}), (("model_args", "num_cells"), "a"), (("model_args", "genotype"), 5),
        (("model_args", "num_classes"), 3), (("model_args",), [1]), (("trained",), GONE), (("ema",), 1),
        (("scaling",), 3), (("scaling",), {"mean": ["a"], "std": [1.0]}), (("began_with",), 5), (("code",), [1]),
    ],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_a_forged_checkpoint_is_told_in_one_line_and_changes_nothing(kind, tmp_path, capsys):
    out = interrupted(kind, tmp_path / "run")
    good = load_checkpoint(out / "checkpoint.pt", kind)
    names = ("log.jsonl", "events.jsonl")
    before = [(out / name).read_bytes() for name in names]
    for number, (way, value) in enumerate(FORGED[kind]):
        state = copy.deepcopy(good)
        inner: Any = state
        for key in way[:-1]:
            inner = inner[key]
        if value is GONE:
            del inner[way[-1]]
        else:
            inner[way[-1]] = value
        save_checkpoint(out / "checkpoint.pt", state, kind)
        commands = [MAINS[kind](["--resume", "--out", str(out)])]
        if kind == "search" and number % 4 == 0:
            commands.append(gap.main([str(out), "--edges", "found", "--images", "8", "--batches", "1"]))
        assert commands == [2] * len(commands), (way, value)
        error = capsys.readouterr().err
        assert error.count("\n") == len(commands), error
        assert "Error in " not in error
        assert [(out / name).read_bytes() for name in names] == before
