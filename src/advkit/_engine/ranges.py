"""What values a hyperparameter may have: the check, the words for it, and values that are none."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit import losses, norms
from advkit._engine.checks import check_choice, check_number, check_per_row
from advkit.errors import InputError

__all__ = ["Choice", "Flag", "Hyperparameter", "ImageEach", "Number", "OfLosses", "OfNorms", "OneForAll", "PixelMask"]


@dataclass(frozen=True)
class Hyperparameter(ABC):
    """The values that a hyperparameter may have.

    Args:
        optional: whether None is one of them.

    Examples:
        >>> alpha = advkit.hyperparameters.of(advkit.SparseL1Descent)["alpha"]
        >>> print(alpha)
        a number, greater than 0, or one for each image
        >>> alpha.check("alpha", None)  # it is optional
    """

    optional: bool = field(default=False, kw_only=True)

    def check(self, name: str, value: object) -> None:
        """Reject an invalid value.

        Raises:
            InputError: the value is invalid: says what it must be and what it was.
        """
        if not (self.optional and value is None):
            self._check(name, value)

    @abstractmethod
    def _check(self, name: str, value: object) -> None:
        """The same for a value that is given."""

    @abstractmethod
    def __str__(self) -> str:
        """What it may be, in words: "a number, at least 0"."""

    def bad(self) -> Iterator[object]:
        """Invalid values, which tests try."""
        yield object()


@dataclass(frozen=True)
class Number(Hyperparameter):
    """A finite number in a range.

    Args:
        above: it must be greater than this.
        at_least: it must not be less than this.
        at_most: it must not be greater than this.
        integer: whether it must be an integer.
        per_image: whether it may be a tensor of shape (N,), one number for each image.

    Examples:
        >>> str(advkit.hyperparameters.Number(at_least=1, integer=True))
        'an integer, at least 1'
    """

    above: float = -math.inf
    at_least: float = -math.inf
    at_most: float = math.inf
    integer: bool = False
    per_image: bool = False

    def _check(self, name: str, value: object) -> None:
        if self.per_image and isinstance(value, Tensor):
            check_per_row(name, value)
        else:
            check_number(
                name, value, above=self.above, at_least=self.at_least, at_most=self.at_most, integer=self.integer
            )

    def __str__(self) -> str:
        limits = [("greater than", self.above), ("at least", self.at_least), ("at most", self.at_most)]
        words = ["an integer" if self.integer else "a number"]
        words += [f"{how} {limit:g}" for how, limit in limits if math.isfinite(limit)]
        words += ["or one for each image"] if self.per_image else []
        return ", ".join(words)

    def bad(self) -> Iterator[object]:
        """Values of other types, values that are not finite, and values just out of the range."""
        yield from ("1", True, math.nan, math.inf)
        if self.integer:
            yield 2.5
        if math.isfinite(self.above):
            yield from (self.above, self.above - 1)
        if math.isfinite(self.at_least):
            yield self.at_least - 1
        if math.isfinite(self.at_most):
            yield self.at_most + 1
        if self.per_image:
            yield from (
                torch.tensor([0.1, -0.1]),
                torch.tensor([0.1, torch.nan]),
                torch.tensor([1, 2]),
                torch.ones(2, 1),
            )


@dataclass(frozen=True)
class Choice(Hyperparameter):
    """One of a few values.

    Examples:
        >>> str(advkit.hyperparameters.Choice(("gradient", "sign")))
        "one of 'gradient', 'sign'"
    """

    choices: Sequence[object] = ()

    def _check(self, name: str, value: object) -> None:
        check_choice(name, value, self.choices)

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"


@dataclass(frozen=True)
class OfNorms(Choice):
    """A norm, by its name or as an object."""

    def _check(self, name: str, value: object) -> None:
        check_choice(name, norms.get(value), tuple(map(norms.get, self.choices)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class OfLosses(Hyperparameter):
    """A loss, by its name or as a function."""

    def _check(self, name: str, value: object) -> None:
        losses.get(value)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return "the name of a loss, or a function (logits, classes) -> (N,)"

    def bad(self) -> Iterator[object]:
        """What is neither the name of a loss nor a function."""
        yield from (None, "accuracy")


@dataclass(frozen=True)
class Flag(Hyperparameter):
    """Yes or no.

    Examples:
        >>> str(advkit.hyperparameters.Flag())
        'True or False'
    """

    def _check(self, name: str, value: object) -> None:
        check_choice(name, value, (True, False))

    def __str__(self) -> str:
        return "True or False"


@dataclass(frozen=True)
class OneForAll(Hyperparameter):
    """A tensor that is the same for all images, such as one perturbation for all of them.

    Examples:
        >>> advkit.hyperparameters.OneForAll().check("shift", 0.5)
        Traceback (most recent call last):
            ...
        advkit.errors.InputError: shift must be a floating tensor of finite numbers, the same for all images; got float
    """

    def _check(self, name: str, value: object) -> None:
        if not isinstance(value, Tensor) or not value.is_floating_point() or not bool(value.isfinite().all()):
            seen = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must be a floating tensor of finite numbers, the same for all images; got {seen}")

    def __str__(self) -> str:
        return "a tensor, the same for all images"

    def bad(self) -> Iterator[object]:
        """What is no tensor, or one with other things than finite numbers in it."""
        yield from (0.5, torch.tensor([1]), torch.tensor([math.nan]))


@dataclass(frozen=True)
class ImageEach(Hyperparameter):
    """A tensor that has an image for each image of a batch.

    Examples:
        >>> advkit.hyperparameters.ImageEach().check("starting_points", 0.5)
        Traceback (most recent call last):
            ...
        advkit.errors.InputError: starting_points must be a floating tensor of finite numbers (N, ...); got float
    """

    def _check(self, name: str, value: object) -> None:
        if (
            not isinstance(value, Tensor)
            or value.ndim < 2
            or not value.is_floating_point()
            or not bool(value.isfinite().all())
        ):
            seen = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(f"{name} must be a floating tensor of finite numbers (N, ...); got {seen}")

    def __str__(self) -> str:
        return "a tensor with one image for each image"

    def bad(self) -> Iterator[object]:
        """What is no tensor, or one without an image for each image, or with other things than finite numbers."""
        yield from (0.5, torch.tensor([0.5]), torch.ones(1, 2, dtype=torch.int64), torch.full((1, 2), math.nan))


@dataclass(frozen=True)
class PixelMask(Hyperparameter):
    """Which pixels may move: True or 1 for those that may."""

    def _check(self, name: str, value: object) -> None:
        seen = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
        if not isinstance(value, Tensor) or not value.ndim or not bool(((value == 0) | (value == 1)).all()):
            other = " with other numbers in it" if isinstance(value, Tensor) and value.ndim else ""
            raise InputError(f"{name} must be a tensor of True and False, or of 1 and 0; got {seen}{other}")

    def __str__(self) -> str:
        return "a tensor of True for the pixels that may move, for all images or for each"

    def bad(self) -> Iterator[object]:
        """What is no tensor, or one with other numbers in it."""
        yield from (True, "mask", torch.tensor(1), torch.tensor([0, 2]), torch.tensor([0.5]))
