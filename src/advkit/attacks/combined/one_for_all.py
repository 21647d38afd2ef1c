"""What attacks that are given attacks share: one model, one range of pixels, one generator for all of them."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import hyperparameters, norms
from advkit.attack import Aim, Attack
from advkit.attacks.combined.survivors import Combined, balls
from advkit.errors import DtypeError, InputError
from advkit.hyperparameters import Hyperparameter
from advkit.model import Model

__all__ = ["AnAttack", "Attacks", "OneForAll"]

_FOR_ALL = ("model", "bounds", "generator", "autocast", "adaptive", "mask", "levels")


@dataclass(frozen=True)
class AnAttack(Hyperparameter):
    """An attack, pointed at its model."""

    def _check(self, name: str, value: object) -> None:
        if not isinstance(value, Attack):
            shown = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
            raise DtypeError(f"{name} must be an advkit attack, such as advkit.PGD(model); got {shown}")

    def __str__(self) -> str:
        return "an attack"

    def bad(self) -> Iterator[object]:
        """What is no attack, or only the class of one."""
        yield from (None, Attack, "PGD", [])


@dataclass(frozen=True)
class Attacks(Hyperparameter):
    """One attack or more, each pointed at its model."""

    def _check(self, name: str, value: object) -> None:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise DtypeError(f"{name} must be a list of attacks, such as [advkit.PGD(model)]; got {value!r}")
        if not value:
            raise InputError(f"{name} has no attack in it; give one, such as advkit.PGD(model)")
        for place, each in enumerate(value):
            AnAttack().check(f"{name}[{place}]", each)

    def __str__(self) -> str:
        return "a list of attacks"

    def bad(self) -> Iterator[object]:
        """What is no list, or one without attacks."""
        yield from (None, 3, "PGD", [], [Attack], [object()])


@dataclass(frozen=True, eq=False)
class OneForAll(Combined):
    """Base of the attacks that are given attacks, which attack one model.

    Theirs are the model, ``bounds`` and ``adaptive``, and have to be the same. Those of them that have no generator,
    ``autocast``, ``mask`` or ``levels`` get that of the others, or what is given here.
    """

    model: Model = field(init=False, repr=False)
    _: KW_ONLY
    bounds: tuple[float, float] = None  # type: ignore[assignment]  # theirs
    generator: torch.Generator | None = field(default=None, repr=False)
    autocast: torch.dtype | None = None
    adaptive: bool = None  # type: ignore[assignment]  # theirs

    def __post_init__(self) -> None:
        name, given = self._given()
        hyperparameters.of(type(self))[name].check(name, given)
        attacks = self._attacks()
        object.__setattr__(self, "model", attacks[0].model)
        for name in _FOR_ALL:
            object.__setattr__(self, name, self._agreed(name, attacks))
        self._pass_on({name: getattr(self, name) for name in ("generator", "autocast", "mask", "levels")})
        stray = [one for one in attacks if one.aim == "minimal"]
        if self.aim == "budget" and stray and not any(map(balls, attacks)):
            raise InputError(
                f"{stray[0]} looks for the closest image, which counts only within a budget, and no other attack in "
                f"{type(self).__name__} says what its budget is: a norm and eps"
            )
        super().__post_init__()

    @abstractmethod
    def _given(self) -> tuple[str, object]:
        """The name of the field that holds the attacks, and what it holds."""

    @abstractmethod
    def _attacks(self) -> tuple[Attack, ...]:
        """What it holds, as a tuple."""

    @abstractmethod
    def _hold(self, attacks: tuple[Attack, ...]) -> None:
        """Put others in their place."""

    def _agreed(self, name: str, attacks: Sequence[Attack]) -> object:
        """What all attacks have, as far as they have something."""
        values = [getattr(one, name) for one in (self, *attacks)]
        values = [value for value in values if value is not None]
        for value in values[1:]:
            if not _same(value, values[0]):
                these = "different ones" if name in ("model", "generator", "mask") else f"{values[0]!r} and {value!r}"
                how = "attack.on" if name in ("model", "adaptive") else "dataclasses.replace"
                raise InputError(
                    f"the attacks in {type(self).__name__} must have the same {name}, and these have {these}; "
                    f"make them alike with {how}(...)"
                )
        return values[0] if values else None

    def _pass_on(self, values: Mapping[str, Any]) -> None:
        """Give the attacks these values, and learn what they are of themselves."""
        attacks = []
        for one in self._attacks():
            new = {name: value for name, value in values.items() if getattr(one, name) is not value}
            if one.access != "gradient":
                new.pop("autocast", None)  # for which it has no use
            if one.access != "gradient" or one.stops_at_success:
                new.pop("compiled", None)  # likewise
            attacks.append(one._with(**new) if new else one)
        self._hold(tuple(attacks))
        for name, fact in _facts(attacks).items():
            object.__setattr__(self, name, fact)

    def _with(self, **changes: object) -> Self:
        other = super()._with(**changes)
        other._pass_on({name: value for name, value in changes.items() if name in (*_FOR_ALL, "compiled")})
        return other

    def _of_rows(self, index: Tensor, images: Tensor) -> Self:
        if not self._per_row() and self.mask is None:
            return self
        other = self._with()
        other._hold(tuple(one._of_rows(index, images) for one in other._attacks()))
        object.__setattr__(other, "mask", other._attacks()[0].mask)
        return other

    def _per_row(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for one in self._attacks():
            for name, value in one._per_row().items():
                found[name if name not in found else f"{name} of {one}"] = value
        return found


def _same(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one is other or (one.shape == other.shape and bool((one == other.to(one.device)).all()))
    return one is other or one == other


def _facts(attacks: Sequence[Attack]) -> dict[str, object]:
    """What attacks are together: what they see, look for and measure in."""
    seen = {one.access for one in attacks}
    aim: Aim = "budget" if any(one.aim == "budget" for one in attacks) else "minimal"
    leading = [one for one in attacks if one.aim == aim]
    measured_in = {None if (norm := getattr(one, "norm", None)) is None else norms.get(norm) for one in leading}
    norm = measured_in.pop() if len(measured_in) == 1 else None
    budgets = [getattr(one, "eps", None) for one in leading] if aim == "budget" and norm is not None else []
    numbers = {None if isinstance(eps, Tensor) and eps.ndim else eps if eps is None else float(eps) for eps in budgets}
    return {
        "access": next(kind for kind in ("gradient", "scores", "decisions") if kind in seen),
        "aim": aim,
        "independent_rows": all(one.independent_rows for one in attacks),
        "norm": norm,
        "eps": numbers.pop() if len(numbers) == 1 else None,
    }
