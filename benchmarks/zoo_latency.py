"""Latency of the zoo's models on this machine, as a CSV that can be interrupted and gone on with.

    python benchmarks/zoo_latency.py --models 'darts_v2_*' --runtime eager onnx --threads 1
    python benchmarks/zoo_latency.py --csv benchmarks/zoo_latency.csv --threads 1 --batch 1     # all models

One row a model, runtime and batch size, as `nas-zoo bench` measures it: median, first and last decile, images a second,
peak memory beyond what the process held before, with device, threads and versions. Rows that the CSV has already, for
the same device, threads, versions and data type, are kept and not measured again; each new row is written at once. The
weights are random: they make no difference to the time.

    eager        the model in PyTorch, channels_last
    compile      torch.compile: a minute or more for every row on a CPU, hence only where asked for
    onnx         ONNX Runtime on the exported file
"""

import argparse
import csv
import gc
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from nas_zoo.export.runtime.bench import COLUMNS, bench_model, write_csv
from nas_zoo.models.catalog import MODELS
from nas_zoo.runs.ending import program

RUNTIMES = ("eager", "compile", "onnx")
#: What tells whether two rows are of the same measurement.
KEY = ("model", "runtime", "dtype", "batch", "device", "device_name", "threads", "versions")


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of an earlier run; none if there is no such file.

    Raises:
        ValueError: The file is not such a table.
    """
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(f"{path.name}: not a table of this program, whose columns are {', '.join(COLUMNS)}")
    return rows


def key(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(row[column]) for column in KEY)


def chosen(patterns: list[str]) -> list[str]:
    """Names of models that match one of the patterns, in the order of the zoo.

    Raises:
        ValueError: A pattern that matches none.
    """
    names: set[str] = set()
    for pattern in patterns:
        found = {name.split(".")[0] for name in timm.list_models(pattern)} & MODELS.keys()
        if not found:
            raise ValueError(f"models {pattern!r}: matches none of the {len(MODELS)} models of `nas-zoo list`")
        names |= found
    return [name for name in MODELS if name in names and not name.startswith("cell_net_")]


def measure_model(
    model: nn.Module, name: str, runtime: str, batches: list[int], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """A row for each batch size."""
    return bench_model(
        model,
        name=name,
        batches=batches,
        runtimes=[runtime],
        channels_last=runtime != "onnx",
        progress=say,
        **options,
    )


def say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def facts_of(options: dict[str, Any]) -> dict[str, Any]:
    """Device, threads and versions as the rows have them, from a row of the smallest network there is."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    row = bench_model(
        network, name="facts", input_size=(1, 2, 2), batches=[1], runtimes=["eager"],
        **(options | {"warmup_s": 0, "min_s": 0, "repeats": 1, "dtype": "float32"}),
    )[0]  # fmt: skip
    return {column: row[column] for column in ("device", "device_name", "threads", "versions")}


@program("zoo_latency")
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, default=Path("zoo_latency.csv"), help="read and gone on with if it exists")
    parser.add_argument("--models", nargs="+", default=["*"], metavar="GLOB", help="names of `nas-zoo list`")
    parser.add_argument("--runtime", nargs="+", default=["eager", "onnx"], choices=RUNTIMES)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", help="of all runtimes but onnx: float32, float16, bfloat16")
    parser.add_argument("--threads", type=int, help="of a CPU; default: torch's own number")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls at least")
    parser.add_argument("--min-s", type=float, default=1.0, help="timed calls go on for so long (s)")
    options = parser.parse_args()
    settings = {
        "device": options.device,
        "dtype": options.dtype,
        "threads": options.threads,
        "repeats": options.repeats,
        "min_s": options.min_s,
    }
    names = chosen(options.models)
    rows: list[dict[str, Any]] = [*read_rows(options.csv)]
    there = {key(row) for row in rows}
    facts = facts_of(settings)
    for i, name in enumerate(names):
        print(f"{i + 1} of {len(names)}: {name}", file=sys.stderr, flush=True)
        model: nn.Module | None = None
        for runtime in options.runtime:
            dtype = "float32" if runtime == "onnx" else options.dtype
            wanted = {"model": name, "runtime": runtime, "dtype": dtype, **facts}
            missing = [batch for batch in options.batch if key(wanted | {"batch": batch}) not in there]
            if not missing:
                continue
            if model is None:
                torch.manual_seed(0)
                model = timm.create_model(name).eval()
            rows += measure_model(model, name, runtime, missing, settings)
            write_csv(options.csv, rows)
            gc.collect()
    print(f"{options.csv}: {len(rows)} rows, {len(rows) - len(there)} of them new")
    return 0


if __name__ == "__main__":
    sys.exit(main())
