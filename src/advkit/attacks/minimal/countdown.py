"""Fewer and fewer features: a search for L0 that begins with many of them at the ends of the box, or with one.

Many features that do little each do much together, and a tangent at the image does not say which. So a search stands
where a number of features are at their ends, those that a mean of the latest tangents there values most: fewer after a
success, and more until there is one. Where it begins decides which of many solutions it ends in.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.looks import Look
from advkit.attacks.minimal.closest import Approach, Closest
from advkit.attacks.minimal.shrinking import annealed
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

__all__ = ["counted_down", "to_the_ends"]

_STEPS = 30
_BLEND = 0.2  # of the latest gradient into the mean
_FIRST, _LAST = 0.3, 0.03  # the share of the features that a step adds or takes
_STAY = 1.5  # what a feature that is changed counts for, over one that is not


def to_the_ends(originals: Tensor, slope: Tensor, bounds: tuple[float, float]) -> Tensor:
    """How far each feature can go against its slope, all (n, ...), but for a hair.

    A model that clamps what it is shown may have no gradient at the ends themselves.
    """
    low, high = bounds
    hair = torch.finfo(originals.dtype).eps * max(abs(low), abs(high))
    return torch.where(slope > 0, low + hair - originals, high - hair - originals).where(slope != 0, 0)


@dataclass
class _Counting(Approach):
    """Rows that stand where so many features are changed."""

    count: Tensor  # (n,), of features to change
    slope: Tensor = field(init=False)  # (n, ...), a mean over the latest gradients of the gap
    fewest: Tensor = field(init=False)  # (n,), that have been a success

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = torch.zeros_like(self.x)
        self.fewest = torch.full_like(self.count, torch.inf)

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap, where there is one."""
        climbed = super().climbed(loss, logits)
        return climbed.where(climbed.isfinite(), 0)


def counted_down(model: Classifier, place: Tensor, goal: Goal, closest: Closest, share: float, steps: int) -> None:
    """Show ``closest`` what a search comes to that begins with that share of the features, or with one.

    Args:
        model: pixels to logits.
        place: int64 (n,), the rows.
        goal: of the rows.
        closest: of the whole batch; it knows the originals.
        share: from 0 to 1.
        steps: the most that it may take.
    """
    if not len(place):
        return
    originals, steps = closest.originals[place], min(_STEPS, steps)
    bounds, features = (closest.objective.low, closest.objective.high), originals[0].numel()
    count = torch.full_like(place, max(1, round(share * features)), dtype=torch.float32)  # low precision miscounts

    def step(rows: _Counting, look: Look) -> Tensor:
        rows.slope = torch.lerp(rows.slope, -look.gradient, _BLEND if look.step else 1)
        if look.step:
            part = annealed(_FIRST, _LAST, look.step, steps)
            fooled = look.loss.to(look.x.dtype) > rows.edge(look)
            rows.fewest = torch.where(fooled, rows.count.minimum(rows.fewest), rows.fewest)
            fewer = (rows.count * (1 - part)).floor().minimum(rows.fewest - 1)
            more = (rows.count * (1 + part)).floor().maximum(rows.count + 1)
            rows.count = torch.where(fooled, fewer, more).clamp(1, features)
        full = to_the_ends(rows.originals, rows.slope, bounds).flatten(1)
        gains = -rows.slope.flatten(1) * full
        worth = torch.where((look.x != rows.originals).flatten(1), _STAY * gains, gains)
        order = worth.argsort(dim=1, descending=True, stable=True)
        first = torch.arange(features, device=full.device) < column(rows.count, full)
        chosen = torch.zeros_like(first).scatter(1, order, first) & (gains > 0)
        return (rows.originals + full.where(chosen, 0).view_as(rows.x)).clamp(*bounds)

    own = closest.anew()
    rows = _Counting(originals, goal, originals, place, closest, count)
    iterate(model, rows, step, steps=steps, loss="margin", keep=own)
    closest.trim(model, place, own)
