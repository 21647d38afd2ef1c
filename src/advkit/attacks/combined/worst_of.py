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

    An image is robust only if it withstands all of them. Put the cheap ones first. Images that are already
    misclassified are returned unchanged. The model's predictions are checked before the first attack and after each
    attack but the last.

    If one of them has a budget, so has the whole: the union of their budgets. What an attack without a budget finds
    counts if it lies within the budget of another. An image that none fools is returned as the last attack that
    changed it left it.

    If all of them look for the closest image, each is tried on all images, and the closest that fools the model is
    returned. If they measure in different norms there is no closest: the first image that fools the model is kept, and
    the attacks after it run only on what is left.

    It counts as a gradient attack if one of them is, and has a norm, with an ``eps``, if those with a budget agree.

    Carlini et al., "On evaluating adversarial robustness", 2019, who ask for the best of all attacks on each image.
    arXiv:1902.06705.

    Args:
        attacks: the attacks, all on one model; combined attacks may be among them. Their numbers may be given for each
            image.
        bounds: those of the attacks, which must be the same.
        generator: random generator for those that have none of their own; if some have one, it must be the same.
        autocast: for the gradient attacks that have none of their own.
        adaptive: that of the attacks; to change it, see `Attack.on`.

    Raises:
        InputError: there are no attacks, or they have different models, bounds, generators, ``autocast`` or
            ``adaptive``; or one looks for the closest image, and those with a budget do not say which.
        DtypeError: one of them is not an `Attack`.

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
