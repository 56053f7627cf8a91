"""Whether two runs are one: a run that was stopped and went on against the run that never stopped."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from nas_zoo.runs.checkpoint import load_checkpoint


def assert_same_checkpoint(one: Path, other: Path, program: str) -> None:
    """Bit for bit what two run folders' checkpoints hold, but for times and where they are."""
    states = []
    for folder in (one, other):
        state = load_checkpoint(folder / "checkpoint.pt", program)
        state.pop("seconds")
        state["settings"] = {k: v for k, v in state["settings"].items() if k not in ("out", "time_budget")}
        states.append(dict(_flattened(state)))
    assert states[0].keys() == states[1].keys()
    for key, value in states[0].items():
        same = torch.equal(value, states[1][key]) if isinstance(value, torch.Tensor) else value == states[1][key]
        assert same, key


def _flattened(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _flattened(entry, f"{path}/{key}")
    elif isinstance(value, list | tuple):
        for i, entry in enumerate(value):
            yield from _flattened(entry, f"{path}/{i}")
    else:
        yield path, value
