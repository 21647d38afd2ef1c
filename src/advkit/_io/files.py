"""Files that are whole or absent."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

__all__ = ["named", "write_atomic", "written"]


@contextmanager
def named(file: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong with a file that is written here names it, which a full disk by itself does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or os.fspath(file)
        raise


def write_atomic(file: Path, save: Callable[[BinaryIO], object], *, writer: str = "", own: bool = False) -> None:
    """Write a file so that it is complete, or as it was before, whenever the process or the machine stops.

    Args:
        file: where; its directory exists. ``<file><writer>.tmp`` beside it is written first.
        save: writes the content to a stream.
        writer: tells writers apart that may write the same file at the same time.
        own: whether to give this writer a unique name.

    Raises:
        OSError: the disk is full, or something else is wrong with it; it names the file. Nothing is left of what
            was written by then.
    """
    writer = f".{uuid4().hex}" if own else writer
    temporary = file.with_name(f"{file.name}{writer}.tmp")
    try:
        with temporary.open("wb") as stream:
            try:
                save(stream)
            except RuntimeError as error:
                if isinstance(error.__context__, OSError):  # which torch reports in words of its own
                    raise error.__context__ from error
                raise
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if not isinstance(error, OSError):
            raise
        reason = error.strerror or str(error)
        numbers = () if error.errno is None else (error.errno,)
        raise OSError(*numbers, f"{file} could not be written: {reason}") from error
    if os.name == "posix":  # elsewhere a directory cannot be opened
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def written(text: str, path: str | os.PathLike[str] | None) -> str:
    """The text, which is written to a file as well if there is a path."""
    if path is not None:
        with named(path):
            Path(path).write_text(text, encoding="utf-8")
    return text
