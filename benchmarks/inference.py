"""Seconds of a network in its forms, against the plain layer-by-layer one: inference and a training step.

    python benchmarks/inference.py                             # darts_v2_c10 (C = 36, 20 cells), batch 1 and 64
    python benchmarks/inference.py --model pc_darts_in1k --batch 1 8 --no-training
    python benchmarks/inference.py --threads 2 --rounds 15 --json inference.json

The plain form is that of tests/plain_darts.py: each operation begins with its own ReLU, every BatchNorm is computed,
maps in PyTorch's usual order. The forms are run in turn, one call each a round, so that whatever else the machine does
meets all of them alike; a figure is the median over the rounds, with the first and last decile, and a ratio is the
median of the rounds' ratios to the plain form.

    plain, plain channels_last        tests/plain_darts.py
    ours, ours channels_last          the registered model
    onnx plain, onnx                  ONNX Runtime on the plain form's graph, and on the file that we export
"""

import argparse
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the reference among the tests

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.classifier import OnnxClassifier
from nas_zoo.models.network import CellNet
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import write_text
from tests.plain_darts import plain_copy


def in_turn(forms: dict[str, Callable[[], Any]], rounds: int, say: str) -> dict[str, dict[str, float]]:
    """Seconds of each form: median, deciles, and the ratio to the form named plain; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in forms}
    for i in range(rounds + 1):
        print(f"\r{say}: round {i} of {rounds}", end="", file=sys.stderr, flush=True)
        for name, call in forms.items():
            begin = time.perf_counter()
            call()
            if i:
                times[name].append(time.perf_counter() - begin)
    print(file=sys.stderr)
    plain = np.array(times["plain"])
    return {
        name: {
            "median_s": round(float(np.median(values)), 5),
            "p10_s": round(float(np.quantile(values, 0.1)), 5),
            "p90_s": round(float(np.quantile(values, 0.9)), 5),
            "ratio": round(float(np.median(np.array(values) / plain)), 3),
        }
        for name, values in times.items()
    }


def exported(model: CellNet, size: tuple[int, ...], folder: Path) -> dict[str, Path]:
    """ONNX files of the plain form and of the model."""
    files = {"onnx plain": folder / "plain.onnx", "onnx": folder / "ours.onnx"}
    for (name, file), network in zip(files.items(), (plain_copy(model), model), strict=True):
        print(f"{name}: exporting", file=sys.stderr)
        export_onnx(network, file, input_size=size, mean=[0.5] * size[0], std=[0.5] * size[0])
    return files


def inference(
    model: CellNet, size: tuple[int, ...], batch: int, rounds: int, files: dict[str, Path]
) -> dict[str, dict[str, float]]:
    """Seconds of one batch in each form; fails where the logits of two forms differ."""
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    last = x.to(memory_format=torch.channels_last)
    plain, ours = plain_copy(model), model
    plain_last, ours_last = (copy.deepcopy(one).to(memory_format=torch.channels_last) for one in (plain, ours))
    forms: dict[str, Callable[[], torch.Tensor]] = {
        "plain": lambda: plain(x),
        "plain channels_last": lambda: plain_last(last),
        "ours": lambda: ours(x),
        "ours channels_last": lambda: ours_last(last),
    }
    for name, file in files.items():
        session = OnnxClassifier(file, provider="cpu", threads=torch.get_num_threads(), batch_size=batch)
        forms[name] = lambda session=session: torch.as_tensor(session.logits(x))  # type: ignore[misc]
    with torch.inference_mode():
        expected = forms["plain"]()
        for name, call in forms.items():
            difference = float((call() - expected).abs().max() / expected.abs().max())
            assert difference < 1e-4, f"{name} gives other logits than plain, by {difference:.1e} of the largest"
        return in_turn(forms, rounds, f"inference, batch {batch}")


def training(model: CellNet, size: tuple[int, ...], batch: int, rounds: int) -> dict[str, Any]:
    """Seconds of one forward and backward pass."""
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))
    last = x.to(memory_format=torch.channels_last)
    labels = torch.arange(batch) % model.num_classes
    plain, ours = plain_copy(model).train(), copy.deepcopy(model).train()
    plain_last, ours_last = (copy.deepcopy(one).to(memory_format=torch.channels_last) for one in (plain, ours))

    def step(network: nn.Module, images: torch.Tensor) -> None:
        F.cross_entropy(network(images), labels).backward()
        network.zero_grad()

    forms: dict[str, Callable[[], Any]] = {
        "plain": lambda: step(plain, x),
        "plain channels_last": lambda: step(plain_last, last),
        "ours": lambda: step(ours, x),
        "ours channels_last": lambda: step(ours_last, last),
    }
    return in_turn(forms, rounds, f"training step, batch {batch}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="darts_v2_c10", help="a name of `nas-zoo list`")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64], help="batch sizes of the inference")
    parser.add_argument("--train-batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--train-rounds", type=int, default=3)
    parser.add_argument("--init-channels", type=int, help="default: the model's own")
    parser.add_argument("--num-cells", type=int, help="default: the model's own")
    parser.add_argument("--no-training", action="store_true")
    parser.add_argument("--no-onnx", action="store_true")
    parser.add_argument("--threads", type=int, help="default: torch's, which OMP_NUM_THREADS sets")
    parser.add_argument("--json", type=Path, help="file to write the result to, besides printing it")
    options = parser.parse_args()
    if min([*options.batch, options.train_batch, options.rounds, options.train_rounds]) < 1:
        parser.error("batch sizes and rounds must be at least 1")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    wanted = {"init_channels": options.init_channels, "num_cells": options.num_cells}
    model: Any = timm.create_model(options.model, **wanted).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # else folding would have nothing to fold
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    size = model.pretrained_cfg["input_size"]
    facts = run_facts(torch.device("cpu"))
    result: dict[str, Any] = {
        "model": options.model,
        "init_channels": model.init_channels,
        "num_cells": model.num_cells,
        "threads": torch.get_num_threads(),
        "facts": facts,
        "rounds": options.rounds,
        "inference": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        files = {} if options.no_onnx else exported(model, size, Path(folder))
        for batch in options.batch:
            result["inference"][batch] = inference(model, size, batch, options.rounds, files)
    if not options.no_training:
        result["train_rounds"] = options.train_rounds
        result["training"] = {options.train_batch: training(model, size, options.train_batch, options.train_rounds)}
    rows = [("inference", *item) for item in result["inference"].items()]
    rows += [("training step", *item) for item in result.get("training", {}).items()]
    print(f"{options.model}, {result['threads']} threads; seconds, and ratio to the plain form of the same run")
    for what, batch, forms in rows:
        for name, figures in forms.items():
            spread = f"{figures['p10_s']:.4g}..{figures['p90_s']:.4g}"
            seconds, ratio = figures["median_s"], figures["ratio"]
            print(f"{what:14} batch {batch:<4} {name:20} {seconds:9.4g} s  {spread:18} {ratio:6.3f}")
    text = json.dumps(result)
    if options.json:
        write_text(options.json, text + "\n")
    print(text)


if __name__ == "__main__":
    main()
