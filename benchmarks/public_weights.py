"""Fetches the weights that others publish and measures them here, beside what their authors report.

    python benchmarks/public_weights.py --csv benchmarks/public_weights.csv
    python benchmarks/public_weights.py --only 'xnas*' --data-root ~/data

A row a file: wrong answers on the test images in percent, those that the authors report and of which epoch, and the
SHA-256 of what was fetched. Weights for CIFAR-10 and CIFAR-100 are measured (the images are downloaded if they are not
in the cache); of the others it is only tried whether they are there and convert. What cannot be had keeps its reason.
"""

import argparse
import csv
import fnmatch
import hashlib
import sys
from pathlib import Path

import timm
import torch

import nas_zoo  # noqa: F401  # registers
from nas_zoo.data.named import open_source
from nas_zoo.models.catalog import MODELS
from nas_zoo.models.download import fetch_public
from nas_zoo.models.public import PublicWeights, public_weights
from nas_zoo.train.evaluation import evaluate_model

COLUMNS = ("name", "measured_err", "reported_err", "reported_of", "images", "sha256", "why_not")
SETS = {"c10": "cifar10", "c100": "cifar100"}


def measure(row: PublicWeights, data_root: Path | None, batch_size: int) -> dict[str, object]:
    """The figures of one file; empty where there is nothing to measure it on."""
    model = timm.create_model(row.name, pretrained=True).eval()
    figures: dict[str, object] = {"sha256": hashlib.sha256(fetch_public(row).read_bytes()).hexdigest()}
    data = SETS.get(MODELS[row.model]["data"])
    if data is not None:
        source = open_source(data, "test", root=data_root, image_size=row.input_size[1])
        found = evaluate_model(model, source, batch_size=batch_size)
        figures |= {"measured_err": f"{100 - 100 * found['top1']:.2f}", "images": found["n"]}
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", type=Path, help="the table is written there too, row by row")
    parser.add_argument("--only", default="*", help="names, with * for any part of one")
    parser.add_argument("--data-root", type=Path, help="folder of cifar10 / cifar100 (default: the user's cache)")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, help="default: PyTorch's")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rows = [row for row in public_weights() if row.tag and fnmatch.fnmatch(row.name, options.only)]
    out = options.csv.open("w", newline="") if options.csv else None
    writers = [csv.DictWriter(file, COLUMNS, restval="") for file in (sys.stdout, out) if file is not None]
    for writer in writers:
        writer.writeheader()
    failed = 0
    for row in rows:
        reported = {"reported_err": row.reported_err or "", "reported_of": row.reported_of}
        try:
            figures = measure(row, options.data_root, options.batch_size)
        except ValueError as error:
            figures, failed = {"why_not": str(error)}, failed + 1
        for writer in writers:
            writer.writerow({"name": row.name} | reported | figures)
        for file in (sys.stdout, out):
            if file is not None:
                file.flush()
    if out is not None:
        out.close()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
