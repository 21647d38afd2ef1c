"""The search for the mildest of a change that can be made stronger and stronger."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit.attack import Access
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import number
from advkit.norms import L2, Norm

__all__ = ["Mildest"]


@dataclass(frozen=True, eq=False)
class Mildest(BlackBox):
    """Base of what makes one change to an image, by as little as fools: steps from weak to strong, then bisection.

    A subclass says what an image becomes.
    """

    access: ClassVar[Access] = "decisions"
    norm: ClassVar[Norm] = L2

    _: KW_ONLY
    steps: int = number(20, at_least=1, integer=True)
    bisections: int = number(6, at_least=0, integer=True)

    @abstractmethod
    def _end(self, images: Tensor) -> Tensor | None:
        """What the change leads to, (n, ...), if that is an image."""

    @abstractmethod
    def _changed(self, images: Tensor, end: Tensor | None, strength: Tensor) -> Tensor:
        """Images (n, ...) with a change of a strength in (0, 1] each, (n,)."""

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        end = self._end(images)

        def changed(index: Tensor, strength: Tensor) -> Tensor:
            return self._changed(images[index], None if end is None else end[index], strength)

        every, tried = torch.arange(len(images), device=images.device), 0
        first = torch.full_like(every, self.steps + 1)
        while len(rows := every[first > self.steps]) and tried < min(self.steps, ask.limit):
            width = min(ask.width(len(rows), tried), self.steps - tried)
            index = rows.repeat_interleave(width)
            step = torch.arange(tried + 1, tried + width + 1, device=images.device).repeat(len(rows))
            fooled = ask(changed, index, (step / self.steps).to(images)) == torch.inf
            first.scatter_reduce_(0, index, step.where(fooled, self.steps + 1), "amin")
            tried += width
        rows = every[first <= self.steps]
        weak, strong = (first[rows] - 1).to(images) / self.steps, first[rows].to(images) / self.steps
        for _ in range(min(self.bisections, ask.limit - tried) if len(rows) else 0):
            middle = (weak + strong) / 2
            fooled = ask(changed, rows, middle) == torch.inf
            weak, strong = middle.where(~fooled, weak), middle.where(fooled, strong)
        return images.index_copy(0, rows, changed(rows, strong).clamp(*self.bounds)) if len(rows) else images
