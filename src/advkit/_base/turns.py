"""Threads that want the same modules, one after the other."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

__all__ = ["taking_turns"]

_HOLDERS: dict[int, int] = {}  # by the id of a module that is held, the thread that holds it
_LEFT = threading.Condition()


@contextmanager
def taking_turns(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Wait until no other thread holds one of these modules, and hold them meanwhile. A thread may hold them twice."""
    me = threading.get_ident()
    wanted = list(map(id, modules))
    taken = wanted
    with _LEFT:
        if _HOLDERS:
            _LEFT.wait_for(lambda: all(_HOLDERS.get(one, me) == me for one in wanted))
            taken = [one for one in wanted if one not in _HOLDERS]
        _HOLDERS.update(dict.fromkeys(taken, me))
    try:
        yield
    finally:
        with _LEFT:
            for one in taken:
                del _HOLDERS[one]
            _LEFT.notify_all()
