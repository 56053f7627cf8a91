"""A search from a Python program: values instead of files, exceptions instead of exit codes, own data, callbacks."""

import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset

import nas_zoo.search
from nas_zoo.data.named import open_source
from nas_zoo.genotype import load_genotype
from nas_zoo.runs.checkpoint import load_checkpoint
from nas_zoo.runs.log import RunLog
from nas_zoo.search import EdasSettings, SearchResult, search
from nas_zoo.search.method import METHODS, find_method
from nas_zoo.search.run import main
from nas_zoo.train import EvaluateSettings, TrainSettings, evaluate, train
from tests.search.test_run import assert_same_run

TINY = {"num_cells": 3, "init_channels": 4, "batch_size": 8, "epochs": 2, "gap_batches": 1}


class Digits:
    """Own data: the digits' first training images, as a map-style data set."""

    def __init__(self, count: int = 50) -> None:
        self.source = open_source("digits", "train")
        # of each class some: the last ones of a class are held out
        self.rows = np.concatenate([np.flatnonzero(self.source.labels == label)[: count // 10] for label in range(10)])
        self.classes = list(self.source.classes)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        return Image.fromarray(self.source.image(row)[:, :, 0]), int(self.source.labels[row])


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> SearchResult:
    lines: list[int] = []
    result = search(
        EdasSettings(data=Digits(), out=tmp_path_factory.mktemp("api") / "run", **TINY),  # type: ignore[arg-type]
        callbacks=[lambda line: lines.append(line["epoch"])],
    )
    assert lines == [1, 2]
    return result


def test_a_search_on_own_data_gives_genotype_history_gap_and_path(found):
    assert found.genotype == load_genotype(found.path)
    assert found.stopped is None
    assert [row["epoch"] for row in found.history] == [1, 2]
    assert found.history[0].keys() == found.history[1].keys()
    last = RunLog.read(found.path)[-1]
    assert found.history[-1]["supernet"] == last["held_out"]["supernet"]
    assert found.gap == last["gap"]
    assert SearchResult.read(found.path) == found
    head = RunLog.read(found.path)[0]
    assert head["settings"]["data"] == "Digits"
    assert head["data"]["images"] == 40  # a fifth is kept for a test
    assert len(load_checkpoint(found.path / "checkpoint.pt", "search")["data"]) == 32


def test_the_command_line_makes_the_same_run_of_the_same_data(tmp_path):
    words = ["--num-cells", "3", "--init-channels", "4", "--batch-size", "8", "--epochs", "1", "--train-limit", "34"]
    assert main([*words, "--out", str(tmp_path / "command")]) == 0
    settings = EdasSettings(out=tmp_path / "python", **{**TINY, "epochs": 1, "gap_batches": 16}, train_limit=34)  # type: ignore[arg-type]
    search(settings)
    assert_same_run(tmp_path / "command", tmp_path / "python")


def test_a_callback_that_raises_ends_the_search_which_goes_on_where_it_was(found, tmp_path):
    def enough(line):
        raise RuntimeError("enough")

    settings = EdasSettings(data=Digits(), out=tmp_path / "run", **TINY)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="enough"):
        search(settings, callbacks=[enough])
    with pytest.raises(ValueError, match="holds a run already"):
        search(settings)
    with pytest.raises(ValueError, match=r"seed must stay 0 as in the run that is resumed, got 1"):
        search(EdasSettings(data=Digits(), out=tmp_path / "run", seed=1, **TINY), resume=True)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="other images or labels"):
        search(EdasSettings(data=Digits(60), out=tmp_path / "run", **TINY), resume=True)  # type: ignore[arg-type]
    seen: list[int] = []
    result = search(settings, resume=True, callbacks=[lambda line: seen.append(line["epoch"])])
    assert seen == [2]
    assert result.genotype == found.genotype
    assert_same_run(found.path, result.path)
    assert search(settings, resume="auto").history == result.history


def test_ctrl_c_is_a_keyboard_interrupt_and_a_time_budget_is_told(tmp_path):
    def press(line):
        os.kill(os.getpid(), signal.SIGINT)

    settings = EdasSettings(out=tmp_path / "run", train_limit=34, **TINY)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        search(settings, callbacks=[press])
    place = load_checkpoint(tmp_path / "run" / "checkpoint.pt", "search")
    assert (place["epoch"], place["step"]) in ((1, 0), (1, 1))
    short = EdasSettings(out=tmp_path / "short", train_limit=34, time_budget=1e-4, **TINY)  # type: ignore[arg-type]
    result = search(short)
    assert (result.stopped, result.history, result.genotype, result.gap) == ("time budget", [], None, None)


def items(*pairs):
    class Items:
        def __len__(self):
            return len(pairs)

        def __getitem__(self, index):
            return pairs[index]() if callable(pairs[index]) else pairs[index]

    return Items()


GREY = torch.zeros(1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (items(), "is empty"),
        (items(5), "item 0 of the Items must be"),
        (items((GREY, "a")), "label 0 of the Items must be a whole number, got 'a'"),
        (items((GREY, 0), (GREY, -1)), "labels of the Items must be from 0 to 0, got -1 to 0"),
        (items((torch.full((3, 8, 8), 2.5), 0)), "values from 0 to 1, got 2.5 to 2.5.*leave Normalize out"),
        (items((torch.zeros(2, 8, 8, dtype=torch.uint8), 0)), "must have 1 or 3 channels"),
        (items((np.zeros((8, 8)), 0)), "must be a PIL image, a tensor .* got an array of float64"),
        (items((Image.new("I", (8, 8), 40_000), 0)), r"has more than 8 bits \(mode I\)"),
        (items((Image.new("F", (8, 8), 0.5), 0)), r"has more than 8 bits \(mode F\)"),
        (items(lambda: (torch.rand(3, 8, 8), 0)), "changes from one reading to the next"),
    ],
)
def test_what_is_no_data_set_is_told_in_one_line(data, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        search(EdasSettings(data=data, out=tmp_path / "run", **TINY))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_own_data_in_every_form_are_the_same_pixels():
    pixels = np.arange(4 * 10 * 10 * 3, dtype=np.uint8).reshape(4, 10, 10, 3)
    labels = [0, 0, 1, 1]
    chw = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    forms = [
        items(*((one, label) for one, label in zip(pixels, labels, strict=True))),
        items(*((Image.fromarray(one), label) for one, label in zip(pixels, labels, strict=True))),
        TensorDataset(chw, torch.tensor(labels)),
        TensorDataset(chw.float() / 255, torch.tensor(labels)),
        Subset(TensorDataset(chw, torch.tensor(labels)), range(4)),
    ]
    for form in forms:
        source = open_source(form, "train", test_data=form)
        assert source.images is not None
        assert np.array_equal(source.images, pixels)
        assert source.labels.tolist() == labels
        assert source.classes == ("0", "1")
    # resized where that is asked for, grey where that is
    small = open_source(forms[0], "test", test_data=forms[1], image_size=8, in_chans=1)
    assert small.images is not None
    assert small.images.shape == (4, 8, 8, 1)


def test_every_method_has_its_settings_at_the_top():
    for name in METHODS:
        settings_class = find_method(name)[0]
        assert getattr(nas_zoo.search, settings_class.__name__) is settings_class
        assert settings_class.__name__ in nas_zoo.search.__all__
    assert all(hasattr(nas_zoo.search, name) for name in nas_zoo.search.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = nas_zoo.search.serch


def test_importing_the_room_imports_no_torch():
    import subprocess
    import sys

    code = "import sys, nas_zoo.search, nas_zoo.train; print('torch' in sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("settings_class", "given", "told"),
    [
        (EdasSettings, {"epochs": 1.5}, "epochs must be a whole number, got 1.5"),  # which ran to an end
        (EdasSettings, {"epochs": True}, "epochs must be a whole number, got True"),
        (EdasSettings, {"epochs": "three"}, "epochs must be a whole number, got 'three'"),
        (EdasSettings, {"lr": "fast"}, "lr must be a number, got 'fast'"),
        (EdasSettings, {"out": 3}, "out must be a path, got 3"),
        (EdasSettings, {"operations": ("none", 3)}, "operations must be a list in which each value is a text, got 3"),
        (TrainSettings, {"epochs": 2.5}, "epochs must be a whole number, got 2.5"),
        (TrainSettings, {"recipe": "nix"}, "recipe must be one of 'cifar'"),
        (
            EvaluateSettings,
            {"split": "tes"},
            "split must be one of 'train', 'val', 'test', got 'tes'",
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_where_the_settings_are_made(settings_class, given, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        settings_class(**given)


def test_values_are_put_into_the_types_of_their_fields():
    given: dict[str, Any] = {"out": "runs/a", "data": Path("images"), "operations": ["none", "skip_connect"]}
    settings = EdasSettings(**given, epochs=np.int64(3))  # type: ignore[arg-type]
    assert (settings.out, settings.data, settings.operations) == (Path("runs/a"), "images", ("none", "skip_connect"))
    assert type(settings.epochs) is int
    assert settings == EdasSettings(out=Path("runs/a"), data="images", operations=("none", "skip_connect"), epochs=3)


def as_given(function: Any, *args: Any, **more: Any) -> Any:
    """A call as a program without type checker makes it."""
    return function(*args, **more)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda: as_given(search, {"epochs": 1}),
            "settings must be SearchSettings(...), or of",
        ),
        (lambda: as_given(search, EdasSettings), "settings must be SearchSettings(...)"),
        (lambda: search(EdasSettings(method="darts")), "method 'darts' has DartsSettings, got EdasSettings"),
        (lambda: as_given(search, EdasSettings(), callbacks=print), "callbacks must be a list of functions"),
        (lambda: as_given(search, EdasSettings(), callbacks=[print, 3]), "callbacks must be a list of functions"),
        (lambda: as_given(train, {"epochs": 1}), "settings must be TrainSettings(...)"),
        (lambda: as_given(train, TrainSettings(), callbacks=[3]), "callbacks must be a list of functions"),
        (lambda: as_given(evaluate, "edas_c10_s", {"split": "val"}), "settings must be EvaluateSettings(...)"),
    ],
)
def test_a_call_that_cannot_be_meant_is_told_before_anything_runs(call, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(told)):
        call()
    assert list(tmp_path.iterdir()) == []
