"""benchmarks/gpu_inference.py, gone through on the CPU with a tiny network; with a GPU on it."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.bench import COLUMNS

ROOT = Path(__file__).parents[2]
TINY = ["--model=edas_c10", "--num-cells=3", "--init-channels=4"]
QUICK = ["--warmup-s=0", "--min-s=0", "--threads=1", "--images=12"]


@pytest.fixture(scope="module")
def program() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_inference", ROOT / "benchmarks" / "gpu_inference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_whole_way_on_the_cpu(program: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, *QUICK, "--device=cpu", "--batches", "1", "3", "--runtimes", "eager", "onnx",
             f"--json={tmp_path / 'found.json'}", f"--csv={tmp_path / 'found.csv'}"]  # fmt: skip
    assert program.main(words) == 0
    printed = capsys.readouterr()
    assert "largest_difference" in printed.out
    found = json.loads((tmp_path / "found.json").read_text())
    assert [(row["runtime"], row["dtype"]) for row in found["parity"]] == [
        ("eager", "float32"), ("onnx", "float32"), ("eager", "float16"), ("onnx", "float16")]  # fmt: skip
    by_kind = {(row["runtime"], row["dtype"]): row for row in found["parity"]}
    assert by_kind["onnx", "float32"]["largest_difference"] < 1e-4
    assert 1e-5 < by_kind["onnx", "float16"]["largest_difference"] < by_kind["onnx", "float16"]["accepted"]
    assert all(row["n"] == 12 for row in found["parity"])
    with open(tmp_path / "found.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["runtime"], row["dtype"], row["batch"]) for row in rows] == [
        (runtime, dtype, batch)
        for dtype in ("float32", "float16")
        for runtime in ("eager", "onnx")
        for batch in ("1", "3")
    ]
    assert found["facts"]["device"] == "cpu"


def test_a_file_of_other_weights_is_found(program: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, other = (program.lively(timm.create_model("edas_c10", num_cells=1, init_channels=4)) for _ in range(2))
    with torch.no_grad():
        other.classifier.bias += 0.5
    path = export_onnx(other, tmp_path / "other.onnx", input_size=8)
    x = torch.randn(4, 3, 8, 8)
    (row,) = program.parity(model, {"float32": path}, x, torch.device("cpu"), ["onnx"], 4)
    assert not row["ok"]
    assert row["largest_difference"] > 0.4


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_without_a_gpu_one_line_says_what_is_missing(program: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(TINY) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for words in ("no GPU to measure on", "torch sees no CUDA device", "NVIDIA driver", "--device cpu"):
        assert words in error
    assert program.main(["--model=no_such_model", "--device=cpu"]) == 2
    assert "no_such_model" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_whole_way_on_a_gpu(program: Any, tmp_path: Path) -> None:
    words = [*TINY, *QUICK, "--batches", "1", "8", "--runtimes", "eager", "onnx", f"--json={tmp_path / 'found.json'}"]
    assert program.main(words) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["facts"]["device"] == "cuda"
    assert {row["tf32"] for row in found["parity"]} == {False, True}
