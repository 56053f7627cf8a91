"""The weighted sum of normalised operations that enter a node, without any of its terms.

A node of a supernet is T = sum_k w_k BatchNorm(W_k u_k): each candidate operation ends in a 1x1 convolution W_k (the
identity for pooling and skipping with stride 2) and a BatchNorm without scale and shift. Layer by layer each term is
written and read many times: convolved, normalised, weighted, added. But mean and variance of z_k = W_k u_k over the
batch follow from those of u_k, which is a small matrix:

    mean z = W m          m = mean of u, (C,)
    var z  = diag(W S W') S = covariance of u, (C, C)

so T = sum_k u_k A_k' - shift with A_k = (w_k / sqrt(var z + eps)) W_k row by row and shift = sum_k A_k m_k: one matrix
product a term into one sum. Nothing but the u_k is kept for the backward pass. There, with G the gradient of T,

    dA_k = G' u_k - (sum G) m_k'           and with dS, dm through A_k as a function of W, S, m and w
    du_k = G A_k + u_k (dS + dS') / M + ...   one product each

The mathematics is that of the layers; float32 agrees with them to the last digits (tests/test_mixed_sum.py).

Letters: M = N H W positions, C channels, K terms.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nas_zoo.models.operations import DilatedConv, FactorizedReduce, NormalizedPool, SeparableConv, StackedConv

__all__ = ["can_split", "mixed_sum", "split", "update_statistics"]

#: What each operation of the search form ends in: (1x1 convolution or None, BatchNorm), by the names of its layers.
_LAST_LAYERS: dict[type[nn.Module], tuple[str | None, str]] = {
    SeparableConv: ("pw2", "bn2"),
    DilatedConv: ("pw", "bn"),
    StackedConv: (None, "bn"),
    FactorizedReduce: (None, "bn"),
    NormalizedPool: (None, "bn"),
}


def can_split(op: nn.Module) -> bool:
    """Whether the operation ends as the mixed sum wants it: all of ours but nn.Identity, none from outside."""
    return type(op) in _LAST_LAYERS


def split(op: nn.Module) -> tuple[nn.Module, Tensor | None, nn.Module]:
    """What gives u_k; W_k as (C, C, 1, 1), or None for the identity; the BatchNorm. Of those that ``can_split``.

    The first is the operation itself, with the same layers but for the last ones.
    """
    conv, norm = _LAST_LAYERS[type(op)]
    layers: dict[str, Any] = dict(op.named_children())
    weight = None if conv is None else layers[conv].weight
    start = copy.copy(op)  # shallow: it has the same layers, and until the next line even the same dictionary of them
    start._modules = {name: nn.Identity() if name in (conv, norm) else layer for name, layer in layers.items()}
    return start, weight, layers[norm]


def _rows(x: Tensor) -> Tensor:
    """(N, C, H, W) in channels_last as its (M, C), without a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _coefficients(
    weight_KCC: Tensor, mean_KC: Tensor, cov_KCC: Tensor, mix_K: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """A (K, C, C), mean of z (K, C) and variance of z (K, C)."""
    mean_z = torch.einsum("koi,ki->ko", weight_KCC, mean_KC)
    var_z = ((weight_KCC @ cov_KCC) * weight_KCC).sum(-1).clamp_min(0.0)
    factor = mix_K[:, None] * (var_z + eps).rsqrt()
    return factor[:, :, None] * weight_KCC, mean_z, var_z


class _MixedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, eps: float, weight_KCC: Tensor, mix_K: Tensor, *terms: Tensor) -> tuple[Tensor, ...]:
        n, c, h, w = terms[0].shape
        rows = [_rows(term) for term in terms]
        count = rows[0].shape[0]
        mean_KC = torch.stack([u.sum(0) for u in rows]) / count
        cov_KCC = torch.stack([u.t() @ u for u in rows]) / count - mean_KC[:, :, None] * mean_KC[:, None, :]
        a_KCC, mean_z, var_z = _coefficients(weight_KCC, mean_KC, cov_KCC, mix_K, eps)
        shift = torch.einsum("koi,ki->o", a_KCC, mean_KC)
        total = torch.addmm(-shift, rows[0], a_KCC[0].t())
        for u, a in zip(rows[1:], a_KCC[1:], strict=True):
            total.addmm_(u, a.t())
        ctx.eps = eps
        ctx.save_for_backward(weight_KCC, mix_K, mean_KC, cov_KCC, a_KCC, *terms)
        ctx.mark_non_differentiable(mean_z, var_z)
        return total.view(n, h, w, c).permute(0, 3, 1, 2), mean_z, var_z

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight_KCC, mix_K, mean_KC, cov_KCC, a_KCC, *terms = ctx.saved_tensors
        n, c, h, w = terms[0].shape
        grad = _rows(grads[0].contiguous(memory_format=torch.channels_last))
        rows = [_rows(term) for term in terms]
        count = grad.shape[0]

        # T = sum_k (u_k - m_k) A_k'
        sum_C = grad.sum(0)
        da_KCC = torch.stack([grad.t() @ u for u in rows]) - sum_C[:, None] * mean_KC[:, None, :]
        with torch.enable_grad():
            small = [t.detach().requires_grad_() for t in (weight_KCC, cov_KCC, mix_K)]
            a, _, _ = _coefficients(small[0], mean_KC, small[1], small[2], ctx.eps)
            d_weight, d_cov, d_mix = torch.autograd.grad(a, small, da_KCC)
        # cov = u'u / M - m m': du = (u - m) (dS + dS') / M
        spread = (d_cov + d_cov.transpose(1, 2)) / count
        # the mean of (u - m) A' is 0, so m passes the mean of G A on, with the other sign
        offset = -torch.einsum("ki,kij->kj", mean_KC, spread) - torch.einsum("o,koi->ki", sum_C / count, a_KCC)
        d_terms: list[Tensor | None] = []
        for k, u in enumerate(rows):
            if not ctx.needs_input_grad[3 + k]:
                d_terms.append(None)
                continue
            du = torch.addmm(offset[k], grad, a_KCC[k])
            du.addmm_(u, spread[k])
            d_terms.append(du.view(n, h, w, c).permute(0, 3, 1, 2))
        return (
            None,
            d_weight if ctx.needs_input_grad[1] else None,
            d_mix if ctx.needs_input_grad[2] else None,
            *d_terms,
        )


def mixed_sum(terms: list[Tensor], weights: list[Tensor | None], mix_K: Tensor, norms: list[nn.Module]) -> Tensor:
    """sum_k mix_k BatchNorm_k(W_k u_k) in training mode, (N, C, H, W); running statistics are updated.

    Args:
        terms: u_k, (N, C, H, W) each, channels_last.
        weights: W_k of the 1x1 convolution, (C, C, 1, 1); None: the identity.
        mix_K: (K,) the factors.
        norms: The BatchNorms, without scale and shift, all with one eps.
    """
    c, like = terms[0].shape[1], terms[0]
    identity = torch.eye(c, dtype=like.dtype, device=like.device)
    weight_KCC = torch.stack([identity if weight is None else weight.flatten(1) for weight in weights])
    eps: Any = norms[0].eps
    total, mean_z, var_z = _MixedSum.apply(eps, weight_KCC, mix_K, *terms)
    update_statistics(norms, mean_z, var_z, like.numel() // c)
    return total


@torch.no_grad()
def update_statistics(norms: list[Any], mean_KC: Tensor, var_KC: Tensor, count: int) -> None:
    """Running statistics of each BatchNorm as its own training pass over these batch statistics would leave them."""
    tracked = [k for k, norm in enumerate(norms) if norm.track_running_stats and norm.running_mean is not None]
    if not tracked:
        return
    var_KC = var_KC * (count / (count - 1))
    for k in tracked:
        norm: _BatchNorm = norms[k]
        assert norm.running_mean is not None
        assert norm.running_var is not None
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        part = norm.momentum
        if part is None:  # cumulative mean
            assert norm.num_batches_tracked is not None
            part = 1.0 / float(norm.num_batches_tracked)
        norm.running_mean.lerp_(mean_KC[k].to(norm.running_mean.dtype), part)
        norm.running_var.lerp_(var_KC[k].to(norm.running_var.dtype), part)
