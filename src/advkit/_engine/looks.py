"""Rows that seek a goal, and what one look at the model shows of them."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._base.scale import magnitude, rounding_margin
from advkit._engine.ball import Ball
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

__all__ = ["Climb", "Look", "Peak", "Seeking"]


@dataclass
class Seeking(Rows):
    """Rows that seek a goal. Subclasses add what their step rule remembers of each row.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.

    Examples:
        >>> from advkit.parts import Seeking, Targeted
        >>> rows = Seeking(images, Targeted(targets))
        >>> logits, loss = model(images), advkit.losses.cross_entropy
        >>> torch.equal(rows.climbed(loss, logits), -loss(logits, targets))  # down, since it is of the target
        True
    """

    goal: Goal

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """What the rows maximise, from logits (n, K): (n,). By default the loss."""
        return self.goal.climbed(loss, logits)


@dataclass
class Climb(Seeking):
    """Rows that maximise a loss inside a ball.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
        ball: where they may go.
        alpha: the length of a step, one for all or one for each row.

    Examples:
        >>> from advkit.parts import Ball, Climb, Untargeted
        >>> ball = Ball.of("linf", torch.full((1, 2), 0.5), 0.25, bounds=(0, 1))
        >>> rows = Climb(ball.originals, Untargeted(torch.tensor([0])), ball, alpha=torch.tensor([0.5]))
        >>> rows.stepped(torch.tensor([[1.0, -0.25]]))
        tensor([[0.7500, 0.3750]])
    """

    ball: Ball
    alpha: float | Tensor

    def stepped(self, direction: Tensor) -> Tensor:
        """The rows after a step of ``alpha`` along a direction (n, ...), which is overwritten, inside the ball."""
        if isinstance(self.alpha, Tensor):
            return self.ball.project(direction.mul_(column(self.alpha, self.x)).add_(self.x))
        return self.ball.project(torch.add(self.x.detach(), direction, alpha=self.alpha, out=direction))


class Look:
    """What one look at the model shows of each row, where it stands.

    Attributes:
        step: the number of the step, from 0 on.
        x: (n, ...), where the rows stand.
        logits: (n, K), without a graph, in the dtype of the model's output, which may be wider than that of ``x``.
        loss: (n,), likewise; the loss that is maximised.
        gradient: (n, ...), of the loss; empty at a look after the last step.
        goal: of the rows.

    Examples:
        >>> from advkit.parts import Look, Untargeted
        >>> x, logits = torch.zeros(2, 3), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> Look(0, x, logits, torch.zeros(2), torch.zeros(2, 3), Untargeted(torch.tensor([0, 0]))).success
        tensor([False,  True])
    """

    def __init__(self, step: int, x: Tensor, logits: Tensor, loss: Tensor, gradient: Tensor, goal: Goal) -> None:
        self.step, self.x, self.gradient, self.goal = step, x, gradient, goal
        self._logits, self._loss = logits, loss  # cut from their graph when they are asked for, which few steps do

    @property
    def logits(self) -> Tensor:
        """The model's output."""
        return self._logits.detach()

    @property
    def loss(self) -> Tensor:
        """The loss that is maximised."""
        return self._loss.detach()

    @cached_property
    def magnitude(self) -> Tensor:
        """How large the two logits are that a margin compares: (n,)."""
        return magnitude(self.logits, self.goal.classes)

    @cached_property
    def edge(self) -> Tensor:
        """By how much rounding may change the margin: (n,), in units of the logits."""
        return rounding_margin(self.magnitude)

    @cached_property
    def success(self) -> Tensor:
        """Whether the model is fooled: bool (n,)."""
        return self.goal.success(self.logits)

    @cached_property
    def clearly(self) -> Tensor:
        """Whether the model is fooled by more than rounding may undo in a batch of another size: bool (n,)."""
        return self.success & (self.goal.margin(self.logits) < -self.edge)

    def compact(self, rows: Seeking) -> None:
        """Drop the retired rows, where that is worth it, here and in ``rows``."""
        self.x, self._logits, self._loss, self.gradient = rows.compact(self.x, self.logits, self.loss, self.gradient)
        self.goal = rows.goal
        for known in ("magnitude", "edge", "success", "clearly"):
            vars(self).pop(known, None)


@dataclass
class Peak:
    """The point of highest loss so far of each row, and what was seen there: for step rules that return to it.

    Attributes:
        x: (n, ...), the points.
        loss: (n,), the losses there.
        gradient: (n, ...), the gradients there.

    Examples:
        >>> from advkit.parts import Look, Peak, Untargeted
        >>> peak, goal = Peak.of(torch.zeros(1, 1)), Untargeted(torch.tensor([0]))
        >>> for step, (place, loss) in enumerate([(0.1, 1.0), (0.2, 3.0), (0.3, 2.0)]):
        ...     x = torch.tensor([[place]])
        ...     peak.see(Look(step, x, torch.zeros(1, 2), torch.tensor([loss]), torch.zeros(1, 1), goal))
        >>> peak.x, peak.loss
        (tensor([[0.2000]]), tensor([3.]))
    """

    x: Tensor
    loss: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Rows that stand at ``x`` (n, ...) and have seen nothing yet."""
        return cls(x, torch.full(x.shape[:1], -torch.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x))

    def see(self, look: Look) -> None:
        """Take note of a look."""
        higher = look.loss > self.loss
        self.loss = look.loss.to(self.loss.dtype).where(higher, self.loss)
        self.x = look.x.where(column(higher, look.x), self.x)
        self.gradient = look.gradient.where(column(higher, look.x), self.gradient)

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows: places int64, or bool (n,)."""
        return type(self)(self.x[index], self.loss[index], self.gradient[index])
