"""Accuracy over budgets."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.checks import check_number
from advkit._engine.classifier import predict, prediction
from advkit._engine.wording import short
from advkit._io.progress import track
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError
from advkit.evaluation.batches import pairs
from advkit.evaluation.flags import Flag, named_norm, rising
from advkit.evaluation.metrics import wilson
from advkit.norms import Norm

__all__ = ["SecurityCurve", "security_curve"]

_BUDGETS = 11  # of a curve that is told none


@dataclass(frozen=True, eq=False)
class SecurityCurve:
    """A model's accuracy under one attack, at each of several budgets. It prints as a table.

    Attributes:
        attack: the attack, as it prints.
        norm: the norm that the budgets are in.
        eps: E budgets, ascending, in units of pixels.
        right: bool (E, N), on the CPU: whether the model is right on each image, at each budget. A model with a random
            defense is right where most of its predictions are.
        distances: floating (N,), on the CPU, for an attack without a budget: the distance of the closest image that
            fooled the model; 0 where the model is wrong from the start, infinite where none was found. None
            for other attacks.

    Examples:
        >>> curve = advkit.evaluation.security_curve(advkit.PGD(model), images, labels, eps=[0, 16 / 255])
        >>> print(curve)
        PGD, Linf, 12 images
        <BLANKLINE>
           eps  accuracy    95 % interval  up to eps
        --------------------------------------------
             0    100.0%  75.8% to 100.0%     100.0%
        16/255      0.0%    0.0% to 24.2%       0.0%
        >>> curve.accuracy == curve.worst, curve.flags  # it does not rise
        (True, ())
        >>> low, high = curve.interval[0]
        >>> closest = advkit.evaluation.security_curve(advkit.DeepFool(model), images, labels)
        >>> closest.median <= closest.distances.max(), closest.mean < torch.inf
        (tensor(True), True)
    """

    attack: str
    norm: Norm
    eps: tuple[float, ...]
    right: Tensor
    distances: Tensor | None = None

    @property
    def mean(self) -> float | None:
        """The mean distance of the images that the model gets right; infinite if the attack failed on any of them."""
        return None if self.distances is None else self._of_right().mean().item()

    @property
    def median(self) -> float | None:
        """The median distance of the same images. None without distances, NaN without images."""
        return None if self.distances is None else self._of_right().quantile(0.5, interpolation="higher").item()

    def _of_right(self) -> Tensor:
        """The distances of images that the model is right on, (n,); NaN alone of none."""
        assert self.distances is not None
        right = self.distances[self.distances > 0].double()
        return right if len(right) else right.new_full((1,), torch.nan)

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The share of the images that the model gets right at each budget, in [0, 1]. It may rise, see `flags`."""
        return _shares(self.right)

    @property
    def interval(self) -> tuple[tuple[float, float], ...]:
        """The 95 % interval of each accuracy; see `advkit.evaluation.metrics.wilson`."""
        return tuple(wilson(share, self.right.shape[1]) for share in self.accuracy)

    @property
    def worst(self) -> tuple[float, ...]:
        """The share of images that withstand all budgets up to each one: an accuracy that cannot rise, in [0, 1]."""
        return _shares(self.right.cummin(0).values)

    @property
    def flags(self) -> tuple[Flag, ...]:
        """The red flag for an accuracy that rises with the budget by more than chance, if it does."""
        return rising(self.attack, self.eps, self.right)

    def __str__(self) -> str:
        """A table with a row for each budget."""
        rows = [("eps", "accuracy", "95 % interval", "up to eps")]
        for eps, share, (low, high), worst in zip(self.eps, self.accuracy, self.interval, self.worst, strict=True):
            rows.append((short(eps), f"{share:.1%}", f"{low:.1%} to {high:.1%}", f"{worst:.1%}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        title = f"{self.attack}, {self.norm}, {self.right.shape[1]} images"
        if self.distances is not None:
            title += f", at a distance of {self.mean:.4g} on average, median {self.median:.4g}"
        return "\n".join([title, "", lines[0], "-" * len(lines[0]), *lines[1:], *(f"\n{flag}" for flag in self.flags)])


def security_curve(
    attack: Attack,
    images: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    *,
    eps: Sequence[float] | None = None,
    norm: str | Norm | None = None,
    progress: bool | None = None,
) -> SecurityCurve:
    """Measure a model's accuracy under an attack at several budgets, in one pass over the images.

    An attack with a budget gets each image once for each budget, all in one batch, which takes as many times the
    memory. Its step size, if it has one, scales with the budget. Every other attack looks for the closest image that
    fools the model, or for any, and is run once: its distances give the whole curve, and the curve has their mean and
    median. Images that the model gets wrong from the start are not attacked.

    Biggio & Roli, "Wild patterns: ten years after the rise of adversarial machine learning", Pattern Recognition
    2018, on security evaluation curves.

    Args:
        attack: any attack, on the model. Its own ``eps`` is the one that its ``alpha`` goes with.
        images: floating (N, ...) with ``labels``, or a loader of batches (images, labels); batches that are dicts, or
            contain more, are understood as by `advkit.data.attacked`.
        labels: int64 (N,) or (N, 1), or None with a loader.
        eps: the budgets, in units of pixels, at least 0; 0 is the accuracy without an attack. None for the distances
            that an attack without a budget found, eleven from 0 to the largest: the whole curve.
        norm: for an attack without a budget, what its distances are measured in; the norm that it makes small if None.
        progress: True for a progress bar over a loader, False for none, None for one where stderr is a terminal and
            tqdm is installed.

    Returns:
        The curve, whose budgets are sorted.

    Raises:
        InputError: a budget is negative or missing, there are no images, the attack's own ``eps`` is not a positive
            number, or ``norm`` is not that of its budget, or is missing for an attack that names none; see `Attack` for
            the rest.

    Examples:
        >>> budgets = [0, 1 / 255, 16 / 255]
        >>> curve = advkit.evaluation.security_curve(advkit.PGD(model), loader, eps=budgets)
        >>> curve.right.shape, curve.accuracy[0], curve.accuracy[-1]
        (torch.Size([3, 12]), 1.0, 0.0)
        >>> minimal = advkit.evaluation.security_curve(advkit.DeepFool(model), loader, eps=[0, 100], norm="linf")
        >>> minimal.accuracy  # of one run, since DeepFool has no budget
        (1.0, 0.0)
        >>> whole = advkit.evaluation.security_curve(advkit.Minimal(model, norm="l2"), loader)
        >>> whole.accuracy[0], whole.accuracy[-1], bool(whole.eps[0] < whole.median < whole.eps[-1])
        (1.0, 0.0, True)
    """
    for index, value in enumerate(eps or ()):
        check_number(f"eps[{index}]", value, at_least=0)
    budgets = sorted({float(value) for value in eps or ()})
    takes_budget = _takes_budget(attack)
    if not budgets and (takes_budget or eps is not None):
        raise InputError("eps needs at least one budget; give a list, such as [0, 2/255, 4/255, 8/255]")
    curve = _WithinBudgets(attack, budgets, norm) if takes_budget else _AtDistances(attack, norm)
    batches = track(_batches(images, labels), "security_curve", unit="batch", progress=progress)
    columns = [curve.measured(*batch) for _, *batch in pairs(batches, [attack.bounds]) if len(batch[0])]
    if not columns:
        raise InputError("there are no images; a generator that was iterated over before has none left")
    found = torch.cat(columns, -1)
    if takes_budget:
        return SecurityCurve(str(attack), curve.norm, tuple(budgets), found)
    budgets = budgets or _whole(found)
    return SecurityCurve(str(attack), curve.norm, tuple(budgets), found > found.new_tensor(budgets)[:, None], found)


def _whole(distances: Tensor) -> list[float]:
    """Budgets from 0 to the largest of the distances (N,), which it reaches: all of them."""
    reached = distances[distances.isfinite()]
    largest = reached.amax().item() if len(reached) else 0.0
    return sorted({largest * share / (_BUDGETS - 1) for share in range(_BUDGETS - 1)} | {largest})


class _Curve(ABC):
    """How the accuracies at several budgets are measured.

    Args:
        attack: the attack.
    """

    norm: Norm

    def __init__(self, attack: Attack) -> None:
        self.attack = attack

    def measured(self, images: Tensor, labels: Tensor) -> Tensor:
        """What `attacked` says of images (n, ...), and 0 or False of those that the model gets wrong: on the CPU."""
        predict(self.attack.model, images[:1], {"labels": labels})  # which says so if there is no such class
        labels = labels.to(images.device)
        clean = prediction(self.attack.model, images) == labels
        measured = self.attacked(images[clean], labels[clean])
        whole = measured.new_zeros(*measured.shape[:-1], len(images))
        whole[..., clean] = measured
        return whole.cpu()

    @abstractmethod
    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """What is known of images that the model gets right, under attack: (..., n), where the images are."""


class _WithinBudgets(_Curve):
    """Each image once for each budget, for attacks that take one."""

    def __init__(self, attack: Attack, budgets: Sequence[float], norm: str | Norm | None) -> None:
        super().__init__(attack)
        self.budgets = torch.tensor(budgets, device="cpu")
        own, usual = named_norm(attack), getattr(attack, "eps", None)
        if norm is not None and own is not None and norms.get(norm) is not own:
            raise InputError(f"the budget of {attack} is in {own}, so norm cannot be {norm!r}; omit it")
        if isinstance(usual, Tensor) or not usual:
            raise InputError(f"{attack} needs a positive number as its own eps, with which the step size is scaled")
        self.norm = norms.get("linf" if norm is None else norm) if own is None else own
        self.usual = float(usual)

    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """Whether the model is right at each budget: bool (E, n)."""
        count, budgets = len(images), self.budgets.to(images.device)
        rows = torch.ones(len(budgets), count, dtype=torch.bool, device=images.device)
        spent = budgets > 0
        if not count or not bool(spent.any()):
            return rows
        budgets = budgets[spent]
        eps = budgets.repeat_interleave(count)
        changes: dict[str, object] = {"eps": eps}
        if _has(self.attack, "alpha") and (alpha := getattr(self.attack, "alpha", None)) is not None:
            changes["alpha"] = eps * (float(alpha) / self.usual)
        attack = self.attack._with(**changes)
        several = images.repeat(len(budgets), *[1] * (images.ndim - 1))
        labels = labels.repeat(len(budgets))
        rows[spent] = (attack.run(several, labels).predictions == labels).view(-1, count)
        return rows


class _AtDistances(_Curve):
    """Each image once: it is lost to every budget that reaches the closest image that fools the model."""

    def __init__(self, attack: Attack, norm: str | Norm | None) -> None:
        super().__init__(attack)
        if attack.aim == "budget" and getattr(attack, "eps", None) is not None:
            raise InputError(f"{attack} has its budget in the attacks that it is made of; give one of them instead")
        measured_in = named_norm(attack) if norm is None else norms.get(norm)
        if measured_in is None:
            raise InputError(f"{attack} has no norm for its distances; give one, such as norm='l2'")
        self.norm = measured_in

    def attacked(self, images: Tensor, labels: Tensor) -> Tensor:
        """How far the closest image is that fools the model: (n,), infinite where none was found."""
        result = self.attack.run(images, labels)
        return result.distance(self.norm).where(result.predictions != labels, torch.inf)


def _batches(images: Tensor | Iterable[Any], labels: Tensor | None) -> Iterable[Any]:
    """The batches of a loader, or one of tensors."""
    if not isinstance(images, Tensor):
        return images
    if labels is None:
        raise DtypeError("images given as a tensor need labels: an int64 tensor of shape (N,)")
    return [(images, labels)]


def _takes_budget(attack: Attack) -> bool:
    """Whether the attack is run within each budget: not a minimal one that may have a budget and was given none."""
    return _has(attack, "eps") and not (attack.aim == "minimal" and getattr(attack, "eps", None) is None)


def _has(attack: Attack, name: str) -> bool:
    """Whether this is a hyperparameter of the attack."""
    return name in {known.name for known in fields(attack)}


def _shares(right: Tensor) -> tuple[float, ...]:
    return tuple(count / right.shape[1] for count in right.sum(1).tolist())
