"""The bilevel problem of one iteration: what an architecture step may ask of supernet, batches and weight optimizer."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from nas_zoo.runs.distributed import average_tensors
from nas_zoo.search.supernet import Mixing, Supernet

__all__ = ["Iteration", "Named"]


class Named:
    """Parameters and buffers of a module by name, as they are at the time; the walk through all modules is made once.

    It takes as long as some hundred operations. Layers must stay the same objects, their tensors may be others.
    """

    def __init__(self, module: nn.Module) -> None:
        layers = [(f"{path}." if path else "", layer) for path, layer in module.named_modules()]
        self._parameters = {path + key: (layer._parameters, key) for path, layer in layers for key in layer._parameters}
        self._buffers = {path + key: (layer._buffers, key) for path, layer in layers for key in layer._buffers}

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        return {name: found for name, (held, key) in self._parameters.items() if (found := held[key]) is not None}

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        return {name: found for name, (held, key) in self._buffers.items() if (found := held[key]) is not None}


class Iteration:
    """``search.method.Problem`` of a supernet, a batch of each half and SGD on the weights."""

    def __init__(
        self,
        supernet: Supernet,
        held_out: tuple[torch.Tensor, torch.Tensor],
        for_weights: tuple[torch.Tensor, torch.Tensor],
        weight_optimizer: torch.optim.Optimizer,
        autocast: Callable,
        named: Named | None = None,
        penalty: Callable[[Mapping[str, Mixing]], torch.Tensor] | None = None,
    ) -> None:
        """Beside the three of an iteration:

        named: The supernet's parameters and buffers by name, where they are known; None: looked up.
        penalty: Of a mixing, () beside its loss on held-out images.
        """
        self._named, self._penalty = named, penalty
        self._supernet, self._held_out, self._for_weights = supernet, held_out, for_weights
        self._optimizer, self._autocast = weight_optimizer, autocast

    def held_out_loss(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Cross-entropy of the supernet on this iteration's batch of the alpha half; its own weights are constants.

        With a limit on the latency its term is added here, so that every method has it.
        """
        loss = self._held_out_entropy(mixing, weights)
        return loss if self._penalty is None else loss + self._penalty(mixing)

    def _held_out_entropy(
        self, mixing: Mapping[str, Mixing], weights: Mapping[str, torch.Tensor] | None
    ) -> torch.Tensor:
        if weights is not None:
            return self._loss(self._held_out, mixing, weights)
        # Constants save the memory before the first relaxed edge and gradients that nobody asks for.
        everything = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        parameters = [parameter for parameter in everything if parameter.requires_grad]
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
                everything = {name: tensor.clone() for name, tensor in self._tensors.buffers.items()} | dict(weights)
                # no two names share a tensor, so there is no need to go through all modules for those that do
                logits = torch.func.functional_call(self._supernet, everything, (images, mixing), tie_weights=False)
        return F.cross_entropy(logits.float() if logits.dtype == torch.bfloat16 else logits, labels)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The supernet's parameters by name."""
        return self._tensors.parameters

    @property
    def _tensors(self) -> Named:
        if self._named is None:
            self._named = Named(self._supernet)
        return self._named

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
