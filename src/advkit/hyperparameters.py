"""How a hyperparameter is declared: once, with its default and its range, among the fields of an attack.

    @dataclass(frozen=True, eq=False)
    class Mine(Attack):
        eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
        steps: int = number(10, at_least=1, integer=True)
        norm: str | Norm = norm("linf", "l2")

From the declaration follow the check when the attack is made, the selection of per-image values for part of a batch,
the entry in a manifest, invalid values for the tests, and the text for the docs and the command line.
"""

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from functools import lru_cache
from typing import Any

from advkit._engine.lengths import OfEps, OfRange
from advkit._engine.ranges import Choice, Flag, Hyperparameter, ImageEach, Number, OfLosses, OfNorms, OneForAll

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
    return declared(default, OfNorms((default, *others)))


def loss(default: str = "ce") -> Any:
    """A field that holds a loss to climb, by name or as a function; see `advkit.losses.get`.

    Examples:
        >>> print(advkit.hyperparameters.of(advkit.PGD)["loss"])  # declared as loss()
        the name of a loss, or a function (logits, classes) -> (N,)
    """
    return declared(default, OfLosses())


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
    """A field with this default and a kind of hyperparameter of your own; ``shown`` says whether `str` shows it.

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
    """The declared hyperparameters of a class, by name and in order.

    A subclass that overrides the default of a field keeps the declaration.

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
    """The fields of a class in which a tensor of shape (N,) means one value for each image.

    Those declared so, and those not declared at all. A tensor of another shape, such as one
    perturbation for all images, is the same for all. For `whole_images`, it is a tensor (N, ...).

    Examples:
        >>> advkit.hyperparameters.per_image(advkit.FGSM)
        ('model', 'bounds', 'generator', 'autocast', 'eps')
    """
    known = of(cls)
    declared_so = {name for name, what in known.items() if isinstance(what, Number) and what.per_image}
    declared_so.update(whole_images(cls))
    return tuple(each.name for each in fields(cls) if each.name in declared_so or each.name not in known)


@lru_cache(maxsize=1024)
def whole_images(cls: type) -> tuple[str, ...]:
    """The fields of a class in which a tensor (N, ...) means one image for each image.

    Examples:
        >>> advkit.hyperparameters.whole_images(advkit.HopSkipJump)
        ('starting_points',)
    """
    return tuple(name for name, what in of(cls).items() if isinstance(what, ImageEach))


def _declaration(cls: type, known: Field[Any]) -> Hyperparameter | None:
    for base in cls.__mro__:
        if (there := base.__dict__.get("__dataclass_fields__", {}).get(known.name)) and _KEY in there.metadata:
            what: Hyperparameter = there.metadata[_KEY]
            return what
    return None
