"""The figures of the reports: curves and grouped bars, of what was measured and of what the papers print."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

__all__ = ["Curve", "bars", "curves"]

# Okabe & Ito's, which people of every colour vision tell apart, and markers for print in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"

Curve = Sequence[float | None]


def curves(
    path: Path,
    panels: Mapping[str, Mapping[str, Curve]],
    xs: Sequence[float],
    *,
    x: str,
    y: str,
    limits: tuple[float, float] | None = None,
) -> None:
    """Panels side by side that share their axes, a curve for each name: the same name has the same colour.

    Args:
        path: where to save it.
        panels: the curves of each panel by name, each by its own; None where nothing was measured.
        xs: of all the curves.
        x: what is on the horizontal axis.
        y: what is on the vertical axis.
        limits: of the vertical axis.
    """
    figure = Figure(figsize=(3.1 * len(panels) + 0.6, 3.4), dpi=150, layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    lines = {}
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        axis.set_title(title, fontsize=9.5)
        axis.set_xlabel(x, fontsize=8.5)
        if all(isinstance(at, int) for at in xs):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        for name, ys in panel.items():
            place = names.index(name)
            points = [(at, value) for at, value in zip(xs, ys, strict=True) if value is not None]
            style = {"color": COLOURS[place % 7], "marker": MARKERS[place % 7], "markersize": 4, "linewidth": 1.3}
            (lines[name],) = axis.plot(*zip(*points, strict=True), **style) if points else axis.plot([], [], **style)
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    axes[0].set_ylabel(y, fontsize=8.5)
    if limits:
        axes[0].set_ylim(*limits)
    entry = 0.55 + 0.075 * max(map(len, names))  # inches that one takes
    columns = min(6, int(figure.get_figwidth() / entry))
    figure.legend(lines.values(), lines, loc="outside lower center", ncols=columns, frameon=False, fontsize=8)
    figure.savefig(path)


def bars(
    path: Path, panels: Mapping[str, Mapping[str, Mapping[str, float | None]]], *, y: str, top: float = 1.0
) -> None:
    """Panels one above the other, of groups of bars: the same bar has the same colour in all of them.

    Args:
        path: where to save it.
        panels: by title, the groups by name, and in each the heights of its bars by name; None where nothing was
            measured.
        y: what is on the vertical axis.
        top: where it ends.
    """
    figure = Figure(figsize=(7.2, 2.1 * len(panels) + 0.5), dpi=150, layout="constrained")
    axes = figure.subplots(len(panels), 1, sharey=True, squeeze=False)[:, 0]
    names = list(dict.fromkeys(name for panel in panels.values() for group in panel.values() for name in group))
    drawn = {}
    for axis, (title, groups) in zip(axes, panels.items(), strict=True):
        width = 0.8 / len(names)
        for place, name in enumerate(names):
            heights = [group.get(name) or 0.0 for group in groups.values()]
            at = [index + (place - (len(names) - 1) / 2) * width for index in range(len(groups))]
            drawn[name] = axis.bar(at, heights, width * 0.92, color=COLOURS[place % 7])
            for middle, group in zip(at, groups.values(), strict=True):
                if group.get(name) is None:
                    axis.text(middle, 0, "\N{EN DASH}", ha="center", va="bottom", fontsize=7, color="#777777")
        axis.set_title(title, fontsize=9.5, loc="left")
        axis.set_xticks(range(len(groups)), list(groups), fontsize=8)
        axis.set_ylim(0, top)
        axis.set_ylabel(y, fontsize=8.5)
        axis.grid(axis="y", alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", labelsize=8)
    figure.legend(
        drawn.values(),
        drawn,
        loc="outside lower center",
        ncols=min(len(drawn), 4 if len(drawn) < 5 else 3),
        frameon=False,
        fontsize=8,
    )
    figure.savefig(path)
