"""What a minimal attack makes small, and how it solves for that with the margin taken as linear: one for each norm."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.boundaries import dot
from advkit._engine.classifier import Classifier
from advkit.attacks.minimal.tanh_box import TanhBox
from advkit.goals import Goal
from advkit.norms import L1, L2, Norm, column

__all__ = ["LARGEST_C", "ElasticNet", "Objective", "SquaredL2", "WeightedL1"]

LARGEST_C = 1e10  # for logits of about 1 and pixels in [0, 1]
_HALVINGS = 10  # of the range that a multiplier lies in, on a scale of powers


class Objective(ABC):
    """What an attack makes small, and how it moves pixels. Changes are x' - x, (n, ...), in units of pixels."""

    norm: ClassVar[Norm]
    memory: float  # how much of the mean tangent a step keeps
    first: float  # the part of the way to the solution that the first step of a search goes
    overshoot: float  # how far behind the boundary to aim, over the margin at the original
    promising = 1.5  # a class further than this, over the best so far, is not tried
    losing = 1.05  # and one that is further than this on the way is given up
    overlooked = 0.95  # a walk from afar that ends this close, over the best, says that the search was wrong
    beginnings: tuple[float, ...] = ()  # shares of the features that countdowns begin with, before all other searches
    returns = 0  # how many searches begin beyond the closest success, in the end
    follows = 0  # and how often the boundary is followed home from there, after that

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.low, self.high = bounds
        area = (self.high - self.low) ** 2  # the unit of a c, where margins are of about 1
        self.smallest_c, self.largest_c = area / LARGEST_C, area * LARGEST_C

    def size(self, changes: Tensor) -> Tensor:
        """How large changes are: (n, ...) to (n,). In the norm, if not in something of their own."""
        return self.norm.size(changes)

    @abstractmethod
    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """The smallest changes with level + slope . changes <= 0, and the multiplier that they take.

        Args:
            x: where the rows stand, (n, ...).
            originals: (n, ...), where their changes are counted from.
            slope: of the linearised margin, (n, ...).
            level: the linearised margin at the originals, (n,).
            most: the largest multiplier allowed, for all or (n,): the c of the penalty.
        """

    def move(self, x: Tensor, by: Tensor) -> Tensor:
        """The images x + by, both (n, ...), to first order in ``by`` and inside the bounds: clipped, if not bent."""
        return (x + by).clamp(self.low, self.high)

    def at(self, fraction: float) -> "Objective":
        """What a step goes by that is this part of the first, where that makes a difference."""
        return self

    def approach(self, x: Tensor, originals: Tensor, wanted: Tensor, fraction: float) -> Tensor:
        """The images a part of the way from x to where the changes are those wanted, all (n, ...)."""
        return self.move(x, fraction * (wanted - (x - originals)))

    def trimmed(self, model: Classifier, images: Tensor, originals: Tensor, goal: Goal) -> Tensor:
        """Successes, (n, ...), with no more of the changes than they need, where steps cannot see to that."""
        return images


class SquaredL2(Objective):
    """||x' - x||^2, and steps in the variable of the box by tanh."""

    norm = L2
    memory = 0.8
    first = 0.5
    overshoot = 1e-3

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__(bounds)
        self.box = TanhBox(bounds)

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """One multiplier for all pixels that are free, and the ones at a bound where they are."""
        # Stationary where 2 * changes + c * slope = 0. A pixel at a bound that is pushed further stays there.
        stuck = ((x <= self.low) & (slope > 0)) | ((x >= self.high) & (slope < 0))
        changes = (x - originals).where(stuck, 0)
        free = slope.where(~stuck, 0)
        tiny = torch.finfo(slope.dtype).tiny
        multiplier = (2 * (level + dot(slope, changes)) / dot(free, free).clamp_min(tiny)).clamp_min(0).clamp_max(most)
        return changes - column(multiplier / 2, free) * free, multiplier

    def move(self, x: Tensor, by: Tensor) -> Tensor:
        """In w, by what ``by`` is there to first order."""
        return self.box.towards(x, by)


class WeightedL1(Objective):
    """||x' - x||_2^2 + weight * ||x' - x||_1 in the box, and L1 to choose by."""

    norm = L1
    memory = 0.95
    first = 1.0
    overshoot = 1e-2
    overlooked = 0.75

    def __init__(self, bounds: tuple[float, float], weight: float) -> None:
        super().__init__(bounds)
        self.weight = weight

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Each pixel by shrinkage, up to the end of the box, and the multiplier by halving."""
        # Each pixel moves against its slope, by the shrinkage of multiplier * |slope| / 2, up to the end of the box.
        # The margin falls as the multiplier rises, so halving finds where it is met; on a scale of powers.
        steep = slope.abs()
        room = torch.where(slope > 0, originals - self.low, self.high - originals)
        first = self.weight / steep.flatten(1).amax(1).clamp_min(torch.finfo(slope.dtype).tiny)
        low = first.clamp(self.smallest_c, self.largest_c)
        known = isinstance(most, Tensor)
        high = torch.zeros_like(low).add_(most)  # a number that travelled to a GPU would be waited for
        for _ in range(_HALVINGS if known else 3 * _HALVINGS):
            middle = low.sqrt() * high.sqrt()
            short = dot(steep, self._moved(steep, room, middle)) < level
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        # The margin that is asked for lies between the two ends, so it is met by a mixture of them.
        near, far = self._moved(steep, room, low), self._moved(steep, room, high)
        fall = dot(steep, near)
        span = (dot(steep, far) - fall).clamp_min(torch.finfo(slope.dtype).tiny)
        share = ((level - fall) / span).clamp(0, 1)
        return -slope.sign() * torch.lerp(near, far, column(share, near)), high

    def _moved(self, steep: Tensor, room: Tensor, multiplier: Tensor) -> Tensor:
        """How far each pixel moves: (n, ...)."""
        return ((column(multiplier, steep) * steep - self.weight) / 2).clamp_min(0).minimum(room)


class ElasticNet(WeightedL1):
    """The same, and the elastic net to choose by."""

    def __init__(self, bounds: tuple[float, float], weight: float, beta: float) -> None:
        super().__init__(bounds, weight)
        self.beta = beta

    def size(self, changes: Tensor) -> Tensor:
        """The elastic net."""
        return dot(changes, changes) + self.beta * L1.size(changes)
