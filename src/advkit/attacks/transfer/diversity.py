"""Diverse inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.resampling import by_sides, interpolation
from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.start import RandomStart
from advkit.attacks.transfer.transfer import Shorthand
from advkit.hyperparameters import flag, number

__all__ = ["DIFGSM", "InputDiversity"]


@dataclass(frozen=True, repr=False)
class InputDiversity(Part):
    """The model is shown randomly resized images, padded with black at random positions, drawn for each image.

    With ``resize_rate`` below 1, an image of side s is resized to a whole number of pixels in [rate * s, s) and padded
    to s. Above 1, it is resized to a size in [s, rate * s), padded to rate * s, and resized back to s.

    Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019.
    arXiv:1803.06978.

    Args:
        resize_rate: the other end of the range of sizes, relative to the image, positive; 1 changes nothing.
        probability: the probability that an image is changed, from 0 to 1.

    Examples:
        >>> from advkit.attacks.transfer import InputDiversity
        >>> result = advkit.Transfer(model, [InputDiversity(resize_rate=0.9)]).run(images, labels)
    """

    spatial = True

    resize_rate: float = number(1.1, above=0)
    probability: float = number(0.5, at_least=0, at_most=1)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """A bilinear resize and its padding, as one matrix for each side of each image."""
        size, kept = ascent.uniform(len(x), 1), ascent.uniform(len(x), 1) >= self.probability
        sides = [self._side(side, size, ascent.uniform(len(x), 1), kept) for side in x.shape[2:]]
        return by_sides(x, *sides)

    def _side(self, side: int, size: Tensor, offset: Tensor, kept: Tensor) -> Tensor:
        other = max(1, int(side * self.resize_rate))
        small, canvas = min(side, other), max(side, other)
        size = small + (size * (canvas - small)).floor()
        at = torch.arange(canvas, dtype=size.dtype, device=size.device) - (offset * (canvas - size)).floor()
        inside = (at >= 0) & (at < size)
        matrix = interpolation((at + 0.5) * side / size - 0.5, side).mul_(inside[..., None])
        if canvas > side:
            back = (torch.arange(side, dtype=size.dtype, device=size.device) + 0.5) * canvas / side - 0.5
            matrix = interpolation(back, canvas) @ matrix
        return matrix.where(~kept[..., None], torch.eye(side, dtype=size.dtype, device=size.device))


@dataclass(frozen=True, eq=False)
class DIFGSM(Shorthand):
    """Diverse inputs iterative fast gradient sign method, DI2-FGSM (Linf): `InputDiversity`, optionally with momentum.

    Xie et al., "Improving transferability of adversarial examples with input diversity", CVPR 2019.
    arXiv:1803.06978. The default has no momentum; ``decay=1`` is the paper's M-DI2-FGSM.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        resize_rate: passed to `InputDiversity`.
        diversity_prob: passed to `InputDiversity`, how often an image is changed.
        random_start: start at a point drawn uniformly from the budget, rather than at the image.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all draws; torch's default if None.

    Raises:
        InputError: a number is out of its range, or images are not (N, C, H, W); see `Attack` for the rest.

    Examples:
        >>> advkit.DIFGSM(model, decay=1.0).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    decay: float = number(0.0, at_least=0)
    resize_rate: float = number(0.9, above=0)
    diversity_prob: float = number(0.5, at_least=0, at_most=1)
    random_start: bool = flag(False)

    @property
    def parts(self) -> Sequence[Part]:
        """`InputDiversity` and `Momentum`."""
        start = [RandomStart()] if self.random_start else []
        return [*start, InputDiversity(self.resize_rate, self.diversity_prob), Momentum(self.decay)]
