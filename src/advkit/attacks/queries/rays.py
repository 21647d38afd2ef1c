"""Ray searching."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.decisions import bisected
from advkit.attack import Access
from advkit.black_box import Asking, Oracle
from advkit.hyperparameters import number
from advkit.norms import Linf, Norm, column

__all__ = ["RayS"]

_TOLERANCE = 1e-3  # of a radius in L2, as in the authors' code


@dataclass(frozen=True, eq=False)
class RayS(Asking):
    """RayS: along the signs s of all features the nearest x + r s that fools, and flips of blocks of signs (Linf).

    All signs are flipped first, then halves, quarters and so on of the features in their order, down to single ones,
    which are gone through again and again. A flip costs one query, which asks whether it fools at the smallest radius
    so far; if it does, bisection finds its radius and the flip stays. An image on which no corner that is tried fools
    is returned unchanged. There is no gradient to estimate and no start to find, and nothing is random.

    Chen & Gu, "RayS: A ray searching method for hard-label adversarial attack", KDD 2020.
    arXiv:2006.12792.

    Args:
        model: pixels (N, ...) to logits (N, K), of which only the largest counts; any callable, no gradient is asked
            for.
        max_queries: how many forwards may be spent on an image, at least 1.
        batch_size: how many images the model is given at a time at most, at least 1; None for as many as suit the
            device.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.RayS(model, max_queries=500).run(images, labels)
        >>> bool(result.success.any()), bool((result.queries <= 500).all())
        (True, True)
        >>> more = advkit.RayS(model, max_queries=1000).run(images, labels)  # goes on from there
        >>> bool((more.distance("linf") <= result.distance("linf"))[result.success].all())
        True
    """

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = Linf

    max_queries: int = number(10_000, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        flat, features = images.flatten(1), images[0].numel()
        low, high = self.bounds
        tolerance = _TOLERANCE * (high - low) / features**0.5
        signs, radius = torch.ones_like(flat), flat.new_full((len(flat),), high - low)
        fooled = torch.zeros_like(heights, dtype=torch.bool)

        def corners(rows: Tensor, radii: Tensor, signs: Tensor) -> Tensor:
            moved = flat[rows] + column(radii, signs) * signs
            return moved.clamp_(low, high).view(-1, *images.shape[1:])

        rows, size, begin = torch.arange(len(images), device=images.device), features, 0
        while len(rows := rows[ask.left[rows] > 0]):
            tried = signs[rows]
            tried[:, begin : begin + size] *= -1
            better = ask.fools(corners(rows, radius[rows], tried), rows).nonzero().squeeze(1)
            won, tried = rows[better], tried[better]
            radius[won] = bisected(
                ask,
                won,
                lambda places, radii, won=won, tried=tried: corners(won[places], radii, tried[places]),  # type: ignore[misc]
                torch.zeros_like(radius[won]),
                radius[won],
                tolerance,
            )
            signs[won], fooled[won] = tried, True
            begin += size
            if begin >= features:
                size, begin = -(-size // 2), 0
        everything = torch.arange(len(images), device=images.device)
        return corners(everything, radius, signs).where(column(fooled, images), images)
