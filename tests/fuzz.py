"""Seeded bad input for a reader: real samples, damaged. Whatever comes, a reader may raise its clean error only.

problems = problems_of(read, mutated([sample, other], 1000, seed=0))
assert problems == []
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Spliced into samples: what parsers stumble over.
TOKENS = (
    *(bytes([character]) for character in b"\0\n\xff'\"\\()[]{}:,=#|~"), b"", b"\xed\xa0\x80", b"\x1b[31m",
    b"-1", b"1e999", b"-0.0", b"NaN", b"null", b"None", b"true", b"[[", b"((", b"...", b"**x", b"lambda: 0", b"9" * 30,
    b"9" * 5000, b"[" * 300, b"{'a':" * 300, b"(" * 3000,
)  # fmt: skip


def mutated(samples: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` damaged copies of the samples, the same for the same seed."""
    chance = random.Random(seed)
    for _ in range(count):
        data = chance.choice(samples)
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            data = _damaged(data, samples, chance)
        yield data


def overwrite(path: Path, data: bytes) -> None:
    """Path.write_bytes for thousands of inputs: opening a file to cut it off takes milliseconds on some systems."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def _damaged(data: bytes, samples: Sequence[bytes], chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    end = min(len(data), start + chance.choice((0, 1, 1, 2, 4, 16, 256)))
    kind = chance.randrange(8)
    if kind == 0:  # cut off
        return data[:start]
    if kind == 1:  # a piece lost
        return data[:start] + data[end:]
    if kind == 2:  # a piece twice
        return data[:end] + data[start:]
    if kind == 3:  # a bit flipped
        flipped = bytes([data[start] ^ 1 << chance.randrange(8)]) if start < len(data) else b""
        return data[:start] + flipped + data[start + 1 :]
    if kind == 4:  # random bytes
        return data[:start] + chance.randbytes(end - start) + data[end:]
    if kind == 5:  # the end of another
        other = chance.choice(samples)
        return data[:start] + other[chance.randint(0, len(other)) :]
    if kind == 6:  # another number
        numbers = list(re.finditer(rb"\d+", data[start : start + 1000]))
        if numbers:
            match = chance.choice(numbers)
            number = str(chance.choice((0, 1, 2, 5, 7, 9, 99, 2**31, 2**63, 10**30))).encode()
            return data[: start + match.start()] + number + data[start + match.end() :]
    return data[:start] + chance.choice(TOKENS) + data[end:]


def problems_of(
    read: Callable[[Any], object], inputs: Iterable[Any], clean: type[Exception] = ValueError, at_most_s: float = 10
) -> list[str]:
    """What is wrong with how the reader takes the inputs.

    Another error than the clean one, one of several lines or that cannot be printed, an input that takes longer than so
    many seconds, or no input refused at all.
    """
    problems = []
    refused = 0
    for number, value in enumerate(inputs):
        begin = time.perf_counter()
        problem = ""
        try:
            read(value)
        except clean as error:
            refused += 1
            text = str(error)
            if not text or not text.isprintable():  # a line feed, a terminal's escapes, half a character
                problem = f"words that are no line to print: {text!r:.300}"
        except Exception as error:
            problem = f"{type(error).__name__}: {error!s:.300}"
        if time.perf_counter() - begin > at_most_s:
            problem += f" (took {time.perf_counter() - begin:.1f} s)"
        if problem:
            problems.append(f"input {number} {value!r:.200}: {problem}")
    return problems if refused else [*problems, "no input was refused"]
