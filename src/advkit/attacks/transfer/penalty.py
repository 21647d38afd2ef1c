"""Gradients with a penalty on their own size."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum, over_mean
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import AtSixteen
from advkit.hyperparameters import number

__all__ = ["PGN", "PenalizedGradient"]


@dataclass(frozen=True, repr=False)
class PenalizedGradient(Part):
    """The gradient is the mean over nearby points of (1 - balance) grad(x') + balance grad(x' - alpha g' / mean|g'|).

    That approximates, by finite differences, the gradient of the loss with a penalty on its gradient norm, which leads
    to flat regions of the loss.

    Ge et al., "Boosting adversarial transferability by achieving flat local maxima", NeurIPS 2023, algorithm 1.
    arXiv:2306.05225.

    Args:
        samples: the number of nearby points, at least 1, with two gradients each.
        radius: they are drawn from the cube of half-side ``radius * eps`` around x, at least 0.
        balance: the weight of the second gradient, from 0 to 1.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, PenalizedGradient
        >>> result = advkit.Transfer(model, [PenalizedGradient(samples=5), Momentum()]).run(images, labels)
    """

    samples: int = number(20, at_least=1, integer=True)
    radius: float = number(3.0, at_least=0)
    balance: float = number(0.5, at_least=0, at_most=1)

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """The mean over the nearby points."""
        return ascent.mean(x, self.samples, lambda x, number: self._balanced(ascent.nearby(x, self.radius), ascent))

    def _balanced(self, x: Tensor, ascent: Ascent) -> Tensor:
        here = ascent.gradient(x)
        back = ascent.gradient(x - ascent.over(ascent.alpha, x) * over_mean(here))
        return here.lerp(back, self.balance)


@dataclass(frozen=True, eq=False)
class PGN(AtSixteen):
    """Penalising gradient norm attack (Linf): `PenalizedGradient` and `Momentum`.

    Ge et al., "Boosting adversarial transferability by achieving flat local maxima", NeurIPS 2023, algorithm 1.
    arXiv:2306.05225.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        samples: passed to `PenalizedGradient`, the number of nearby points in each step, with two gradients each.
        radius: passed to `PenalizedGradient`, how far they are, in units of ``eps``.
        balance: passed to `PenalizedGradient`, the weight of the second gradient.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.PGN(model, samples=5).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    samples: int = number(20, at_least=1, integer=True)
    radius: float = number(3.0, at_least=0)
    balance: float = number(0.5, at_least=0, at_most=1)

    @property
    def parts(self) -> Sequence[Part]:
        """`PenalizedGradient` and `Momentum`."""
        return [PenalizedGradient(self.samples, self.radius, self.balance), Momentum(self.decay)]
