"""A progress bar where somebody is watching."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from advkit.errors import MissingExtraError

__all__ = ["ticking", "track"]

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
    bar = _bar(progress)
    return items if bar is None else bar(items, desc=description, unit=unit)


@contextmanager
def ticking(
    total: int | None, description: str, *, unit: str = "it", progress: bool | None = None
) -> Iterator[Callable[[int], object]]:
    """A function that moves a bar on by so many steps, while this lasts.

    Args:
        total: how many steps there are; None if nobody knows.
        description: as in `track`, like the others.
        unit: what one step is.
        progress: as in `track`.

    Raises:
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    bar = _bar(progress)
    if bar is None:
        yield lambda steps: None
        return
    with bar(total=total, desc=description, unit=unit) as shown:
        yield shown.update


def _bar(progress: bool | None) -> Any:
    """What draws bars, if there is to be one."""
    watched = sys.stderr is not None and sys.stderr.isatty() if progress is None else progress
    if not watched:
        return None
    try:
        from tqdm import tqdm
    except ImportError as error:
        if progress is None:
            return None
        raise MissingExtraError(
            'progress=True needs tqdm, which is not installed; run pip install "advkit[progress]"'
        ) from error
    return tqdm
