"""Sigma-zero."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.adam import Adam
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.shrinking import Shrinking, annealed
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import L0, Linf, Norm, column

__all__ = ["SigmaZero"]


@dataclass
class _Sparse(Shrinking):
    """Rows that leave the features alone that they would move least.

    Args:
        threshold: (n,), the least change that stays, over the range of the box.
        adam: of the image.
    """

    threshold: Tensor
    adam: Adam

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the margin as long as there is one, whatever the loss."""
        return -self.goal.margin(logits).clamp_min(0)


@dataclass(frozen=True, eq=False)
class SigmaZero(Attack):
    """Sigma-zero.
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L0

    steps: int = number(1000, at_least=1, integer=True)
    lr: float = number(OfRange(1.0), above=0)
    sigma: float = number(1e-3, above=0)
    threshold: float = number(0.3, at_least=0, at_most=1)
    threshold_step: float = number(0.01, at_least=0, at_most=1)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        kept = Smallest(images, L0)
        rows = _Sparse(images, goal, images, kept, torch.full_like(kept.least, self.threshold), Adam(images))
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="margin", keep=kept)

    def _step(self, rows: _Sparse, look: Look) -> Tensor:
        rows.begin(look)
        low, high = self.bounds
        change = (look.x - rows.originals) / (high - low)
        square = change.square()
        count = 2 * self.sigma * change / (square + self.sigma).square() / change[0].numel()
        slope = count - (high - low) * look.gradient
        size = Linf.size(slope)
        mean, scale = rows.adam.see(slope / column(size.where(size > 0, 1), slope), look.step)
        moved = (look.x - annealed(self.lr, self.lr / 10, look.step, self.steps) * mean / scale).clamp(low, high)
        by = self.threshold_step * annealed(self.lr, self.lr / 10, look.step + 1, self.steps) / (high - low)
        rows.threshold = torch.where(look.success, rows.threshold + by, rows.threshold - by).clamp(0, 1)
        least = column(rows.threshold * (high - low), moved)
        return moved.where((moved - rows.originals).abs() >= least, rows.originals)
