"""Folders of small pictures to look at and to train on."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["picture", "write_folder"]


def picture(seed: int, size: int = 12) -> Image.Image:
    """Noise: no two seeds give the same."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def write_folder(root: Path, counts: Mapping[str, int], first: int = 0) -> Path:
    """PNG files of so many pictures in each folder, named by number, all different."""
    seed = first
    for folder, count in counts.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            picture(seed).save(root / folder / f"{number:03d}.png")
            seed += 1
    return root
