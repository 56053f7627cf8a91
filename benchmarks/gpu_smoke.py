"""The first thing to run where there is a GPU: does everything that is written for one work there, and how fast?

    python benchmarks/gpu_smoke.py --out runs/smoke                # all pieces, within nine minutes
    python benchmarks/gpu_smoke.py --out runs/smoke --resume       # those that have not passed there
    python benchmarks/gpu_smoke.py --pieces step:edas time:edas    # some of them
    python benchmarks/gpu_smoke.py --device cpu                    # two small steps each; says nothing of a GPU

Each piece is checked against the CPU or against plain PyTorch. Pieces run in a process of their own that is started
anew after one that fails, dies or takes too long, since an error on a GPU leaves nothing in it usable. A piece ends as
ok, failed or left out (what it needs is not there: the reason is told).

A piece that has ended prints a JSON line with its figures, device, driver, versions, commit and command, which
OUT/smoke.jsonl has too, and the end is a table. What pieces print themselves is in OUT/pieces.log. Exit code 1 if one
failed. Pieces that the time did not allow are named at the end, with the command that runs them.
"""

import argparse
import contextlib
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SMALL: dict[str, Any] = {"init_channels": 4, "num_cells": 3, "batch_size": 16, "data": "digits", "image_size": 8}
#: How far a first loss may lie from the CPU's, by precision; TF32 keeps three digits.
NEAR = {"fp32": 2e-2, "bf16": 1e-1}


class LeftOut(Exception):
    """The piece needs something that this machine has not."""


class Here:
    """Where the pieces run: device, steps a piece, and a folder that they share."""

    def __init__(self, folder: Path) -> None:
        import torch

        self.folder = folder
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.on_gpu = self.device.type == "cuda"
        self.steps = 8 if self.on_gpu else 2

    def accelerator(self, on_gpu: bool) -> Any:
        """accelerate on the GPU or on the CPU, whichever of the two it was on before."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
        made = Accelerator(cpu=not on_gpu, mixed_precision="no")
        assert (made.device.type == "cuda") == on_gpu
        return made

    def synchronize(self) -> None:
        import torch

        if self.on_gpu:
            torch.cuda.synchronize()


# The pieces -----------------------------------------------------------------------------------------------------------


def a_step(here: Here, method: str, precision: str = "fp32") -> dict[str, Any]:
    """Steps of a search with moving alpha, on digits; the first loss is the CPU's."""
    from nas_zoo.runs.settings import settings_from
    from nas_zoo.search.method import find_method
    from nas_zoo.search.run import Search

    def losses(on_gpu: bool, precision: str, steps: int) -> list[float]:
        settings = settings_from(find_method(method)[0], SMALL | {"precision": precision, "out": here.folder / "step"})
        run = Search(settings, here.accelerator(on_gpu))
        last = settings.epochs - 1  # in which nothing rests
        before = [alpha.detach().clone() for alpha in run.alphas]
        rows = []
        for index, batch in zip(range(steps), run.batches(last, 0), strict=False):
            rows.append(run.step(last, index, batch))
        moved = any(bool((now != then).any()) for now, then in zip(run.alphas, before, strict=True))
        if run.alphas and not moved and method != "random":
            raise AssertionError("alpha has not moved")
        return [float(row[0] / row[2]) for row in rows]

    return compared(losses, here, precision)


def a_training(here: Here, precision: str = "fp32", compiled: bool = False) -> dict[str, Any]:
    """Steps of a training with moving average; the first loss is the CPU's."""
    from nas_zoo.train.recipes import settings_of
    from nas_zoo.train.run import Training

    if compiled and not here.on_gpu:
        import shutil

        if not any(map(shutil.which, ("g++", "clang++", "cl"))):
            raise LeftOut("torch.compile on a CPU needs a C++ compiler")

    def losses(on_gpu: bool, precision: str, steps: int) -> list[float]:
        flags = SMALL | {"recipe": "quick", "model": "cell_net_cifar", "precision": precision}
        flags["num_cells"] = 1 if compiled else flags["num_cells"]  # a compiler takes its time
        settings = settings_of(flags | {"compile": compiled and steps > 1, "out": here.folder / "train"})
        run = Training(settings, here.accelerator(on_gpu))
        rows = [run.step(0, index, batch) for index, batch in zip(range(steps), run.batches(0, 0), strict=False)]
        return [float(row[0] / row[2]) for row in rows]

    return compared(losses, here, precision)


def compared(losses: Callable[[bool, str, int], list[float]], here: Here, precision: str) -> dict[str, Any]:
    """Figures of the steps here, whose first loss has to be that of one step in float32 on the CPU."""
    expected = losses(False, "fp32", 1)[0]
    begin = time.perf_counter()
    found = losses(here.on_gpu, precision, here.steps)
    here.synchronize()
    if not all(map(math.isfinite, found)):
        raise AssertionError(f"losses that are not finite: {found}")
    if abs(found[0] - expected) > NEAR[precision]:
        raise AssertionError(f"the first loss is {found[0]:.4f}, on the CPU {expected:.4f}")
    return {"steps": len(found), "first_loss": round(found[0], 4), "on_the_cpu": round(expected, 4),
            "steps_s": round(time.perf_counter() - begin, 3)}  # fmt: skip


def sync_bn(here: Here) -> dict[str, Any]:
    """Statistics of all processes by one NCCL (gloo) rank, ours and torch's: values and gradients of nn.BatchNorm2d."""
    import torch
    import torch.distributed as dist
    from torch.nn.modules._functions import SyncBatchNorm

    from nas_zoo.runs.distributed import _NormalizeGlobally

    backend = "nccl" if here.on_gpu else "gloo"
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 6, 5, 5, generator=generator) * 2 + 3
    slopes = torch.randn(8, 6, 5, 5, generator=generator).to(here.device)

    def passes(normalize: Callable[[Any, Any, Any], Any], layout: Any) -> list[Any]:
        leaves = [x.to(here.device, memory_format=layout), torch.linspace(0.5, 1.5, 6), torch.linspace(-1, 1, 6)]
        leaves = [leaf.to(here.device).requires_grad_() for leaf in leaves]
        y = normalize(*leaves)
        return [y.detach(), *torch.autograd.grad((y * slopes).sum(), leaves)]

    def plain(x: Any, weight: Any, bias: Any) -> Any:
        return torch.nn.functional.batch_norm(x, None, None, weight, bias, True)

    def torchs(x: Any, weight: Any, bias: Any) -> Any:
        running = torch.zeros(6, device=here.device), torch.ones(6, device=here.device)
        return SyncBatchNorm.apply(x, weight, bias, *running, 1e-5, 0.1, dist.group.WORLD, 1)

    forms = {"ours": lambda *leaves: _NormalizeGlobally.apply(*leaves, 1e-5)[0]}
    if here.on_gpu:  # torch has none on a CPU
        forms["torch's"] = torchs
    largest = 0.0
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            for layout in (torch.contiguous_format, torch.channels_last):
                expected = passes(plain, layout)
                for name, form in forms.items():
                    for got, right in zip(passes(form, layout), expected, strict=True):
                        difference = float((got - right).abs().max())
                        largest = max(largest, difference)
                        if difference > 1e-3:
                            raise AssertionError(f"{name} differs from nn.BatchNorm2d by {difference:.1e} ({layout})")
        finally:
            dist.destroy_process_group()
    return {"backend": backend, "forms": ", ".join(forms), "largest_difference": f"{largest:.1e}"}


def resumed(here: Here, program: str) -> dict[str, Any]:
    """A run that one iteration began on the CPU ends on the device."""
    out = here.folder / f"resumed-{program}"
    flags = SMALL | {"epochs": 1, "train_limit": 96}
    if program == "train":
        flags |= {"model": "cell_net_cifar", "recipe": "quick", "warmup_epochs": 0}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in flags.items()]
    if (out / "checkpoint.pt").exists():  # of a smoke before this one
        out = Path(tempfile.mkdtemp(dir=here.folder))
    on_cpu = {"ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    nas_zoo([program, *words, f"--out={out}", "--time-budget=0.0001"], on_cpu)
    if (out / ("genotype.json" if program == "search" else "result.json")).exists():
        raise AssertionError("the run on the CPU did not stop at its time budget")
    told = nas_zoo([program, "--resume", f"--out={out}"], {} if here.on_gpu else on_cpu)
    if "resumed at epoch 1, iteration 1 of" not in told:
        raise AssertionError(f"not resumed: {told[-500:]}")
    line = json.loads((out / "log.jsonl").read_text().splitlines()[1])
    if not math.isfinite(line["train"]["loss"]):
        raise AssertionError(f"the loss is {line['train']['loss']}")
    return {"from": "cpu", "to": here.device.type, "loss": round(line["train"]["loss"], 4)}


def nas_zoo(words: list[str], environment: dict[str, str]) -> str:
    """What a program of the package prints; an error where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "nas_zoo.cli", *words], env=os.environ | environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=300, check=False,
    )  # fmt: skip
    print(done.stdout)
    if done.returncode:
        raise AssertionError(f"nas-zoo {words[0]} ended with {done.returncode}: {done.stdout[-500:]}")
    return done.stdout


def onnx(here: Here, provider: str, cuda_graphs: bool = False) -> dict[str, Any]:
    """A small file on ONNX Runtime's provider, tensors bound where they lie, against the CPU; three batch sizes."""
    import numpy as np
    import timm
    import torch

    import nas_zoo  # noqa: F401 (registers the models)
    from nas_zoo.export.graph.to_onnx import export_onnx
    from nas_zoo.export.runtime.classifier import OnnxClassifier, ProviderError, provider_problems

    if not here.on_gpu and (cuda_graphs or provider == "tensorrt"):
        raise LeftOut("there is no GPU")
    path = here.folder / "small.onnx"
    if not path.exists():
        torch.manual_seed(0)
        export_onnx(timm.create_model("cell_net_cifar", init_channels=4, num_cells=3), path)
    expected = OnnxClassifier(path, batch_size=4)
    if here.on_gpu and (problems := provider_problems(provider)):
        raise LeftOut("; ".join(problems))
    try:
        given: dict[str, Any] = {"provider": provider if here.on_gpu else "cpu", "batch_size": 4, "tf32": False}
        if provider == "tensorrt":
            given["tensorrt_cache"] = here.folder / "engines"
        elif cuda_graphs:
            given["cuda_graphs"] = True
        classifier = OnnxClassifier(path, **given)
    except ProviderError as error:
        if "missing libraries" in str(error):
            raise LeftOut(str(error)) from error
        raise
    largest = 0.0
    for count in (4, 1, 9, 4, 4):
        x = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(count))
        result = classifier.run(x.to(here.device))
        if result.device.type != here.device.type:
            raise AssertionError(f"the result lies on {result.device}")
        largest = max(largest, float(np.abs(result.cpu().numpy() - expected.logits(x)).max()))
    if not largest <= (2e-2 if provider == "tensorrt" else 1e-3):
        raise AssertionError(f"logits differ from the CPU's by {largest:.1e}")
    return {"provider": classifier.provider, "cuda_graphs": cuda_graphs, "largest_difference": f"{largest:.1e}"}


def timed(here: Here, method: str) -> dict[str, Any]:
    """Seconds of an iteration and their ratio to the least it could cost (benchmarks/search_step.py)."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import search_step

    here.accelerator(here.on_gpu)
    words = ["--method", method]
    if here.on_gpu:
        cells = 20 if method in ("edas", "alpha_max", "edas_settled") else 8
        words += ["--num-cells", str(cells), "--draws", "4", "--repeats", "2"]
    else:
        words += ["--num-cells", "3", "--init-channels", "4", "--batch-size", "2", "--draws", "1", "--repeats", "1"]
    found = search_step.measured(search_step.parse(words))
    names = ("iteration_s", "floor_s", "reference_s", "time_ratio", "iteration_gb", "memory_ratio", "images_per_s", "n",
             "num_cells", "init_channels", "batch_size")  # fmt: skip
    return {name: found[name] for name in names if name in found}


def all_pieces() -> dict[str, Callable[[Here], dict[str, Any]]]:
    """Every piece by name, in the order of worth."""
    from functools import partial

    from nas_zoo.search.method import METHODS

    return {
        **{f"step:{method}": partial(a_step, method=method) for method in METHODS},
        "train": a_training,
        "bf16:edas": partial(a_step, method="edas", precision="bf16"),
        "bf16:darts": partial(a_step, method="darts", precision="bf16"),
        "bf16:train": partial(a_training, precision="bf16"),
        "sync_bn": sync_bn,
        "resume:search": partial(resumed, program="search"),
        "resume:train": partial(resumed, program="train"),
        "onnx:cuda": partial(onnx, provider="cuda"),
        "onnx:cuda_graphs": partial(onnx, provider="cuda", cuda_graphs=True),
        **{f"time:{method}": partial(timed, method=method) for method in METHODS},
        "compile:train": partial(a_training, compiled=True),
        "onnx:tensorrt": partial(onnx, provider="tensorrt"),
    }


# The process of the pieces --------------------------------------------------------------------------------------------


def machine(here: Here) -> dict[str, Any]:
    """What stands with every figure, the command aside."""
    import torch

    from nas_zoo.runs.facts import run_facts

    facts = run_facts(here.device)
    versions = facts["versions"] | {"torch": torch.__version__}
    driver = None
    if here.on_gpu:
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
            driver = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    names = ("device", "device_name", "cpu_count", "threads", "commit")
    return {name: facts[name] for name in names} | {"driver": driver, "versions": versions}


def work(names: list[str], folder: Path) -> int:
    """The pieces one after the other, a JSON line each; ends after one that fails."""
    out, sys.stdout = sys.stdout, sys.stderr
    here = Here(folder)
    facts = machine(here)
    pieces = all_pieces()
    for name in names:
        begin = time.perf_counter()
        print(f"--- {name}", flush=True)
        line: dict[str, Any] = {"piece": name}
        try:
            line |= {"state": "ok", "figures": pieces[name](here)}
        except LeftOut as reason:
            line |= {"state": "left out", "reason": str(reason)}
        except Exception as error:  # whatever goes wrong is what we are here to tell
            traceback.print_exc()
            line |= {"state": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        print(json.dumps(line | {"seconds": round(time.perf_counter() - begin, 2), **facts}), file=out, flush=True)
        if line["state"] == "failed":
            return 1
    return 0


# The program ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def worker(names: list[str], options: argparse.Namespace) -> Iterator["queue.Queue[str | None]"]:
    """A process at these pieces, and the lines that it prints, None at their end; with its children it ends here."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if options.device == "cpu":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    lines: queue.Queue[str | None] = queue.Queue()
    command = [sys.executable, __file__, "--worker", f"--out={options.out}", "--pieces", *names]
    with open(options.out / "pieces.log", "a") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, start_new_session=True
        )
    assert process.stdout is not None
    source = process.stdout

    def read() -> None:
        for line in source:
            lines.put(line)
        lines.put(None)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield lines
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        source.close()


def outcomes(names: list[str], options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line for each piece that has ended, however it did; stops where the time is over."""
    waiting, deadline = list(names), options.started + options.time_budget
    while waiting and time.monotonic() < deadline:
        with worker(waiting, options) as lines:
            begun = time.monotonic()
            limit = options.piece_seconds + options.start_seconds
            while waiting:
                most = min(limit, deadline - time.monotonic())
                try:
                    text = lines.get(timeout=max(0.0, most))
                except queue.Empty:
                    if time.monotonic() >= deadline:
                        return
                    text = None
                if text is None:  # it hangs, or a signal has ended it
                    why = f"no end after {limit:.0f} s" if time.monotonic() - begun >= limit else "its process died"
                    yield {"piece": waiting.pop(0), "state": "failed", "reason": f"{why}: OUT/pieces.log"}
                    break
                line = json.loads(text)
                waiting.remove(line["piece"])
                yield line
                if line["state"] == "failed":
                    break
                begun, limit = time.monotonic(), options.piece_seconds


def shown(lines: Iterable[dict[str, Any]]) -> str:
    """For people: piece, how it ended, seconds, figures or reason."""
    from nas_zoo.text import table

    rows = []
    for line in lines:
        figures = ", ".join(f"{name} {value}" for name, value in line.get("figures", {}).items())
        rows.append({"piece": line["piece"], "ended": line["state"], "s": line.get("seconds"),
                     "figures": figures or line.get("reason")})  # fmt: skip
    return table(rows)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/smoke"), help="folder (default: runs/smoke)")
    parser.add_argument("--pieces", nargs="+", metavar="NAME", help="some of the pieces (default: all)")
    parser.add_argument("--resume", action="store_true", help="without those that passed, by OUT/smoke.jsonl")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: not the GPU that there is")
    parser.add_argument("--time-budget", type=float, default=500.0, help="seconds in all (default: 500)")
    parser.add_argument("--piece-seconds", type=float, default=150.0, help="seconds of one piece (default: 150)")
    parser.add_argument("--start-seconds", type=float, default=60.0, help="and of a start of the process (default: 60)")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    options.started = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    if options.worker:
        return work(options.pieces, options.out)
    sys.path.insert(0, str(ROOT))
    known = list(all_pieces())
    if unknown := [name for name in options.pieces or () if name not in known]:
        print(f"gpu_smoke: there is no piece {unknown[0]!r}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    record = options.out / "smoke.jsonl"
    lines: list[dict[str, Any]] = []
    if options.resume and record.exists():
        lines = [line for line in map(json.loads, record.read_text().splitlines()) if line["state"] == "ok"]
    passed = {line["piece"] for line in lines}
    names = [name for name in options.pieces or known if name not in passed]
    words = sys.argv[1:] if argv is None else argv
    parts = [word.rpartition("=") for word in words]  # of a path the last part, as in a run's log
    given = [start + equals + (value.rpartition("/")[2] or value) for start, equals, value in parts]
    command = " ".join(["python benchmarks/gpu_smoke.py", *given])
    with open(record, "a") as file:
        for line in outcomes(names, options):
            line |= {"command": command}
            lines.append(line)
            print(json.dumps(line), flush=True)
            print(json.dumps(line), file=file, flush=True)
    ended = {line["piece"] for line in lines}
    facts = next((line for line in lines if "device_name" in line), None)
    if facts is not None:
        versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        print(f"\n{facts['device_name']}, driver {facts['driver']}, {versions}, commit {facts['commit']}")
    print(shown(lines))
    counts = {state: sum(line["state"] == state for line in lines) for state in ("ok", "failed", "left out")}
    print(f"{counts['ok']} ok, {counts['failed']} failed, {counts['left out']} left out; {record}")
    if late := [name for name in names if name not in ended]:
        print(f"not run, the time was over: {' '.join(late)}\ngo on with: {command} --resume")
    if facts is not None and facts["device"] == "cpu":
        print("this was a CPU: nothing here says what a GPU does")
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
