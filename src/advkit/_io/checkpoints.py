"""What every file that somebody goes on from is asked before it is believed."""

import pickle
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from advkit._io.files import write_atomic
from advkit._io.locks import held
from advkit.errors import InputError

__all__ = ["check_epochs", "read", "write"]

Thing = TypeVar("Thing")
_WRONG = (  # zipfile's NotImplementedError is a RuntimeError
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def write(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint, completely or not at all, in a directory that is made if need be.

    Processes that write the same take turns.

    Args:
        path: the file.
        content: tensors, numbers, texts and containers of these.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with held(path.with_name(f"{path.name}.lock")):
        write_atomic(path, lambda stream: torch.save(content, stream))


def read(path: Path, of: str, parse: Callable[[dict[str, Any]], Thing]) -> Thing:
    """What a checkpoint holds, on the CPU. No code in it is run.

    Args:
        path: the file, which `torch.save` wrote.
        of: what it is a checkpoint of, in words.
        parse: makes of its content what it stands for.

    Raises:
        InputError: it is no checkpoint of that, or damaged, be it by a single bit.
    """
    try:
        with zipfile.ZipFile(path) as parts:  # by which torch does not look for wrong bits
            if wrong := parts.testzip():
                raise ValueError(f"the checksum of {wrong} is wrong")
        return parse(torch.load(path, map_location="cpu", weights_only=True))
    except _WRONG as error:
        raise InputError(f"{path} is not a checkpoint of {of}, or is damaged ({error}); choose another path") from error


def check_epochs(path: Path, behind: int, epochs: int) -> None:
    """Refuse a checkpoint that went on for longer than is asked for."""
    if behind > epochs:
        raise InputError(
            f"{path} has already reached epoch {behind}, but only {epochs} epochs are requested in all; choose another "
            "path, or request more epochs"
        )
