"""advkit's own search for the least change that reaches a goal: by the mean of the latest tangents.

It minimises size(x' - x) + c * max(margin(x') + kappa, 0), as Carlini & Wagner's attack and EAD do. The penalty is
exact: every c above that of the solution has the same minimum, on the boundary. So a step may take the margin as
linear and solve the rest in closed form (`Objective.solve`), with c as the largest multiplier that the boundary may
ask for. One tangent is a poor guide in a network of many pieces; the mean of the latest ones is a good one.

Which class to leave for matters more than any number of steps: descending the margin ends at the class that was
nearest where it began. So each search aims at one class, the nearest of the linearised model first, and an image
leaves when no class that is left promises less than what it has. Some objectives return once more, from twice as far
as the closest success: where many solutions are near, the way back from there ends in another, by a search or along
the boundary. Where gradients near the image say little of what is around it, all of that misses what a walk from afar
comes across: see `walks`.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._base.scale import contenders
from advkit._engine.boundaries import dot, linear_distances, nearest_boundaries
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.looks import Look
from advkit.attacks.minimal.closest import Approach, Closest
from advkit.attacks.minimal.countdown import counted_down
from advkit.attacks.minimal.objectives import Objective
from advkit.attacks.minimal.shrinking import annealed
from advkit.attacks.minimal.walks import followed_home, looked_again
from advkit.goals import Goal
from advkit.losses import Loss

__all__ = ["Tangents"]

_CANDIDATES = 9  # classes that are looked at for each image
_HEADROOM = 4.0  # c over the multiplier of the linearised problem
_BEYOND = 100  # times the size of the box: a class out of the race counts while its boundary is no further than that
_LOOK = 5  # steps between looks at which rows may leave: each look makes a GPU wait


@dataclass
class _Trial(Approach):
    """Rows in one search, each towards the class whose turn it is: the margin to that is brought down."""

    effort: Tensor  # (n,), ten to the number of searches that came to nothing
    slope: Tensor = field(init=False)  # (n, ...), mean over the latest tangents
    level: Tensor = field(init=False)  # (n,), their mean value at the original
    c: Tensor = field(init=False)  # (n,)
    aim: Tensor = field(init=False)  # (n,), the margin to overshoot by

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = torch.zeros_like(self.x)
        self.level = torch.zeros_like(self.effort)

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap to the class whose turn it is; to any, where that one is out of the race by now."""
        logits = logits.to(self.x.dtype)
        gap = self.closest.gap(self.place, self.goal, logits)
        to_any = self.closest.gap(self.place, self.closest.goal.rows(self.place), logits)
        return -torch.where(gap.isfinite(), gap, to_any.where(to_any.isfinite(), 0))

    def learn(self, gap: Tensor, tangent: Tensor, changes: Tensor, blend: float) -> None:
        """Blend the latest tangent into the mean: the gap (n,) and its gradient (n, ...) at these changes (n, ...)."""
        self.level = torch.lerp(self.level, gap - dot(tangent, changes), blend)
        self.slope = torch.lerp(self.slope, tangent, blend)


@dataclass(frozen=True)
class _Routes:
    """The ways to success, the shortest of each image first."""

    count: Tensor  # int64 (N,), how many an image has: none where it needs nothing, or nothing leads there
    lengths: Tensor  # (m, N)
    rivals: Tensor  # int64 (m, N), the class at the end of each

    def length(self, turn: Tensor) -> Tensor:
        """Of the way whose turn it is, int64 (N,): (N,)."""
        return self.lengths.gather(0, turn[None]).squeeze(0)

    def towards(self, goal: Goal, turn: Tensor, place: Tensor) -> Goal:
        """The goals of the rows ``place``, int64 (n,), that lead along it."""
        return goal.towards(self.rivals.gather(0, turn[None]).squeeze(0)[place])


@dataclass(frozen=True)
class Tangents:
    """The smallest changes found in ``rounds`` searches of at most ``steps`` passes each.

    One pass more, with a backward for each candidate, ranks the classes. Without ``initial_c`` walks from afar, each of
    at most ``steps`` passes and together of no more than the searches, audit what was found. Images that are a success
    as they are, whatever their margin, and images that are not reached come back as they were.

    Args:
        objective: what is to be small, and in closed form where the margin is linear.
        kappa: the margin that a success must have, at least 0.
        initial_c: the c of the first search, or None for that of each row's linearised problem.
        rounds: how many searches.
        steps: how many passes in each.
    """

    objective: Objective
    kappa: float
    initial_c: float | None
    rounds: int
    steps: int

    def search(self, model: Classifier, images: Tensor, goal: Goal) -> Tensor:
        """The closest successes found: images (N, ...)."""
        closest, routes = self._survey(model, images, goal)
        effort = torch.ones_like(closest.least)
        for share in self.objective.beginnings[: self.rounds]:
            place = ((routes.count > 0) & (closest.least > 1)).nonzero().squeeze(1)
            counted_down(model, place, goal.rows(place), closest, share, self.steps - 1)
        counted = closest.least.clone()
        for round_ in range(self.rounds):
            turn = round_ % routes.count.clamp_min(1)
            promising = routes.length(turn) < self.objective.promising * closest.least
            wanted = torch.where(round_ < routes.count, promising, closest.least.isinf())
            place = (wanted & (routes.count > 0)).nonzero().squeeze(1)
            if not len(place):
                break  # later routes are longer
            self._approach(model, images[place], routes.towards(goal.rows(place), turn, place), place, closest, effort)
            effort = torch.where(closest.least.isinf(), effort * 10, effort)
        for _ in range(self.objective.returns):
            place = closest.least.isfinite().nonzero().squeeze(1)
            if len(place):
                self._approach(model, closest.beyond(place), goal.rows(place), place, closest, effort)
        for _ in range(self.objective.follows):
            followed_home(model, goal, closest, self.steps - 1)
        closest.trim(model, (closest.least < counted).nonzero().squeeze(1))
        if self.initial_c is None:
            known = closest.least.clone()
            place = (routes.count > 0).nonzero().squeeze(1)
            looked_again(model, place, goal, closest, self.steps - 1, self.rounds * self.steps)
            closest.trim(model, (closest.least < known).nonzero().squeeze(1))
        return closest.images

    def _approach(
        self, model: Classifier, start: Tensor, goal: Goal, place: Tensor, closest: Closest, effort: Tensor
    ) -> None:
        """One search of the rows ``place``, int64 (n,), from where they start, (n, ...), for goals of their own."""
        closest.begin()
        rows = _Trial(start, goal, closest.originals[place], place, closest, effort[place])
        iterate(model, rows, self._step, steps=self.steps - 1, loss="margin", keep=closest)

    def _survey(self, model: Classifier, images: Tensor, goal: Goal) -> tuple[Closest, _Routes]:
        """The scale of each row's logits, and its ways to success."""
        x = images.detach().requires_grad_()
        logits = model.of(goal).logits(x).to(x.dtype)
        plain = logits.detach()
        closest = Closest(images, self.objective, self.kappa, goal, plain)
        everything = torch.arange(len(images), device=images.device)
        rivals = goal.rivals(plain, _CANDIDATES)
        routes = [goal.towards(rival) for rival in rivals.unbind(1)]
        if routes == [goal]:  # one way, which needs no ranking
            reachable = closest.gap(everything, goal, plain).isfinite() & ~goal.success(plain)
            return closest, _Routes(reachable.long(), torch.zeros_like(closest.least)[None], rivals.T)

        def length(gap: Tensor, slope: Tensor) -> Tensor:
            changes, _ = self.objective.solve(images, images, slope, gap, self.objective.largest_c)
            return self.objective.size(changes)

        gaps = [closest.gap(everything, route, logits) for route in routes]
        found = nearest_boundaries(model, x, gaps, self.objective.norm, length)
        linear = linear_distances(torch.stack([gap.detach() for gap in gaps], 1), found.slopes)
        extent = torch.full_like(images[:1], self.objective.high - self.objective.low)
        racing = contenders(plain).gather(1, rivals) | (linear < _BEYOND * self.objective.norm.size(extent))
        alive = racing & ~goal.success(plain)[:, None]
        ordered, order = found.distances.where(alive, torch.inf).T.sort(dim=0, stable=True)
        return closest, _Routes(ordered.isfinite().sum(0), ordered, rivals.T.gather(0, order))

    def _step(self, rows: _Trial, look: Look) -> Tensor:
        """A part of the way to the solution for the mean of the tangents, the part that the schedule says."""
        fraction = annealed(self.objective.first, 0, look.step, self.steps)
        objective, closest = self.objective.at(fraction), rows.closest
        gap, tangent, changes = -look.loss, -look.gradient, rows.x - rows.originals
        look.gradient = tangent  # the other is no more use, and as large as the images
        if not look.step:
            rows.aim = (gap * objective.overshoot * rows.effort).abs()
            rows.c = self._starting_c(rows, tangent, gap + rows.aim)
        rows.learn(gap, tangent, changes, (1 - objective.memory) / (1 - objective.memory ** (look.step + 1)))
        level = rows.level + rows.aim + 2 * rows.edge(look)
        wanted, _ = objective.solve(rows.x, rows.originals, rows.slope, level, rows.c)
        if look.step % _LOOK == _LOOK - 1:
            rows.retire(objective.size(wanted) > objective.losing * closest.least[rows.place])
            (wanted,) = rows.compact(wanted)
            rows.aim = torch.where(closest.reached[rows.place], rows.aim, 2 * rows.aim)
        return objective.approach(rows.x, rows.originals, wanted, fraction)

    def _starting_c(self, rows: _Trial, slope: Tensor, level: Tensor) -> Tensor:
        objective = self.objective
        if self.initial_c is None:
            _, multiplier = objective.solve(rows.x, rows.originals, slope, level, objective.largest_c)
            c = _HEADROOM * multiplier
        else:
            c = self.initial_c * rows.closest.unit[rows.place]
        return (c * rows.effort).clamp_max(objective.largest_c)
