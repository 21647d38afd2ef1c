"""The search of the papers of Carlini-Wagner and EAD: descents by gradients, with a c that is bisected."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit._engine.search import Best, Objective, dot
from advkit.goals import Goal
from advkit.norms import column

__all__ = ["Descent", "bisect"]


@dataclass
class Descent(Rows):
    """Rows that descend ||x' - x||^2 + c * max(margin(x') + kappa, 0) by gradients, for a c that stays.

    Subclasses say how a step is taken. A field for each thing that a row carries.
    """

    judged_apart: ClassVar[bool] = False  # whether gradients are taken elsewhere than at ``x``

    originals: Tensor
    goal: Goal
    place: Tensor  # int64 (n,), in the whole batch
    c: Tensor  # (n,)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cost = torch.full_like(self.c, torch.inf)  # at the last look

    @property
    def ahead(self) -> Tensor:
        """Where the next gradient is taken: (n, ...)."""
        return self.x

    @abstractmethod
    def descend(self, slope: Tensor, step: int, steps: int) -> None:
        """Take step number ``step`` of ``steps`` against the gradient of what is descended, (n, ...)."""


def bisect(
    model: Classifier,
    images: Tensor,
    goal: Goal,
    objective: Objective,
    begin: Callable[[Tensor, Tensor, Goal, Tensor, Tensor], Descent],
    *,
    kappa: float,
    initial_c: float | None,
    rounds: int,
    steps: int,
) -> Tensor:
    """The smallest changes found in ``rounds`` descents of at most ``steps`` steps each: images (N, ...).

    The search over c of Carlini & Wagner, which Chen et al. took over: c is ten times as much until a descent is a
    success on the way, and then the middle between the largest c that failed and the smallest that did not.

    Args:
        model: pixels to logits.
        images: (N, ...), where each descent begins.
        goal: what counts as success.
        objective: what is to be small.
        begin: makes the descent of some rows: where they stand, their originals, goal, places in the batch, and c.
        kappa: the margin that a success must have, at least 0.
        initial_c: the c of the first descent, or None for twice that of each row's linearised problem.
        rounds: how many descents.
        steps: how many steps in each.
    """
    x = images.detach().requires_grad_()
    logits = model.logits(x).to(x.dtype)
    best = Best(images, objective, kappa, goal, logits)
    gap = best.gap(torch.arange(len(images), device=images.device), goal, logits)
    if initial_c is None:
        _, multiplier = objective.solve(images, images, model.gradient(gap, x), gap.detach(), objective.largest_c)
        c = (2 * multiplier).clamp(objective.smallest_c, objective.largest_c)
    else:
        c = initial_c * best.unit
    finished = goal.success(logits) | ~gap.isfinite()
    place = (~finished).nonzero().squeeze(1)
    lowest, highest = torch.zeros_like(c), torch.full_like(c, torch.inf)
    del x, logits, gap
    for _ in range(rounds if len(place) else 0):
        rows = begin(images[place], images[place], goal.rows(place), place, c[place])
        reached = torch.zeros_like(finished)
        _follow(model, rows, best, reached, steps)
        highest = torch.where(reached, c, highest)
        lowest = torch.where(reached, lowest, c)
        c = torch.where(highest.isinf(), c * 10, (lowest + highest) / 2).clamp_max(objective.largest_c)
    return best.images


def _follow(model: Classifier, rows: Descent, best: Best, reached: Tensor, steps: int) -> None:
    """One descent. Notes in ``reached``, bool (N,), which images were a success on the way.

    A row leaves when a tenth of the steps has not brought down what it descends.
    """

    def judge(logits: Tensor) -> None:
        changes = rows.x - rows.originals
        reached[rows.place] |= best.offer(rows.place, rows.x, changes, rows.goal, logits.detach(), rows.open)

    for step in range(steps):
        x = rows.ahead.detach().requires_grad_()
        logits = model.logits(x).to(x.dtype)
        if not rows.judged_apart:
            judge(logits)
        gap = best.gap(rows.place, rows.goal, logits).clamp_min(0)
        changes = x.detach() - rows.originals
        slope = 2 * changes + column(rows.c, changes) * model.gradient(gap, x)
        cost = dot(changes, changes) + rows.c * gap.detach()
        del x, logits
        if step % max(1, steps // 10) == 0:
            if not rows.close(cost > 0.9999 * rows.cost):
                break
            rows.cost = cost
            (slope,) = rows.compact(slope)
        rows.descend(slope, step, steps)
        if rows.judged_apart:
            with torch.no_grad():
                judge(model.logits(rows.x).to(rows.x.dtype))
