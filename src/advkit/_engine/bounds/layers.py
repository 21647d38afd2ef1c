"""What layers do to bounds: to intervals on the way forward, and to linear lower bounds on the way back.

A linear lower bound is a matrix A and an offset: the quantity is at least A . x + offset for every x within the known
interval. Taking it back through a layer gives such a bound in terms of the layer's input.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Affine", "Interval", "MaxPool", "Monotone", "ReLU", "Step", "Weighted", "inner"]

Interval = tuple[Tensor, Tensor]
"""The lowest and the highest value of each feature: (N, ...) each."""


class Step(ABC):
    """A layer, by what it does to bounds."""

    is_linear = False

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The layer itself: (N, ...) to (N, ...)."""

    @abstractmethod
    def interval(self, low: Tensor, high: Tensor) -> Interval:
        """The interval of its output, of that of its input."""

    def matters(self, low: Tensor, high: Tensor) -> Tensor:
        """For which features of its input, bool (N, F), a narrower interval would help; for layers not linear."""
        return low < high

    @abstractmethod
    def back(self, matrix: Tensor, below: Interval) -> tuple[Tensor, Tensor]:
        """A lower bound that is linear in the output, as one that is linear in the input.

        Args:
            matrix: A, (S, N, ...) like S outputs for each image.
            below: the interval of the input.

        Returns:
            The new A, (S, N, ...) like the input, and what is added to the offset: (S, N).
        """


@dataclass
class Affine(Step, ABC):
    """A layer x -> W x + b, whatever its shape: its transpose is the derivative that autograd knows.

    Args:
        layer: the layer, its rows independent of each other.
    """

    layer: Callable[[Tensor], Tensor]
    is_linear = True

    def __call__(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def back(self, matrix: Tensor, below: Interval) -> tuple[Tensor, Tensor]:
        offset, transpose, *_ = torch.func.vjp(self.layer, torch.zeros_like(below[0][:1]))
        (found,) = torch.func.vmap(transpose)(matrix.flatten(0, 1)[:, None])
        return found.view(*matrix.shape[:2], *below[0].shape[1:]), matrix.flatten(2) @ offset.flatten()


class Monotone(Affine):
    """An affine layer, each of whose outputs rises, or falls, with all of its inputs: a scale, a mean, a reshape."""

    def interval(self, low: Tensor, high: Tensor) -> Interval:
        one, other = self.layer(low), self.layer(high)
        return torch.minimum(one, other), torch.maximum(one, other)


@dataclass
class Weighted(Affine):
    """An affine layer with weights of both signs.

    Args:
        layer: the layer.
        size: the same with the absolute values of its weights, and without its bias.
    """

    size: Callable[[Tensor], Tensor]

    def interval(self, low: Tensor, high: Tensor) -> Interval:
        centre, reach = self.layer((low + high) / 2), self.size((high - low) / 2)
        return centre - reach, centre + reach


class ReLU(Step):
    """max(x, 0): where the sign is not known, a line through the ends from above, and 0 or x from below.

    The lower line is the one that is off by less area (Zhang et al., "Efficient neural network robustness certification
    with general activation functions", NeurIPS 2018: CROWN-Ada).
    """

    def __call__(self, x: Tensor) -> Tensor:
        return x.clamp_min(0)

    def interval(self, low: Tensor, high: Tensor) -> Interval:
        return low.clamp_min(0), high.clamp_min(0)

    def matters(self, low: Tensor, high: Tensor) -> Tensor:
        return (low < 0) & (high > 0)  # elsewhere it is linear

    def back(self, matrix: Tensor, below: Interval) -> tuple[Tensor, Tensor]:
        low, high = below
        unknown = (low < 0) & (high > 0)
        upper = torch.where(unknown, high / (high - low).where(unknown, 1), (low >= 0).to(low))
        lower = torch.where(unknown, (high > -low).to(low), (low >= 0).to(low))
        intercept = -upper * low.where(unknown, 0)
        # Where A is positive its lower line counts, and the upper one elsewhere: few passes over A, which is large.
        size = matrix.abs()
        offset = (inner(matrix, intercept) - inner(size, intercept)) / 2
        return torch.addcmul(matrix * ((lower + upper) / 2), size, (lower - upper) / 2), offset


@dataclass
class MaxPool(Step):
    """The largest of each window: at least any one of its values, and at most the largest of their upper ends.

    Where one value is the largest for certain, it is that value.

    Args:
        layer: a `torch.nn.MaxPool2d`.
    """

    layer: nn.MaxPool2d

    def __call__(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.layer(x)
        return pooled

    def interval(self, low: Tensor, high: Tensor) -> Interval:
        return self(low), self(high)

    def back(self, matrix: Tensor, below: Interval) -> tuple[Tensor, Tensor]:
        low, high = below
        lows, highs, places = self._windows(low), self._windows(high), self._places(low)
        best = lows.argmax(2, keepdim=True)  # (N, C, 1, L): the place in the window that is highest at the least
        others = highs.scatter(2, best, -torch.inf).amax(2)
        certain = lows.gather(2, best).squeeze(2) >= others
        place = places.expand_as(lows).gather(2, best).squeeze(2)
        flat = matrix.flatten(3)  # (S, N, C, L)
        negative = flat.clamp_max(0)
        kept = flat.clamp_min(0) + negative * certain
        offset = (negative * torch.where(certain, 0, highs.amax(2))).sum((2, 3))
        found = flat.new_zeros(*flat.shape[:3], low.shape[2] * low.shape[3])
        found.scatter_add_(3, place.expand_as(kept), kept)
        return found.view(len(matrix), *low.shape), offset

    def _windows(self, x: Tensor, fill: float = -torch.inf) -> Tensor:
        """The values in each window: (N, C, k, L)."""
        kernel, stride, padding, dilation = (
            _pair(size) for size in (self.layer.kernel_size, self.layer.stride, self.layer.padding, self.layer.dilation)
        )
        out = self.layer(x[:1]).shape[2:]
        # With ceil_mode the last windows reach beyond the padding.
        beyond = [
            max(0, (out[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 - x.shape[2 + i] - 2 * padding[i])
            for i in (0, 1)
        ]
        sides = (padding[1], padding[1] + beyond[1], padding[0], padding[0] + beyond[0])
        # Unfolding multiplies, and infinity is no number for that.
        floor = torch.finfo(x.dtype).min
        padded = F.pad(x, sides, value=max(fill, floor))
        windows = F.unfold(padded, kernel, dilation=dilation, stride=stride)
        windows = windows.view(len(x), x.shape[1], -1, windows.shape[-1])
        return windows[..., : out[0] * out[1]]

    def _places(self, x: Tensor) -> Tensor:
        """Where in the picture each value of a window is, flat: int64 (1, 1, k, L)."""
        height, width = x.shape[2:]
        numbers = torch.arange(height * width, dtype=torch.float64, device=x.device).to(x.dtype)
        return self._windows(numbers.view(1, 1, height, width)).clamp_min(0).long()


def inner(matrix: Tensor, values: Tensor) -> Tensor:
    """A . x for each image: (S, N, ...) and (N, ...) to (S, N)."""
    found = matrix.flatten(2).transpose(0, 1) @ values.flatten(1)[..., None]
    return found.squeeze(2).T


def _pair(size: int | tuple[int, ...]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
