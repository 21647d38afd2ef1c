"""Locks between processes, which let go of them however they end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["Lock", "held"]


class Lock:
    """A file that one process at a time holds; it is gone once nobody does.

    Where there are no locks, on Windows and on some network drives, everybody gets it: what it guards must come out
    right then too, if with more work.

    Args:
        path: the file, whose directory exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self.exclusive = False  # whether nobody else can hold it

    def take(self, *, wait: bool) -> bool:
        """Take the lock, or say that somebody else holds it, if this is not to wait until they let go."""
        if fcntl is None:
            return True
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return False
            except OSError:  # this drive has none
                os.close(descriptor)
                with suppress(OSError):
                    self._path.unlink()
                return True
            except BaseException:
                os.close(descriptor)
                raise
            if self._is_at(descriptor):
                self._descriptor, self.exclusive = descriptor, True
                return True
            os.close(descriptor)  # of a file that its last holder took away meanwhile

    def release(self) -> None:
        """Let go of it."""
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)
            self._descriptor, self.exclusive = None, False

    def _is_at(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


@contextmanager
def held(path: Path) -> Iterator[Lock]:
    """A lock, as soon as nobody else holds it."""
    lock = Lock(path)
    lock.take(wait=True)
    try:
        yield lock
    finally:
        lock.release()
