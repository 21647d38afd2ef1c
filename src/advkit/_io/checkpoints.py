"""What every file that somebody goes on from is asked before it is believed."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from advkit.errors import InputError

__all__ = ["check_epochs", "reading"]


@contextmanager
def reading(path: Path, of: str) -> Iterator[None]:
    """Inside, a file is read and taken apart: what goes wrong means that it is no checkpoint of that, or damaged."""
    try:
        yield
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no checkpoint of {of}, or damaged ({error}); choose another path") from error


def check_epochs(path: Path, behind: int, epochs: int) -> None:
    """Refuse a checkpoint that went on for longer than is asked for."""
    if behind > epochs:
        raise InputError(
            f"{path} has {behind} epochs behind it, and {epochs} are asked for in all; choose another path, or ask for "
            "more epochs"
        )
