"""Search and training on data as people have them: three parts, a damaged file in the middle, pixels that change."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_zoo.data import named
from nas_zoo.data.named import open_source, search_split
from nas_zoo.search import run as search_run
from nas_zoo.train import run as train_run

ROOT = Path(__file__).parents[2]
TRAIN = ["--recipe", "quick", "--model", "cell_net_cifar", "--init-channels", "4", "--num-cells", "3",
         "--batch-size", "8", "--workers", "0", "--eval-every", "1"]  # fmt: skip
SEARCH = ["--method", "edas", "--num-cells", "3", "--init-channels", "2", "--batch-size", "4", "--workers", "0",
          "--gap-batches", "0", "--epochs", "2"]  # fmt: skip


def photographs(place: Path, side: int = 16, **counts: int) -> Path:
    """Two classes of so many pictures in each part."""
    rng = np.random.default_rng(0)
    for part, count in counts.items():
        for word in ("cat", "dog"):
            (place / part / word).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / part / word / f"{i:02}.png")
    return place


def epochs(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "epoch"]


def test_the_valid_part_watches_the_run_and_the_first_lines_say_so(tmp_path: Path, capsys: Any) -> None:
    place = photographs(tmp_path / "d", train=8, valid=3, test=2)
    assert train_run.main([*TRAIN, "--data", str(place), "--epochs", "1", "--out", str(tmp_path / "r")]) == 0
    shown = capsys.readouterr().out
    assert "images: 16 train/ to train on, 6 valid/ to watch the run, 4 test/ for the final figure" in shown
    assert epochs(tmp_path / "r")[0]["val"]["last"]["n"] == 6
    assert json.loads((tmp_path / "r" / "result.json").read_text())["n"] == 4
    words = [*TRAIN, "--data", str(place), "--epochs", "1", "--out", str(tmp_path / "s"), "--val-fraction", "0.2"]
    assert train_run.main(words) == 2
    assert "whose part valid/ watches the run" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("program", ["train", "search"])
def test_a_truncated_file_ends_a_streamed_run_in_one_line_and_it_can_go_on(
    program: str,
    tmp_path: Path,
    capsys: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(named, "DEVICE_LIMIT_GB", 0.0)  # as a set of more than 2 GB: only headers are looked at
    place = photographs(tmp_path / "big", side=96, train=10, val=2)
    number = search_split(open_source(place, stream=True), 0)[0][0]  # one of the half that only the weights see
    name = f"train/{('cat', 'dog')[number // 10]}/{number % 10:02}.png"
    file = place / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    main, words = (train_run.main, [*TRAIN, "--epochs", "2"]) if program == "train" else (search_run.main, SEARCH)
    out = tmp_path / "r"
    begin = [*words, "--data", str(place), "--image-size", "96", "--out", str(out)]
    resume = ["--resume", "--out", str(out)]
    for given in (begin, resume):
        assert main(given) == 2
        shown = capsys.readouterr()
        (line,) = shown.err.splitlines()
        assert f"corrupt image '{name}' in" in line
        assert "go on without it: --resume --skip-unreadable 1" in line
        assert f"the state is saved: {out / 'checkpoint.pt'}" in shown.out
    assert main([*resume, "--skip-unreadable", "1"]) == 0
    assert [name in record.getMessage() for record in caplog.records if "skipped" in record.getMessage()] == [True]
    assert epochs(out)[-1]["unreadable"] == 1
    again = tmp_path / "again"
    assert main([*begin[:-1], str(again), "--skip-unreadable", "1"]) == 0
    figures = ("train", "unreadable")
    assert [[line.get(f) for f in figures] for line in epochs(again)] == [
        [line.get(f) for f in figures] for line in epochs(out)
    ]


@pytest.mark.slow
def test_unreadable_files_of_a_streamed_set_are_counted_over_all_processes_and_the_state_is_saved(
    tmp_path: Path,
) -> None:
    place = photographs(tmp_path / "big", side=96, train=8, val=2)
    for name in ("cat/03.png", "dog/05.png"):
        file = place / "train" / name
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    launch += [str(ROOT / "tests" / "stream_two_processes.py"), "--out", str(tmp_path / "r")]

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, timeout=300)

    begin = ["--epochs", "1", "--batch-size", "2", "--data", str(place), "--image-size", "96"]  # of a process one row
    done = run(*TRAIN[: TRAIN.index("--batch-size")], *begin, "--skip-unreadable", "1")
    assert done.returncode != 0
    assert f"the state is saved: {tmp_path / 'r' / 'checkpoint.pt'}" in done.stdout
    assert "go on without it: --resume --skip-unreadable 2" in done.stderr
    done = run("--resume", "--skip-unreadable", "2")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("skipped (2 of at most 2)") == 1
    (line,) = epochs(tmp_path / "r")
    assert (line["unreadable"], line["train"]["n"]) == (2, 16)


@pytest.mark.parametrize("streamed", [False, True])
def test_pixels_that_were_replaced_between_stop_and_resume_are_noticed(
    streamed: bool, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if streamed:
        monkeypatch.setattr(named, "DEVICE_LIMIT_GB", 0.0)
    place = photographs(tmp_path / "d", train=8, test=2)
    out = ["--out", str(tmp_path / "r")]
    assert train_run.main([*TRAIN, "--data", str(place), "--epochs", "2", "--time-budget", "0.001", *out]) == 0
    assert (tmp_path / "r" / "data_index.jsonl").exists() == streamed
    for file in (place / "train" / "dog").iterdir():
        Image.fromarray(np.full((16, 16, 3), 7, np.uint8)).save(file)
    capsys.readouterr()
    assert train_run.main(["--resume", *out]) == 2
    assert "holds other images or labels than the data the checkpoint was made with" in capsys.readouterr().err
