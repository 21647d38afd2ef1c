"""Walks along the boundary, back to the images from noise far away: whether a search that began at them overlooked it.

A network may be flat about an image and say nothing of where its boundary comes close. Whoever comes from far away
has crossed that boundary, and follows it: each step goes a part of the way back to the image, and then, as in FAB,
to the boundary of the linearised model, mostly where it is closest to where the walk stands, and a little where it is
closest to the image. Where gradients at the images tell the truth such a walk ends where the search did.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.boundaries import dot
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.looks import Look
from advkit.attacks.minimal.closest import Approach, Closest
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

__all__ = ["looked_again"]

_STEPS = 20
_AWAY = 4  # times as far away as the closest success: where a walk begins
_UNDERCUT = 0.95  # of that distance: a walk that ends closer says that the search was wrong, and is not the last one
_MORE = 8  # walks, then
_KEPT = 0.7  # of the change, on the way back from where the model is fooled
_LEAN = 0.1  # the largest share of the boundary's closest point to the image, in a step
_OVER = 1.05  # how much further than the boundary


class _FromAfar(Approach):
    """Rows on their way back."""

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap, where there is one."""
        climbed = super().climbed(loss, logits)
        return climbed.where(climbed.isfinite(), 0)


@dataclass(frozen=True)
class _Back:
    """The rule for a step, in a norm and a box."""

    closest: Closest

    def __call__(self, rows: _FromAfar, look: Look) -> Tensor:
        """Where the rows go: (n, ...)."""
        norm, originals = self.closest.objective.norm, rows.originals
        bounds = self.closest.objective.low, self.closest.objective.high
        gap, slope = -look.loss, -look.gradient
        edge = self.closest.edge(rows.place, rows.goal, look.logits.to(look.x.dtype)) / self.closest.unit[rows.place]
        back = originals + _KEPT * (look.x - originals)
        stand = back.where(column(gap < 0, back), look.x)
        level = gap + dot(slope, stand - look.x) + 2 * edge
        on = step_to_hyperplane(norm, stand, slope, level, bounds)
        by = step_to_hyperplane(norm, originals, slope, level + dot(slope, originals - stand), bounds)
        far, near = norm.size(by), norm.size(on)
        share = (near / (near + far).clamp_min(torch.finfo(far.dtype).tiny)).clamp_max(_LEAN)
        x = torch.lerp(stand + _OVER * on, originals + _OVER * by, column(share, on))
        return x.clamp(*bounds)


def looked_again(model: Classifier, place: Tensor, goal: Goal, closest: Closest, steps: int) -> None:
    """Show ``closest`` what walks from afar come to: one, and more of the rows whose closest success it undercut.

    Rows begin with the same noise, whatever batch they are in.

    Args:
        model: pixels to logits.
        place: int64 (n,), the rows.
        goal: of the whole batch.
        closest: of the whole batch; it knows the originals.
        steps: the most that a walk may take.
    """
    low, high = closest.objective.low, closest.objective.high
    known = closest.least.clone()
    for walk in range(1 + _MORE):
        if walk == 1:
            place = place[(closest.least < _UNDERCUT * known)[place] | closest.least[place].isinf()]
        if not len(place):
            return
        originals = closest.originals[place]
        drawn = torch.rand(originals.shape[1:], generator=torch.Generator("cpu").manual_seed(walk), device="cpu")
        away = low + (high - low) * drawn.to(originals) - originals
        length = closest.objective.norm.size(away).clamp_min(torch.finfo(away.dtype).tiny)
        share = (_AWAY * known[place] / length).clamp_max(1)
        start = torch.addcmul(originals, away, column(share, away)).clamp(low, high)
        rows = _FromAfar(start, goal.rows(place), originals, place, closest)
        iterate(model, rows, _Back(closest), steps=min(_STEPS, steps), loss="margin", keep=closest)
