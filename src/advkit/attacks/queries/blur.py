"""Gaussian blur."""

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
    """Gaussian blur, until the model errs.

    Candidates are the image blurred with Gaussian kernels whose standard deviations go from 1/steps of the largest to
    the largest; at an edge, the kernel is cut off and renormalised. Bisection refines the first that fools the model,
    between it and the one before. An image on which none does is returned unchanged.

    Rauber, Brendel & Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML
    2017 workshop. arXiv:1707.04131.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        max_sigma: the largest standard deviation, as a fraction of the longer side, greater than 0 and at most 1.
        steps: how many standard deviations to try, at least 1.
        bisections: how often to halve the last step, at least 0.
        max_queries: the most forwards for one image, at least 1; None for as many as it takes: one for the image
            itself, one for each step, a few of them unused where a batch had room, and one for each bisection.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

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
