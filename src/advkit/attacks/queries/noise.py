"""Random noise."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import normal_like, uniform_like
from advkit.attack import Access, Aim
from advkit.black_box import BlackBox, Oracle, as_pixels
from advkit.hyperparameters import choice, number

__all__ = ["Noise"]


@dataclass(frozen=True, eq=False)
class Noise(BlackBox):
    """Random noise: a baseline of what the model gets wrong by chance, with no attacker, in a number of tries.

    Each try draws new noise: "gaussian", x + amount * range * n with normal n; "uniform", the same with n from [-1, 1];
    or "salt_and_pepper", where a fraction ``amount`` of the pixels becomes black or white, in all channels. An image
    leaves the batch when the model is fooled; one that withstands all tries is returned unchanged.

    Hendrycks & Dietterich, "Benchmarking neural network robustness to common corruptions and perturbations", ICLR 2019,
    has Gaussian and impulse noise, with one try each. arXiv:1903.12261.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        kind: "gaussian", "uniform" or "salt_and_pepper".
        amount: the standard deviation, or the largest change, as a fraction of the range of ``bounds``; or the fraction
            of the pixels. Greater than 0 and at most 1.
        repeats: how many tries, at least 1.
        max_queries: the most forwards for one image, at least 1; None for one for the image itself and one for
            each try.
        bounds: the lowest and the highest value of a pixel, to which the noisy image is clipped.
        generator: random generator for the noise; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> for kind in ("gaussian", "uniform", "salt_and_pepper"):
        ...     result = advkit.Noise(model, kind, amount=0.2).run(images, labels)
        ...     print(bool(result.success.any()), bool((result.queries <= 11).all()))
        True True
        True True
        True True
    """

    access: ClassVar[Access] = "decisions"
    aim: ClassVar[Aim] = "budget"

    kind: str = choice("gaussian", "uniform", "salt_and_pepper")
    amount: float = number(0.1, above=0, at_most=1)
    repeats: int = number(10, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        rows = torch.arange(len(images), device=images.device)
        for _ in range(min(self.repeats, ask.limit)):
            rows = rows[ask(self._noisy(images[rows]), rows) < torch.inf]
            if not len(rows):
                break
        return images

    def _noisy(self, images: Tensor) -> Tensor:
        low, high = self.bounds
        if self.kind == "gaussian":
            return images + self.amount * (high - low) * normal_like(images, self.generator)
        if self.kind == "uniform":
            return images + self.amount * (high - low) * (2 * uniform_like(images, self.generator) - 1)
        chance = uniform_like(as_pixels(images)[:, :1], self.generator)
        value = torch.where(chance < self.amount / 2, low, high).to(images)
        return torch.where(chance < self.amount, value, as_pixels(images)).view_as(images)
