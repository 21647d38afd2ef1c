"""The results of an evaluation as figures: accuracies, security curves, confusion matrices and adversarial images.

Every function returns a figure that belongs to no window, and does not touch pyplot's state. Widths are in inches:
3.3 is a column of a paper, 7 its whole width. Nothing relies on colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advkit._engine.checks import check_number
from advkit._engine.wording import short
from advkit.errors import InputError
from advkit.evaluation.drawing import (
    GAP,
    LETTER,
    OTHER,
    SERIES,
    SMALL,
    TEXT,
    add_legend,
    cut_name,
    legend_columns,
    new_figure,
    percent_ticks,
    plain_axes,
    saved,
    spaced_ticks,
    text_style,
    wrapped_name,
)
from advkit.evaluation.formats import called
from advkit.evaluation.pictures import picture_rows
from advkit.evaluation.plan import TRANSFERRED
from advkit.evaluation.report import RobustnessReport, Score
from advkit.evaluation.security import SecurityCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["accuracy_bars", "confusion_matrix", "picture_rows", "security_curves"]

_ROOM = 1.08  # how far the axis goes beyond 100 %, for the numbers
_MARKERS, _DASHES = "os^DvPX*<", ["-", "--", "-.", ":"]
_CELL, _NUMBER = 0.045, 0.17  # inches: of a class that can be told from the next, and with a number in it


def accuracy_bars(
    report: RobustnessReport,
    path: str | PathLike[str] | None = None,
    *,
    protocol: str = "adaptive",
    width: float = 7.0,
    dpi: int = 150,
) -> Figure:
    """Draw the accuracy of each defense under each attack, as groups of bars with their 95 % intervals.

    There is a group for each attack, and one for none, with a bar for each defense, in the order of the legend; numbers
    are beside the bars. Each surrogate of transferred attacks has a group of its own. After figures 16 to 18 of
    Campbell & Lasselle 2024.

    Args:
        report: what `advkit.evaluate` returned.
        path: a file to save the picture in; its suffix sets the format.
        protocol: "adaptive", "naive" or "oblivious": how the defended models were attacked. Or "transferred", for
            images from surrogates, on the bare model as well.
        width: in inches, at least 2. The height follows from the number of bars.
        dpi: pixels per inch of the file.

    Raises:
        InputError: the report has defenses, and none of its scores is of this protocol.
        MissingExtraError: matplotlib is not installed.

    Examples:
        >>> report = advkit.evaluate(model, loader, [advkit.FGSM(model), advkit.PGD(model)])
        >>> figure = advkit.evaluation.accuracy_bars(report, "bars.pdf", width=3.3)  # a column of a paper
        >>> float(figure.get_figwidth())
        3.3
    """
    check_number("width", width, at_least=2)
    defenses = report.defenses
    if (len(defenses) > 1 or protocol == TRANSFERRED) and protocol not in report.protocols:
        raise InputError(f"the report has no protocol {protocol!r}; it has {list(report.protocols)}")
    attacks = [called(score) for score in (report.transferred if protocol == TRANSFERRED else report.attacks)]
    known = {(called(score), score.defense): score for score in report.scores if score.protocol in (protocol, None)}
    groups = [defenses, *([known[name, one.name] for one in defenses] for name in attacks)]
    figure = new_figure(dpi)
    from matplotlib.patches import Patch

    count = len(defenses)
    thick = 0.13 if count * len(groups) <= 60 else 0.09
    names = [wrapped_name(name, int(0.36 * width / LETTER)) for name in ["no attack", *attacks]]
    tall = [max(count * thick, 0.14 * len(lines)) + thick for lines in names]
    left = LETTER * max(len(line) for lines in names for line in lines) + 2 * GAP + 0.1 * (count > 1)
    labels, ncols, above = legend_columns([f"{place}  {one.name}" for place, one in enumerate(defenses, 1)], width)
    above += GAP
    below = 0.42
    height = sum(tall) + above + below
    figure.set_size_inches(width, height)
    axes = figure.add_axes((left / width, below / height, 1 - (left + GAP) / width, sum(tall) / height))
    small = SMALL - 1.5 if thick > 0.1 else SMALL - 2.5
    wide = (width - left - GAP) / _ROOM  # inches from 0 to 1
    top = 0.0
    for scores, lines, room in zip(groups, names, tall, strict=True):
        middle = top + room / 2
        axes.text(
            -(0.06 + 0.12 * (count > 1)) / wide, middle, "\n".join(lines), ha="right", va="center", **text_style(SMALL)
        )
        for place, score in enumerate(scores):
            y = middle + (place - (count - 1) / 2) * thick
            axes.barh(y, score.accuracy, height=0.86 * thick, color=SERIES[place % len(SERIES)])
            axes.plot(score.interval, (y, y), color=TEXT, linewidth=0.7, solid_capstyle="butt")
            axes.text(
                score.high + 0.012,
                y,
                f"{100 * score.accuracy:.0f}",
                ha="left",
                va="center_baseline",
                **text_style(small),
            )
            if count > 1:
                axes.text(-0.04 / wide, y, str(place + 1), ha="right", va="center_baseline", **text_style(small))
        top += room
    percent_ticks(axes.xaxis)
    axes.set(xlim=(0, _ROOM), ylim=(sum(tall), 0), yticks=[])
    axes.set_xlabel("accuracy, %", fontsize=SMALL, color=TEXT, labelpad=2)
    axes.grid(axis="x", color="#EEF0F2", linewidth=0.8)
    plain_axes(axes)
    if count > 1:
        patches = [Patch(color=SERIES[place % len(SERIES)]) for place in range(count)]
        add_legend(figure, patches, labels, ncols, "upper center")
    return saved(figure, path)


def security_curves(
    curves: Sequence[SecurityCurve] | Mapping[str, SecurityCurve],
    path: str | PathLike[str] | None = None,
    *,
    width: float = 3.3,
    dpi: int = 150,
) -> Figure:
    """Draw accuracy against the budget, a line for each curve with its 95 % interval.

    Args:
        curves: what `security_curve` returned, at least one, in the same norm; by the names that the legend should
            use, or as a sequence, named after the attacks.
        path: a file to save the picture in; its suffix sets the format.
        width: in inches, at least 2.
        dpi: pixels per inch of the file.

    Raises:
        InputError: there is no curve, or the curves are in different norms.
        MissingExtraError: matplotlib is not installed.

    Examples:
        >>> attacks = {"one step": advkit.FGSM(model), "ten steps": advkit.PGD(model)}
        >>> eps = [0, 2 / 255, 4 / 255, 8 / 255]
        >>> curves = {name: advkit.evaluation.security_curve(attacks[name], loader, eps=eps) for name in attacks}
        >>> figure = advkit.evaluation.security_curves(curves, "curves.pdf")
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['one step', 'ten steps']
    """
    check_number("width", width, at_least=2)
    named = list(curves.items()) if isinstance(curves, Mapping) else [(curve.attack, curve) for curve in curves]
    kinds = {str(curve.norm) for _, curve in named}
    if len(kinds) != 1:
        raise InputError(f"curves must be at least one, all in the same norm; got {sorted(kinds) or 'none'}")
    figure = new_figure(dpi)

    labels, ncols, of_legend = legend_columns([name for name, _ in named], width)
    budgets = sorted({value for _, curve in named for value in curve.eps})
    left, above, below = 0.5, 0.1, 0.42 + of_legend
    right = max(GAP, 0.5 * LETTER * len(short(budgets[-1])) + 0.04)
    body = min(0.62 * width, 3.2)
    height = body + above + below
    figure.set_size_inches(width, height)
    axes = figure.add_axes((left / width, below / height, 1 - (left + right) / width, body / height))
    for place, (_, curve) in enumerate(named):
        color = SERIES[(place + 1) % (len(SERIES) - 1)]  # the last, yellow, is too light for a line
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
    percent_ticks(axes.yaxis)
    ticks = spaced_ticks(budgets, 0.085 * max(len(short(value)) for value in budgets) / (width - left - right))
    axes.set(ylim=(0, 1), xticks=ticks, xticklabels=[short(value) for value in ticks])
    if budgets[-1] > budgets[0]:
        axes.set_xlim(budgets[0], budgets[-1])
    axes.set_xlabel(f"eps, {next(iter(kinds))}", fontsize=SMALL, color=TEXT, labelpad=2)
    axes.set_ylabel("accuracy, %", fontsize=SMALL, color=TEXT, labelpad=2)
    axes.grid(color="#EEF0F2", linewidth=0.8)
    plain_axes(axes)
    if len(named) > 1:
        add_legend(figure, axes.get_lines(), labels, ncols, "lower center")
    return saved(figure, path)


def confusion_matrix(
    counts: Score | Tensor,
    class_names: Sequence[str] | None = None,
    path: str | PathLike[str] | None = None,
    *,
    width: float = 3.3,
    dpi: int = 150,
) -> Figure:
    """Draw a confusion matrix: what the images of each class were predicted as, in percent of the class.

    The shading follows the square root, so that rare confusions are visible. Cells have numbers where there is room. If
    there are too many classes to show, those that are confused most often are drawn, as many as have room for numbers,
    and an extra column holds everything else that their images were predicted as.

    Args:
        counts: a score of a report, or int64 (K, K): how often an image of class i was predicted as class j.
        class_names: a name for each of the K classes or more; their indices if None.
        path: a file to save the picture in; its suffix sets the format.
        width: in inches, at least 2.
        dpi: pixels per inch of the file.

    Raises:
        InputError: the matrix is not square or has no class, or there are too few ``class_names``.
        MissingExtraError: matplotlib is not installed.

    Examples:
        >>> counts = torch.tensor([[9, 1], [2, 8]])  # or a score of a report
        >>> figure = advkit.evaluation.confusion_matrix(counts, ["cat", "dog"], "confusion.png")
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['cat', 'dog']
    """
    check_number("width", width, at_least=2)
    matrix = (counts if isinstance(counts, Tensor) else counts.confusion_matrix()).cpu()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise InputError(f"a confusion matrix has shape (K, K), with K at least 1; got {tuple(matrix.shape)}")
    classes = max(len(matrix), 0 if class_names is None else len(class_names))
    names = (
        [str(index) for index in range(classes)] if class_names is None else [cut_name(name) for name in class_names]
    )
    if len(names) < len(matrix):
        raise InputError(f"the matrix has {len(matrix)} classes, but class_names has {len(names)}")
    padding = classes - len(matrix)
    matrix = torch.nn.functional.pad(matrix, (0, padding, 0, padding)).float()
    shares = matrix / matrix.sum(1, keepdim=True)  # NaN for a class without images, which stays empty
    beside = 0.85 * LETTER * max(map(len, names)) + 0.3
    bar = 0.5
    side = width - beside - bar - GAP
    label = "predicted"
    if side / classes < _CELL and (shown := _most_confused(matrix, int(side / _NUMBER) - 1)):
        others = 1 - shares[shown][:, shown].sum(1, keepdim=True)
        shares = torch.cat([shares[shown][:, shown], others.clamp_min(0)], 1)
        names = [*(names[index] for index in shown), "others"]
        label = f"predicted: {len(shown)} of {classes:,} classes"
    rows, columns = shares.shape
    figure = new_figure(dpi)
    from matplotlib.colors import PowerNorm

    cell = side / columns
    tall = cell * rows
    below, above = 0.85 * LETTER * max(map(len, names)) + 0.3, 0.1
    height = tall + below + above
    figure.set_size_inches(width, height)
    axes = figure.add_axes((beside / width, below / height, side / width, tall / height))
    image = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    if cell >= _NUMBER:
        for true, said in shares.nan_to_num(0.0).nonzero().tolist():
            share = float(shares[true, said])
            text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
            color = "white" if share > 0.3 else TEXT
            axes.text(said, true, text, ha="center", va="center", fontsize=min(SMALL, 29 * cell), color=color)
    every = math.ceil(0.12 / cell)
    every = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, every) if step >= every)
    size = min(SMALL, max(6.0, 62 * cell))
    across, down = range(0, columns, every), range(0, rows, every)
    axes.set_xticks(across, [names[place] for place in across], fontsize=size, color=TEXT, rotation=90)
    axes.set_yticks(down, [names[place] for place in down], fontsize=size, color=TEXT)
    if class_names is None and classes <= 10 * width:
        axes.tick_params(axis="x", rotation=0)
    axes.tick_params(length=0 if every == 1 else 2, pad=2, color=OTHER)
    axes.set_xlabel(label, fontsize=SMALL, color=TEXT, labelpad=2)
    axes.set_ylabel("true", fontsize=SMALL, color=TEXT, labelpad=2)
    axes.spines[:].set(color=OTHER, linewidth=0.6)
    scale = figure.add_axes(((beside + side + 0.08) / width, below / height, 0.08 / width, tall / height))
    figure.colorbar(image, cax=scale, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    scale.set_yticklabels(["0", "1", "5", "20", "50", "100 %"], fontsize=SMALL - 1, color=TEXT)
    scale.tick_params(length=2, pad=2, color=OTHER)
    scale.spines[:].set(color=OTHER, linewidth=0.6)
    return saved(figure, path)


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
