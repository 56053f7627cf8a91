"""Checkpoints of programs that can be stopped at any moment, and the other files that stand whole or not at all.

A checkpoint is an ordinary torch file (a zip archive that torch.load opens) whose zip comment holds the SHA-256 of
everything before it. So a file that was cut short or changed is told from a good one before anything in it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_zoo.runs.files import keep_as, read_bytes, replacing, type_name

__all__ = [
    "check_finite",
    "check_place",
    "load_checkpoint",
    "load_optimizer",
    "previous_path",
    "save_checkpoint",
    "taking_up",
]

_FORMAT = "nas-zoo/checkpoint"
_VERSION = 1
_MARK = b"nas-zoo sha256 "
_COMMENT_SIZE = len(_MARK) + 64  # a zip archive ends with its comment, and before it the comment's size in two bytes
_COMMENT_LENGTH = _COMMENT_SIZE.to_bytes(2, "little")


def previous_path(path: Path | str) -> Path:
    """Where save_checkpoint keeps the file that it replaces: last.pt -> last.previous.pt."""
    path = Path(path)
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path | str, state: Mapping[str, Any], kind: str) -> None:
    """`state` in a file that is either complete under `path` or not there; the one before it under previous_path.

    At no instant is there no good file: the new one is complete on disk under another name before anything is renamed.
    Needs room for three files and twice the state in memory. OSError in one line if the disk is full (what stood
    there stays); ValueError naming the entry that could not be loaded again (weights_only takes tensors, numbers,
    texts and plain containers of these, no NumPy scalars, no paths).
    """
    path = Path(path)
    _check_loadable(state, "state")
    buffer = io.BytesIO()
    torch.save({"format": _FORMAT, "version": _VERSION, "kind": kind, "state": dict(state)}, buffer)
    payload = buffer.getbuffer()
    assert payload[-2:] == b"\0\0", "torch.save wrote a zip archive with a comment of its own"
    digest = hashlib.sha256(payload).hexdigest().encode()

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            for part in (payload[:-2], _COMMENT_LENGTH, _MARK, digest):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
            if _is_whole(path):  # a damaged file must not take the place of the last good one
                keep_as(path, previous_path(path))
    except OSError as error:
        kept = "; the checkpoint that was there stays" if path.exists() else ""
        size = (len(payload) + _COMMENT_SIZE) / 1e6
        reason = str(error.strerror).removeprefix("cannot be written: ")
        raise OSError(error.errno, f"checkpoint {path} ({size:.1f} MB) not written: {reason}{kept}") from None


def load_checkpoint(path: Path | str, kind: str) -> dict[str, Any]:
    """The state that save_checkpoint was given, tensors on the CPU.

    Nothing in the file is run (weights_only). ValueError in one line for a file that is missing, cut short, changed,
    not from save_checkpoint, or of another kind or version; it names the checkpoint before it if that one is good.
    """
    path = Path(path)
    try:
        return _load(path, kind)
    except ValueError as error:
        previous = previous_path(path)
        try:
            _load(previous, kind)
        except ValueError:
            raise error from None
        raise ValueError(f"{error}; the one before it is good: {previous}") from None


def _load(path: Path, kind: str) -> dict[str, Any]:
    where = f"checkpoint {path}"
    try:
        data = read_bytes(path)
    except FileNotFoundError:
        raise ValueError(f"{where}: there is no such file") from None
    except OSError as error:
        raise ValueError(f"{where}: cannot be read: {error.strerror}") from None
    if not data:
        raise ValueError(f"{where}: is empty")
    comment = data[-_COMMENT_SIZE:]
    if not comment.startswith(_MARK) or data[-_COMMENT_SIZE - 2 : -_COMMENT_SIZE] != _COMMENT_LENGTH:
        what = "is cut short, or not written by nas-zoo" if data[:4] == b"PK\3\4" else "is no nas-zoo checkpoint"
        raise ValueError(f"{where}: {what} ({len(data)} bytes)")
    view = memoryview(data)
    digest = hashlib.sha256(view[: -_COMMENT_SIZE - 2])
    digest.update(b"\0\0")
    if digest.hexdigest().encode() != comment[len(_MARK) :]:
        raise ValueError(f"{where}: its content is not what was written (SHA-256 differs)")
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # of a forged file: whatever the reader stumbles over
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{where}: holds something else than tensors and plain values, not loaded: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{where}: is no nas-zoo checkpoint")
    if content.get("version") != _VERSION:
        raise ValueError(f"{where}: has version {content.get('version')!r}, this nas-zoo reads {_VERSION}")
    if content.get("kind") != kind:
        raise ValueError(f"{where}: is of kind {content.get('kind')!r}, needed is {kind!r}")
    state = content.get("state")
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ValueError(f"{where}: holds no state of a run")
    return state


_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def _check_loadable(value: Any, name: str) -> None:
    """ValueError naming the first entry that weights_only would refuse, now and not after days at the first resume."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, entry in value.items():
            if type(key) not in (str, int, bool, float):
                raise ValueError(f"{name} has the key {key!r} of type {type_name(type(key))}: take a text or a number")
            _check_loadable(entry, f"{name}[{key!r}]")
    elif kind in (list, tuple, set):
        for i, entry in enumerate(value):
            _check_loadable(entry, f"{name}[{i}]")
    elif kind not in _PLAIN and kind not in (Tensor, nn.Parameter, nn.Buffer):
        raise ValueError(
            f"{name} is a {type_name(kind)}, which a checkpoint cannot hold: take a tensor, a number, a text or a "
            "plain dict, list or tuple of these"
        )


def check_place(state: Mapping[str, Any], epochs: int, steps: int, num_sums: int) -> None:
    """ValueError where a run of so many epochs of so many iterations cannot stand where its checkpoint says.

    `num_sums`: how many figures of the epoch there are.
    """
    found: dict[str, Any] = {name: state.get(name) for name in ("epoch", "step", "seconds", "log_lines", "sums")}
    epoch, step, seconds, lines, sums = found.values()
    # All iterations of an epoch are done where its end, such as a look at held-out images, could not be reached.
    last = {"epoch": epochs, "step": 0 if epoch == epochs else steps, "log_lines": epochs + 1}
    for name, value in (("epoch", epoch), ("step", step), ("log_lines", lines)):
        if type(value) is not int or not 0 <= value <= last[name]:
            raise ValueError(
                f"the checkpoint's {name} must be a whole number from 0 to {last[name]}, got {_told(value)}"
            )
    if lines != epoch + 1:
        raise ValueError(f"the checkpoint of a run in epoch {epoch + 1} must have {epoch + 1} log_lines, got {lines}")
    if type(seconds) not in (int, float) or not 0 <= seconds < 1e12:
        raise ValueError(f"the checkpoint's seconds must be a number from 0, got {_told(seconds)}")
    if not isinstance(sums, Tensor) or sums.dtype != torch.float64 or sums.shape != (num_sums,):
        raise ValueError(f"the checkpoint's sums must be {num_sums} numbers of type float64, got {_told(sums)}")


def _told(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of type {str(value.dtype).removeprefix('torch.')}"
    text = ascii(value) if isinstance(value, (int, float, str, type(None))) else ""
    return text if 0 < len(text) <= 40 else f"a {type_name(type(value))}"


#: What optimizers keep as one number a parameter: torch's in tensors, timm's often without.
_NUMBERS = ("step", "mu_product", "exp_avg_lr_1", "exp_avg_lr_2")


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Takes up a saved state_dict; ValueError where it is not one of such an optimizer of these parameters."""
    own, saved = optimizer.state_dict()["param_groups"], state["param_groups"]
    if not isinstance(saved, list) or not all(isinstance(group, dict) for group in saved):
        raise ValueError(f"the checkpoint's optimizer has {_told(saved)} for its groups of parameters")
    try:
        optimizer.load_state_dict(dict(state))
    except ValueError as error:
        raise ValueError(f"the checkpoint's optimizer cannot be taken up: {error}") from None
    for before, now in zip(own, optimizer.state_dict()["param_groups"], strict=True):
        for name, value in before.items():
            if _sort_of(now.get(name)) != _sort_of(value):
                raise ValueError(f"the checkpoint's optimizer has {_told(now.get(name))} for {name}")
    names = {tuple(sorted(kept)) for kept in optimizer.state.values()}
    if len(names) > 1:
        raise ValueError("the checkpoint's optimizer does not hold the same of each parameter")
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            shape = torch.Size([]) if name in _NUMBERS else parameter.shape
            fits = isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()
            fits = fits or (name in _NUMBERS and _sort_of(value) == "number")
            if not fits and value is not None:
                raise ValueError(f"the checkpoint's optimizer has {_told(value)} for {name} of {_told(parameter)}")


def _sort_of(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_sort_of(entry) for entry in value]
    return "number" if type(value) in (int, float) and abs(value) < 1e15 else type(value)


@contextlib.contextmanager
def taking_up(kind: str) -> Iterator[None]:
    """Turns what a maimed state does to the program that takes it up into a ValueError of one line."""
    try:
        yield
    except (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"the checkpoint does not hold what {kind} writes into one ({reason})") from None


def _is_whole(path: Path) -> bool:
    """Whether the file ends as save_checkpoint ends one; reads its end only."""
    try:
        with open(path, "rb") as file:
            file.seek(-_COMMENT_SIZE, os.SEEK_END)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def _tensors(state: Any) -> Iterator[Tensor]:
    """All tensors in nested containers."""
    if isinstance(state, Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for entry in state.values() if isinstance(state, dict) else state:
            yield from _tensors(entry)


def check_finite(state: Any, where: str) -> None:
    """FloatingPointError where a tensor holds NaN or infinity, so that no such state becomes the last checkpoint."""
    floating: dict[torch.device, list[Tensor]] = {}  # optimizers count their steps on the CPU, wherever weights are
    for tensor in _tensors(state):
        if tensor.is_floating_point() and tensor.numel():
            floating.setdefault(tensor.device, []).append(tensor.detach())
    if not all(torch.stack(torch._foreach_norm(group)).isfinite().all() for group in floating.values()):
        raise FloatingPointError(f"weights that are not finite {where}; the last checkpoint is kept")
