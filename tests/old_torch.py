"""Files as torch 0.3 wrote them: pickles one after the other, tensors rebuilt from a storage of some device.

Written from reading torch/serialization.py and torch/_tensor.py of pytorch/pytorch at v0.3.1; today's torch reads them.
"""

import io
import pickle
import struct
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_STORAGES = {torch.float32: torch.FloatStorage, torch.float16: torch.HalfStorage, torch.int64: torch.LongStorage}


class _Storage:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _Old:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor.contiguous()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        rebuild = vars(torch._utils)["_rebuild_tensor"]
        return rebuild, (_Storage(self.tensor), 0, tuple(self.tensor.shape), self.tensor.stride())


def old_file(state: Mapping[str, Tensor], device: str = "cuda:0", **beside: Any) -> bytes:
    """A state dict, or with anything beside it a checkpoint, saved on that device."""
    file, storages = io.BytesIO(), dict[str, Tensor]()

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if not isinstance(value, _Storage):
                return None
            key = str(len(storages))
            storages[key] = value.tensor
            return "storage", _STORAGES[value.tensor.dtype], key, device, value.tensor.numel(), None

    sizes = {"short": 2, "int": 4, "long": 8}
    for head in (_MAGIC, _PROTOCOL, {"protocol_version": _PROTOCOL, "little_endian": True, "type_sizes": sizes}):
        pickle.dump(head, file, 2)
    held = OrderedDict((name, _Old(tensor)) for name, tensor in state.items())
    Pickler(file, 2).dump({"state_dict": held, **beside} if beside else held)
    pickle.dump(list(storages), file, 2)
    for tensor in storages.values():
        file.write(struct.pack("<q", tensor.numel()) + tensor.numpy().tobytes())
    return file.getvalue()
