"""What all pictures share: colours, sizes, legends, axes, and names that fit."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

from advkit.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "GAP",
    "LARGE",
    "LETTER",
    "OTHER",
    "SERIES",
    "SMALL",
    "TEXT",
    "TRUE",
    "WRONG",
    "add_legend",
    "cut_name",
    "legend_columns",
    "new_figure",
    "percent_ticks",
    "plain_axes",
    "saved",
    "spaced_ticks",
    "text_style",
    "wrapped_name",
]

Place = Literal["upper center", "lower center"]

# Okabe & Ito's blue and vermillion, which people of every colour vision tell apart, and greys.
TRUE, WRONG, OTHER, TEXT = "#0072B2", "#D55E00", "#B4B9BE", "#30353A"
SMALL, LARGE = 8.0, 9.5  # points
# Their other colours, each lighter or darker than the one before; the undefended model comes first.
SERIES = ["#7F868D", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#30353A", "#56B4E9", "#D55E00", "#F0E442"]
GAP, LETTER = 0.14, 0.068  # inches: between things, and of a letter of a small text


def new_figure(dpi: int) -> Figure:
    """An empty figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'pictures need matplotlib, which cannot be imported; run pip install "advkit[plot]"'
        ) from error
    return Figure(dpi=dpi, facecolor="white")


def saved(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    """The figure, written to a file as well if there is one."""
    if path is not None:
        figure.savefig(fspath(path), dpi=figure.dpi)
    return figure


def add_legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], ncols: int, place: Place) -> None:
    """A legend without a frame, above or below."""
    figure.legend(
        handles,
        labels,
        loc=place,
        ncols=ncols,
        frameon=False,
        fontsize=SMALL,
        labelcolor=TEXT,
        handleheight=0.8,
        borderaxespad=0.2,
        labelspacing=0.25,
        columnspacing=1.2,
    )


def legend_columns(names: Sequence[str], width: float) -> tuple[list[str], int, float]:
    """The labels of a legend, in how many columns they fit, and the inches that it takes: none for one label."""
    lines = [wrapped_name(name, int((width - 0.6) / LETTER)) for name in names]
    longest = max(len(line) for label in lines for line in label)
    ncols = max(1, min(len(lines), int((width - GAP) / (LETTER * longest + 0.5))))
    tallest = sum(sorted(map(len, lines), reverse=True)[: math.ceil(len(lines) / ncols)])
    return ["\n".join(label) for label in lines], ncols, 0.15 * tallest + 0.05 if len(lines) > 1 else 0.0


def plain_axes(axes: Axes) -> None:
    """Axes without a frame that says nothing, and with what is drawn above the grid."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=OTHER, linewidth=0.8)
    axes.tick_params(length=2, pad=2, color=OTHER, labelcolor=TEXT, labelsize=SMALL)


def text_style(size: float) -> dict[str, Any]:
    """How text in a figure is set."""
    return {"fontsize": size, "color": TEXT, "clip_on": False}


def percent_ticks(axis: Axis) -> None:
    """An axis from 0 to 100 %."""
    axis.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20", "40", "60", "80", "100"])


def spaced_ticks(values: Sequence[float], apart: float) -> list[float]:
    """Those of ascending values that are apart by this share of their range, from both ends."""
    room = apart * (values[-1] - values[0])
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] - value >= room and (value == values[0] or value - values[0] >= room):
            kept.append(value)
    return kept[::-1]


def wrapped_name(name: str, letters: int, lines: int = 3) -> list[str]:
    """A name in a few lines, broken where Python would be."""
    found = [""]
    for piece in re.split(r"(?<=[ (,_])", name):
        if found[-1] and len((found[-1] + piece).rstrip()) > letters:
            found.append("")
        found[-1] += piece
    kept = [cut_name(line.strip(), letters) for line in found]
    return kept if len(kept) <= lines else [*kept[: lines - 1], kept[lines - 1][: letters - 1] + "…"]


def cut_name(name: str, length: int = 16) -> str:
    """A name of so many letters at most."""
    return name if len(name) <= length else name[: length - 1] + "…"
