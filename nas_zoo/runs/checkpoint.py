"""Long programs that can be stopped at any moment: checkpoints, stop requests, the log of a run, the facts of a run.

A checkpoint is an ordinary torch file (a zip archive that torch.load opens) whose zip comment holds the SHA-256 of
everything before it. So a file that was cut short or changed is told from a good one before anything in it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import math
import os
import pickle
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Literal, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from nas_zoo.runs import distributed

__all__ = [
    "Reason",
    "RunLog",
    "StopRequest",
    "check_finite",
    "load_checkpoint",
    "peak_memory_gb",
    "previous_path",
    "published",
    "published_log",
    "run_facts",
    "run_to_resume",
    "save_checkpoint",
    "write_json",
    "write_weights",
]

# ----------------------------------------------------------------------------------------------------- checkpoints

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

    # fixed names: what a killed process left is written over by the next one
    partial, link = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.link")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb", buffering=0) as file:
            for part in (payload[:-2], _COMMENT_LENGTH, _MARK, digest):
                _write_all(file.fileno(), part)
            os.fsync(file.fileno())
        if _is_whole(path):  # a damaged file must not take the place of the last good one
            _keep_as(path, link, previous_path(path))
        os.replace(partial, path)
        _sync_folder(path.parent)
    except OSError as error:
        for left in (partial, link):
            _remove(left)
        kept = "; the checkpoint that was there stays" if path.exists() else ""
        size = (len(payload) + _COMMENT_SIZE) / 1e6
        raise OSError(error.errno, f"checkpoint {path} ({size:.1f} MB) not written: {error.strerror}{kept}") from None


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
        data = path.read_bytes()
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
    except (pickle.UnpicklingError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{where}: holds something else than tensors and plain values, not loaded: {reason}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ValueError(f"{where}: is no nas-zoo checkpoint")
    if content.get("version") != _VERSION:
        raise ValueError(f"{where}: has version {content.get('version')!r}, this nas-zoo reads {_VERSION}")
    if content.get("kind") != kind:
        raise ValueError(f"{where}: is of kind {content.get('kind')!r}, needed is {kind!r}")
    state: dict[str, Any] = content["state"]
    return state


_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.Size, torch.dtype, torch.device)


def _check_loadable(value: Any, name: str) -> None:
    """ValueError naming the first entry that weights_only would refuse, now and not after days at the first resume."""
    kind = type(value)
    if kind in (dict, OrderedDict):
        for key, entry in value.items():
            if type(key) not in (str, int, bool, float):
                raise ValueError(f"{name} has the key {key!r} of type {_type_name(type(key))}: take a text or a number")
            _check_loadable(entry, f"{name}[{key!r}]")
    elif kind in (list, tuple, set):
        for i, entry in enumerate(value):
            _check_loadable(entry, f"{name}[{i}]")
    elif kind not in _PLAIN and kind not in (Tensor, nn.Parameter, nn.Buffer):
        raise ValueError(
            f"{name} is a {_type_name(kind)}, which a checkpoint cannot hold: take a tensor, a number, a text or a "
            "plain dict, list or tuple of these"
        )


def _type_name(kind: type) -> str:
    """A type's name with its module, `numpy.float64`; a builtin's without."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _is_whole(path: Path) -> bool:
    """Whether the file ends as save_checkpoint ends one; reads its end only."""
    try:
        with open(path, "rb") as file:
            file.seek(-_COMMENT_SIZE, os.SEEK_END)
            return file.read(len(_MARK)) == _MARK
    except OSError:
        return False


def _keep_as(path: Path, link: Path, previous: Path) -> None:
    """`path` also under the name `previous`, in one step."""
    _remove(link)
    try:
        os.link(path, link)
    except OSError:  # no hard links on this file system
        shutil.copyfile(path, link)
        with open(link, "rb") as file:
            os.fsync(file.fileno())
    os.replace(link, previous)
    _remove(link)  # rename does nothing when both are the same file already


def _remove(path: Path) -> None:
    # a leftover that stays is written over by the next save, and the first error is the one to tell
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_weights(path: Path | str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A .safetensors file that is either complete under `path` or not there; equal weights give equal bytes.

    Tensors may be on any device and in any memory format. The metadata have "format": "pt" as transformers wants it.
    """
    path = Path(path)
    # safetensors takes contiguous tensors only, which those of a channels_last model are not
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    data = safetensors.torch.save(plain, {"format": "pt", **(metadata or {})})
    # it writes the metadata in an order that changes from call to call
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "wb") as file:  # not save_file, whose files only their owner can read
        file.write(len(text).to_bytes(8, "little") + text + data[8 + size :])
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_json(path: Path | str, record: Mapping[str, Any]) -> None:
    """`record` as a JSON file that is either complete under `path` or not there. NaN and infinity become null."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with open(partial, "w", encoding="utf-8") as file:
        file.write(json.dumps(_json_value(record, "record"), indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


# --------------------------------------------------------------------------------------------------- stop requests

Reason = Literal["time budget", "SIGTERM", "SIGINT"]
_REASONS: tuple[Reason, ...] = ("time budget", "SIGTERM", "SIGINT")  # the later one wins between processes


class StopRequest:
    """A context in which SIGTERM, SIGINT (Ctrl-C) and a time budget ask for a stop instead of making one.

        with StopRequest(settings.time_budget_s, started=started) as stop:
            for step in ...:
                ...
                if reason := stop.agree(accelerator):
                    save_checkpoint(...)
                    break

    A second SIGINT kills at once. The budget is in seconds from `started` (a time.monotonic(), of the program's start;
    now if left out); the program stops at the first step that ends after it, so subtract what saving takes. Signals
    are handled only if the context is entered in the main thread (Python allows no other).
    """

    # torchrun hands a terminal's Ctrl-C on to processes that have had it from the terminal: that is not a second one
    _SAME_PRESS_S = 0.5

    def __init__(self, time_budget_s: float | None = None, *, started: float | None = None) -> None:
        if time_budget_s is not None and not time_budget_s >= 0:
            raise ValueError(f"time budget {time_budget_s!r} s: has to be 0 or more")
        self._deadline = math.inf
        if time_budget_s is not None:
            self._deadline = (time.monotonic() if started is None else started) + time_budget_s
        self._signal: Reason | None = None
        self._signalled = 0.0
        self._pid = os.getpid()
        self._old: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._pid = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        while self._old:
            number, old = self._old.popitem()
            # None: installed from C, Python cannot put it back
            signal.signal(number, signal.SIG_DFL if old is None else old)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked worker: it ends with its parent, not with the parent's Ctrl-C
            if number == signal.SIGTERM:
                _die_of(number)
            return
        now = time.monotonic()
        if number == signal.SIGINT and self._signal == "SIGINT" and now - self._signalled > self._SAME_PRESS_S:
            _die_of(number)
        if self._signal != "SIGINT":
            self._signal = "SIGINT" if number == signal.SIGINT else "SIGTERM"
            self._signalled = now
            if os.environ.get("RANK", "0") == "0":
                again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
                # not print: a handler may interrupt a print
                os.write(2, f"\n{self._signal}: stopping after this step{again}\n".encode())

    def reason(self) -> Reason | None:
        """Why this process is asked to stop, None if it is not. Other processes may answer otherwise: see agree."""
        if self._signal is not None:
            return self._signal
        return "time budget" if time.monotonic() >= self._deadline else None

    def should_stop(self) -> Reason | None:
        """The same as reason()."""
        return self.reason()

    def agree(self, processes: Any = None, device: torch.device | str | None = None) -> Reason | None:
        """The reason of any process, the same on all of them: all have to call it at the same step.

        `processes` is an Accelerator, or their number (with the device to communicate on); one all-reduce of an int,
        nothing for one process.
        """
        reason = self.reason()
        count = getattr(processes, "num_processes", processes)
        if count == 1 or distributed.world_size() == 1:
            return reason
        device = device if device is not None else getattr(processes, "device", "cpu")
        mine = 0 if reason is None else 1 + _REASONS.index(reason)
        agreed = int(distributed.max_over_processes(torch.tensor(mine, device=device)))
        return _REASONS[agreed - 1] if agreed else None


def _die_of(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


# ------------------------------------------------------------------------------------------------------------- log


class RunLog:
    """log.jsonl of a run: a first line of kind "run" (facts, settings), then one line of kind "epoch" for each epoch.

        log = RunLog(folder, writes=accelerator.is_main_process)
        log.start(to_dict(settings), run_facts(device), seed=settings.seed)      # a new run
        log.take_up(state["log_lines"], state["settings"], changeable=("out",))   # a resumed one
        log.append({"epoch": 3, "loss": 0.7, "seconds": 12.0})
        save_checkpoint(..., {"log_lines": log.num_lines, ...})

    The file holds nothing of a stop and a resume, so it equals that of the run that never stopped (but for seconds);
    such things go to events.jsonl with event(). Every line is on disk when the call returns. A last line that a killed
    process left half-written does not count and is cut off by the next write. NaN and infinity are written as null.
    """

    def __init__(self, folder: Path | str, *, writes: bool = True) -> None:
        self.path = Path(folder) / "log.jsonl"
        self.events_path = Path(folder) / "events.jsonl"
        self.writes = writes

    def start(
        self, settings: Mapping[str, Any], facts: Mapping[str, Any], *, overwrite: bool = False, **more: Any
    ) -> None:
        """Writes the first line. ValueError if the folder holds the log of a run already, unless overwrite is set."""
        if not self.writes:
            return
        if self.num_lines and not overwrite:
            raise ValueError(f"{self.path} holds the log of a run already: resume it or take another folder")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(b"")
        _append_line(self.path, {"kind": "run", **facts, "settings": dict(settings), **more})

    def append(self, record: Mapping[str, Any]) -> None:
        """One line; kind is "epoch" unless the record says otherwise."""
        if self.writes:
            _append_line(self.path, {"kind": "epoch", **record})

    def event(self, kind: str, **more: Any) -> None:
        """One line in events.jsonl with the time of day (UTC): started, resumed, stopped and why."""
        if self.writes:
            self.events_path.parent.mkdir(parents=True, exist_ok=True)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            _append_line(self.events_path, {"kind": kind, "time": now, **more})

    @property
    def num_lines(self) -> int:
        """Complete lines in log.jsonl, the first one included; 0 if there is no file."""
        return len(_line_ends(self.path))

    def take_up(self, num_lines: int, settings: Mapping[str, Any], *, changeable: Iterable[str] = ()) -> None:
        """Keeps the first num_lines lines: what was logged after the checkpoint is going to be logged again.

        ValueError, and nothing is cut, where the log is not that of the checkpoint's run: too short, or of other
        `settings` (those that are `changeable` aside).
        """
        if not self.writes:
            return
        ends = _line_ends(self.path)
        if not 1 <= num_lines <= len(ends):
            raise ValueError(
                f"{self.path} has {len(ends)} lines, the checkpoint was made after {num_lines}; a run goes on where "
                "its log.jsonl lies"
            )
        logged = self.read(self.path)[0].get("settings", {})
        for name in sorted(logged.keys() & settings.keys() - set(changeable)):
            if logged[name] != settings[name]:
                raise ValueError(
                    f"{self.path} is the log of another run: {name} is {logged[name]!r} there, in the checkpoint "
                    f"{settings[name]!r}"
                )
        with open(self.path, "rb+") as file:
            file.truncate(ends[num_lines - 1])
            os.fsync(file.fileno())

    @staticmethod
    def read(path: Path | str) -> list[dict[str, Any]]:
        """The lines of a log (the file or its folder) without a half-written last one. ValueError names a bad line."""
        path = Path(path)
        if path.is_dir():
            path = path / "log.jsonl"
        try:
            lines = path.read_bytes().split(b"\n")[:-1]  # behind the last newline: nothing, or half a line
        except OSError as error:
            raise ValueError(f"log {path}: cannot be read: {error.strerror}") from None
        records = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError:
                raise ValueError(f"log {path}, line {number}: is no JSON") from None
            if not isinstance(record, dict):
                raise ValueError(f"log {path}, line {number}: is no JSON object")
            records.append(record)
        return records


def run_to_resume(out: Path, resume: str | None, kind: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What there is to go on with: the run's settings and the contents of its checkpoint, each None where it has none.

    Args:
        out: Folder of the run.
        resume: None: a new run is wanted; "": that of the folder is to go on; else the checkpoint to go on from.
        kind: Of checkpoint.

    A run that was killed before its first checkpoint has settings in its log, and begins again with them.

    Raises:
        ValueError: A new run where one is already, nothing to resume, a checkpoint that cannot be read.
    """
    log, checkpoint = out / "log.jsonl", Path(resume or out / "checkpoint.pt")
    if resume is None:
        if log.exists():
            raise ValueError(f"out={out}: holds a run; --resume continues it, another --out starts one")
        return None, None
    if resume or checkpoint.exists():
        state = load_checkpoint(checkpoint, kind)
        return state["settings"], state
    if not log.exists():
        raise ValueError(f"out={out}: nothing to resume, it holds neither checkpoint.pt nor log.jsonl")
    return next((line["settings"] for line in RunLog.read(log)), None), None


def check_finite(tensors: Iterable[Tensor], where: str) -> None:
    """FloatingPointError where a tensor holds NaN or infinity, so that no such state becomes the last checkpoint."""
    floating = [tensor.detach() for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if floating and not torch.stack(torch._foreach_norm(floating)).isfinite().all():
        raise FloatingPointError(f"weights that are not finite {where}; the last checkpoint is kept")


def _line_ends(path: Path) -> list[int]:
    """Offset behind each newline; [] without a file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return []
    return [match.end() for match in re.finditer(b"\n", data)]


def _append_line(path: Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(_json_value(record, "record"), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    with open(path, "ab+", buffering=0) as file:
        ends = _line_ends(path)
        whole = ends[-1] if ends else 0
        if file.seek(0, os.SEEK_END) != whole:
            file.truncate(whole)
        try:
            _write_all(file.fileno(), line)
            os.fsync(file.fileno())
        except OSError as error:
            file.truncate(whole)
            raise OSError(error.errno, f"log {path}: line not written: {error.strerror}") from None


def _json_value(value: Any, name: str) -> Any:
    """`value` as JSON has it: NaN and infinity None, one-element tensors and NumPy scalars numbers, paths texts."""
    if isinstance(value, Mapping):
        return {str(key): _json_value(entry, f"{name}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(entry, f"{name}[{i}]") for i, entry in enumerate(value)]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # tensors and NumPy: numbers or nested lists
        return _json_value(value.tolist(), name)
    raise ValueError(f"{name} is a {_type_name(type(value))}, which a log line cannot hold")


# ----------------------------------------------------------------------------------------------------------- facts

_PACKAGES = ("nas-zoo", "torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime-gpu")


def run_facts(device: torch.device | str | None = None) -> dict[str, Any]:
    """What a run was made with, as JSON has it: versions, device, processors, processes, git commit, command line.

    Holds no host name, no user name and no absolute path (of a path in the command line the last part is kept), so it
    can be published. The device is the one given, else a GPU if there is one. The commit is None outside a checkout
    and ends in "-dirty" if tracked files are changed.
    """
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "versions": versions,
        "device": device.type,
        "device_name": name,
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "commit": _commit(),
        "command": _command(sys.argv),
    }


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.machine()


def _command(argv: list[str]) -> str:
    program, *words = argv or [""]
    return " ".join([os.path.basename(program), *(_without_folders(word, relative=False) for word in words)])


def _commit() -> str | None:
    here = Path(__file__).resolve()
    # a hook's GIT_DIR would answer for another repository
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here.parent, env=environment, capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # an install inside somebody else's checkout is not tracked there
        commit = git("rev-parse", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def peak_memory_gb(device: torch.device | str) -> float:
    """The most memory so far, in 1e9 bytes: allocated tensors on a GPU, resident memory of this process on a CPU."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    if sys.platform == "win32":
        raise ValueError("peak memory of a CPU run is not known on Windows")
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


# ------------------------------------------------------------------------------------------------------ publishing

#: Keys of settings, results and provenance whose value may be a path.
_PATH_KEYS = ("data", "test_data", "data_root", "out", "init_weights", "genotype")


def published(record: Any) -> Any:
    """A record of a run (a line of its log, its genotype.json) as it may be published: no folders of the machine.

    Of every path (the values that may be one, the data set's name, words of the command) the last part alone stays.
    """
    return _published(record, ())


def _published(record: Any, keys: tuple[str, ...]) -> Any:
    """`keys`: those that lead to this record from the whole one."""
    if isinstance(record, Mapping):
        return {key: _published(value, (*keys, key)) for key, value in record.items()}
    if isinstance(record, list):
        return [_published(value, ()) for value in record]
    if not isinstance(record, str):
        return record
    if keys[-1:] == ("command",):
        return " ".join(map(_without_folders, record.split(" ")))
    is_path = keys[-2:] == ("data", "name") or (keys and keys[-1] in _PATH_KEYS)
    return Path(record).name or record if is_path else record


def published_log(lines: Iterable[Mapping[str, Any]]) -> str:
    """The text of log.jsonl (`lines` of RunLog.read) as it may be published."""
    return "".join(json.dumps(published(line), ensure_ascii=False) + "\n" for line in lines)


def _without_folders(word: str, *, relative: bool = True) -> str:
    """A word of a command line with the last part alone of a path in it, also behind "--flag=".

    A path on this machine (absolute, of somebody's home) is always cut; of another, which may say where to find the
    thing from here, only if `relative` is set. Names on the Hub are no paths.
    """
    start, equals, value = word.rpartition("=")
    if value.startswith(("hf-hub:", "hf_hub:")) or not (relative or value.startswith(("/", "~"))):
        return word
    return start + equals + (value.rstrip("/").rpartition("/")[2] or value)
