"""Rows on their way to one class each, along the mean of their gradients' directions."""

from dataclasses import dataclass

from torch import Tensor

from advkit import norms
from advkit._engine.ball import Ball
from advkit._engine.looks import Look, Seeking
from advkit.losses import Loss

__all__ = ["Towards"]


@dataclass
class Towards(Seeking):
    """Rows on their way to one class each, the rival of their goal, inside a ball."""

    ball: Ball
    direction: Tensor  # (n, ...), the mean of the gradients' directions so far

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap to the class; flat where that class is out of the race by now."""
        gap = self.goal.margin(logits)
        return -gap.where(gap.isfinite(), 0)

    def turn(self, look: Look, memory: float) -> None:
        """Turn to where the gradient points, and keep so much of the directions before."""
        self.direction = memory * self.direction + norms.L2.steepest(look.gradient).to(self.x)
