"""What can be chosen of ONNX Runtime on a GPU, and ONNX Runtime's own words for it.

None of it has been run on a GPU so far: names and values are those in ONNX Runtime 1.31's libraries and documentation.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

from nas_zoo.runs.settings import require, setting

__all__ = ["CUDNN_SEARCHES", "GpuOptions", "gpu_options"]

CUDNN_SEARCHES = ("exhaustive", "heuristic", "default")


@dataclasses.dataclass(frozen=True)
class GpuOptions:
    """ONNX Runtime on a GPU (not run on one so far)"""

    cuda_graphs: bool = setting(False, "record the launches of each batch size once and replay them; cuda alone")
    cudnn_search: Literal["exhaustive", "heuristic", "default"] = setting(
        "exhaustive", "how cuDNN's convolutions are chosen: tried one by one at first, guessed, or the simplest"
    )
    tensorrt_cache: Path | None = setting(
        None, "folder where TensorRT keeps engines for the next start; to be emptied for another GPU, TensorRT or file"
    )
    tensorrt_fp16: bool = setting(False, "TensorRT may calculate a float32 file in float16")

    def check(self, provider: str) -> None:
        """ValueError where something was chosen that this provider ("cpu", "cuda", "tensorrt", "auto") has not."""
        known = self.cudnn_search in CUDNN_SEARCHES
        require(known, "cudnn_search", self.cudnn_search, f"one of {', '.join(CUDNN_SEARCHES)}")
        chosen = {
            "cuda_graphs": (self.cuda_graphs, ("cuda",)),
            "cudnn_search": (self.cudnn_search != "exhaustive", ("cuda", "tensorrt", "auto")),
            "tensorrt_cache": (self.tensorrt_cache is not None, ("tensorrt",)),
            "tensorrt_fp16": (self.tensorrt_fp16, ("tensorrt",)),
        }
        for name, (given, providers) in chosen.items():
            if given and provider not in providers:
                words = (
                    f"provider={providers[0]!r} alone" if len(providers) == 1 else f"provider {', '.join(providers)}"
                )
                raise ValueError(f"{name} works with {words}, got provider={provider!r}")
        cache = self.tensorrt_cache
        require(cache is None or not cache.exists() or cache.is_dir(), "tensorrt_cache", cache, "a folder")

    def of_cuda(self, device_id: int, tf32: bool) -> dict[str, Any]:
        """What CUDAExecutionProvider is given."""
        options: dict[str, Any] = {"device_id": device_id, "use_tf32": int(tf32)}
        options["cudnn_conv_algo_search"] = self.cudnn_search.upper()
        return options | ({"enable_cuda_graph": 1} if self.cuda_graphs else {})

    def of_tensorrt(self, device_id: int, dtype: str, shapes: tuple[str, str] | None) -> dict[str, Any]:
        """What TensorrtExecutionProvider is given; makes the folder of the engines.

        Args:
            dtype: Of the file's weights: TensorRT takes float16 and int8 only where it is allowed them.
            shapes: Least and largest input as "name:NxCxHxW": one engine for all batches between them. None where the
                sides are free; then each new size builds another.
        """
        options: dict[str, Any] = {"device_id": device_id}
        if self.tensorrt_fp16 or dtype == "float16":
            options["trt_fp16_enable"] = 1
        if dtype == "int8":
            options["trt_int8_enable"] = 1
        if shapes is not None:
            options["trt_profile_min_shapes"] = shapes[0]
            options["trt_profile_opt_shapes"] = options["trt_profile_max_shapes"] = shapes[1]
        if self.tensorrt_cache is not None:
            self.tensorrt_cache.mkdir(parents=True, exist_ok=True)
            for kind in ("engine", "timing"):
                options[f"trt_{kind}_cache_enable"] = 1
                options[f"trt_{kind}_cache_path"] = str(self.tensorrt_cache)
        return options


def gpu_options(settings: Any) -> dict[str, Any]:
    """The fields of GpuOptions that an object has, as keyword arguments of ``OnnxClassifier``."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(GpuOptions)}
