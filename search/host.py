"""What the host must know of tensors that lie on a device, and the device of the host's, with as few waits as may be.

Every reading waits until the device has done all that it was given, and so does every copy of a list to it. Launching
an iteration's thousands of kernels takes the host as long as the device needs for them, so a search reads once an
iteration at most (``Reading``), and puts its lists there once (``constant``).
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Adam", "Reading", "constant"]

T = TypeVar("T")


class Reading(Generic[T]):
    """What `read` gives, called again only where one of the tensors has been written to since.

    PyTorch counts the writes, those of optimizers and of ``load_state_dict`` among them; those by way of ``.data`` it
    does not.
    """

    def __init__(self, read: Callable[[], T]) -> None:
        self._read = read
        self._of: tuple[tuple[int, int], ...] = ()

    def __call__(self, tensors: Sequence[Tensor]) -> T:
        now = tuple((tensor.data_ptr(), tensor._version) for tensor in tensors)
        if now != self._of:
            self._value, self._of = self._read(), now
        return self._value


@lru_cache(maxsize=256)
def constant(values: tuple[int | float | bool, ...], device: torch.device) -> Tensor:
    """The values as a tensor on the device, copied there once; nobody may write to it."""
    return torch.tensor(values, device=device)


class Adam(torch.optim.Adam):
    """torch's, the same to the last bit on a CPU, which counts its steps on the host: for a few small tensors.

    Without weight decay and its other variants. torch's own reads a step tensor for each parameter, or with fused=True
    rounds otherwise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._steps: dict[Tensor, float] = {}

    def load_state_dict(self, state_dict: Any) -> None:
        """As torch's."""
        super().load_state_dict(state_dict)
        self._steps = {parameter: kept["step"].tolist() for parameter, kept in self.state.items()}

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())  # on the CPU, as torch has it
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
                state["step"] += 1
                step = self._steps[parameter] = self._steps.get(parameter, 0.0) + 1.0
                mean, square = state["exp_avg"], state["exp_avg_sq"]
                mean.lerp_(gradient, 1 - beta1)
                square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                deviation = (square.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
                parameter.addcdiv_(mean, deviation, value=-(group["lr"] / (1 - beta1**step)))
