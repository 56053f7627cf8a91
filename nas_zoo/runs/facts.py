"""What a run was made with, and how a record of it is published: nothing in either tells of the machine or the user."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath
from typing import Any

import torch

from nas_zoo.runs import distributed

__all__ = ["begun_with", "cautions", "free_memory", "peak_memory_gb", "published", "published_log", "run_facts"]

_PACKAGES = ("nas-zoo", "torch", "torchvision", "timm", "accelerate", "numpy", "onnx", "onnxruntime-gpu")


def cautions(settings: Any, device: torch.device, processes: int) -> list[str]:
    """What a user should know of settings that were chosen, a sentence each."""
    told = []
    if device.type == "cpu" and settings.precision == "bf16":
        told.append("warning: precision bf16 is slower than fp32 on a CPU: 1.98 times where it was measured")
    if device.type == "cpu" and getattr(settings, "compile", False):
        told.append("warning: compile is slower than without on a CPU: 1.57 times where it was measured")
    if processes > 1 and settings.sync_bn and settings.precision == "fp32":
        told.append(
            "warning: sync_bn does what one process does but for the order of sums: in float32 two runs with other "
            "numbers of processes part after some ten iterations"
        )
    return told


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


def begun_with(folder: Path | str) -> dict[str, Any]:
    """``run_facts`` of when the run in a folder began; of a resumed one they may differ now."""
    facts = ("versions", "device", "device_name", "cpu_count", "threads", "processes", "commit", "command")
    with open(Path(folder) / "log.jsonl", encoding="utf-8") as file:
        head = json.loads(file.readline())
    return {name: head[name] for name in facts if name in head}


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
        import psutil  # which accelerate brings

        return psutil.Process().memory_info().peak_wset / 1e9
    import resource  # not there on Windows

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


#: What names on the Hub begin with.
_HUB = ("hf:", "hf-hub:", "hf_hub:")
_FOLDER = "local-dir:"  # of a model in a folder
#: Keys of settings, results and provenance whose value may be a path.
_PATH_KEYS = (
    "data", "test_data", "data_root", "division", "out", "init_weights", "genotype", "latency_table",
)  # fmt: skip


def free_memory() -> int | None:
    """Bytes that the system says a program may still take; None where it does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # no Linux
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)


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
    if keys[-1:] in (("model",), ("began_with",)) and record.startswith(_FOLDER):
        return _FOLDER + Path(record.removeprefix(_FOLDER)).name
    is_path = keys[-2:] == ("data", "name") or (keys and keys[-1] in _PATH_KEYS)
    return Path(record).name or record if is_path and not record.startswith(_HUB) else record


def published_log(lines: Iterable[Mapping[str, Any]]) -> str:
    """The text of log.jsonl (`lines` of RunLog.read) as it may be published."""
    return "".join(json.dumps(published(line), ensure_ascii=False) + "\n" for line in lines)


def _without_folders(word: str, *, relative: bool = True) -> str:
    """A word of a command line with the last part alone of a path in it, also behind "--flag=".

    A path on this machine (absolute, of somebody's home) is always cut; of another, which may say where to find the
    thing from here, only if `relative` is set. Names on the Hub are no paths.
    """
    if "," in word:  # several archives, operations from files: each a path of its own
        return ",".join(_without_folders(part, relative=relative) for part in word.split(","))
    start, equals, value = word.rpartition("=")
    if PureWindowsPath(value).is_absolute():  # with either stroke
        return start + equals + PureWindowsPath(value).name
    if value.startswith(_HUB) or not (relative or value.startswith(("/", "~"))):
        return word
    return start + equals + (value.rstrip("/").rpartition("/")[2] or value)
