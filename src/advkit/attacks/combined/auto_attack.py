"""AutoAttack."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.classifier import asked
from advkit.attack import Attack
from advkit.attacks.budget import APGD, APGDT
from advkit.attacks.combined.survivors import Combined
from advkit.attacks.minimal import FAB
from advkit.attacks.queries import Square
from advkit.hyperparameters import OfRange, choice, number
from advkit.norms import Norm

__all__ = ["AutoAttack"]


@dataclass(frozen=True, eq=False)
class AutoAttack(Combined):
    """AutoAttack: an ensemble of four attacks, each on the images that those before it have not fooled.

    - "standard": `APGD` on the cross-entropy, `APGDT` with 9 targets, `FAB` with 9 targets, `Square` with 5000 queries.
    - "plus": `APGD` on the cross-entropy, `APGD` on the DLR loss and `FAB` with the boundaries of all classes, 5 runs
      each; then `Square`, `APGDT` and `FAB` as in "standard".
    - "rand", for models that draw random numbers: `APGD` on the cross-entropy and `APGD` on the DLR loss, both with 20
      draws for each gradient.

    Each gradient attack has 100 steps a run. In L1, the `APGD` of "standard" has 5 runs and its `APGDT` 5 targets.
    With fewer classes there are fewer targets; `APGD` and `APGDT` say what the DLR losses are for two and three
    classes.

    Images that are already misclassified are returned unchanged. An image that none of the attacks fools is returned as
    the last `APGD` or `APGDT` left it: where its loss was highest. `run` reports which attack fooled each image, and
    what each attack cost.

    Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    ICML 2020, section 5; L1 as in Croce & Hein, "Mind the box", ICML 2021. Settings are those of the authors' code
    (fra31/auto-attack at a392200). Unlike there, rows share no random draws, an image leaves an attack when it first
    fools the model, and in "rand" a prediction is the majority of ten.
    arXiv:2003.01690.

    Args:
        model: pixels (N, ...) to logits (N, K), K at least 2.
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given, which is too little for L2 and L1.
        version: "standard", "plus" or "rand".
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for all of them; torch's default if None.

    Raises:
        InputError: a number is out of its range, or there is no such version; see `Attack` for the rest.

    Examples:
        >>> result = advkit.AutoAttack(model).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> for place, stage in enumerate(result.stages):
        ...     print(stage.attack, stage.tried, int((result.fooled_by == place).sum()))
        APGD 12 12
        APGDT 0 0
        FAB 0 0
        Square 0 0
    """

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    version: str = choice("standard", "plus", "rand")

    @property
    def asked(self) -> int:
        """How many forwards a prediction takes: ten for a model that is said to be random."""
        return asked(self.model, is_random=self.version == "rand")

    def _parts(self) -> Sequence[Attack]:
        in_l1 = norms.get(self.norm) is norms.L1
        apgd, apgdt, fab, square = (self._one(kind) for kind in (APGD, APGDT, FAB, Square))
        if self.version == "rand":
            apgd = apgd._with(eot_samples=20)
            return apgd, apgd._with(loss="dlr")
        if self.version == "plus":
            again = apgd._with(restarts=5)
            untargeted = fab._with(restarts=5, target_classes=None)
            return again, again._with(loss="dlr"), untargeted, square, apgdt, fab
        if in_l1:
            apgd, apgdt = apgd._with(restarts=5), apgdt._with(target_classes=5)
        return apgd, apgdt, fab, square

    def _one(self, kind: type[Any]) -> Attack:
        """One of the attacks, as it is by itself, on the same model and with the same budget."""
        low = {} if kind is Square else {"autocast": self.autocast}
        shared = {name: getattr(self, name) for name in ("bounds", "generator", "adaptive", "mask", "levels")}
        attack: Attack = kind(self.model, norm=self.norm, eps=self.eps, **shared, **low)
        return attack
