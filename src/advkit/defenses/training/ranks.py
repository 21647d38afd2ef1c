"""Processes that train one model together, each on its share of every batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from advkit._io.gathering import from_first, gathered
from advkit.errors import InputError

__all__ = ["Ranks"]

Thing = TypeVar("Thing")


class Ranks:
    """The processes that a `DistributedDataParallel` in the model names; without one, this process alone.

    Losses may call the model as often as they like, differentiate with `torch.autograd.grad` and move the weights.
    `DistributedDataParallel` allows for none of that, so that the module inside answers, and gradients are summed here.

    Args:
        model: the model in training.

    Attributes:
        rank: which of the processes this is.
        count: how many there are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parallel = [one for one in model.modules() if isinstance(one, DistributedDataParallel)]
        self._model = model
        self._group: Any = self._parallel[0].process_group if self._parallel else None
        self.rank = distributed.get_rank(self._group) if self._parallel else 0
        self.count = distributed.get_world_size(self._group) if self._parallel else 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and shows things."""
        return self.rank == 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Each `DistributedDataParallel` answers as the module inside it."""
        for one in self._parallel:
            vars(one)["forward"] = one.module
        try:
            yield
        finally:
            for one in self._parallel:
                vars(one).pop("forward", None)

    def sums(self, *values: float) -> list[float]:
        """Numbers of this process, summed over all."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64, device=self._device)
        distributed.all_reduce(summed, group=self._group)
        found: list[float] = summed.tolist()
        return found

    def sum_tensors(self, tensors: Sequence[Tensor | None]) -> None:
        """Sum tensors over all processes, in place, in one piece for each dtype. Where one is None, it is in all."""
        if self.count == 1:
            return
        for kind in dict.fromkeys(one.dtype for one in tensors if one is not None):  # in one order in all processes
            alike = [one for one in tensors if one is not None and one.dtype == kind]
            whole = torch.cat([one.reshape(-1) for one in alike])
            distributed.all_reduce(whole, group=self._group)
            _fill(alike, whole)

    def same_buffers(self) -> None:
        """Give all processes the buffers of the first, as `DistributedDataParallel` does."""
        buffers = [one for one in self._model.buffers() if one.numel()] if self.count > 1 else []
        for kind in dict.fromkeys(one.dtype for one in buffers):
            alike = [one for one in buffers if one.dtype == kind]
            whole = torch.cat([one.reshape(-1) for one in alike])
            distributed.broadcast(whole, distributed.get_global_rank(self._group, 0), group=self._group)
            _fill(alike, whole)

    def gather(self, thing: Thing) -> list[Thing]:
        """What each process has, in order."""
        return gathered(thing, self.count, self._group)

    def on_first(self, work: Callable[[], Thing]) -> Thing:
        """What ``work`` returns in the first process, in all of them, or the error that it raises."""
        return work() if self.count == 1 else from_first(work, self._group)

    def check_shares(self, loader: Iterable[Any], name: str) -> None:
        """Refuse a loader that has more batches in one process than in another, which would wait for it for ever."""
        if self.count == 1 or not isinstance(loader, Sized):
            return
        lengths = self.gather(len(loader))
        if len(set(lengths)) > 1:
            raise InputError(
                f"the {name} has {', '.join(map(str, lengths))} batches in the processes, but all need the same "
                "number; distribute the data with torch.utils.data.DistributedSampler"
            )

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device


def _fill(tensors: Sequence[Tensor], whole: Tensor) -> None:
    with torch.no_grad():
        for one, part in zip(tensors, whole.split([one.numel() for one in tensors]), strict=True):
            one.copy_(part.view_as(one))
