"""benchmarks/gpu_smoke.py: its pieces on a GPU, and the whole command on a CPU with two steps each."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nas_zoo.search.method import METHODS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "benchmarks" / "gpu_smoke.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_smoke", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


smoke = load()
CHECKS = [name for name in smoke.all_pieces() if not name.startswith("time:")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHECKS)
def test_a_piece_on_a_gpu(name: str, tmp_path: Path) -> None:
    try:
        assert smoke.all_pieces()[name](smoke.Here(tmp_path))
    except smoke.LeftOut as reason:
        pytest.skip(str(reason))


def run(out: Path, *words: str) -> tuple[int, list[dict], str]:
    """Exit code, JSON lines and all that was printed, on the CPU."""
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--device=cpu", f"--out={out}", *words],
        capture_output=True, text=True, timeout=1400, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, [json.loads(text) for text in done.stdout.splitlines() if text.startswith("{")], done.stdout


def test_there_is_a_piece_for_everything_that_is_written_for_a_gpu() -> None:
    names = set(smoke.all_pieces())
    for method in METHODS:
        assert {f"step:{method}", f"time:{method}"} <= names
    assert {"train", "bf16:edas", "bf16:train", "compile:train", "sync_bn", "resume:search", "resume:train",
            "onnx:cuda", "onnx:cuda_graphs", "onnx:tensorrt"} <= names  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1500)  # some two minutes, on a busy machine ten
def test_the_whole_command_on_a_cpu(tmp_path: Path) -> None:
    code, lines, told = run(tmp_path, "--time-budget=1300", "--piece-seconds=400", "--start-seconds=200")
    ended = {line["piece"]: line["state"] for line in lines}
    assert {name: state for name, state in ended.items() if state != "ok"} == {
        "onnx:cuda_graphs": "left out",
        "onnx:tensorrt": "left out",
    }, told
    assert (code, list(ended)) == (0, list(smoke.all_pieces()))
    for line in lines:
        assert (line["device"], line["driver"]) == ("cpu", None)
        assert line["versions"]["torch"] == torch.__version__
        assert line["command"].startswith("python benchmarks/gpu_smoke.py --device=cpu --out=")
        assert "commit" in line
    by_name = {line["piece"]: line.get("figures", {}) for line in lines}
    assert all(by_name[f"step:{method}"]["steps"] == 2 for method in METHODS)
    assert all(by_name[f"time:{method}"]["time_ratio"] > 0 for method in METHODS)
    assert [json.loads(text) for text in (tmp_path / "smoke.jsonl").read_text().splitlines()] == lines
    table = told.splitlines()[-len(lines) - 3 :]
    assert table[0].split() == ["piece", "ended", "s", "figures"]
    assert [row.split()[0] for row in table[1:-2]] == list(ended)
    assert table[-2].startswith(f"{len(lines) - 2} ok, 0 failed, 2 left out; ")
    assert table[-1] == "this was a CPU: nothing here says what a GPU does"


@pytest.mark.slow
def test_it_goes_on_after_a_piece_that_fails_and_again_with_what_has_not_passed(tmp_path: Path) -> None:
    (tmp_path / "small.onnx").write_bytes(b"no ONNX file")
    words = ["--pieces", "sync_bn", "onnx:cuda", "onnx:cuda_graphs", "train"]
    code, lines, told = run(tmp_path, *words)
    assert (code, [line["state"] for line in lines]) == (1, ["ok", "failed", "left out", "ok"])
    assert "small.onnx" in lines[1]["reason"]
    assert "2 ok, 1 failed, 1 left out" in told
    assert "Traceback" in (tmp_path / "pieces.log").read_text()
    (tmp_path / "small.onnx").unlink()
    code, lines, told = run(tmp_path, *words, "--resume")
    assert (code, [line["piece"] for line in lines]) == (0, ["onnx:cuda", "onnx:cuda_graphs"])
    assert "3 ok, 0 failed, 1 left out" in told


@pytest.mark.slow
def test_a_piece_that_does_not_end_is_ended_and_what_the_time_does_not_allow_is_named(tmp_path: Path) -> None:
    code, lines, told = run(tmp_path, "--pieces", "sync_bn", "--piece-seconds=0.1", "--start-seconds=0")
    assert (code, lines[0]["state"], lines[0]["reason"]) == (1, "failed", "no end after 0 s: OUT/pieces.log")
    code, lines, told = run(tmp_path, "--pieces", "sync_bn", "train", "--time-budget=0.1")
    assert (code, lines) == (0, [])
    assert "not run, the time was over: sync_bn train\ngo on with: python benchmarks/gpu_smoke.py" in told
    assert told.rstrip().endswith("--resume")


def test_an_unknown_piece_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main([f"--out={tmp_path}", "--pieces", "step:foo"]) == 2
    assert capsys.readouterr().err.startswith("gpu_smoke: there is no piece 'step:foo'; there are step:edas, ")
