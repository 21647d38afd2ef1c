"""What processes of torch.distributed tell each other."""

from typing import Any, TypeVar

from torch import distributed

__all__ = ["gathered"]

Thing = TypeVar("Thing")


def gathered(thing: Thing, count: int, group: Any) -> list[Thing]:
    """What each of the ``count`` processes of a group has, in order; all of them have to ask."""
    if count == 1:
        return [thing]
    things: list[Any] = [None] * count
    distributed.all_gather_object(things, thing, group=group)
    return things
