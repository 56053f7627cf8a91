"""export/bench.py: what a timing is of, and real runs of a tiny network on the CPU."""

import csv
import re
import shutil
import time
from pathlib import Path
from typing import Any

import onnx
import pytest
import timm
import torch

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.bench import COLUMNS, RUNTIMES, bench_model, main, measure, write_csv

TINY: dict[str, Any] = {"genotype": "darts_v2", "init_channels": 4, "num_cells": 3, "num_classes": 5}
SIDE = 16
QUICK: dict[str, Any] = {"warmup_s": 0.0, "min_s": 0.0, "repeats": 3, "threads": 1}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return timm.create_model("cell_net_cifar", **TINY)


@pytest.fixture(scope="module")
def exported(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(model, tmp_path_factory.mktemp("bench") / "tiny.onnx", input_size=SIDE)


def test_a_timing_is_the_median_and_the_deciles_of_the_calls_after_the_warm_up() -> None:
    # The calls of the warm-up are the slow ones here, and must not be seen; one timed call in twenty is.
    lengths = iter([0.2, *([0.01] * 10 + [0.1] + [0.01] * 9)])
    timing = measure(lambda: time.sleep(next(lengths)), warmup_s=0.05, min_s=0, repeats=20)
    assert timing.n == 20
    assert 0.01 <= timing.p10_s <= timing.median_s <= timing.p90_s < 0.09


def test_timed_calls_go_on_until_there_are_enough_and_long_enough() -> None:
    assert measure(lambda: time.sleep(0.01), warmup_s=0, min_s=0.2, repeats=2).n >= 5
    calls: list[int] = []
    waits: list[int] = []
    timing = measure(lambda: calls.append(1), warmup_s=0, min_s=0, repeats=7, synchronize=lambda: waits.append(1))
    assert (timing.n, len(calls), len(waits)) == (7, 8, 9)  # one call warms up; one wait stands before all
    wrong: dict[str, Any] = {"repeats": 0, "warmup_s": -1, "min_s": float("nan")}
    for name, value in wrong.items():
        with pytest.raises(ValueError, match=f"^{name} must be .*, got {value}$"):
            measure(lambda: None, **{name: value})


@pytest.mark.slow
def test_rows_say_what_was_timed(model: Any, exported: Path) -> None:
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = bench_model(
        model, name="tiny", input_size=(3, SIDE, SIDE), batches=(1, 4), runtimes=("eager", "onnx"),
        onnx_files=[exported], **QUICK,
    )  # fmt: skip
    assert [(row["runtime"], row["batch"]) for row in rows] == [("eager", 1), ("eager", 4), ("onnx", 1), ("onnx", 4)]
    for row in rows:
        assert tuple(row) == COLUMNS
        assert 0 < row["p10_ms"] <= row["median_ms"] <= row["p90_ms"]
        assert row["images_per_s"] == pytest.approx(1e3 * row["batch"] / row["median_ms"], rel=1e-3)
        assert (row["model"], row["dtype"], row["device"], row["threads"], row["n"]) == ("tiny", "float32", "cpu", 1, 3)
        assert f"torch {torch.__version__}" in row["versions"]
        assert "onnxruntime" in row["versions"]
        assert row["first_call_s"] > 0
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_memory_is_counted_from_where_the_runtime_is_loaded() -> None:
    # 64 images of 3 x 256 x 256 floats are 50 MB, and what ReLU puts out is as much again
    wide: Any = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    ballast = torch.ones(30_000_000)  # 120 MB that the process holds already
    row = bench_model(wide, name="wide", input_size=(3, 256, 256), batches=(64,), runtimes=("eager",), **QUICK)[0]
    if row["peak_memory_gb"] is None:
        pytest.skip("this system does not tell a process's peak")
    assert 0.09 < row["peak_memory_gb"] < 0.2
    assert ballast[0] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtimes": ("jit",)}, "runtime must be one of eager, compile, onnx, got 'jit'"),
        ({"dtype": "int4"}, "dtype must be one of float32.*, got 'int4'"),
        ({"batches": (0,)}, r"batch must be numbers of at least 1, got \(0,\)"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"min_s": float("inf")}, "min_s must be a finite number of at least 0, got inf"),
        ({"input_size": (3, 0, 0)}, r"input_size must be numbers of at least 1, got \(3, 0, 0\)"),
    ],
)
def test_what_cannot_be_timed_is_told_first(model: Any, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_model(model, name="tiny", **(QUICK | arguments))


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_a_gpu_that_is_not_there_is_told(model: Any) -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device"):
        bench_model(model, name="tiny", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_does_not_work_here_ends_in_one_line_before_anything_is_timed(
    provider: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["darts_v2_c10", f"--provider={provider}"]) == 2
    out, error = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(f"nas-zoo bench: provider='{provider}' does not work here: .*(driver|CPUs only).*\n", error)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_provider_auto_takes_the_cpu_where_no_gpu_works_and_says_so(
    exported: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in (TINY | QUICK).items()]
    words = ["--runtime=onnx", "--batch=2", f"--onnx={exported}", "--provider=auto", "--cudnn-search=heuristic"]
    assert main(["cell_net_cifar", f"--input-size={SIDE}", *flags, *words]) == 0
    out, error = capfd.readouterr()
    assert error.startswith("nas-zoo bench: ONNX Runtime runs on cpu\n")
    assert out.splitlines()[-1].split()[:2] == ["onnx", "cpu"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--provider=auto", "--cuda-graphs"], "cuda_graphs works with provider='cuda' alone, got"),
        (["--provider=cpu", "--tensorrt-fp16"], "tensorrt_fp16 works with provider='tensorrt' alone, got"),
        (["--provider=cpu", "--cudnn-search=heuristic"], "cudnn_search works with provider cuda, tensorrt, auto, got"),
        (["--provider=cpu", "--runtime=eager"], "provider 'cpu' is of the runtime onnx"),
    ],
)
def test_options_of_a_provider_are_checked_before_anything_is_timed(
    words: list[str], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    code = main(["darts_v2_c10", *([] if "--runtime=eager" in words else ["--runtime=onnx"]), *words])
    out, error = capfd.readouterr()
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert told in error


def test_a_file_for_single_images_is_not_timed_as_a_batch(model: Any, exported: Path, tmp_path: Path) -> None:
    proto = onnx.load(exported)
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]
    onnx.save(proto, tmp_path / "one.onnx")
    with pytest.raises(ValueError, match=r"one\.onnx takes batches of 1 only, not of 2"):
        bench_model(
            model, name="tiny", input_size=(3, SIDE, SIDE), batches=(2,), runtimes=("onnx",),
            onnx_files=[tmp_path / "one.onnx"], **QUICK,
        )  # fmt: skip


def test_a_mode_of_torch_compile_that_there_is_not_is_told(model: Any) -> None:
    with pytest.raises(ValueError, match=r"compile_mode 'nope': .*reduce-overhead"):
        bench_model(
            model, name="tiny", input_size=(3, SIDE, SIDE), batches=(1,), runtimes=("compile",), compile_mode="nope",
            **QUICK,
        )  # fmt: skip


@pytest.mark.slow
def test_threads_are_as_before_afterwards(model: Any) -> None:
    before = torch.get_num_threads()
    bench_model(model, name="tiny", batches=(1,), runtimes=("eager",), **(QUICK | {"threads": before + 1}))
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_the_program_writes_a_table_and_a_csv(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
    quick = ["--warmup-s=0", "--min-s=0", "--repeats=2", "--threads=1", f"--input-size={SIDE}", "--batch", "1", "2"]
    target = tmp_path / "bench.csv"
    words = ["cell_net_cifar", *flags, *quick, "--runtime", "eager", "onnx", f"--onnx={exported}", f"--csv={target}"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert "median_ms" in printed.out
    assert "1 of 4, ? left: cell_net_cifar: eager, batch 1" in printed.err
    assert re.search(r"^4 of 4, 00:0\d left: cell_net_cifar: onnx tiny.onnx, batch 2$", printed.err, re.MULTILINE)
    with open(target, newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 4
    assert main(["cell_net_cifar", *flags, f"--csv={tmp_path / 'no' / 'x.csv'}"]) == 2
    assert "a folder that exists" in capsys.readouterr().err
    assert main(["no_such_model"]) == 2
    assert main(["cell_net_cifar", "--onnx=missing.onnx"]) == 2
    assert "missing.onnx" in capsys.readouterr().err
    with pytest.raises(ValueError, match="a folder that exists"):
        write_csv(tmp_path, [])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile on a CPU needs g++")
def test_a_compiled_model_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    small: Any = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
    (row,) = bench_model(small, name="small", input_size=(3, 8, 8), batches=(2,), runtimes=("compile",), **QUICK)
    assert row["runtime"] == "compile"
    assert row["first_call_s"] > row["median_ms"] / 1e3
    assert RUNTIMES == ("eager", "compile", "onnx")
