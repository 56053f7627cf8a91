"""How well the sum of measured pieces tells a network's latency: ten networks held out of the fit, of two shapes.

    python benchmarks/latency.py --out benchmarks/measured/latency.json --threads 1

Measures what is missing and keeps it after each step, so that it can be stopped and called again. The file holds all
times (the table) and, for each held-out network, the estimate and what ONNX Runtime took; the tests read it.
"""

import argparse
import json
from pathlib import Path

from nas_zoo.export.runtime.latency import Timer, conditions_here, measure_network, measure_table, random_cells
from nas_zoo.models.latency import LatencyTable, Shape
from nas_zoo.runs.files import write_json, write_text

SHAPES = (Shape("cifar", 16, 8, 10, (3, 32, 32)), Shape("imagenet", 24, 10, 10, (3, 160, 160)))
HELD_OUT = range(100, 110)  # seeds of cells; a fit is made on those from 0 on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="JSON file; NAME_table.json beside it is the table")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    path = options.out.with_name(f"{options.out.stem}_table.json")
    conditions = conditions_here("cpu", options.threads, 1)
    table = LatencyTable.read(path) if path.exists() else LatencyTable(conditions)
    rows = json.loads(options.out.read_text("utf-8"))["networks"] if options.out.exists() else []
    done = {(row["shape"], row["seed"]) for row in rows}
    timer = Timer()
    for shape in SHAPES:
        measure_table(table, shape, timer=timer, keep=lambda changed: write_text(path, changed.to_json()))
        for seed in HELD_OUT:
            if (str(shape), seed) in done:
                continue
            genotype = random_cells(seed)
            rows.append(
                {
                    "shape": str(shape),
                    "seed": seed,
                    "genotype": json.loads(genotype.to_json()),
                    "measured_ms": round(measure_network(genotype, shape, conditions, timer), 5),
                }
            )
            write_json(options.out, {"conditions": str(conditions), "networks": rows})
        errors = []
        for row in rows:
            if row["shape"] == str(shape):
                estimate = table.estimate(random_cells(row["seed"]), shape).ms
                errors.append(abs(estimate / row["measured_ms"] - 1))
                print(f"seed {row['seed']}  estimate {estimate:.3f} ms  measured {row['measured_ms']:.3f} ms")
        print(f"{shape}: mean error {sum(errors) / len(errors):.1%}, largest {max(errors):.1%}, n={len(errors)}")
    if (word := timer.word()) is not None:
        print(word)


if __name__ == "__main__":
    main()
