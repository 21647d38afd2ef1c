"""Climbing a loss inside a ball: the loop that the iterative budget attacks share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from advkit._engine.classifier import loss_gradient
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.model import Model
from advkit.norms import Norm, column

__all__ = ["Ascent", "ascend", "move_within"]


@dataclass
class Ascent(Rows):
    """Rows that climb.

    Args:
        x: (n, ...), where each row starts, and then stands.
        originals: (n, ...), the centre of each row's ball.
        goal: whose loss to climb.
        eps: the radius of the ball, one for all or one for each row.
        alpha: the length of a step, likewise.
    """

    originals: Tensor
    goal: Goal
    eps: float | Tensor
    alpha: float | Tensor

    def within(self, x: Tensor, norm: Norm, bounds: tuple[float, float]) -> Tensor:
        """The points ``x`` (n, ...), which are overwritten, back inside the ball and the box."""
        return move_within(x, self.originals, self.eps, norm, bounds)


Climbing = TypeVar("Climbing", bound=Ascent)


def ascend(
    model: Model,
    rows: Climbing,
    direction: Callable[[Climbing, Tensor], Tensor],
    *,
    norm: Norm,
    bounds: tuple[float, float],
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
        norm: of the ball.
        bounds: of the pixels.
        steps: how many.
        early_stop: whether rows leave when they are fooled.
    """
    for _ in range(steps):
        x = rows.x.detach().requires_grad_()
        logits = model(x)
        if early_stop and not rows.close(rows.goal.success(logits)):
            break
        gradient = loss_gradient(x, logits, rows.goal)
        del x, logits  # and with them the graph, before the step makes tensors of its own
        (gradient,) = rows.compact(gradient)
        x = direction(rows, gradient).mul_(column(rows.alpha, rows.x)).add_(rows.x)
        rows.move(rows.within(x, norm, bounds))
    return rows.whole()


def move_within(x: Tensor, originals: Tensor, eps: float | Tensor, norm: Norm, bounds: tuple[float, float]) -> Tensor:
    """The points ``x`` (n, ...), which are overwritten, back inside the ball and then the box."""
    return norm.project(x.sub_(originals), eps).add_(originals).clamp_(*bounds)
