"""Momentum, and gradients taken ahead along it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import Part
from advkit.errors import InputError
from advkit.hyperparameters import number
from advkit.norms import column

__all__ = ["EnhancedMomentum", "Momentum", "Nesterov"]


def over_mean(gradient: Tensor) -> Tensor:
    """Each row (n, ...) over its mean magnitude; a row of zeros stays one."""
    size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
    return gradient / column(size, gradient)


@dataclass(frozen=True, repr=False)
class Momentum(Part):
    """The step is along the accumulated gradient: m <- decay * m + g / mean|g|.

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018. arXiv:1710.06081. A gradient of zero
    adds nothing.

    Args:
        decay: how much of the sum a step keeps, at least 0.

    Examples:
        >>> from advkit.attacks.transfer import Momentum
        >>> alone = advkit.Transfer(model, [Momentum()], eps=8 / 255, alpha=2 / 255)(images, labels)
        >>> torch.equal(alone, advkit.MIFGSM(model)(images, labels))
        True
    """

    decay: float = number(1.0, at_least=0)

    def direction(self, gradient: Tensor, ascent: Ascent) -> Tensor:
        """The sum with this gradient in it."""
        size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        total = torch.addcdiv(ascent.recall("carried"), gradient, column(size, gradient))
        ascent.remember("carried", total if self.decay == 1 else self.decay * total)
        return total


@dataclass(frozen=True, repr=False)
class Nesterov(Part):
    """The gradient is taken at the point that momentum alone would reach: x~ = x + alpha * decay * m. Needs `Momentum`.

    Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020.
    arXiv:1908.06281.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, Nesterov
        >>> result = advkit.Transfer(model, [Nesterov(), Momentum()]).run(images, labels)
    """

    def look(self, x: Tensor, ascent: Ascent) -> Tensor:
        """Ahead by alpha * decay * m."""
        return x + column(ascent.alpha, x) * ascent.recall("carried")

    def check_beside(self, others: Sequence[Part]) -> None:
        """It looks along momentum."""
        if not any(isinstance(part, Momentum) for part in others):
            raise InputError("Nesterov looks ahead along the momentum, and parts has no Momentum; add it")


@dataclass(frozen=True, repr=False)
class EnhancedMomentum(Part):
    """The gradient is the mean over points along the previous gradient: x + c * alpha * g / mean|g|. For `Momentum`.

    Wang et al., "Boosting adversarial transferability through enhanced momentum", BMVC 2021.
    arXiv:2103.10609.

    Args:
        samples: the number of points, at least 1.
        radius: c runs from ``-radius`` to ``radius``, at least 0; a single point is x itself.

    Examples:
        >>> from advkit.attacks.transfer import EnhancedMomentum, Momentum
        >>> result = advkit.Transfer(model, [EnhancedMomentum(samples=3), Momentum()]).run(images, labels)
    """

    samples: int = number(11, at_least=1, integer=True)
    radius: float = number(7.0, at_least=0)

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """Mean over c of the gradients at x + c * alpha * g / mean|g|."""
        along = column(ascent.alpha, x) * ascent.recall("mean gradient")
        ends = (-self.radius, self.radius) if self.samples > 1 else (0.0, 0.0)
        factors = torch.linspace(*ends, self.samples, dtype=x.dtype, device=x.device)
        found = ascent.mean(
            x,
            self.samples,
            lambda x, number: ascent.gradient(
                x + column(factors[number], x) * along.repeat(len(x) // len(along), *[1] * (x.ndim - 1))
            ),
        )
        ascent.remember("mean gradient", over_mean(found))
        return found

    def check_beside(self, others: Sequence[Part]) -> None:
        """It looks ahead itself."""
        if any(isinstance(part, Nesterov) for part in others):
            raise InputError("EnhancedMomentum and Nesterov both look ahead along earlier gradients; give one of them")
