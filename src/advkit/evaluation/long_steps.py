"""Where "standard" begins in L1: steps that are long at first, few in a run, and then a search for small changes."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.random import normal_like
from advkit._engine.ball import Ball
from advkit._engine.boundaries import linear_distances
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Standing
from advkit._engine.looks import Climb, Look
from advkit.attack import Attack
from advkit.attacks.minimal import Minimal
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.model import is_stochastic
from advkit.norms import Norm, column

__all__ = ["SHORT", "LongSteps", "reached"]

_LOSSES = ("log_odds", "margin")  # taken in turn: they lead to different classes, and so fool different images
_FIRST = 1 / 3  # of the steps, in the first run
_LARGER = 3.0  # radius of the ball at first, in a run that draws,
_EARLY = 0.3  # which is that of the budget after so much of the run
_SURE, _NEAR = 2, 0.18  # after so many runs only images go on that came this near, in parts of the budget,
_STAGES = ((0.5, 0.5), (0.7, 0.25))  # and after such a share of a run that draws, those that came this near in it
SHORT: dict[str, Any] = {"rounds": 1, "steps": 24}  # of `Minimal`, after the runs,
_HALF = 0.5  # for images that came this near
_LENGTH = (4.0, 0.1)  # of a step of the steepest feature, over the range of the pixels; and what is left in the end


@dataclass(frozen=True, eq=False)
class LongSteps(Attack):
    """Projected gradient ascent in L1, by steps that are long at first, run after run.

    x <- project(x + alpha g / max |g|), to the closest point of the ball and the box, with alpha from four times the
    range of the pixels down to 0.4 times it. A step that long moves only the features whose gradient is among the
    largest, since the projection takes as much from each as it takes to get back into the ball; the others stay
    at the image. Which they are is thus found anew in each step, and need not be told.

    The first run begins at the image and takes a third of the ``steps``. The others begin at noise, in a ball three
    times as large, which shrinks to the budget in the first third of the run. The log-odds against the label and the
    margin are climbed in turn. An image leaves at its first success. After two runs only those go on that came close to
    another class: by linearisation, within 0.18 of the budget. Nor does a run that begins at noise go on to its end
    with an image that by half of it came no closer than half of the budget, or by 0.7 of it than a quarter.

    What more runs do not find, a search for the smallest change may, since it also comes from the other side of the
    boundary: a short `Minimal` follows, on images that came within half of the budget in a run that they went through,
    unless the model is random.

    The ball that shrinks is as in Croce & Hein, "Mind the box: l1-APGD for sparse adversarial attacks on image
    classifiers", ICML 2021. arXiv:2103.01208.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "l1", or the object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,).
        steps: how many steps a run has, at least 1, each a forward and a backward.
        restarts: how many runs, at least 1, each on the images that those before it have not fooled.
        bounds: the lowest and the highest value of a pixel.
        generator: where starts are drawn from; torch's default generator if None.

    Examples:
        >>> from advkit.evaluation.long_steps import LongSteps
        >>> result = LongSteps(model, eps=4.0).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("l1") <= 4 + 1e-5).all())
        True
    """

    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    steps: int = number(30, at_least=1, integer=True)
    restarts: int = number(4, at_least=1, integer=True)

    @property
    def stops_at_success(self) -> bool:
        """Images leave as soon as they are fooled."""
        return True

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found = Standing(images)
        eps = images.new_zeros(len(images)) + self.eps
        near, scale = torch.full_like(eps, torch.inf), self.bounds[1] - self.bounds[0]
        for run in range(self.restarts):
            place = found.left(None if run < _SURE else (near < _NEAR * eps) | near.isinf())
            if not len(place):
                break
            ball, loss = Ball.of(self.norm, images[place], eps[place], self.bounds), _LOSSES[run % len(_LOSSES)]
            afar = near.new_full((len(place),), torch.inf)
            rows = _Run(ball.originals, goal.rows(place), ball, scale, place, afar, self.steps)
            if run:
                self._from_afar(rows, loss)
            else:
                rows.steps = max(1, int(_FIRST * self.steps))
            self._climb(rows, rows.steps - rows.taken, loss, found)
            # What gave up came within a quarter of the budget at best, and is dropped early or late by the device.
            kept = rows.place[rows.active]
            near[kept] = rows.nearest[rows.active].minimum(near[kept])
        return self._approached(images, goal, eps, found, (near < _HALF * eps) | near.isinf())

    def _approached(self, images: Tensor, goal: Goal, eps: Tensor, found: Standing, wanted: Tensor) -> Tensor:
        """What was found, and for images that runs brought near another class, ``wanted``, their smallest change."""
        place = found.left(wanted)
        if len(place) and not is_stochastic(self.model):  # which is not fooled on the boundary, or only by luck
            search = Minimal(self.model, norm=self.norm, bounds=self.bounds, **SHORT)
            closest = search._perturb(images[place], goal.rows(place))
            fooled = column(reached(norms.L1, closest, images[place], eps[place]), closest)
            found.images[place] = closest.where(fooled, found.images[place])
        return found.images

    def _from_afar(self, rows: "_Run", loss: str) -> None:
        """Take rows to noise in the larger ball, and from there into the budget, whatever they fool on the way."""
        rows.early = int(_EARLY * rows.steps)
        rows.x = rows.within.project(rows.x + rows.alpha * normal_like(rows.x, self.generator))
        self._climb(rows, rows.early, loss, None)

    def _climb(self, rows: "_Run", steps: int, loss: str, found: Standing | None) -> None:
        iterate(self.classifier, rows, _Run.advance, steps=steps, loss=loss, keep=found, early_stop=found is not None)


@dataclass
class _Run(Climb):
    """Rows in a run, with the range of the pixels for alpha, by which the lengths of their steps are measured.

    Args:
        place: int64 (n,), which image of the batch each is.
        nearest: (n,), how far another class still was by linearisation, where in the run that was least.
        steps: how many the run has.
        early: after how many of these the ball has shrunk to the budget.
        taken: how many they have taken.
    """

    place: Tensor
    nearest: Tensor
    steps: int
    early: int = 0
    taken: int = 0

    @property
    def within(self) -> Ball:
        """The ball that the next step has to end in."""
        if self.taken >= self.early:
            return self.ball
        left = (1 + math.cos(math.pi * self.taken / self.early)) / 2
        return replace(self.ball, eps=(1 + (_LARGER - 1) * left) * self.ball.eps)

    def advance(self, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        self._give_up(look)
        gradient, margin = look.gradient, self.goal.margin(look.logits)
        first, shrunk = _LENGTH
        length = first * shrunk ** (self.taken / self.steps) * self.alpha
        steepest = gradient.flatten(1).abs().amax(1)
        if self.taken >= self.early:
            self.nearest = self.nearest.minimum(linear_distances(margin, steepest).to(self.nearest))
        self.taken += 1
        direction = gradient / column(steepest.where(steepest > 0, 1), gradient)
        return self.within.project(self.x + length * direction)

    def _give_up(self, look: Look) -> None:
        """Retire the rows that at a stage of a run that draws have come near no other class."""
        for share, near in _STAGES:
            if 0 < self.early < self.taken == int(share * self.steps):
                self.retire((self.nearest > near * self.ball.eps) & self.nearest.isfinite())
                look.compact(self)


def reached(norm: Norm, found: Tensor, images: Tensor, eps: float | Tensor) -> Tensor:
    """Which images (n, ...) a search for the smallest change moved, and no further than the budget: bool (n,)."""
    work = torch.promote_types(images.dtype, torch.float32)
    change = norm.distance(found.to(work), images.to(work))
    return (change > 0) & (change <= eps)
