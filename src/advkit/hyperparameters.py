"""How a hyperparameter is declared: once, with its default and its range, where an attack lists its fields.

    @dataclass(frozen=True, eq=False)
    class Mine(Attack):
        eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
        steps: int = number(10, at_least=1, integer=True)
        norm: str | Norm = norm("linf", "l2")

From the declaration come the check when the attack is made, the cut of per-image values to the rows at hand, what a
manifest says, values that the tests try, and the text for the docs and the command line.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from advkit import losses, norms
from advkit._engine.checks import check_choice, check_number, check_per_row
from advkit._engine.lengths import OfEps, OfRange
from advkit.errors import InputError

__all__ = [
    "Choice",
    "Flag",
    "Hyperparameter",
    "ImageEach",
    "Number",
    "OfEps",
    "OfRange",
    "OneForAll",
    "choice",
    "declared",
    "flag",
    "loss",
    "norm",
    "number",
    "of",
    "per_image",
    "tensor",
    "whole_images",
]

_KEY = "hyperparameter"


@dataclass(frozen=True)
class Hyperparameter(ABC):
    """What values a hyperparameter may have.

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
        """Refuse a value that it may not have.

        Raises:
            InputError: says what it must be and what it was.
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
        """Values that it may not have, which tests try."""
        yield object()


@dataclass(frozen=True)
class Number(Hyperparameter):
    """A finite number in a range.

    Args:
        above: it must be greater than this.
        at_least: it must not be less than this.
        at_most: it must not be greater than this.
        integer: whether it counts something.
        per_image: whether a tensor of shape (N,) may give one for each image.

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
class _OfNorms(Choice):
    """A norm, by its name or as an object."""

    def _check(self, name: str, value: object) -> None:
        check_choice(name, norms.get(value), tuple(map(norms.get, self.choices)))  # type: ignore[arg-type]


@dataclass(frozen=True)
class _OfLosses(Hyperparameter):
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
        return "a tensor with an image for each image"

    def bad(self) -> Iterator[object]:
        """What is no tensor, or one without an image for each image, or with other things than finite numbers."""
        yield from (0.5, torch.tensor([0.5]), torch.ones(1, 2, dtype=torch.int64), torch.full((1, 2), math.nan))


def number(
    default: object,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    integer: bool = False,
    per_image: bool = False,
) -> Any:
    """A field that holds a number in a range; see `Number`. It may be None where the default is.

    Examples:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Search:
        ...     steps: int = advkit.hyperparameters.number(10, at_least=1, integer=True)
        >>> print(Search().steps, "--", advkit.hyperparameters.of(Search)["steps"])
        10 -- an integer, at least 1
    """
    return declared(default, Number(above, at_least, at_most, integer, per_image, optional=default is None))


def choice(default: object, *others: object) -> Any:
    """A field that holds one of these values.

    Examples:
        >>> print(advkit.hyperparameters.of(advkit.MIFGSM)["accumulate"])  # declared as choice("gradient", "sign")
        one of 'gradient', 'sign'
    """
    return declared(default, Choice((default, *others)))


def norm(default: str, *others: str) -> Any:
    """A field that holds one of these norms, by name or as an object of `advkit.norms`.

    Examples:
        >>> print(advkit.hyperparameters.of(advkit.PGD)["norm"])  # declared as norm("linf", "l2")
        one of 'linf', 'l2'
    """
    return declared(default, _OfNorms((default, *others)))


def loss(default: str = "ce") -> Any:
    """A field that holds a loss to climb, by name or as a function; see `advkit.losses.get`.

    Examples:
        >>> print(advkit.hyperparameters.of(advkit.PGD)["loss"])  # declared as loss()
        the name of a loss, or a function (logits, classes) -> (N,)
    """
    return declared(default, _OfLosses())


def flag(default: bool) -> Any:
    """A field that holds True or False.

    Examples:
        >>> print(advkit.hyperparameters.of(advkit.PGD)["early_stop"])  # declared as flag(False)
        True or False
    """
    return declared(default, Flag())


def tensor() -> Any:
    """A field that holds a tensor that is the same for all images, of any shape; it has to be given.

    Examples:
        >>> from dataclasses import make_dataclass
        >>> Added = make_dataclass("Added", [("pattern", torch.Tensor, advkit.hyperparameters.tensor())])
        >>> Added(torch.zeros(3, 16, 16)).pattern.shape
        torch.Size([3, 16, 16])
    """
    return declared(MISSING, OneForAll())


def declared(default: object, what: Hyperparameter, *, shown: bool = True) -> Any:
    """A field with this default that holds what a hyperparameter of one's own may be; ``shown`` where attacks print.

    Examples:
        >>> class Odd(advkit.hyperparameters.Number):
        ...     def _check(self, name, value):
        ...         super()._check(name, value)
        ...         if value % 2 == 0:
        ...             raise advkit.errors.InputError(f"{name} must be odd, got {value}")
        >>> window = advkit.hyperparameters.declared(3, Odd(at_least=1, integer=True))  # in the body of an attack
        >>> window.default
        3
    """
    return field(default=default, repr=shown, metadata={_KEY: what})


def of(cls: type) -> Mapping[str, Hyperparameter]:
    """The hyperparameters of a class that are declared, by their names and in order.

    A subclass that gives a field another default keeps the declaration.

    Examples:
        >>> for name, what in advkit.hyperparameters.of(advkit.FGSM).items():
        ...     print(f"{name}: {what}")
        adaptive: True or False
        compiled: True or False
        mask: a tensor of True for the pixels that may move, for all images or for each
        levels: an integer, at least 2, at most 65536
        eps: a number, at least 0, or one for each image
        loss: the name of a loss, or a function (logits, classes) -> (N,)
    """
    return {known.name: what for known in fields(cls) if (what := _declaration(cls, known)) is not None}


@lru_cache(maxsize=1024)
def per_image(cls: type) -> tuple[str, ...]:
    """The fields of a class of which a tensor of shape (N,) is one value for each image.

    Those that are declared to be, and those that are not declared at all. A tensor of another shape, such as one
    perturbation for all images, is the same for all. Of `whole_images` it is a tensor (N, ...).
    """
    known = of(cls)
    declared_so = {name for name, what in known.items() if isinstance(what, Number) and what.per_image}
    declared_so.update(whole_images(cls))
    return tuple(each.name for each in fields(cls) if each.name in declared_so or each.name not in known)


@lru_cache(maxsize=1024)
def whole_images(cls: type) -> tuple[str, ...]:
    """The fields of a class of which a tensor (N, ...) is an image for each image."""
    return tuple(name for name, what in of(cls).items() if isinstance(what, ImageEach))


def _declaration(cls: type, known: Field[Any]) -> Hyperparameter | None:
    for base in cls.__mro__:
        if (there := base.__dict__.get("__dataclass_fields__", {}).get(known.name)) and _KEY in there.metadata:
            what: Hyperparameter = there.metadata[_KEY]
            return what
    return None
