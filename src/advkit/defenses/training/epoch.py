"""The results of an epoch of training."""

from dataclasses import dataclass, fields

__all__ = ["Epoch"]


@dataclass(frozen=True, repr=False)
class Epoch:
    """The results of an epoch of training.

    Attributes:
        loss: the mean loss of the training images, each with the weights at the time of its batch.
        validation_loss: the mean loss of the validation images afterwards, in eval mode; None without such images.
        robust_accuracy: the share of validation images that the model still gets right under ``validation_attack``;
            None without such an attack.
        guarded_accuracy: the accuracy on the epoch's first batch, under the attack of the recipe's
            guard; None without a guard.
        stopped: why training ended early with this epoch; None if it did not.

    Examples:
        >>> advkit.defenses.Epoch(loss=0.5)
        Epoch(loss=0.5, validation_loss=None)
    """

    loss: float
    validation_loss: float | None = None
    robust_accuracy: float | None = None
    guarded_accuracy: float | None = None
    stopped: str | None = None

    def __repr__(self) -> str:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        shown = [f"{name}={its!r}" for name, its in values.items() if its is not None or name == "validation_loss"]
        return f"{type(self).__name__}({', '.join(shown)})"
