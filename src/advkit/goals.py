"""What an attack is after: the loss to climb and the test of success, as objects rather than flags."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Self

from advkit import losses
from advkit.errors import InputError

__all__ = ["Goal", "Targeted", "Untargeted"]


@dataclass(frozen=True, eq=False)
class Goal(ABC):
    """What counts as success for each image of a batch.

    Args:
        classes: int64 tensor of shape (N,): the class to leave (`Untargeted`) or to reach (`Targeted`).
    """

    classes: Tensor

    def rows(self, index: Tensor) -> Self:
        """The same goal for some of the images. ``index`` is an int64 or bool tensor over the rows."""
        return type(self)(self.classes[index])

    def loss(self, logits: Tensor) -> Tensor:
        """The loss that attacks climb if they are given none, from logits (N, K): one value an image, shape (N,).

        The cross-entropy of the label, or minus that of the target.
        """
        return self.climbed(losses.cross_entropy, logits)

    def climbed(self, loss: losses.Loss, logits: Tensor) -> Tensor:
        """What an attack climbs that was given a loss, from logits (N, K): one value an image, shape (N,).

        Raises:
            InputError: the loss gives something else.
        """
        values = loss(logits, self.classes)
        if not isinstance(values, Tensor) or values.shape != self.classes.shape:
            seen = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"the loss gave {seen} for {len(logits)} images; it must give one number an image, of shape "
                f"({len(logits)},), such as torch.nn.functional.cross_entropy(logits, classes, reduction='none')"
            )
        return self._signed(values)

    @abstractmethod
    def _signed(self, values: Tensor) -> Tensor:
        """A loss of the goal's classes, as it is if they are to be left, or else with the other sign."""

    @abstractmethod
    def margin(self, logits: Tensor) -> Tensor:
        """How far each image is from success in units of the logits, shape (N,): negative where it is reached."""

    @abstractmethod
    def success(self, logits: Tensor) -> Tensor:
        """Whether the model's answer, the first of its largest logits, is what was wanted: bool, shape (N,)."""


class Untargeted(Goal):
    """Any class but the label."""

    def _signed(self, values: Tensor) -> Tensor:
        return values

    def margin(self, logits: Tensor) -> Tensor:
        """Z_y - max_{i != y} Z_i."""
        return losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model does not say the label."""
        return logits.argmax(1) != self.classes


class Targeted(Goal):
    """One class, the target."""

    def _signed(self, values: Tensor) -> Tensor:
        return -values

    def margin(self, logits: Tensor) -> Tensor:
        """max_{i != t} Z_i - Z_t, eq. (6) of Carlini & Wagner 2017 without its floor."""
        return -losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model says the target."""
        return logits.argmax(1) == self.classes
