"""Progress bars, where somebody is watching."""

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from advkit.errors import MissingExtraError

__all__ = ["Bar", "ticking", "track"]

Item = TypeVar("Item")


def track(items: Iterable[Item], description: str, *, unit: str = "it", progress: bool | None = None) -> Iterable[Item]:
    """The same items, counted by a bar on stderr.

    Args:
        items: what to iterate over; the bar has an end if they have a length.
        description: what is being done.
        unit: what one item is.
        progress: True for a bar, False for none, None for one where stderr is a terminal and tqdm is installed.

    Raises:
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    bar = _bar(progress)
    return items if bar is None else bar(items, desc=description, unit=unit)


_PAUSE = 0.1  # seconds between two changes of what a bar says
_ALMOST = 0.95  # of a step that is under way, at most


class Bar:
    """A bar to be advanced, which says what is being done; if none is shown, nothing happens.

    Args:
        shown: tqdm's, or None.
    """

    def __init__(self, shown: Any = None) -> None:
        self._shown = shown
        self._what = ""
        self._drawn = -_PAUSE
        self._steps = 0  # that are done as a whole

    def __call__(self, steps: int) -> None:
        """Advance by so many steps, the one under way among them."""
        if self._shown is not None:
            self._shown.n = self._steps  # a whole number, so that the bar says 6/6 and not 6.0/6
            self._steps += steps
            self._shown.update(steps)

    def doing(self, what: str, how_far: str = "", share: float = 0.0) -> None:
        """Say what is being done, such as an attack's name; and, every now and then, how far it is.

        Args:
            what: the step that is under way.
            how_far: such as how many images have gone forward.
            share: about which part of the step that is. The bar stops short of its end, where more is done than was
                to be expected.
        """
        if self._shown is None:
            return
        is_new, self._what = what != self._what, what
        if not is_new and time.monotonic() - self._drawn < _PAUSE:
            return
        self._shown.set_postfix_str(f"{what}, {how_far}" if how_far else what, refresh=False)
        self._shown.n = self._steps + (round(min(share, _ALMOST), 2) if share else 0)
        self._shown.refresh()
        self._drawn = time.monotonic()


@contextmanager
def ticking(total: int | None, description: str, *, unit: str = "it", progress: bool | None = None) -> Iterator[Bar]:
    """A bar that whoever does the work advances, while this lasts.

    Args:
        total: how many steps there are; None if unknown.
        description: as in `track`, like the others.
        unit: what one step is.
        progress: as in `track`.

    Raises:
        MissingExtraError: ``progress`` is True and tqdm is not installed.
    """
    bar = _bar(progress)
    if bar is None:
        yield Bar()
        return
    with bar(total=total, desc=description, unit=unit) as shown:
        yield Bar(shown)


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
