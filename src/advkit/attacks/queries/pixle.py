"""Pixle."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.checks import check_number
from advkit.black_box import BlackBox, Oracle, as_pixels, overwrite, places
from advkit.errors import InputError
from advkit.hyperparameters import Hyperparameter, declared, number
from advkit.norms import L0, Norm

__all__ = ["Pixle"]


@dataclass(frozen=True)
class _Sides(Hyperparameter):
    """The smallest and the largest side of a patch."""

    def _check(self, name: str, value: object) -> None:
        if not isinstance(value, tuple) or len(value) != 2:
            raise InputError(f"{name} must be a pair, the smallest and the largest side; got {value!r}")
        check_number(f"{name}[0]", value[0], at_least=1, integer=True)
        check_number(f"{name}[1]", value[1], at_least=value[0], integer=True)

    def __str__(self) -> str:
        return "a pair of integers, at least 1, in order"


@dataclass(frozen=True, eq=False)
class Pixle(BlackBox):
    """Pixle: overwrite random pixels with those of a random patch of the image, until the model errs (L0).

    An iteration takes a patch of the original image, of random sides and position, and copies each of its pixels
    to a random location of the best image so far. After ``iterations`` of them, the result with the smallest
    probability of the label (the largest of the target) becomes the best image, if it is better. That is repeated
    ``restarts`` times, or until the model is fooled. An image on which the attack fails is returned unchanged.

    Pomponi, Scardapane & Uncini, "Pixle: a fast and effective black-box attack based on rearranging pixels",
    IJCNN 2022, algorithm 1, with the random mapping.
    arXiv:2202.02236.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        restarts: how many rounds of ``iterations``, each from the best image so far, at least 1.
        iterations: how many patches to try in each round, at least 1.
        patch: the smallest and the largest side of a patch in pixels, at least 1; cut to the size of the image.
        max_queries: the most forwards for one image, at least 1; None for no limit. One is spent on the
            image itself, and at most ``restarts * iterations`` on patches.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the patches and locations; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Pixle(model, max_queries=100).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool(torch.isin(result.images[0], images[0]).all())  # no colour is new
        True
    """

    norm: ClassVar[Norm] = L0
    spatial: ClassVar[bool] = True

    restarts: int = number(20, at_least=1, integer=True)
    iterations: int = number(10, at_least=1, integer=True)
    patch: tuple[int, int] = declared((2, 10), _Sides())

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        originals = as_pixels(images)
        best = base = originals.clone()

        def rearranged(index: Tensor, sources: Tensor, places: Tensor) -> Tensor:
            values = originals[index].gather(2, sources[:, None].expand(-1, originals.shape[1], -1))
            return overwrite(base[index], places, values)

        def candidates(*parameters: Tensor) -> Tensor:
            return rearranged(*parameters).view(-1, *images.shape[1:])

        rows, tried = torch.arange(len(images), device=images.device), 0
        most = min(ask.limit, self.restarts * self.iterations)
        while len(rows) and tried < most:
            done = tried % self.iterations
            if not done:
                base = best.clone()
            width = min(ask.width(len(rows), tried), self.iterations - done, most - tried)
            index = rows.repeat_interleave(width)
            sources, places = self._patches(index, images)
            top, which = ask(candidates, index, sources, places).view(-1, width).max(1)
            better = top > heights[rows]
            winners = (which + torch.arange(0, len(index), width, device=which.device))[better]
            best[rows[better]] = rearranged(index[winners], sources[winners], places[winners])
            heights[rows] = top.maximum(heights[rows])
            rows = rows[top < torch.inf]
            tried += width
        return best.where((heights == torch.inf)[:, None, None], originals).view_as(images)

    def _patches(self, index: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """The pixels of random patches, and where to put each of them: int64 (m, k) twice, for m rows ``index``."""
        sizes = places(images)  # (height, width), or any other number of dimensions

        def below(limit: int | Tensor, per_row: int = 1) -> Tensor:
            chance = uniform_like(images.new_empty(len(index), per_row), self.generator)
            return (chance * limit).long().clamp_max(limit - 1)

        sources, inside = torch.zeros_like(index)[:, None], torch.ones_like(index, dtype=torch.bool)[:, None]
        for size in sizes:
            low, high = (min(side, size) for side in self.patch)
            side = low + below(high - low + 1)
            place = below(size - side + 1) + torch.arange(high, device=index.device)
            sources = (sources[:, :, None] * size + place[:, None]).flatten(1)
            inside = (inside[:, :, None] & (place < place[:, :1] + side)[:, None]).flatten(1)
        count = math.prod(sizes)
        return sources.clamp_max(count - 1), below(count, sources.shape[1]).where(inside, count)
