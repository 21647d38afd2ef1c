"""Iterative pixel swap."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit.black_box import BlackBox, Oracle, as_pixels
from advkit.hyperparameters import number
from advkit.norms import L0, Norm

__all__ = ["PixelSwap"]

_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True, eq=False)
class PixelSwap(BlackBox):
    """Iterative pixel swap: swap the darkest pixel with the lightest, then the next pair, until the model errs (L0).

    A pixel is a location with all its channels, and its brightness is their mean. The i-th darkest is swapped with the
    i-th lightest, so that the pair that differs most comes first; ties are in order of location. The result is the
    image after the fewest swaps that fool the model: a permutation of its own pixels, or the image itself if it is
    already misclassified or no number of swaps fools the model. A pair of identical pixels is skipped: it is no swap
    and costs no query.

    Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024, section 2.2.4.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        max_swaps: the most pairs to swap, at least 1; None for all, half the number of pixels.
        max_queries: the most forwards for one image, at least 1; None for no limit. One is spent on the
            image itself and one on each number of swaps, up to a quarter more where a batch had room for them.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.PixelSwap(model).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> torch.equal(result.images.flatten(1).sort().values, images.flatten(1).sort().values)
        True
    """

    norm: ClassVar[Norm] = L0
    spatial: ClassVar[bool] = True

    max_swaps: int | None = number(None, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        pixels = as_pixels(images)
        turn, swapped, pairs = _mapping(pixels)
        most = pairs.clamp_max(ask.limit if self.max_swaps is None else min(ask.limit, self.max_swaps))

        def after(index: Tensor, swaps: Tensor) -> Tensor:
            candidates = torch.where(turn[index] < swaps.view(-1, 1, 1), swapped[index], pixels[index])
            return candidates.view(-1, *images.shape[1:])

        every = torch.arange(len(images), device=images.device)
        fewest = torch.full_like(pairs, _NEVER)
        tried = 0
        while len(rows := every[(fewest == _NEVER) & (most > tried)]):
            width = ask.width(len(rows), tried)
            index = rows.repeat_interleave(width)
            swaps = torch.arange(tried + 1, tried + width + 1, device=images.device).repeat(len(rows))
            allowed = swaps <= most[index]
            index, swaps = index[allowed], swaps[allowed]
            fooling = swaps.where(ask(after, index, swaps) == torch.inf, _NEVER)
            fewest.scatter_reduce_(0, index, fooling, "amin")
            tried += width
        return after(every, fewest.where(fewest < _NEVER, 0))


def _mapping(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which pixels change places, and when, from pixels (N, C, P).

    Returns:
        When it is each pixel's turn, from 0 on, or never, int64 (N, 1, P); the pixels after all swaps,
        (N, C, P); and how many swaps that makes, int64 (N,).
    """
    count = pixels.shape[2]
    order = pixels.mean(1).argsort(dim=1, stable=True)
    dark, light = order[:, : count // 2], order.flip(1)[:, : count // 2]
    partner = torch.arange(count, device=pixels.device).expand_as(order)
    partner = partner.scatter(1, dark, light).scatter(1, light, dark)
    swapped = pixels.gather(2, partner[:, None].expand_as(pixels))
    differs = (swapped != pixels).any(1).gather(1, dark)
    turns = torch.where(differs, differs.cumsum(1) - 1, _NEVER)
    turn = torch.full_like(order, _NEVER).scatter(1, dark, turns).scatter(1, light, turns)
    return turn[:, None], swapped, differs.sum(1)
