"""The demo: the whole way, small, and that it does not write over what is no demo."""

import json

import pytest

from nas_zoo import demo
from nas_zoo.cli import main


@pytest.mark.slow
def test_the_demo_goes_from_search_to_prediction(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(demo.SEARCH, "epochs", "8")  # half of them: alpha's learning rate goes with their number
    monkeypatch.setitem(demo.TRAIN, "epochs", "6")
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out)]) == 0
    table = json.loads((out / "demo.json").read_text())
    before, after = table["search"]["entropy"]
    assert before == pytest.approx(2.079, abs=1e-3)  # ln 8
    assert after < before / 2
    assert table["search"]["moved"]
    assert table["search"]["changed"] > 3
    assert table["onnx_accuracy"] == pytest.approx(table["retrained_accuracy"], abs=0.003)  # at most one of 359
    assert table["retrained_accuracy"] > 0.9
    assert table["largest_difference"] < 1e-4
    for name in ("search/genotype.json", "cells.svg", "cells.png", "train/model.safetensors", "model.onnx",
                 "report.html", "page/index.html", "page/model_images.onnx"):  # fmt: skip
        assert (out / name).stat().st_size > 0
    assert len(list((out / "images").iterdir())) == 10
    shown = capsys.readouterr().out
    assert "supernet before derivation" in shown
    assert "A demo setting: alpha's learning rate is 1," in shown
    assert "Checked: the search has halved the entropy of alpha" in shown
    for place in ("model.onnx", "report.html", "page"):
        assert str(out / place) in shown.split("Open in a browser:")[1]
    # what it left is what the other commands take
    assert main(["evaluate", str(out / "train"), "--data", "digits"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["top1"] == table["retrained_accuracy"]
    assert main(["predict", str(out / "model.onnx"), str(out / "images"), "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert main(["demo", "--out", str(out)]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err


def test_a_search_that_keeps_where_it_began_is_not_said_to_have_moved():
    def line(entropy, *alpha, cells="first"):
        kinds = {"normal": list(alpha), "reduce": list(alpha)}
        return {"operations": ["none", "skip_connect", "max_pool_3x3", "sep_conv_3x3"], "alpha": kinds, "found": cells,
                "entropy": dict.fromkeys(kinds, entropy)}  # fmt: skip

    first = line(1.38, [0.1, 0, 0, 0], [0, 0.1, 0, 0])
    still = demo.how_far([first, line(1.37, [0.2, 0, 0, 0], [0, 0.1, 0, 0.1])])
    assert still == {"entropy": [pytest.approx(1.386, abs=1e-3), 1.37], "changed": 0, "edges": 4, "moved": False}
    settled = [first, line(0.1, [9, 0, 0, 0], [0, 9, 0, 0])]
    assert not demo.how_far(settled)["moved"]  # on the cells of its first epoch
    other = [first, line(0.1, [9, 0, 0, 0], [0, 0, 0, 9], cells="other")]
    assert demo.how_far(other) | {"entropy": None} == {"entropy": None, "changed": 2, "edges": 4, "moved": True}
    assert not demo.how_far([first, line(1.3, [0.1, 0, 0, 0], [0, 0, 0, 0.1], cells="other")])["moved"]


def test_a_folder_that_is_no_demo_is_left_alone(tmp_path, capsys):
    precious = tmp_path / "thesis.txt"
    precious.write_text("three years")
    assert main(["demo", "--out", str(tmp_path), "--overwrite"]) == 2
    assert "holds something that is no demo" in capsys.readouterr().err
    assert precious.read_text() == "three years"
