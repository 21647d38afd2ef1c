"""Natural evolution strategies."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from advkit._base.random import normal_like
from advkit._engine.ball import Ball
from advkit._engine.lengths import OfRange
from advkit._engine.slopes import climb
from advkit.attack import Aim
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import loss, norm, number
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = ["NES"]


@dataclass(frozen=True, eq=False)
class NES(BlackBox):
    """NES: projected gradient ascent, with gradients estimated from the scores of Gaussian neighbours.

    The estimate is the mean of (f(x + sigma u) - f(x - sigma u)) / (2 sigma) u over normal u (antithetic sampling);
    the step is x <- P(x + alpha steepest(g)), the sign of g in Linf. An image leaves the batch when the model is
    fooled.

    Ilyas, Engstrom, Athalye & Lin, "Black-box adversarial attacks with limited queries and information", ICML 2018,
    algorithm 1. The paper takes ``eps=0.05``.
    arXiv:1804.08598.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball in units of pixels, at least 0: a number, or a tensor of shape (N,); 8/255 of the
            range of ``bounds`` if not given, whatever the norm.
        alpha: the length of a step in the norm, at least 0: a number, or a tensor of shape (N,); a hundredth of the
            range of ``bounds`` if not given.
        steps: how many steps, at least 1.
        samples: how many pairs of neighbours an estimate has, at least 1. A step costs ``2 * samples + 1`` queries.
        sigma: the standard deviation of the neighbours in units of pixels, greater than 0; a thousandth of the range of
            ``bounds`` if not given. Neighbours may lie outside the ball.
        loss: the loss to maximise: "log_odds", whose gradient has the direction of the probability's, as in the paper,
            but is not lost to rounding where the model is confident; "ce", "margin", "dlr", or a function as in
            `advkit.losses.get`.
        max_queries: the most forwards for one image, at least 1; None for as many as the steps take. The
            last step takes as many neighbours as are left.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the neighbours; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.NES(model, eps=0.1, steps=30, samples=10).run(images, labels)
        >>> bool(result.success.any()), bool((result.distance("linf") <= 0.1 + 1e-6).all())
        (True, True)
    """

    aim: ClassVar[Aim] = "budget"

    norm: str | Norm = norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfRange(0.01), at_least=0, per_image=True)
    steps: int = number(100, at_least=1, integer=True)
    samples: int = number(50, at_least=1, integer=True)
    sigma: float = number(OfRange(0.001), above=0)
    loss: str | Loss = loss("log_odds")

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        ball = Ball.of(self.norm, images, self.eps, self.bounds)
        rule = _Steepest(ball.norm, images.new_zeros(len(images)) + self.alpha)
        climb(ask, ball, rule, steps=self.steps, samples=self.samples, radius=self.sigma, draw=self._normal)
        return images

    def _normal(self, like: Tensor) -> Tensor:
        return normal_like(like, self.generator)


@dataclass(frozen=True)
class _Steepest:
    norm: Norm
    alpha: Tensor  # (n,)

    def moved(self, x: Tensor, gradient: Tensor, step: int) -> Tensor:
        return x + column(self.alpha, x) * self.norm.steepest(gradient)

    def rows(self, index: Tensor) -> Self:
        return replace(self, alpha=self.alpha[index])
