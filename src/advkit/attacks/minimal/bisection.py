"""The papers' search for c, and what Carlini & Wagner's attack and EAD descend for each c that it tries."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from advkit._engine.boundaries import dot
from advkit._engine.classifier import Classifier
from advkit._engine.looks import Look
from advkit.attacks.minimal.closest import Approach, Closest
from advkit.attacks.minimal.objectives import Objective
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

__all__ = ["Bisection", "Descent"]


@dataclass
class Descent(Approach):
    """Rows that descend ||x' - x||^2 + c * max(margin(x') + kappa, 0) by gradients, for a c that stays.

    Args:
        c: (n,).
    """

    c: Tensor
    cost: Tensor = field(init=False)  # (n,), what is descended, at the last check

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cost = torch.full_like(self.c, torch.inf)

    def hinge(self, logits: Tensor) -> Tensor:
        """What logits (n, K) add to the cost, over c: nothing where the margin is enough. Shape (n,)."""
        return self.closest.gap(self.place, self.goal, logits.to(self.x.dtype)).clamp_min(0)

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the hinge."""
        return -self.hinge(logits)

    def descent(self, look: Look, steps: int) -> Tensor:
        """The gradient of what is descended, (n, ...), for the rows that go on.

        A row leaves when a tenth of the ``steps`` has not brought it down.
        """
        changes = look.x - self.originals
        slope = 2 * changes - column(self.c, changes) * look.gradient
        if look.step % max(1, steps // 10) == 0:
            cost = dot(changes, changes) - self.c * look.loss
            self.retire(cost > 0.9999 * self.cost)
            self.cost = cost
            (slope,) = self.compact(slope)
        return slope


Kind = TypeVar("Kind", bound=Descent)


class Bisection:
    """The search over c of Carlini & Wagner, which Chen et al. took over.

    c is ten times as much until a descent is a success on the way, and then the middle between the largest c that
    failed and the smallest that did not, for each image on its own.

    Args:
        model: pixels to logits.
        images: (N, ...), where each descent begins.
        goal: what counts as success.
        objective: what is to be small.
        kappa: the margin that a success must have, at least 0.
        initial_c: the c of the first descent, or None for twice that of each row's linearised problem.
    """

    def __init__(
        self,
        model: Classifier,
        images: Tensor,
        goal: Goal,
        objective: Objective,
        *,
        kappa: float,
        initial_c: float | None,
    ) -> None:
        x = images.detach().requires_grad_()
        logits = model.logits(x).to(x.dtype)
        self.images, self.goal, self.objective = images, goal, objective
        self.closest = Closest(images, objective, kappa, goal, logits)
        gap = self.closest.gap(torch.arange(len(images), device=images.device), goal, logits)
        if initial_c is None:
            _, multiplier = objective.solve(images, images, model.gradient(gap, x), gap.detach(), objective.largest_c)
            self.c = (2 * multiplier).clamp(objective.smallest_c, objective.largest_c)
        else:
            self.c = initial_c * self.closest.unit
        self._unfinished = ~goal.success(logits) & gap.isfinite()

    def rounds(self, count: int, kind: type[Kind]) -> Iterator[Kind]:
        """The rows of each of ``count`` descents, none if no image needs one. c is judged when one is done."""
        place = self._unfinished.nonzero().squeeze(1)
        lowest, highest = torch.zeros_like(self.c), torch.full_like(self.c, torch.inf)
        for _ in range(count if len(place) else 0):
            self.closest.begin()
            x = self.images[place]
            yield kind(x, self.goal.rows(place), x, place, self.closest, self.c[place])
            reached = self.closest.reached
            highest = torch.where(reached, self.c, highest)
            lowest = torch.where(reached, lowest, self.c)
            c = torch.where(highest.isinf(), self.c * 10, (lowest + highest) / 2)
            self.c = c.clamp_max(self.objective.largest_c)
