"""Several defenses, one after another."""

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from advkit.defenses.base import Defense
from advkit.errors import DtypeError, InputError
from advkit.model import Defended, Model

__all__ = ["Stack"]


class Stack(Defense):
    """Several defenses as one, in order: the second defends the model that the first made, and so on.

    An attacker who knows it differentiates the surrogates of all members that wrap, one inside the other. If any of
    them is random, the mean is taken once, over joint draws.

    Args:
        defenses: at least one. Stacks among them are unpacked.

    Attributes:
        defenses: the members, in order.
        differentiable: whether all are.
        stochastic: whether any is.
        eot_samples: the largest of those that are stochastic.

    Raises:
        InputError: there is no defense.
        DtypeError: one of them is not a defense.

    Examples:
        >>> stack = advkit.defenses.Stack([advkit.defenses.FeatureSmoothing(), advkit.defenses.BitDepthReduction()])
        >>> stack.differentiable
        False
        >>> stack.wrap(model)(images).shape
        torch.Size([12, 10])
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
            InputError: one of them trains, and does not wrap.
        """
        first, *others = self.defenses
        return reduce(lambda inner, member: member.wrap(inner), others, first.wrap(model))

    def fit(
        self, model: nn.Module, loader: Iterable[Any], optimizer: Optimizer, epochs: int = 5, **how: Any
    ) -> nn.Module:
        """Train with the defenses that train, and wrap with those that wrap, in order.

        Takes the arguments of `TrainingDefense.fit`. If several of them train, each does so for that many
        epochs, the optimizer and the schedulers continue from one to the next, and the checkpoint of each has its
        index in the stack in its name: ``run.0.pt``.

        Returns:
            The defended model.

        Raises:
            InputError: none of the defenses trains; or as their `fit` raises it.
        """
        training = [place for place, member in enumerate(self.defenses) if _trains(member)]
        if not training:
            raise InputError("none of the defenses in this Stack trains: call wrap(model)")
        defended, checkpoint = model, how.pop("checkpoint", None)
        for place, member in enumerate(self.defenses):
            if place not in training:
                defended = member.wrap(defended)
                continue
            if checkpoint is not None:
                path = Path(checkpoint)
                several = len(training) > 1
                how["checkpoint"] = path.with_name(f"{path.stem}.{place}{path.suffix}") if several else path
            defended = member.fit(defended, loader, optimizer, epochs, **how)
        return Defended(defended, self, model)

    def _one_draw(self, model: Model) -> Model:
        return reduce(_surrogate, filter(_wraps, self.defenses), model)


def _trains(defense: Defense) -> bool:
    return type(defense).fit is not Defense.fit


def _wraps(defense: Defense) -> bool:
    return type(defense).wrap is not Defense.wrap


def _surrogate(model: Model, defense: Defense) -> Model:
    """The surrogate of a defense for one draw; a `surrogate` that the user wrote takes precedence."""
    if type(defense).surrogate is not Defense.surrogate:
        return defense.surrogate(model)
    return defense._one_draw(model)
