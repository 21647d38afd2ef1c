"""Shards that several processes make together, by locks in the folder and no other communication."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from advkit._io.locks import Lock
from advkit._io.shards import shard_name

__all__ = ["Claims"]


class Claims:
    """The shards that this process makes, one after the other: each time the next missing one that no other works on.

    Args:
        folder: where they are.
        missing: which are to be made, by this process or others.
        share: whether there may be others. If not, all of them are made here.
    """

    def __init__(self, folder: Path, missing: Sequence[int], *, share: bool) -> None:
        self._folder, self._missing, self._share = folder, missing, share
        self._busy: list[int] = []
        self._locks: dict[int, Lock] = {}

    def __enter__(self) -> "Claims":
        return self

    def __exit__(self, *error: object) -> None:
        for number in list(self._locks):
            self.done(number)
        for left in self._folder.glob(f"{shard_name('*')}.lock") if self._share else ():
            lock = Lock(left)  # of a process that was killed when its shard was there already
            if lock.take(wait=False):
                lock.release()

    def free(self) -> Iterator[int]:
        """Those that no other process is working on, each when its turn comes."""
        for number in self._missing:
            if not self._share:
                yield number
            elif not self._take(number, wait=False):
                self._busy.append(number)
            elif self._is_mine(number):
                yield number

    def left(self) -> Iterator[list[int]]:
        """Those that others were working on and did not finish, one by one, after `free` and all that it gave.

        It waits, so by then this process must not hold anything that another could be waiting for.
        """
        for number in self._busy:
            self._take(number, wait=True)
            if self._is_mine(number):
                yield [number]

    def done(self, number: int) -> None:
        """A shard is written, or given up."""
        lock = self._locks.pop(number, None)
        if lock is not None:
            lock.release()

    def _take(self, number: int, *, wait: bool) -> bool:
        lock = Lock(self._folder / f"{shard_name(number)}.lock")
        if lock.take(wait=wait):
            self._locks[number] = lock
            return True
        return False

    def _is_mine(self, number: int) -> bool:
        """Whether a shard that was taken is still to be made; what is left of an attempt at it is cleared away."""
        if (self._folder / shard_name(number)).exists():
            self.done(number)
            return False
        if self._locks[number].exclusive:
            for stale in self._folder.glob(f"{shard_name(number)}*.tmp"):
                stale.unlink(missing_ok=True)
        return True
