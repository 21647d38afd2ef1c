"""Default lengths: what they are fractions of, so that they scale with it.

A default such as ``eps=8 / 255`` is a number for pixels in [0, 1]. Declared as ``OfRange(8 / 255)``, it means
that fraction of whatever range the pixels have, and ``alpha=OfEps(2 / 255, 1 / 4)`` a quarter of whatever ``eps`` is.
To the reader of a signature, of a result or of a saved run both are ordinary numbers.
"""

from dataclasses import fields
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

__all__ = ["BASES", "OfEps", "OfRange", "Share", "default", "is_given", "settle"]

BASES = frozenset({"bounds", "eps"})
"""The hyperparameters that others are shares of."""


class Share(float):
    """A default length, a fraction of something else. As a number it is the length itself.

    Args:
        value: the length, to begin with that of the default.
        share: the length, relative to what it is a fraction of.
    """

    share: float

    def __new__(cls, value: float, share: float) -> Self:
        length = super().__new__(cls, value)
        length.share = share
        return length

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]  # of float, which takes one
        return float(self), self.share

    def of(self, attack: Any) -> "Share | _Shares":
        """The same share of what the attack has now."""
        raise NotImplementedError


class OfRange(Share):
    """A default that is a fraction of the range of pixels, such as 8/255 of it.

    Examples:
        >>> from advkit.parts import OfRange
        >>> eight = OfRange(8 / 255)  # the default of FGSM's eps
        >>> advkit.FGSM(model).eps == eight, advkit.FGSM(model, bounds=(0, 255)).eps
        (True, 8.0)
    """

    def __new__(cls, value: float, share: float | None = None) -> Self:
        return super().__new__(cls, value, value if share is None else share)

    def of(self, attack: Any) -> Share:
        """The same share of the range that the attack's bounds span."""
        low, high = attack.bounds
        return type(self)(self.share * (high - low), self.share)


class OfEps(Share):
    """A default that is a fraction of the budget: a number, or one for each image if the budget is.

    Examples:
        >>> from advkit.parts import OfEps
        >>> quarter = OfEps(2 / 255, 1 / 4)  # the default of PGD's alpha
        >>> advkit.PGD(model).alpha == quarter, advkit.PGD(model, eps=0.5).alpha
        (True, 0.125)
    """

    def of(self, attack: Any) -> "Share | _Shares":
        """The same share of the attack's eps, or this as it is where that is no budget: that is for a check to say."""
        eps = attack.eps
        if isinstance(eps, Tensor) and eps.ndim:
            return _Shares.of(eps, self) if eps.is_floating_point() else self
        return type(self)(self.share * float(eps), self.share) if isinstance(eps, (Real, Tensor)) else self


class _Shares(Tensor):
    """A share of a budget for each image: a tensor that remembers that nobody gave it."""

    share: Share

    # What is computed from it is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, eps: Tensor, share: Share) -> Self:
        return cls._noted(share.share * eps.detach().as_subclass(Tensor), share)

    @classmethod
    def _noted(cls, values: Tensor, share: Share) -> Self:
        lengths = values.as_subclass(cls)
        lengths.share = share
        return lengths

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self._noted(self.as_subclass(Tensor).clone(), self.share)


def default(attack: Any, usual: object) -> object:
    """What an attack takes for a hyperparameter that nobody gave, from the default in its signature."""
    return usual.of(attack) if isinstance(usual, Share) else usual


def is_given(value: object) -> bool:
    """Whether somebody chose this value of a hyperparameter."""
    return not isinstance(value, (Share, _Shares))


def settle(attack: Any) -> None:
    """Bring the lengths that nobody gave in line with what they are shares of, in the order of declaration."""
    for known in fields(attack):
        value = getattr(attack, known.name)
        if not is_given(value):
            share = value.share if isinstance(value, _Shares) else value
            object.__setattr__(attack, known.name, share.of(attack))
