"""Which attack is carried out on which model, and where in the report its images go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from advkit.attack import Attack
from advkit.model import defended, is_stochastic

__all__ = ["TRANSFERRED", "Cell", "Contender", "PlannedAttack", "made_elsewhere", "planned_attacks"]

TRANSFERRED = "transferred"
"""The protocol of the attacker who makes images on a model of one's own, the surrogate, and shows them to this one."""


def made_elsewhere(protocol: str | None) -> bool:
    """Whether images were made on another model than the one that is judged."""
    return protocol in ("oblivious", TRANSFERRED)


@dataclass(frozen=True, eq=False)
class Contender:
    """A model to be attacked: the bare one, or one behind a defense.

    Args:
        name: how the report calls it.
        model: pixels (N, ...) to logits (N, K).
        draws: how many times a random model is run on an image.
    """

    name: str
    model: nn.Module
    draws: int

    @property
    def asked(self) -> int:
        """How many times this model is run on an image."""
        return self.draws if is_stochastic(self.model) else 1

    @property
    def is_wrapped(self) -> bool:
        """Whether there is a defense in it that an attacker may or may not know about."""
        return bool(defended(self.model))


@dataclass(frozen=True)
class Cell:
    """A place in the report.

    Args:
        attack: how the report calls the attack.
        contender: which model the images are shown to.
        protocol: None for the bare model, where the oblivious, the naive and the adaptive attacker are one.
        surrogate: how the report calls the model that the images were made on, of `TRANSFERRED` ones.
        joins: the protocol whose worst case transferred images count for: that of the attacker who knows most, to whom
            nothing forbids them.
    """

    attack: str
    contender: Contender
    protocol: str | None
    surrogate: str | None = None
    joins: str | None = None

    @property
    def names(self) -> tuple[str | None, ...]:
        """What its random numbers are called by."""
        names = self.attack, self.contender.name, self.protocol
        return names if self.surrogate is None else (*names, self.surrogate)

    @property
    def counts_for(self) -> str | None:
        """The protocol whose worst case its images count for."""
        return self.protocol if self.surrogate is None else self.joins


@dataclass(frozen=True)
class PlannedAttack:
    """An attack on a model, and where the images go that it makes."""

    attack: Attack
    model: nn.Module
    cells: tuple[Cell, ...]


def planned_attacks(
    attacks: Mapping[str, Attack],
    contenders: Sequence[Contender],
    protocols: Sequence[str],
    surrogates: Mapping[str, nn.Module] | None = None,
    *,
    keep_generators: bool,
) -> list[PlannedAttack]:
    """What has to be done, without doing anything twice.

    Images made against the bare model serve the defended ones as well, under the oblivious protocol. The attacker who
    knows the defense and the one who does not are the same where it hides nothing: with a black-box attack, and
    against a model without a wrapper.

    Images made on a surrogate serve all contenders, and come last: where an attack is only tried on what those before
    it left, these are few. An attack that follows no gradient asks the model itself, and is not transferred.
    """
    bare, *defended = contenders
    direct = [protocol for protocol in protocols if protocol != "oblivious"]
    planned = []
    attacks = {name: one if keep_generators else one._with(generator=None) for name, one in attacks.items()}
    for name, attack in attacks.items():
        shown = [Cell(name, one, "oblivious") for one in defended if "oblivious" in protocols]
        planned.append(PlannedAttack(attack.on(bare.model), bare.model, (Cell(name, bare, None), *shown)))
        for one in defended:
            cells = [Cell(name, one, protocol) for protocol in direct]
            together = attack.access != "gradient" or not one.is_wrapped
            for group in [cells] if together and cells else [[cell] for cell in cells]:
                adaptive = group[0].protocol == "adaptive"
                planned.append(PlannedAttack(attack.on(one.model, adaptive=adaptive), one.model, tuple(group)))
    joins = {one: None if one is bare else "adaptive" if "adaptive" in direct else TRANSFERRED for one in contenders}
    for surrogate, model in (surrogates or {}).items():
        for name, attack in attacks.items():
            if _is_transferable(attack):
                cells = [Cell(name, one, TRANSFERRED, surrogate, joins[one]) for one in contenders]
                planned.append(PlannedAttack(attack.on(model), model, tuple(cells)))
    return planned


def _is_transferable(attack: Attack) -> bool:
    """Whether what it finds on one model may fool another: it follows gradients, and is no look at the model itself."""
    return attack.access == "gradient" and getattr(attack, "transferable", True)
