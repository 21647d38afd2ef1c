"""Adam, image by image."""

import torch
from torch import Tensor
from typing_extensions import Self

__all__ = ["Adam"]

_MEAN, _SQUARE = 0.9, 0.999  # how much of its moments a step keeps


class Adam:
    """What Adam remembers of each row's gradients.

    Kingma & Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.

    Args:
        x: (n, ...), where the rows start.
        tiny: what is added to the root of the mean square, in units of the gradient.

    Examples:
        >>> from advkit._engine.adam import Adam
        >>> mean, scale = Adam(torch.zeros(1, 2)).see(torch.tensor([[3.0, -0.01]]), 0)
        >>> mean / scale  # the first step has the same length in every feature
        tensor([[ 1.0000, -1.0000]])
    """

    def __init__(self, x: Tensor, tiny: float = 1e-8) -> None:
        self.mean, self.square = torch.zeros_like(x), torch.zeros_like(x)
        self.tiny = tiny

    def see(self, gradient: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Take note of the gradient (n, ...) at a step, counted from 0: the mean, and what to divide it by."""
        self.mean = torch.lerp(self.mean, gradient, 1 - _MEAN)
        self.square = torch.lerp(self.square, gradient * gradient, 1 - _SQUARE)
        scale = (self.square / (1 - _SQUARE ** (step + 1))).sqrt_().add_(self.tiny)
        return self.mean / (1 - _MEAN ** (step + 1)), scale

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows: places int64, or bool (n,)."""
        some = type(self)(self.mean[index], self.tiny)
        some.mean, some.square = self.mean[index], self.square[index]
        return some
