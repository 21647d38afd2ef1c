"""The MultiTargeted attack."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.random import normal_like
from advkit._base.scale import contenders, magnitude, power_of_two
from advkit._engine.ball import Ball
from advkit._engine.boundaries import dual_size, linear_distances, nearest_boundaries
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Worst
from advkit._engine.looks import Look, Seeking
from advkit._engine.rows import Rows
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = ["MultiTargeted"]

_MEMORY = 0.7  # of the directions before, in the one that is followed
_FEWEST = 3  # steps towards a class, however far it is
_NOISE = (5.0, 1.0)  # at the first step and the last, over the size of a feature's share of the budget
_AGAIN = 3  # classes that a restart tries
_LOOK = 5  # steps of a restart between looks at who is fooled
_SPARSE = (0.05, 0.01)  # the share of the features that a step in L1 moves, first and last


class _Found(Worst):
    """The first place where each image fooled the model, or else the one with the least margin, of all searches.

    Args:
        images: (N, ...).
        goal: of all the images.
    """

    def __init__(self, images: Tensor, goal: Goal) -> None:
        super().__init__(images)
        self.goal = goal

    @property
    def open(self) -> Tensor:
        """The places of the images that do not fool yet: int64 (n,)."""
        return (self.least > -torch.inf).nonzero().squeeze(1)

    def place(self, rows: Rows) -> Tensor:
        assert isinstance(rows, _Aim)
        return rows.place

    def value(self, rows: Rows, look: Look) -> Tensor:
        goal = self.goal.rows(self.place(rows))
        return goal.margin(look.logits).where(~look.success, -torch.inf)

    def leave(self, rows: Rows, fooled: Tensor) -> None:
        self._put(rows, self.least.new_full(fooled.shape, -torch.inf), fooled & rows.active)


@dataclass
class _Aim(Seeking):
    """Rows that are each on the way to one class."""

    ball: Ball
    place: Tensor  # int64 (n,), in the whole batch
    unit: Tensor  # (n,), what their logits are measured in
    direction: Tensor  # (n, ...), the mean of those so far
    nearest: Tensor  # (n,), how far it still was to the class, by linearisation, where it was least
    taken: int = 0  # steps

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap to the class; where that one is out of the race by now, to any."""
        aim = self.goal.margin(logits)
        return -(aim.where(aim.isfinite(), 0) / self.unit)


@dataclass(frozen=True, eq=False)
class MultiTargeted(Attack):
    """MultiTargeted."""

    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    steps: int = number(20, at_least=1, integer=True)
    target_classes: int = number(9, at_least=1, integer=True)
    restarts: int = number(2, at_least=1, integer=True)
    _: KW_ONLY

    @property
    def stops_at_success(self) -> bool:
        """Yes: an image leaves at its first success."""
        return True

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found = _Found(images, goal)
        rivals, far, unit = self._survey(images, goal, found)
        for restart in range(self.restarts):
            tried = rivals.shape[1] if restart == 0 else _AGAIN
            order = far.argsort(dim=1, stable=True)[:, :tried]
            for turn in range(order.shape[1]):
                place = found.open
                if not len(place):
                    return found.images
                rank = order[place, turn]
                x = images[place]
                eps = self.eps[place] if isinstance(self.eps, Tensor) and self.eps.ndim else self.eps
                rows = _Aim(
                    x,
                    goal.rows(place).towards(rivals[place, rank]),
                    Ball.of(self.norm, x, eps, self.bounds),
                    place,
                    unit[place],
                    torch.zeros_like(x),
                    torch.full_like(unit[place], torch.inf),
                )
                if restart == 0:
                    self._straight(rows, found, max(self.steps // (turn + 1), _FEWEST))
                    far[rows.place, order[rows.place, turn]] = rows.nearest
                else:
                    self._smoothed(rows, found, 2 * self.steps)
        return found.images

    def _survey(self, images: Tensor, goal: Goal, found: _Found) -> tuple[Tensor, Tensor, Tensor]:
        with torch.no_grad():
            plain = self.classifier.logits(images)
        found.least = goal.margin(plain).to(found.least.dtype).where(~goal.success(plain), -torch.inf)
        unit = power_of_two(magnitude(plain, goal.classes))
        rivals = goal.rivals(plain, self.target_classes)
        far = torch.full(rivals.shape, torch.inf, dtype=images.dtype, device=images.device)
        place = found.open
        if rivals.shape[1] > 1 and len(place):
            x = images[place].requires_grad_()
            logits = self.classifier.logits(x)
            gaps = [
                goal.rows(place).towards(rival).margin(logits) / unit[place] for rival in rivals[place].unbind(1)
            ]
            far[place] = nearest_boundaries(self.classifier, x, gaps, norms.get(self.norm)).distances.to(far.dtype)
        return rivals, far, unit.to(images.dtype)

    def _straight(self, rows: _Aim, found: _Found, steps: int) -> None:
        iterate(
            self.classifier,
            rows,
            lambda rows, look: self._step(rows, look, steps),
            steps=steps,
            loss="margin",
            keep=found,
            early_stop=True,
        )

    def _smoothed(self, rows: _Aim, found: _Found, steps: int) -> None:
        def noisy(x: Tensor) -> Tensor:
            share = column(rows.ball.eps, x) / (x[0].numel() ** {"linf": 0.0, "l2": 0.5, "l1": 1.0}[norms.get(self.norm).name])
            size = _NOISE[0] * (_NOISE[1] / _NOISE[0]) ** (rows.taken / max(steps - 1, 1))
            plain = x.detach()
            shown = (plain + size * share * normal_like(plain, self.generator)).clamp(*self.bounds)
            return x + (shown - plain)

        for _ in range(0, steps, _LOOK):
            iterate(
                self.classifier,
                rows,
                lambda rows, look: self._step(rows, look, steps),
                steps=min(_LOOK, steps - rows.taken),
                loss="margin",
                inputs=noisy,
            )
            with torch.no_grad():
                logits = self.classifier.logits(rows.x)
            look = Look(rows.taken, rows.x, logits, rows.nearest, rows.x, rows.goal)
            found.see(rows, look)
            if not rows.retire(look.success):
                break
            rows.compact()

    def _step(self, rows: _Aim, look: Look, steps: int) -> Tensor:
        """Along the mean of the directions so far, by 2 eps at first and next to nothing in the end."""
        norm = rows.ball.norm
        rows.nearest = rows.nearest.minimum(linear_distances(-look.loss.to(rows.x.dtype), dual_size(look.gradient, norm)))
        rows.direction = _MEMORY * rows.direction + norms.L2.steepest(look.gradient).to(rows.x)
        length = 1 + math.cos(math.pi * rows.taken / steps)
        rows.taken += 1
        return rows.ball.project(rows.x + length * column(rows.ball.eps, rows.x) * self._steepest(rows.direction, norm, rows, steps))

    def _steepest(self, direction, norm, rows, steps):
        if norm is not norms.L1:
            return norm.steepest(direction)
        share = _SPARSE[0] * (_SPARSE[1] / _SPARSE[0]) ** (rows.taken / steps)
        low, high = self.bounds
        flat, x = direction.flatten(1), rows.x.flatten(1)
        flat = flat.where(torch.where(flat > 0, x < high, x > low), 0)
        count = max(1, int(share * flat.shape[1]))
        top = flat.abs().topk(count, dim=1)
        return (torch.zeros_like(flat).scatter(1, top.indices, flat.gather(1, top.indices).sign()) / count).view_as(direction)
