"""What attacks on decisions share: an image to begin with that fools, and the way back from it to the boundary."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._base.random import uniform_like
from advkit._engine.oracle import Oracle
from advkit.norms import Norm, column

__all__ = ["Nearest", "bisected", "starts"]


def starts(
    ask: Oracle,
    images: Tensor,
    given: Tensor | None,
    tries: int,
    bounds: tuple[float, float],
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    """Images that fool to begin with: the place of each that has one, int64 (m,), and that one, (m, ...).

    The one that is given, if that fools; otherwise noise, uniform over the bounds, and the other images of the batch,
    in turn. Each try costs a query.

    Args:
        ask: the model.
        images: (n, ...).
        given: (n, ...), or None.
        tries: how often noise is tried at most, and how many of the other images.
        bounds: the lowest and the highest value of a pixel.
        generator: what noise is drawn from.
    """
    found, (low, high) = images.clone(), bounds
    fooled = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    for turn in range(-1, 2 * tries):
        if turn < 0 and given is None:
            continue
        rows = (~fooled & (ask.left > 0)).nonzero().squeeze(1)
        if not len(rows):
            break
        shift = turn // 2 + 1
        if turn < 0 and given is not None:
            tried = given[rows]
        elif turn % 2 == 0:
            tried = low + (high - low) * uniform_like(images[rows], generator)
        elif shift < len(images):
            tried = images[(rows + shift) % len(images)]
        else:
            continue
        fools = ask.fools(tried, rows)
        found[rows] = tried.where(column(fools, tried), found[rows])
        fooled[rows] = fools
    rows = fooled.nonzero().squeeze(1)
    return rows, found[rows]


def bisected(
    ask: Oracle,
    rows: Tensor,
    at: Callable[[Tensor, Tensor], Tensor],
    low: Tensor,
    high: Tensor,
    tolerance: float | Tensor,
    most: int = 64,
) -> Tensor:
    """Where candidates begin to fool, to within a tolerance and as far as the queries go: (n,), a place that does.

    Args:
        ask: the model.
        rows: int64 (n,), the image of each row.
        at: makes candidates (m, ...) of some rows, int64 (m,), and a place for each, (m,).
        low: (n,), where they do not fool, or may not.
        high: (n,), where they do.
        tolerance: how far apart the two may stay, one for all or (n,).
        most: how often they are halved at most.
    """
    low, high = low.clone(), high.clone()
    for _ in range(most):
        middle = (low + high) / 2
        apart = ((high - low).abs() > tolerance) & (middle != low) & (middle != high) & (ask.left[rows] > 0)
        places = apart.nonzero().squeeze(1)
        if not len(places):
            break
        fools = ask.fools(at(places, middle[places]), rows[places])
        high[places] = middle[places].where(fools, high[places])
        low[places] = middle[places].where(~fools, low[places])
    return high


@dataclass
class Nearest:
    """The images that a search has found to fool, each as close to its original as it has come.

    Args:
        ask: the model.
        originals: (N, ...).
        norm: in which distances are measured.

    Attributes:
        images: (N, ...), the closest that fools, or the original.
        distances: (N,), how far away it is; infinite where nothing fools.
    """

    ask: Oracle
    originals: Tensor
    norm: Norm
    images: Tensor = field(init=False)
    distances: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.images = self.originals.clone()
        self.distances = self.originals.new_full((len(self.originals),), torch.inf)

    def note(self, rows: Tensor, x: Tensor) -> Tensor:
        """Take note of images (n, ...) that fool, at most one for each row, and say how far away they are: (n,)."""
        distances = self.norm.distance(x, self.originals[rows])
        closer = distances < self.distances[rows]
        self.images[rows] = x.where(column(closer, x), self.images[rows])
        self.distances[rows] = distances.where(closer, self.distances[rows])
        return distances

    def back(self, rows: Tensor, x: Tensor, tolerance: float) -> Tensor:
        """The way back from images (n, ...) that fool to their originals, as far as they go on to: (n, ...).

        It is straight, but for Linf, where the pixels that are furthest away come back first. The ``tolerance`` is a
        share of the way.
        """
        originals = self.originals[rows]
        change = x - originals
        sizes = self.norm.size(change)

        def at(places: Tensor, shares: Tensor) -> Tensor:
            return originals[places] + self.norm.project(change[places], shares * sizes[places])

        whole = torch.ones_like(sizes)
        shares = bisected(self.ask, rows, at, torch.zeros_like(sizes), whole, tolerance)
        return at(torch.arange(len(x), device=x.device), shares).where(column(shares < 1, x), x)
