"""What an epoch of training comes to."""

from dataclasses import dataclass

__all__ = ["Epoch"]


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to.

    Attributes:
        loss: the mean loss of the training images, each with the weights as they were when its batch came.
        validation_loss: the mean loss of the validation images afterwards, in eval mode; None without such images.

    Examples:
        >>> advkit.defenses.Epoch(loss=0.5)
        Epoch(loss=0.5, validation_loss=None)
    """

    loss: float
    validation_loss: float | None = None
