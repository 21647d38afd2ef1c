"""Blends with noise, and with grey."""

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
    """Blends: the image fades into noise, or into grey as when contrast is lost, until the model errs.

    Candidates are (1 - t) x + t w with t from 1/steps to 1: w is "noise", uniform in each pixel and drawn once for
    each image, or "grey", the middle of ``bounds`` in all of it. The first that fools is bisected to with the step
    before it. An image that no step fools on is returned unchanged.

    Rauber, Brendel & Bethge, "Foolbox: a Python toolbox to benchmark the robustness of machine learning models", ICML
    2017 workshop. arXiv:1707.04131.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is asked for.
        into: "noise" or "grey".
        steps: how many values of t are tried, at least 1.
        bisections: how often the last step is halved, at least 0.
        max_queries: how many forwards may be spent on an image, at least 1; None for one on the image itself, one on
            each step, some in vain where a batch had room for them, and one on each bisection.
        bounds: the lowest and the highest value of a pixel.
        generator: what noise is drawn from; torch's default generator if None.

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
