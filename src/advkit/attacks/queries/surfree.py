"""SurFree."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._base.random import uniform_like
from advkit._engine.decisions import Nearest, bisected
from advkit._engine.resampling import by_sides, cosines, own_precision
from advkit.attacks.queries.starting import Starting
from advkit.black_box import Oracle, canvas
from advkit.hyperparameters import number
from advkit.norms import L2, Norm, column

__all__ = ["SurFree"]

_TOLERANCE = 1e-3  # of the bisection at the start, as a share of the way
_FLOOR = 0.05  # the weight of a wave that the image itself has not, so that a flat image has directions as well


@dataclass(frozen=True, eq=False)
class SurFree(Starting):
    """SurFree: along circles towards the original, in one random direction after another, with no gradients (L2).

    With u the direction from the original to x, at a distance d, and v a random direction orthogonal to it, the points
    d cos(a) (cos(a) u + sin(a) v) from the original form the circle through both. If the one at an angle of a or -a
    fools the model, bisection finds the largest angle up to twice that which does, and that point is the next x. The
    angle to try first is divided by ``rho`` after each direction that helps and multiplied by ``rho`` after each that
    does not.

    Directions are sums of the lowest-frequency basis vectors of the discrete cosine transform, with random signs (or
    left out), and weighted by tanh of the image's own coefficients. They are orthogonal to earlier directions.

    It starts from the starting point that is given, if that fools the model, or else from uniform noise or another
    image of the batch, and bisects from there to the original; where none of them fools the model, the image is
    returned unchanged.

    Maho, Furon & Le Merrer, "SurFree: a fast surrogate-free black-box attack", CVPR 2021, with the settings of the
    authors' code. All weights are raised by 0.05, since a flat image would have none.
    arXiv:2011.12807.

    Args:
        model: pixels (N, ...) to logits (N, K), of which only the argmax is used; any callable, no gradient is
            needed.
        max_queries: the most forwards for one image, at least 1.
        theta_max: the angle to try first, in degrees, greater than 0 and at most 90.
        n_ortho: to how many earlier directions a new one is orthogonal, at least 1. So many are stored for each image,
            but no more than an eighth of the number of basis vectors.
        rho: the factor of the angle after a direction that does not help, greater than 0 and at most 1.
        frequencies: the fraction of the basis vectors to use, the lowest frequencies; greater than 0 and at most 1.
        bs_gamma: the tolerance of the bisection, as a fraction of the angle, greater than 0.
        bs_max_iteration: the most halvings in a bisection, at least 0.
        starting_points: (N, ...), an image within ``bounds`` for each image to start from; None for noise.
        init_size: how many draws of noise to try at most, and how many images of the batch, at least 1.
        batch_size: the most images in one call of the model, at least 1; None for as many as suit the
            device.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for noise and directions; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SurFree(model, max_queries=150).run(images, labels)
        >>> bool(result.success.all()), bool((result.queries <= 150).all())
        (True, True)
    """

    norm: ClassVar[Norm] = L2
    spatial: ClassVar[bool] = True

    max_queries: int = number(5000, at_least=1, integer=True)
    theta_max: float = number(30.0, above=0, at_most=90)
    n_ortho: int = number(100, at_least=1, integer=True)
    rho: float = number(0.95, above=0, at_most=1)
    frequencies: float = number(0.5, above=0, at_most=1)
    bs_gamma: float = number(0.01, above=0)
    bs_max_iteration: int = number(7, at_least=0, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        nearest = Nearest(ask, images, L2)
        rows, x = self._starts(ask, images)
        if not len(rows):
            return images
        x = nearest.back(rows, x, _TOLERANCE)
        nearest.note(rows, x)
        waves = _Waves.of(images[rows], self.frequencies, self.bounds)
        widest = x.new_full((len(x),), math.radians(self.theta_max))
        remembered = max(1, min(self.n_ortho, ask.limit, waves.count // 8))  # at right angles to all nothing is left
        past = x.new_zeros(len(x), remembered, images[0].numel())
        for turn in range(ask.limit):
            kept = (ask.left[rows] > 0).nonzero().squeeze(1)
            if len(kept) < len(rows):
                rows, x, widest, past, waves = rows[kept], x[kept], widest[kept], past[kept], waves.rows(kept)
            if not len(rows):
                break
            circle = _Circle(images[rows], x, waves.draw(self.generator), past, self.bounds)
            past[:, turn % past.shape[1]] = circle.across
            angles = self._angles(ask, rows, circle, widest)
            helped = angles != 0
            widest = torch.where(helped, widest / self.rho, widest * self.rho).clamp_max(math.pi / 2)
            places = helped.nonzero().squeeze(1)
            if len(places):
                x = x.index_copy(0, places, circle.at(places, angles[places]))
                nearest.note(rows[places], x[places])
        return nearest.images

    def _angles(self, ask: Oracle, rows: Tensor, circle: "_Circle", widest: Tensor) -> Tensor:
        """The angles (n,) up to which each of the rows fools along its circle; 0 where it does on neither side."""
        angles = torch.zeros_like(widest)
        for side in (1, -1):
            places = ((angles == 0) & (ask.left[rows] > 0)).nonzero().squeeze(1)
            if len(places):
                tried = side * widest[places]
                angles[places] = tried.where(ask.fools(circle.at(places, tried), rows[places]), 0)
        hit = (angles != 0).nonzero().squeeze(1)
        found = angles[hit]
        beyond = (2 * found).clamp(-math.pi / 2, math.pi / 2)  # at a right angle it is the original
        angles[hit] = bisected(
            ask,
            rows[hit],
            lambda places, between: circle.at(hit[places], between),
            beyond,
            found,
            self.bs_gamma * found.abs(),
            self.bs_max_iteration,
        )
        return angles


class _Circle:
    """The circle through each original and ``x``, (n, ...), in the plane of a random direction (n, D) as well.

    Attributes:
        across: (n, D), the direction, of length 1 and at right angles to ``x`` and to those of the past, (n, m, D).
    """

    def __init__(
        self, originals: Tensor, x: Tensor, direction: Tensor, past: Tensor, bounds: tuple[float, float]
    ) -> None:
        self.originals, self.bounds = originals, bounds
        change = (x - originals).flatten(1)
        self.size, self.towards = L2.size(change), L2.steepest(change)
        for _ in range(2):  # the second time for what the first has rounded off
            with own_precision(x.device):
                direction = direction - (past.mT @ (past @ direction[:, :, None])).squeeze(2)
            direction = direction - self.towards * (self.towards * direction).sum(1, keepdim=True)
            direction = L2.steepest(direction)
        self.across = direction

    def at(self, places: Tensor, angles: Tensor) -> Tensor:
        """Points (m, ...) on the circles of some rows, int64 (m,), at angles (m,) from ``x``."""
        cosine, sine = column(angles.cos(), self.across), column(angles.sin(), self.across)
        change = (self.towards[places] * cosine + self.across[places] * sine) * cosine
        change = change * column(self.size[places], change)
        return (self.originals[places] + change.view(-1, *self.originals.shape[1:])).clamp_(*self.bounds)


@dataclass
class _Waves:
    """The waves that directions consist of.

    Args:
        weights: (n, C, H, W), of the waves of each image.
        sides: the waves along the height, (H, H), and along the width, (W, W).
        count: how many there are.
    """

    weights: Tensor
    sides: tuple[Tensor, Tensor]
    count: int

    @classmethod
    def of(cls, images: Tensor, share: float, bounds: tuple[float, float]) -> Self:
        """Those of images (n, ...)."""
        pictures = canvas(images)
        height, width = (torch.arange(size, device=images.device) for size in pictures.shape[2:])
        sides = (cosines(height, len(height), pictures), cosines(width, len(width), pictures))
        rank = (height[:, None] + width).flatten().argsort(stable=True).argsort()
        most = math.ceil(share * len(rank))
        lowest = (rank < most).view(pictures.shape[2:])
        with own_precision(images.device):
            content = by_sides(pictures - bounds[0], *sides) / (bounds[1] - bounds[0])
        return cls((content.tanh().abs() + _FLOOR) * lowest, sides, most * pictures.shape[1])

    def rows(self, index: Tensor) -> Self:
        """The same for some of the images."""
        return replace(self, weights=self.weights[index])

    def draw(self, generator: torch.Generator | None) -> Tensor:
        """A direction for each image: (n, D)."""
        signs = (uniform_like(self.weights, generator) * 3).floor() - 1
        with own_precision(self.weights.device):
            return by_sides(self.weights * signs, self.sides[0].mT, self.sides[1].mT).flatten(1)
