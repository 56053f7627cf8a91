"""A small net that the tests really train, for the tests of what is done with trained weights."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from nas_zoo.models.catalog import CIFAR10_CLASSES
from nas_zoo.train.run import main as train

ROOT = Path(__file__).parents[1]
#: Of the model that `copy_package` adds.
TINY = {"cell": "darts_v2", "data": "c10", "init_channels": 4, "num_cells": 3}


def write_images(folder: Path, per_class: int = 12) -> Path:
    """train/ and test/ folders of 16x16 pictures, classes named as CIFAR-10's and each of a colour of its own."""
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for number, name in enumerate(CIFAR10_CLASSES):
            (folder / split / name).mkdir(parents=True)
            color = np.array([number % 3, number // 3 % 3, number // 9]) * 100 + 20
            for i in range(per_class):
                noise = random.integers(-20, 20, (16, 16, 3))
                pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i:02d}.png")
    return folder


def train_tiny(images: Path, out: Path, seed: int = 0) -> Path:
    """The folder of a run of `nas-zoo train` that has ended: three narrow cells, four epochs."""
    words = ["--recipe", "quick", "--model", "cell_net_cifar", "--genotype", TINY["cell"], "--init-channels", "4",
             "--num-cells", "3", "--data", images, "--epochs", "4", "--batch-size", "20", "--lr", "0.05",
             "--warmup-epochs", "1", "--eval-every", "0", "--workers", "0", "--seed", seed, "--out", out]  # fmt: skip
    assert train([str(word) for word in words]) == 0
    return out


def copy_package(folder: Path) -> Path:
    """A copy of the package (search and export with it) in which tests may publish, with one more model, tiny_c10.

    Returns what PYTHONPATH needs: Python then finds the copy before the installed package.
    """
    place = folder / "nas_zoo"
    shutil.copytree(ROOT / "nas_zoo", place, ignore=shutil.ignore_patterns("__pycache__", "weights", "results"))
    table = place / "models" / "results.csv"
    table.write_text(table.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    models = json.loads((place / "models" / "models.json").read_text())
    (place / "models" / "models.json").write_text(json.dumps(models | {"tiny_c10": TINY}))
    return folder


def python(package: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A Python program that sees the copied package; its output as text."""
    import os

    env = {**os.environ, "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore", **environment}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=package, timeout=300)


def shell(package: Path, *words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`nas-zoo WORDS` of the copied package."""
    return python(package, "-c", "import sys; from nas_zoo.cli import main; sys.exit(main())", *words, **environment)
