"""What `Minimal` makes small where Carlini & Wagner's objective will not do: Linf, L1 and L0."""

from copy import copy

import torch
from torch import Tensor

from advkit._engine.boundaries import dot, dual_size
from advkit._engine.classifier import Classifier
from advkit.attacks.minimal.countdown import to_the_ends
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.attacks.minimal.objectives import Objective
from advkit.attacks.minimal.pruning import pruned
from advkit.goals import Goal
from advkit.norms import L0, L1, Linf, column

__all__ = ["Count", "Largest", "Sum"]

_HALVINGS = 16  # of the range that a multiplier lies in, on a scale of powers
_CHEAP, _DEAR = 1e-3, 1e5  # its ends, where the steepest pixel moves from 1 on
_REACH = 0.3  # how far a pixel goes in the first step where the multiplier is twice what moves it, over the range


class Largest(Objective):
    """The largest change of a pixel, which needs no limit to its multiplier: the box is one."""

    norm = Linf
    memory = 0.9
    first = 1.0
    overshoot = 1e-3
    follows = 1

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """All pixels as far as each other, or to their ends."""
        changes = step_to_hyperplane(Linf, originals, slope, level.clamp_min(0), (self.low, self.high))
        return changes, 1 / dual_size(slope, Linf).clamp_min(torch.finfo(slope.dtype).tiny)


class Sum(Objective):
    """The sum of all changes, with steps that die out: ||d||_1 + ||d - d_now||^2 / (2 reach) is least in each.

    With the L1 norm alone, the steepest pixels would jump to the ends of the box, others at every step.
    """

    norm = L1
    memory = 0.8
    first = 1.0
    overshoot = 1e-3
    promising = 2.5
    losing = 1.2
    returns = 1
    follows = 2

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__(bounds)
        self.reach = _REACH * (self.high - self.low)

    def at(self, fraction: float) -> "Sum":
        """With a reach that is as much shorter."""
        shorter = copy(self)
        shorter.reach = max(fraction, 0.01) * self.reach
        return shorter

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Each pixel by a step against its slope and shrinkage, up to its end, and the multiplier by halving."""
        # Over the steepest, so that the range of multipliers is the same for all.
        steepest = dual_size(slope, L1).clamp_min(torch.finfo(slope.dtype).tiny)
        slope, level = slope / column(steepest, slope), level / steepest
        low, high = torch.full_like(level, _CHEAP), torch.full_like(level, _DEAR)
        for _ in range(_HALVINGS):
            middle = (low * high).sqrt()
            short = level + dot(slope, self._moved(x, originals, slope, middle)) > 0
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        near, far = (self._moved(x, originals, slope, end) for end in (low, high))
        left, beyond = level + dot(slope, near), level + dot(slope, far)
        share = (left / (left - beyond).clamp_min(torch.finfo(level.dtype).tiny)).clamp(0, 1)
        return torch.lerp(near, far, column(share, near)), high / steepest

    def _moved(self, x: Tensor, originals: Tensor, slope: Tensor, multiplier: Tensor) -> Tensor:
        """The changes at these multipliers, (n,): (n, ...)."""
        changes = torch.addcmul(x - originals, slope, column(multiplier, slope), value=-self.reach)
        return torch.nn.functional.softshrink(changes, self.reach).clamp(self.low - originals, self.high - originals)

    def approach(self, x: Tensor, originals: Tensor, wanted: Tensor, fraction: float) -> Tensor:
        """All the way, which is short enough."""
        return (originals + wanted).clamp(self.low, self.high)


class Count(Objective):
    """How many pixel values change. Each that does goes to the end of the box that it is pushed to."""

    norm = L0
    memory = 0.95
    first = 1.0
    overshoot = 1e-2
    promising = 1.0
    overlooked = 0.7  # one feature may be a tenth
    beginnings = (0.1, 0.01, 0.0)  # the last with one

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """Those that lower the margin most when they go to their ends, as many as it takes."""
        full = to_the_ends(originals, slope, (self.low, self.high)).flatten(1)
        gains, order = (-slope.flatten(1) * full).sort(dim=1, descending=True, stable=True)
        taken = (gains.cumsum(1) - gains < level.unsqueeze(1)) & (gains > 0)
        changes = torch.zeros_like(full).scatter(1, order, full.gather(1, order).where(taken, 0))
        return changes.view_as(x), torch.ones_like(level)

    def approach(self, x: Tensor, originals: Tensor, wanted: Tensor, fraction: float) -> Tensor:
        """All the way: a part of a change counts as much as the whole."""
        return (originals + wanted).clamp(self.low, self.high)

    def trimmed(self, model: Classifier, images: Tensor, originals: Tensor, goal: Goal) -> Tensor:
        """Without the features that can be put back."""
        return pruned(model, images, originals, goal, rounds=2, tries=6)
