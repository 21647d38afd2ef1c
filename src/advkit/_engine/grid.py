"""Images that can take some values only, and what becomes of an attack on them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Grid", "Halves", "Levels", "fooling", "inward"]

_PUSHES = (1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 8.0)  # how far to go, in parts of the way that was found


class Grid(ABC):
    """The values that pixels can take. Tensors are floating, in the precision of the work."""

    @property
    def slack(self) -> float:
        """By how much a step may be longer than a change that it is taken for, in units of pixels."""
        return 0.0

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """The grid's values next to ``x``: the same shape and dtype."""

    @abstractmethod
    def neighbours(self, x: Tensor, direction: Tensor) -> Tensor:
        """The values after ``x``, which are the grid's, in a direction of -1, 0 or 1 for each."""


@dataclass(frozen=True)
class Halves(Grid):
    """The numbers of a 16-bit float."""

    dtype: torch.dtype

    def nearest(self, x: Tensor) -> Tensor:
        return x.to(self.dtype).to(x.dtype)

    def neighbours(self, x: Tensor, direction: Tensor) -> Tensor:
        # By their bits, which are in order but for the sign; `torch.nextafter` is not there for all devices.
        bits = x.to(self.dtype).view(torch.int16).int()
        order = torch.where(bits < 0, -(bits & 0x7FFF), bits) + direction.int()
        return torch.where(order < 0, -order - 0x8000, order).to(torch.int16).view(self.dtype).to(x.dtype)


@dataclass(frozen=True)
class Levels(Grid):
    """So many values at equal distances between two bounds, such as the 256 of 8 bits."""

    bounds: tuple[float, float]
    count: int = 256

    @property
    def slack(self) -> float:
        """A small part of a level."""
        return 1e-4 * (self.bounds[1] - self.bounds[0]) / (self.count - 1)

    def nearest(self, x: Tensor) -> Tensor:
        return self.value(self.index(x))

    def neighbours(self, x: Tensor, direction: Tensor) -> Tensor:
        return self.value(self.index(x) + direction)

    def index(self, x: Tensor) -> Tensor:
        """Which of the levels is next to ``x``: whole numbers from 0 on, in the dtype of ``x``."""
        low, high = self.bounds
        return ((x - low) / (high - low) * (self.count - 1)).round()

    def value(self, index: Tensor) -> Tensor:
        """The levels of these numbers, inside the bounds."""
        low, high = self.bounds
        return (low + index / (self.count - 1) * (high - low)).clamp(low, high)


def inward(grid: Grid, found: Tensor, originals: Tensor) -> Tensor:
    """``found`` (n, ...) on the grid, and no pixel further from its original than before: it stays within budgets."""
    rounded = grid.nearest(found)
    too_far = (rounded - originals).abs() > (found - originals).abs() + grid.slack
    return torch.where(too_far, grid.neighbours(rounded, (originals - rounded).sign()), rounded)


def fooling(
    grid: Grid,
    found: Tensor,
    originals: Tensor,
    fools: Callable[[Tensor, Tensor], Tensor],
    bounds: tuple[float, float],
) -> Tensor:
    """``found`` (n, ...) on the grid where it still fools a model, and where it cannot be made to, the originals.

    Each pixel goes to the nearest value. Where that undoes the attack each goes to the next value away from its
    original, and then further and further the same way. A try asks about the images that are left.

    Args:
        grid: the values that pixels can take; those of the originals are among them.
        found: adversarial images, off the grid.
        originals: (n, ...).
        fools: whether images (m, ...) are what was wanted, bool (m,), from them and their places, int64 (m,).
        bounds: of the pixels.
    """
    answer = originals.clone()
    rows = (found != originals).flatten(1).any(1).nonzero().squeeze(1)
    candidates = grid.nearest(found[rows])
    for push in (*_PUSHES, None):
        if not len(rows):
            break
        candidates = candidates.clamp(*bounds)
        fooled = fools(candidates, rows)
        answer[rows[fooled]] = candidates[fooled]
        rows = rows[~fooled]
        if push is not None:
            change = push * (found[rows] - originals[rows])
            wanted = originals[rows] + change
            candidates = grid.nearest(wanted)
            short = (candidates - originals[rows]).abs() < change.abs()
            candidates = grid.neighbours(candidates, change.sign() * short)
    return answer
