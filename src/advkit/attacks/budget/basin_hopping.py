"""Basin hopping: gradient searches that start from perturbed end points of earlier ones."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import hyperparameters
from advkit._base.random import uniform_like
from advkit._base.scale import contenders
from advkit._engine.ball import Ball
from advkit._engine.iterate import iterate
from advkit._engine.keeps import HighestLoss
from advkit._engine.looks import Look
from advkit.attack import Attack
from advkit.attacks.budget.towards import Towards
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.norms import Norm, column

__all__ = ["BasinHopping"]

_STARTS = 4  # towards each class before the first hop: from the image, and from random points
_KEPT = 16  # ends that hops start from,
_FAVOUR = 4  # of which the best fourth is taken on the mean
_WINDOWS = 0.6  # how many hops mirror a window; the others draw features anew
_SHARE = (0.1, 0.5)  # of the features, or of each side of the window
_LENGTHS = (0.1, 0.7)  # of a search's first step, in parts of the budget
_MEMORY = 0.75  # what a step keeps of the directions before
_TOGETHER = 64  # searches at a time: of few images several each


@dataclass(frozen=True, eq=False)
class BasinHopping(Attack):
    """Basin hopping: gradient searches that start from the end points of earlier ones, partly changed (Linf or L2).

    For images that random restarts do not fool. A restart forgets what was found; a hop keeps most of it. Each search
    aims at one class k and maximises the difference of logits Z_k - Z_y inside the ball. The first four for each class
    start at the image and at random points. Each later one starts from one of the 16 end points with the smallest
    margins, favouring the smallest, after one of two changes: a tenth to a half of the features are redrawn from the
    ball, or a window, a tenth to a half of the image in height and width, is mirrored about the centre of the ball.

    A search takes ``steps`` steps x <- project(x + eta steepest(d)), with d <- 0.75 d + g / ||g||_2, and with eta
    decaying to 0 on a cosine schedule from a tenth to seven tenths of ``eps``, drawn for each hop. An image leaves the
    batch at its first success; one that is never fooled is returned where its margin was smallest.

    Wales & Doye, "Global optimization by basin-hopping and the lowest energy structures of Lennard-Jones clusters
    containing up to 110 atoms", J. Phys. Chem. A 101, 1997, doi:10.1021/jp970984n. The two kinds of change, and a pool
    of end points in place of a Metropolis walk, are advkit's own, chosen by measurement.

    Args:
        model: pixels (N, ...) to logits (N, K).
        norm: "linf" or "l2", or an object of `advkit.norms`.
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of ``bounds``
            if not given.
        searches: the most searches for one image, at least 1.
        steps: the number of steps in a search, at least 1; a step is one forward and one backward.
        target_classes: the number of classes to try, those with the largest logits; all of them if there are fewer.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for starts and hops; torch's default if None.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

    Examples:
        >>> standing = advkit.MultiTargeted(model, eps=2 / 255).run(images, labels).success.logical_not()
        >>> result = advkit.BasinHopping(model, eps=2 / 255, searches=20).run(images[standing], labels[standing])
        >>> bool((result.distance("linf") <= 2 / 255 + 1e-6).all())
        True
    """

    independent_rows: ClassVar[bool] = True

    norm: str | Norm = hyperparameters.norm("linf", "l2")
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    searches: int = number(200, at_least=1, integer=True)
    steps: int = number(40, at_least=1, integer=True)
    target_classes: int = number(9, at_least=1, integer=True)
    _: KW_ONLY

    @property
    def stops_at_success(self) -> bool:
        """True: an image leaves the search as soon as the model is fooled."""
        return True

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = Ball.of(self.norm, images, self.eps, self.bounds)
        with torch.no_grad():
            logits = self.classifier.logits(images)
        rivals = goal.rivals(logits, self.target_classes)
        rivals = rivals.where(contenders(logits).gather(1, rivals), rivals[:, :1])
        classes = rivals.shape[1]
        ends = _Ends.none(images)
        ends.gap[goal.success(logits), 0] = -torch.inf
        while ends.searches < self.searches and len(standing := ends.standing()):
            few = min(max(1, _TOGETHER // len(standing)), self.searches - ends.searches)
            place = standing.repeat_interleave(few)
            around = ball.rows(place)
            if ends.searches < _STARTS * classes:
                turn = torch.arange(few, device=place.device).repeat(len(standing)) + ends.searches
                x = around.originals.where(column(turn < classes, images), around.sample(self.generator))
                rank, length = turn % classes, torch.full_like(place, _LENGTHS[1], dtype=x.dtype)
            else:
                x, rank = ends.drawn(place, self.generator)
                x, length = self._hop(x, around), _LENGTHS[0] * (_LENGTHS[1] / _LENGTHS[0]) ** self._draws(x)
            wanted = goal.rows(place).towards(rivals[place, rank])
            rows = _Search(x, wanted, around, torch.zeros_like(x), length * around.eps)
            ends.take(standing, *self._search(rows), rank)
        return ends.x[:, 0]

    def _hop(self, x: Tensor, ball: Ball) -> Tensor:
        """Points (n, ...) with some features drawn anew, or with a window of them mirrored: inside the ball."""
        least, most = _SHARE
        share = least + (most - least) * self._draws(x)
        scattered = uniform_like(x, self.generator) < column(share, x)
        in_windows = self._draws(x) < _WINDOWS
        changed = self._window(x, share).where(column(in_windows, x), scattered)
        other = (2 * ball.middle - x).where(column(in_windows, x), ball.sample(self.generator))
        return ball.project(other.where(changed, x))

    def _window(self, x: Tensor, share: Tensor) -> Tensor:
        """A window of each image, or a stretch of each vector, with so much of each side, (n,): bool, as ``x``."""
        inside = torch.ones_like(x, dtype=torch.bool)
        for dim in (-2, -1) if x.ndim > 3 else (-1,):
            size, shape = x.shape[dim], [1] * x.ndim
            shape[0], shape[dim] = x.shape[0], size
            start = self._draws(x) * (1 - share) * size
            at = torch.arange(size, device=x.device)
            within = (at + 1 > start[:, None]) & (at < (start + share * size)[:, None])
            inside = inside & within.view(shape)
        return inside

    def _search(self, rows: "_Search") -> tuple[Tensor, Tensor]:
        """Where rows come nearest to the class of their goal, (n, ...), and by how much they miss it, (n,)."""

        def step(rows: _Search, look: Look) -> Tensor:
            rows.turn(look, _MEMORY)
            falling = (1 + math.cos(math.pi * look.step / self.steps)) / 2
            ahead = rows.ball.norm.steepest(rows.direction)
            return rows.ball.project(ahead.mul_(column(falling * rows.length, rows.x)).add_(rows.x))

        best = HighestLoss(rows.x)
        iterate(self.classifier, rows, step, steps=self.steps, loss="margin", keep=best, early_stop=True)
        return best.images, best.least

    def _draws(self, x: Tensor) -> Tensor:
        """A draw for each row of ``x`` (n, ...), uniformly from [0, 1): (n,)."""
        return uniform_like(x.new_empty(len(x)), self.generator)


@dataclass
class _Search(Towards):
    length: Tensor  # (n,), of the first step


@dataclass
class _Ends:
    """Where the best searches of each image ended, the least margin first."""

    x: Tensor  # (N, m, ...)
    gap: Tensor  # (N, m), to the class that the search went towards; minus infinity where the model is fooled
    rank: Tensor  # int64 (N, m), the class, by its place among the image's rivals
    searches: int = 0  # of each image that still stands

    @classmethod
    def none(cls, images: Tensor) -> Self:
        """No searches yet: the images (N, ...) themselves."""
        gap = images.new_full((len(images), _KEPT), torch.inf)
        x = images[:, None].repeat(1, _KEPT, *[1] * (images.ndim - 1))
        return cls(x, gap, torch.zeros_like(gap, dtype=torch.int64))

    def standing(self) -> Tensor:
        """The images that the model is not yet fooled on, int64 (n,). Waits for the device."""
        return (self.gap[:, 0] > -torch.inf).nonzero().squeeze(1)

    def drawn(self, place: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """An end for each of the images, int64 (n,), and the rank of its class: (n, ...) and int64 (n,)."""
        known = min(self.searches, _KEPT)
        draws = uniform_like(self.gap.new_empty(len(place)), generator)
        one = (-torch.log1p(-draws) * known / _FAVOUR).long().clamp_max(known - 1)
        return self.x[place, one], self.rank[place, one]

    def take(self, standing: Tensor, x: Tensor, gap: Tensor, rank: Tensor) -> None:
        """Take note of as many searches of each of the images that stand, int64 (n,): ends (n * few, ...)."""
        n = len(standing)
        self.searches += len(x) // n
        gaps = torch.cat([self.gap[standing], gap.view(n, -1)], 1)
        gaps, order = gaps.sort(dim=1, stable=True)
        order, rows = order[:, :_KEPT], torch.arange(n, device=x.device)[:, None]
        self.gap[standing] = gaps[:, :_KEPT]
        self.rank[standing] = torch.cat([self.rank[standing], rank.view(n, -1)], 1)[rows, order]
        self.x[standing] = torch.cat([self.x[standing], x.view(n, -1, *x.shape[1:])], 1)[rows, order]
