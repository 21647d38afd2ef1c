"""Putting back what an adversarial image does not need."""

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit.goals import Goal
from advkit.norms import column

__all__ = ["pruned"]


def pruned(model: Classifier, images: Tensor, originals: Tensor, goal: Goal, rounds: int, tries: int) -> Tensor:
    """The images (N, ...) with as many features as they were originally as leaves the model fooled, and no fewer.

    Those that a tangent says are needed least go first, and how many can go is found by halving, at first one half of
    them. Images as they were originally stay so.

    Args:
        model: that the images fool.
        images: (N, ...).
        originals: (N, ...).
        goal: of the images.
        rounds: how many times, each with a tangent of its own.
        tries: how many passes, beside the one for that tangent, in each.
    """
    place = (images != originals).flatten(1).any(1).nonzero().squeeze(1)
    if not len(place):
        return images
    x, before, goal = images[place], originals[place], goal.rows(place)
    for _ in range(rounds):
        rank, count = _least_needed(model, x, before, goal)
        low, high = torch.zeros_like(count), (count - 1).clamp_min(0)
        for _ in range(tries):
            middle = (low + high + 1) // 2
            with torch.no_grad():
                logits = model.of(goal).logits(before.where(rank < column(middle, x), x))
            fooled = goal.clearly(logits)
            low, high = torch.where(fooled, middle, low), torch.where(fooled, high, middle - 1).maximum(low)
        x = before.where(rank < column(low, x), x)
    return images.index_copy(0, place, x)


def _least_needed(model: Classifier, x: Tensor, before: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """The rank of each feature among those changed, the least needed first, (n, ...), and how many changed, (n,)."""
    leaf = x.detach().requires_grad_()
    slope = model.gradient(goal.margin(model.of(goal).logits(leaf)), leaf)
    changed = (x != before).flatten(1)
    harm = (slope * (before - x)).flatten(1).where(changed, torch.inf)  # to put each back
    return harm.argsort(1).argsort(1).view_as(x), changed.sum(1)
