"""Projected gradient descent."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters
from advkit._engine.ball import Ball
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, flag, number
from advkit.losses import Loss
from advkit.norms import Norm

__all__ = ["PGD"]


@dataclass(frozen=True, eq=False)
class PGD(Attack):
    """Projected gradient descent (Linf or L2).

    x <- project(x + alpha * steepest(grad_x J(x, y))), back into the ball of radius ``eps`` around the image and
    into the box, from a random point of the ball. ``steepest`` is the sign of the gradient for Linf, and the
    gradient over its L2 norm for L2. ``steps`` forwards and as many backwards, each ``eot_samples`` times.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 2.1.
    arXiv:1706.06083.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        alpha: the length of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        random_start: start at a point drawn uniformly from the ball, rather than at the image.
        norm: "linf" or "l2", or `advkit.norms.Linf` or `advkit.norms.L2`.
        early_stop: stop at each image's first success, and return the image as it then is.
        loss: the loss to maximise: "ce", "margin", "dlr" or "log_odds", or a function of logits (N, K) and classes (N,)
            that returns one number per image; see `advkit.losses.get`. With targets it is minimised.
        eot_samples: over how many passes of a random model each gradient is averaged, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the random start; torch's default if None.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

    Examples:
        >>> result = advkit.PGD(model, eps=0.5, norm="l2").run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("l2") <= 0.5 + 1e-6).all())
        True
    """

    independent_rows: ClassVar[bool] = True

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    random_start: bool = flag(True)
    norm: str | Norm = hyperparameters.norm("linf", "l2")
    early_stop: bool = flag(False)
    _: KW_ONLY
    loss: str | Loss = hyperparameters.loss()
    eot_samples: int = number(1, at_least=1, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = Ball.of(self.norm, images, self.eps, self.bounds)
        x = ball.sample(self.generator) if self.random_start else images
        return iterate(
            self.classifier,
            Climb(x, goal, ball, self.alpha),
            lambda rows, look: rows.stepped(ball.norm.steepest(look.gradient)),
            steps=self.steps,
            loss=self.loss,
            early_stop=self.early_stop,
            draws=self.eot_samples,
        )
