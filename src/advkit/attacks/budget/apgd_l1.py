"""How `APGD` goes about L1: sparse steps, inside balls that are larger at first."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._engine.ball import Ball
from advkit._engine.looks import Climb, Look, Peak
from advkit.goals import Goal
from advkit.norms import L0, column

__all__ = ["Sparse", "phases"]

_SHORTER = 1.5  # what a step, and the share of the features that it moves, is divided by
_SHORTEST = 1 / 10  # of the radius: the least length of a step
_SLIGHT = 1e-10  # as in the reference: features that steps there and back would put where they were count as changed
_SPARSER = 0.95  # of the features that had changed: below it the changes are still becoming sparser


def phases(steps: int) -> list[tuple[int, int]]:
    """The radii of the balls, in units of ``eps``, each with its number of steps: 30 % at 3, 30 % at 2, the rest at 1.

    Fewer than five steps are shared out so that the last ball has one. A ball without a step is left out.
    """
    early = min(math.ceil(0.3 * steps), (steps - 1) // 2)
    return [(radius, count) for radius, count in ((3, early), (2, early), (1, steps - 2 * early)) if count]


@dataclass
class Sparse(Climb):
    """Rows that step along the signs of their largest gradients alone, by a length that falls and is set back.

    Args:
        every: how many steps there are from a checkpoint to the next.
        place: int64 (n,), which image of the batch each is.
        peak: where its loss was highest.
        changed: (n,), how many features were not the image's: at the start, then at the peak at each checkpoint.
        share: (n,), of the features that a step moves.
    """

    alpha: Tensor  # (n,)
    every: int
    place: Tensor
    peak: Peak
    changed: Tensor
    share: Tensor

    @classmethod
    def of(cls, x: Tensor, goal: Goal, ball: Ball, place: Tensor, steps: int) -> Self:
        """Rows that start at ``x``, (n, ...), with a step as long as the radius."""
        changed = L0.distance(x, ball.originals)
        alpha = torch.zeros_like(changed) + ball.eps
        share = changed / x[0].numel() / _SHORTER
        return cls(x, goal, ball, alpha, max(int(0.04 * steps), 1), place, Peak.of(x), changed, share)

    def advance(self, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        self.peak.see(look)
        x, gradient = look.x, look.gradient
        if look.step and look.step % self.every == 0:
            back = self._check()
            x = self.peak.x.where(column(back, x), x)
            gradient = self.peak.gradient.where(column(back, x), gradient)
        return self.ball.project(x + column(self.alpha, x) * self._direction(gradient))

    def _check(self) -> Tensor:
        """Set the length of a step and the share of features; bool (n,), where that means to go back to the peak."""
        changed = L0.distance(self.peak.x, self.ball.originals)
        sparser = changed / self.changed < _SPARSER
        longest = torch.zeros_like(changed) + self.ball.eps
        self.alpha = torch.where(sparser, longest, (self.alpha / _SHORTER).maximum(_SHORTEST * longest))
        self.changed, self.share = changed, changed / self.x[0].numel() / _SHORTER
        return sparser

    def _direction(self, gradient: Tensor) -> Tensor:
        """The signs of the largest entries of a gradient (n, ...), and of those as large as the last, of norm 1."""
        flat = gradient.flatten(1)
        magnitudes, features = flat.abs(), flat.shape[1]
        rank = ((1 - self.share) * features).clamp(0, features - 1).long()
        threshold = magnitudes.sort(1).values.gather(1, rank[:, None])
        direction = flat.sign().where(magnitudes >= threshold, 0)
        return (direction / (direction.abs().sum(1, keepdim=True) + _SLIGHT)).view_as(gradient)
