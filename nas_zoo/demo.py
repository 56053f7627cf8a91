"""The whole way once, for real, on scikit-learn's handwritten digits: search, cells, retraining, ONNX, prediction.

Everything is computed by the same programs that search on CIFAR-10; only the sizes differ.
"""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["run_demo"]

SEARCH = {
    "data": "digits",
    "epochs": "12",
    "num_cells": "5",
    "init_channels": "8",
    "batch_size": "64",
    "eval_size": "0",
}
TRAIN = {"data": "digits", "recipe": "quick", "epochs": "20"} | {
    "model": "cell_net_cifar",
    "init_channels": "8",
    "num_cells": "5",
}
MARK = "demo.json"


def _flags(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", value)]


def _run(name: str, main: Callable[[list[str]], int], words: list[str]) -> float:
    """Seconds; a program that fails has said why."""
    print(f"\n== nas-zoo {name} {' '.join(words)}", flush=True)
    start = time.monotonic()
    code = main(words)
    if code:
        raise ValueError(f"`nas-zoo {name}` ended with exit code {code}")
    return time.monotonic() - start


def run_demo(out: Path, seed: int = 0, overwrite: bool = False) -> dict[str, Any]:
    """Runs the demo into a folder and prints one table; returns it.

    Raises:
        ValueError: Where the folder holds anything already (an earlier demo goes with ``overwrite``).
    """
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]):
        if not (out / MARK).exists():
            raise ValueError(f"out={str(out)!r}: holds something that is no demo; another --out begins anew")
        if not overwrite:
            raise ValueError(f"out={str(out)!r}: holds an earlier demo; --overwrite replaces it")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    from nas_zoo.runs.files import write_json

    write_json(out / MARK, {})  # an interrupted demo is one that --overwrite may replace, too
    print("Importing PyTorch, timm and ONNX Runtime takes some seconds ...", flush=True)

    import torch

    from nas_zoo import load_genotype
    from nas_zoo.data.named import open_source
    from nas_zoo.export.cells.draw import draw_genotype
    from nas_zoo.export.graph.check import check_onnx, summary
    from nas_zoo.export.graph.onnx_file import export_onnx
    from nas_zoo.export.graph.real_images import RealImages
    from nas_zoo.export.runtime.classifier import OnnxClassifier
    from nas_zoo.models.load import load_model
    from nas_zoo.runs.log import RunLog
    from nas_zoo.search import run
    from nas_zoo.train import run as train

    # Tensors of 8 x 8 pixels gain nothing from a second thread, and lose much where another program has the core.
    torch.set_num_threads(1)
    start = time.monotonic()
    seconds = {"search": _run("search", run.main, [*_flags(SEARCH), "--seed", str(seed), "--out", str(out / "search")])}
    last = RunLog.read(out / "search")[-1]
    drawings = [draw_genotype(load_genotype(out / "search"), out / f"cells.{kind}", title="EDAS on digits")
                for kind in ("svg", "png")]  # fmt: skip
    found = ["--genotype", str(out / "search" / "genotype.json"), "--seed", str(seed), "--out", str(out / "train")]
    seconds["train"] = _run("train", train.main, [*_flags(TRAIN), *found])
    result = json.loads((out / "train" / "result.json").read_text())

    print(f"\n== export {out / 'model.onnx'}, and check it on held-out digits", flush=True)
    begin = time.monotonic()
    model = load_model(str(out / "train"))
    path = export_onnx(model, out / "model.onnx")
    source = open_source("digits", "test")
    classifier = OnnxClassifier(path, provider="auto")
    held_out = RealImages("held-out digits", [source.image(i) for i in range(len(source))], source.labels)
    report = check_onnx(path, model, held_out)
    print(summary(report))
    seconds["export and check"] = time.monotonic() - begin

    begin = time.monotonic()
    predictions = classifier.predict([source.image(i) for i in range(len(source))], top_k=1)
    right = sum(p.labels[0] == source.classes[y] for p, y in zip(predictions, source.labels, strict=True))
    seconds["predict"] = time.monotonic() - begin
    images = out / "images"
    images.mkdir()
    for i in range(10):
        label = source.classes[source.labels[i]]
        Image.fromarray(source.image(i)[:, :, 0]).save(images / f"{i}-is-{label}.png")
    print("\n== nas-zoo predict: ten held-out images")
    for file, prediction in classifier.predict_folder(images, top_k=1):
        print(f"{file.name}: {prediction.labels[0]} ({100 * prediction.probabilities[0]:.1f}%)")

    held = last["held_out"]
    derived = held["derived"]
    table = {
        "supernet_accuracy": held["supernet"],
        "derived_argmax_accuracy": derived["argmax"],
        "derived_darts_accuracy": derived["darts"],
        "search_held_out_n": held["n"],
        "retrained_accuracy": result["top1"],
        "onnx_accuracy": right / len(source),
        "test_n": result["n"],
        "parameters": result["parameters"],
        "onnx_bytes": path.stat().st_size,
        "largest_difference": report["largest_difference"],
        "provider": classifier.provider,
        "seconds": {name: round(value, 1) for name, value in seconds.items()}
        | {"all": round(time.monotonic() - start, 1)},
    }
    write_json(out / MARK, table)

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    rows = [
        ("supernet before derivation", percent(held["supernet"]), f"{held['n']} held-out training images"),
        ("after, rule 'argmax' (what was trained)", percent(derived["argmax"]), "same images, same weights"),
        ("after, rule 'darts' (two edges a node)", percent(derived["darts"]), "same images, same weights"),
        ("retrained network", percent(result["top1"]),
         f"{result['n']} test images, {result['parameters']:,} parameters"),
        (f"ONNX file on {classifier.provider}", percent(table["onnx_accuracy"]),
         f"{path.stat().st_size / 1e6:.2f} MB, differs by {report['largest_difference']:.1e} at most"),
        ("seconds", f"{table['seconds']['all']:.0f}",
         ", ".join(f"{name} {value:.0f}" for name, value in seconds.items())),
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    print("\n" + "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in rows))
    print("\nWhere it lies:")
    for what, place in (
        ("cells", out / "search" / "genotype.json"), ("drawing", drawings[1]),
        ("log of the search", out / "search" / "log.jsonl"), ("network", out / "train" / "model.safetensors"),
        ("ONNX", path), ("images", images), ("this table", out / MARK),
    ):  # fmt: skip
        print(f"  {what:<18} {place}")
    return table
