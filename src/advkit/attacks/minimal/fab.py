"""The fast adaptive boundary attack."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.scale import contenders, magnitude
from advkit._engine.boundaries import Boundaries, dot, nearest_boundaries
from advkit._engine.scatter import scattered
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.attacks.minimal.rivals import WithRivals
from advkit.goals import Goal, Targeted
from advkit.hyperparameters import Number, declared, number
from advkit.norms import Norm, column

__all__ = ["FAB"]

# How far from the image a restart begins at most, twice, where there is no eps: of pixels in [0, 1].
_AROUND = {norms.Linf: 0.3, norms.L2: 1.0, norms.L1: 5.0}

# Of the pixels' range: steps count as this long at least, where a share of one in two is taken.
_SHORTEST = 1e-8

# A boundary counts as this far away at least: where two logits are equal, going there would be to stay.
_NEAREST = 1e-6

# A class far out of the race is walked to while its boundary is no further away than that many times the size of the
# box: so is a class that is just behind two whose logits are about 0, and not one that is masked with -1e9.
_BEYOND = 100


@dataclass
class _Walk(WithRivals):
    """Rows on a walk along the boundaries of their rivals."""

    originals: Tensor  # (n, ...)
    place: Tensor  # int64 (n,), in the whole batch
    drawn: Tensor  # bool (n,), whether the rows are drawn back to their originals
    racing: Tensor  # bool (n,), whether one of the rivals was in the race at the original


class _Closest:
    """The closest success inside eps, over all walks.

    Args:
        images: (N, ...), the originals, which are the answer where there is none.
        norm: in which to measure.
        eps: what a distance has to be below, one for all or (N,), or None for any.
    """

    def __init__(self, images: Tensor, norm: Norm, eps: float | Tensor | None) -> None:
        self.images, self.norm = images.clone(), norm
        self.least = torch.full(images.shape[:1], torch.inf, dtype=images.dtype, device=images.device)
        self.eps = None if eps is None else torch.zeros_like(self.least).add_(eps)

    @property
    def settled(self) -> Tensor:
        """Which images need nothing more: bool (N,)."""
        return self.least < torch.inf if self.eps is not None else torch.zeros_like(self.least, dtype=torch.bool)

    def see(self, rows: _Walk, logits: Tensor) -> None:
        """Take note of where the rows stand, and what the model says there, (n, K)."""
        place, distance = rows.place, self.norm.distance(rows.x, rows.originals)
        least = self.least[place]
        nearest = least if self.eps is None else least.minimum(self.eps[place])
        better = rows.active & rows.fooled(logits) & (distance < nearest)
        self.least[place] = distance.where(better, least)
        self.images[place] = rows.x.where(column(better, rows.x), self.images[place])


@dataclass(frozen=True, eq=False)
class FAB(Attack):
    """Fast adaptive boundary attack: steps to the boundary of the linearised model, biased towards the image.

    With f the lead of the label over a rival class and w = grad_x f, a step projects both the current point x and the
    image x0 onto the hyperplane f(x) + w . (z - x) = 0 within the box, exactly, in the norm to be minimised. With d and
    d0 the two projection steps and a = min(|d| / (|d| + |d0|), ``alpha_max``), it goes to
    clip((1 - a) (x + ``eta`` d) + a (x0 + ``eta`` d0)). If that fools the model it is a candidate, and the next step
    starts part of the way back, at x0 + ``beta`` (x - x0). The closest candidate is returned; an image that has none
    is returned unchanged.

    By default this is FAB-T, as in AutoAttack's "standard": one run of ``steps`` steps for each of the
    ``target_classes`` largest logits but the label's, in that order, and any class but the label is a success. With
    ``target_classes=None`` it is the paper's algorithm, as in AutoAttack's "plus": one run, in which each step takes
    the nearest boundary among those of all classes. With ``targets`` there is one run, to the boundary between the
    target and the largest other logit; it is biased towards the image once the target has been reached.

    A step takes two forwards and one backward; with ``target_classes=None``, two forwards and a backward for each class
    but the label. One more forward finds the classes, and the images that are already misclassified, which are returned
    unchanged. So are images whose gradients are zero; they leave after one step.

    With ``eps``, only candidates closer than that count, and an image leaves with its first one: the result is then not
    the closest image, but the verdict on whether there is one is that of all steps. Without it, each image takes all
    steps.

    Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack", ICML 2020,
    algorithm 1. As in the authors' code, x is projected from either side of the boundary. The runs to one class each
    2020, by the same authors.
    arXiv:1907.02044.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "linf", "l2" or "l1", or an object of `advkit.norms`: the norm to minimise.
        eps: what the change must be smaller than, at least 0: a number, or a tensor of shape (N,); None for the
            smallest change, however large.
        steps: the most steps in each run, at least 1.
        restarts: the number of runs for each class, at least 1: the first from the image, the others from random points
            around it, half as far away as the closest candidate so far, at most ``eps`` / 2; without ``eps``, at most
            0.15 (Linf), 0.5 (L2) or 2.5 (L1) of the range of ``bounds``.
        target_classes: how many classes have a run of their own, at least 1, all if there are fewer; or None for one
            run with the boundaries of all classes.
        alpha_max: the largest weight of the image in a step, in [0, 1].
        eta: the overshoot of both projections, at least 1; 1 is none.
        beta: how much of the change is kept on the way back from a candidate, in (0, 1].
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the restarts; torch's default if None. The first run is deterministic.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

    Examples:
        >>> closest = advkit.FAB(model, norm="l2", steps=20).run(images, labels)
        >>> bool((closest.distance("l2") <= advkit.DeepFool(model).run(images, labels).distance("l2")).all())
        True
        >>> advkit.FAB(model, norm="l2", eps=0.2, steps=20).run(images, labels)
        AdversarialResult(10 of 12 successful)
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    norm: str | Norm = hyperparameters.norm("linf", "l2", "l1")
    eps: float | Tensor | None = number(None, at_least=0, per_image=True)
    steps: int = number(100, at_least=1, integer=True)
    restarts: int = number(1, at_least=1, integer=True)
    target_classes: int | None = declared(9, Number(at_least=1, integer=True, optional=True))
    _: KW_ONLY
    alpha_max: float = number(0.1, at_least=0, at_most=1)
    eta: float = number(1.05, at_least=1)
    beta: float = number(0.9, above=0, at_most=1)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        with torch.no_grad():
            logits = self.classifier.logits(images)
        closest = _Closest(images, norms.get(self.norm), self.eps)
        wrong, racing = goal.success(logits), contenders(logits)
        for rivals in self._turns(goal, logits):
            in_race = racing.gather(1, rivals).any(1)
            reachable = (logits.gather(1, rivals) > -torch.inf).any(1) & ~wrong
            for restart in range(self.restarts):
                place = (reachable & ~closest.settled).nonzero().squeeze(1)
                if not len(place):
                    break
                part, originals = goal.rows(place), images[place]
                sizes = magnitude(logits[place], part.classes)
                drawn = torch.full_like(wrong[place], not isinstance(goal, Targeted))
                rows = _Walk(originals, part, rivals[place], sizes, originals, place, drawn, in_race[place])
                if restart:
                    rows.x = self._elsewhere(rows, closest)
                self._walk(rows, closest)
        return closest.images

    def _turns(self, goal: Goal, logits: Tensor) -> Iterator[Tensor]:
        """The classes whose boundaries each walk knows: int64 (N, m)."""
        if self.target_classes is None:
            yield goal.rivals(logits, logits.shape[1] - 1)
        else:
            yield from goal.rivals(logits, self.target_classes).split(1, dim=1)

    def _elsewhere(self, rows: _Walk, closest: _Closest) -> Tensor:
        """Random places to start at: (n, ...)."""
        norm, (low, high) = closest.norm, self.bounds
        known = closest.least[rows.place]
        radius = (known.clamp_max(_AROUND[norm] * (high - low)) if closest.eps is None else closest.eps[rows.place]) / 2
        return scattered(rows.x, norm, radius, self.generator).clamp(low, high)

    def _walk(self, rows: _Walk, closest: _Closest) -> None:
        """Take the steps of one walk, and show the candidates to ``closest``."""
        extent = torch.full_like(rows.originals[:1], self.bounds[1] - self.bounds[0])
        beyond = _BEYOND * closest.norm.size(extent)
        for _ in range(self.steps):
            x = rows.x.detach().requires_grad_()
            logits = self.classifier.of(rows.goal).logits(x)
            gaps = rows.gaps(logits)
            gaps = torch.where(gaps < 0, -gaps, gaps)  # a boundary may be behind; that of a tie still has a slope
            found = nearest_boundaries(self.classifier, x, gaps.unbind(1), closest.norm)
            stays = found.distance.isinf() & (rows.x == rows.originals).flatten(1).all(1)
            masked = ~rows.racing & (found.distance > beyond)
            del x, logits, gaps  # and the graph, before the step makes tensors of its own
            rows.move(self._step(rows, found, closest.norm))
            with torch.no_grad():
                logits = self.classifier.of(rows.goal).logits(rows.x)
            closest.see(rows, logits)
            fooled = rows.goal.success(logits)
            back = rows.originals + self.beta * (rows.x - rows.originals)
            rows.move(back.where(column(fooled, back), rows.x))
            rows.drawn = rows.drawn | fooled
            rows.retire(stays | masked | closest.settled[rows.place])
            if rows.finished:
                break
            rows.compact()

    def _step(self, rows: _Walk, found: Boundaries, norm: Norm) -> Tensor:
        """Beyond the boundary, from where the rows stand and from the images, and a mean of the two: (n, ...)."""
        there, image, extent = rows.x, rows.originals, self.bounds[1] - self.bounds[0]
        slope = found.slopes.gather(1, found.distances.argmin(1, keepdim=True)).squeeze(1)
        gap = found.gap.maximum(_NEAREST * extent * slope)
        behind = gap + dot(found.gradient, image - there)  # at the image, by the linearised model
        on = step_to_hyperplane(norm, there, found.gradient, gap, self.bounds)
        back = step_to_hyperplane(norm, image, found.gradient, behind, self.bounds)
        length, other = (norm.size(one).clamp_min(_SHORTEST * extent) for one in (on, back))
        share = column((length / (length + other)).clamp_max(self.alpha_max).where(rows.drawn, 0), there)
        x = (1 - share) * (there + self.eta * on) + share * (image + self.eta * back)
        return x.clamp(*self.bounds)
