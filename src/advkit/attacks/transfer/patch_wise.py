"""Patch-wise steps."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import Shorthand
from advkit.attacks.transfer.translation import TranslationKernel
from advkit.hyperparameters import OfRange, flag, number
from advkit.norms import column

__all__ = ["PIFGSM", "PIFGSMPP", "PatchWise"]

# Of a step and the budget: what sums of steps may differ by that would be equal without rounding, such as the budget
# and a step that is as long. Signs are taken of their differences.
_ROUNDING = 1e-5


@dataclass(frozen=True, repr=False)
class PatchWise(Part):
    """Amplified steps, whose excess beyond the budget is passed on to neighbouring pixels: s + P.

    With s = amplification * step and A the accumulated steps, P is along the sign of W * ((|A| - eps)_+ sign(A)), with
    W the mean of the eight neighbouring pixels.

    Gao et al., "Patch-wise attack for fooling deep neural network", ECCV 2020, algorithm 1. arXiv:2007.06765.

    Args:
        amplification: the factor by which steps are amplified, positive.
        project_factor: the length of P relative to an amplified step, at least 0.
        accumulate: whether P is added to A.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, PatchWise
        >>> result = advkit.Transfer(model, [PatchWise(), Momentum()]).run(images, labels)
    """

    spatial = True

    amplification: float = number(10.0, above=0)
    project_factor: float = number(1.0, at_least=0)
    accumulate: bool = flag(True)

    def step(self, step: Tensor, ascent: Ascent) -> Tensor:
        """The amplified step, and the excess passed on."""
        step = self.amplification * step
        length, eps = self.amplification * column(ascent.alpha, step), column(ascent.eps, step)
        rounding = _ROUNDING * (eps + length)
        total = ascent.recall("taken") + step
        beyond = total.abs() - eps
        over = beyond.where(beyond > rounding, 0) * total.sign()
        ring = F.pad(over.new_zeros(1, 1, 1, 1), (1, 1, 1, 1), value=1)  # the sum has the sign of the mean
        around = F.conv2d(over.flatten(0, 1)[:, None], ring, padding=1).view_as(over)
        handed = around.sign().where(around.abs() > rounding, 0) * self.project_factor * length
        ascent.remember("taken", total + handed if self.accumulate else total)
        return step + handed


@dataclass(frozen=True, eq=False)
class PIFGSM(Shorthand):
    """Patch-wise iterative fast gradient sign method (Linf): `PatchWise`.

    Gao et al., "Patch-wise attack for fooling deep neural network", ECCV 2020, algorithm 1. arXiv:2007.06765.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 16/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step before it is amplified, positive: a number, or a tensor of shape (N,); ``eps / steps``
            if None.
        steps: how many steps, at least 1.
        amplification: passed to `PatchWise`.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> advkit.PIFGSM(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    eps: float | Tensor = number(OfRange(16 / 255), at_least=0, per_image=True)
    alpha: float | Tensor | None = number(None, above=0, per_image=True)
    amplification: float = number(10.0, above=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`PatchWise`."""
        return [PatchWise(self.amplification)]


@dataclass(frozen=True, eq=False)
class PIFGSMPP(PIFGSM):
    """Patch-wise++ attack (Linf): `PatchWise` with a smoothed gradient. Other arguments are those of `PIFGSM`.

    Gao et al., "Patch-wise++ perturbation for adversarial targeted attacks", 2020. arXiv:2012.15503.
    Without the paper's temperature.

    Args:
        project_factor: passed to `PatchWise`.

    Examples:
        >>> advkit.PIFGSMPP(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    project_factor: float = number(0.8, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`TranslationKernel` of 3 x 3, and `PatchWise`."""
        return [TranslationKernel(size=3), PatchWise(self.amplification, self.project_factor, accumulate=False)]
