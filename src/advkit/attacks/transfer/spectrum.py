"""Transformations of the spectrum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.resampling import by_sides, cosines
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import AtSixteen
from advkit.hyperparameters import number

__all__ = ["SSA", "SpectrumTransform"]


@dataclass(frozen=True, repr=False)
class SpectrumTransform(Part):
    """The model is shown images with noise whose DCT coefficients are randomly scaled: IDCT(DCT(x + n) * u).

    Long et al., "Frequency domain model augmentation for adversarial attack", ECCV 2022.
    arXiv:2207.05382.

    Args:
        copies: the number of copies of each image, at least 1.
        rho: each u is drawn from [1 - rho, 1 + rho], at least 0.
        sigma: the standard deviation of the noise in units of ``eps``, at least 0.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, SpectrumTransform
        >>> result = advkit.Transfer(model, [SpectrumTransform(copies=5), Momentum()]).run(images, labels)
    """

    spatial = True

    copies: int = number(20, at_least=1, integer=True)
    rho: float = number(0.5, at_least=0)
    sigma: float = number(1.0, at_least=0)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """The DCT as one matrix for each side, and back by their transposes."""
        waves = [cosines(torch.arange(side, device=x.device), side, x) for side in x.shape[2:]]
        noise = ascent.normal(*x.shape).mul_(ascent.over(ascent.eps, x)).mul_(self.sigma / ascent.range)
        scaled = by_sides(x + noise, *waves) * (1 + self.rho * (2 * ascent.uniform(*x.shape) - 1))
        return by_sides(scaled, *(each.mT for each in waves))


@dataclass(frozen=True, eq=False)
class SSA(AtSixteen):
    """Spectrum simulation attack (Linf): `SpectrumTransform` and `Momentum`.

    Long et al., "Frequency domain model augmentation for adversarial attack", ECCV 2022, algorithm 1, here with
    momentum. arXiv:2207.05382.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        copies: passed to `SpectrumTransform`, how many of each image.
        rho: passed to `SpectrumTransform`, by how much coefficients are scaled.
        sigma: passed to `SpectrumTransform`, the noise, in units of ``eps``.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> advkit.SSA(model, copies=5).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    copies: int = number(20, at_least=1, integer=True)
    rho: float = number(0.5, at_least=0)
    sigma: float = number(1.0, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`SpectrumTransform` and `Momentum`."""
        return [SpectrumTransform(self.copies, self.rho, self.sigma), Momentum(self.decay)]
