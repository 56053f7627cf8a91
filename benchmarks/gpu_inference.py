"""Inference on a GPU, checked and timed: eager, torch.compile and ONNX Runtime's CUDA provider, float32 and float16.

    python benchmarks/gpu_inference.py --model edas_c10 --json gpu.json --csv gpu.csv
    python benchmarks/gpu_inference.py --model runs/edas_c10 --data cifar10 --channels-last --cuda-graphs
    python benchmarks/gpu_inference.py --device cpu --num-cells 3 --init-channels 4 --batches 1 2 --runtimes eager onnx

First parity: what each of them gives for the same images against float32 PyTorch on the CPU (largest difference of a
logit, part of the images with the same class), with and without TF32; a difference beyond the tolerance ends with exit
code 1, after everything has been measured. Then latency and images a second at each batch size
(nas_zoo.export.runtime.bench).
`--device cpu` goes the same way without a GPU and says nothing about one. A model without weights is given random ones
and statistics as after a training.

A machine with a GPU and no way out. onnxruntime-gpu's wheel (hundreds of MB) can be larger than one transfer to it may
be. It can be carried in parts, and must have its full name again before pip takes it:

    pip download --no-deps --dest wheels onnxruntime-gpu            # here
    cd wheels && sha256sum onnxruntime_gpu-*.whl > sum && split -b 48M onnxruntime_gpu-*.whl part.
    cat part.* > "$(awk '{print $2}' sum)" && sha256sum -c sum       # there, after the parts and `sum` have arrived
    pip install --no-deps onnxruntime_gpu-*.whl

It wants the libraries of CUDA 13 and cuDNN 9, which torch's CUDA build brings; else 'onnxruntime-gpu[cuda,cudnn]'.
"""

import argparse
import contextlib
import copy
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import timm
import torch
from torch import nn

from nas_zoo.export.graph.onnx_file import export_onnx, plain_copy
from nas_zoo.export.graph.real_images import real_images
from nas_zoo.export.graph.variants import float16_variant, to_bytes
from nas_zoo.export.runtime.bench import RUNTIMES, bench_model, write_csv
from nas_zoo.export.runtime.classifier import OnnxClassifier, provider_problems
from nas_zoo.models.load import load_model
from nas_zoo.runs.ending import program
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import write_json
from nas_zoo.text import table

DTYPES = {"float32": torch.float32, "float16": torch.float16}
#: Largest accepted difference of a logit from float32 on the CPU, times the largest logit where that is above 1.
ACCEPTED = {("float32", False): 1e-3, ("float32", True): 2e-2, ("float16", False): 5e-2, ("float16", True): 5e-2}


def lively(model: nn.Module) -> nn.Module:
    """The model with BatchNorm statistics and a classifier as after a training, so that its logits say something."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    classifier: Any = model.classifier
    with torch.no_grad():
        classifier.weight.normal_(generator=generator)
    return model


def named(options: argparse.Namespace) -> nn.Module:
    size = {key: getattr(options, key) for key in ("num_cells", "init_channels") if getattr(options, key) is not None}
    if Path(options.model).is_dir() or ":" in options.model:
        return load_model(options.model, **size)
    if not timm.is_model(options.model):
        raise ValueError(f"model {options.model!r}: `nas-zoo list` shows ours; a folder or hf-hub:ORG/NAME goes too")
    return lively(timm.create_model(options.model, **size).eval())


@contextlib.contextmanager
def tf32_is(allowed: bool) -> Iterator[None]:
    """PyTorch's products with TF32 or without, then as before."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def batched(call: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, batch: int) -> np.ndarray:
    with torch.inference_mode():
        parts = [call(x[i : i + batch]).float().cpu() for i in range(0, len(x), batch)]
    logits: np.ndarray = torch.cat(parts).numpy()
    return logits


def parity(
    model: nn.Module, files: dict[str, Path], x: torch.Tensor, device: torch.device, runtimes: list[str], batch: int
) -> list[dict[str, Any]]:
    """One row a runtime, dtype and TF32 setting: how far from float32 PyTorch on the CPU."""
    expected = batched(plain_copy(model), x, batch)
    largest = float(np.abs(expected).max())
    rows = []
    for dtype, file in files.items():
        for tf32 in (False, True) if device.type == "cuda" else (False,):
            for runtime in runtimes:
                with tf32_is(tf32):
                    if runtime == "onnx":
                        classifier = OnnxClassifier(file, provider=device.type, batch_size=batch, tf32=tf32)
                        got = batched(classifier.run, x.to(device), batch)
                    else:
                        network: Any = copy.deepcopy(model).eval().to(device, DTYPES[dtype])
                        if runtime == "compile":
                            torch.compiler.reset()
                            network = torch.compile(network)
                        got = batched(network, x.to(device, DTYPES[dtype]), batch)
                accepted = ACCEPTED[dtype, tf32] * max(1.0, largest)
                difference = float(np.abs(got - expected).max()) if np.isfinite(got).all() else float("inf")
                rows.append(
                    {
                        "runtime": runtime,
                        "dtype": dtype,
                        "tf32": tf32,
                        "largest_difference": difference,
                        "accepted": accepted,
                        "top1_agreement": float((got.argmax(1) == expected.argmax(1)).mean()),
                        "largest_logit": largest,
                        "n": len(x),
                        "ok": difference <= accepted,
                    }
                )
    return rows


def measure_all(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    if device.type == "cuda":
        problems = [] if torch.cuda.is_available() else ["torch sees no CUDA device"]
        problems += provider_problems("cuda") if "onnx" in options.runtimes else []
        if problems:
            raise ValueError(
                f"no GPU to measure on: {'; '.join(problems)} (--device cpu goes the same way without one)"
            )
    model = named(options)
    cfg: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    size = (model.in_chans, *cfg["input_size"][1:])
    with tempfile.TemporaryDirectory() as folder:
        print("exporting to ONNX", file=sys.stderr, flush=True)
        files = {"float32": export_onnx(model, Path(folder) / "float32.onnx")}
        files["float16"] = Path(folder) / "float16.onnx"
        files["float16"].write_bytes(to_bytes(float16_variant(onnx.load(files["float32"]))))
        if options.data is None:
            images, x = "noise", torch.randn(options.images, *size, generator=torch.Generator().manual_seed(0))
        else:
            found = real_images(options.data, in_chans=size[0], limit=options.images)
            reader = OnnxClassifier(files["float32"])
            images, x = found.name, torch.from_numpy(np.stack([reader.preprocess(image) for image in found.images]))
        print(f"parity on {len(x)} images ({images})", file=sys.stderr, flush=True)
        rows = parity(model, files, x, device, options.runtimes, min(64, len(x)))
        timings = []
        for dtype, file in files.items():
            timings += bench_model(
                model, name=Path(options.model).name, input_size=size, batches=options.batches,
                runtimes=options.runtimes, onnx_files=[file], device=device, dtype=dtype, threads=options.threads,
                channels_last=options.channels_last, compile_mode=options.compile_mode,
                cuda_graphs=options.cuda_graphs, warmup_s=options.warmup_s, min_s=options.min_s,
                progress=lambda words: print(words, file=sys.stderr, flush=True),
            )  # fmt: skip
    settings = {key: getattr(options, key) for key in ("channels_last", "compile_mode", "cuda_graphs")}
    return {"facts": run_facts(device), "settings": settings, "images": images, "parity": rows, "timings": timings}


def shown(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Those columns for people, numbers with four digits."""
    return table([{c: f"{row[c]:.4g}" if isinstance(row[c], float) else row[c] for c in columns} for row in rows])


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="edas_c10", help="name of `nas-zoo list`, a run's folder, hf-hub:ORG/NAME")
    parser.add_argument("--num-cells", type=int)
    parser.add_argument("--init-channels", type=int)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64, 512])
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--data", help="real images for the parity: cifar10, digits, a folder (default: noise)")
    parser.add_argument("--images", type=int, default=256, help="how many (default: 256)")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--channels-last", action="store_true", help="of eager and compile")
    parser.add_argument("--compile-mode", help="of torch.compile: reduce-overhead, max-autotune")
    parser.add_argument("--cuda-graphs", action="store_true", help="in ONNX Runtime")
    parser.add_argument("--warmup-s", type=float, default=1.0)
    parser.add_argument("--min-s", type=float, default=2.0)
    parser.add_argument("--json", type=Path, help="file for everything")
    parser.add_argument("--csv", type=Path, help="file for the timings")
    return parser.parse_args(argv)


@program("gpu_inference")
def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    found = measure_all(options)
    if options.json is not None:
        write_json(options.json, found)
    if options.csv is not None:
        write_csv(options.csv, found["timings"])
    print(json.dumps(found["facts"]))
    print(shown(found["parity"], ("runtime", "dtype", "tf32", "largest_difference", "accepted", "top1_agreement", "n")))
    print(shown(found["timings"], ("runtime", "dtype", "batch", "median_ms", "p10_ms", "p90_ms", "images_per_s",
                                   "peak_memory_gb")))  # fmt: skip
    wrong = [row for row in found["parity"] if not row["ok"]]
    for row in wrong:
        print(
            f"gpu_inference: {row['runtime']} in {row['dtype']} differs by {row['largest_difference']:.2e}, more than "
            f"{row['accepted']:.2e}",
            file=sys.stderr,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
