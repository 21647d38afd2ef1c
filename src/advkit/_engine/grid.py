"""Images that can take some values only, and what becomes of an attack on them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit.errors import InputError
from advkit.norms import column

__all__ = ["Grid", "Halves", "Levels", "inward"]


class Grid(ABC):
    """The values that pixels can take. Tensors are floating, in the precision of the work."""

    @property
    def slack(self) -> float:
        """By how much a step may be longer than a change that it is taken for, in units of pixels."""
        return 0.0

    @property
    def step(self) -> float:
        """From one value to the next, in units of pixels; 0 where that is hardly anything."""
        return 0.0

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """The grid's values next to ``x``: the same shape and dtype."""

    @abstractmethod
    def neighbours(self, x: Tensor, direction: Tensor) -> Tensor:
        """The values after ``x``, which are the grid's, in a direction of -1, 0 or 1 for each."""

    def in_dtype(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """The values ``x``, which are the grid's, as exactly as a dtype has them."""
        return x.to(dtype)

    def settled(self, originals: Tensor, landed: Tensor, free: Tensor | None) -> Tensor:
        """What landed on the grid, (n, ...), with the bits of the originals where those were not moved.

        So are pixels that are not ``free``, and in images that are on the grid, but for what their maker rounded off,
        those that have the same value.
        """
        near = (self.nearest(originals) - originals).abs() <= self.slack
        whole = (near if free is None else near | ~free).flatten(1).all(1)
        kept = ((landed - originals).abs() <= self.slack) & column(whole, originals)
        return originals.where(kept if free is None else kept | ~free, landed)


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
    """So many values at equal distances between two bounds, such as the 256 of 8 bits.

    Args:
        bounds: the lowest value and the highest.
        count: how many values.
        dtype: what they are rounded to in the end.
    """

    bounds: tuple[float, float]
    count: int = 256
    dtype: torch.dtype = torch.float32

    def check(self) -> None:
        """Refuse more levels than the dtype can tell apart."""
        every = torch.arange(self.count, dtype=torch.promote_types(self.dtype, torch.float32), device="cpu")
        if not self.index(self.value(every)).equal(every):
            raise InputError(
                f"{self.dtype} images cannot represent {self.count} distinct levels; give the attack float32 images or "
                "fewer levels"
            )

    @property
    def slack(self) -> float:
        """A small part of a level, and no more than of one of 256."""
        return 1e-4 * min(self.step, (self.bounds[1] - self.bounds[0]) / 255)

    @property
    def step(self) -> float:
        """From one level to the next."""
        return (self.bounds[1] - self.bounds[0]) / (self.count - 1)

    def nearest(self, x: Tensor) -> Tensor:
        return self.value(self.index(x))

    def neighbours(self, x: Tensor, direction: Tensor) -> Tensor:
        return self.value(self.index(x) + direction)

    def index(self, x: Tensor) -> Tensor:
        """Which of the levels is next to ``x``: whole numbers from 0 on, in the dtype of ``x``."""
        low, high = self.bounds
        return ((x - low) / (high - low) * (self.count - 1)).round()

    def value(self, index: Tensor) -> Tensor:
        """The levels of these numbers, inside the bounds, in the dtype of ``index``."""
        low, high = self.bounds
        exact = (low + index * (high - low) / (self.count - 1)).clamp(low, high)
        return exact.to(self.dtype).to(exact.dtype) if torch.finfo(self.dtype).bits < 32 else exact

    def in_dtype(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        return self.nearest(x.to(torch.promote_types(x.dtype, dtype))).to(dtype)


def inward(grid: Grid, found: Tensor, originals: Tensor) -> Tensor:
    """``found`` (n, ...) on the grid, and no pixel further from its original than before: it stays within budgets.

    A pixel whose original is not on the grid may have to be: it then goes to the value nearest to the original.
    """
    far = (found - originals).abs() + grid.slack
    rounded = grid.nearest(found)
    inner = grid.neighbours(rounded, (originals - rounded).sign())
    rounded = torch.where((rounded - originals).abs() > far, inner, rounded)
    return torch.where((rounded - originals).abs() > far, grid.nearest(originals), rounded)
