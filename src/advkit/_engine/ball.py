"""Balls about images, cut by the box of the pixels: the points that a budget allows."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import norms
from advkit.norms import Norm, column

__all__ = ["Ball", "L0Ball", "L1Ball", "L2Ball", "LinfBall"]


@dataclass(frozen=True)
class Ball(ABC):
    """The points within ``eps`` of each image in some norm, and within the bounds. See `Ball.of`.

    Args:
        originals: (n, ...), the centres.
        eps: the radius, one for all rows or (n,).
        bounds: the lowest and the highest value of a pixel.

    Examples:
        >>> from advkit.parts import Ball
        >>> ball = Ball.of("linf", torch.tensor([[0.5, 0.9]]), 0.25, bounds=(0, 1))
        >>> ball.project(torch.tensor([[0.0, 2.0]]))
        tensor([[0.2500, 1.0000]])
    """

    originals: Tensor
    eps: float | Tensor
    bounds: tuple[float, float]

    @staticmethod
    def of(norm: str | Norm, originals: Tensor, eps: float | Tensor, bounds: tuple[float, float]) -> "Ball":
        """The ball of this norm: "linf", "l2", "l1" or "l0", or the norm itself."""
        return _BALLS[norms.get(norm)](originals, eps, bounds)

    @property
    @abstractmethod
    def norm(self) -> Norm:
        """The norm of the ball."""

    @property
    def middle(self) -> Tensor:
        """The point about which mirroring keeps most points inside: (n, ...), the centres."""
        return self.originals

    def project(self, x: Tensor) -> Tensor:
        """Points ``x`` (n, ...), which may be overwritten, projected onto the ball and then onto the box.

        That is for a norm in which projecting onto the box moves no point further from the centre.
        """
        return self.norm.project(x.sub_(self.originals), self.eps).add_(self.originals).clamp_(*self.bounds)

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """A point for each row, drawn uniformly from the ball and projected onto the box: (n, ...)."""
        noise = self.norm.sample(self.originals, generator) * column(self.eps, self.originals)
        return self.project(noise.add_(self.originals))

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows: int64 indices, or bool (n,)."""
        return type(self)(self.originals[index], _taken(self.eps, index), self.bounds)


def _taken(value: float | Tensor, index: Tensor) -> float | Tensor:
    return value[index] if isinstance(value, Tensor) and value.ndim else value


class LinfBall(Ball):
    """The Linf ball: a box itself, so that one clamp projects a point onto it and the pixels' box.

    Examples:
        >>> from advkit.parts import LinfBall
        >>> ball = LinfBall(torch.tensor([[0.5, 0.9]]), 0.25, bounds=(0, 1))
        >>> ball.lowest, ball.highest
        (tensor([[0.2500, 0.6500]]), tensor([[0.7500, 1.0000]]))
    """

    norm = norms.Linf
    lowest: Tensor  # (n, ...)
    highest: Tensor  # (n, ...)

    def __init__(self, originals: Tensor, eps: float | Tensor, bounds: tuple[float, float]) -> None:
        super().__init__(originals, eps, bounds)
        radius, (low, high) = column(eps, originals), bounds
        self.__dict__.update(
            lowest=(originals - radius).clamp_(min=low),
            highest=(originals + radius).clamp_(max=high),
        )

    @property
    def middle(self) -> Tensor:
        """The centre of the part of the ball within the bounds: (n, ...)."""
        return (self.lowest + self.highest) / 2

    def project(self, x: Tensor) -> Tensor:
        return x.clamp_(self.lowest, self.highest)

    def held(self, free: Tensor) -> Self:
        """The same ball, with the pixels that are not ``free``, bool (n, ...), fixed."""
        ball = type(self)(self.originals, self.eps, self.bounds)
        ball.__dict__.update({name: getattr(self, name).where(free, self.originals) for name in ("lowest", "highest")})
        return ball


class L2Ball(Ball):
    """The L2 ball: a point is projected onto the ball, then onto the box, which moves it no further from the centre.

    Examples:
        >>> from advkit.parts import L2Ball
        >>> L2Ball(torch.zeros(1, 2), 0.5, bounds=(0, 1)).project(torch.tensor([[0.6, 0.8]]))
        tensor([[0.3000, 0.4000]])
    """

    norm = norms.L2


class L1Ball(Ball):
    """The L1 ball: a point is projected, in L2, onto the intersection of the ball and the box.

    With y = x - original and c_i the room that the box leaves in the direction of y_i, the answer moves feature i
    by min(max(|y_i| - t, 0), c_i) in that direction, with the least t >= 0 that makes the sum s(t) of these
    at most eps. s is piecewise linear; its slope changes by -1 at |y_i| and by +1 at |y_i| - c_i, which
    are sorted and summed up from the largest down.

    Examples:
        >>> from advkit.parts import L1Ball
        >>> L1Ball(torch.zeros(1, 2), 0.5, bounds=(0, 1)).project(torch.tensor([[0.6, 0.8]]))
        tensor([[0.1500, 0.3500]])
    """

    norm = norms.L1

    def project(self, x: Tensor) -> Tensor:
        low, high = self.bounds
        centre = self.originals.flatten(1)
        y = x.flatten(1) - centre
        magnitudes, room = y.abs(), torch.where(y > 0, high - centre, centre - low)
        unit = torch.finfo(y.dtype).eps
        eps = y.new_zeros(len(y), 1).add_(column(self.eps, y))
        eps = eps * (1 - 8 * unit)  # room for what a sum over the features rounds off

        ends = torch.cat([magnitudes, (magnitudes - room).clamp_min(0), torch.zeros_like(eps)], 1)
        knots, which = ends.sort(dim=1, descending=True, stable=True)
        slopes = torch.where(which < y.shape[1], 1.0, -1.0).to(y.dtype).cumsum(1)[:, :-1]
        sums = (slopes * -knots.diff(dim=1)).cumsum(1)  # s at the second knot and those after it
        last = (sums < eps).sum(1, keepdim=True).clamp_max(sums.shape[1] - 1)
        slope, threshold = slopes.gather(1, last).clamp_min(1), knots.gather(1, last + 1)
        excess = sums.gather(1, last) - eps
        for _ in range(2):  # the second time for what the running sum has rounded off
            threshold = (threshold + excess / slope).clamp_min(0)
            moved = (magnitudes - threshold).clamp_min(0).minimum(room)
            size = moved.sum(1, keepdim=True)
            excess = size - eps
        moved = moved * (eps / size.clamp_min(torch.finfo(y.dtype).tiny)).clamp_max(1)  # the threshold is rounded too
        found = centre + moved.copysign(y)
        too_far = (found - centre).abs() > moved  # rounded outwards: over many features that would leave the ball
        inner = found - (found.abs() * unit).copysign(y)
        return torch.where(too_far, inner, found).clamp(low, high).view_as(x)


class L0Ball(Ball):
    """The L0 ball: the features that changed least are reset, then the others are clipped to the box.

    Examples:
        >>> from advkit.parts import L0Ball
        >>> L0Ball(torch.tensor([[0.0, 0.5, 0.5]]), 1, bounds=(0, 1)).project(torch.tensor([[0.0, 2.0, 0.75]]))
        tensor([[0.0000, 1.0000, 0.5000]])
    """

    norm = norms.L0


_BALLS: dict[Norm, Callable[[Tensor, float | Tensor, tuple[float, float]], Ball]] = {
    norms.Linf: LinfBall,
    norms.L2: L2Ball,
    norms.L1: L1Ball,
    norms.L0: L0Ball,
}
