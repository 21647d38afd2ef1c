"""The closest point to an image beyond a hyperplane that lies in the box and within a radius of where a row stands.

    min ||z - x0||_p   such that   gap + slope . (z - x) <= 0,   low <= z <= high,   ||z - x||_2 <= radius

Without the radius but with a price for ||z - x||_2, the pixels are coupled by the hyperplane alone, and there is a
closed form, or one number to be halved for: each norm has its own (`Rule`). The price at which the radius is met is
found by a few steps of a secant, since the way grows with boldness, which is what a low price comes to.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.boundaries import dot, dual_size
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.norms import L1, L2, Linf, Norm, column

__all__ = ["Rule", "rule"]

_SECANTS = 4
_HALVINGS = 16  # of the range that a multiplier lies in, on a scale of powers
_CHEAP, _DEAR = 1e-3, 1e5  # its ends, for a slope whose steepest entry is 1


class Rule(ABC):
    """How to come closer to an image in a norm.

    Args:
        bounds: of the pixels.
    """

    boldest: float = 1.0

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.low, self.high = bounds

    @abstractmethod
    def bold(self, x: Tensor, originals: Tensor, slope: Tensor, gap: Tensor, boldness: Tensor) -> Tensor:
        """The point that the norm prefers, (n, ...): at a boldness (n,) of 0 about the closest to x that is beyond.

        Args:
            x: (n, ...), where rows stand.
            originals: (n, ...).
            slope: (n, ...), of the hyperplane; its steepest entry is 1.
            gap: (n,), at x.
            boldness: (n,), up to `boldest`.
        """

    @abstractmethod
    def between(self, originals: Tensor, far: Tensor, share: Tensor) -> Tensor:
        """Images a share (n,) of the way from the originals to those that are far away: (n, ...)."""

    def step(self, x: Tensor, originals: Tensor, slope: Tensor, gap: Tensor, radius: Tensor) -> Tensor:
        """Where rows go: (n, ...). Towards the hyperplane as far as the radius, (n,), allows, if that is not there."""
        tiny = torch.finfo(x.dtype).tiny
        steepest = dual_size(slope, L1)
        slope, gap = slope / column(steepest.clamp_min(tiny), slope), gap / steepest.clamp_min(tiny)
        across = self._onto(x, slope, gap)
        least = L2.distance(across, x)
        boldness = (radius / L2.distance(originals, x).clamp_min(tiny)).clamp_max(self.boldest)
        for _ in range(_SECANTS):
            found = self.bold(x, originals, slope, gap, boldness)
            way = L2.distance(found, x).square() - least.square()
            room = (radius.square() - least.square()).clamp_min(0)
            boldness = (boldness * (room / way.clamp_min(tiny)).sqrt().clamp(0.1, 10)).clamp_max(self.boldest)
        found = self.bold(x, originals, slope, gap, boldness)
        found = found.where(column(least < radius, x), across)
        share = (radius / L2.distance(found, x).clamp_min(tiny)).clamp_max(1)
        return torch.lerp(x, found, column(share, x)).clamp(self.low, self.high)

    def _onto(self, x: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
        """The closest point in L2 that is in the box and beyond the hyperplane: (n, ...)."""
        return x + step_to_hyperplane(L2, x, slope, gap.clamp_min(0), (self.low, self.high))


class _Straight(Rule):
    """L2: the closest point to a point on the straight way to the image."""

    def bold(self, x: Tensor, originals: Tensor, slope: Tensor, gap: Tensor, boldness: Tensor) -> Tensor:
        ahead = torch.lerp(x, originals, column(boldness, x))
        return self._onto(ahead, slope, gap + dot(slope, ahead - x))

    def between(self, originals: Tensor, far: Tensor, share: Tensor) -> Tensor:
        return torch.lerp(originals, far, column(share, far))


class _Cube(Rule):
    """Linf: the closest point in a cube about the image that is so much smaller."""

    def bold(self, x: Tensor, originals: Tensor, slope: Tensor, gap: Tensor, boldness: Tensor) -> Tensor:
        side = column((1 - boldness) * Linf.distance(x, originals), x)
        low, high = (originals - side).clamp_min(self.low), (originals + side).clamp_max(self.high)
        ahead = x.clamp(low, high)
        gap = (gap + dot(slope, ahead - x)).clamp_min(0)
        # The box [0, 1] for each pixel of the cube: a step there is one here times the length of its side.
        length = (high - low).clamp_min(torch.finfo(x.dtype).tiny)
        inside = ((ahead - low) / length).clamp(0, 1)
        return ahead + length * step_to_hyperplane(L2, inside, slope * length, gap, (0.0, 1.0))

    def between(self, originals: Tensor, far: Tensor, share: Tensor) -> Tensor:
        side = column(share * Linf.distance(far, originals), far)
        return originals + (far - originals).clamp(-side, side)


class _Multiplied(Rule):
    """Each pixel for itself, with a multiplier for what it does to the margin that is found by halving."""

    boldest = 1e6
    mixed: bool  # whether what lies between two answers is an answer

    def bold(self, x: Tensor, originals: Tensor, slope: Tensor, gap: Tensor, boldness: Tensor) -> Tensor:
        reach = column(boldness * (self.high - self.low), x)
        low, high = torch.full_like(gap, _CHEAP), torch.full_like(gap, _DEAR)
        for _ in range(_HALVINGS):
            middle = (low * high).sqrt()
            short = gap + dot(slope, self.moved(x, originals, slope * column(middle, x), reach) - x) > 0
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        far = self.moved(x, originals, slope * column(high, x), reach)
        if not self.mixed:
            return far
        near = self.moved(x, originals, slope * column(low, x), reach)
        left, beyond = gap + dot(slope, near - x), gap + dot(slope, far - x)
        share = (left / (left - beyond).clamp_min(torch.finfo(gap.dtype).tiny)).clamp(0, 1)
        return torch.lerp(near, far, column(share, near))

    @abstractmethod
    def moved(self, x: Tensor, originals: Tensor, force: Tensor, reach: Tensor) -> Tensor:
        """Where each pixel goes against a force, (n, ...), at a price of its way squared over 2 reach: (n, ...)."""


class _Shrunk(_Multiplied):
    """L1: shrinkage."""

    mixed = True

    def moved(self, x: Tensor, originals: Tensor, force: Tensor, reach: Tensor) -> Tensor:
        change = x - reach * force - originals
        shrunk = change.sign() * (change.abs() - reach).clamp_min(0)
        return (originals + shrunk).clamp(self.low, self.high)

    def between(self, originals: Tensor, far: Tensor, share: Tensor) -> Tensor:
        return torch.lerp(originals, far, column(share, far))


class _Dropped(_Multiplied):
    """L0: each pixel is what it was in the image, or pays 1."""

    mixed = False

    def moved(self, x: Tensor, originals: Tensor, force: Tensor, reach: Tensor) -> Tensor:
        free = (x - reach * force).clamp(self.low, self.high)
        stays = 1 + (free - x).square() / (2 * reach) + force * (free - x)
        drops = (originals - x).square() / (2 * reach) + force * (originals - x)
        return originals.where(drops <= stays, free)

    def between(self, originals: Tensor, far: Tensor, share: Tensor) -> Tensor:
        change = (far - originals).flatten(1)
        rank = change.abs().argsort(dim=1, descending=True, stable=True).argsort(1)
        kept = rank < column(share * change.shape[1], change)
        return originals + change.where(kept, 0).view_as(originals)


_RULES: dict[Norm, type[Rule]] = {norms.L2: _Straight, norms.Linf: _Cube, norms.L1: _Shrunk, norms.L0: _Dropped}


def rule(norm: Norm, bounds: tuple[float, float]) -> Rule:
    """The rule of a norm."""
    return _RULES[norm](bounds)
