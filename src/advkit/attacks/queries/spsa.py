"""Simultaneous perturbation stochastic approximation."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor
from typing_extensions import Self

from advkit._base.random import uniform_like
from advkit._engine.adam import Adam
from advkit._engine.ball import Ball
from advkit._engine.lengths import OfRange
from advkit._engine.slopes import climb
from advkit.attack import Aim
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import loss, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm

__all__ = ["SPSA"]


@dataclass(frozen=True, eq=False)
class SPSA(BlackBox):
    """SPSA: Adam inside the Linf ball, with gradients estimated from pairs of scores along random signs.

    The estimate is the mean of (f(x + delta v) - f(x - delta v)) / (2 delta) v over random sign vectors v, whose
    entries are 1 or -1 with equal probability; Adam maximises the loss with it, and each step is projected back into
    the ball and the box. An image leaves the batch when the model is fooled.

    Uesato, O'Donoghue, van den Oord & Kohli, "Adversarial risk and the dangers of evaluating against weak attacks",
    ICML 2018, algorithm 1, with the margin of the logits as the loss. The paper takes batches of 256 to 8192 scores.
    arXiv:1802.05666.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        eps: the radius of the Linf ball in units of pixels, at least 0: a number, or a tensor of shape (N,); 8/255 of
            the range of ``bounds`` if not given.
        delta: how far the two points of a pair are from the image, in each pixel, greater than 0; a hundredth of the
            range of ``bounds`` if not given. They may lie outside the ball.
        lr: Adam's step size, about the length of a step in each pixel, greater than 0; a hundredth of the range of
            ``bounds`` if not given.
        steps: how many steps, at least 1.
        samples: how many pairs of scores an estimate has, at least 1. A step costs ``2 * samples + 1`` queries.
        loss: the loss to maximise: "margin", "ce", "dlr", "log_odds", or a function as in `advkit.losses.get`.
        max_queries: the most forwards for one image, at least 1; None for as many as the steps take. The
            last step takes as many scores as are left.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the signs; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SPSA(model, eps=0.1, steps=30, samples=10).run(images, labels)
        >>> bool(result.success.any()), bool((result.distance("linf") <= 0.1 + 1e-6).all())
        (True, True)
    """

    aim: ClassVar[Aim] = "budget"
    norm: ClassVar[Norm] = Linf

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    delta: float = number(OfRange(0.01), above=0)
    lr: float = number(OfRange(0.01), above=0)
    steps: int = number(100, at_least=1, integer=True)
    samples: int = number(128, at_least=1, integer=True)
    loss: str | Loss = loss("margin")

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        ball, rule = Ball.of(self.norm, images, self.eps, self.bounds), _ByAdam(self.lr, Adam(images))
        climb(ask, ball, rule, steps=self.steps, samples=self.samples, radius=self.delta, draw=self._signs)
        return images

    def _signs(self, like: Tensor) -> Tensor:
        return (uniform_like(like, self.generator) < 0.5).to(like) * 2 - 1


@dataclass(frozen=True)
class _ByAdam:
    lr: float
    adam: Adam

    def moved(self, x: Tensor, gradient: Tensor, step: int) -> Tensor:
        mean, scale = self.adam.see(gradient, step)
        return x + self.lr * mean / scale

    def rows(self, index: Tensor) -> Self:
        return replace(self, adam=self.adam.rows(index))
