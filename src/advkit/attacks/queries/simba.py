"""Simple black-box attack."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.lengths import OfRange
from advkit._engine.resampling import cosines
from advkit.black_box import BlackBox, Oracle, canvas
from advkit.hyperparameters import choice, loss, number
from advkit.losses import Loss
from advkit.norms import L2, Norm, column

__all__ = ["SimBA"]


@dataclass(frozen=True, eq=False)
class SimBA(BlackBox):
    """SimBA: add or subtract one vector of an orthonormal basis after the other, whichever makes the label less likely.

    The vectors come in random order, each once: single features, or the waves of the discrete cosine transform of a
    channel with the lowest frequencies. Each is tried with one sign, and if that does not help with the other. After T
    changes the image is sqrt(T) alpha away at most. An image leaves when the model is fooled; one that the attack fails
    on is returned unchanged.

    Guo, Gardner, You, Wilson & Weinberger, "Simple black-box adversarial attacks", ICML 2019, algorithm 1.
    arXiv:1905.07121.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is asked for.
        alpha: length of each change in L2 in units of pixels, greater than 0: epsilon in the paper.
        basis: "pixels", or "dct" for waves.
        frequencies: the share of the frequencies along each side that waves are taken from, the lowest; greater than 0
            and at most 1.
        loss: what has to rise: "log_odds", which does when the label's probability falls, however sure the model is;
            "ce", "margin", "dlr", or a function as in `advkit.losses.get`.
        max_queries: how many forwards may be spent on an image, at least 1; None for as many as the basis takes, one on
            the image itself and two on each vector.
        bounds: the lowest and the highest value of a pixel.
        generator: what the order is drawn from; torch's default generator if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SimBA(model, max_queries=1000).run(images, labels)
        >>> bool(result.success.any()), bool((result.queries <= 1000).all())
        (True, True)
    """

    norm: ClassVar[Norm] = L2

    alpha: float = number(OfRange(0.2), above=0)
    basis: str = choice("pixels", "dct")
    frequencies: float = number(1 / 8, above=0, at_most=1)
    loss: str | Loss = loss("log_odds")

    @property
    def spatial(self) -> bool:
        """Waves need to know where pixels lie."""
        return self.basis == "dct"

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        best, answers = canvas(images), images.clone()
        low, high = self.bounds
        share = 1.0 if self.basis == "pixels" else self.frequencies
        sizes = best.shape[1], *(math.ceil(share * size) for size in best.shape[2:])
        rows = torch.arange(len(images), device=images.device)
        order = uniform_like(images.new_empty(len(images), math.prod(sizes)), self.generator).argsort(1)
        at, sign = torch.zeros_like(rows), torch.ones_like(rows)
        for _ in range(min(ask.limit, 2 * order.shape[1])):
            wave = self._vectors(order.gather(1, at[:, None]).squeeze(1), sizes, best)
            tried = (best + wave * column(self.alpha * sign, best)).clamp(low, high)
            found = ask(tried.view(-1, *images.shape[1:]), rows)
            better = found > heights
            best, heights = tried.where(column(better, best), best), found.where(better, heights)
            onwards = better | (sign < 0)  # to the next vector; else this one is tried the other way
            at, sign = at + onwards.long(), torch.where(onwards, 1, -1)

            done = (heights == torch.inf) | (at == order.shape[1])
            if left := len(kept := (~done).nonzero().squeeze(1)) - len(rows):
                answers[rows] = best.view(-1, *images.shape[1:])
                rows, order, best, heights, at, sign = (each[kept] for each in (rows, order, best, heights, at, sign))
            if left and not len(rows):
                break
        return answers

    def _vectors(self, which: Tensor, sizes: tuple[int, ...], images: Tensor) -> Tensor:
        """Some vectors of the basis, one for each of the images (n, C, H, W), by their numbers, int64 (n,)."""
        channel = which // math.prod(sizes[1:])
        row, column_ = which % math.prod(sizes[1:]) // sizes[2], which % sizes[2]
        one = _one_hot(channel, images.shape[1], images)[:, :, None, None]
        make = _one_hot if self.basis == "pixels" else cosines
        down, across = (make(place, size, images) for place, size in zip((row, column_), images.shape[2:], strict=True))
        return one * down[:, None, :, None] * across[:, None, None]


def _one_hot(place: Tensor, size: int, like: Tensor) -> Tensor:
    return (place[:, None] == torch.arange(size, device=place.device)).to(like)
