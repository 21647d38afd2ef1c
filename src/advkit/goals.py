"""What an attack aims for: the loss to maximise and the test for success, as objects rather than flags.

Examples:
    >>> logits = torch.tensor([[3.0, 1.0, 2.0]])
    >>> advkit.goals.Untargeted(torch.tensor([0])).margin(logits)  # 0 is the label: by how much it leads
    tensor([1.])
    >>> advkit.goals.Targeted(torch.tensor([1])).margin(logits)  # 1 is the target: by how much it lags
    tensor([2.])
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import losses
from advkit._base.scale import magnitude, rounding_margin
from advkit.errors import InputError

__all__ = ["Goal", "Targeted", "Untargeted"]


@dataclass(frozen=True, eq=False)
class Goal(ABC):
    """What counts as success for each image of a batch.

    A goal of your own defines `margin` and `success`. One that does not mean leaving the predicted class also
    defines `held` and `rivals`, and `climbed` too if the loss of its classes is to be minimised.
    Fields that it adds, tensors with a value for each image, follow the rows of a batch.

    Args:
        classes: int64 tensor of shape (N,): the class to leave (`Untargeted`) or to reach (`Targeted`).
        place: int64 (N,), the indices of the images in a batch that has a mask; None without one.

    Examples:
        >>> class ByOne(advkit.Untargeted):  # another class leads by more than 1
        ...     def margin(self, logits):
        ...         return super().margin(logits) + 1
        ...     def success(self, logits):
        ...         return self.margin(logits) < 0
        >>> ByOne(torch.tensor([0, 0])).success(torch.tensor([[1.0, 1.5], [1.0, 2.5]]))
        tensor([False,  True])
    """

    classes: Tensor
    place: Tensor | None = field(default=None, kw_only=True, repr=False)

    def rows(self, index: Tensor) -> Self:
        """The same goal for some of the images. ``index`` is an int64 or bool tensor over the rows."""
        parts: dict[str, Any] = {}
        for known in fields(self):
            value = getattr(self, known.name)
            if isinstance(value, Goal):
                parts[known.name] = value.rows(index)
            elif isinstance(value, Tensor) and value.ndim:
                parts[known.name] = value[index]
        return replace(self, **parts)

    def loss(self, logits: Tensor) -> Tensor:
        """The loss that attacks maximise by default, from logits (N, K): one value per image, shape (N,).

        The cross-entropy of the label, or minus that of the target.
        """
        return self.climbed(losses.cross_entropy, logits)

    def climbed(self, loss: losses.Loss, logits: Tensor) -> Tensor:
        """What an attack with a given loss maximises, from logits (N, K): one value per image, shape (N,).

        Raises:
            InputError: the loss returns something else.
        """
        values = loss(logits, self.classes)
        if not isinstance(values, Tensor) or values.shape != self.classes.shape:
            seen = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise InputError(
                f"the loss returned {seen} for {len(logits)} images; it must return one number per image, of shape "
                f"({len(logits)},), such as torch.nn.functional.cross_entropy(logits, classes, reduction='none')"
            )
        return values

    def held(self, logits: Tensor) -> Tensor:
        """The class that a rival has to beat, from logits (N, K): int64, (N, 1). By default the prediction."""
        return logits.detach().argmax(1, keepdim=True)

    def rivals(self, logits: Tensor, count: int) -> Tensor:
        """The classes that would mean success, from logits (N, K): int64, (N, m), at most ``count``.

        By default those with the largest logits except the held one, the largest first.
        """
        others = logits.detach().scatter(1, self.held(logits), -torch.inf)
        count = min(count, logits.shape[1] - 1)
        return others.argmax(1, keepdim=True) if count == 1 else others.topk(count).indices

    def towards(self, rivals: Tensor) -> "Goal":
        """The same goal by way of one rival each, int64 (N,): only the margin differs, Z_held - Z_rival."""
        return _Towards(self.classes, self, rivals)

    @abstractmethod
    def margin(self, logits: Tensor) -> Tensor:
        """How far each image is from success in units of the logits, shape (N,): negative where it is reached."""

    @abstractmethod
    def success(self, logits: Tensor) -> Tensor:
        """Whether the prediction, the first of the largest logits, is what was wanted: bool, shape (N,)."""

    def clearly(self, logits: Tensor) -> Tensor:
        """Whether it is so by more than the rounding differences between batch sizes: bool, shape (N,)."""
        return self.success(logits) & (self.margin(logits) < -rounding_margin(magnitude(logits, self.classes)))


class Untargeted(Goal):
    """Any class but the label.

    Examples:
        >>> goal = advkit.Untargeted(torch.tensor([0, 0]))
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
        >>> goal.margin(logits), goal.success(logits)
        (tensor([ 2., -2.]), tensor([False,  True]))
    """

    def held(self, logits: Tensor) -> Tensor:
        """The label."""
        return self.classes[:, None]

    def margin(self, logits: Tensor) -> Tensor:
        """Z_y - max_{i != y} Z_i."""
        return losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model does not predict the label."""
        return logits.argmax(1) != self.classes


class Targeted(Goal):
    """One class, the target.

    Examples:
        >>> goal = advkit.Targeted(torch.tensor([2, 1]))
        >>> logits = torch.tensor([[3.0, 1.0, 0.0], [1.0, 3.0, 0.0]])
        >>> goal.margin(logits), goal.success(logits)
        (tensor([ 3., -2.]), tensor([False,  True]))
    """

    def climbed(self, loss: losses.Loss, logits: Tensor) -> Tensor:
        """Minus the loss of the target, which an attack minimises.

        For the DLR loss, the targeted one, against the largest other class: minus the DLR of a target ranked third
        is constant at -1.
        """
        if loss is losses.dlr:
            return losses.targeted_dlr(logits, self.held(logits).squeeze(1), self.classes)
        return -super().climbed(loss, logits)

    def held(self, logits: Tensor) -> Tensor:
        """The class with the largest logit other than the target."""
        return logits.detach().scatter(1, self.classes[:, None], -torch.inf).argmax(1, keepdim=True)

    def rivals(self, logits: Tensor, count: int) -> Tensor:
        """The target alone."""
        return self.classes[:, None]

    def towards(self, rivals: Tensor) -> "Goal":
        """This goal itself, whose margin is that to the target."""
        return self

    def margin(self, logits: Tensor) -> Tensor:
        """max_{i != t} Z_i - Z_t, eq. (6) of Carlini & Wagner 2017 without its floor."""
        return -losses.margin(logits, self.classes)

    def success(self, logits: Tensor) -> Tensor:
        """True where the model predicts the target."""
        return logits.argmax(1) == self.classes


@dataclass(frozen=True, eq=False)
class _Towards(Goal):
    """A goal by way of one rival each."""

    goal: Goal
    rival: Tensor  # int64 (N,)

    def climbed(self, loss: losses.Loss, logits: Tensor) -> Tensor:
        return self.goal.climbed(loss, logits)

    def held(self, logits: Tensor) -> Tensor:
        return self.goal.held(logits)

    def rivals(self, logits: Tensor, count: int) -> Tensor:
        return self.rival[:, None]

    def margin(self, logits: Tensor) -> Tensor:
        return (logits.gather(1, self.held(logits)) - logits.gather(1, self.rival[:, None])).squeeze(1)

    def success(self, logits: Tensor) -> Tensor:
        return self.goal.success(logits)
