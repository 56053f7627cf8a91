"""The whole way once, for real, on scikit-learn's handwritten digits: search, retraining, ONNX, prediction, two pages.

Everything is computed by the same programs that search on CIFAR-10; only the sizes differ, and with them alpha's
learning rate: Adam moves alpha by about that rate a step, and the paper takes thirty times as many steps.
"""

import json
import math
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

__all__ = ["run_demo"]

BOTH = {"data": "digits", "num_cells": "5", "init_channels": "8"}
SEARCH = BOTH | {"epochs": "16", "batch_size": "32", "eval_size": "0"}
TRAIN = BOTH | {"recipe": "quick", "epochs": "20", "model": "cell_net_cifar"}
#: Images in each half of the training images, which an epoch of the search sees once.
HALF = 719
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


def _iterations(epochs: int) -> int:
    return epochs * (HALF // int(SEARCH["batch_size"]))


def _alpha_lr(epochs: int) -> float:
    """Alpha's learning rate in so many epochs here, so that alpha can come as far as the paper's; at most 1.

    Adam moves alpha by about its learning rate a step: the paper's 0.025 in 25 epochs of 391 iterations (section 4.1).
    """
    return min(1.0, round(0.025 * 25 * 391 / _iterations(epochs), 3))


def how_far(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far a search has come, from the lines of its log.

    Returns:
        {"entropy": [before the first step, after the last], of softmax(alpha) in nats, mean over the edges of both
        cells; "changed": number of edges whose strongest operation is another one than after epoch 1; "edges": of how
        many; "moved": whether the entropy has halved and the cells are others than after epoch 1}
    """
    last = lines[-1]
    entropy = [math.log(len(last["operations"])), sum(last["entropy"].values()) / len(last["entropy"])]
    first, now = (
        [edge.index(max(edge)) for kind in line["alpha"].values() for edge in kind] for line in (lines[0], last)
    )
    changed = sum(before != after for before, after in zip(first, now, strict=True))
    moved = entropy[1] <= 0.5 * entropy[0] and lines[0]["found"] != last["found"]
    return {"entropy": entropy, "changed": changed, "edges": len(now), "moved": moved}


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
    from nas_zoo.export.publish import page as publish
    from nas_zoo.export.runtime.classifier import OnnxClassifier
    from nas_zoo.models.load import load_model
    from nas_zoo.runs.log import RunLog
    from nas_zoo.search import run
    from nas_zoo.search.report import page as report
    from nas_zoo.train import run as train

    # Tensors of 8 x 8 pixels gain nothing from a second thread, and lose much where another program has the core.
    torch.set_num_threads(1)
    start, processor = time.monotonic(), sum(os.times()[:4])
    epochs = int(SEARCH["epochs"])
    alpha_lr = _alpha_lr(epochs)
    print(
        f"\nA demo setting: alpha's learning rate is {alpha_lr:g}, so that in {_iterations(epochs)} iterations "
        "alpha can come about as far as with the paper's 0.025 in 9,750.",
        flush=True,
    )
    setting = [*_flags(SEARCH | {"alpha_lr": f"{alpha_lr:g}"}), "--seed", str(seed)]
    seconds = {"search": _run("search", run.main, [*setting, "--out", str(out / "search")])}
    lines = [line for line in RunLog.read(out / "search") if "alpha" in line]
    last, way = lines[-1], how_far(lines)
    page = out / "report.html"
    seconds["report"] = _run("report", report.main, [str(out / "search"), "--output", str(page)])
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
    checked = check_onnx(path, model, held_out)
    print(summary(checked))
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
    site, shown = out / "page", [str(file) for file in sorted(images.iterdir())[: publish.MOST_EXAMPLES]]
    words = [str(out / "train"), "--name", "digits", "--to", str(site), "--examples", *shown]
    seconds["page"] = _run("page", publish.main, words)

    held = last["held_out"]
    derived = held["derived"]
    table = {
        "alpha_lr": alpha_lr,
        "search": way,
        "supernet_accuracy": held["supernet"],
        "derived_argmax_accuracy": derived["argmax"],
        "derived_darts_accuracy": derived["darts"],
        "search_held_out_n": held["n"],
        "retrained_accuracy": result["top1"],
        "onnx_accuracy": right / len(source),
        "test_n": result["n"],
        "parameters": result["parameters"],
        "onnx_bytes": path.stat().st_size,
        "largest_difference": checked["largest_difference"],
        "provider": classifier.provider,
        "seconds": {name: round(value, 1) for name, value in seconds.items()}
        | {"all": round(time.monotonic() - start, 1)},
        "processor_seconds": round(sum(os.times()[:4]) - processor, 1),
    }
    write_json(out / MARK, table)

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.2f} %"

    before, after = way["entropy"]
    rows = [
        ("entropy of alpha", f"{before:.2f} -> {after:.2f}", "nats, mean over the edges; at first all are alike"),
        ("edges with another operation", f"{way['changed']} of {way['edges']}", "than after the first epoch"),
        ("supernet before derivation", percent(held["supernet"]), f"{held['n']} held-out training images"),
        ("after, rule 'argmax' (what was trained)", percent(derived["argmax"]), "same images, same weights"),
        ("after, rule 'darts' (two edges a node)", percent(derived["darts"]), "same images, same weights"),
        ("retrained network", percent(result["top1"]),
         f"{result['n']} test images, {result['parameters']:,} parameters"),
        (f"ONNX file on {classifier.provider}", percent(table["onnx_accuracy"]),
         f"{path.stat().st_size / 1e6:.2f} MB, differs by {checked['largest_difference']:.1e} at most"),
        ("seconds", f"{table['seconds']['all']:.0f}",
         ", ".join(f"{name} {value:.0f}" for name, value in seconds.items()) + f"; of a processor: "
         f"{table['processor_seconds']:.0f}"),
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    print("\n" + "\n".join(f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c}" for a, b, c in rows))
    print(
        "\nChecked: the search has halved the entropy of alpha, and its cells are others than after the first epoch."
        if way["moved"] else
        "\nChecked, and wrong: the search has not moved; it must halve the entropy of alpha and change its first cells."
    )  # fmt: skip
    print("\nOpen in a browser:")
    print(f"  {'the search':<18} {page}")
    print(
        f"  {'the network':<18} python -m http.server --directory {shlex.quote(str(site))}    then http://localhost:8000"
    )
    print(f"  {'':<18} (it fetches ONNX Runtime for browsers: the browser needs the internet)")
    print("\nWhere it lies:")
    for what, place in (
        ("cells", out / "search" / "genotype.json"), ("drawing", drawings[1]),
        ("log of the search", out / "search" / "log.jsonl"), ("network", out / "train" / "model.safetensors"),
        ("ONNX", path), ("images", images), ("this table", out / MARK),
    ):  # fmt: skip
        print(f"  {what:<18} {place}")
    return table
