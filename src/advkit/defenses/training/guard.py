"""What stops training when the model only withstands its own attack."""

from dataclasses import dataclass

from torch import Tensor

from advkit._engine.checks import check_number
from advkit.attack import Attack
from advkit.errors import DtypeError
from advkit.model import Model

__all__ = ["Guard"]


@dataclass(frozen=True)
class Guard:
    """Watches for catastrophic overfitting: a model that withstands one large step and nothing else.

    After each epoch its first batch is attacked. If the accuracy on it is lower than in the epoch before by more than
    ``fall``, training stops, and the model gets the weights of the epoch before back.
    Wong, Rice & Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, section 5.

    Args:
        attack: stronger than the one used in training, whatever model it was made with.
        fall: the drop in accuracy that stops training, from 0 to 1.

    Raises:
        InputError: ``fall`` is out of its range.
        DtypeError: ``attack`` is not an attack.

    Examples:
        >>> from advkit.defenses.training import Guard
        >>> defense = advkit.defenses.AdversarialTraining(advkit.FGSM(model), clean_ratio=0)
        >>> defense.guard = Guard(advkit.PGD(model, steps=5))
        >>> trained = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
        >>> 0 <= defense.history[0].guarded_accuracy <= 1
        True
    """

    attack: Attack
    fall: float = 0.2

    def __post_init__(self) -> None:
        if not isinstance(self.attack, Attack):
            raise DtypeError(f"attack must be an advkit attack, such as advkit.PGD(model); got {self.attack!r}")
        check_number("fall", self.fall, at_least=0, at_most=1)

    def right(self, model: Model, images: Tensor, labels: Tensor) -> Tensor:
        """Whether the model still gets each image (N, ...) right under the attack: bool (N,)."""
        result = self.attack.on(model).run(images, labels)
        return result.predictions == labels

    def verdict(self, before: float | None, now: float) -> str | None:
        """Why training stops, given the accuracies of the epoch before and of this one; None if it goes on."""
        if before is None or before - now <= self.fall:
            return None
        return (
            f"catastrophic overfitting: accuracy under {self.attack} fell from {before:.0%} to {now:.0%} of an "
            "epoch's first batch; the model has the weights of the epoch before"
        )
