"""Rows that know their rivals, the classes whose boundaries they could cross."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.scale import magnitude, power_of_two, rounding_margin
from advkit._engine.rows import Rows
from advkit.goals import Goal

__all__ = ["WithRivals"]


@dataclass
class WithRivals(Rows):
    """Rows that know their rivals, the classes whose boundaries they could cross."""

    goal: Goal
    rivals: Tensor  # int64 (n, m)
    magnitude: Tensor  # (n,), of the logits that the margin compares, on the original

    @property
    def unit(self) -> Tensor:
        """What logits are measured in, (n, 1): squares of the gradients of tiny ones would underflow."""
        return power_of_two(self.magnitude).unsqueeze(1)

    def edge(self, logits: Tensor) -> Tensor:
        """The margin beyond rounding that a success must have: (n,)."""
        return rounding_margin(magnitude(logits, self.goal.classes).maximum(self.magnitude))

    def gaps(self, logits: Tensor) -> Tensor:
        """By how much each rival is behind the class that is held, over the unit: (n, m); negative if it is ahead."""
        gaps = logits.gather(1, self.goal.held(logits)) - logits.gather(1, self.rivals)
        edge = self.edge(logits).unsqueeze(1)
        gaps = torch.where(gaps.abs() > edge, gaps, gaps + 2 * edge)  # who is as near is to cross it
        return (gaps / self.unit).to(self.x.dtype)

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether the goal is reached by more than rounding: bool (n,)."""
        return self.goal.margin(logits) < -self.edge(logits)
