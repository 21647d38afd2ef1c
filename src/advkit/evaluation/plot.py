"""What an evaluation found, drawn: accuracies, security curves, confusions, and adversarial images to look at.

Every function returns a figure that belongs to no window, and touches nothing of pyplot's state. Widths are in inches:
3.3 is a column of a paper, 7 its whole width. Nothing is told apart by colour alone.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from advkit._engine.checks import check_number
from advkit._engine.classifier import answer
from advkit._engine.wording import short
from advkit.attack import AdversarialResult
from advkit.errors import InputError, MissingExtraError
from advkit.evaluation.report import RobustnessReport, Score
from advkit.evaluation.security import SecurityCurve
from advkit.model import Model

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["accuracy_bars", "confusion_matrix", "picture_rows", "security_curves"]

Place = Literal["upper center", "lower center"]

# Okabe & Ito's blue and vermillion, which people of every colour vision tell apart, and greys.
_TRUE, _WRONG, _OTHER, _TEXT = "#0072B2", "#D55E00", "#B4B9BE", "#30353A"
_SMALL, _LARGE = 8.0, 9.5  # points
# Their other colours, each lighter or darker than the one before; the undefended model comes first.
_SERIES = ["#7F868D", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#30353A", "#56B4E9", "#D55E00", "#F0E442"]
_ROOM = 1.08  # how far the axis goes beyond 100 %, for the numbers
_MARKERS, _DASHES = "os^DvPX*<", ["-", "--", "-.", ":"]
_CELL, _NUMBER = 0.045, 0.17  # inches: of a class that can be told from the next, and with a number in it
_IMAGE, _BARS, _GAP, _LETTER, _CAPTION = 1.3, 1.2, 0.14, 0.068, 0.26  # inches


def picture_rows(
    model: Model,
    result: AdversarialResult,
    class_names: Sequence[str] | None = None,
    path: str | PathLike[str] | None = None,
    *,
    count: int = 5,
    top: int = 3,
    bounds: tuple[float, float] = (0.0, 1.0),
    dpi: int = 150,
) -> Figure:
    """Draw what an attack did to a few images, a row for each.

    A row has the original and the model's most confident classes for it, the perturbation, magnified around mid-grey
    by the factor beneath it, and the adversarial image and the model's most confident classes for that. Images that
    the model got right and that the attack fooled it with come first, each class once before any comes again.

    Args:
        model: pixels (N, ...) to logits (N, K).
        result: what `Attack.run` returned, of images (N, C, H, W) with C = 1 (grey) or C = 3 (RGB).
        class_names: a name for each of the K classes; their indices if None.
        path: a file to save the picture in; its suffix says the format.
        count: how many rows, if there are as many images.
        top: how many classes to show.
        bounds: the lowest and the highest value of a pixel.
        dpi: pixels an inch of the file; the picture is about 8 inches wide.

    Returns:
        The figure. It belongs to no window, and nothing of pyplot's state is touched.

    Raises:
        InputError: there is no image, it is neither grey nor RGB, or ``class_names`` are too few.
        MissingExtraError: matplotlib is not installed.
    """
    check_number("count", count, at_least=1, integer=True)
    check_number("top", top, at_least=1, integer=True)
    shape = tuple(result.originals.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or not shape[0]:
        raise InputError(f"pictures need at least one image of shape (N, 1 or 3, height, width); got {shape}")
    figure = _figure(dpi)
    from matplotlib.patches import Patch

    before, after = (answer(model, images).softmax(1).cpu() for images in (result.originals, result.images))
    classes = before.shape[1]
    names = [str(index) for index in range(classes)] if class_names is None else [_cut(name) for name in class_names]
    if len(names) < classes:
        raise InputError(f"the model has {classes} classes, and class_names has {len(names)}")
    rows = _telling(result, before.argmax(1), count)

    low, high = bounds
    originals, images = (
        (side.detach().cpu().float() - low) / (high - low) for side in (result.originals, result.images)
    )
    names_wide = _GAP + _LETTER * max(map(len, names))
    columns = [_IMAGE, names_wide, _BARS, _GAP, _IMAGE, 2 * _GAP, _IMAGE, names_wide, _BARS]
    above, below = 0.34, 0.56
    width, height = sum(columns) + 2 * _GAP, len(rows) * (_IMAGE + _CAPTION) - _CAPTION + above + below
    figure.set_size_inches(width, height)
    grid = figure.add_gridspec(
        len(rows),
        len(columns),
        width_ratios=columns,
        left=_GAP / width,
        right=1 - _GAP / width,
        top=1 - above / height,
        bottom=below / height,
        wspace=0,
        hspace=_CAPTION / _IMAGE,
    )
    for place, row in enumerate(rows):
        panels = [figure.add_subplot(grid[place, column]) for column in (0, 2, 4, 6, 8)]
        label, original, image = int(result.labels[row]), originals[row], images[row]
        factor = _magnification(float((image - original).abs().max()))
        _show(panels[0], original)
        _bars(panels[1], before[row], names, label, top)
        _show(panels[2], 0.5 + factor * (image - original), f"\N{MULTIPLICATION SIGN} {factor:g}")
        _show(panels[3], image)
        _bars(panels[4], after[row], names, label, top)
        if not place:
            for index, title in ((0, "original"), (2, "perturbation"), (3, "adversarial")):
                panels[index].set_title(title, fontsize=_LARGE, color=_TEXT, pad=6)
    meanings = {"the true class": _TRUE, "a wrong answer": _WRONG, "other classes": _OTHER}
    figure.legend(
        [Patch(color=color) for color in meanings.values()],
        list(meanings),
        loc="lower center",
        ncols=len(meanings),
        frameon=False,
        fontsize=_SMALL,
        labelcolor=_TEXT,
        handlelength=1,
        handleheight=1,
    )
    return _saved(figure, path)


def accuracy_bars(
    report: RobustnessReport,
    path: str | PathLike[str] | None = None,
    *,
    protocol: str = "adaptive",
    width: float = 7.0,
    dpi: int = 150,
) -> Figure:
    """Draw the accuracy of each defense under each attack, as groups of bars with their 95 % intervals.

    A group for each attack, and one for none, has a bar for each defense, in the order of the legend, whose numbers
    stand beside the bars. After figures 16 to 18 of Campbell & Lasselle 2024.

    Args:
        report: what `advkit.evaluate` returned.
        path: a file to save the picture in; its suffix says the format.
        protocol: "adaptive", "naive" or "oblivious": how the defended models were attacked.
        width: in inches, at least 2. The height is what the bars need.
        dpi: pixels an inch of the file.

    Raises:
        InputError: the report has defenses, and none of its scores is of this protocol.
        MissingExtraError: matplotlib is not installed.
    """
    check_number("width", width, at_least=2)
    defenses = report.defenses
    if len(defenses) > 1 and protocol not in report.protocols:
        raise InputError(f"the report has no protocol {protocol!r}; it has {list(report.protocols)}")
    attacks = [score.name for score in report.attacks]
    groups = [defenses, *([report.score(name, one.name, protocol) for one in defenses] for name in attacks)]
    figure = _figure(dpi)
    from matplotlib.patches import Patch

    count = len(defenses)
    thick = 0.13 if count * len(groups) <= 60 else 0.09
    names = [_wrapped(name, int(0.36 * width / _LETTER)) for name in ["no attack", *attacks]]
    tall = [max(count * thick, 0.14 * len(lines)) + thick for lines in names]
    left = _LETTER * max(len(line) for lines in names for line in lines) + 2 * _GAP + 0.1 * (count > 1)
    labels, ncols, above = _columns([f"{place}  {one.name}" for place, one in enumerate(defenses, 1)], width)
    above += _GAP
    below = 0.42
    height = sum(tall) + above + below
    figure.set_size_inches(width, height)
    axes = figure.add_axes((left / width, below / height, 1 - (left + _GAP) / width, sum(tall) / height))
    small = _SMALL - 1.5 if thick > 0.1 else _SMALL - 2.5
    wide = (width - left - _GAP) / _ROOM  # inches from 0 to 1
    top = 0.0
    for scores, lines, room in zip(groups, names, tall, strict=True):
        middle = top + room / 2
        axes.text(
            -(0.06 + 0.12 * (count > 1)) / wide, middle, "\n".join(lines), ha="right", va="center", **_text(_SMALL)
        )
        for place, score in enumerate(scores):
            y = middle + (place - (count - 1) / 2) * thick
            axes.barh(y, score.accuracy, height=0.86 * thick, color=_SERIES[place % len(_SERIES)])
            axes.plot(score.interval, (y, y), color=_TEXT, linewidth=0.7, solid_capstyle="butt")
            axes.text(
                score.high + 0.012, y, f"{100 * score.accuracy:.0f}", ha="left", va="center_baseline", **_text(small)
            )
            if count > 1:
                axes.text(-0.04 / wide, y, str(place + 1), ha="right", va="center_baseline", **_text(small))
        top += room
    _percents(axes.xaxis)
    axes.set(xlim=(0, _ROOM), ylim=(sum(tall), 0), yticks=[])
    axes.set_xlabel("accuracy, %", fontsize=_SMALL, color=_TEXT, labelpad=2)
    axes.grid(axis="x", color="#EEF0F2", linewidth=0.8)
    _plain(axes)
    if count > 1:
        patches = [Patch(color=_SERIES[place % len(_SERIES)]) for place in range(count)]
        _legend(figure, patches, labels, ncols, "upper center")
    return _saved(figure, path)


def security_curves(
    curves: Sequence[SecurityCurve] | Mapping[str, SecurityCurve],
    path: str | PathLike[str] | None = None,
    *,
    width: float = 3.3,
    dpi: int = 150,
) -> Figure:
    """Draw accuracy over the budget, a line for each curve with its 95 % interval.

    Args:
        curves: what `security_curve` returned, at least one, in the same norm; by the names that the legend should
            use, or a sequence, which is called by the attacks.
        path: a file to save the picture in; its suffix says the format.
        width: in inches, at least 2.
        dpi: pixels an inch of the file.

    Raises:
        InputError: there is no curve, or the curves are in different norms.
        MissingExtraError: matplotlib is not installed.
    """
    check_number("width", width, at_least=2)
    named = list(curves.items()) if isinstance(curves, Mapping) else [(curve.attack, curve) for curve in curves]
    kinds = {str(curve.norm) for _, curve in named}
    if len(kinds) != 1:
        raise InputError(f"curves must be at least one, all in the same norm; got {sorted(kinds) or 'none'}")
    figure = _figure(dpi)

    labels, ncols, of_legend = _columns([name for name, _ in named], width)
    budgets = sorted({value for _, curve in named for value in curve.eps})
    left, above, below = 0.5, 0.1, 0.42 + of_legend
    right = max(_GAP, 0.5 * _LETTER * len(short(budgets[-1])) + 0.04)
    body = min(0.62 * width, 3.2)
    height = body + above + below
    figure.set_size_inches(width, height)
    axes = figure.add_axes((left / width, below / height, 1 - (left + right) / width, body / height))
    for place, (_, curve) in enumerate(named):
        color = _SERIES[(place + 1) % (len(_SERIES) - 1)]  # the last, yellow, is too light for a line
        low, high = zip(*curve.interval, strict=True)
        axes.fill_between(curve.eps, low, high, color=color, alpha=0.13, linewidth=0)
        axes.plot(
            curve.eps,
            curve.accuracy,
            color=color,
            linestyle=_DASHES[place % len(_DASHES)],
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=4,
            linewidth=1.3,
            clip_on=False,
            zorder=3,
        )
    _percents(axes.yaxis)
    ticks = _spaced(budgets, 0.085 * max(len(short(value)) for value in budgets) / (width - left - right))
    axes.set(ylim=(0, 1), xticks=ticks, xticklabels=[short(value) for value in ticks])
    if budgets[-1] > budgets[0]:
        axes.set_xlim(budgets[0], budgets[-1])
    axes.set_xlabel(f"eps, {next(iter(kinds))}", fontsize=_SMALL, color=_TEXT, labelpad=2)
    axes.set_ylabel("accuracy, %", fontsize=_SMALL, color=_TEXT, labelpad=2)
    axes.grid(color="#EEF0F2", linewidth=0.8)
    _plain(axes)
    if len(named) > 1:
        _legend(figure, axes.get_lines(), labels, ncols, "lower center")
    return _saved(figure, path)


def confusion_matrix(
    counts: Score | Tensor,
    class_names: Sequence[str] | None = None,
    path: str | PathLike[str] | None = None,
    *,
    width: float = 3.3,
    dpi: int = 150,
) -> Figure:
    """Draw what the images of each class were taken for, in percent of the class.

    The shades go with the square root, so that rare confusions show. Numbers stand in the cells where there is room.
    Of more classes than can be told apart, those with the most frequent confusions are drawn, as many as have room for
    numbers, and a column has what their images were taken for beside.

    Args:
        counts: a score of a report, or int64 (K, K): how often an image of class i was taken for class j.
        class_names: a name for each of the K classes or more; their indices if None.
        path: a file to save the picture in; its suffix says the format.
        width: in inches, at least 2.
        dpi: pixels an inch of the file.

    Raises:
        InputError: the matrix is not square or has no class, or ``class_names`` are too few.
        MissingExtraError: matplotlib is not installed.
    """
    check_number("width", width, at_least=2)
    matrix = (counts if isinstance(counts, Tensor) else counts.confusion_matrix()).cpu()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InputError(f"a confusion matrix has shape (K, K), with K at least 1; got {tuple(matrix.shape)}")
    classes = max(len(matrix), 0 if class_names is None else len(class_names))
    names = [str(index) for index in range(classes)] if class_names is None else [_cut(name) for name in class_names]
    if len(names) < len(matrix):
        raise InputError(f"the matrix has {len(matrix)} classes, and class_names has {len(names)}")
    padding = classes - len(matrix)
    matrix = torch.nn.functional.pad(matrix, (0, padding, 0, padding)).float()
    shares = matrix / matrix.sum(1, keepdim=True)  # NaN for a class without images, which stays empty
    beside = 0.85 * _LETTER * max(map(len, names)) + 0.3
    bar = 0.5
    side = width - beside - bar - _GAP
    label = "predicted"
    if side / classes < _CELL and (shown := _most_confused(matrix, int(side / _NUMBER) - 1)):
        others = 1 - shares[shown][:, shown].sum(1, keepdim=True)
        shares = torch.cat([shares[shown][:, shown], others.clamp_min(0)], 1)
        names = [*(names[index] for index in shown), "others"]
        label = f"predicted: {len(shown)} of {classes:,} classes"
    rows, columns = shares.shape
    figure = _figure(dpi)
    from matplotlib.colors import PowerNorm

    cell = side / columns
    tall = cell * rows
    below, above = 0.85 * _LETTER * max(map(len, names)) + 0.3, 0.1
    height = tall + below + above
    figure.set_size_inches(width, height)
    axes = figure.add_axes((beside / width, below / height, side / width, tall / height))
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    if cell >= _NUMBER:
        for true, said in shares.nan_to_num(0.0).nonzero().tolist():
            share = float(shares[true, said])
            text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
            color = "white" if share > 0.3 else _TEXT
            axes.text(said, true, text, ha="center", va="center", fontsize=min(_SMALL, 29 * cell), color=color)
    every = math.ceil(0.12 / cell)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, every) if step >= every)
    size = min(_SMALL, max(6.0, 62 * cell))
    across, down = range(0, columns, every), range(0, rows, every)
    axes.set_xticks(across, [names[place] for place in across], fontsize=size, color=_TEXT, rotation=90)
    axes.set_yticks(down, [names[place] for place in down], fontsize=size, color=_TEXT)
    if class_names is None and classes <= 10 * width:
        axes.tick_params(axis="x", rotation=0)
    axes.tick_params(length=0 if every == 1 else 2, pad=2, color=_OTHER)
    axes.set_xlabel(label, fontsize=_SMALL, color=_TEXT, labelpad=2)
    axes.set_ylabel("true", fontsize=_SMALL, color=_TEXT, labelpad=2)
    axes.spines[:].set(color=_OTHER, linewidth=0.6)
    scale = figure.add_axes(((beside + side + 0.08) / width, below / height, 0.08 / width, tall / height))
    figure.colorbar(image, cax=scale, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    scale.set_yticklabels(["0", "1", "5", "20", "50", "100 %"], fontsize=_SMALL - 1, color=_TEXT)
    scale.tick_params(length=2, pad=2, color=_OTHER)
    scale.spines[:].set(color=_OTHER, linewidth=0.6)
    return _saved(figure, path)


def _most_confused(matrix: Tensor, most: int) -> list[int]:
    """So many classes at most, ascending, that the most frequent confusions of a matrix (K, K) are between."""
    wrong = matrix - matrix.diag().diag()
    counts, places = wrong.flatten().topk(min(most * most, wrong.numel()))
    shown: set[int] = set()
    for place in places[counts > 0].tolist():
        pair = {*divmod(place, len(matrix))}
        if len(shown | pair) <= most:
            shown |= pair
    return sorted(shown)


def _figure(dpi: int) -> Figure:
    """An empty figure."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'pictures need matplotlib, which cannot be imported; run pip install "advkit[plot]"'
        ) from error
    return Figure(dpi=dpi, facecolor="white")


def _saved(figure: Figure, path: str | PathLike[str] | None) -> Figure:
    if path is not None:
        figure.savefig(fspath(path), dpi=figure.dpi)
    return figure


def _legend(figure: Figure, handles: Sequence[Artist], labels: Sequence[str], ncols: int, place: Place) -> None:
    figure.legend(
        handles,
        labels,
        loc=place,
        ncols=ncols,
        frameon=False,
        fontsize=_SMALL,
        labelcolor=_TEXT,
        handleheight=0.8,
        borderaxespad=0.2,
        labelspacing=0.25,
        columnspacing=1.2,
    )


def _columns(names: Sequence[str], width: float) -> tuple[list[str], int, float]:
    """The labels of a legend, in how many columns they fit, and the inches that it takes: none for one label."""
    lines = [_wrapped(name, int((width - 0.6) / _LETTER)) for name in names]
    longest = max(len(line) for label in lines for line in label)
    ncols = max(1, min(len(lines), int((width - _GAP) / (_LETTER * longest + 0.5))))
    tallest = sum(sorted(map(len, lines), reverse=True)[: math.ceil(len(lines) / ncols)])
    return ["\n".join(label) for label in lines], ncols, 0.15 * tallest + 0.05 if len(lines) > 1 else 0.0


def _plain(axes: Axes) -> None:
    """Axes without a frame that says nothing, and with what is drawn above the grid."""
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set(color=_OTHER, linewidth=0.8)
    axes.tick_params(length=2, pad=2, color=_OTHER, labelcolor=_TEXT, labelsize=_SMALL)


def _text(size: float) -> dict[str, Any]:
    return {"fontsize": size, "color": _TEXT, "clip_on": False}


def _percents(axis: Axis) -> None:
    axis.set_ticks([0, 0.2, 0.4, 0.6, 0.8, 1], ["0", "20", "40", "60", "80", "100"])


def _spaced(values: Sequence[float], apart: float) -> list[float]:
    """Those of ascending values that are apart by this share of their range, from both ends."""
    room = apart * (values[-1] - values[0])
    kept = [values[-1]]
    for value in reversed(values[:-1]):
        if kept[-1] - value >= room and (value == values[0] or value - values[0] >= room):
            kept.append(value)
    return kept[::-1]


def _wrapped(name: str, letters: int, lines: int = 3) -> list[str]:
    """A name in a few lines, broken where Python would be."""
    found = [""]
    for piece in re.split(r"(?<=[ (,_])", name):
        if found[-1] and len((found[-1] + piece).rstrip()) > letters:
            found.append("")
        found[-1] += piece
    kept = [_cut(line.strip(), letters) for line in found]
    return kept if len(kept) <= lines else [*kept[: lines - 1], kept[lines - 1][: letters - 1] + "…"]


def _telling(result: AdversarialResult, before: Tensor, count: int) -> list[int]:
    """The images to show: those that the attack turned from right to wrong first, of many classes."""
    labels = result.labels.cpu()
    turned = (result.success.cpu() & (before == labels)).tolist()
    seen: Counter[tuple[bool, int]] = Counter()
    ranked = []
    for row, kind in enumerate(zip(turned, labels.tolist(), strict=True)):
        ranked.append((not kind[0], seen[kind], row))
        seen[kind] += 1
    return [row for *_, row in sorted(ranked)[:count]]


def _magnification(largest: float) -> float:
    """The largest of 1, 2, 5, 10, 20, ... that shows a perturbation around mid-grey without clipping it, if any."""
    room = 0.5 / largest * (1 + 1e-4) if largest else 1  # a rounding error is no clipping
    steps = (digit * 10**power for power in range(6) for digit in (1, 2, 5))
    return max((step for step in steps if step <= room), default=1)


def _show(axes: Axes, image: Tensor, caption: str = "") -> None:
    """An image (C, H, W) in [0, 1]."""
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).expand(-1, -1, 3).numpy(), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=_OTHER, linewidth=0.6)
    axes.set_xlabel(caption, fontsize=_SMALL, color=_TEXT, labelpad=3)


def _bars(axes: Axes, probabilities: Tensor, names: Sequence[str], label: int, top: int) -> None:
    """The most confident classes: the true one blue, a wrong answer vermillion."""
    values, classes = (found.tolist() for found in probabilities.topk(min(top, len(probabilities))))
    colors = [_TRUE if index == label else _WRONG if place == 0 else _OTHER for place, index in enumerate(classes)]
    places = range(len(classes))
    axes.barh(places, values, height=0.5, color=colors)
    axes.barh(places, [1.0] * len(values), height=0.5, color="#EEF0F2", zorder=0)
    for place, (value, index, color) in enumerate(zip(values, classes, colors, strict=True)):
        weight = "normal" if color == _OTHER else "bold"
        axes.text(-0.06, place, names[index], ha="right", va="center", fontsize=_SMALL, color=_TEXT, weight=weight)
        percent = "< 1 %" if value < 0.005 else f"{100 * value:.0f} %"
        axes.text(1.04, place, percent, ha="left", va="center", fontsize=_SMALL, color=_TEXT, weight=weight)
    axes.set(xlim=(0, 1.45), ylim=(len(classes) - 0.3, -0.7))
    axes.axis("off")


def _cut(name: str, length: int = 16) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"
