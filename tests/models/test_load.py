"""A folder that a user names as a model, and what may be wrong with its config.json."""

import json
import math
import re
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.bench import bench_model
from nas_zoo.export.runtime.latency import LatencySettings, main, named_network
from nas_zoo.genotype import KINDS, Genotype, load_genotype
from nas_zoo.models.load import load_model

ARGS: dict[str, Any] = {"genotype": "darts_v2", "init_channels": 4, "num_cells": 3, "num_classes": 3}


@pytest.fixture
def folder(tmp_path):
    model = timm.create_model("cell_net_cifar", **ARGS)
    timm.models.save_for_hf(model, str(tmp_path / "run"), safe_serialization=True, model_args=ARGS)
    return tmp_path / "run"


def test_a_folder_as_training_leaves_it_is_a_model(folder):
    assert load_model(str(folder)).num_classes == 3
    assert str(named_network(str(folder), LatencySettings())[1]) == "cifar, C=4 x 3 cells, 3 classes, 3x32x32"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", r"must hold an object, got \[\]"),
        ({"architecture": None}, "architecture must be a model of ours or of timm, got None"),
        ({"architecture": "edas_c99"}, "architecture must be a model of ours or of timm, got 'edas_c99'"),
        ({"pretrained_cfg": 5}, "pretrained_cfg must be an object, got 5"),
        (
            {"pretrained_cfg": {"input_size": "3x8x8"}},
            r"pretrained_cfg.input_size must be three whole numbers \(C, H, W\), got '3x8x8'",
        ),
        ({"pretrained_cfg": {"mean": 0.5}}, "pretrained_cfg.mean must be a list of numbers, got 0.5"),
        ({"pretrained_cfg": {"mean": [0.5, "b"]}}, r"pretrained_cfg.mean must be a list of numbers, got \[0.5, 'b'\]"),
        ({"pretrained_cfg": {"std": [0.0]}}, r"pretrained_cfg.std must be a list of numbers above 0, got \[0.0\]"),
        ({"pretrained_cfg": {"std": [math.nan]}}, r"pretrained_cfg.std must be a list of numbers above 0, got \[nan\]"),
        ({"pretrained_cfg": {"crop_pct": "1"}}, "pretrained_cfg.crop_pct must be a number above 0, at most 1, got '1'"),
        ({"pretrained_cfg": {"interpolation": 3}}, "pretrained_cfg.interpolation must be a name, got 3"),
        (
            {"pretrained_cfg": {"label_names": [1, 2]}},
            r"pretrained_cfg.label_names must be a list of names, got \[1, 2",
        ),
        ({"model_args": [1]}, r"model_args must be an object, got \[1\]"),
    ],
)
def test_a_config_of_another_kind_is_told_with_its_place(folder, config, told):
    path = folder / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps(json.loads(path.read_text()) | config))
    for read in (load_model, lambda name: named_network(name, LatencySettings())):
        with pytest.raises(ValueError, match=rf"^'.*config\.json'.* {told}"):
            read(str(folder))


def test_the_latency_of_weights_is_that_of_their_network():
    """It was that of a thousand classes at 224 pixels, under the name of ten at 128."""
    _, shape = named_network("edas_e8_in1k.imagenette_e20_r128", LatencySettings())
    assert (shape.num_classes, shape.input_size) == (10, (3, 128, 128))
    assert named_network("edas_e8_in1k", LatencySettings())[1].num_classes == 1000


def test_a_file_of_weights_says_what_its_classes_and_cells_are(tmp_path):
    """The model's own are of the data that its name stands for."""
    file, classes = tmp_path / "model.safetensors", [f"c{i}" for i in range(10)]
    small: dict[str, Any] = {"num_cells": 2}
    model: Any = timm.create_model("darts_v2_c10", init_channels=4, **small)
    metadata = {"genotype": model.genotype.to_json(), "classes": json.dumps(classes)}
    save_file(model.state_dict(), file, metadata)
    again: Any = load_model("darts_v2_c10", file, init_channels=4, **small)
    assert list(again.pretrained_cfg["label_names"]) == classes
    cells = load_genotype("darts_v2")
    other = json.loads(cells.to_json())  # without parameters of its own, the operation leaves none
    place = next((kind, i, j) for kind in KINDS for i, node in enumerate(cells.cell(kind).nodes)
                 for j, edge in enumerate(node) if edge.operation == "skip_connect" and kind == "normal")  # fmt: skip
    other[place[0]]["nodes"][place[1]][place[2]][0] = "max_pool_3x3"
    metadata["genotype"] = Genotype.from_json(other).to_json()
    save_file(model.state_dict(), file, metadata)
    with pytest.raises(ValueError, match=r"were trained with cells .* and 'darts_v2_c10' has darts_v2"):
        load_model("darts_v2_c10", file, init_channels=4, **small)
    save_file(model.state_dict(), file, {"genotype": "of another program", "classes": "[1"})
    assert load_model("darts_v2_c10", file, init_channels=4, **small).num_classes == 10


def test_a_file_of_weights_says_how_images_are_prepared(tmp_path):
    """The model's own mean, size and crop are of the data that its name stands for."""
    images = {
        "input_size": [3, 48, 48],
        "mean": [0.1] * 3,
        "std": [0.2] * 3,
        "crop_pct": 0.9,
        "interpolation": "bicubic",
    }
    small: dict[str, Any] = {"num_cells": 2, "init_channels": 4}
    model: Any = timm.create_model("darts_v2_c10", **small)
    file = tmp_path / "model.safetensors"
    save_file(model.state_dict(), file, {"images": json.dumps(images)})
    again: Any = load_model("darts_v2_c10", file, **small)
    assert {name: again.pretrained_cfg[name] for name in images} == images
    save_file(model.state_dict(), file, {"images": json.dumps(images | {"mean": 1})})
    with pytest.raises(
        ValueError, match=r"weights '.*model.safetensors': images.mean must be a list of numbers, got 1"
    ):
        load_model("darts_v2_c10", file, **small)
    save_file(model.state_dict(), file, {"images": "[" * 100_000})  # of another program
    as_named: Any = load_model("darts_v2_c10", file, **small)
    assert as_named.pretrained_cfg["crop_pct"] == model.pretrained_cfg["crop_pct"]


def test_a_fault_in_a_safetensors_file_is_told_once(tmp_path):
    save_file({}, file := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"^weights '.*model.safetensors': no state dict in it"):
        load_model("darts_v2_c10", file)


def test_the_latency_is_of_networks_of_cells(tmp_path):
    torch.manual_seed(0)
    timm.models.save_for_hf(timm.create_model("test_resnet"), str(tmp_path / "other"), safe_serialization=True)
    with pytest.raises(ValueError, match="other' is no network of cells, of which alone the pieces are known"):
        named_network(str(tmp_path / "other"), LatencySettings())


def test_images_for_which_there_is_no_memory_are_refused_before_any_is_taken(folder, tmp_path):
    """100,000 pixels to a side: 960 GB for a layer of twelve channels, in and out."""
    model, told = (
        load_model(str(folder)),
        r"input_size=\(3, 100000, 100000\): one layer alone takes [\d,.]+ GB for a batch",
    )
    with pytest.raises(ValueError, match=told):
        export_onnx(model, tmp_path / "net.onnx", input_size=100_000)
    with pytest.raises(ValueError, match=told):
        bench_model(model, name="net", input_size=(3, 100_000, 100_000), runtimes=("eager",))
    with pytest.raises(ValueError, match=told):
        named_network(str(folder), LatencySettings(image_size=100_000))


def test_the_place_of_a_latency_table_is_looked_at_before_anything_is_measured(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NAS_ZOO_CACHE", str(tmp_path / "cache"))
    for name, place in (("--to", "none/table.json"), ("--to", "."), ("--table", ".")):
        assert main([str(folder), name, str(tmp_path / place), "--threads", "1"]) == 2
        assert re.search(r"to must be the name of a file|Is a directory", capsys.readouterr().err)
    assert [path.name for path in tmp_path.rglob("*.json")] == ["config.json"]


def test_weights_for_other_cells_are_told_in_a_whole_sentence(folder):
    with pytest.raises(ValueError, match=r"Error.s. in loading state_dict for CellNet: [A-Z]"):
        load_model(str(folder), genotype="edas_c10")
