"""The closest success of each image of a batch, whatever search it was met in."""

from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.scale import magnitude, power_of_two, rounding_margin
from advkit._engine.classifier import Classifier
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look, Seeking
from advkit._engine.rows import Rows
from advkit.attacks.minimal.objectives import Objective
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

__all__ = ["Approach", "Closest"]


class Closest(Smallest):
    """The smallest success with a margin to spare, over all searches, and the scale of each image's logits.

    Searches see margins over ``unit``, a power of two, so that what they do depends neither on the scale of the
    logits nor on that of a class that is out of the race.

    Args:
        images: (N, ...), the originals; what has not been reached keeps them.
        objective: says what is small.
        kappa: the margin that a success must have, in units of the logits.
        goal: what counts as success.
        logits: (N, K), of the originals.
    """

    def __init__(self, images: Tensor, objective: Objective, kappa: float, goal: Goal, logits: Tensor) -> None:
        super().__init__(images, objective.norm)
        self.objective = objective
        self.kappa = kappa
        self.goal = goal
        self.magnitude = magnitude(logits, goal.classes)
        self.unit = power_of_two(self.magnitude)
        self.begin()

    def begin(self) -> None:
        """Begin another search. ``reached``, bool (N,), is for the images that it has been to a success of."""
        self.reached = torch.zeros_like(self.least, dtype=torch.bool)

    def anew(self) -> "Closest":
        """Another record for the same images, which knows of no success."""
        other = copy(self)
        other.images, other.least = self.originals.clone(), torch.full_like(self.least, torch.inf)
        other.begin()
        return other

    def trim(self, model: Classifier, place: Tensor, other: "Closest | None" = None) -> None:
        """Do without what successes do not need, of the rows ``place``, int64 (n,): its own, or those of another."""
        originals = self.originals[place]
        found = self.objective.trimmed(model, (other or self).images[place], originals, self.goal.rows(place))
        size = self.objective.size(found - originals)
        better = (size < self.least[place]) & (found != originals).flatten(1).any(1)
        self.least[place] = size.where(better, self.least[place])
        self.images[place] = found.where(column(better, found), self.images[place])

    def gap(self, index: Tensor, goal: Goal, logits: Tensor) -> Tensor:
        """By how much logits (n, K) of the rows ``index`` miss the goal, over their unit: (n,)."""
        return (goal.margin(logits) + self.kappa) / self.unit[index]

    def edge(self, index: Tensor, look: Look) -> Tensor:
        """The margin beyond rounding that a success must have, (n,), in units of the logits."""
        return rounding_margin(look.magnitude.to(look.x.dtype).maximum(self.magnitude[index]))

    def beyond(self, place: Tensor) -> Tensor:
        """Images (n, ...) twice as far away as the successes of ``place``, int64 (n,), or at the bounds."""
        there = 2 * self.images[place] - self.originals[place]
        return there.clamp(self.objective.low, self.objective.high)

    def place(self, rows: Rows) -> Tensor:
        """The place of each row in the whole batch: int64 (n,)."""
        return rows.place if isinstance(rows, Approach) else rows.index

    def value(self, rows: Rows, look: Look) -> Tensor:
        """How large the changes are, (n,), where they come to a success."""
        place, logits = self.place(rows), look.logits.to(look.x.dtype)
        goal = self.goal.rows(place)
        enough = goal.margin(logits) <= -self.kappa - self.edge(place, look)
        fooled = goal.success(logits) & enough
        self.reached[place] |= fooled & rows.active
        return self.objective.size(look.x - self.originals[place]).where(fooled, torch.inf)


@dataclass
class Approach(Seeking):
    """Some rows of a batch that approach success in one of its searches.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows, whose margin is brought down.
        originals: (n, ...).
        place: int64 (n,), in the whole batch.
        closest: of the whole batch.
    """

    originals: Tensor
    place: Tensor
    closest: Closest

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap: it is the margin that counts here, whatever the loss."""
        return -self.closest.gap(self.place, self.goal, logits.to(self.x.dtype))

    def edge(self, look: Look) -> Tensor:
        """The gap below zero, (n,), that a success must have: its margin beyond rounding, over the unit."""
        return self.closest.edge(self.place, look) / self.closest.unit[self.place]
