"""Jitter: ascent on a loss that does not saturate, with noise on the softmax outputs."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advkit._base.random import normal_like
from advkit._base.scale import contenders
from advkit._engine.ball import LinfBall
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Climb, Look
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, flag, number
from advkit.norms import Linf, Norm, column

__all__ = ["Jitter"]

_ROUNDING = 1e-4  # by which changes of the same size may differ, as a share of it


@dataclass(frozen=True, eq=False)
class Jitter(Attack):
    """Jitter: projected gradient ascent on the distance of noisy scaled outputs from the label (Linf).

    With z^ = softmax(``scale`` * z / ||z||_inf) + ``std`` * N(0, 1), the loss is the mean over the classes of
    (z^ - onehot(y))^2 while the model predicts the label; once it does not, that divided by ||x - image||_inf, so
    that the change shrinks again. x <- project(x + alpha * sign(grad)), as in `PGD`. With ``targets``, the mean square
    distance from their one-hot vectors is minimised, and once a target is predicted, its product with the size of the
    change. ``steps`` + 1 forwards and ``steps`` backwards.

    The result is the closest point (Linf) that fooled the model, or else the last: a step that makes the change
    smaller may undo a success.

    Schwinn, Raab, Nguyen, Zanca & Eskofier, "Exploring misclassifications of robust neural networks to enhance
    adversarial attacks", Applied Intelligence 2023. arXiv:2105.10304. The defaults are torchattacks'. Classes that are
    effectively excluded, such as by a mask of -1e9, have no part in ||z||_inf.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        alpha: the length of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        scale: what the largest logit is scaled to, positive.
        std: the standard deviation of the noise on the probabilities, at least 0.
        random_start: start at a point drawn uniformly from the ball, rather than at the image.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start and the noise; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Jitter(model, eps=8 / 255).run(images, labels)
        >>> bool((result.distance("linf") <= 8 / 255 + 1e-6).all())
        True
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    scale: float = number(10.0, above=0)
    std: float = number(0.1, at_least=0)
    random_start: bool = flag(True)
    _: KW_ONLY

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = LinfBall(images, self.eps, self.bounds)
        x = ball.sample(self.generator) if self.random_start else images
        rows, keep = Climb(x, goal, ball, self.alpha), Smallest(images, Linf)
        closest = iterate(self.classifier, rows, self._step, steps=self.steps, loss=self._off, keep=keep)
        return closest.where(column(keep.least.isfinite(), images), rows.whole())

    def _off(self, logits: Tensor, classes: Tensor) -> Tensor:
        """The mean square of what the answer is off a class by, (n,)."""
        racing = contenders(logits)
        size = logits.where(racing, 0).abs().amax(1, keepdim=True).clamp_min(torch.finfo(logits.dtype).tiny)
        chances = (self.scale * logits.where(racing, 0) / size).masked_fill(~racing, -torch.inf).softmax(1)
        if self.std:
            chances = chances + self.std * normal_like(chances, self.generator)
        return (chances - F.one_hot(classes, logits.shape[1])).square().mean(1)

    def _step(self, rows: Climb, look: Look) -> Tensor:
        """Along the sign of the slope of loss / change, times change^2, where the goal is reached; else of the loss."""
        change = look.x - rows.ball.originals
        size = change.flatten(1).abs().amax(1)
        largest = change.abs() >= column(size * (1 - _ROUNDING), change)
        outward = change.sign() * largest / column(largest.flatten(1).sum(1), change)
        back = look.gradient * column(size, change) - outward * column(look.loss.abs(), change)
        return rows.stepped(back.where(column(look.success & (size > 0), back), look.gradient).sign())
