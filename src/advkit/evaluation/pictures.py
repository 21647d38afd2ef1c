"""Adversarial images to look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

from torch import Tensor

from advkit._engine.checks import check_number
from advkit._engine.classifier import predict
from advkit.attack import AdversarialResult
from advkit.errors import InputError
from advkit.evaluation.drawing import GAP, LARGE, LETTER, OTHER, SMALL, TEXT, TRUE, WRONG, cut_name, new_figure, saved
from advkit.model import Model

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["picture_rows"]

_IMAGE, _BARS, _CAPTION = 1.3, 1.2, 0.26  # inches


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

    A row shows the original with the model's most confident classes for it; the perturbation, magnified around mid-grey
    by the factor beneath it; and the adversarial image with the model's most confident classes for that. Images that
    the model got right and on which the attack succeeded come first, each class once before any is repeated.

    Args:
        model: pixels (N, ...) to logits (N, K).
        result: what `Attack.run` returned, for images (N, C, H, W) with C = 1 (grey) or C = 3 (RGB).
        class_names: a name for each of the K classes; their indices if None.
        path: a file to save the figure to; its suffix sets the format.
        count: the number of rows, at most the number of images.
        top: how many classes to show.
        bounds: the lowest and the highest value of a pixel.
        dpi: pixels per inch of the file; the picture is about 8 inches wide.

    Returns:
        The figure. It belongs to no window, and pyplot's state is not touched.

    Raises:
        InputError: there is no image, it is neither grey nor RGB, or there are too few ``class_names``.
        MissingExtraError: matplotlib is not installed.

    Examples:
        >>> result = advkit.PGD(model).run(images, labels)
        >>> figure = advkit.evaluation.picture_rows(model, result, path="rows.png", count=3)
        >>> len(figure.axes)  # five per row: two images with their classes, and the perturbation between them
        15
    """
    check_number("count", count, at_least=1, integer=True)
    check_number("top", top, at_least=1, integer=True)
    shape = tuple(result.originals.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or not shape[0]:
        raise InputError(f"pictures need at least one image of shape (N, 1 or 3, height, width); got {shape}")
    figure = new_figure(dpi)
    from matplotlib.patches import Patch

    before, after = (predict(model, images).softmax(1).cpu() for images in (result.originals, result.images))
    classes = before.shape[1]
    names = (
        [str(index) for index in range(classes)] if class_names is None else [cut_name(name) for name in class_names]
    )
    if len(names) < classes:
        raise InputError(f"the model has {classes} classes, but class_names has {len(names)}")
    rows = _telling(result, before.argmax(1), count)

    low, high = bounds
    originals, images = (
        (side.detach().cpu().float() - low) / (high - low) for side in (result.originals, result.images)
    )
    names_wide = GAP + LETTER * max(map(len, names))
    columns = [_IMAGE, names_wide, _BARS, GAP, _IMAGE, 2 * GAP, _IMAGE, names_wide, _BARS]
    above, below = 0.34, 0.56
    width, height = sum(columns) + 2 * GAP, len(rows) * (_IMAGE + _CAPTION) - _CAPTION + above + below
    figure.set_size_inches(width, height)
    grid = figure.add_gridspec(
        len(rows),
        len(columns),
        width_ratios=columns,
        left=GAP / width,
        right=1 - GAP / width,
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
                panels[index].set_title(title, fontsize=LARGE, color=TEXT, pad=6)
    meanings = {"the true class": TRUE, "a wrong answer": WRONG, "other classes": OTHER}
    figure.legend(
        [Patch(color=color) for color in meanings.values()],
        list(meanings),
        loc="lower center",
        ncols=len(meanings),
        frameon=False,
        fontsize=SMALL,
        labelcolor=TEXT,
        handlelength=1,
        handleheight=1,
    )
    return saved(figure, path)


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
    axes.spines[:].set(color=OTHER, linewidth=0.6)
    axes.set_xlabel(caption, fontsize=SMALL, color=TEXT, labelpad=3)


def _bars(axes: Axes, probabilities: Tensor, names: Sequence[str], label: int, top: int) -> None:
    """The most confident classes: the true one blue, a wrong answer vermillion."""
    values, classes = (found.tolist() for found in probabilities.topk(min(top, len(probabilities))))
    colors = [TRUE if index == label else WRONG if place == 0 else OTHER for place, index in enumerate(classes)]
    places = range(len(classes))
    axes.barh(places, values, height=0.5, color=colors)
    axes.barh(places, [1.0] * len(values), height=0.5, color="#EEF0F2", zorder=0)
    for place, (value, index, color) in enumerate(zip(values, classes, colors, strict=True)):
        weight = "normal" if color == OTHER else "bold"
        axes.text(-0.06, place, names[index], ha="right", va="center", fontsize=SMALL, color=TEXT, weight=weight)
        percent = "< 1 %" if value < 0.005 else f"{100 * value:.0f} %"
        axes.text(1.04, place, percent, ha="left", va="center", fontsize=SMALL, color=TEXT, weight=weight)
    axes.set(xlim=(0, 1.45), ylim=(len(classes) - 0.3, -0.7))
    axes.axis("off")
