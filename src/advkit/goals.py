"""What an attack is after: the loss to climb and the test of success, as objects rather than flags."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import Self

from advkit import losses

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

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """The loss that an attack climbs, from logits (N, K): one value an image, shape (N,)."""

    @abstractmethod
    def margin(self, logits: Tensor) -> Tensor:
        """How far each image is from success in units of the logits, shape (N,): negative where it is reached."""

    @abstractmethod
    def success(self, logits: Tensor) -> Tensor:
        """Whether the model's answer, the first of its largest logits, is what was wanted: bool, shape (N,)."""


class Untargeted(Goal):
    """Any class but the label."""

    def loss(self, logits: Tensor) -> Tensor:
        """Cross-entropy of the label."""
        return losses.cross_entropy(logits, self.classes)

    def margin(self, logits: Tensor) -> Tensor:
        """Z_y - max_{i != y} Z_i."""
        return losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model does not say the label."""
        return logits.argmax(1) != self.classes


class Targeted(Goal):
    """One class, the target."""

    def loss(self, logits: Tensor) -> Tensor:
        """Minus the cross-entropy of the target."""
        return -losses.cross_entropy(logits, self.classes)

    def margin(self, logits: Tensor) -> Tensor:
        """max_{i != t} Z_i - Z_t, eq. (6) of Carlini & Wagner 2017 without its floor."""
        return -losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model says the target."""
        return logits.argmax(1) == self.classes
