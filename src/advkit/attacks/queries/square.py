"""Square Attack."""

import math
from abc import ABC, abstractmethod
from bisect import bisect_left
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Self

from advkit import norms
from advkit._base.random import uniform_like
from advkit._engine.ball import Ball, LinfBall
from advkit._engine.lengths import OfRange
from advkit.attack import Aim
from advkit.black_box import Asking, Oracle, canvas
from advkit.hyperparameters import loss, norm, number
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = ["Square"]

_HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # the turns after which the share of the pixels is halved


@dataclass(frozen=True, eq=False)
class Square(Asking):
    """Square Attack: random squares of an image move to the edge of the ball, and stay there if the loss rises.

    The search starts on the edge of the ball: in Linf from vertical stripes of +-eps in each channel, in L2 and L1
    from a pattern of small pyramids with random signs. Each query then changes the best image so far in one square at a
    random position, and the result is the new best if the loss is higher. In Linf the square becomes x +- eps, with a
    sign for each channel; in L2 and L1 it gets a pyramid and its negative side by side, scaled to use the rest of the
    budget together with that of a second square, which is reset. A square has ``p_init`` of the pixels at
    first, and half as many after 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries, whatever
    ``max_queries`` is. Each image has its own squares and signs, and leaves the batch when the model is fooled.

    Andriushchenko, Croce, Flammarion & Hein, "Square attack: a query-efficient black-box adversarial attack via random
    search", ECCV 2020, algorithms 1 to 3; the schedule, the loss and the L1 ball as in AutoAttack, Croce & Hein 2020
    and 2021. As in the authors' first code, and unlike in AutoAttack, no query in Linf is spent on a candidate that
    equals the best image: its signs are drawn again.
    arXiv:1912.00049.

    Args:
        model: pixels (N, ...) to logits (N, K); any callable, no gradient is needed.
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball in units of pixels, at least 0: a number, or a tensor of shape (N,); 8/255 of the
            range of ``bounds`` if not given, whatever the norm.
        max_queries: the most forwards for one image, at least 1. One is spent on the image itself and one on
            the starting point.
        p_init: the fraction of the pixels in the first squares, greater than 0 and at most 1. In images that are not
            square, squares are no larger than the shorter side; in flat vectors (N, P) they are runs of features.
        loss: the loss to maximise: "margin", "ce", "dlr", "log_odds", or a function as in `advkit.losses.get`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the squares and signs; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Square(model, eps=0.1, max_queries=300).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("linf") <= 0.1 + 1e-6).all()), bool((result.queries <= 300).all())
        (True, True)
    """

    aim: ClassVar[Aim] = "budget"
    spatial: ClassVar[bool] = True

    norm: str | Norm = norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    max_queries: int = number(5000, at_least=1, integer=True)
    p_init: float = number(0.8, above=0, at_most=1)
    loss: str | Loss = loss("margin")

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        ball = Ball.of(self.norm, canvas(images), self.eps, self.bounds)
        height, width = ball.originals.shape[2:]
        rows = (torch.as_tensor(self.eps, device=images.device).expand(len(images)) > 0).nonzero().squeeze(1)
        if not len(rows):  # a budget of nothing is not worth a query
            return images
        rule = _RULES[ball.norm](ball.rows(rows), self.generator)

        best = rule.start()
        heights = ask(best.view(-1, *images.shape[1:]), rows)
        for turn in range(ask.limit - 1):
            left = (heights != torch.inf).nonzero().squeeze(1)
            if len(left) < len(rows):
                rows, rule, best, heights = rows[left], rule.rows(left), best[left], heights[left]
            if not len(rows):
                break
            tried = rule.changed(best, _sides(_share(self.p_init, turn), (height, width), rule.least))
            found = ask(tried.view(-1, *images.shape[1:]), rows)
            better = found > heights
            best, heights = tried.where(column(better, best), best), found.where(better, heights)
        return images


def _share(p_init: float, turn: int) -> float:
    """The share of the pixels that a square has, from 0 on for the first query after the start."""
    return p_init * 0.5 ** bisect_left(_HALVED, turn)


def _sides(share: float, size: tuple[int, int], least: int) -> tuple[int, int]:
    """The height and the width of a square with this share of the pixels of an image of this height and width.

    It is no larger than the shorter side of the image. A row of pixels has a run of them instead. With a ``least``
    side of more than 1 it is odd, where the image is large enough.
    """
    long = _long(size)
    pixels = share * math.prod(size)
    side = max(least, round(math.sqrt(pixels) if len(long) > 1 else pixels))
    side = min(side if least == 1 else side | 1, *long)
    return min(side, size[0]), min(side, size[1])


def _long(size: tuple[int, int]) -> list[int]:
    """The sides of an image along which a square has a length: both, or that of a row."""
    return [length for length in size if length > 1] or [1]


class _Rule(ABC):
    """Where the search starts in a ball, and what it tries next.

    Args:
        ball: about images (n, C, H, W).
        generator: what is drawn from.
    """

    least: ClassVar[int]  # the smallest side of a square

    def __init__(self, ball: Ball, generator: torch.Generator | None) -> None:
        self.ball, self.generator = ball, generator

    @abstractmethod
    def start(self) -> Tensor:
        """Where the search starts: (n, C, H, W)."""

    @abstractmethod
    def changed(self, best: Tensor, sides: tuple[int, int]) -> Tensor:
        """The best images (n, C, H, W) with a change in a window of these sides each, as new tensors."""

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows, int64."""
        return type(self)(self.ball.rows(index), self.generator)

    def uniform(self, *shape: int) -> Tensor:
        """Draws from [0, 1)."""
        return uniform_like(self.ball.originals.new_empty(shape), self.generator)

    def heads(self, *shape: int) -> Tensor:
        """Tosses of a coin: bool."""
        return self.uniform(*shape) < 0.5

    def windows(self, sides: tuple[int, int]) -> Tensor:
        """The places of the pixels in a window of each image, anywhere in it: int64 (n, C, height * width)."""
        n, channels, height, width = self.ball.originals.shape
        chance = self.uniform(2, n, 1)
        ends = []
        for drawn, length, side in zip(chance, (height, width), sides, strict=True):
            free = length - side
            first = (drawn * (free + 1)).long().clamp_max(free)
            ends.append(first + torch.arange(side, device=first.device))
        down, across = ends
        window: Tensor = (down[:, :, None] * width + across[:, None]).flatten(1)
        return window[:, None].expand(-1, channels, -1)


class _Edges(_Rule):
    """Linf, algorithm 2: each pixel of a square goes up or down as far as the ball and the box allow."""

    least = 1

    def start(self) -> Tensor:
        n, channels, _, width = self.ball.originals.shape
        lowest, highest = self._ends()
        return torch.where(self.heads(n, channels, 1, width), highest, lowest)

    def changed(self, best: Tensor, sides: tuple[int, int]) -> Tensor:
        window = self.windows(sides)
        here, low, high = (each.flatten(2).gather(2, window) for each in (best, *self._ends()))
        up, again = self.heads(2, *best.shape[:2], 1)
        stale = (torch.where(up, high, low) == here).flatten(1).all(1)[:, None, None]
        other = again ^ (again == up).all(1, keepdim=True)  # than those that were drawn first
        edges = torch.where(torch.where(stale, other, up), high, low)
        return best.flatten(2).scatter(2, window, edges).view_as(best)

    def _ends(self) -> tuple[Tensor, Tensor]:
        ball = cast(LinfBall, self.ball)
        return ball.lowest, ball.highest


class _Pyramids(_Rule):
    """L2, algorithm 3, and L1: a pyramid and a negative one side by side, where two squares were.

    Args:
        ball: about images (n, C, H, W).
        generator: what is drawn from.
        known: the patterns that were made before, by their sides.
    """

    least = 3
    order: ClassVar[int]
    decay: ClassVar[int]  # of the squares that a pyramid is a sum of, a power of their number

    def __init__(
        self, ball: Ball, generator: torch.Generator | None, known: dict[tuple[int, int], Tensor] | None = None
    ) -> None:
        super().__init__(ball, generator)
        self._known = {} if known is None else known

    def rows(self, index: Tensor) -> Self:
        return type(self)(self.ball.rows(index), self.generator, self._known)

    def start(self) -> Tensor:
        n, channels, height, width = self.ball.originals.shape
        tile = max(1, min(_long((height, width))) // 5)
        sides = min(tile, height), min(tile, width)
        count = height // sides[0], width // sides[1]
        patterns = self._pattern(sides)[self.heads(n, *count).long()]
        low, high = self.ball.bounds
        signs = (self.heads(n, channels, *count).to(patterns) * 2 - 1) * (high - low)  # patterns are for [0, 1]
        tiles = signs[..., None, None] * patterns[:, None]  # (n, C, down, across, side, side)
        change = tiles.transpose(3, 4).flatten(4).flatten(2, 3)
        below, right = height - change.shape[2], width - change.shape[3]
        return self._onto(F.pad(change, (right // 2, right - right // 2, below // 2, below - below // 2)))

    def changed(self, best: Tensor, sides: tuple[int, int]) -> Tensor:
        n, channels = best.shape[:2]
        change = (best - self.ball.originals).flatten(2)
        window, given_up = self.windows(sides), self.windows(sides)
        emptied = change.scatter(2, given_up, 0).scatter(2, window, 0)
        used = self._size(change - emptied) ** self.order  # of each channel, in either square
        eps = torch.as_tensor(self.ball.eps, dtype=change.dtype, device=change.device).view(-1, 1, 1)
        unused = (eps**self.order - self._size(change).pow(self.order).sum(1, keepdim=True)).clamp_min(0)

        signs = self.heads(n, channels, 1).to(change) * 2 - 1
        new = self._pattern(sides)[self.heads(n).long()].flatten(1)[:, None] * signs
        new = self._unit(new + self._unit(change.gather(2, window)))
        change = emptied.scatter(2, window, new * self._room(unused, used, channels))
        return self._onto(change.view_as(best))

    @abstractmethod
    def _onto(self, change: Tensor) -> Tensor:
        """The images with a change (n, C, H, W), brought onto the edge of the ball, or into it, and into the box."""

    @abstractmethod
    def _room(self, unused: Tensor, used: Tensor, channels: int) -> Tensor:
        """How large a new pattern is.

        Args:
            unused: (n, 1, 1), what the change leaves of the budget, to the power of the norm's order.
            used: (n, C, 1), what either square has of it in each channel, likewise.
            channels: how many there are.
        """

    def _size(self, patterns: Tensor) -> Tensor:
        """The norm of patterns (..., k): (..., 1)."""
        size: Tensor = torch.linalg.vector_norm(patterns, ord=self.order, dim=-1, keepdim=True)
        return size

    def _unit(self, patterns: Tensor) -> Tensor:
        """Patterns (..., k) of norm 1; those of nothing stay so."""
        return patterns / (self._size(patterns) + 1e-12)

    def _pattern(self, sides: tuple[int, int]) -> Tensor:
        """Two pyramids, of opposite signs, on a window of these sides: (2, height, width), and turned by a right angle.

        A window that is not square has them along its longer side only.
        """
        if sides not in self._known:
            height, width = max(sides), min(sides)
            halves = self._pyramid(height // 2, width), -self._pyramid(height - height // 2, width)
            upright = self._unit(torch.cat(halves).flatten()).view(height, width)
            both = [upright, upright.T] if height == width else [upright if sides[0] > sides[1] else upright.T] * 2
            self._known[sides] = torch.stack(both).to(self.ball.originals)
        return self._known[sides]

    def _pyramid(self, height: int, width: int) -> Tensor:
        """A pyramid of norm 1 with its top in the middle: a sum of squares about it, each larger and lower."""
        rows, columns = ((torch.arange(size, device="cpu") - size // 2).abs() for size in (height, width))
        ring = rows[:, None].maximum(columns)
        heights = torch.arange(1, max(height // 2, width // 2) + 2, device="cpu").double() ** -self.decay
        return self._unit(heights.flip(0).cumsum(0).flip(0)[ring].flatten()).view(height, width)


class _InL2(_Pyramids):
    """L2: the change is scaled to the budget before the box cuts it."""

    order, decay = 2, 2

    def _onto(self, change: Tensor) -> Tensor:
        scaled = self._unit(change.flatten(1)).view_as(change) * column(self.ball.eps, change)
        return self.ball.project(scaled.add_(self.ball.originals))

    def _room(self, unused: Tensor, used: Tensor, channels: int) -> Tensor:
        return (unused / channels + used).sqrt()


class _InL1(_Pyramids):
    """L1: the change is brought to the closest one in both the ball and the box."""

    order, decay = 1, 4

    def _onto(self, change: Tensor) -> Tensor:
        return self.ball.project(change + self.ball.originals)

    def _room(self, unused: Tensor, used: Tensor, channels: int) -> Tensor:
        return unused + channels * used


_RULES: dict[Norm, type[_Rule]] = {norms.Linf: _Edges, norms.L2: _InL2, norms.L1: _InL1}
