"""How well predictions agree with labels, in numbers."""

import math
from collections.abc import Iterable

__all__ = ["Confusion", "macro", "wilson"]

Confusion = Iterable[tuple[int, int, int]]
"""(label, prediction, count), for each pair that occurs."""

_NORMAL_97_5 = 1.959963984540054  # the quantile of the normal distribution with 2.5 % beyond it


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share observed over ``count`` images: (low, high), both in [0, 1].

    Wilson's score interval ("Probable inference, the law of succession, and statistical inference", JASA 1927, eq. 7),
    which also holds near 0 and 1, where accuracies under attack tend to be. It covers other images of the same kind,
    not other runs on the same ones. NaN if there was no image.

    Examples:
        >>> low, high = advkit.evaluation.metrics.wilson(0.5, 100)
        >>> print(f"{low:.3f} to {high:.3f}")
        0.404 to 0.596
    """
    if not count:
        return math.nan, math.nan
    spread = _NORMAL_97_5**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(spread * (share * (1 - share) + spread / 4)) / (1 + spread)
    # At the ends the interval touches 0 or 1, which rounding must not spoil.
    return 0.0 if share == 0 else max(0.0, centre - half), 1.0 if share == 1 else min(1.0, centre + half)


def macro(confusion: Confusion) -> tuple[float, float, float]:
    """Precision, recall and F1, each the mean over the classes that are the label or the prediction of some image.

    Campbell & Lasselle 2024, eq. 13 to 15. A class that is never predicted has precision 0, one that is no image's
    label has recall 0, and F1 is 0 where both are. NaN if there was no image.

    Examples:
        >>> precision, recall, f1 = advkit.evaluation.metrics.macro([(0, 0, 8), (0, 1, 2), (1, 1, 10)])
        >>> recall  # of class 0 8 of 10, of class 1 all
        0.9
    """
    hits: dict[int, int] = {}
    labelled: dict[int, int] = {}
    predicted: dict[int, int] = {}
    for label, prediction, count in confusion:
        labelled[label] = labelled.get(label, 0) + count
        predicted[prediction] = predicted.get(prediction, 0) + count
        if label == prediction:
            hits[label] = hits.get(label, 0) + count
    classes = labelled.keys() | predicted.keys()
    if not classes:
        return math.nan, math.nan, math.nan
    precision = math.fsum(hits.get(one, 0) / predicted[one] for one in predicted)
    recall = math.fsum(hits.get(one, 0) / labelled[one] for one in labelled)
    # 2PR / (P + R) with the common factors cancelled.
    f1 = math.fsum(2 * hits.get(one, 0) / (labelled.get(one, 0) + predicted.get(one, 0)) for one in classes)
    return precision / len(classes), recall / len(classes), f1 / len(classes)
