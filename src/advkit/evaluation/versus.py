"""Two reports on the same images: which model is right on more of them, and whether that may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advkit.errors import DtypeError, InputError
from advkit.evaluation.formats import called, how_far
from advkit.evaluation.scores import BARE

if TYPE_CHECKING:
    from advkit.evaluation.report import RobustnessReport

__all__ = ["Comparison", "compare", "mcnemar"]

_CHANCE = 0.05
_CLASSES = 10  # that a table names


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two reports on the same images, compared image by image for the bare models. Prints as sentences and a table.

    Attributes:
        images: how many images both reports are about.
        clean_accuracy: of the first report and of the second, in [0, 1].
        robust_accuracy: likewise; see `RobustnessReport.robust_accuracy`.
        both: on how many images both models are right under every attack.
        only_first: on how many only the first is.
        only_second: on how many only the second is.
        neither: on how many neither is.
        p_value: of McNemar's exact test: if on each image on which the two differ either were equally likely to be the
            one that is right, the probability of a split at least as lopsided as this one.
        classes: by class, (images, right in the first, right in the second); empty for reports by an older advkit.
        attacks: by the name of an attack that both reports have, the accuracy that it leaves in each; an attack whose
            images were made on a surrogate is called "MIFGSM from another".
        remarks: what limits the comparison, a sentence each.
        class_names: the names of classes in print, by their number; those without one print as "class 3".

    Examples:
        >>> weak = advkit.evaluate(model, loader, [advkit.FGSM(model, eps=0.5 / 255)])
        >>> strong = advkit.evaluate(model, loader, [advkit.FGSM(model, eps=8 / 255)])
        >>> compared = weak.compare(strong)
        >>> compared.only_first > compared.only_second, compared.better
        (True, 'first')
        >>> compared.remarks[0].startswith("The budgets differ")
        True
        >>> compared.to_dict()["better"]
        'first'
    """

    images: int
    clean_accuracy: tuple[float, float]
    robust_accuracy: tuple[float, float]
    both: int
    only_first: int
    only_second: int
    neither: int
    p_value: float
    classes: dict[int, tuple[int, int, int]]
    attacks: dict[str, tuple[float, float]]
    remarks: tuple[str, ...] = ()
    class_names: Sequence[str] = ()

    @property
    def better(self) -> str | None:
        """Which is right on more images, "first" or "second"; None where that may be chance (p of 0.05 or more)."""
        if self.p_value >= _CHANCE or self.only_first == self.only_second:
            return None
        return "first" if self.only_first > self.only_second else "second"

    def to_dict(self) -> dict[str, float | int | bool | str]:
        """The numbers as one flat dict; ``better`` is "" for neither."""
        clean, robust = self.clean_accuracy, self.robust_accuracy
        return {
            "images": self.images,
            "clean_accuracy_first": clean[0],
            "clean_accuracy_second": clean[1],
            "robust_accuracy_first": robust[0],
            "robust_accuracy_second": robust[1],
            "both": self.both,
            "only_first": self.only_first,
            "only_second": self.only_second,
            "neither": self.neither,
            "p_value": self.p_value,
            "better": self.better or "",
        }

    def __str__(self) -> str:
        """The verdict in a sentence, the numbers, where the two differ, and what makes them hard to compare."""
        rows = [("", "first", "second", "change")]
        rows += [_row("clean accuracy", self.clean_accuracy), _row("robust accuracy", self.robust_accuracy)]
        rows += [_row(f"under {name}", both) for name, both in self.attacks.items()] if len(self.attacks) > 1 else []
        changed = sorted(self.classes.items(), key=lambda one: (-abs(one[1][2] - one[1][1]) / one[1][0], one[0]))
        changed = [one for one in changed if one[1][1] != one[1][2]]
        rows += [
            _row(f"{self._named(index)} ({n} image{'s' if n > 1 else ''})", (first / n, second / n))
            for index, (n, first, second) in changed[:_CLASSES]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            )
            for row in rows
        ]
        left = len(changed) - _CLASSES
        more = [f"({left} more classes changed)"] if left > 0 else []
        return "\n".join(
            [
                *self._sentences(),
                "",
                lines[0].rstrip(),
                "-" * len(lines[0]),
                *lines[1:],
                *more,
                *(f"\n{one}" for one in self.remarks),
            ]
        )

    def _named(self, index: int) -> str:
        return self.class_names[index] if index < len(self.class_names) else f"class {index}"

    def _sentences(self) -> list[str]:
        differ = self.only_first + self.only_second
        if not differ:
            return [f"The two are right on the same {self.both} of {self.images} images under every attack."]
        verdict = {
            "first": "The first is right on more images under attack, by more than chance",
            "second": "The second is right on more images under attack, by more than chance",
            None: "The two differ by no more than chance",
        }[self.better]
        return [
            f"{verdict} (McNemar's exact test, p = {self.p_value:.2g}).",
            f"Of {self.images} images, {self.both} withstand the attacks in both reports, {self.only_first} only in "
            f"the first, {self.only_second} only in the second, and {self.neither} in neither.",
        ]


def compare(first: RobustnessReport, second: RobustnessReport) -> Comparison:
    """Hold two reports against each other; see `RobustnessReport.compare`."""
    if not hasattr(second, "standing") or not hasattr(second, "data_digest"):
        raise DtypeError(f"a report can only be compared with another report; got {type(second).__name__}")
    if not first.standing or not second.standing:
        raise InputError(
            "a report without `standing`, as an older advkit wrote it, does not say on which images the model is "
            "right, and cannot be compared; evaluate again"
        )
    if first.data_digest != second.data_digest or len(first.standing) != len(second.standing):
        raise InputError(
            f"these reports are about different images: {first.images} with digest {first.data_digest[:12]}, and "
            f"{second.images} with {second.data_digest[:12]}. Evaluate both models on the same images, in the same "
            "order, and both with this version of advkit, since an older one identified images by their batches"
        )
    pairs = list(zip(first.standing, second.standing, strict=True))
    counts = {kind: pairs.count(kind) for kind in ((True, True), (True, False), (False, True), (False, False))}
    classes: dict[int, tuple[int, int, int]] = {}
    for label, (one, other) in zip(first.labels or second.labels, pairs, strict=False):
        n, right, also = classes.get(label, (0, 0, 0))
        classes[label] = (n + 1, right + one, also + other)
    ours, theirs = (
        {called(score): score.accuracy for score in (*one.attacks, *one.transferred)} for one in (first, second)
    )
    return Comparison(
        images=len(pairs),
        clean_accuracy=(first.clean_accuracy, second.clean_accuracy),
        robust_accuracy=(first.robust_accuracy, second.robust_accuracy),
        both=counts[True, True],
        only_first=counts[True, False],
        only_second=counts[False, True],
        neither=counts[False, False],
        p_value=mcnemar(counts[True, False], counts[False, True]),
        classes=dict(sorted(classes.items())),
        attacks={name: (accuracy, theirs[name]) for name, accuracy in ours.items() if name in theirs},
        remarks=tuple(_remarks(first, second)),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test, from the images on which only the one or only the other is right.

    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 1947, with the binomial in place of its approximation.
    """
    n, few = only_first + only_second, min(only_first, only_second)
    ways, tail = 1, 1
    for k in range(few):
        ways = ways * (n - k) // (k + 1)
        tail += ways
    return min(1.0, float(2 * tail / 2**n))


def _remarks(first: RobustnessReport, second: RobustnessReport) -> list[str]:
    """What makes two reports hard to compare."""
    found = []
    balls = [dict(report.worst[0].within) if report.worst else {} for report in (first, second)]
    if balls[0] != balls[1]:
        both = [how_far(within) or "none" for within in balls]
        found.append(f"The budgets differ: {both[0]} in the first, {both[1]} in the second.")
    if _made(first) != _made(second):
        what = f"{_names(first)} in the first, {_names(second)} in the second"
        what = "other arguments of the same names" if _names(first) == _names(second) else what
        found.append(f"The attacks differ, so that a model may look better for having been attacked by less: {what}.")
    if first.surrogates != second.surrogates:
        named = [" and ".join(report.surrogates) or "none" for report in (first, second)]
        what = f"{named[0]} in the first, {named[1]} in the second"
        what = what if named[0] != named[1] else "they have the same names, but other classes or weights"
        found.append(f"Images were transferred from other models: {what}.")
    for which, report in (("first", first), ("second", second)):
        if doubts := ", ".join(dict.fromkeys(flag.name for flag in report.flags if flag.defense in (None, BARE))):
            found.append(f"The {which} report has red flags ({doubts}): its robust accuracy may be too high.")
        if report.failures:
            lost = sum(len(failure.rows) for failure in report.failures)
            found.append(
                f"In the {which} report {lost} results were lost to errors; such an image counts as not right."
            )
    return found


def _made(report: RobustnessReport) -> list[tuple[str, str]]:
    """The attacks and what they were made with, but for the budget and what follows from it."""
    apart = ("eps", "alpha")
    return sorted(
        (one.attack, repr(sorted((name, value) for name, value in one.arguments.items() if name not in apart)))
        for one in report.attacks
    )


def _names(report: RobustnessReport) -> str:
    return ", ".join(score.name for score in report.attacks) or "none"


def _row(name: str, both: tuple[float, float]) -> tuple[str, str, str, str]:
    shares = [("-" if math.isnan(share) else f"{100 * share:.1f} %") for share in both]
    change: Any = both[1] - both[0]
    return name, shares[0], shares[1], "-" if math.isnan(change) else f"{100 * change:+.1f}"
