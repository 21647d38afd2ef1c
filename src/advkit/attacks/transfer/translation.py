"""Gradients of translated images, as one convolution."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advkit._engine.resampling import by_sides
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.diversity import InputDiversity
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.start import RandomStart
from advkit.attacks.transfer.transfer import Shorthand
from advkit.errors import InputError
from advkit.hyperparameters import Number, choice, declared, flag, number

__all__ = ["TIFGSM", "TranslationKernel"]

Shape = Literal["gaussian", "linear", "uniform"]


@dataclass(frozen=True)
class _Odd(Number):
    """A whole number of pixels with one in the middle."""

    def _check(self, name: str, value: object) -> None:
        super()._check(name, value)
        if value % 2 == 0:  # type: ignore[operator]  # the check before lets integers pass alone
            raise InputError(f"{name} must be odd, so that a kernel has a middle; got {value}")

    def __str__(self) -> str:
        return super().__str__().replace("an integer", "an odd integer")


@dataclass(frozen=True, repr=False)
class TranslationKernel(Part):
    """The gradient is convolved with a kernel, which approximates its mean over translated images: g <- K * g.

    Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant attacks", CVPR 2019.
    arXiv:1904.02884. It helps against defended models; outside the image the gradient counts as 0.

    Args:
        size: the side of the kernel in pixels, odd.
        sigma: how many standard deviations half of a "gaussian" kernel spans, positive.
        kernel: "gaussian", "linear" or "uniform".

    Examples:
        >>> from advkit.attacks.transfer import Momentum, TranslationKernel
        >>> result = advkit.Transfer(model, [TranslationKernel(size=5), Momentum()]).run(images, labels)
    """

    spatial = True

    size: int = declared(15, _Odd(at_least=1, integer=True))
    sigma: float = number(3.0, above=0)
    kernel: Shape = choice("gaussian", "linear", "uniform")

    def gradient(self, gradient: Tensor, ascent: Ascent) -> Tensor:
        """K * g, along one side and then along the other."""
        line = self._line().to(gradient)
        matrices = {side: self._along(side, line) for side in set(gradient.shape[2:])}
        return by_sides(gradient, *(matrices[side] for side in gradient.shape[2:]))

    def _along(self, side: int, line: Tensor) -> Tensor:
        """The convolution along a side as a matrix, which is faster than torch's of a single channel."""
        place = torch.arange(side, device=line.device)
        apart = place - place[:, None] + self.size // 2
        return line[apart.clamp(0, self.size - 1)].where((apart >= 0) & (apart < self.size), 0)

    def _line(self) -> Tensor:
        place = torch.linspace(-1, 1, self.size, device="cpu") if self.size > 1 else torch.zeros(1, device="cpu")
        if self.kernel == "gaussian":
            line = (-(self.sigma * place).square() / 2).exp()
        else:
            line = 1 - place.abs() * (self.size - 1) / (self.size + 1) if self.kernel == "linear" else place * 0 + 1
        return line / line.sum()


@dataclass(frozen=True, eq=False)
class TIFGSM(Shorthand):
    """Translation-invariant fast gradient sign method with diverse inputs, TI-DIM (Linf).

    `InputDiversity`, `TranslationKernel`, and optionally momentum.

    Dong et al., "Evading defenses to transferable adversarial examples by translation-invariant attacks", CVPR 2019.
    arXiv:1904.02884. The default has no momentum; the paper's TI-DIM has ``decay=1``.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        kernel_name: passed to `TranslationKernel`: "gaussian", "linear" or "uniform".
        len_kernel: passed to `TranslationKernel`, its size in pixels, odd.
        nsig: passed to `TranslationKernel`, how many standard deviations half of the kernel spans.
        resize_rate: passed to `InputDiversity`.
        diversity_prob: passed to `InputDiversity`, how often an image is changed.
        random_start: start at a point drawn uniformly from the budget, rather than at the image.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> advkit.TIFGSM(model, len_kernel=5, decay=1.0).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    decay: float = number(0.0, at_least=0)
    kernel_name: Shape = choice("gaussian", "linear", "uniform")
    len_kernel: int = declared(15, _Odd(at_least=1, integer=True))
    nsig: float = number(3.0, above=0)
    resize_rate: float = number(0.9, above=0)
    diversity_prob: float = number(0.5, at_least=0, at_most=1)
    random_start: bool = flag(False)

    @property
    def parts(self) -> Sequence[Part]:
        """`InputDiversity`, `TranslationKernel` and `Momentum`."""
        return [
            *([RandomStart()] if self.random_start else []),
            InputDiversity(self.resize_rate, self.diversity_prob),
            TranslationKernel(self.len_kernel, self.nsig, self.kernel_name),
            Momentum(self.decay),
        ]
