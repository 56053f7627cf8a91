"""What the search's own weights are worth: training the derived network from them and from scratch.

    python benchmarks/own_weights.py --data digits --epochs 1 3

Prints one JSON line: an EDAS search, then for each derivation rule ('darts': two edges a node; 'argmax': every edge,
which is the network the search has trained) and each number of epochs the accuracy on the test split, from scratch and
from the search's weights, with one recipe (quick, without warm-up of the learning rate and without moving average,
which short runs leave unsettled). EDAS, section 6: "capable of training meaningful weights in the search stage".
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from nas_zoo.runs.facts import run_facts
from nas_zoo.search import EdasSettings, search
from nas_zoo.train import TrainSettings, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--test-data", help="where the data set has no test split of its own")
    parser.add_argument("--search-epochs", type=int, default=8)
    parser.add_argument("--num-cells", type=int, default=5)
    parser.add_argument("--init-channels", type=int, default=8)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = {"num_cells": options.num_cells, "init_channels": options.init_channels}
    common = {"data": options.data, "seed": options.seed}
    rows = []
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stdout(sys.stderr):
        folder = Path(name) / "search"
        last = search(EdasSettings(epochs=options.search_epochs, out=folder, **common, **size)).history[-1]
        for rule in ("darts", "argmax"):
            files = [folder / f"{name}.safetensors" for name in (f"derived_{rule}", "derived")]
            starts: dict[str, dict[str, Any]] = {
                "scratch": {"genotype": str(folder / f"genotype_{rule}.json"), **size},
                "own_weights": {"init_weights": next(file for file in files if file.exists())},
            }
            for epochs in options.epochs:
                row: dict[str, object] = {"rule": rule, "epochs": epochs, "before": last[rule]}
                for start, begins in starts.items():
                    settings = TrainSettings.from_recipe(
                        "quick", model="cell_net_cifar", epochs=epochs, warmup_epochs=0, ema_decay=0.0,
                        test_data=options.test_data, out=Path(name) / f"{rule}-{epochs}-{start}", **common, **begins,
                    )  # fmt: skip
                    result = train(settings)
                    row[start] = result.top1
                rows.append(row)
    assert result.figures is not None
    facts = run_facts()
    print(json.dumps({
        "data": options.data, "search_epochs": options.search_epochs, "supernet": last["supernet"], "rows": rows,
        "test_n": result.figures["n"], "seeds": 1, "device": facts["device_name"], "threads": options.threads,
        "versions": {k: v for k, v in facts["versions"].items() if k in ("python", "torch", "nas-zoo")},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
