"""Walks along the boundary, back to the images from noise far away: whether a search that began at them overlooked it.

A network may be flat about an image and say nothing of where its boundary comes close. Whoever comes from far away
has crossed that boundary, and follows it: each step goes a part of the way back to the image, and then, as in FAB,
to the boundary of the linearised model, mostly where it is closest to where the walk stands, and a little where it is
closest to the image. Where gradients at the images tell the truth such a walk ends where the search did.

In L1 and L0, where the closest point of a hyperplane changes a few pixels a lot, that is what the first steps do, in
L2. Then the walk follows the boundary inside a trust region, as that of Brendel & Bethge does. In L1 such a walk
also begins just beyond the closest success: it settles among the many solutions better than a search does.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.boundaries import dot, dual_size
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.looks import Look
from advkit.attacks.minimal.closest import Approach, Closest
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.attacks.minimal.trust_region import Rule, rule
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import L2, Norm, column

__all__ = ["followed_home", "looked_again"]

_STEPS = 20
_AWAY = 4  # times as far away as the closest success: where a walk begins
_MORE = 8  # walks, then
_KEPT = 0.7  # of the change, on the way back from where the model is fooled
_LEAN = 0.1  # the largest share of the boundary's closest point to the image, in a step
_OVER = 1.05  # how much further than the boundary
_RADII = {norms.L1: (1.0, 0.05), norms.L0: (2.0, 0.2)}  # the first and the last, over the way left when it begins
_BACK = 0.4  # of the steps of such a walk: those before
_BEYOND = 0.1  # how much further than the boundary such a step aims, over the gap
_BLEND = 0.5  # of the latest gradient into the mean
_HOME_STEPS, _HOME_RADII, _HOME_BLEND = 40, (1.0, 0.03), 0.2  # of the way home from beyond a success


class _FromAfar(Approach):
    """Rows on their way back."""

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap, where there is one."""
        climbed = super().climbed(loss, logits)
        return climbed.where(climbed.isfinite(), 0)


@dataclass
class _Follower(_FromAfar):
    """Rows that follow the boundary when they have come near."""

    slope: Tensor = field(init=False)  # (n, ...), a mean over the latest gradients of the gap
    way: Tensor = field(init=False)  # (n,), what was left of it to the image, in L2, when they began to

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = torch.zeros_like(self.x)
        self.way = self.closest.least[self.place]


@dataclass(frozen=True)
class _Back:
    """The rule for a step, in a norm, L2 or Linf, and a box."""

    closest: Closest
    norm: Norm

    def __call__(self, rows: _FromAfar, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        norm, originals = self.norm, rows.originals
        bounds = self.closest.objective.low, self.closest.objective.high
        gap, slope, edge = -look.loss, -look.gradient, rows.edge(look)
        back = originals + _KEPT * (look.x - originals)
        stand = back.where(column(gap < 0, back), look.x)
        level = gap + dot(slope, stand - look.x) + 2 * edge
        on = step_to_hyperplane(norm, stand, slope, level, bounds)
        by = step_to_hyperplane(norm, originals, slope, level + dot(slope, originals - stand), bounds)
        far, near = norm.size(by), norm.size(on)
        share = (near / (near + far).clamp_min(torch.finfo(far.dtype).tiny)).clamp_max(_LEAN)
        x = torch.lerp(stand + _OVER * on, originals + _OVER * by, column(share, on))
        return x.clamp(*bounds)


@dataclass(frozen=True)
class _Along:
    """The same in L1 or L0: back, and along the boundary."""

    back: _Back
    rule: Rule
    radii: tuple[float, float]
    steps: int
    begun: int  # the step at which they have come near
    blend: float  # of the latest gradient into the mean

    def __call__(self, rows: _Follower, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        rows.slope = torch.lerp(rows.slope, -look.gradient, self.blend if look.step > self.begun else 1)
        if look.step < self.begun:
            return self.back(rows, look)
        if look.step == self.begun:
            rows.way = L2.distance(look.x, rows.originals)
        first, last = self.radii
        radius = first * (last / first) ** ((look.step - self.begun) / max(1, self.steps - 1 - self.begun))
        gap = -look.loss
        gap = torch.where(gap > 0, 1 + _BEYOND, 1 - _BEYOND) * gap + 2 * rows.edge(look)
        gap = gap.where(dual_size(rows.slope, norms.L1) > 0, 0)
        return self.rule.step(look.x, rows.originals, rows.slope, gap.to(look.x.dtype), radius * rows.way)


def followed_home(model: Classifier, goal: Goal, closest: Closest, steps: int) -> None:
    """Show ``closest`` where the boundary leads inside a trust region, from twice as far away as its successes.

    Args:
        model: pixels to logits.
        goal: of the whole batch.
        closest: of the whole batch.
        steps: the most that it may take.
    """
    place = closest.least.isfinite().nonzero().squeeze(1)
    if not len(place):
        return
    objective, steps = closest.objective, min(_HOME_STEPS, steps)
    rows = _Follower(closest.beyond(place), goal.rows(place), closest.originals[place], place, closest)
    solver = rule(objective.norm, (objective.low, objective.high))
    along = _Along(_Back(closest, L2), solver, _HOME_RADII, steps, 0, _HOME_BLEND)
    iterate(model, rows, along, steps=steps, loss="margin", keep=closest)


def looked_again(model: Classifier, place: Tensor, goal: Goal, closest: Closest, steps: int, passes: int) -> None:
    """Show ``closest`` what walks from afar come to: one, and more of the rows whose closest success it undercut.

    Rows begin with the same noise, whatever batch they are in. A search of few passes is easily undercut, and those
    who ask for one want no audit that is longer.

    Args:
        model: pixels to logits.
        place: int64 (n,), the rows.
        goal: of the whole batch.
        closest: of the whole batch; it knows the originals.
        steps: the most that a walk may take.
        passes: the most that the walks may take together.
    """
    norm, low, high = closest.objective.norm, closest.objective.low, closest.objective.high
    steps, measure = min(_STEPS, steps), L2 if norm in _RADII else norm
    known = closest.least.clone()
    ways = measure.distance(closest.images, closest.originals).where(known.isfinite(), torch.inf)
    for walk in range(min(1 + _MORE, passes // (steps + 1))):
        if walk == 1:
            place = place[(closest.least < closest.objective.overlooked * known)[place] | closest.least[place].isinf()]
        if not len(place):
            return
        originals = closest.originals[place]
        drawn = torch.rand(originals.shape[1:], generator=torch.Generator("cpu").manual_seed(walk), device="cpu")
        away = low + (high - low) * drawn.to(originals) - originals
        length = measure.size(away).clamp_min(torch.finfo(away.dtype).tiny)
        share = (_AWAY * ways[place] / length).clamp_max(1)
        start = torch.addcmul(originals, away, column(share, away)).clamp(low, high)
        back, of_rows = _Back(closest, measure), goal.rows(place)
        if norm in _RADII:
            along = _Along(back, rule(norm, (low, high)), _RADII[norm], steps, round(_BACK * steps), _BLEND)
            followers = _Follower(start, of_rows, originals, place, closest)
            iterate(model, followers, along, steps=steps, loss="margin", keep=closest)
        else:
            rows = _FromAfar(start, of_rows, originals, place, closest)
            iterate(model, rows, back, steps=steps, loss="margin", keep=closest)
