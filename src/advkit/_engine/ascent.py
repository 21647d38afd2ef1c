"""Climbing a loss inside a ball: the loop that the iterative budget attacks share."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.norms import L2, column

__all__ = ["Ascent", "L2Ascent", "LinfAscent", "ascend"]


@dataclass
class Ascent(Rows, ABC):
    """Rows that climb inside a ball and the box.

    Args:
        x: (n, ...), where each row starts, and then stands.
        originals: (n, ...), the centre of each row's ball.
        goal: whose loss to climb.
        eps: the radius of the ball, one for all or one for each row.
        alpha: the length of a step, likewise.
        bounds: of the pixels.
    """

    originals: Tensor
    goal: Goal
    eps: float | Tensor
    alpha: float | Tensor
    bounds: tuple[float, float]

    @abstractmethod
    def within(self, x: Tensor) -> Tensor:
        """The points ``x`` (n, ...), which may be overwritten, back inside the ball and the box."""


@dataclass
class LinfAscent(Ascent):
    """The ball is a box as well, and so is what the two have in common: one clamp a step."""

    lowest: Tensor = field(init=False)  # (n, ...)
    highest: Tensor = field(init=False)  # (n, ...)

    def __post_init__(self) -> None:
        super().__post_init__()
        eps, (low, high) = column(self.eps, self.originals), self.bounds
        self.lowest = (self.originals - eps).clamp_(min=low)
        self.highest = (self.originals + eps).clamp_(max=high)

    def within(self, x: Tensor) -> Tensor:
        return x.clamp_(self.lowest, self.highest)


@dataclass
class L2Ascent(Ascent):
    """First into the ball, then into the box, which leads no further out of the ball."""

    def within(self, x: Tensor) -> Tensor:
        return L2.project(x.sub_(self.originals), self.eps).add_(self.originals).clamp_(*self.bounds)


Climbing = TypeVar("Climbing", bound=Ascent)


def ascend(
    model: Classifier,
    rows: Climbing,
    direction: Callable[[Climbing, Tensor], Tensor],
    *,
    steps: int,
    early_stop: bool,
) -> Tensor:
    """Take ``steps`` steps of projected ascent, each one forward and one backward. Returns (N, ...).

    With ``early_stop`` a row leaves where it stands as soon as the model's answer is what its goal wants. That
    is read off the forward that the next step needs anyhow, and when no row is left there is no backward.

    Args:
        model: pixels to logits.
        rows: the batch.
        direction: where to go, from the rows and their gradients (n, ...): a new tensor (n, ...), norm 1 a row.
        steps: how many.
        early_stop: whether rows leave when they are fooled.
    """
    for _ in range(steps):
        x = rows.x.detach().requires_grad_()
        logits = model.logits(x)
        if early_stop and not rows.close(rows.goal.success(logits)):
            break
        gradient = model.gradient(rows.goal.loss(logits), x)
        del x, logits  # and with them the graph, before the step makes tensors of its own
        if early_stop:
            (gradient,) = rows.compact(gradient)
        x = direction(rows, gradient).mul_(column(rows.alpha, rows.x)).add_(rows.x)
        rows.move(rows.within(x))
    return rows.whole()
