"""Files that are whole or absent."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["write_whole"]


def write_whole(file: Path, save: Callable[[BinaryIO], object], *, writer: str = "") -> None:
    """A file that is whole, or what it was before, whenever the process or the machine stops.

    Args:
        file: where; its directory exists. ``<file><writer>.tmp`` beside it is written first.
        save: writes the content to a stream.
        writer: tells apart several who may write the same file at a time.
    """
    temporary = file.with_name(f"{file.name}{writer}.tmp")
    with temporary.open("wb") as stream:
        save(stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    if os.name == "posix":  # elsewhere a directory cannot be opened
        directory = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
