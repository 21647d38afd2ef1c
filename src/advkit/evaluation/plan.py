"""Which attack is carried out on which model, and where in the report its images go."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from advkit.attack import Attack
from advkit.model import defended, is_stochastic

__all__ = ["Cell", "Contender", "PlannedAttack", "planned_attacks"]


@dataclass(frozen=True, eq=False)
class Contender:
    """A model to be attacked: the bare one, or one behind a defense.

    Args:
        name: how the report calls it.
        model: pixels (N, ...) to logits (N, K).
        draws: how many times a random model is asked about an image.
    """

    name: str
    model: nn.Module
    draws: int

    @property
    def asked(self) -> int:
        """How many times this model is asked about an image."""
        return self.draws if is_stochastic(self.model) else 1

    @property
    def is_wrapped(self) -> bool:
        """Whether there is a defense in it that an attacker may or may not know about."""
        return bool(defended(self.model))


@dataclass(frozen=True)
class Cell:
    """A place in the report. The protocol is None for the bare model, where the three are one."""

    attack: str
    contender: Contender
    protocol: str | None

    @property
    def names(self) -> tuple[str | None, ...]:
        """What its random numbers are called by."""
        return self.attack, self.contender.name, self.protocol


@dataclass(frozen=True)
class PlannedAttack:
    """An attack on a model, and where the images go that it makes."""

    attack: Attack
    cells: tuple[Cell, ...]


def planned_attacks(
    attacks: Mapping[str, Attack], contenders: Sequence[Contender], protocols: Sequence[str], *, keep_generators: bool
) -> list[PlannedAttack]:
    """What has to be done, without doing anything twice.

    Images made against the bare model serve the defended ones as well, under the oblivious protocol. The attacker who
    knows the defense and the one who does not are the same where it hides nothing: with a black-box attack, and
    against a model without a wrapper.
    """
    bare, *defended = contenders
    direct = [protocol for protocol in protocols if protocol != "oblivious"]
    planned = []
    for name, attack in attacks.items():
        attack = attack if keep_generators else attack._with(generator=None)
        shown = [Cell(name, one, "oblivious") for one in defended if "oblivious" in protocols]
        planned.append(PlannedAttack(attack.on(bare.model), (Cell(name, bare, None), *shown)))
        for one in defended:
            cells = [Cell(name, one, protocol) for protocol in direct]
            together = attack.access != "gradient" or not one.is_wrapped
            for group in [cells] if together and cells else [[cell] for cell in cells]:
                adaptive = group[0].protocol == "adaptive"
                planned.append(PlannedAttack(attack.on(one.model, adaptive=adaptive), tuple(group)))
    return planned
