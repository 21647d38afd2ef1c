"""Batches whose rows leave as soon as they are finished."""

from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Rows"]


@runtime_checkable
class _OfRows(Protocol):
    """What is known of each row, and can be had for some of them."""

    def rows(self, index: Tensor) -> Any: ...


@dataclass
class Rows:
    """The rows of a batch that an attack still works on. Subclasses add the state of each row.

    A field that is a tensor with rows, or has a method `rows` as goals and balls do, drops the rows that leave; numbers
    are unchanged. On a CPU, retired rows are dropped at once. On an accelerator they stay, and stay where they
    are, until half of the rows are retired, so that shapes are few.

    Args:
        x: (n, ...) where each row stands. Never written in place: it may be the caller's.

    Examples:
        >>> from advkit.parts import Rows
        >>> rows = Rows(images)
        >>> rows.retire(torch.arange(12) < 9)
        3
        >>> (predicted,) = rows.compact(model(images))  # on a CPU at once
        >>> rows.index.tolist(), predicted.shape, rows.whole().shape
        ([9, 10, 11], torch.Size([3, 10]), torch.Size([12, 3, 16, 16]))
    """

    x: Tensor
    index: Tensor = field(init=False)  # int64 (n,), the place of each row in the whole batch
    active: Tensor = field(init=False)  # bool (n,), whether the row still needs work
    _answers: Tensor | None = field(init=False, default=None)  # (N, ...), where rows stood when they left
    _count: int = field(init=False)

    def __post_init__(self) -> None:
        self._count = len(self.x)
        self.index = torch.arange(len(self.x), device=self.x.device)
        self.active = torch.ones_like(self.index, dtype=torch.bool)

    @property
    def finished(self) -> bool:
        """Whether no row is active, as of the last time that rows were retired."""
        return not self._count

    def retire(self, done: Tensor) -> int:
        """Retire the rows where ``done``, bool (n,), and return how many are active. Waits for the device."""
        self.active = self.active & ~done
        self._count = int(self.active.count_nonzero())
        return self._count

    def compact(self, *others: Tensor) -> tuple[Tensor, ...]:
        """Drop the retired rows, where that is worth it, here and in ``others`` (n, ...), which are returned."""
        count = len(self.active)
        if self._count == count or (self.x.device.type != "cpu" and 2 * self._count > count):
            return others
        self._answers = self.x.clone() if self._answers is None else self.whole()
        keep = self.active.nonzero().squeeze(1)
        for name in vars(self).keys() - {"_answers"}:
            value = getattr(self, name)
            if isinstance(value, Tensor):
                setattr(self, name, value[keep] if value.ndim else value)
            elif isinstance(value, _OfRows):
                setattr(self, name, value.rows(keep))
        return tuple(other[keep] for other in others)

    def move(self, x: Tensor) -> None:
        """Put the active rows at ``x``, (n, ...)."""
        if self._count < self.active.shape[0]:  # a tenth of what its len takes
            x = x.where(self.active.view(-1, *[1] * (x.ndim - 1)), self.x)
        self.x = x

    def whole(self) -> Tensor:
        """The point of every row of the whole batch, or that at which it left: (N, ...)."""
        return self.x if self._answers is None else self._answers.index_copy_(0, self.index, self.x)
