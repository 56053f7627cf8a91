"""What others do with our files: the packages of the extra `interop`, which CI installs for this part alone.

    python -m pip install --constraint constraints.txt --editable '.[interop]'
    NAS_ZOO_INTEROP=1 python -m pytest tests/test_interop.py

With NAS_ZOO_INTEROP set, a package that is missing is a failure and not a skip.
"""

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from PIL import Image

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.genotype import load_genotype
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.config import write_config
from nas_zoo.runs.files import write_weights

# Other packages' warnings are theirs.
pytestmark = pytest.mark.filterwarnings("default")
X = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


def needed(package: str) -> Any:
    if importlib.util.find_spec(package) is None and not os.environ.get("NAS_ZOO_INTEROP"):
        pytest.skip(f"{package} is not installed (extra interop)")
    return importlib.import_module(package)


def tiny(**kwargs: Any) -> Any:
    torch.manual_seed(0)
    return timm.create_model("cell_net_cifar", init_channels=4, num_cells=3, **kwargs).eval()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(tiny(), tmp_path_factory.mktemp("interop") / "tiny.onnx")


def logits(file: Path) -> np.ndarray:
    (found,) = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(None, {"pixel_values": X})
    return found


def test_constants_are_not_described_twice(file: Path) -> None:
    graph = onnx.load(file).graph
    assert not {value.name for value in graph.value_info} & {tensor.name for tensor in graph.initializer}
    assert len(graph.value_info) > 10  # and everything else is described


def test_onnx_runtimes_dynamic_quantization_takes_the_file(file: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(file, tmp_path / "dynamic.onnx")
    assert any("Integer" in node.op_type for node in onnx.load(tmp_path / "dynamic.onnx").graph.node)
    np.testing.assert_allclose(logits(tmp_path / "dynamic.onnx"), logits(file), atol=0.05)


def test_onnx_runtimes_preparation_for_quantization_takes_the_file(file: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(file, tmp_path / "prepared.onnx")
    np.testing.assert_allclose(logits(tmp_path / "prepared.onnx"), logits(file), atol=1e-5)


def test_onnxslim_takes_the_file(file: Path, tmp_path: Path) -> None:
    needed("onnxslim").slim(str(file), str(tmp_path / "slim.onnx"))
    np.testing.assert_allclose(logits(tmp_path / "slim.onnx"), logits(file), atol=1e-5)


def test_openvino_takes_the_file(file: Path) -> None:
    compiled = needed("openvino").compile_model(str(file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(X)[0], logits(file), atol=1e-5)


def converted() -> list[Any]:
    """Every model; in the quick part those that bring an operation which their data's layout did not have before."""
    seen: set[tuple[bool, str]] = set()
    names = []
    for name in sorted(MODELS):
        operations = load_genotype(MODELS[name]["cell"]).operations
        brought = {(MODELS[name]["data"] == "in1k", operation) for operation in operations}
        names.append(pytest.param(name, marks=[pytest.mark.slow] if brought <= seen else []))
        seen |= brought
    return names


@pytest.mark.parametrize("name", converted())
def test_coremltools_converts_the_model(name: str) -> None:
    """Of three cells, one normal and two reduction ones: every operation and every join of its cells."""
    coremltools = needed("coremltools")
    model: Any = timm.create_model(name, init_channels=4, num_cells=3).eval()
    size = model.pretrained_cfg["input_size"]
    program = torch.export.export(model, (torch.zeros(1, *size),)).run_decompositions({})
    converted = coremltools.convert(program, convert_to="mlprogram", skip_model_load=True)
    assert converted.get_spec().description.output


@pytest.mark.parametrize("in_chans", [3, 1])
def test_transformers_pipeline_gives_our_probabilities(tmp_path: Path, in_chans: int) -> None:
    transformers = needed("transformers")
    model = tiny(num_classes=5, in_chans=in_chans)
    names = ["ant", "bee", "cow", "dog", "elk"]
    data = {"input_size": (in_chans, 32, 32), "mean": (0.5,) * in_chans, "std": (0.25,) * in_chans, "crop_pct": 1.0}
    write_config(model, tmp_path / "config.json", names, data)
    write_weights(tmp_path / "model.safetensors", model.state_dict(), {})
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    x = torch.from_numpy(X[:, :in_chans])
    assert torch.equal(loaded(x), model(x))
    picture = np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(picture if in_chans == 3 else picture[:, :, 0]).save(tmp_path / "picture.png")
    if in_chans == 1:  # transformers' own image processor makes three channels of every picture
        return
    found = transformers.pipeline("image-classification", model=str(tmp_path))(str(tmp_path / "picture.png"), top_k=5)
    scaled = (torch.from_numpy(picture).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    ours = dict(zip(names, torch.softmax(model(scaled), 1)[0].tolist(), strict=True))
    assert {row["label"]: row["score"] for row in found} == pytest.approx(ours, abs=1e-5)
