"""Restarts of a random attack."""

from collections.abc import Sequence
from dataclasses import dataclass

from advkit.attack import Attack
from advkit.attacks.combined.one_for_all import AnAttack, OneForAll
from advkit.hyperparameters import declared, number

__all__ = ["Restarts"]


@dataclass(frozen=True, eq=False)
class Restarts(OneForAll):
    """The same random attack several times, each time on the images that it has not fooled yet.

    Images that are already misclassified are returned unchanged. The model's predictions are checked before the first
    run and after each run but the last. For an attack with a budget, the first image that fools the model is returned,
    or that of the last run if none does; for one that looks for the closest image, the closest of all runs.

    What it sees, looks for and measures in is what the attack declares. A deterministic attack returns the same images
    each time.

    Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018, section 5, where PGD is
    restarted. arXiv:1706.06083.

    Args:
        attack: the attack, with its model. Its numbers may be given for each image.
        n: the most runs, at least 1.
        bounds: those of the attack.
        generator: random generator for the attack, if it has none of its own.
        autocast: for the attack, if it has none of its own.
        adaptive: that of the attack; to change it, see `Attack.on`.

    Raises:
        InputError: ``n`` is out of its range, or the attack has other bounds, another generator or ``adaptive``.
        DtypeError: ``attack`` is not an `Attack`.

    Examples:
        >>> attack = advkit.Restarts(advkit.PGD(model, eps=1 / 255, steps=2), n=3)
        >>> result = attack.run(images, labels)
        >>> tried = [stage.tried for stage in result.stages]
        >>> tried == sorted(tried, reverse=True), int((result.fooled_by == 0).sum()) == tried[0] - tried[1]
        (True, True)
        >>> str(attack)
        'Restarts(PGD(eps=1/255, steps=2), n=3)'
    """

    attack: Attack = declared(None, AnAttack())
    n: int = number(5, at_least=1, integer=True)

    def _parts(self) -> Sequence[Attack]:
        return (self.attack,) * self.n

    def _given(self) -> tuple[str, object]:
        return "attack", self.attack

    def _attacks(self) -> tuple[Attack, ...]:
        return (self.attack,)

    def _hold(self, attacks: tuple[Attack, ...]) -> None:
        object.__setattr__(self, "attack", attacks[0])

    def __str__(self) -> str:
        return f"Restarts({self.attack}, n={self.n})"
