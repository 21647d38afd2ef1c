"""Variance tuning."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum, Nesterov
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import Shorthand
from advkit.hyperparameters import number

__all__ = ["VMIFGSM", "VNIFGSM", "VarianceTuning"]


@dataclass(frozen=True, repr=False)
class VarianceTuning(Part):
    """Each gradient is corrected by the previous step: g + v, where v <- mean of the nearby gradients - g.

    Wang & He, "Enhancing the transferability of adversarial attacks through variance tuning", CVPR 2021.
    arXiv:2103.15571.

    Args:
        samples: the number of nearby points, at least 1; the last step uses none.
        radius: they are drawn from the cube of half-side ``radius * eps`` around the current image, at least 0.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, VarianceTuning
        >>> result = advkit.Transfer(model, [VarianceTuning(samples=5), Momentum()]).run(images, labels)
    """

    samples: int = number(20, at_least=1, integer=True)
    radius: float = number(1.5, at_least=0)

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """The gradient at x, plus the correction from the previous step."""
        found, correction = ascent.gradient(x), ascent.recall("correction")
        if not ascent.is_last:
            nearby = ascent.mean(
                ascent.x, self.samples, lambda x, number: ascent.gradient(ascent.nearby(x, self.radius))
            )
            ascent.remember("correction", nearby - found)
        return found + correction


@dataclass(frozen=True, eq=False)
class VMIFGSM(Shorthand):
    """Variance-tuned momentum iterative fast gradient sign method (Linf): `VarianceTuning` and `Momentum`.

    Wang & He, "Enhancing the transferability of adversarial attacks through variance tuning", CVPR 2021,
    algorithm 1. arXiv:2103.15571. The paper draws 20 nearby points; the default here is torchattacks' 5.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        N: the number of nearby points in each step, at least 1.
        beta: how far away they are, in units of ``eps``, at least 0.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.VMIFGSM(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    decay: float = number(1.0, at_least=0)
    N: int = number(5, at_least=1, integer=True)
    beta: float = number(1.5, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`VarianceTuning` and `Momentum`."""
        return [VarianceTuning(self.N, self.beta), Momentum(self.decay)]


@dataclass(frozen=True, eq=False)
class VNIFGSM(VMIFGSM):
    """Variance-tuned Nesterov iterative fast gradient sign method (Linf): `VMIFGSM` with `Nesterov`.

    Wang & He, "Enhancing the transferability of adversarial attacks through variance tuning", CVPR 2021.
    arXiv:2103.15571. The gradient is taken ahead of the current image, nearby ones around it. Arguments are those of
    `VMIFGSM`.

    Examples:
        >>> advkit.VNIFGSM(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    @property
    def parts(self) -> Sequence[Part]:
        """`Nesterov`, `VarianceTuning` and `Momentum`."""
        return [Nesterov(), *super().parts]
