"""Several processes that train one model: gradients, batch statistics and decisions that are the same on every one.

Everything here is a no-op while torch.distributed is not initialised or has one process, so programs call it without
asking. Nothing wraps the model: in a search the active operations change from step to step, and a wrapper would either
fail on that or look for unused parameters in every step.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from accelerate import Accelerator, DistributedType
from timm.layers import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from nas_zoo.runs.launch import refuse_unfit

__all__ = [
    "GlobalBatchNorm",
    "GlobalBatchNormAct",
    "add_gradients",
    "autocast_for",
    "average_buffers",
    "average_gradients",
    "average_tensors",
    "convert_global_batch_norm",
    "gather_statistics",
    "is_first",
    "keep_freed_memory",
    "max_over_processes",
    "merged_over_processes",
    "process_index",
    "start_accelerator",
    "sum_over_processes",
    "take_statistics",
    "total_over_processes",
    "world_size",
]

M = TypeVar("M", bound=nn.Module)

#: Of accelerate's ways to run those in which each process holds the whole model.
_HAD = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


def world_size() -> int:
    """Number of processes; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Of this process among all, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this is the one of all processes that tells things."""
    return process_index() == 0


def sum_over_processes(values: Tensor) -> Tensor:
    """The sum of `values` over all processes, same shape; what an evaluation's counts need."""
    return _all_reduced(values, "sum")


def total_over_processes(values: Tensor, device: torch.device) -> Tensor:
    """The sum over all processes of float64 figures on the CPU, sent by way of `device`.

    One process moves nothing: not every device (MPS) has float64.
    """
    return values if world_size() == 1 else sum_over_processes(values.to(device)).cpu()


def max_over_processes(values: Tensor) -> Tensor:
    """The elementwise maximum of `values` over all processes."""
    return _all_reduced(values, "max")


def merged_over_processes(words: set[str], device: torch.device) -> set[str]:
    """What any process has, on each; one small collective by way of `device` where there is nothing."""
    if world_size() == 1 or not sum_over_processes(torch.tensor(float(len(words)), device=device)):
        return words
    gathered: list[set[str]] = [set()] * world_size()
    dist.all_gather_object(gathered, words)
    return set().union(*gathered)


def _all_reduced(values: Tensor, operation: str) -> Tensor:
    if world_size() == 1:
        return values
    result = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(result, op=dist.ReduceOp.SUM if operation == "sum" else dist.ReduceOp.MAX)
    return result


def keep_freed_memory() -> None:
    """Has this process keep the memory it frees, for its next tensors; no-op where the C library is not glibc's.

    glibc hands every tensor above some MiB back to the system when it is freed, and the next one is filled with zeros
    page by page again: on a CPU a third of a relaxed search step's time. What the process holds is what its peak needs
    anyway.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        max_mapped, trim_threshold = -4, -1  # M_MMAP_MAX, M_TRIM_THRESHOLD of malloc.h
        mallopt(max_mapped, 0)
        mallopt(trim_threshold, 2**31 - 1)


def start_accelerator() -> Accelerator:
    """accelerate's device and processes; from here on the process keeps the memory it frees.

    ValueError where several processes were started that do not know of each other: each would train alone; where
    several were asked for and accelerate started one; and where accelerate was asked for what is not had here.
    """
    refuse_unfit()
    keep_freed_memory()
    _meet_again()
    accelerator = Accelerator(mixed_precision="no")
    if accelerator.distributed_type not in _HAD:
        raise ValueError(
            f"accelerate has chosen {accelerator.distributed_type.value}, which is not had here: programs run in one "
            "or several processes on CPUs or GPUs, each of which holds the whole model"
        )
    if accelerator.num_processes == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            "several processes were started but do not know of each other; on CPU set ACCELERATE_USE_CPU=true "
            "(see the README, 'Several processes')"
        )
    # accelerate (issue 2741) leaves an address to meet at, and neither rank nor number
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ValueError(
            "accelerate launch was asked for several processes on the CPU and starts one; what starts two: "
            "ACCELERATE_USE_CPU=true torchrun --standalone --nproc-per-node 2 and the rest of the command"
        )
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # a run has one size of images all along
    return accelerator


def _meet_again() -> None:
    """Where torchrun has restarted the processes of one machine: lets them meet under keys of this attempt.

    Its store outlives a restart (torch 2.14), and with it the addresses of the processes that are gone, to which the
    quicker of the new ones would try to connect. Of several machines each counts its own restarts, so there is no
    number that all of them know.
    """
    attempt, world = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), os.environ.get("WORLD_SIZE", "1")
    if attempt == "0" or world == "1" or world != os.environ.get("LOCAL_WORLD_SIZE") or dist.is_initialized():
        return
    store, rank, size = next(dist.rendezvous("env://"))
    dist.init_process_group(store=dist.PrefixStore(f"attempt {attempt}", store), rank=rank, world_size=size)


def autocast_for(device: torch.device, precision: str) -> Callable[[], Any]:
    """What to enter around a forward pass: autocast to bfloat16 for "bf16", nothing for "fp32".

    accelerate's own is fixed for the life of a process, so a second run in it could not have another precision.
    """
    return functools.partial(torch.autocast, device.type, torch.bfloat16, enabled=precision == "bf16")


# -------------------------------------------------------------------------------------------------------- averages


def add_gradients(parameters: Iterable[Tensor], gradients: Iterable[Tensor | None]) -> None:
    """Every gradient that there is goes into its parameter's .grad."""
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


@torch.no_grad()
def average_gradients(parameters: Iterable[Tensor], votes: Tensor | None = None) -> None:
    """Every .grad becomes its mean over the processes: one flat all-reduce for each dtype and device.

    Parameters without a gradient are left out: which ones have one must be the same on every process (the active
    operations are drawn from a generator that is seeded alike). Other sizes on another process end in an abort of gloo.

    votes: a vector on the CPU that takes part in the first of these, so that the processes agree on what else there is
    without another one; it becomes its mean too.
    """
    _average([parameter.grad for parameter in parameters if parameter.grad is not None], votes)


@torch.no_grad()
def average_tensors(tensors: Iterable[Tensor]) -> None:
    """Every tensor becomes its mean over the processes, in place; their number and shapes are the same on each."""
    _average(list(tensors))


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Floating-point buffers (running statistics) become their mean over the processes; counters stay."""
    _average([buffer for buffer in module.buffers() if buffer.is_floating_point()])


def _average(tensors: list[Tensor], votes: Tensor | None = None) -> None:
    processes = world_size()
    if processes == 1:
        return
    if not tensors:
        tensors, votes = [] if votes is None else [votes], None
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for (dtype, device), group in groups.items():
        # Tensors that differ in their first axis at most are joined along it: three operations for each such shape and
        # not for each of some hundred tensors.
        alike: dict[torch.Size, list[Tensor]] = {}
        for tensor in group:
            alike.setdefault(tensor.shape[1:], []).append(tensor)
        joined = [torch.cat(members) if members[0].ndim else torch.stack(members) for members in alike.values()]
        # reshape goes by index, not by memory, so a channels_last gradient meets its contiguous twin in the right place
        rows = [part.reshape(-1) for part in joined]
        if votes is not None:
            rows.append(votes.to(device, dtype))
        flat = torch.cat(rows)
        dist.all_reduce(flat)
        flat /= processes
        ordered, means = [], []
        for part, whole, members in zip(
            flat.split([row.numel() for row in rows]), joined, alike.values(), strict=False
        ):
            ordered += members
            whole = part.view(whole.shape)
            means += whole.split([len(member) for member in members]) if members[0].ndim else whole.unbind()
        torch._foreach_copy_(ordered, means)
        if votes is not None:
            votes.copy_(flat[-votes.numel() :])
            votes = None


# ---------------------------------------------------------------------------------------- each process's statistics


def gather_statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    """All floating-point buffers of the modules in one vector on the CPU for each process, by rank; [] for one.

    It is what a checkpoint needs of the other processes: each has running statistics of its own.
    """
    buffers = _statistics(modules)
    if world_size() == 1 or not buffers:
        return []
    mine = torch.cat([buffer.reshape(-1) for buffer in buffers])
    gathered = [torch.empty_like(mine) for _ in range(world_size())]
    dist.all_gather(gathered, mine)
    return [vector.cpu() for vector in gathered]


@torch.no_grad()
def take_statistics(modules: Iterable[nn.Module], gathered: Sequence[Tensor]) -> None:
    """Each process takes up its own of what ``gather_statistics`` gave; where their number is another, all the mean."""
    if not gathered:
        return
    mine = gathered[dist.get_rank()] if len(gathered) == world_size() else torch.stack(list(gathered)).mean(0)
    buffers = _statistics(modules)
    for buffer, part in zip(buffers, mine.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view(buffer.shape))


def _statistics(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]


# ------------------------------------------------------------------------------------------------ batch statistics


class _NormalizeGlobally(torch.autograd.Function):
    """Batch normalisation with the mean and variance of the batches of all processes taken together.

    Forward: one all-gather of (mean, variance, count) for each channel, merged pairwise as Chan, Golub and LeVeque
    (1979) do, which does not cancel as E[x^2] - E[x]^2 does in float32. Backward: one all-reduce of the two sums that
    the gradient through mean and variance needs. The gradients of weight and bias are this process's own share, as for
    every other parameter, and wait for average_gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, ...]:
        channels, count = x.shape[1], x.numel() // x.shape[1]
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        if count:
            # the first half of nn.BatchNorm2d's own kernel, on a CPU several times as fast as torch.var_mean
            mean, var = torch.batch_norm_update_stats(wide, None, None, 0.0)
        else:  # this process has no row in the batch
            var = mean = wide.new_zeros(channels)
        mine = torch.cat([mean, var, mean.new_full((1,), float(count))])
        gathered = [torch.empty_like(mine) for _ in range(world_size())]
        dist.all_gather(gathered, mine)
        stacked = torch.stack(gathered)  # (world, 2 C + 1)
        means, variances, counts = stacked[:, :channels], stacked[:, channels:-1], stacked[:, -1:]
        total = counts.sum()
        shares = counts / total
        mean = (shares * means).sum(0)
        var = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(x, weight, mean, var, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, total)
        # the fused kernel for given statistics; it divides by the number of rows
        y = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps) if count else torch.empty_like(x)
        return y, mean, var, total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        x, weight, mean, var, total = ctx.saved_tensors
        invstd = (var + ctx.eps).rsqrt()
        unit = weight if weight is not None else torch.ones_like(mean)
        # the kernel for given statistics: grad_x with mean and variance held fixed, sum(grad * x_hat), sum(grad); on
        # CUDA it takes them as saved mean and 1 / deviation, on a CPU as running mean and variance
        grad = grad.contiguous(memory_format=_layout(x))
        if x.numel():
            grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
                grad, x, unit, mean, var, mean, invstd, False, ctx.eps, [True, True, True]
            )
        else:
            grad_x, grad_weight, grad_bias = torch.empty_like(x), torch.zeros_like(unit), torch.zeros_like(unit)
        sums = torch.stack([grad_bias, grad_weight]).to(mean.dtype)
        dist.all_reduce(sums)
        through_mean, through_var = sums / total
        # grad_x -= weight invstd (mean(grad) + x_hat mean(grad x_hat)), written as slope x + offset
        shape = (1, -1) + (1,) * (x.ndim - 2)
        factor = unit.to(mean.dtype) * invstd
        slope = factor * invstd * through_var
        offset = factor * through_mean - slope * mean
        grad_x -= torch.addcmul(offset.view(shape), x, slope.view(shape))
        affine = weight is not None
        return grad_x, grad_weight if affine else None, grad_bias if affine else None, None


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


class GlobalBatchNorm(nn.BatchNorm2d):
    """nn.BatchNorm2d whose batch statistics in training are those of the batches of all processes taken together.

    Same state-dict keys, running statistics (variance with N - 1 of the global batch) and evaluation as nn.BatchNorm2d;
    with one process it is nn.BatchNorm2d. In evaluation nothing is exchanged, not even without running statistics:
    processes may then have different numbers of batches.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        return _forward_globally(self, input)


class GlobalBatchNormAct(BatchNormAct2d):
    """timm's BatchNormAct2d (normalise, drop, activate) with the batch statistics of all processes."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(x)
        return self.act(self.drop(_forward_globally(self, x)))


def _forward_globally(norm: _BatchNorm, x: Tensor) -> Tensor:
    norm._check_input_dim(x)
    y, mean, var, total = _NormalizeGlobally.apply(x, norm.weight, norm.bias, norm.eps)
    if norm.track_running_stats and norm.running_mean is not None and norm.running_var is not None:
        with torch.no_grad():
            momentum: float | Tensor
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            if norm.momentum is None:  # cumulative mean
                assert norm.num_batches_tracked is not None
                momentum = 1.0 / norm.num_batches_tracked.to(mean.dtype)
            else:
                momentum = norm.momentum
            norm.running_mean += momentum * (mean - norm.running_mean).to(norm.running_mean.dtype)
            unbiased = var * (total / (total - 1))
            norm.running_var += momentum * (unbiased - norm.running_var).to(norm.running_var.dtype)
    return y


def convert_global_batch_norm(module: M) -> M:
    """The same module, its batch normalisation layers now with the statistics of all processes; untouched for one.

    For a module on CUDA these are torch's SyncBatchNorm (timm's of it), new layers with the same parameters and keys.
    On a CPU, where torch has none, layers are changed in place. ValueError there for a batch normalisation whose
    forward is its own, because its statistics would silently stay local.
    """
    if world_size() == 1:
        return module
    if any(parameter.is_cuda for parameter in module.parameters()):
        converted: M = convert_sync_batchnorm(module)
        return converted
    for name, layer in module.named_modules():
        if not isinstance(layer, _BatchNorm) or isinstance(layer, (GlobalBatchNorm, GlobalBatchNormAct)):
            continue
        if isinstance(layer, nn.BatchNorm2d) and type(layer).forward is nn.BatchNorm2d.forward:
            layer.__class__ = GlobalBatchNorm
        elif type(layer) is BatchNormAct2d:
            layer.__class__ = GlobalBatchNormAct
        else:
            raise ValueError(
                f"layer {name or '(the module itself)'} is a {type(layer).__name__}: only nn.BatchNorm2d and timm's "
                "BatchNormAct2d can take the statistics of all processes"
            )
    return module
