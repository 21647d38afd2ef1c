"""What processes of torch.distributed tell each other."""

from collections.abc import Callable
from typing import Any, TypeVar

from torch import distributed

__all__ = ["from_first", "gathered"]

Thing = TypeVar("Thing")


def gathered(thing: Thing, count: int, group: Any) -> list[Thing]:
    """What each of the ``count`` processes of a group has, in order; all of them have to ask."""
    if count == 1:
        return [thing]
    things: list[Any] = [None] * count
    distributed.all_gather_object(things, thing, group=group)
    return things


def from_first(work: Callable[[], Thing], group: Any = None) -> Thing:
    """What ``work`` returns in the first process of a group, in all of them, or the error that it raises there."""
    outcome: list[Any] = [None, None]
    if distributed.get_rank(group) == 0:
        try:
            outcome[0] = work()
        except Exception as error:
            outcome[1] = error
    first = 0 if group is None else distributed.get_global_rank(group, 0)
    distributed.broadcast_object_list(outcome, first, group=group)
    if outcome[1] is not None:
        raise outcome[1]
    done: Thing = outcome[0]
    return done
