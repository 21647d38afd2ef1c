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
    """Sigma-zero: the fewest features (L0), by descending a smooth L0 norm and zeroing small changes.

    The image moves by a step of Adam along the gradient of max(margin, 0) + mean_i delta_i^2 / (delta_i^2 + sigma),
    which is first divided by its Linf norm, and is clipped to the box; then every change below the threshold is set to
    0. The threshold rises while the model is fooled, to zero more, and falls while it is not, by ``threshold_step``
    times the step size, which decays to a tenth on a cosine schedule. The margin is Z_y - max_{i != y} Z_i, and
    max_{i != t} Z_i - Z_t for a target t. The smallest success met is returned; an image for which none is found is
    returned unchanged, as is one that is already misclassified.

    All other images take all ``steps``: a forward and a backward each, and a forward after the last step. A hundred
    steps are enough on many networks.

    Cina, Villani, Pintor, Schonherr, Biggio & Pelillo, "Sigma-zero: gradient-based optimization of l0-norm adversarial
    examples", ICLR 2025, algorithm 1.
    arXiv:2402.01879.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: how many steps, at least 1.
        lr: Adam's first step size, positive, in units of pixels; the range of ``bounds`` if not given.
        sigma: the smoothing of the L0 norm, positive, for pixels in [0, 1]: the smaller, the closer to L0.
        threshold: the initial threshold, from 0 to 1, as a fraction of the range of ``bounds``.
        threshold_step: how far it moves at a step, in units of the step size, from 0 to 1.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SigmaZero(model, steps=100).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool(result.distance("l0").mean() < advkit.JSMA(model).run(images, labels).distance("l0").mean())
        True
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
        count = 2 * self.sigma * change / (square + self.sigma).square() / change.shape[1:].numel()
        slope = count - (high - low) * look.gradient
        size = Linf.size(slope)
        mean, scale = rows.adam.see(slope / column(size.where(size > 0, 1), slope), look.step)
        moved = (look.x - annealed(self.lr, self.lr / 10, look.step, self.steps) * mean / scale).clamp(low, high)
        by = self.threshold_step * annealed(self.lr, self.lr / 10, look.step + 1, self.steps) / (high - low)
        rows.threshold = torch.where(look.clearly, rows.threshold + by, rows.threshold - by).clamp(0, 1)
        least = column(rows.threshold * (high - low), moved)
        return moved.where((moved - rows.originals).abs() >= least, rows.originals)
