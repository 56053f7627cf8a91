"""Does the latency term of a search beat choosing the width alone? Accuracy over measured latency, two seeds.

    python benchmarks/latency_term.py --data train --test-data test --out runs/latency_term

n = 5,000 test images of CIFAR-10 (JPEG) at 16 pixels, the first 500 of each class, as are the folder of 5,000 training
images; one thread of a two-core AMD EPYC that a dozen other programs kept busy; some ten minutes of a core. For each
seed EDAS searches twice, freely and with the term, whose limit is three quarters of what the free search's cells are
estimated to take in a network of 32 channels and 5 cells. Four networks are then trained alike: both searches' cells
at 32 channels, the free ones at the greatest width that is not slower than the limited ones (3 %), and random cells at
32 channels, of a hundred those whose estimate is nearest to the limited ones'. All cells have eight edges. The exported
files are timed in turns by ONNX Runtime. What is done is kept, so the program can be stopped and called again;
benchmarks/latency_term.csv is what it wrote.
"""

import argparse
from pathlib import Path
from typing import Any

from torch import nn

from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.runtime.latency import Timer, conditions_here, measure_in_turns, measure_table, random_cells
from nas_zoo.genotype import Genotype
from nas_zoo.models.latency import Conditions, LatencyTable, Shape
from nas_zoo.models.load import load_model
from nas_zoo.models.network import CellNet
from nas_zoo.models.results import standard_error
from nas_zoo.models.table import in_csv
from nas_zoo.runs.files import write_text
from nas_zoo.search import SearchSettings, search
from nas_zoo.search.method import find_method
from nas_zoo.search.papers.scales import SCALES, searching
from nas_zoo.train import TrainResult, TrainSettings, train

SHAPE = Shape("cifar", 32, 5, 10, (3, 16, 16))
WIDTHS = range(8, 32, 4)
SHARE = 0.75  # of the free cells' estimate, which is the limit
LITTLE = {"eval_size": 200, "gap_batches": 0}  # of what an epoch of the search looks at
LIKE = {"epochs": 3, "warmup_epochs": 1, "train_limit": 3000, "image_size": 16, "eval_every": 0, "num_cells": 5,
        "ema_decay": 0.0}  # fmt: skip


def found(folder: Path, data: dict[str, Any], seed: int, **more: Any) -> Genotype:
    """The cells of an EDAS search at the scale "small" with eight edges a cell."""
    wanted = searching("edas", SCALES["small"], seed, derive="darts", train_limit=1600, epochs=5, **LITTLE)
    settings: SearchSettings = find_method("edas")[0](**wanted.settings, **data, **more, out=folder)
    genotype = search(settings, resume="auto").genotype
    assert genotype is not None
    return genotype


def trained(folder: Path, cells: Genotype, width: int, data: dict[str, Any], seed: int) -> TrainResult:
    """The network of these cells, trained as all are."""
    if (folder / "result.json").exists():
        return TrainResult.read(folder)
    path = folder.with_suffix(".json")
    write_text(path, cells.to_json())
    settings = TrainSettings.from_recipe(
        "quick", model="cell_net_cifar", genotype=str(path), init_channels=width, seed=seed, out=folder, **data, **LIKE
    )
    return train(settings, resume="auto")


def exported(model: nn.Module, path: Path) -> tuple[Path, tuple[int, ...]]:
    return export_onnx(model, path, input_size=SHAPE.input_size, mean=[0.5] * 3, std=[0.5] * 3), SHAPE.input_size


def widest(free: Genotype, limited: Genotype, conditions: Conditions, folder: Path) -> int:
    """The greatest width at which the free cells are not slower than the limited ones at that of SHAPE."""

    def made(cells: Genotype, width: int) -> tuple[Path, tuple[int, ...]]:
        path = folder / f"{cells.digest[:8]}_{width}.onnx"
        return exported(CellNet(cells, "cifar", width, SHAPE.num_cells, SHAPE.num_classes), path)

    limit, *times = measure_in_turns([made(limited, 32), *(made(free, width) for width in WIDTHS)], conditions)
    fit = [width for width, ms in zip(WIDTHS, times, strict=True) if ms <= 1.03 * limit]
    return max(fit, default=min(WIDTHS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="training images")
    parser.add_argument("--test-data", required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--csv", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    conditions = conditions_here("cpu", 1, 1)
    kept = out / "table.json"
    table = LatencyTable.read(kept) if kept.exists() else LatencyTable(conditions)
    timer = Timer(rounds=8, repeats=2)
    measure_table(table, SHAPE, timer=timer, keep=lambda changed: write_text(kept, changed.to_json()))
    data = {"data": options.data, "test_data": options.test_data}
    rows: list[dict[str, object]] = []
    for seed in (0, 1):
        free = found(out / f"free_{seed}", data, seed)
        limit = round(SHARE * table.estimate(free, SHAPE).ms, 4)
        target = {"target_channels": SHAPE.init_channels, "target_cells": SHAPE.num_cells}
        more: dict[str, Any] = {**target, "max_latency": limit, "latency_table": kept}
        limited = found(out / f"limited_{seed}", data, seed, **more)
        goal = table.estimate(limited, SHAPE).ms
        drawn = [random_cells(2 * number) for number in range(500 + 100 * seed, 600 + 100 * seed)]
        at_random = min(drawn, key=lambda cells: abs(table.estimate(cells, SHAPE).ms - goal))
        narrow = widest(free, limited, conditions, out)
        networks = {"free": (free, 32), "limited": (limited, 32), "free, narrower": (free, narrow),
                    "random, as fast": (at_random, 32)}  # fmt: skip
        files, results = [], []
        for name, (cells, width) in networks.items():
            folder = out / f"{name.replace(', ', '_').replace(' ', '_')}_{seed}_trained"
            results.append(trained(folder, cells, width, data, seed))
            files.append(exported(load_model(str(folder)), folder / "model.onnx"))
        times = measure_in_turns(files, conditions)
        for (name, (cells, width)), result, ms in zip(networks.items(), results, times, strict=True):
            assert result.figures is not None
            top1, n = result.figures["top1"], result.figures["n"]
            shape = Shape("cifar", width, SHAPE.num_cells, SHAPE.num_classes, SHAPE.input_size)
            rows.append(
                {
                    "seed": seed, "cells": name, "init_channels": width, "limit_ms": limit,
                    "predicted_ms": round(table.estimate(cells, shape).ms, 4) if width == 32 else "",
                    "measured_ms": round(ms, 4), "top1": top1, "n": n,
                    "standard_error": round(standard_error(top1, n), 5),
                    "parameters": result.figures["parameters"], "cells_hash": cells.digest,
                }
            )  # fmt: skip
            print(rows[-1], flush=True)
    write_text(options.csv, in_csv(rows))
    print(conditions, timer.word() or "", sep="; ")


if __name__ == "__main__":
    main()
