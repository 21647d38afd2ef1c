"""Blending with noise or with grey."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.random import uniform_like
from advkit.attacks.queries.mildest import Mildest
from advkit.hyperparameters import choice
from advkit.norms import column

__all__ = ["Blended"]


@dataclass(frozen=True, eq=False)
class Blended(Mildest):
    """Blending: the image fades into noise, or into grey as when contrast is lost, until the model errs.

    Candidates are (1 - t) x + t w with t from 1/steps to 1: w is "noise", uniform for each pixel and drawn once for
    each image, or "grey", the middle of ``bounds`` everywhere. Bisection refines the first t that fools the model,
    between it and the one before. An image on which no t does is returned unchanged.

    Rauber, Brendel & Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML
    2017 workshop. arXiv:1707.04131.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        into: "noise" or "grey".
        steps: how many values of t to try, at least 1.
        bisections: how often to halve the last step, at least 0.
        max_queries: the most forwards for one image, at least 1; None for as many as it takes: one for the image
            itself, one for each step, a few of them unused where a batch had room, and one for each bisection.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the noise; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Blended(model, "grey").run(images, labels)
        >>> bool(result.success.any()), bool((result.images.std((1, 2, 3)) <= images.std((1, 2, 3))).all())
        (True, True)
    """

    into: str = choice("noise", "grey")

    def _end(self, images: Tensor) -> Tensor:
        low, high = self.bounds
        if self.into == "grey":
            return torch.full_like(images, (low + high) / 2)
        return low + (high - low) * uniform_like(images, self.generator)

    def _changed(self, images: Tensor, end: Tensor | None, strength: Tensor) -> Tensor:
        assert end is not None
        return torch.lerp(images, end, column(strength, images))
