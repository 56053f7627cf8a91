"""The demo: the whole way, small, and that it does not write over what is no demo."""

import json

import pytest

from nas_zoo import demo
from nas_zoo.cli import main


@pytest.mark.slow
def test_the_demo_goes_from_search_to_prediction(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(demo.SEARCH, "epochs", "2")
    monkeypatch.setitem(demo.TRAIN, "epochs", "6")
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    table = json.loads((out / "demo.json").read_text())
    assert table["onnx_accuracy"] == pytest.approx(table["retrained_accuracy"], abs=0.003)  # at most one of 359
    assert table["retrained_accuracy"] > 0.9
    assert table["largest_difference"] < 1e-4
    for name in ("search/genotype.json", "cells.svg", "cells.png", "train/model.safetensors", "model.onnx"):
        assert (out / name).stat().st_size > 0
    assert len(list((out / "images").iterdir())) == 10
    shown = capsys.readouterr().out
    assert "supernet before derivation" in shown
    assert str(out / "model.onnx") in shown
    # what it left is what the other commands take
    assert main(["evaluate", str(out / "train"), "--data", "digits"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1"] == table["retrained_accuracy"]
    assert main(["predict", str(out / "model.onnx"), str(out / "images"), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert main(["demo", "--out", str(out)]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path, capsys):
    precious = tmp_path / "thesis.txt"
    precious.write_text("three years")
    assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "holds something that is no demo" in capsys.readouterr().err
    assert precious.read_text() == "three years"
