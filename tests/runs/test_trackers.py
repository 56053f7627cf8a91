"""What --log-with writes, read back with TensorBoard's own reader; the curves of a resumed run are one curve."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate.tracking
import numpy as np
import pytest

from nas_zoo.runs import trackers
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.runs.trackers import figures_of
from nas_zoo.search import run as search
from nas_zoo.train import run as train

ROOT = Path(__file__).parents[2]
SMALL = ["--data", "digits", "--init-channels", "2", "--num-cells", "3", "--batch-size", "16", "--train-limit", "64",
         "--epochs", "3"]  # fmt: skip
MAINS: dict[str, tuple[Callable[[list[str]], int], list[str]]] = {
    "search": (search.main, [*SMALL, "--eval-size", "16", "--gap-batches", "0"]),
    "train": (train.main, [*SMALL, "--recipe", "quick", "--model", "cell_net_cifar", "--val-fraction", "0.2"]),
}


def read(out: Path) -> Any:
    """All that TensorBoard shows of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(out / "trackers" / "nas-zoo"), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAINS)
def test_tensorboard_shows_every_figure_of_every_epoch_also_over_a_resume(kind, tmp_path, capsys):
    main, flags = MAINS[kind]
    out = tmp_path / "run"
    assert main([*flags, "--log-with", "tensorboard", "--out", str(out), "--time-budget", "0.0001"]) == 0
    assert not (out / "trackers").exists()  # stopped in its first epoch
    while load_checkpoint(out / "checkpoint.pt", kind)["epoch"] < 2:
        assert main(["--resume", "--out", str(out), "--time-budget", "0.0001"]) == 0
    assert main(["--resume", "--out", str(out)]) == 0
    shown = read(out)
    epochs = [line for line in RunLog.read(out) if line["kind"] == "epoch"]
    names = set(shown.Tags()["scalars"])
    for line in epochs:
        for name, value in figures_of(line).items():
            values = {event.step: event.value for event in shown.Scalars(name)}
            assert values[line["epoch"]] == pytest.approx(value, rel=1e-6)
            assert list(values) == sorted(values)
            names.discard(name)
    assert not names
    some = {"search": {"train/loss", "held_out/supernet", "entropy/normal", "entropy/reduce"},
            "train": {"train/top1", "val/last/loss", "lr"}}[kind]  # fmt: skip
    assert some <= set(shown.Tags()["scalars"])
    folders = [path for path in (out / "trackers" / "nas-zoo").iterdir() if (path / "hparams.yml").exists()]
    (settings,) = [(path / "hparams.yml").read_text() for path in folders]
    assert "batch_size: 16" in settings
    assert str(tmp_path) not in settings
    if kind == "search":
        images = shown.Images("cells")
        assert images[0].step == 1
        assert (images[0].width, images[0].height) == (912, 224)
    else:
        assert not shown.Tags()["images"]


def test_cells_are_drawn_again_only_where_they_have_changed():
    from nas_zoo.genotype import load_genotype
    from nas_zoo.search.picture import changed_cells

    draw = changed_cells()
    one, other = ({"found": load_genotype(name).to_json()} for name in ("darts_v1", "darts_v2"))
    first = draw(one)
    assert first is not None
    assert first.dtype == np.uint8
    assert 0.02 < (first != 255).any(-1).mean() < 0.5  # ink on paper
    assert draw(one) is None
    second = draw(other)
    assert second is not None
    assert not np.array_equal(first, second)
    assert draw({"found": None}) is None


@pytest.mark.parametrize("kind", MAINS)
@pytest.mark.parametrize(("asked", "told"), [("wandb", "log_with wandb: the package wandb is not installed"),
                                             ("all", "log_with all: no tracker is installed")])  # fmt: skip
def test_a_tracker_that_is_not_installed_is_one_line_before_anything_is_written(
    kind, asked, told, tmp_path, monkeypatch, capsys
):
    if asked == "all":
        monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    elif "wandb" in map(str, accelerate.tracking.get_available_trackers()):
        monkeypatch.setattr(trackers, "get_available_trackers", lambda: ["tensorboard"])
    main, flags = MAINS[kind]
    assert main([*flags, "--log-with", asked, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_line_becomes_its_numbers_by_their_way():
    line = {
        "epoch": 2,
        "train": {"loss": 0.5, "n": 3},
        "entropy": {"normal": 1.0},
        "alpha": {"normal": [[1.0]]},
        "held_out": {"derived": {"darts": None, "argmax": 0.25}},
        "collapsed": True,
        "histogram": {"a": {"b": 1}},
    }
    assert figures_of(line) == {"epoch": 2, "train/loss": 0.5, "train/n": 3, "entropy/normal": 1.0,
                                "held_out/derived/argmax": 0.25, "collapsed": 1.0}  # fmt: skip


@pytest.mark.slow
def test_of_two_processes_the_first_alone_writes(tmp_path):
    flags = MAINS["search"][1]
    out = tmp_path / "run"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "nas_zoo", "search", *flags, "--epochs", "1", "--log-with", "tensorboard",
               "--out", str(out)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    files = list((out / "trackers" / "nas-zoo").glob("events.out.tfevents.*"))
    assert len(files) == 1
    assert [event.step for event in read(out).Scalars("train/loss")] == [1]
