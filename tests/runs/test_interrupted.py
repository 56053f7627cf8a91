"""Runs begun with earlier code go on, and end as that code would have ended them.

tests/expected/interrupted_search and interrupted_train are two small runs stopped after one iteration of their second
epoch; end.jsonl is what the code that made them wrote when it went on. Another type of CPU rounds otherwise, so figures
are compared to 1e-5 and not bit for bit; that a run in pieces is the run in one piece is compared bit for bit.
"""

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.search import gap, run
from nas_zoo.search.report import page
from nas_zoo.train import run as train

EXPECTED = Path(__file__).parents[1] / "expected"
TIMES = ("seconds", "peak_memory_gb")
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
        assert line.keys() == wanted.keys()
        for name, value in wanted.items():
            if "held_out" in name or "gap" in name or "top1" in name:
                # one image of 48, two of 359: a tie of two classes may fall either way
                assert line[name] == (pytest.approx(value, abs=0.03) if isinstance(value, float) else value), name
            else:
                assert line[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name


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
