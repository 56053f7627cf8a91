"""What the search's own weights are worth: training the derived network from them and from scratch.

    python benchmarks/own_weights.py --data digits --epochs 1 3

Prints one JSON line: an EDAS search, then for each derivation rule ('darts': two edges a node; 'argmax': every edge,
which is the network the search has trained) and each number of epochs the accuracy on the test split, from scratch and
from the search's weights, with one recipe (quick, without warm-up of the learning rate and without moving average,
which short runs leave unsettled). EDAS, section 6: "capable of training meaningful weights in the search stage".
"""

import argparse
import contextlib
import io
import json
import tempfile
from pathlib import Path

import torch

from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.log import RunLog
from nas_zoo.search import run
from nas_zoo.train import run as train


def call(main, words: list[str]) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = main(words)
    if code:
        raise SystemExit(printed.getvalue())


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
    size = ["--num-cells", str(options.num_cells), "--init-channels", str(options.init_channels)]
    common = ["--data", options.data, "--seed", str(options.seed)]
    test = ["--test-data", options.test_data] if options.test_data else []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        searched = [*common, *size, "--epochs", str(options.search_epochs), "--out", str(folder / "search")]
        call(run.main, searched)
        last = RunLog.read(folder / "search")[-1]
        rows = []
        for rule, stem in (("darts", "derived"), ("argmax", "derived_argmax")):
            weights = folder / "search" / f"{stem}.safetensors"
            genotype = folder / f"{rule}.json"
            genotype.write_text(json.dumps(last["genotype"][rule]))
            for epochs in options.epochs:
                row: dict[str, object] = {"rule": rule, "epochs": epochs, "before": last["held_out"]["derived"][rule]}
                for start, flags in (
                    ("scratch", ["--model", "cell_net_cifar", "--genotype", str(genotype), *size]),
                    ("own_weights", ["--model", "cell_net_cifar", "--init-weights", str(weights)]),
                ):
                    out = folder / f"{rule}-{epochs}-{start}"
                    recipe = ["--recipe", "quick", "--epochs", str(epochs), "--warmup-epochs", "0", "--ema-decay", "0"]
                    call(train.main, [*common, *test, *flags, *recipe, "--out", str(out)])
                    row[start] = json.loads((out / "result.json").read_text())["top1"]
                rows.append(row)
        n = json.loads((out / "result.json").read_text())["n"]
    facts = run_facts()
    print(
        json.dumps(
            {
                "data": options.data,
                "search_epochs": options.search_epochs,
                "supernet": last["held_out"]["supernet"],
                "rows": rows,
                "test_n": n,
                "seeds": 1,
                "device": facts["device_name"],
                "threads": options.threads,
                "versions": {k: v for k, v in facts["versions"].items() if k in ("python", "torch", "nas-zoo")},
            }
        )
    )


if __name__ == "__main__":
    main()
