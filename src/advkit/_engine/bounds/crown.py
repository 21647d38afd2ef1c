"""Bounds on what a network answers while its input moves within a ball: intervals, and linear ones taken backwards."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.bounds.layers import Interval, Step, Weighted, inner
from advkit.norms import Norm

__all__ = ["Around", "interval_margins", "margins"]

_NUMBERS = {"cpu": 2**21}  # in a matrix of linear bounds, so that it stays in the cache
_MORE_NUMBERS = 2**26  # elsewhere: 512 MB in float64


@dataclass(frozen=True)
class Around:
    """The images that an attack may make of each: a ball, intersected with the range of pixels.

    Args:
        images: (N, ...), the centres.
        norm: `norms.Linf`, `norms.L2` or `norms.L1`.
        eps: the radius, a number or (N,).
        low: the lowest value of each pixel: of the bounds, and of the ball.
        high: the highest.
    """

    images: Tensor
    norm: Norm
    eps: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, images: Tensor, norm: Norm, eps: float | Tensor, bounds: tuple[float, float]) -> "Around":
        """The ball of a budget attack."""
        wide = torch.as_tensor(eps, dtype=images.dtype, device=images.device).expand(len(images))
        column = norms.column(wide, images)
        low, high = (images - column).clamp(*bounds), (images + column).clamp(*bounds)
        return cls(images, norm, wide, low, high)

    def rows(self, rows: Tensor) -> "Around":
        """The same for some of the images."""
        return Around(self.images[rows], self.norm, self.eps[rows], self.low[rows], self.high[rows])

    def least(self, matrix: Tensor) -> Tensor:
        """The least value of A . x over the images, or less: (S, N, ...) to (S, N).

        In Linf it is the least value. In L2 and L1 it is the larger of those over the ball and over the box of pixels
        that contains what both have in common.
        """
        least = lowest(matrix, (self.low, self.high))
        if self.norm is norms.Linf:
            return least
        flat = matrix.flatten(2)
        dual = torch.linalg.vector_norm(flat, 2 if self.norm is norms.L2 else torch.inf, dim=2)
        return torch.maximum(least, inner(matrix, self.images) - self.eps * dual)


def lowest(matrix: Tensor, within: Interval) -> Tensor:
    """The least value of A . x over an interval: (S, N, ...) to (S, N)."""
    low, high = within
    return inner(matrix, (low + high) / 2) - inner(matrix.abs(), (high - low) / 2)


def intervals(steps: Sequence[Step], around: Around) -> list[Interval]:
    """The interval of the input of each layer, and of the last one's output."""
    found: list[Interval] = [(around.low, around.high)]
    for step in steps:
        found.append(step.interval(*found[-1]))
    return found


def interval_margins(steps: Sequence[Step], around: Around, labels: Tensor) -> Tensor:
    """What the label's logit is above each other one, at the least, by intervals alone: (N, K), 0 for the label.

    The last affine layers are merged with the difference (Gowal et al., "Scalable verified training for provably robust
    image classification", ICCV 2019: elision).
    """
    known = intervals(steps, around)
    matrix = differences(labels, known[-1][0])
    start = len(steps)
    offset = matrix.new_zeros(matrix.shape[:2])
    while start and steps[start - 1].is_linear:
        start -= 1
        matrix, more = steps[start].back(matrix, known[start])
        offset = offset + more
    return (offset + (lowest(matrix, known[start]) if start else around.least(matrix))).T


def margins(steps: Sequence[Step], around: Around, labels: Tensor) -> Tensor:
    """What the label's logit is above each other one, at the least: (N, K), 0 for the label.

    By CROWN (Zhang et al., "Efficient neural network robustness certification with general activation functions",
    NeurIPS 2018): linear bounds are taken back from the last layer to the image. What a layer's input may be, where it
    is not linear, is found the same way first. Each bound is held against that of intervals, and the better is kept.

    Args:
        steps: the layers.
        around: the images.
        labels: int64 (N,).
    """
    known = intervals(steps, around)
    for place, step in enumerate(steps):
        if not step.is_linear and not _exact(steps[:place], around):
            known[place] = _tightened(steps, around, known, place)
        known[place + 1] = _both(known[place + 1], step.interval(*known[place]))
    return _lower(steps, around, known, len(steps), differences(labels, known[-1][0])).T


def _exact(steps: Sequence[Step], around: Around) -> bool:
    """Whether the interval behind these layers is as narrow as can be: behind one with weights, in Linf."""
    weighted = sum(isinstance(step, Weighted) for step in steps)
    return all(step.is_linear for step in steps) and weighted <= (1 if around.norm is norms.Linf else 0)


def differences(labels: Tensor, logits: Tensor) -> Tensor:
    """The rows that take logits (N, K) to what the label's is above each: (K, N, K)."""
    classes = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
    return classes[labels] - classes[:, None]


def _tightened(steps: Sequence[Step], around: Around, known: Sequence[Interval], place: int) -> Interval:
    """The interval of a layer's input, where it matters."""
    low, high = (part.flatten(1).clone() for part in known[place])
    matters = steps[place].matters(low, high)
    most = int(matters.sum(1).max()) if len(low) else 0
    if not most:
        return known[place]
    # The features that matter come first; an image with fewer of them has others in their stead, to no harm.
    features = matters.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
    widest = max(part[0][0].numel() for part in known[: place + 1])
    at_a_time = max(1, _NUMBERS.get(low.device.type, _MORE_NUMBERS) // (2 * widest * len(low)))
    for some in features.split(at_a_time, 1):
        rows = low.new_zeros(some.shape[1], *low.shape)
        rows.scatter_(2, some.T[..., None], 1.0)
        rows = torch.cat([rows, -rows]).view(-1, *known[place][0].shape)
        lower, upper = _lower(steps, around, known, place, rows).view(2, *some.T.shape)
        low.scatter_(1, some, torch.maximum(low.gather(1, some), lower.T))
        high.scatter_(1, some, torch.minimum(high.gather(1, some), -upper.T))
    return low.view_as(known[place][0]), high.view_as(known[place][0])


def _lower(steps: Sequence[Step], around: Around, known: Sequence[Interval], place: int, matrix: Tensor) -> Tensor:
    """The best lower bound of A . x, x the input of a layer: (S, N, ...) to (S, N)."""
    offset = matrix.new_zeros(matrix.shape[:2])
    best = lowest(matrix, known[place])
    for at in range(place - 1, -1, -1):
        matrix, more = steps[at].back(matrix, known[at])
        offset = offset + more
        # By intervals, with the last linear layers merged, and in the end by those of the image.
        if at and steps[at].is_linear and not steps[at - 1].is_linear and all(s.is_linear for s in steps[at:place]):
            best = torch.maximum(best, offset + lowest(matrix, known[at]))
    return torch.maximum(best, offset + around.least(matrix))


def _both(one: Interval, other: Interval) -> Interval:
    return torch.maximum(one[0], other[0]), torch.minimum(one[1], other[1])
