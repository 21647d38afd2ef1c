"""The inner attack of TRADES."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import normal_like
from advkit._engine.ball import LinfBall
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit.attack import Attack
from advkit.goals import Goal, Targeted
from advkit.hyperparameters import OfEps, OfRange, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm

__all__ = ["TPGD"]

_START = 0.001  # the standard deviation of the start, of pixels in [0, 1]: at the image itself there is no slope


@dataclass(frozen=True, eq=False)
class _Elsewhere(Goal):
    """A goal by way of another answer than that to the image itself, whatever the label."""

    goal: Goal
    said: Tensor  # (n, K), the logarithms of the probabilities there

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        chance = self.said.exp()
        change = (self.said - logits.log_softmax(1)).where(chance > 0, 0)
        return (chance * change).sum(1)

    def margin(self, logits: Tensor) -> Tensor:
        return self.goal.margin(logits)

    def success(self, logits: Tensor) -> Tensor:
        return self.goal.success(logits)


@dataclass(frozen=True, eq=False)
class TPGD(Attack):
    """Projected gradient ascent on the KL divergence from the prediction on the image itself, as in TRADES (Linf).

    x <- project(x + alpha * sign(grad_x KL(p(image) || p(x)))), from a point close to the image: labels play no part,
    except in what counts as success. With ``targets``, the divergence from their one-hot distributions is minimised,
    which is the cross-entropy. ``steps`` + 1 forwards and ``steps`` backwards.

    Zhang, Yu, Jiao, Xing, El Ghaoui & Jordan, "Theoretically principled trade-off between robustness and accuracy",
    ICML 2019. arXiv:1901.08573.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        alpha: the length of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start, which is normal with a standard deviation of a thousandth of the
            range of ``bounds``; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.TPGD(model, eps=8 / 255).run(images, labels)
        >>> bool((result.distance("linf") <= 8 / 255 + 1e-6).all())
        True
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        low, high = self.bounds
        ball = LinfBall(images, self.eps, self.bounds)
        x = ball.project(images + _START * (high - low) * normal_like(images, self.generator))
        if not isinstance(goal, Targeted):
            with torch.no_grad():
                goal = _Elsewhere(goal.classes, goal, self.classifier.logits(images).log_softmax(1))
        return iterate(
            self.classifier,
            Climb(x, goal, ball, self.alpha),
            lambda rows, look: rows.stepped(look.gradient.sign()),
            steps=self.steps,
            loss="ce",
        )
