"""Models that are spread over several processes, which have to call them together."""

from collections.abc import Callable
from typing import TypeVar

from torch import distributed, nn

from advkit._io.gathering import from_first
from advkit.model import Model

__all__ = ["in_step", "on_first"]

Thing = TypeVar("Thing")
_SHARDED = {"FSDPModule", "FullyShardedDataParallel"}  # by name: importing them takes time


def in_step(model: Model) -> bool:
    """Whether the model is spread over several processes, which then have to call it together, batch by batch."""
    if not isinstance(model, nn.Module) or not distributed.is_available() or not distributed.is_initialized():
        return False
    names = {kind.__name__ for module in model.modules() for kind in type(module).__mro__}
    return distributed.get_world_size() > 1 and bool(names & _SHARDED)


def on_first(work: Callable[[], Thing], model: Model) -> Thing:
    """What ``work`` returns; where processes go in step, only the first does it, and its error is raised in all."""
    return from_first(work) if in_step(model) else work()
