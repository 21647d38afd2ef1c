"""A progress bar where somebody is watching."""

import sys
from collections.abc import Iterable
from typing import TypeVar

from advkit.errors import MissingExtraError

__all__ = ["track"]

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, *, unit: str = "it", progress: bool | None = None) -> Iterable[Item]:
    """The same items, with a bar on stderr that counts them.

    Args:
        items: what to go through; the bar has an end if they have a length.
        description: what is being done.
        unit: what one item is.
        progress: True for a bar, False for none, None for one where stderr is a terminal and tqdm is installed.

    Raises:
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    watched = sys.stderr is not None and sys.stderr.isatty() if progress is None else progress
    if not watched:
        return items
    try:
        from tqdm import tqdm
    except ImportError as error:
        if progress is None:
            return items
        raise MissingExtraError(
            'progress=True needs tqdm, which is not installed; run pip install "advkit[progress]"'
        ) from error
    return tqdm(items, desc=description, unit=unit)
