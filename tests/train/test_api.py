"""Training and evaluation from a Python program."""

import dataclasses
import unicodedata
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import nas_zoo.train
from nas_zoo.data.named import open_source
from nas_zoo.genotype import load_genotype
from nas_zoo.runs.log import RunLog
from nas_zoo.train import EvaluateSettings, TrainResult, TrainSettings, evaluate, train


def digits(split: str, count: int) -> TensorDataset:
    source = open_source("digits", split)
    assert source.images is not None
    rows = np.random.default_rng(0).permutation(len(source))[:count]
    return TensorDataset(
        torch.from_numpy(source.images[rows]).permute(0, 3, 1, 2), torch.from_numpy(source.labels[rows])
    )


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> TrainSettings:
    return TrainSettings.from_recipe(
        "quick", model="cell_net_cifar", genotype="darts_v2", init_channels=4, num_cells=3, epochs=2, batch_size=32,
        warmup_epochs=0, data=digits("train", 128), test_data=digits("test", 64), test_curve=True,
        out=tmp_path_factory.mktemp("train") / "run",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(settings) -> TrainResult:
    lines: list[int] = []
    result = train(settings, callbacks=[lambda line: lines.append(line["epoch"])])
    assert lines == [1, 2]
    return result


def test_training_on_own_data_gives_figures_history_and_a_network(settings, trained):
    assert trained.path == settings.out
    assert trained.figures is not None
    assert trained.figures["n"] == 64
    assert trained.top1 == trained.figures["top1"]
    assert [row["epoch"] for row in trained.history] == [1, 2]
    assert trained.history[-1]["test_top1"] == trained.top1
    assert trained.history[0].keys() == trained.history[1].keys()
    assert trained.stopped is None
    assert TrainResult.read(settings.out) == trained
    assert RunLog.read(settings.out)[0]["settings"]["data"] == "TensorDataset"
    assert trained.model()(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_an_evaluation_gives_the_figures_of_the_run(settings, trained):
    again = EvaluateSettings(data=settings.data, test_data=settings.test_data)
    for model in (settings.out, str(settings.out), trained.model()):
        figures = evaluate(model, again)
        assert figures["n"] == 64
        assert figures["top1"] == trained.top1
    with pytest.raises(ValueError, match="edas_c11"):
        evaluate("edas_c11", again)


def test_an_accent_may_be_written_in_either_way(settings, trained):
    composed = ["caf\u00e9", *"123456789"]
    decomposed = [unicodedata.normalize("NFD", word) for word in composed]
    model: Any = trained.model()
    data: Any = digits("test", 64)
    for ours in (composed, decomposed):
        data.classes = ours
        for theirs in (composed, decomposed):
            model.pretrained_cfg["label_names"] = theirs
            figures = evaluate(model, EvaluateSettings(data=data, test_data=data))
            assert (figures["top1"], figures["same_classes"]) == (trained.top1, True)
    model.pretrained_cfg["label_names"] = [*composed[:9], "10"]
    with pytest.raises(ValueError, match="class 9 is '9', the model's is '10'"):  # the first is the same
        evaluate(model, EvaluateSettings(data=data, test_data=data))


def test_a_recipe_that_is_only_named_is_told(settings):
    with pytest.raises(ValueError, match=r"TrainSettings.from_recipe\('quick', \.\.\.\)"):
        train(TrainSettings(recipe="quick", out=settings.out / "other"))
    with pytest.raises(ValueError, match="recipe must be one of"):
        TrainSettings.from_recipe("quicker")
    with pytest.raises(ValueError, match="did you mean epochs"):
        TrainSettings.from_recipe("quick", epoch=3)


def test_a_finished_run_is_not_begun_again(settings, trained):
    with pytest.raises(ValueError, match="holds a run already"):
        train(settings)
    assert train(settings, resume=True).history == trained.history
    assert all(hasattr(nas_zoo.train, name) for name in nas_zoo.train.__all__)


def test_the_file_of_its_cells_may_lie_elsewhere_when_a_run_goes_on(settings, trained, tmp_path):
    """As where the folder that has both was moved; what is in the file must not change."""
    for name in ("darts_v2", "darts_v1"):
        (tmp_path / f"{name}.json").write_text(load_genotype(name).to_json())
    again = train(dataclasses.replace(settings, genotype=str(tmp_path / "darts_v2.json")), resume=True)
    assert again.history == trained.history
    with pytest.raises(ValueError, match=r"genotype must stay 'darts_v2'.*got .*darts_v1"):
        train(dataclasses.replace(settings, genotype=str(tmp_path / "darts_v1.json")), resume=True)


def test_a_run_goes_on_without_the_file_of_its_cells(settings, tmp_path):
    cells = tmp_path / "cells.json"
    cells.write_text(load_genotype("darts_v2").to_json())
    own = dataclasses.replace(settings, genotype=str(cells), epochs=1, warmup_epochs=0, out=tmp_path / "run")
    history = train(own).history
    cells.unlink()
    assert train(own, resume=True).history == history


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("own", [False, True], ids=["folder", "own data"])
def test_an_evaluation_makes_images_as_timm_does_for_the_model(tmp_path, interpolation, own):
    """A network of timm or of other authors was trained at its own resampling; its figures are told with that."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)) for _ in range(4)]
    for i, picture in enumerate(pictures):
        (tmp_path / "test" / "ab"[i // 2]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "ab"[i // 2]).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "test" / "ab"[i // 2] / f"{i}.png")
        picture.save(tmp_path / "train" / "ab"[i // 2] / f"{i}.png")
    model: Any = timm.create_model("cell_net_cifar", genotype="darts_v2", init_channels=4, num_cells=3, num_classes=2)
    model.pretrained_cfg |= {"input_size": (3, 8, 8), "crop_pct": 0.8, "interpolation": interpolation}
    seen: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
    data: Any = [(picture, i // 2) for i, picture in enumerate(pictures)] if own else str(tmp_path)
    evaluate(model, EvaluateSettings(data=data, test_data=data if own else None, image_size=8))
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    wanted = torch.stack([transform(picture) for picture in pictures])
    torch.testing.assert_close(torch.cat(seen)[:4], wanted, rtol=0, atol=1e-5)
