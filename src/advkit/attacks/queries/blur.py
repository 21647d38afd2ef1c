"""Blur."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.resampling import by_sides, own_precision
from advkit.attacks.queries.mildest import Mildest
from advkit.black_box import canvas
from advkit.hyperparameters import number

__all__ = ["Blur"]


@dataclass(frozen=True, eq=False)
class Blur(Mildest):
    """Blur: the image goes out of focus, until the model errs.

    Candidates are the image under Gaussian kernels, of standard deviations from 1/steps of the largest to the largest;
    at an edge the part of the kernel that lies inside counts. The first that fools is bisected to with the step before
    it. An image that no step fools on is returned unchanged.

    Rauber, Brendel & Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML
    2017 workshop. arXiv:1707.04131.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is asked for.
        max_sigma: the largest standard deviation, as a share of the longer side, greater than 0 and at most 1.
        steps: how many standard deviations are tried, at least 1.
        bisections: how often the last step is halved, at least 0.
        max_queries: how many forwards may be spent on an image, at least 1; None for one on the image itself, one on
            each step, some in vain where a batch had room for them, and one on each bisection.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Blur(model).run(images, labels)
        >>> bool(result.success.any()), bool((result.images.std((1, 2, 3)) <= images.std((1, 2, 3))).all())
        (True, True)
    """

    spatial: ClassVar[bool] = True

    max_sigma: float = number(0.5, above=0, at_most=1)

    def _end(self, images: Tensor) -> None:
        """There is none."""

    def _changed(self, images: Tensor, end: Tensor | None, strength: Tensor) -> Tensor:
        pictures = canvas(images)
        sigma = strength * self.max_sigma * max(pictures.shape[2:])
        with own_precision(images.device):
            return by_sides(pictures, *(_bells(size, sigma) for size in pictures.shape[2:])).reshape(images.shape)


def _bells(size: int, sigma: Tensor) -> Tensor:
    """The matrices that blur lines of ``size`` pixels with these standard deviations, (n,): (n, size, size)."""
    at = torch.arange(size, dtype=sigma.dtype, device=sigma.device)
    kernels = (-(((at[:, None] - at) / sigma[:, None, None]) ** 2) / 2).exp()
    return kernels / kernels.sum(2, keepdim=True)
