"""Work on a batch of which some images raise errors: the others are not lost with them."""

from collections.abc import Callable

import torch
from torch import Tensor

from advkit.errors import InputError, MissingExtraError

__all__ = ["salvaged"]

_HOPELESS = 8  # single images that fail, and none that does not, before the rest of a batch is not looked into

# What is no single image's fault. A GPU that has failed once answers nothing any more.
_FATAL: tuple[type[Exception], ...] = (
    InputError,
    MissingExtraError,
    *([torch.AcceleratorError] if hasattr(torch, "AcceleratorError") else []),
)


def salvaged(
    work: Callable[[Tensor], Tensor], rows: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Exception]]]:
    """The results of work on parts of the rows, and the errors of others."""
    parts: list[tuple[Tensor, Tensor]] = []
    errors: list[tuple[Tensor, Exception]] = []
    waiting = [rows] if len(rows) else []
    while waiting:
        some = waiting.pop()
        try:
            parts.append((some, work(some)))
        except _FATAL:
            raise
        except Exception as error:
            if len(some) == 1 or (len(errors) >= _HOPELESS and not parts):
                errors.append((some, error))
            else:
                first, second = some.tensor_split(2)
                waiting += [second, first]
    return parts, errors
