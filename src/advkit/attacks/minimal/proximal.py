"""Shrinking a change by a norm, where every feature resists by a weight of its own."""

import torch
from torch import Tensor

from advkit import norms
from advkit.norms import Norm

__all__ = ["proximal"]

_NEWTON, _LEAST = 8, 1e-6  # steps, and where they begin, over the norm of the change


def proximal(norm: Norm, change: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """The z with the least weight * ||z|| + sum_i scale_i * (z_i - change_i)^2 / 2: (n, ...).

    No feature of it is larger than that of the change, or has another sign, so that it stays in the box.

    Args:
        norm: L1, L2 or Linf.
        change: (n, ...).
        scale: (n, ...), positive.
        weight: (n,), at least 0.
    """
    shrunk = _SHRUNK[norm](change.abs().flatten(1), scale.flatten(1), weight.unsqueeze(1))
    return shrunk.view_as(change).copysign(change)


def _l1(size: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """Each feature by itself."""
    return (size - weight / scale).clamp_min(0)


def _linf(size: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """All that are larger than t become t, where sum_i scale_i * max(size_i - t, 0) = weight."""
    # For the k largest alone t would be (sum of scale * size - weight) / sum of scale: that is most for the right k.
    largest, order = size.sort(1, descending=True)
    scales = scale.gather(1, order)
    levels = ((scales * largest).cumsum(1) - weight) / scales.cumsum(1)
    return size.minimum(levels.amax(1, keepdim=True).clamp_min(0))


def _l2(size: Tensor, scale: Tensor, weight: Tensor) -> Tensor:
    """z_i = s * p_i, with p_i = scale_i * size_i / (scale_i * s + weight) and s the L2 norm of z: where ||p|| = 1."""
    tiny = torch.finfo(size.dtype).tiny
    s = start = _LEAST * torch.linalg.vector_norm(size, dim=1, keepdim=True)
    for _ in range(_NEWTON):  # on 1 / ||p|| = 1, whose left side is concave in s: from the left, never beyond
        resistance = (scale * s + weight).clamp_min(tiny)
        p = scale * size / resistance
        square = (p * p).sum(1, keepdim=True)
        slope = (p * p * (scale / resistance)).sum(1, keepdim=True)
        s = s + ((square.sqrt() - 1) * square / slope.clamp_min(tiny)).clamp_min(0)
    s = s.where(s > start, 0)
    z: Tensor = scale * size * s / (scale * s + weight).clamp_min(tiny)
    return z


_SHRUNK = {norms.L1: _l1, norms.Linf: _linf, norms.L2: _l2}
