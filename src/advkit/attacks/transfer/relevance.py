"""Gradient relevance."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import AtSixteen
from advkit.hyperparameters import number
from advkit.norms import L2, column

__all__ = ["GRA", "GradientRelevance"]


@dataclass(frozen=True, repr=False)
class GradientRelevance(Part):
    """The gradient is mixed with the mean of nearby ones, by their similarity: s g + (1 - s) mean, s = cos(g, mean).

    A pixel whose step changes sign takes smaller steps from then on.

    Zhu et al., "Boosting adversarial transferability via gradient relevance attack", ICCV 2023.

    Args:
        samples: the number of nearby points, at least 1.
        radius: they are drawn from the cube of half-side ``radius * eps`` around x, at least 0.
        shrink: the factor by which a change of sign reduces a pixel's step, from 0 to 1.

    Examples:
        >>> from advkit.attacks.transfer import GradientRelevance, Momentum
        >>> result = advkit.Transfer(model, [GradientRelevance(samples=5), Momentum()]).run(images, labels)
    """

    samples: int = number(20, at_least=1, integer=True)
    radius: float = number(3.5, at_least=0)
    shrink: float = number(0.94, at_least=0, at_most=1)

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """The mixed gradient."""
        found = ascent.gradient(x)
        near = ascent.mean(x, self.samples, lambda x, number: ascent.gradient(ascent.nearby(x, self.radius)))
        along = (L2.steepest(found) * L2.steepest(near)).flatten(1).sum(1)
        return near + column(along, x) * (found - near)

    def step(self, step: Tensor, ascent: Ascent) -> Tensor:
        """The step, scaled by how often its sign has changed."""
        turned = step.sign() * ascent.recall("last sign") < 0
        turns = ascent.recall("turns") + turned.to(step.dtype)
        ascent.remember("last sign", step.sign())
        ascent.remember("turns", turns)
        return step * self.shrink**turns


@dataclass(frozen=True, eq=False)
class GRA(AtSixteen):
    """Gradient relevance attack (Linf): `GradientRelevance` and `Momentum`.

    Zhu et al., "Boosting adversarial transferability via gradient relevance attack", ICCV 2023.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        samples: passed to `GradientRelevance`, the number of nearby points in each step.
        radius: passed to `GradientRelevance`, how far they are, in units of ``eps``.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.GRA(model, samples=5).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    samples: int = number(20, at_least=1, integer=True)
    radius: float = number(3.5, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`GradientRelevance` and `Momentum`."""
        return [GradientRelevance(self.samples, self.radius), Momentum(self.decay)]
