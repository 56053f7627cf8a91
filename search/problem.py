"""The bilevel problem of one iteration: what an architecture step may ask of supernet, batches and weight optimizer."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F

from nas_zoo.runs.distributed import average_tensors
from nas_zoo.search.supernet import Mixing, Supernet

__all__ = ["Iteration"]


class Iteration:
    """``search.method.Problem`` of a supernet, a batch of each half and SGD on the weights."""

    def __init__(
        self,
        supernet: Supernet,
        held_out: tuple[torch.Tensor, torch.Tensor],
        for_weights: tuple[torch.Tensor, torch.Tensor],
        weight_optimizer: torch.optim.Optimizer,
        autocast: Callable,
    ) -> None:
        self._supernet, self._held_out, self._for_weights = supernet, held_out, for_weights
        self._optimizer, self._autocast = weight_optimizer, autocast

    def held_out_loss(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Cross-entropy of the supernet on this iteration's batch of the alpha half; its own weights are constants."""
        if weights is not None:
            return self._loss(self._held_out, mixing, weights)
        # Constants save the memory before the first relaxed edge and gradients that nobody asks for.
        parameters = [parameter for parameter in self._supernet.parameters() if parameter.requires_grad]
        for parameter in parameters:
            parameter.requires_grad_(False)
        try:
            return self._loss(self._held_out, mixing, None)
        finally:
            for parameter in parameters:
                parameter.requires_grad_()

    def training_loss(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The same on this iteration's batch of the weights half."""
        return self._loss(self._for_weights, mixing, weights)

    def _loss(
        self,
        batch: tuple[torch.Tensor, torch.Tensor],
        mixing: Mapping[str, Mixing],
        weights: Mapping[str, torch.Tensor] | None,
    ) -> torch.Tensor:
        images, labels = batch
        with self._autocast():
            if weights is None:
                logits = self._supernet(images, mixing)
            else:
                # copies of the buffers, so that running statistics stay those of the supernet's own weights
                buffers = {name: buffer.clone() for name, buffer in self._supernet.named_buffers()}
                logits = torch.func.functional_call(self._supernet, {**buffers, **weights}, (images, mixing))
        return F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The supernet's parameters by name."""
        return dict(self._supernet.named_parameters())

    @property
    def lr(self) -> float:
        """Learning rate of this iteration's weight step."""
        return self._optimizer.param_groups[0]["lr"]

    def stepped(self, gradients: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The weights after SGD's next step with these gradients, momentum and decay included, as new leaves.

        As DARTS does it: without the clipping of the real step. A weight without a gradient stays where it is.
        """
        group = self._optimizer.param_groups[0]
        result = {}
        with torch.no_grad():
            for name, weight in self.weights.items():
                new = weight.detach().clone()
                if name in gradients:
                    step = gradients[name] + group["weight_decay"] * weight
                    momentum = self._optimizer.state.get(weight, {}).get("momentum_buffer")
                    if momentum is not None:
                        step = step + group["momentum"] * momentum
                    new -= group["lr"] * step
                result[name] = new.requires_grad_()
        return result

    def mean_over_processes(self, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """The tensors themselves with one process; else their mean, in place."""
        average_tensors(tensors.values())
        return tensors
