"""The worst of several attacks, image by image."""

from collections.abc import Sequence
from dataclasses import dataclass

from advkit.attack import Attack
from advkit.attacks.combined.one_for_all import Attacks, OneForAll
from advkit.hyperparameters import declared

__all__ = ["WorstOf"]


@dataclass(frozen=True, eq=False)
class WorstOf(OneForAll):
    """Several attacks on one model, each on the images that those before it have not fooled.

    An image is robust only if it withstands all of them. Put the cheap ones first. Images that the model gets wrong as
    they are come back unchanged. The model is asked about the images before the first attack, and about what an attack
    made of them before the next.

    If one of them has a budget, so has the whole: the worst of what each may do in its own. What an attack without a
    budget finds counts where it lies in the budget of another. An image that none fools is returned as the last of
    them left it, of those that moved it.

    If all of them look for the closest image, each is tried on all images, and the closest that fools is returned. If
    they measure in different norms there is no closest: the first image that fools stands, and the attacks after it
    see only what is left.

    It sees gradients if one of them does, and is about a norm, with an ``eps``, if those with a budget agree.

    Carlini et al., "On evaluating adversarial robustness", 2019, who ask for the best of all attacks on each image.
    arXiv:1902.06705.

    Args:
        attacks: the attacks, all pointed at one model; attacks that are made of attacks may be among them. Their
            numbers may be given for each image.
        bounds: those of the attacks, which must be the same.
        generator: where those draw from that have no generator of their own; if they have, it must be one for all.
        autocast: for those that see gradients and have none of their own.
        adaptive: that of the attacks; to change it, see `Attack.on`.

    Raises:
        InputError: there are no attacks, or they have different models, bounds, generators, ``autocast`` or
            ``adaptive``; or one looks for the closest image, and those with a budget do not say which.
        DtypeError: something among them is no `Attack`.

    Examples:
        >>> attack = advkit.WorstOf([advkit.FGSM(model, eps=2 / 255), advkit.DeepFool(model, norm="linf")])
        >>> result = attack.run(images, labels)
        >>> fooled = [int((result.fooled_by == place).sum()) for place, stage in enumerate(result.stages)]
        >>> sum(fooled) == int(result.success.sum()), bool((result.distance("linf") <= 2 / 255 + 1e-6).all())
        (True, True)
    """

    attacks: Sequence[Attack] = declared((), Attacks())

    def _parts(self) -> Sequence[Attack]:
        return self.attacks

    def _given(self) -> tuple[str, object]:
        return "attacks", self.attacks

    def _attacks(self) -> tuple[Attack, ...]:
        return tuple(self.attacks)

    def _hold(self, attacks: tuple[Attack, ...]) -> None:
        object.__setattr__(self, "attacks", attacks)

    def __str__(self) -> str:
        return f"WorstOf([{', '.join(map(str, self.attacks))}])"
