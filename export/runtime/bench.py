"""Times a model on this machine: PyTorch, torch.compile and ONNX Runtime, at several batch sizes.

    nas-zoo bench edas_c10 --threads 1 --csv bench.csv
    nas-zoo bench runs/digits --onnx digits.onnx digits_int8.onnx --runtime eager onnx --batch 1 8 64
    nas-zoo bench edas_c10 --runtime onnx --provider tensorrt --tensorrt-cache engines --tensorrt-fp16

Latency only: a model without weights is timed with random ones. Every figure is of repeated calls after a warm-up, the
median with the first and last decile beside it; two machines, or one that does other work meanwhile, do not compare.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import gc
import importlib.metadata
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from nas_zoo.export.graph.check import check_model, read_checked
from nas_zoo.export.graph.model import ModelSettings
from nas_zoo.export.graph.onnx_file import export_onnx
from nas_zoo.export.graph.variants import metadata_of
from nas_zoo.export.runtime.classifier import (
    MAX_THREADS,
    PROVIDERS,
    OnnxClassifier,
    provider_problems,
    raise_if_hopeless,
)
from nas_zoo.export.runtime.providers import GpuOptions, gpu_options
from nas_zoo.models.catalog import network_named, words_for_cells
from nas_zoo.models.count import require_memory
from nas_zoo.models.load import load_model, words_of
from nas_zoo.models.table import in_csv
from nas_zoo.runs.ending import program
from nas_zoo.runs.facts import run_facts
from nas_zoo.runs.files import write_text
from nas_zoo.runs.settings import (
    Parser,
    add_flags,
    given_flags,
    require,
    require_least,
    require_most,
    setting,
    settings_from,
)  # fmt: skip
from nas_zoo.text import counted, plain

__all__ = ["COLUMNS", "RUNTIMES", "BenchSettings", "Timing", "bench_model", "measure", "write_csv"]

RUNTIMES = ("eager", "compile", "onnx")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
#: of a row, in their order
COLUMNS = (
    "model", "runtime", "provider", "dtype", "batch", "median_ms", "p10_ms", "p90_ms", "images_per_s",
    "peak_memory_gb", "n", "first_call_s", "device", "device_name", "threads", "versions",
)  # fmt: skip


@dataclass(frozen=True)
class Timing:
    """Seconds a call: median, first and last decile, of n calls."""

    median_s: float
    p10_s: float
    p90_s: float
    n: int


def measure(
    call: Callable[[], Any],
    *,
    warmup_s: float = 0.5,
    min_s: float = 1.0,
    repeats: int = 10,
    synchronize: Callable[[], Any] | None = None,
) -> Timing:
    """The time of one call.

    Args:
        call: What is timed.
        warmup_s: Calls that do not count go on for so long; there is one at least.
        min_s: Calls that count go on for so long,
        repeats: and until there are so many.
        synchronize: Waits for the device, within what is timed and before it.
    """
    require(repeats >= 1, "repeats", repeats, "at least 1")
    for name, seconds in (("warmup_s", warmup_s), ("min_s", min_s)):
        require(0 <= seconds < math.inf, name, seconds, "a finite number of at least 0")

    def once() -> float:
        begin = time.perf_counter()
        call()
        if synchronize is not None:
            synchronize()
        return time.perf_counter() - begin

    if synchronize is not None:
        synchronize()
    start = time.perf_counter()
    once()
    while time.perf_counter() - start < warmup_s:
        once()
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < repeats or time.perf_counter() - start < min_s:
        times.append(once())
    p10, median, p90 = np.quantile(times, (0.1, 0.5, 0.9))
    return Timing(float(median), float(p10), float(p90), len(times))


def bench_model(
    model: nn.Module,
    *,
    name: str,
    input_size: Sequence[int] | None = None,
    batches: Sequence[int] = (1, 8, 64),
    runtimes: Sequence[str] = RUNTIMES,
    onnx_files: Sequence[Path] = (),
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    threads: int | None = None,
    compile_mode: str | None = None,
    channels_last: bool = False,
    cuda_graphs: bool = False,
    provider: str | None = None,
    cudnn_search: Literal["exhaustive", "heuristic", "default"] = "exhaustive",
    tensorrt_cache: Path | None = None,
    tensorrt_fp16: bool = False,
    warmup_s: float = 0.5,
    min_s: float = 1.0,
    repeats: int = 10,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """One row (see COLUMNS) a runtime and batch size, in their order; the model itself is left as it is.

    Args:
        name: Of the model, in the rows.
        input_size: (C, H, W); that of ``model.pretrained_cfg`` if None.
        runtimes: "eager", "compile" (compiles anew for each batch size, which takes a minute), "onnx".
        onnx_files: Files to time as "onnx"; none: the model is exported (float32) for it. The dtype of such a row is
            the file's.
        device: "cpu" or "cuda".
        dtype: Of eager and compile.
        threads: Of a CPU; None for as many as torch has.
        compile_mode: Of torch.compile, such as "reduce-overhead" (CUDA graphs) or "max-autotune".
        channels_last: The memory format of model and images in eager and compile.
        provider: Of ONNX Runtime, used or it is an error; that of the device's name if None.
        cuda_graphs, cudnn_search, tensorrt_cache, tensorrt_fp16: Of OnnxClassifier.
        warmup_s, min_s, repeats: See ``measure``.
        progress: Is told in words what is being timed.

    peak_memory_gb, in 1e9 bytes, is what loading and running took beyond what the process held before, weights
    included: device memory on a GPU, resident memory on a CPU (None where the system does not say). first_call_s is
    the time until the first result, with loading and compiling. Input and output stay on the device.

    Raises:
        ValueError: For an unknown runtime or dtype, sizes below 1, or a runtime that does not work here.
    """
    place = torch.device(device)
    for runtime in runtimes:
        require(runtime in RUNTIMES, "runtime", runtime, f"one of {', '.join(RUNTIMES)}")
    require(dtype in DTYPES, "dtype", dtype, f"one of {', '.join(DTYPES)}")
    require(len(batches) > 0 and min(batches) >= 1, "batch", tuple(batches), "numbers of at least 1")
    require(threads is None or threads >= 1, "threads", threads, "at least 1")
    require(threads is None or threads <= MAX_THREADS, "threads", threads, f"at most {MAX_THREADS}")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda': torch sees no CUDA device; `nas-zoo doctor` says what is missing")
    provider, gpu = provider or place.type, GpuOptions(cuda_graphs, cudnn_search, tensorrt_cache, tensorrt_fp16)
    require(provider in PROVIDERS, "provider", provider, f"one of {', '.join(PROVIDERS)}")
    if "onnx" in runtimes:
        gpu.check(provider)
        raise_if_hopeless(provider, cuda_graphs)
    if (provider == "cpu") != (place.type == "cpu"):
        raise ValueError(f"provider {provider!r} works on another device than device {place.type!r}")
    size = tuple(input_size or model.pretrained_cfg["input_size"])  # type: ignore[index]
    require(min(size) >= 1, "input_size", size, "numbers of at least 1")
    say = progress or (lambda _: None)
    for given in onnx_files:  # its times stand under the model's name, and do not depend on weights
        check_model(metadata_of(read_checked(Path(given))), model, Path(given).name, weights=False)
    rows: list[dict[str, Any]] = []
    with _threads(threads) as used, tempfile.TemporaryDirectory() as folder:
        facts = _facts(place, used)
        files: list[Path | None] = [None]
        if "onnx" in runtimes:
            files = list(onnx_files) or [_exported(model, size, Path(folder), say)]
        for runtime in runtimes:
            for file in files if runtime == "onnx" else [None]:
                for batch in batches:
                    say(f"{name}: {runtime}{f' {file.name}' if file else ''}, batch {batch}")
                    row = _one(
                        model, runtime, file, batch, size, place, dtype, used, compile_mode, channels_last,
                        provider, gpu, {"warmup_s": warmup_s, "min_s": min_s, "repeats": repeats},
                    )  # fmt: skip
                    row |= {"model": name, "runtime": runtime, "batch": batch, **facts}
                    rows.append({column: row[column] for column in COLUMNS})
    return rows


def write_csv(path: Path | str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """The rows as a CSV file that appears whole or not at all."""
    _check_csv(Path(path))
    write_text(path, in_csv([dict(row) for row in rows]))
    return Path(path)


def _check_csv(path: Path) -> None:
    require(not path.is_dir() and path.parent.is_dir(), "csv", path, "the name of a file in a folder that exists")


# One measurement ------------------------------------------------------------------------------------------------------


def _one(
    model: nn.Module,
    runtime: str,
    file: Path | None,
    batch: int,
    size: tuple[int, ...],
    device: torch.device,
    dtype: str,
    threads: int,
    compile_mode: str | None,
    channels_last: bool,
    provider: str,
    gpu: GpuOptions,
    effort: dict[str, Any],
) -> dict[str, Any]:
    if device.type == "cpu":
        require_memory(model, (size[0], size[1], size[2]), batch)
    memory = _Memory(device)
    begin = time.perf_counter()
    x = torch.randn(batch, *size, generator=torch.Generator().manual_seed(0)).to(device)
    call: Callable[[], Any]
    if file is not None:
        classifier = OnnxClassifier(file, provider, threads, batch, **gpu_options(gpu))
        dtype = classifier.dtype
        if classifier.batch_size < batch:
            raise ValueError(f"{file.name} takes batches of {classifier.batch_size} only, not of {batch} (--batch)")
        if classifier.takes_images:  # of the size that it works on, so that little is resized
            x = torch.from_numpy(np.stack([classifier.prepare(image) for image in _pixels(x)])).to(device)
        call = _onnx_call(classifier, x)
    else:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network: Any = copy.deepcopy(model).eval().requires_grad_(False)
        network = network.to(device, DTYPES[dtype], memory_format=layout)
        x = x.to(DTYPES[dtype], memory_format=layout)
        if runtime == "compile":
            _needs_compiler(device)
            torch.compiler.reset()  # else the ninth size is run uncompiled, with a warning
            try:
                network = torch.compile(network, dynamic=False, mode=compile_mode)
            except RuntimeError as error:  # of a mode that there is not
                raise ValueError(f"compile_mode {compile_mode!r}: {' '.join(str(error).split())}") from error
        call = _torch_call(network, x)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else None
    try:
        call()
    except Exception as error:  # torch.compile fails in many ways, out of memory is one of torch's and one of ORT's
        words = " ".join(str(error).split())[:300]
        raise ValueError(f"{runtime} at batch {batch} in {dtype} does not run here: {words}") from error
    if synchronize is not None:
        synchronize()
    first = time.perf_counter() - begin
    timing = measure(call, synchronize=synchronize, **effort)
    return {
        "provider": None if file is None else provider + (" fp16" if gpu.tensorrt_fp16 else ""),
        "dtype": dtype,
        "median_ms": _rounded(1e3 * timing.median_s),
        "p10_ms": _rounded(1e3 * timing.p10_s),
        "p90_ms": _rounded(1e3 * timing.p90_s),
        "images_per_s": _rounded(batch / timing.median_s),
        "n": timing.n,
        "first_call_s": _rounded(first),
        "peak_memory_gb": memory.taken_gb(),
    }


def _torch_call(network: Any, x: torch.Tensor) -> Callable[[], Any]:
    def call() -> torch.Tensor:
        with torch.inference_mode():
            return network(x)

    return call


def _onnx_call(classifier: OnnxClassifier, x: torch.Tensor) -> Callable[[], Any]:
    return lambda: classifier.run(x)


def _pixels(x: torch.Tensor) -> list[np.ndarray]:
    """uint8 images (H, W, C) that look like nothing."""
    pixels = (x.cpu() * 40 + 128).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
    return list(pixels.numpy())


def _exported(model: nn.Module, size: tuple[int, ...], folder: Path, say: Callable[[str], None]) -> Path:
    say("exporting to ONNX")
    # Mean and std of the file are not used here; a model made with another number of channels has none that fit.
    return export_onnx(model, folder / "model.onnx", input_size=size, mean=[0.5] * size[0], std=[0.5] * size[0])


def _needs_compiler(device: torch.device) -> None:
    if device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "cl"))):
        raise ValueError("runtime 'compile': torch.compile on a CPU needs a C++ compiler; there is no g++ or clang++")


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[int]:
    """Torch with so many threads, then as before; gives the number in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _facts(device: torch.device, threads: int) -> dict[str, Any]:
    facts = run_facts(device)
    # torch's own word, which tells for which CUDA it was built
    versions = {"torch": torch.__version__} | {name: _version(name) for name in ("onnxruntime-gpu", "onnxruntime")}
    if device.type == "cuda":
        versions["cuda"] = torch.version.cuda
        versions["cudnn"] = str(torch.backends.cudnn.version())
    return {
        "device": device.type,
        "device_name": facts["device_name"],
        "threads": threads,
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


class _Memory:
    """Memory that is taken from here on, at its peak."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None
        gc.collect()
        if device.type == "cuda":
            torch.cuda.init()
            torch.cuda.empty_cache()
            torch.cuda.synchronize(device)
            # What is free after the run tells the peak, since neither allocator gives back what it has had.
            self._before = self._used()
        else:
            self._before = self._resident("VmRSS") if self._reset() else None

    def taken_gb(self) -> float | None:
        after = self._used() if self._device.type == "cuda" else self._resident("VmHWM")
        if self._before is None or after is None:
            return None
        return round(max(0, after - self._before) / 1e9, 4)

    def _used(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free

    @staticmethod
    def _reset() -> bool:
        """Linux forgets the process's peak when it is asked to; other systems have no such thing."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # so that memory of an earlier run is not used again unseen
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return False
        return True

    @staticmethod
    def _resident(key: str) -> int | None:
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
        except OSError:
            return None
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


# Program --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchSettings(GpuOptions, ModelSettings):
    """The model and how it is timed"""

    onnx: tuple[Path, ...] = setting((), "ONNX files of it to time; none: it is exported for that")
    runtime: tuple[str, ...] | None = setting(None, "of eager, compile, onnx; none: all that work here")
    batch: tuple[int, ...] = setting((1, 8, 64), "batch sizes")
    device: str = setting("auto", "cpu, cuda, or auto: that of the provider, else the GPU if there is one")
    provider: Literal["cpu", "cuda", "tensorrt", "auto"] | None = setting(
        None, "of ONNX Runtime: cpu, cuda, tensorrt, or auto: the GPU if it works; none: as the device is called"
    )
    dtype: str = setting("float32", "of eager and compile: float32, float16 or bfloat16")
    threads: int | None = setting(None, "threads of a CPU; none: one a core")
    input_size: int | None = setting(None, "side of an image", unit="pixels")
    compile_mode: str | None = setting(None, "of torch.compile: reduce-overhead, max-autotune")
    channels_last: bool = setting(False, "memory format of model and images in eager and compile")
    warmup_s: float = setting(0.5, "calls before the timing go on for so long", unit="s")
    min_s: float = setting(1.0, "timed calls go on for so long", unit="s")
    repeats: int = setting(10, "timed calls at least")
    csv: Path | None = setting(None, "file to write the table to")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, batch=1, threads=1, input_size=1, repeats=1)
        require_most(self, threads=MAX_THREADS)


def make_parser() -> Parser:
    parser = Parser(prog="nas-zoo bench", description=__doc__)
    parser.add_argument("model", help="name of `nas-zoo list`, folder of a trained model, or hf-hub:ORG/NAME")
    add_flags(parser, BenchSettings)
    return parser


@program("nas-zoo bench")
def main(argv: Sequence[str] | None = None) -> int:
    """The program: 0 when everything that was asked for is timed, 2 for a mistake of the user's."""
    namespace = make_parser().parse_args(None if argv is None else list(argv))
    settings = settings_from(BenchSettings, given_flags(namespace))
    rows = _bench(namespace.model, settings)
    if settings.csv is not None:
        write_csv(settings.csv, rows)
    print(_table(rows))
    return 0


def _bench(name: str, settings: BenchSettings) -> list[dict[str, Any]]:
    if settings.csv is not None:
        _check_csv(settings.csv)
    for file in settings.onnx:
        require(file.is_file(), "onnx", file, "a file that exists")
    device = settings.device
    if settings.provider is not None:
        if "onnx" not in (settings.runtime or RUNTIMES):
            raise ValueError(f"provider {settings.provider!r} is of the runtime onnx, which is not among --runtime")
        if settings.provider == "auto":
            settings.check("auto")
            works = torch.cuda.is_available() and not provider_problems("cuda")
            device = device if device != "auto" else "cuda" if works else "cpu"
            require(device in ("cpu", "cuda"), "device", device, "one of cpu, cuda, auto")
            cpu: dict[str, Any] = {"cudnn_search": "exhaustive"} if device == "cpu" else {}  # of a GPU: not used then
            settings = replace(settings, provider=cast(Literal["cpu", "cuda"], device), **cpu)
            raise_if_hopeless(device, settings.cuda_graphs)
            print(f"nas-zoo bench: ONNX Runtime runs on {device}", file=sys.stderr)
        raise_if_hopeless(settings.provider or device, settings.cuda_graphs)
        device = device if device != "auto" else "cpu" if settings.provider == "cpu" else "cuda"
    elif device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    require(device in ("cpu", "cuda"), "device", device, "one of cpu, cuda, auto")
    model = _model(name, settings)
    channels, *sides = model.pretrained_cfg["input_size"]  # type: ignore[index]
    side = settings.input_size
    size = (getattr(model, "in_chans", channels), *(sides if side is None else (side, side)))
    rows: list[dict[str, Any]] = []
    runtimes = settings.runtime or RUNTIMES
    of_each = {
        runtime: len(settings.batch) * (len(settings.onnx) or 1 if runtime == "onnx" else 1) for runtime in runtimes
    }
    begun: list[float] = []  # when each timing began

    def say(words: str) -> None:
        if ", batch " in words:
            begun.append(time.monotonic())
            done, total = len(begun) - 1, sum(of_each.values())
            left = tqdm.format_interval((begun[-1] - begun[0]) / done * (total - done)) if done else "?"
            words = f"{done + 1} of {total}, {left} left: {words}"
        print(plain(words), file=sys.stderr, flush=True)

    for runtime in runtimes:
        try:
            rows += bench_model(
                model,
                name=Path(name).name if Path(name).is_dir() else name,
                input_size=size,
                batches=settings.batch,
                runtimes=[runtime],
                onnx_files=settings.onnx,
                device=device,
                dtype=settings.dtype,
                threads=settings.threads,
                compile_mode=settings.compile_mode,
                channels_last=settings.channels_last,
                provider=settings.provider,
                **gpu_options(settings),
                warmup_s=settings.warmup_s,
                min_s=settings.min_s,
                repeats=settings.repeats,
                progress=say,
            )
        except ValueError as error:
            # Of the runtimes that nobody named, one that does not work here is no reason to end.
            if settings.runtime is not None or runtime != "compile":
                raise
            print(f"left out: {error}", file=sys.stderr)
    return rows


def _model(name: str, settings: BenchSettings) -> nn.Module:
    """With its weights where it has some, else with random ones, which take as long."""
    import timm

    names = ("genotype", "init_channels", "num_cells", "num_classes", "in_chans")
    kwargs = {key: getattr(settings, key) for key in names if getattr(settings, key) is not None}
    if network_named(name)[1]:
        print(f"nas-zoo bench: {words_for_cells(name)}", file=sys.stderr)
    plain = settings.weights is None and timm.is_model(name.split(".")[0]) and not Path(name).is_dir()
    if plain:
        try:
            made: nn.Module = timm.create_model(name, **kwargs)
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"model {name!r}: {words_of(error, name)}") from error
        return made.eval()
    return load_model(name, settings.weights, random_weights=True, **kwargs)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    shown = (
        "runtime",
        "provider",
        "dtype",
        "batch",
        "median_ms",
        "p10_ms",
        "p90_ms",
        "images_per_s",
        "peak_memory_gb",
        "n",
    )
    cells = [shown, *(tuple("" if row[c] is None else str(row[c]) for c in shown) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(shown))]
    first = rows[0]
    head = f"{first['model']} on {first['device_name']} ({counted(first['threads'], 'thread')}, {first['versions']})"
    return "\n".join(
        [head, *("  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) for line in cells)]
    )


if __name__ == "__main__":
    sys.exit(main())
