"""The MultiTargeted attack."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.random import normal_like
from advkit._base.scale import contenders, magnitude, power_of_two
from advkit._engine.ball import Ball
from advkit._engine.boundaries import dual_size, linear_distances, nearest_boundaries
from advkit._engine.classifier import own
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Standing
from advkit._engine.looks import Look
from advkit._engine.masks import Frame, Shown, free_pixels
from advkit._engine.rows import Rows
from advkit.attack import Attack
from advkit.attacks.budget.towards import Towards
from advkit.goals import Goal, Untargeted
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.model import attacking
from advkit.norms import Norm, column

__all__ = ["MultiTargeted"]

_MEMORY = 0.7  # what a step keeps of the directions before: signs of single gradients go to and fro at an edge
_FEWEST = 3  # steps towards a class, however late its turn
_HAIR, _PATIENT = 0.1, 10  # a class that came so near, in parts of the budget, gets so many times the steps, once,
_LINEAR = 0.001  # unless it came as near, to so small a part of the budget, as it does on a linear model
_AGAIN = 3  # classes that a restart tries,
_LONGER = 2  # in so many times the steps,
_NEAR = 0.75  # if they came this near before, in parts of the budget
_BEYOND = 100  # a class far out of the race is tried if it is nearer than that many times the size of the box
_NOISE = (5.0, 1.0)  # of a restart at first and in the end, over what each feature has of the budget
_LOOK = 5  # steps of a restart between looks at who is fooled
_MOVED = (0.01, 0.0005)  # in L1: the share of the features that a step moves, at first and in the end
_SHARE = {norms.Linf: 0.0, norms.L2: 0.5, norms.L1: 1.0}  # of d features each has eps / d ** this of the budget


@dataclass(frozen=True, eq=False)
class MultiTargeted(Attack):
    """MultiTargeted: towards one class after another, the nearest first, until the model is fooled (Linf, L2 or L1).

    For each class k that competes with the label y, the difference of logits Z_k - Z_y is maximised inside the ball:
    it does not saturate as cross-entropy does, and aiming at one class does not get stuck between two. An image leaves
    the batch, for all classes and restarts, at its first success. What follows is not in the paper, and was chosen by
    measurement:

    - The classes are ordered by their linearised distance (Z_y - Z_k) / ||grad (Z_y - Z_k)||_q, at the cost of one
      backward each, and the k-th gets ``steps`` / k steps: any class but the first hardly ever decides.
    - x <- project(x + eta steepest(d)) from the image itself, with d <- 0.7 d + g / ||g||_2 and eta decaying from
      2 eps to 0 on a cosine schedule. In L1 a step moves the few features with the largest d that are not yet at a
      bound, fewer and fewer of them.
    - Where the nearest class came within a tenth of ``eps``, by linearisation at some step, ten times ``steps`` are
      taken towards it, from the image again: some ways in are narrow and bent, and 20 steps do not see their end.
      Where the model was linear on the way, nothing can come of it, and it is left out.
    - Restarts take gradients at points displaced by Gaussian noise, which decays, and judge success at the undisplaced
      points. That finds a way where a network is flat or rough around the image. They are for the images that are not
      fooled yet, and try the three classes that came closest, if they came close.

    Images that are never fooled are returned where their margin was smallest. With ``targets``, the target is the only
    class.

    Gowal et al., "An alternative surrogate loss for PGD-based adversarial testing", 2019, section 3 (algorithm 1), with
    the ranking of Melamed et al., "MALT powers up adversarial attacks", NeurIPS 2024. arXiv:1910.09338.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        steps: the number of steps towards the nearest class, at least 1; the k-th gets 1/k of them, but at least 3.
            A step is one forward and one backward. What came near gets ten times as many, once, and a restart takes
            twice as many towards each of its classes.
        target_classes: the number of classes to try, those with the largest logits; all of them if there are fewer.
        restarts: the number of runs, at least 1. The first is deterministic.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the noise of the restarts; torch's default if None.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

    Examples:
        >>> result = advkit.MultiTargeted(model, norm="l2", eps=0.5).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("l2") <= 0.5 + 1e-6).all())
        True
    """

    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    steps: int = number(20, at_least=1, integer=True)
    target_classes: int = number(9, at_least=1, integer=True)
    restarts: int = number(3, at_least=1, integer=True)
    _: KW_ONLY

    @property
    def stops_at_success(self) -> bool:
        """True: an image leaves the search as soon as the model is fooled."""
        return True

    def within_reach(self, images: Tensor, labels: Tensor) -> Tensor:
        """Where the linearised model would be fooled within the budget: bool (N,), on the device of the images.

        An image that is within reach and still not fooled is one whose gradients promise more than they deliver. Costs
        one forward per image, and another forward with a backward for each class.

        Args:
            images: floating (N, ...), within ``bounds``, N at least 1.
            labels: int64 (N,).

        Examples:
            >>> advkit.MultiTargeted(model, eps=4 / 255).within_reach(images, labels).shape
            torch.Size([12])
        """
        model = Shown(self.model, {"labels": labels})
        with attacking(self.model, adaptive=self.adaptive):
            x = own(images, *model.workplace(images))
            goal = Untargeted(own(labels, x.device, torch.int64))
            eps = torch.as_tensor(self.eps, dtype=x.dtype, device=x.device).expand(len(x))
            every = torch.arange(len(x), device=x.device)
            free = None if self.mask is None else free_pixels(self.mask, x)
            near = torch.zeros_like(every, dtype=torch.bool)
            for rows, model.frame in [(every, None)] if free is None else Frame.around(x, free):
                part = x if model.frame is None else model.frame.vectors()
                some = replace(goal.rows(rows), place=every[: len(rows)])
                routes = self._with(model=model)._survey(part, some, _Found(part, some), ranked=True)
                near[rows] = (routes.open & (routes.far < eps[rows, None])).any(1)
        return near.to(images.device)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = Ball.of(self.norm, images, self.eps, self.bounds)
        found = _Found(images, goal)
        routes = self._survey(images, goal, found)
        budget = column(self.eps, routes.far)
        ahead = routes.far - budget  # how far the classes are from the edge of the ball if the model is linear

        def climb(rank: Tensor, wanted: Tensor, way: Callable[[_Aim, _Found, int], None], steps: int) -> None:
            """Towards the rivals of these ranks, int64 (N,), where they are wanted, bool (N, m)."""
            place = found.left(wanted.gather(1, rank[:, None]).squeeze(1))
            if len(place):
                rows = routes.towards(rank[place], goal, ball, place)
                way(rows, found, steps)
                routes.learn(rows, rank)

        for turn, rank in enumerate(routes.nearest_first()):
            climb(rank, routes.open, self._straight, max(self.steps // (turn + 1), min(self.steps, _FEWEST)))
        nearest, *_ = routes.nearest_first()
        bent = (routes.far - ahead).abs() > _LINEAR * budget
        climb(nearest, routes.within(_HAIR * budget) & bent, self._straight, _PATIENT * self.steps)
        for _ in range(1, self.restarts):
            wanted = routes.within(_NEAR * budget) | (routes.open & routes.far.isinf())  # gradients said nothing there
            for rank in routes.nearest_first()[:_AGAIN]:
                climb(rank, wanted, self._through_noise, _LONGER * self.steps)
        return found.images

    def _survey(self, images: Tensor, goal: Goal, found: "_Found", *, ranked: bool = False) -> "_Routes":
        """Who is fooled already; and for the others the classes to try, and how far they are: one Jacobian.

        One class needs no ranking, and is infinitely far away then, if it is not to be ``ranked`` all the same.
        """
        with torch.no_grad():
            logits = self.classifier.logits(images)
        found.note(goal, logits)
        unit = power_of_two(magnitude(logits, goal.classes))
        rivals, norm = goal.rivals(logits, self.target_classes), norms.get(self.norm)
        far = torch.full_like(rivals, torch.inf, dtype=images.dtype)
        racing = contenders(logits).gather(1, rivals)
        place = found.left(None if ranked or rivals.shape[1] > 1 else ~racing.all(1))
        if len(place):
            x, standing = images[place].requires_grad_(), goal.rows(place)
            seen = self.classifier.of(standing).logits(x)
            gaps = [standing.towards(rival).margin(seen) / unit[place] for rival in rivals[place].unbind(1)]
            far[place] = nearest_boundaries(self.classifier, x, gaps, norm).distances.to(far)
        box = norm.size(torch.full_like(images[:1], self.bounds[1] - self.bounds[0]))
        return _Routes(rivals, far, racing | (far < _BEYOND * box), unit)

    def _straight(self, rows: "_Aim", found: "_Found", steps: int) -> None:
        """From the image, by the gradients where the rows stand."""

        def step(rows: _Aim, look: Look) -> Tensor:
            return self._step(rows, look, steps)

        iterate(self.classifier, rows, step, steps=steps, loss="margin", keep=found, early_stop=True)

    def _through_noise(self, rows: "_Aim", found: "_Found", steps: int) -> None:
        """From the image, by the gradients at points about the rows, which come nearer step by step."""
        share = math.pow(rows.x[0].numel(), _SHARE[rows.ball.norm])

        def step(rows: _Aim, look: Look) -> Tensor:
            return self._step(rows, look, steps)

        def noisy(x: Tensor) -> Tensor:
            size = _between(*_NOISE, rows.taken / steps) / share
            noise = normal_like(x, self.generator) * column(rows.ball.eps, x) * size
            return x + ((x.detach() + noise).clamp(*self.bounds) - x.detach())

        while rows.taken < steps and not rows.finished:
            few = min(_LOOK, steps - rows.taken)
            iterate(self.classifier, rows, step, steps=few, loss="margin", inputs=noisy)
            with torch.no_grad():
                logits = self.classifier.of(rows.goal).logits(rows.x)
            look = Look(rows.taken, rows.x, logits, rows.nearest, rows.x, rows.goal)
            found.see(rows, look)
            rows.retire(look.success)
            rows.compact()

    def _step(self, rows: "_Aim", look: Look, steps: int) -> Tensor:
        """Where the rows are after a step along the mean of their directions: (n, ...), inside the ball."""
        done, x, ball = rows.taken / steps, rows.x, rows.ball
        rows.nearest = rows.nearest.minimum(
            linear_distances(-look.loss, dual_size(look.gradient, ball.norm)).to(rows.nearest)
        )
        rows.turn(look, _MEMORY)
        rows.taken += 1
        length = (1 + math.cos(math.pi * done)) * column(ball.eps, x)
        ahead = self._sparse(rows, length, done) if ball.norm is norms.L1 else ball.norm.steepest(rows.direction)
        return ball.project(x + length * ahead)

    def _sparse(self, rows: "_Aim", length: float | Tensor, done: float) -> Tensor:
        """Along the largest entries of the direction, where a feature has room, all by the same; of L1 norm 1.

        There are no fewer of them than a step of that length, one for all or (n, 1, ..., 1), takes to be taken at all.
        """
        low, high = self.bounds
        room = torch.where(rows.direction > 0, rows.x < high, rows.x > low)
        direction = rows.direction.where(room, 0).flatten(1)
        order = direction.abs().argsort(dim=1, descending=True, stable=True)
        rank = torch.arange(order.shape[1], device=order.device)
        needed = torch.as_tensor(length / (high - low), device=order.device).reshape(-1, 1).ceil()
        count = needed.clamp(max(1, round(_between(*_MOVED, done) * len(rank))), len(rank)).to(direction.dtype)
        signs = torch.where(rank < count, direction.gather(1, order).sign() / count, 0)
        return torch.zeros_like(direction).scatter(1, order, signs).view_as(rows.x)


@dataclass
class _Aim(Towards):
    place: Tensor  # int64 (n,), in the whole batch
    unit: Tensor  # (n,), what their logits are measured in
    nearest: Tensor  # (n,), how far the class still was by linearisation, where that was least
    taken: int = 0  # steps

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the gap to the class, over the unit."""
        return super().climbed(loss, logits) / self.unit


class _Found(Standing):
    """The first place where each image fooled the model in any search, or else the one where its margin was least."""

    def __init__(self, images: Tensor, goal: Goal) -> None:
        super().__init__(images)
        self.goal = goal

    def note(self, goal: Goal, logits: Tensor) -> None:
        """Take note of what the model says of the images themselves, logits (N, K)."""
        self.least = goal.margin(logits).to(self.least)
        self.leave_out(goal.success(logits))

    def value(self, rows: Rows, look: Look) -> Tensor:
        """The margin to any class, of a success minus infinity: (n,)."""
        margin = self.goal.rows(self.place(rows)).margin(look.logits)
        return margin.where(~look.success, -torch.inf)


@dataclass
class _Routes:
    """The classes that each image may be taken for, by their places among its rivals."""

    rivals: Tensor  # int64 (N, m)
    far: Tensor  # (N, m), how far they are by linearisation, where that was least so far
    open: Tensor  # bool (N, m), whether they are in the race at all
    unit: Tensor  # (N,), what the image's logits are measured in

    def towards(self, rank: Tensor, goal: Goal, ball: Ball, place: Tensor) -> _Aim:
        """Rows for the images ``place``, int64 (n,), each towards the rival of that rank, int64 (n,)."""
        rival = self.rivals[place, rank]
        part = ball.rows(place)
        unknown = torch.full_like(self.far[place, rank], torch.inf)
        blank = torch.zeros_like(part.originals)
        return _Aim(part.originals, goal.rows(place).towards(rival), part, blank, place, self.unit[place], unknown)

    def nearest_first(self) -> tuple[Tensor, ...]:
        """Ranks of rivals, int64 (N,) each: of those that came nearest, of the next, and so on."""
        return self.far.argsort(dim=1, stable=True).unbind(1)

    def within(self, distance: float | Tensor) -> Tensor:
        """Which rivals in the race came nearer than that, a number or one for each image, (N, 1): bool (N, m)."""
        return self.open & (self.far < distance)

    def learn(self, rows: _Aim, rank: Tensor) -> None:
        """Take note of how near the rows came to the rivals of these ranks, int64 (N,)."""
        rank = rank[rows.place]
        self.far[rows.place, rank] = self.far[rows.place, rank].minimum(rows.nearest)


def _between(first: float, last: float, done: float) -> float:
    """The geometric mean of two sizes, ``last`` having the weight ``done``."""
    return first * math.pow(last / first, done)
