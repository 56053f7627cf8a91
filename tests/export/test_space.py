"""The demo page's folder: whole, free of nas-zoo, and of the model's opinion.

The page itself is driven in a browser by benchmarks/drive_space.py, since gradio is no dependency of ours.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML

from nas_zoo.export.publish.space import GRADIO_VERSION, main
from nas_zoo.models.load import load_model
from tests.weights import train_tiny, write_images


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Images, the run on them, and its Space with two examples."""
    folder = tmp_path_factory.mktemp("space")
    images = write_images(folder / "images")
    run = train_tiny(images, folder / "run")
    examples = [str(images / "test" / name / "00.png") for name in ("cat", "ship")]
    words = [str(run), "--to", str(folder / "space"), "--repo", "zoo/blobs", "--examples", *examples]
    assert main(words) == 0
    return images, run, folder / "space"


def test_the_folder_holds_what_a_space_needs(made):
    _, run, space = made
    names = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    assert names == {"app.py", "requirements.txt", "README.md", "model_images.onnx", "cells.png", "examples/0_00.png",
                     "examples/1_00.png"}  # fmt: skip
    head = YAML(typ="safe").load((space / "README.md").read_text().split("---\n")[1])
    assert (head["sdk"], head["sdk_version"], head["app_file"]) == ("gradio", GRADIO_VERSION, "app.py")
    assert head["models"] == ["zoo/blobs"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", head["sdk_version"])
    assert len(head["title"]) <= 60
    for path in space.rglob("*"):
        if path.is_file():
            assert str(run.parent).encode() not in path.read_bytes()


APP = """
import builtins, json, sys
real = builtins.__import__
def without(name, *args, **kwargs):
    assert name.split(".")[0] not in ("nas_zoo", "torch", "timm", "gradio"), name
    return real(name, *args, **kwargs)
builtins.__import__ = without
import app
from PIL import Image
assert app.classify(None) == {}
found = []
for path in sys.argv[1:]:
    probabilities = app.classify(Image.open(path))
    assert abs(sum(probabilities.values()) - 1) < 1e-4
    found.append(probabilities)
print(json.dumps(found))
"""


def test_the_app_says_what_the_model_says(made, tmp_path):
    """Without nas-zoo, torch, timm or gradio in its process; images of any size and mode."""
    images, run, space = made
    places = [images / "test" / name / "03.png" for name in ("cat", "ship", "frog")]
    with Image.open(places[0]) as picture:
        others = {"l": picture.convert("L"), "rgba": picture.convert("RGBA"), "wide": picture.resize((90, 31)),
                  "p": picture.convert("P"), "huge": picture.resize((5000, 20))}  # fmt: skip
    for name, other in others.items():
        other.save(tmp_path / f"{name}.png")
        places.append(tmp_path / f"{name}.png")
    done = subprocess.run([sys.executable, "-c", APP, *map(str, places)], cwd=space, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    model: Any = load_model(str(run))
    labels = model.pretrained_cfg["label_names"]
    assert [list(one) for one in found] == [list(labels)] * len(places)
    import timm

    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=model), is_training=False)
    with torch.no_grad():
        for path, probabilities in zip(places[:3], found[:3], strict=True):
            expected = model(transform(Image.open(path).convert("RGB"))[None]).softmax(1)[0]
            assert max(probabilities, key=probabilities.__getitem__) == labels[int(expected.argmax())]
            torch.testing.assert_close(torch.tensor(list(probabilities.values())), expected, rtol=0, atol=0.02)


def test_mistakes_are_told_in_a_line_and_leave_nothing(made, tmp_path, capsys):
    _, run, _ = made
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "none").mkdir()
    for words, told in (
        ([str(run), "--to", str(tmp_path / "full")], "the folder must be new or empty"),
        ([str(run), "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "text.png")], "not readable as an image"),
        ([str(run), "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "none")], "no images in"),
        ([str(run), "--to", str(tmp_path / "s"), "--examples", str(tmp_path / "gone.png")], "gone.png"),
        (["edas_in1k", "--to", str(tmp_path / "s")], "without weights"),
    ):
        assert main(words) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (tmp_path / "s").exists()
    assert [path.name for path in Path(tmp_path / "full").iterdir()] == ["mine.txt"]
