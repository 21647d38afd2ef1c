"""The least change that reaches a goal: what Carlini-Wagner and EAD share.

Both minimise size(x' - x) + c * max(margin(x') + kappa, 0) for a c that is searched for each image. The penalty is
exact: every c above that of the solution has the same minimum, on the boundary. So a step may take the margin as
linear and solve the rest in closed form (`Objective.solve`), with c as the largest multiplier that the boundary may
ask for. One tangent is a poor guide in a network of many pieces; the mean of the latest ones is a good one.

Which class to leave for matters more than any number of steps: descending the margin ends at the class that was
nearest where it began. So each step of the search aims at one class, the nearest of the linearised model first, and
an image leaves when no class that is left promises less than what it has.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit._engine.scale import contenders, magnitude, power_of_two, rounding_margin
from advkit.goals import Goal, Untargeted
from advkit.norms import column

__all__ = ["LARGEST_C", "Best", "Objective", "dot", "search"]

LARGEST_C = 1e10  # for logits of about 1 and pixels in [0, 1]
_CANDIDATES = 9  # classes that are looked at for each image
_HEADROOM = 4.0  # c over the multiplier of the linearised problem
_PROMISING = 1.5  # a class further than this, over the best so far, is not tried
_LOSING = 1.05  # and one that is further than this on the way is given up
_LOOK = 5  # steps between looks at which rows may leave: each look makes a GPU wait


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each row: (n, ...) and (n, ...) to (n,)."""
    return (a * b).flatten(1).sum(1)


class Objective(ABC):
    """What an attack makes small, and how it moves pixels. Changes are x' - x, (n, ...), in units of pixels."""

    memory: float  # how much of the mean tangent a step keeps
    first: float  # the part of the way to the solution that the first step of a search goes
    overshoot: float  # how far behind the boundary to aim, over the margin at the original

    def __init__(self, bounds: tuple[float, float]) -> None:
        self.low, self.high = bounds
        area = (self.high - self.low) ** 2  # the unit of a c, where margins are of about 1
        self.smallest_c, self.largest_c = area / LARGEST_C, area * LARGEST_C

    @abstractmethod
    def size(self, changes: Tensor) -> Tensor:
        """How large changes are: (n, ...) to (n,)."""

    @abstractmethod
    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        """The smallest changes with level + slope . changes <= 0, and the multiplier that they take.

        Args:
            x: where the rows stand, (n, ...).
            originals: (n, ...), where their changes are counted from.
            slope: of the linearised margin, (n, ...).
            level: the linearised margin at the originals, (n,).
            most: the largest multiplier allowed, for all or (n,): the c of the penalty.
        """

    @abstractmethod
    def move(self, x: Tensor, by: Tensor) -> Tensor:
        """The images x + by, both (n, ...), to first order in ``by`` and inside the bounds."""


class Best:
    """The smallest success of each image of a batch, and the scale of its logits.

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
        self.images = images.clone()
        self.size = torch.full(images.shape[:1], torch.inf, dtype=images.dtype, device=images.device)
        self.objective = objective
        self.kappa = kappa
        self.magnitude = magnitude(logits, goal.classes)
        self.unit = power_of_two(self.magnitude)

    def gap(self, index: Tensor, goal: Goal, logits: Tensor) -> Tensor:
        """By how much logits (n, K) of the rows ``index`` miss the goal, over their unit: (n,)."""
        return (goal.margin(logits) + self.kappa) / self.unit[index]

    def edge(self, index: Tensor, goal: Goal, logits: Tensor) -> Tensor:
        """The margin beyond rounding that a success must have, (n,), in units of the logits."""
        return rounding_margin(magnitude(logits, goal.classes).maximum(self.magnitude[index]))

    def offer(self, index: Tensor, x: Tensor, changes: Tensor, goal: Goal, logits: Tensor, open: Tensor) -> Tensor:
        """Take what is a success and smaller than before. Returns where it is a success: bool (n,).

        Args:
            index: int64 (n,), the place of each row in the batch.
            x: (n, ...), the candidates.
            changes: (n, ...), from their originals.
            goal: what counts as success.
            logits: (n, K), of the candidates.
            open: bool (n,), the rows that may still change.
        """
        enough = goal.margin(logits) <= -self.kappa - self.edge(index, goal, logits)
        fooled = goal.success(logits) & enough & open
        size = self.objective.size(changes)
        better = fooled & (size < self.size[index])
        self.size[index] = torch.where(better, size, self.size[index])
        self.images[index] = torch.where(column(better, x), x, self.images[index])
        return fooled


@dataclass(frozen=True, eq=False)
class _Towards(Untargeted):
    """Any class but the label, by way of one: the margin to ``rivals``, int64 (N,), alone."""

    rivals: Tensor

    def rows(self, index: Tensor) -> "_Towards":
        return _Towards(self.classes[index], self.rivals[index])

    def margin(self, logits: Tensor) -> Tensor:
        """Z_y - Z_rival."""
        return (logits.gather(1, self.classes[:, None]) - logits.gather(1, self.rivals[:, None])).squeeze(1)


@dataclass
class _Trial(Rows):
    """One step of the search. ``x`` is where each row stands."""

    originals: Tensor
    goal: Goal
    route: Goal  # whose margin is descended: that of the goal, or to one class
    place: Tensor  # int64 (n,), in the whole batch
    effort: Tensor  # (n,), ten to the number of searches that came to nothing
    slope: Tensor = field(init=False)  # (n, ...), mean over the latest tangents
    level: Tensor = field(init=False)  # (n,), their mean value at the original
    c: Tensor = field(init=False)  # (n,)
    aim: Tensor = field(init=False)  # (n,), the margin to overshoot by
    reached: Tensor = field(init=False)  # bool (n,), whether it was a success on the way

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slope = torch.zeros_like(self.x)
        self.level = torch.zeros_like(self.effort)
        self.reached = torch.zeros_like(self.open)


def search(
    model: Classifier,
    images: Tensor,
    goal: Goal,
    objective: Objective,
    *,
    kappa: float,
    initial_c: float | None,
    rounds: int,
    steps: int,
) -> Tensor:
    """The smallest changes found in ``rounds`` searches of at most ``steps`` passes each: images (N, ...).

    One pass more, with a backward for each candidate, ranks the classes. Images that are a success as they are,
    whatever their margin, and images that are not reached come back as they were.

    Args:
        model: pixels to logits.
        images: (N, ...).
        goal: what counts as success.
        objective: what is to be small.
        kappa: the margin that a success must have, at least 0.
        initial_c: the c of the first search, or None for that of each row's linearised problem.
        rounds: how many searches.
        steps: how many passes in each.
    """
    best, routes = _survey(model, images, goal, objective, kappa)
    effort = torch.ones_like(best.size)
    for round_ in range(rounds):
        turn = round_ % routes.count.clamp_min(1)
        wanted = torch.where(round_ < routes.count, routes.length(turn) < _PROMISING * best.size, best.size.isinf())
        place = (wanted & (routes.count > 0)).nonzero().squeeze(1)
        if not len(place):
            break  # later routes are longer
        x, of_place = images[place], goal.rows(place)
        trial = _Trial(x, x, of_place, routes.towards(of_place, turn, place), place, effort[place])
        _descend(model, trial, best, initial_c=initial_c, steps=steps)
        effort = torch.where(best.size.isinf(), effort * 10, effort)
    return best.images


@dataclass
class _Routes:
    """The ways to success, the shortest of each image first."""

    count: Tensor  # int64 (N,), how many an image has: none where it needs nothing, or nothing leads there
    lengths: Tensor  # (m, N)
    rivals: Tensor | None  # int64 (m, N), the class at the end of each; None for the one way to a target

    def length(self, turn: Tensor) -> Tensor:
        """Of the way whose turn it is, int64 (N,): (N,)."""
        return self.lengths.gather(0, turn[None]).squeeze(0)

    def towards(self, goal: Goal, turn: Tensor, place: Tensor) -> Goal:
        """The goals of the rows ``place``, int64 (n,), that lead along it."""
        if self.rivals is None:
            return goal
        return _Towards(goal.classes, self.rivals.gather(0, turn[None]).squeeze(0)[place])


def _survey(model: Classifier, images: Tensor, goal: Goal, objective: Objective, kappa: float) -> tuple[Best, _Routes]:
    """The scale of each row's logits, and its ways to success."""
    x = images.detach().requires_grad_()
    logits = model.logits(x).to(x.dtype)
    plain = logits.detach()
    best = Best(images, objective, kappa, goal, plain)
    everything = torch.arange(len(images), device=images.device)
    if not isinstance(goal, Untargeted):
        reachable = best.gap(everything, goal, plain).isfinite() & ~goal.success(plain)
        return best, _Routes(reachable.long(), torch.zeros_like(best.size)[None], None)
    others = plain.scatter(1, goal.classes[:, None], -torch.inf)
    others = others.topk(min(_CANDIDATES, plain.shape[1] - 1)).indices
    alive = (contenders(plain) & ~goal.success(plain)[:, None]).gather(1, others)
    lengths = []
    for rivals, contends in zip(others.unbind(1), alive.unbind(1), strict=True):
        gap = best.gap(everything, _Towards(goal.classes, rivals), logits)
        slope = model.gradient(gap, x, keep_graph=True)
        changes, _ = objective.solve(images, images, slope, gap.detach(), objective.largest_c)
        leads = contends & gap.detach().isfinite() & (slope.flatten(1) != 0).any(1)
        lengths.append(objective.size(changes).where(leads, torch.inf))
    ordered, order = torch.stack(lengths).sort(dim=0, stable=True)
    return best, _Routes(ordered.isfinite().sum(0), ordered, others.T.gather(0, order))


def _descend(model: Classifier, rows: _Trial, best: Best, *, initial_c: float | None, steps: int) -> None:
    """One search: each step is a forward and a backward, and goes a part of the way to the solution."""
    objective, weight = best.objective, 0.0
    for step in range(steps):
        x = rows.x.detach().requires_grad_()
        logits = model.logits(x).to(x.dtype)
        gap = best.gap(rows.place, rows.route, logits)
        changes = rows.x - rows.originals
        rows.reached |= best.offer(rows.place, rows.x, changes, rows.goal, logits.detach(), rows.open)
        if step == steps - 1:
            break
        tangent = model.gradient(gap, x)
        gap, edge = gap.detach(), best.edge(rows.place, rows.goal, logits) / best.unit[rows.place]
        del x, logits  # and with them the graph, before the step makes tensors of its own
        if not step:
            rows.aim = (gap * objective.overshoot * rows.effort).clamp_min(0)
            rows.c = _starting_c(rows, best, tangent, gap + rows.aim, initial_c)
        weight = objective.memory * weight + (1 - objective.memory)
        blend = (1 - objective.memory) / weight
        rows.level = torch.lerp(rows.level, gap - dot(tangent, changes), blend)
        rows.slope = torch.lerp(rows.slope, tangent, blend)
        level = rows.level + rows.aim + 2 * edge
        wanted, _ = objective.solve(rows.x, rows.originals, rows.slope, level, rows.c)
        if step % _LOOK == _LOOK - 1:
            losing = objective.size(wanted) > _LOSING * best.size[rows.place]
            if not rows.close(losing):
                break
            changes, wanted = rows.compact(changes, wanted)
            rows.aim = torch.where(rows.reached, rows.aim, 2 * rows.aim)
        fraction = objective.first / 2 * (1 + math.cos(math.pi * step / steps))
        rows.move(objective.move(rows.x, fraction * (wanted - changes)))


def _starting_c(rows: _Trial, best: Best, slope: Tensor, level: Tensor, initial_c: float | None) -> Tensor:
    objective = best.objective
    if initial_c is None:
        _, multiplier = objective.solve(rows.x, rows.originals, slope, level, objective.largest_c)
        c = _HEADROOM * multiplier
    else:
        c = initial_c * best.unit[rows.place]
    return (c * rows.effort).clamp_max(objective.largest_c)
