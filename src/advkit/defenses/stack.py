"""Defenses, one after the other."""

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn

from advkit.defenses.base import Defense
from advkit.errors import DtypeError, InputError
from advkit.model import Defended, Model

__all__ = ["Stack"]


class Stack(Defense):
    """Several defenses as one, in order: the second defends what the first made, and so on.

    An attacker who knows it differentiates the surrogates of all that wrap, one inside the other. If any of them is
    random, the mean is taken once, over draws of all together.

    Args:
        defenses: at least one. Of stacks among them, the members are taken.

    Attributes:
        defenses: the members, in order.
        differentiable: whether all are.
        stochastic: whether any is.
        eot_samples: the largest of any that is stochastic.

    Raises:
        InputError: there is no defense.
        DtypeError: one of them is none.
    """

    def __init__(self, defenses: Sequence[Defense]) -> None:
        for defense in defenses:
            if not isinstance(defense, Defense):
                raise DtypeError(f"Stack needs defenses, such as FeatureSmoothing(); got {type(defense).__name__}")
        nested = [defense.defenses if isinstance(defense, Stack) else [defense] for defense in defenses]
        self.defenses: tuple[Defense, ...] = tuple(member for members in nested for member in members)
        if not self.defenses:
            raise InputError("Stack has no defense in it; give at least one")
        self.differentiable = all(member.differentiable for member in self.defenses)
        self.stochastic = any(member.stochastic for member in self.defenses)
        draws = [member.eot_samples for member in self.defenses if member.stochastic]
        self.eot_samples = max(draws, default=Defense.eot_samples)

    def __repr__(self) -> str:
        return f"Stack([{', '.join(map(repr, self.defenses))}])"

    def wrap(self, model: Model) -> nn.Module:
        """The model behind all of the defenses, the last one outermost; see `Defense.wrap`.

        Raises:
            InputError: one of them trains and does not wrap.
        """
        first, *others = self.defenses
        return reduce(lambda inner, member: member.wrap(inner), others, first.wrap(model))

    def fit(self, model: nn.Module, loader: Iterable[Any], *args: Any, **kwargs: Any) -> nn.Module:
        """Train with the defenses that train, and wrap with those that wrap, in order.

        Takes what the members' `fit` takes, and passes it on to each. Where several train, the optimizer and the
        schedulers go on as the one before left them, and the checkpoint of each has its place in the stack in its
        name: ``run.0.pt``.

        Returns:
            The defended model.

        Raises:
            InputError: none of the defenses trains.
        """
        training = [place for place, member in enumerate(self.defenses) if _trains(member)]
        if not training:
            raise InputError("none of the defenses in this Stack trains: call wrap(model)")
        path = kwargs.pop("checkpoint", None)
        defended = model
        for place, member in enumerate(self.defenses):
            if place not in training:
                defended = member.wrap(defended)
                continue
            mine = None if path is None else Path(path)
            if mine is not None and len(training) > 1:
                mine = mine.with_name(f"{mine.stem}.{place}{mine.suffix}")
            defended = member.fit(defended, loader, *args, checkpoint=mine, **kwargs)
        return Defended(defended, self, model)

    def _one_draw(self, model: Model) -> Model:
        return reduce(_surrogate, filter(_wraps, self.defenses), model)


def _trains(defense: Defense) -> bool:
    return type(defense).fit is not Defense.fit


def _wraps(defense: Defense) -> bool:
    return type(defense).wrap is not Defense.wrap


def _surrogate(model: Model, defense: Defense) -> Model:
    """What stands in for one draw of a defense; a user's own `surrogate` comes before what is drawn for him."""
    if type(defense).surrogate is not Defense.surrogate:
        return defense.surrogate(model)
    return defense._one_draw(model)
