"""Which training images of a data set are held out to watch a run, and which are left out of it: a file of names.

    nas-zoo train --data photos --division out/division.json

A division says nothing of the test part: that is the data set's own, or the fifth that every program holds out of it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nas_zoo.data.sources import ImageSource

__all__ = ["Division", "image_names"]


def image_names(source: ImageSource) -> Sequence[str]:
    """What the images of a source are called: paths inside its place, or their numbers where they have none."""
    return source.files.names if source.files is not None else [str(i) for i in range(len(source))]


@dataclass(frozen=True)
class Division:
    """Names of training images, as ``image_names`` gives them."""

    val: tuple[str, ...] = ()  # held out; none where the data set has a val part of its own
    left_out: tuple[str, ...] = ()  # used for nothing
    data: str = ""  # for the reader, as is the seed
    seed: int = 0

    def of(self, parts: Mapping[str, ImageSource]) -> dict[str, ImageSource]:
        """The parts of a data set so divided; ValueError where the training part lacks a name of the division."""
        whole = parts["train"]
        names = np.array(image_names(whole), dtype=object)
        known = set(names.tolist())
        if lacking := [name for name in (*self.val, *self.left_out) if name not in known]:
            raise ValueError(
                f"division: {len(lacking)} of its images are not among the training images of {whole.name}, such as "
                f"{lacking[0]!r}; it was made for other data"
            )
        # numpy.isin compares each with each where they are objects
        held, out = (np.array([name in some for name in names]) for some in map(set, (self.val, self.left_out)))
        divided = dict(parts) | {"train": whole.subset(np.flatnonzero(~held & ~out))}
        if self.val:
            divided["val"] = dataclasses.replace(whole.subset(np.flatnonzero(held)), part="val/")
        return divided

    @classmethod
    def read(cls, path: Path | str) -> Division:
        """That in a file; ValueError where there is none."""
        try:
            record = json.loads(Path(path).read_text("utf-8"))
            lists = {key: tuple(record[key]) for key in ("val", "left_out")}
            if not all(isinstance(name, str) for names in lists.values() for name in names):
                raise ValueError("its names are no texts")
            return cls(**lists, data=str(record["data"]), seed=int(record["seed"]))
        except OSError as error:
            raise ValueError(f"division {str(path)!r}: {error.strerror or error}") from None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"division {str(path)!r} is none that `nas-zoo auto` wrote ({error})") from None
