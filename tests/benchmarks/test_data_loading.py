"""Every form of data stands in the table of what decodes how fast."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest

datasets = pytest.importorskip("datasets")


@pytest.mark.slow
def test_each_form_is_measured_beside_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path))  # which the program sets
    path = Path(__file__).parents[2] / "benchmarks" / "data_loading.py"
    spec = importlib.util.spec_from_file_location("data_loading", path)
    assert spec is not None
    assert spec.loader is not None
    program: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    found = program.decode(2, 1)["forms"]
    assert found["torchvision"]["ratio"] == 1.0
    forms = {"folder", "tar", "3 tars", "zip", "labels.csv", "Parquet", "folder, colour jitter", "folder, RandAugment"}
    assert forms < found.keys()
    assert all(form["images_per_s_core"] > 0 for form in found.values())
