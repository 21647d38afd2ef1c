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
    """SimBA: add or subtract vectors of an orthonormal basis, one after another, if the label gets less probable (L2).

    The vectors come in random order, each once: single features, or the lowest-frequency basis vectors of the discrete
    cosine transform of a channel. Each is tried with one sign, and with the other if that does not help. After T
    changes, the image is at most sqrt(T) alpha away. An image leaves the batch when the model is fooled; one on which
    the attack fails is returned unchanged.

    Guo, Gardner, You, Wilson & Weinberger, "Simple black-box adversarial attacks", ICML 2019, algorithm 1.
    arXiv:1905.07121.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        alpha: the L2 length of each change in units of pixels, greater than 0: epsilon in the paper; a fifth of the
            range of ``bounds`` if not given.
        basis: "pixels", or "dct" for the discrete cosine transform.
        frequencies: with "dct", the fraction of the frequencies along each side to use, the lowest; greater than 0 and
            at most 1.
        loss: the loss that has to rise: "log_odds", which rises whenever the label's probability falls, however
            confident the model is; "ce", "margin", "dlr", or a function as in `advkit.losses.get`.
        max_queries: the most forwards for one image, at least 1; None for as many as the basis takes, one for the
            image itself and two for each vector.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the order; torch's default if None.

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
        """Whether the basis depends on where pixels lie, as "dct" does."""
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
