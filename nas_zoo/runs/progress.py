"""How far long work has come: a bar with the time that is left on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from nas_zoo.runs.distributed import is_first

__all__ = ["EVERY_S", "progressing"]

T = TypeVar("T")

#: Between two lines of a log, and before the first.
EVERY_S = 60.0


def progressing(items: Iterable[T], words: str, total: int) -> Iterator[T]:
    """The items, while it is told on stderr how many of them are done and how long the others will take.

    On a terminal that is a bar, which comes after two seconds and is gone at the end; elsewhere a line a minute. Of
    several processes the first one tells. TQDM_DISABLE=1 hides either.

    Args:
        words: What is done: "evaluating".
        total: How many items there are.
    """
    told = sys.stderr.isatty()
    with tqdm(desc=words, total=total, unit="batch", delay=2, leave=False, disable=None if is_first() else True) as bar:
        begin = last = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if not told and done and now - last >= EVERY_S and is_first():
                left = tqdm.format_interval((now - begin) / done * (total - done))
                print(f"{words}: {done} of {total}, about {left} left", file=sys.stderr, flush=True)
                last = now
            yield item
            bar.update()
