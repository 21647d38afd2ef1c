"""How far it is to other classes, as far as one look at the model tells.

Near x the lead of one class over another is about gap + gradient . changes, so that its boundary is a hyperplane,
|gap| / ||gradient||_q away in a norm p with 1/p + 1/q = 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit.norms import Norm, column

__all__ = ["Boundaries", "dot", "dual_size", "linear_distances", "nearest_boundaries"]


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: (n, ...) and (n, ...) to (n,)."""
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True)
class Boundaries:
    """The boundaries of the linearised model.

    Attributes:
        distances: (n, m), how far each is; infinite where its slope says nothing.
        slopes: (n, m), the dual norm of each gap's gradient.
        gradient: (n, ...), of the gap of the nearest one, which closes along minus it; 0 where none has a distance.
        gap: (n,), of the nearest one; 0 where none has a distance.
    """

    distances: Tensor
    slopes: Tensor
    gradient: Tensor
    gap: Tensor

    @property
    def distance(self) -> Tensor:
        """To the nearest: (n,)."""
        return self.distances.amin(1)


def nearest_boundaries(
    model: Classifier,
    x: Tensor,
    gaps: Sequence[Tensor],
    norm: Norm,
    length: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Boundaries:
    """Linearise gaps, one backward each, and say which boundary is nearest. One gradient is in memory at a time.

    Args:
        model: that was asked about ``x``.
        x: (n, ...), the leaf of the graph.
        gaps: m of (n,), by how much each class is behind; with their graph, which is gone afterwards. One that is
            ahead has a negative gap, and a negative distance: give the absolute values to look both ways.
        norm: in which to measure.
        length: how far a boundary is, (n,), from its gap (n,) and the gap's gradient (n, ...), where that is not the
            distance in the norm: because of the box, for one.
    """
    nearest = torch.full(x.shape[:1], torch.inf, dtype=x.dtype, device=x.device)
    steepest, closing = torch.zeros_like(x), torch.zeros_like(nearest)
    distances, slopes = [], []
    for left, gap in zip(range(len(gaps))[::-1], gaps, strict=True):
        gradient = model.gradient(gap, x, keep_graph=left > 0)
        gap = gap.detach()
        steepness = dual_size(gradient, norm)
        far = linear_distances(gap, steepness)
        if length is not None:
            far = length(gap, gradient).where(far.isfinite(), torch.inf)
        steepest = gradient.where(column(far < nearest, x), steepest)
        closing = gap.where(far < nearest, closing)
        nearest = nearest.minimum(far)
        distances.append(far)
        slopes.append(steepness)
        del gradient
    return Boundaries(torch.stack(distances, 1), torch.stack(slopes, 1), steepest, closing)


def dual_size(gradient: Tensor, norm: Norm) -> Tensor:
    """How fast a gap with this gradient (n, ...) can close when a step has size 1 in the norm: (n,)."""
    return norm.dual.size(gradient)


def linear_distances(gaps: Tensor, slopes: Tensor) -> Tensor:
    """How far boundaries are, from gaps and slopes of the same shape: infinite where a slope says nothing."""
    return (gaps / slopes).where((slopes > 0) & slopes.isfinite() & gaps.isfinite(), torch.inf)
