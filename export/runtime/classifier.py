"""Classifies images with an exported ONNX file: ONNX Runtime on CPU, CUDA or TensorRT, needing no model code.

    classifier = OnnxClassifier("edas_c10.onnx", provider="auto")
    classifier.predict(["cat.png"], top_k=3)[0].labels

All files of ``nas-zoo export`` work alike: float32, float16, int8, and those with their preprocessing inside.
ONNX Runtime replaces a provider that does not load by the CPU, and at most writes a line to stderr. Here a provider
that was asked for by name is used, or it is a ProviderError that says what is missing.

Arrays on the CPU need NumPy, Pillow and ONNX Runtime alone; torch is imported for tensors and for GPUs only.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import json
import logging
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image

from nas_zoo.data import pictures
from nas_zoo.data.listing import list_folder, tell_left_out
from nas_zoo.export.runtime.providers import GpuOptions
from nas_zoo.runs.settings import require

if TYPE_CHECKING:
    import torch

__all__ = [
    "MAX_THREADS",
    "PROVIDERS",
    "FolderPredictions",
    "ImageLike",
    "OnnxClassifier",
    "Prediction",
    "ProviderError",
    "provider_problems",
    "raise_if_hopeless",
    "softmax",
]

logger = logging.getLogger("nas_zoo")

#: our name: ONNX Runtime's
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
_MAX_SIDE = 10_000  # pixels of an input size: a picture of it has 0.3 GB
_MAX_NUMBER = 1_000_000  # of a mean or deviation, whose scale is 0..1
_MIN_CROP = 0.01  # crop_pct; a picture is brought to 1 / crop_pct of the input size before
_CPU_PACKAGE, _GPU_PACKAGE = "onnxruntime", "onnxruntime-gpu"
# ONNX Runtime's word for a type that inputs and outputs may have: NumPy's
_TYPES: dict[str, Any] = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
#: More than any machine has cores; each takes memory, and a hundred thousand of them all of it.
MAX_THREADS = 1024
_MAX_GRAPHS = 16  # CUDA graphs of one classifier, each of which holds memory of its own
_WHOLE_IMAGES = 16  # images of any size that are held decoded at once
_MISSING_LIBRARY = re.compile(r"((?:lib)?[\w.+-]+\.(?:so|dll|dylib)[\w.]*): cannot open shared object file")
_SOURCE = re.compile(r"/onnxruntime_src/\S+:\d+ .*\) (?=\S)")
_stderr_lock = threading.Lock()

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray


class ProviderError(ValueError):
    """The provider that was asked for does not work here; the text says why and what helps."""


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of one image, the most probable first; probabilities are of all classes' softmax."""

    labels: list[str]
    probabilities: list[float]
    indices: list[int]


class FolderPredictions(Iterator[tuple[Path, Prediction]]):
    """(path, prediction) of the readable images of a folder, sorted by path; what was not readable is in `errors`."""

    def __init__(self, source: Iterator[tuple[Path, Prediction]], errors: list[tuple[Path, str]], total: int) -> None:
        self._source = source
        self.errors = errors  # (path, reason); complete when the iterator is
        self.total = total  # image files found, unreadable ones included

    def __next__(self) -> tuple[Path, Prediction]:
        return next(self._source)


class OnnxClassifier:
    """A classifier in an ONNX file.

    Args:
        path: A file written by ``nas-zoo export``, or any with one image input (N, C, H, W), float32, float16, or uint8
            with preprocessing inside (then (N, H, W, C) too), and one output (N, classes).
        provider: "cpu", "cuda", "tensorrt" (builds an engine first, which takes minutes), or "auto": CUDA where it
            works, else the CPU; which one is logged. Never anything but what was asked for.
        threads: Of the CPU provider; None for one a core.
        batch_size: Images that run at once, at most.
        labels: Names of the classes; those of the file if None, or their numbers where it has none.
        mean, std, input_size, crop_pct, interpolation: As in ``export_onnx``; those of the file if None. Needed for a
            file that has none, and then only for images that are not scaled yet.
        device_id: Which GPU.
        cuda_graphs: Record the launches of each batch size once and replay them, which saves the CPU's time at small
            batches; CUDA only, one call at a time, 16 shapes at most (others run as usual), and no file that takes
            images of any size. Needs a torch that sees the GPU.
        tf32: Whether CUDA may round the factors of a product to 10 bits, as PyTorch's convolutions do by default.
        cudnn_search: How cuDNN's convolutions are chosen: "exhaustive" tries them at each new shape, which takes
            seconds, "heuristic" and "default" do not.
        tensorrt_cache: Folder for TensorRT's engines, which a later start on the same machine takes up.
        tensorrt_fp16: Whether TensorRT may calculate a float32 file in float16; a float16 file always is.

    All methods may be called from several threads. `provider` is the one in use, `metadata` the texts of the file,
    `dtype` that of its weights; `takes_images` says that its preprocessing is inside. `label_descriptions` tells what
    labels mean that are no words, such as WordNet ids: {"n01440764": "tench, Tinca tinca"}. CUDA and TensorRT have not
    been run so far: there was no GPU.

    Raises:
        ProviderError: The provider does not work here.
        ValueError: The file is no ONNX file or no image classifier, or an argument does not fit it.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provider: str = "cpu",
        threads: int | None = None,
        batch_size: int = 64,
        labels: Sequence[str] | None = None,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        input_size: Sequence[int] | None = None,
        crop_pct: float | None = None,
        interpolation: str | None = None,
        device_id: int = 0,
        cuda_graphs: bool = False,
        tf32: bool = True,
        cudnn_search: Literal["exhaustive", "heuristic", "default"] = "exhaustive",
        tensorrt_cache: str | os.PathLike[str] | None = None,
        tensorrt_fp16: bool = False,
    ) -> None:
        self.path = Path(path)
        require(provider in (*PROVIDERS, "auto"), "provider", provider, f"one of {', '.join(PROVIDERS)}, auto")
        for name, value, least in (("threads", threads, 1), ("batch_size", batch_size, 1), ("device_id", device_id, 0)):
            require(value is None or _is_whole(value, least), name, value, f"a whole number of at least {least}")
        require(threads is None or threads <= MAX_THREADS, "threads", threads, f"at most {MAX_THREADS}")
        if not self.path.is_file():
            raise ValueError(f"{str(self.path)!r} is no file; an ONNX file is needed")
        cache = None if tensorrt_cache is None else Path(tensorrt_cache)
        self._gpu = GpuOptions(cuda_graphs, cudnn_search, cache, tensorrt_fp16)
        self._gpu.check(provider)
        self.batch_size = batch_size
        self.device_id = device_id
        self._tf32 = tf32
        self._graphs: dict[tuple[int, ...], tuple[Any, Any, torch.Tensor, torch.Tensor]] = {}
        self._graph_lock = threading.Lock()
        self._threads = threads
        # The CPU session comes first: it tells a file that is wrong from a provider that is, and knows the shapes.
        self._use(self._open("cpu")[0], "cpu")
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self._read_contract()
        self.dtype = self.metadata.get("dtype", "float32")  # of the weights
        self._read_metadata(labels, mean, std, input_size, crop_pct, interpolation)
        if cuda_graphs:
            self._require_fixed_shapes()
        if provider in ("cuda", "tensorrt"):
            self._switch_to(provider)
        elif provider == "auto":
            self._switch_to_best()
        logger.info("%s runs on %s (%s)", self.path.name, self.provider, PROVIDERS[self.provider])

    # Session ----------------------------------------------------------------------------------------------------------

    def _open(self, provider: str) -> tuple[Any, str]:
        """A session that was asked to use the provider, and what ONNX Runtime wrote to stderr meanwhile."""
        onnxruntime = _import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if provider == "cpu":
            try:
                return self._new_session(options, [PROVIDERS["cpu"]]), ""
            except Exception as error:  # onnxruntime's errors have no common class of their own
                raise ValueError(
                    f"{str(self.path)!r}: ONNX Runtime {onnxruntime.__version__} does not load it "
                    f"({self.path.stat().st_size} bytes): {_plain(error)}"
                ) from error
        chosen: list[Any] = [(PROVIDERS["cuda"], self._gpu.of_cuda(self.device_id, self._tf32))]
        if provider == "tensorrt":
            engines = self._gpu.of_tensorrt(self.device_id, self.dtype, self._least_and_largest_input())
            chosen.insert(0, (PROVIDERS["tensorrt"], engines))
        chatter = io.StringIO()
        with _captured_stderr() as lines:
            try:
                with contextlib.redirect_stdout(chatter):
                    onnxruntime.preload_dlls()
                session = self._new_session(options, chosen)
            except Exception as error:
                lines.append(_plain(error))
                session = None
        return session, "\n".join([chatter.getvalue(), *lines]).strip()

    def _new_session(self, options: Any, providers: list[Any]) -> Any:
        # As a path, so that a foreign file finds its external data beside it.
        source: str | bytes = str(self.path)
        try:
            str(self.path).encode()
        except UnicodeEncodeError:  # a name that is no text, which ONNX Runtime does not take
            source = self.path.read_bytes()
        session = _import_onnxruntime().InferenceSession(source, options, providers=providers, enable_fallback=False)
        session.disable_fallback()  # else a run that fails starts anew on the CPU, with a print
        return session

    def _least_and_largest_input(self) -> tuple[str, str] | None:
        """Of one image and of a whole batch, as TensorRT's options have it; None where an image's sides are free."""
        sides = self._fixed[1:] if self.takes_images else self.input_size or self._fixed[1:]
        if not all(isinstance(side, int) for side in sides):
            return None
        least, largest = (f"{self._input_name}:{'x'.join(map(str, (batch, *sides)))}" for batch in (1, self.batch_size))
        return least, largest

    def _require_fixed_shapes(self) -> None:
        """ValueError where a replay of recorded launches would not fit the next images."""
        sides = self._fixed[1:] if self.takes_images else self.input_size or self._fixed[1:]
        if not all(isinstance(side, int) for side in (*sides, self.num_classes)):
            more = "; the file without preprocessing goes" if self.takes_images else ""
            raise ValueError(
                f"cuda_graphs needs shapes that are fixed but for the batch, got input {list(self._fixed)} and "
                f"{self.num_classes or 'any number of'} classes of {self.path.name}{more}"
            )

    def _use(self, session: Any, provider: str) -> None:
        self._session = session
        self.provider = provider
        self._device = "cpu"  # of the tensors that run() gives
        if provider != "cpu":
            import torch

            # Where torch has no CUDA, ONNX Runtime copies each batch to the GPU by itself.
            if torch.cuda.is_available():
                self._device = f"cuda:{self.device_id}"

    def _switch_to(self, provider: str) -> None:
        """Makes the provider the one in use, proven by a run; ProviderError otherwise."""
        raise_if_hopeless(provider, self._gpu.cuda_graphs)
        session, chatter = self._open(provider)
        got = session.get_providers()[0] if session is not None else "none"
        if got != PROVIDERS[provider]:
            raise ProviderError(_refusal(provider, got, chatter))
        logger.debug("ONNX Runtime, making a session on %s: %s", provider, chatter)
        before = self._session
        self._use(session, provider)
        if self.input_size is not None:
            # Some libraries are looked for in the first run only.
            with _captured_stderr() as lines:
                try:
                    self.run(self._blank(self.input_size))
                    failure = None
                except Exception as error:
                    failure = error
            if failure is not None:
                self._use(before, "cpu")
                lines.append(_plain(failure))
                raise ProviderError(_refusal(provider, "none in the first run", "\n".join(lines))) from failure

    def _switch_to_best(self) -> None:
        problems = provider_problems("cuda")
        if problems:
            logger.info("%s: no CUDA: %s", self.path.name, "; ".join(problems))
            return
        try:
            self._switch_to("cuda")
        except ProviderError as error:  # there is a GPU, and it will stand idle
            logger.warning("%s: %s", self.path.name, error)

    def _blank(self, size: tuple[int, int, int]) -> np.ndarray:
        """One black image as the file takes it."""
        channels, height, width = size
        shape = (height, width, channels) if self._channels_last else size
        return np.zeros((1, *shape), self._input_type if self.takes_images else np.float32)

    def _read_contract(self) -> None:
        """One image input, float or uint8, and one output."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"{str(self.path)!r} must have one input and one output, got inputs {[i.name for i in inputs]} and "
                f"outputs {[o.name for o in outputs]}"
            )
        right = inputs[0].type in _TYPES and outputs[0].type in ("tensor(float)", "tensor(float16)")
        if not right or len(inputs[0].shape) != 4 or len(outputs[0].shape) != 2:
            raise ValueError(
                f"{str(self.path)!r} must take images (N, C, H, W) in float32, float16 or uint8 and give logits "
                f"(N, classes) in float32 or float16, got input {inputs[0].type} {inputs[0].shape} and output "
                f"{outputs[0].type} {outputs[0].shape}"
            )
        self._input_type, self._output_type = _TYPES[inputs[0].type], _TYPES[outputs[0].type]
        self.takes_images = self._input_type is np.uint8
        last = inputs[0].shape[3]
        self._channels_last = self.takes_images and (isinstance(last, int) and last in (1, 3))
        # A foreign file with its preprocessing inside may give either; its name tells, or ours in the metadata.
        inside = self.takes_images and "preprocessing" in self.metadata
        self.gives_probabilities = inside or outputs[0].name == "probabilities"
        self._input_name, self._output_name = inputs[0].name, outputs[0].name
        self._fixed: tuple[int | str | None, ...] = tuple(inputs[0].shape)
        classes = outputs[0].shape[1]
        self.num_classes: int | None = classes if isinstance(classes, int) else None
        if isinstance(outputs[0].shape[0], int) and outputs[0].shape[0] != self._fixed[0]:
            raise ValueError(
                f"{str(self.path)!r} must give a row for each image, got input {inputs[0].shape} and output "
                f"{outputs[0].shape}"
            )
        if isinstance(self._fixed[0], int):
            if self._fixed[0] != 1:
                raise ValueError(
                    f"{str(self.path)!r}: takes batches of {self._fixed[0]} only; export it with a free batch"
                )
            self.batch_size = 1

    # Metadata ---------------------------------------------------------------------------------------------------------

    def _read_metadata(
        self,
        labels: Sequence[str] | None,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        input_size: Sequence[int] | None,
        crop_pct: float | None,
        interpolation: str | None,
    ) -> None:
        fixed = [side if isinstance(side, int) else None for side in self._fixed[1:]]
        if self.takes_images:  # of any size; what it makes of them is said in the metadata only
            fixed = [fixed[2 if self._channels_last else 0], None, None]
        size = self._told("input_size", input_size)
        if size is None and None not in fixed:
            size = fixed
        if size is not None:
            whole = isinstance(size, list | tuple) and len(size) == 3 and all(_is_whole(side, 1) for side in size)
            right = whole and max(size) <= _MAX_SIDE
            self._require(right, "input_size", size, f"(C, H, W), whole numbers from 1 to {_MAX_SIDE}")
            fits = all(have in (None, want) for want, have in zip(size, fixed, strict=True))
            self._require(fits, "input_size", tuple(size), f"what the graph takes, {self._fixed[1:]}")
        self.input_size: tuple[int, int, int] | None = None if size is None else (size[0], size[1], size[2])
        channels = fixed[0] if self.input_size is None else self.input_size[0]
        self.mean = self._numbers("mean", mean, channels)
        self.std = self._numbers("std", std, channels)
        right = self.std is None or min(self.std) >= 1 / _MAX_NUMBER
        self._require(right, "std", self.std, f"at least {1 / _MAX_NUMBER} in each channel")
        crop = self._told("crop_pct", crop_pct)
        right = crop is None or (_is_number(crop) and _MIN_CROP <= crop <= 1)
        self._require(right, "crop_pct", crop, f"a number from {_MIN_CROP} to 1")
        self.crop_pct = 1.0 if crop is None else float(crop)
        self.interpolation = interpolation or self.metadata.get("interpolation", "bilinear")
        known = self.interpolation in pictures.RESAMPLING
        self._require(known, "interpolation", self.interpolation, f"one of {', '.join(pictures.RESAMPLING)}")
        names = self._told("labels", labels)
        if names is not None:
            right = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
            self._require(right, "labels", names, "a list of names")
            if self.num_classes is not None and len(names) != self.num_classes:
                raise ValueError(f"{self.path.name}: {len(names)} labels for {self.num_classes} classes")
        self.labels: tuple[str, ...] | None = None if names is None else tuple(names)
        meant = self._told("label_descriptions", None)
        right = meant is None or (isinstance(meant, dict) and all(isinstance(words, str) for words in meant.values()))
        self._require(right, "label_descriptions", meant, "an object whose values are texts")
        self.label_descriptions: dict[str, str] = meant or {}

    def _require(self, condition: bool, key: str, value: Any, what: str) -> None:
        require(condition, f"{self.path.name}: {key}", value, what)

    def _told(self, key: str, given: Any) -> Any:
        """What the caller gave, else what the file says (JSON), else None."""
        if given is not None or key not in self.metadata:
            return given
        try:
            return json.loads(self.metadata[key])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path.name}: the metadata's {key} is no JSON; give {key}= ({error})") from error

    def _numbers(self, key: str, given: Sequence[float] | None, channels: int | None) -> tuple[float, ...] | None:
        values = self._told(key, given)
        if values is None:
            return None
        right = isinstance(values, list | tuple) and all(_is_number(value) for value in values)
        right = right and len(values) == (channels or len(values)) > 0
        self._require(right, key, values, f"a list of {channels or 'some'} finite numbers, one a channel")
        return tuple(float(value) for value in values)

    # Running ----------------------------------------------------------------------------------------------------------

    def logits(self, pixel_values: Any) -> np.ndarray:
        """Logits (N, classes) float32 of scaled images (N, C, H, W): an array, a tensor on any device, as in ``run``.

        Runs `batch_size` images at a time. ValueError for a file that gives probabilities.
        """
        if self.gives_probabilities:
            raise ValueError(f"{self.path.name} gives probabilities, no logits: probabilities() has them")
        return self._values(pixel_values)

    def probabilities(self, x: Any) -> np.ndarray:
        """Probabilities (N, classes) float32 of what the file takes: scaled images as in ``logits``, or uint8 ones."""
        values = self._values(x)
        return values if self.gives_probabilities else softmax(values).astype(np.float32)

    def _values(self, x: Any) -> np.ndarray:
        """What run() gives, as an array (N, classes) float32; arrays on the CPU do without tensors on the way."""
        if self.provider != "cpu" or not isinstance(x, np.ndarray):
            array: np.ndarray = self.run(x).float().cpu().numpy()
            return array
        self._check_input(x)
        parts = [np.zeros((0, self.num_classes or 0), self._output_type)] if len(x) == 0 else []
        for start in range(0, len(x), self.batch_size):
            part = np.require(x[start : start + self.batch_size], self._input_type, ["C"])
            parts += self._session.run([self._output_name], {self._input_name: part})
        return np.concatenate(parts).astype(np.float32, copy=False)

    def run(self, x: Any) -> torch.Tensor:
        """What the file gives for what it takes, as a tensor (N, classes) on the device in use.

        Nothing is copied from one device to another: a contiguous tensor of the right type there is read where it
        lies, and the result is written where it is returned. Runs `batch_size` images at a time.

        Args:
            x: Scaled images (N, C, H, W) in any float type, or, where `takes_images`, uint8 images of one size
                (N, H, W, C) (or (N, C, H, W), as the file says). An array, a tensor on any device, or anything that
                speaks DLPack (CuPy, JAX).
        """
        import torch

        if not isinstance(x, np.ndarray | torch.Tensor):
            if not hasattr(x, "__dlpack__"):
                raise ValueError(
                    f"images must be an array, a tensor or something with __dlpack__, got {type(x).__name__}"
                )
            x = torch.from_dlpack(x)
        self._check_input(x)
        if len(x) == 0:
            return torch.zeros(0, self.num_classes or 0, dtype=self._torch_type(self._output_type), device=self._device)
        step = self.batch_size
        parts = [self._run(self._to_device(x[i : i + step])) for i in range(0, len(x), step)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _check_input(self, x: np.ndarray | torch.Tensor) -> None:
        if self.takes_images:
            right, want, words = str(x.dtype) in ("uint8", "torch.uint8"), self._fixed[1:], "uint8"
            more = "; scaled ones go to the file without preprocessing"
        else:
            right = np.issubdtype(x.dtype, np.floating) if isinstance(x, np.ndarray) else x.is_floating_point()
            want = self._fixed[1:] if self.input_size is None else self.input_size
            words, more = "scaled float", "; predict() takes files and uint8 images"
        fits = x.ndim == 4 and all(
            not isinstance(w, int) or w == have for w, have in zip(want, x.shape[1:], strict=True)
        )
        if not right or not fits:
            raise ValueError(
                f"pixel_values must be {words} images (N, {', '.join(map(str, want))}), got {x.dtype} "
                f"{tuple(x.shape)}{more}"
            )

    @staticmethod
    def _torch_type(numpy_type: Any) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, np.dtype(numpy_type).name)
        return dtype

    def _to_device(self, part: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Of the file's type, contiguous, on the device of the provider; no copy where it is that already."""
        import torch

        if isinstance(part, np.ndarray):
            # writeable, because torch warns of read-only arrays
            part = torch.from_numpy(np.require(part, self._input_type, ["C", "W"]))
        return part.detach().to(self._device, self._torch_type(self._input_type)).contiguous()

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        """One batch, bound by its address: the same code on every device."""
        import torch

        if self.num_classes is None:  # the size of the result is not known before
            binding = self._session.io_binding()
            self._bind_input(binding, x)
            binding.bind_output(self._output_name, "cpu")
            self._session.run_with_iobinding(binding)
            return torch.from_numpy(binding.copy_outputs_to_cpu()[0]).to(self._device)
        result = torch.empty(len(x), self.num_classes, dtype=self._torch_type(self._output_type), device=self._device)
        if self._gpu.cuda_graphs and self.provider == "cuda":
            return self._replay(x, result)
        binding = self._session.io_binding()
        self._bind_input(binding, x)
        self._bind_output(binding, result)
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return result

    def _bind_input(self, binding: Any, x: torch.Tensor) -> None:
        kind, index = x.device.type, x.device.index or 0
        if kind == "cuda":
            import torch

            # ONNX Runtime works on a stream of its own and would read before torch has written.
            torch.cuda.current_stream(x.device).synchronize()
        binding.bind_input(self._input_name, kind, index, self._input_type, tuple(x.shape), x.data_ptr())

    def _bind_output(self, binding: Any, result: torch.Tensor) -> None:
        kind, index = result.device.type, result.device.index or 0
        shape = tuple(result.shape)
        binding.bind_output(self._output_name, kind, index, self._output_type, shape, result.data_ptr())

    def _replay(self, x: torch.Tensor, result: torch.Tensor) -> torch.Tensor:
        """One batch as a CUDA graph, which reads and writes where it was recorded."""
        import torch

        with self._graph_lock:
            key = tuple(x.shape)
            if key not in self._graphs:
                options = _import_onnxruntime().RunOptions()
                if len(self._graphs) >= _MAX_GRAPHS:
                    options.add_run_config_entry("gpu_graph_id", "-1")  # run as usual
                    binding = self._session.io_binding()
                    self._bind_input(binding, x)
                    self._bind_output(binding, result)
                    self._session.run_with_iobinding(binding, options)
                    binding.synchronize_outputs()
                    return result
                options.add_run_config_entry("gpu_graph_id", str(len(self._graphs) + 1))
                source, target = x.clone(), torch.empty_like(result)
                binding = self._session.io_binding()
                self._bind_input(binding, source)
                self._bind_output(binding, target)
                self._graphs[key] = (binding, options, source, target)
            binding, options, source, target = self._graphs[key]
            source.copy_(x)
            torch.cuda.current_stream(x.device).synchronize()
            self._session.run_with_iobinding(binding, options)
            binding.synchronize_outputs()
            return result.copy_(target)

    def preprocess(self, image: ImageLike) -> np.ndarray:
        """The image as the model takes it: (C, H, W) float32, scaled.

        Shorter side resized to the input size / crop_pct, centre crop, mean and std; an array of the input size is
        not resized. As ``nas_zoo.data.pictures.decode`` has it, in training too: upright by EXIF, the first frame of
        an animation, 16 bits scaled to 8, transparency dropped.

        Args:
            image: A path, the bytes of a file, a PIL image, or a uint8 array (H, W, C) or (H, W).

        Raises:
            ValueError: Naming the file, for one that is missing, corrupt, empty or too large (64 MiB, 89 megapixels).
        """
        return self._preprocess(image, "")

    def _preprocess(self, image: ImageLike, place: str) -> np.ndarray:
        self._require_preprocessing()
        assert self.input_size is not None
        pixels = _decode(image, place, self.input_size, self.crop_pct, pictures.RESAMPLING[self.interpolation])
        x = pixels.astype(np.float32)
        x /= 255
        x -= np.asarray(self.mean, np.float32)
        x /= np.asarray(self.std, np.float32)
        return np.ascontiguousarray(x.transpose(2, 0, 1))

    def _require_preprocessing(self) -> None:
        """ValueError where nothing tells how an image becomes what the file takes."""
        missing = [key for key in ("mean", "std", "input_size") if getattr(self, key) is None]
        if missing and not self.takes_images:
            raise ValueError(
                f"{self.path.name} has no {', '.join(missing)} in its metadata, where `nas-zoo export` writes how "
                f"images are made its input; give OnnxClassifier {', '.join(key + '=' for key in missing)}, or scaled "
                "images to logits()"
            )

    def _require_pictures(self) -> None:
        """ValueError where no picture fits, whatever is in it."""
        self._require_preprocessing()
        channels = self._fixed[3 if self._channels_last else 1]
        if isinstance(channels, int) and channels not in (1, 3):
            raise ValueError(
                f"{self.path.name} takes images of {channels} channels, and pictures have 1 or 3; give arrays to "
                "logits() or probabilities()"
            )

    def predict(self, images: Iterable[ImageLike], top_k: int = 5) -> list[Prediction]:
        """One Prediction an image, in their order; images as in ``preprocess``.

        At most `top_k` classes each. ValueError for an image that cannot be read: see ``predict_folder`` for many.
        """
        _check_top_k(top_k)
        if isinstance(images, str | bytes | os.PathLike | Image.Image):
            raise ValueError(f"predict takes a list of images, got one {type(images).__name__}: write predict([image])")
        source = iter(enumerate(images))
        found: list[Prediction] = []
        while part := list(islice(source, self._at_once)):
            found += self._classify([self._prepare(image, f"image {i}: ") for i, image in part], top_k)
        return found

    @property
    def _at_once(self) -> int:
        return min(self.batch_size, _WHOLE_IMAGES) if self.takes_images else self.batch_size

    def prepare(self, image: ImageLike) -> np.ndarray:
        """The image as the file takes it: as ``preprocess`` has it, or uint8 in its own size where `takes_images`."""
        return self._prepare(image, "")

    def _prepare(self, image: ImageLike, place: str) -> np.ndarray:
        if not self.takes_images:
            return self._preprocess(image, place)
        channels = self._fixed[3 if self._channels_last else 1]
        if not isinstance(channels, int):
            raise ValueError(f"{self.path.name}: does not say how many channels its images have; probabilities() runs")
        height, width = self._fixed[1:3] if self._channels_last else self._fixed[2:4]
        own = (height, width) if isinstance(height, int) and isinstance(width, int) else (0, 0)  # 0: the image's
        pixels = _decode(image, place, (channels, *own))
        return pixels if self._channels_last else np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def _classify(self, prepared: Sequence[np.ndarray], top_k: int) -> list[Prediction]:
        """Of images that may differ in size; those of one size run together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, image in enumerate(prepared):
            by_shape.setdefault(image.shape, []).append(i)
        found: dict[int, Prediction] = {}
        for rows in by_shape.values():
            found.update(zip(rows, self._top(np.stack([prepared[i] for i in rows]), top_k), strict=True))
        return [found[i] for i in range(len(prepared))]

    def predict_folder(self, folder: str | os.PathLike[str], top_k: int = 5) -> FolderPredictions:
        """(path, Prediction) of each image file below the folder, sorted by path, as an iterator that reads in batches.

        Files that cannot be read are passed over and collected in the iterator's `errors`.
        """
        _check_top_k(top_k)
        self._require_pictures()
        place = Path(folder)
        tree = list_folder(place)
        names = tree.files.names
        tell_left_out(place, len(names), tree.left_out)
        if not names:
            kinds = ", ".join(sorted(pictures.EXTENSIONS))
            raise ValueError(f"{str(place)!r} has no images in it; images end in {kinds}")
        return self.predict_files([place / name for name in names], top_k)

    def predict_files(self, paths: Sequence[Path], top_k: int = 5) -> FolderPredictions:
        """(path, Prediction) of each readable file in their order, as ``predict_folder`` does."""
        _check_top_k(top_k)
        self._require_pictures()
        errors: list[tuple[Path, str]] = []
        return FolderPredictions(self._predict_files(paths, top_k, errors), errors, len(paths))

    def _predict_files(
        self, paths: Sequence[Path], top_k: int, errors: list[tuple[Path, str]]
    ) -> Iterator[tuple[Path, Prediction]]:
        def read(path: Path) -> np.ndarray | str:
            try:
                return self._prepare(path, "")
            except ValueError as error:
                return str(error)

        # Decoders let go of the interpreter, so threads do help.
        with ThreadPoolExecutor(self._threads or min(8, os.cpu_count() or 1)) as pool:
            for start in range(0, len(paths), self._at_once):
                part = paths[start : start + self._at_once]
                read_part = list(zip(part, pool.map(read, part), strict=True))
                for path, result in read_part:
                    if isinstance(result, str):
                        errors.append((path, result))
                good = [(path, result) for path, result in read_part if not isinstance(result, str)]
                if good:
                    predictions = self._classify([pixels for _, pixels in good], top_k)
                    yield from zip((path for path, _ in good), predictions, strict=True)

    def _top(self, x: np.ndarray, top_k: int) -> list[Prediction]:
        values = self._values(x).astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"{self.path.name}: {self._output_name} that are not finite; the model is damaged")
        if self.labels is not None and len(self.labels) != values.shape[1]:
            raise ValueError(f"{self.path.name}: {len(self.labels)} labels for {values.shape[1]} classes")
        if self.gives_probabilities and not (values.min(initial=0) > -1e-3 and values.max(initial=0) < 1.001):
            raise ValueError(f"{self.path.name}: what it gives as probabilities is not from 0 to 1")
        probabilities = values if self.gives_probabilities else softmax(values)
        # stable: of equal ones, the lower number first
        order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
        return [
            Prediction(
                labels=[self.labels[i] if self.labels else str(i) for i in row],
                probabilities=[float(p[i]) for i in row],
                indices=[int(i) for i in row],
            )
            for row, p in zip(order, probabilities, strict=True)
        ]


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: Any) -> bool:
    """A finite one with which pixels stay within float32."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) float64."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _check_top_k(top_k: int) -> None:
    require(_is_whole(top_k, 1), "top_k", top_k, "a whole number of at least 1")


# Images ---------------------------------------------------------------------------------------------------------------


def _decode(
    image: ImageLike,
    place: str,
    size: tuple[int, int, int],
    crop_pct: float = 1.0,
    resampling: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """uint8 (H, W, C) of the size (C, H, W); in the image's own size where H and W are 0."""
    channels, height, width = size
    picture: str | os.PathLike[str] | bytes | Image.Image
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.shape == (height, width, channels):
            return image
        where, picture = f"{place}array", _from_array(image, place)
    elif isinstance(image, Image.Image):
        where, picture = f"{place}{getattr(image, 'filename', '') or 'PIL image'}", image
    elif isinstance(image, bytes):
        where, picture = f"{place}{len(image)} bytes", image
    elif isinstance(image, str | os.PathLike):
        where, picture = f"{os.fspath(image)!r}", image
    else:
        raise ValueError(
            f"{place}an image is a path, the bytes of a file, a PIL image or a uint8 array, not {type(image).__name__}"
        )
    if channels not in (1, 3):
        raise ValueError(
            f"{where}: the model takes {channels} channels, so images must be uint8 arrays {(height, width, channels)}"
        )
    try:
        if isinstance(picture, str | os.PathLike):
            picture = pictures.read_file(picture)
        wanted = (height, width) if height else None
        return pictures.decode(picture, wanted, channels, crop_pct=crop_pct, resampling=resampling)
    except pictures.DECODE_ERRORS as error:
        raise ValueError(f"cannot read the image {where}: {error or type(error).__name__}") from error


def _from_array(array: np.ndarray, place: str) -> Image.Image:
    good = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if array.dtype != np.uint8 or not good or 0 in array.shape:
        raise ValueError(
            f"{place}an array of an image must be uint8 (H, W, 3), (H, W, 1) or (H, W), got {array.dtype} "
            f"{array.shape}; scaled images go to logits()"
        )
    return Image.fromarray(array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array)


# Providers ------------------------------------------------------------------------------------------------------------


def provider_problems(provider: str = "cuda") -> list[str]:
    """What is seen to be wrong without making a session, in words; empty where nothing is."""
    if provider == "cpu":
        return []
    problems = _package_problems(_installed_packages())
    onnxruntime = _import_onnxruntime()
    if not problems and PROVIDERS[provider] not in onnxruntime.get_available_providers():
        problems.append(f"this onnxruntime {onnxruntime.__version__} was built without {PROVIDERS[provider]}")
    driver = _driver_problem(getattr(onnxruntime, "cuda_version", ""), sys.platform)
    return problems + ([driver] if driver else [])


def _installed_packages(path: list[str] | None = None) -> set[str]:
    """Which of the packages that hold a module onnxruntime are installed (in the folders of `path`)."""
    found = importlib.metadata.distributions() if path is None else importlib.metadata.distributions(path=path)
    names = {re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower() for distribution in found}
    return {name for name in names if name == _CPU_PACKAGE or name.startswith(_CPU_PACKAGE + "-")} - {
        "onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-genai-cuda",
    }  # fmt: skip


def _package_problems(installed: set[str]) -> list[str]:
    cure = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    if len(installed) > 1:
        return [
            f"{' and '.join(sorted(installed))} are both installed and overwrite each other's files; keep one: {cure}"
        ]
    if installed == {_CPU_PACKAGE}:
        return [f"the package onnxruntime is for CPUs only: {cure}"]
    return []


def _driver_problem(cuda_version: str, platform: str) -> str | None:
    """What the NVIDIA driver lacks for this CUDA version; None if nothing."""
    name = "nvcuda.dll" if platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return f"there is no NVIDIA driver ({name} does not load)"
    code = driver.cuInit(0)
    if code:
        return f"the NVIDIA driver finds no usable GPU (cuInit: error {code})"
    version = ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    wanted = cuda_version.split(".")[0]
    if wanted.isdigit() and version.value // 1000 < int(wanted):
        return f"the NVIDIA driver is for CUDA {version.value // 1000}, this onnxruntime wants CUDA {wanted}; update it"
    return None


def raise_if_hopeless(provider: str, cuda_graphs: bool = False) -> None:
    """ProviderError before anything is loaded, so that all reasons are told at once and nothing else is printed."""
    problems = provider_problems(provider)
    if cuda_graphs:
        import torch

        if not torch.cuda.is_available():  # whose tensors hold what a graph reads and writes
            problems.append(f"cuda_graphs needs a torch that sees the GPU, torch {torch.__version__} sees none")
    if problems:
        raise ProviderError(f"provider={provider!r} does not work here: {'; '.join(problems)}")


def _refusal(provider: str, got: str, chatter: str) -> str:
    missing = sorted(set(_MISSING_LIBRARY.findall(chatter)))
    if any(name.startswith(("libcuda.", "nvcuda.")) for name in missing):
        reason = "there is no NVIDIA driver"
    elif missing:
        reason = (
            f"missing libraries: {', '.join(missing)}; the CUDA 13 and cuDNN 9 ones come with: "
            "pip install 'onnxruntime-gpu[cuda,cudnn]'"
        )
        if any("nvinfer" in name for name in missing):
            reason = f"missing libraries: {', '.join(missing)}; they come with: pip install tensorrt-cu13"
    else:
        # without terminal colours and the place in ONNX Runtime's source
        lines = [re.sub(r"\x1b\[[\d;]*m", "", line).strip() for line in chatter.splitlines()]
        reason = " ".join(line for line in lines if line)[:800] or "ONNX Runtime gives no reason"
    return f"provider={provider!r} does not work here (ONNX Runtime would have used {got}): {reason}"


def _import_onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(f"onnxruntime does not load ({error}): pip install onnxruntime-gpu") from error
    if not hasattr(onnxruntime, "InferenceSession"):
        # what is left of the folder when one of the two packages was removed
        raise ProviderError("onnxruntime is damaged: pip install --force-reinstall onnxruntime-gpu")
    return onnxruntime


def _plain(error: BaseException) -> str:
    """The error in one line, without the place in ONNX Runtime's source."""
    return " ".join(_SOURCE.sub("", str(error)).split()) or type(error).__name__


@contextlib.contextmanager
def _captured_stderr() -> Iterator[list[str]]:
    """Lines written to file descriptor 2 by anyone in the process, C++ code first of all; filled when the block ends.

    ONNX Runtime says why a provider does not load there and nowhere else.
    """
    lines: list[str] = []
    with _stderr_lock, tempfile.TemporaryFile() as held:
        try:
            saved = os.dup(2)
        except OSError:  # a program without stderr
            yield lines
            return
        try:
            if sys.stderr is not None:
                sys.stderr.flush()
            os.dup2(held.fileno(), 2)
            yield lines
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            # in front of what the block itself has added
            lines[:0] = held.read().decode(errors="replace").splitlines()
