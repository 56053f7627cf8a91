"""The file that says which training images are held out and left out, as a search and a training take it."""

import json
from pathlib import Path

import pytest

from nas_zoo.data.division import Division
from nas_zoo.data.named import open_parts
from nas_zoo.search import run as search
from nas_zoo.train import run as train
from nas_zoo.train.recipes import TrainSettings


def test_the_parts_of_a_division_share_no_image_and_leave_out_what_it_names():
    whole = open_parts("digits")
    parts = Division(val=("1", "5"), left_out=("0",)).of(whole)
    assert [len(parts[part]) for part in ("train", "val", "test")] == [1435, 2, 359]
    assert (parts["val"].image(1) == whole["train"].image(5)).all()
    assert (parts["train"].image(0) == whole["train"].image(2)).all()
    assert parts["val"].part == "val/"


def test_without_held_out_images_the_val_part_stays_what_it_was():
    assert "val" not in Division(left_out=("0",)).of(open_parts("digits"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        ("no json", "is none that `nas-zoo auto` wrote"),
        ("{}", "is none that `nas-zoo auto` wrote"),
        (json.dumps({"val": [1], "left_out": [], "data": "digits", "seed": 0}), "its names are no texts"),
        (json.dumps({"val": ["x"], "left_out": [], "data": "digits", "seed": 0}), "it was made for other data"),
    ],
)
@pytest.mark.parametrize("main", [search.main, train.main])
def test_a_file_that_is_no_division_is_one_line(main, content, told, tmp_path: Path, capsys):
    path = tmp_path / "division.json"
    if content is not None:
        path.write_text(content)
    assert main(["--data", "digits", "--division", str(path), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_training_watches_what_a_division_holds_out(tmp_path: Path):
    from accelerate import Accelerator

    path = tmp_path / "division.json"
    path.write_text(json.dumps({"val": ["1", "5"], "left_out": ["0"], "data": "digits", "seed": 0}))
    settings = TrainSettings.from_recipe(
        "quick", model="cell_net_cifar", init_channels=4, num_cells=3, data="digits", division=path, out=tmp_path
    )
    program = train.Training(settings, Accelerator(mixed_precision="no"))
    assert program.val_batches is not None
    assert (program.train_batches.num_samples, program.val_batches.num_samples) == (1435, 2)
