"""HopSkipJumpAttack."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit import norms
from advkit._base.random import normal_like, uniform_like
from advkit._engine.boundaries import dot
from advkit._engine.decisions import Nearest, bisected
from advkit.attacks.queries.starting import Starting
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import flag, norm, number
from advkit.norms import L2, Norm, column

__all__ = ["HopSkipJump"]

_FIRST_DELTA = 0.1  # of the range of the pixels, how far away the probes of the first step are
_MOST_HALVINGS = 25  # of a step that does not fool
_TURNS = 6  # halvings of a right angle, which is how far a new normal may be from the last


@dataclass(frozen=True, eq=False)
class HopSkipJump(Starting, BlackBox):
    """HopSkipJump: along the boundary, in directions estimated from decisions around it (L2 or Linf).

    Step t has three parts. The direction v is estimated from B sqrt(t) random neighbours of x, which lies on the
    boundary: the mean of those that fool the model less that of the others. Then x + xi v, with xi = d / sqrt(t) and d
    the distance of x, where xi is halved until the model is fooled. Then bisection between that point and the original,
    back to the boundary. The closest image of all steps is returned.

    ``memory`` adds two things to the paper. Neighbours are drawn at right angles to the last normal, since only what it
    lacks remains to be learned; bisection then finds the normal in the plane of both. On a plane, the error shrinks
    exponentially with the number of queries B, by exp(-B / (pi D)) rather than (1 + 2 B / (pi D))^-1/2. And for L2,
    with v the component of the normal at right angles to the direction of the original, x + xi v is contracted by
    1 + (xi / d)^2, onto the circle through both: were the boundary a plane, the furthest point there that fools the
    model would be the closest one in the plane of both.

    It starts from the starting point that is given, if that fools the model, or else from uniform noise or another
    image of the batch; where none of them fools the model, the image is returned unchanged.

    Chen, Jordan & Wainwright, "HopSkipJumpAttack: A query-efficient decision-based attack", IEEE Symposium on Security
    and Privacy 2020, algorithm 2, with the geometric search for the step. As there, neighbours are at a distance of
    sqrt(D) theta d, with theta the tolerance of the bisection and D the number of features. Here theta is
    ``gamma`` / sqrt(D), not D^-1.5: changes of d / D^1.5 per pixel would be lost to rounding. For Linf, the distance of
    the neighbours is their L2 norm, which is sqrt(D) times as large. An image's last step takes as many neighbours as
    its queries allow.
    arXiv:1904.02144.

    Args:
        model: pixels (N, ...) to logits (N, K), of which only the argmax is used; any callable, no gradient is
            needed.
        norm: "l2" or "linf", or an object of `advkit.norms`: the norm to minimise.
        steps: how many steps, at least 1.
        initial_gradient_eval_steps: B, the number of neighbours in the first step, at least 1.
        max_gradient_eval_steps: the most neighbours in a step, at least 1.
        gamma: how far away neighbours are, as a fraction of the distance, greater than 0. Bisection stops within
            ``gamma`` / sqrt(D) of the way.
        memory: whether steps build on the normals of earlier ones; False for the algorithm of the paper.
        starting_points: (N, ...), an image within ``bounds`` for each image to start from; None for noise.
        init_size: how many draws of noise to try at most, and how many images of the batch, at least 1.
        max_queries: the most forwards for one image, at least 1; None for as many as the steps take.
        batch_size: the most images in one call of the model, at least 1; None for as many as suit the
            device.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for noise and neighbours; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.HopSkipJump(model, max_queries=300).run(images, labels)
        >>> bool(result.success.all()), bool((result.queries <= 300).all())
        (True, True)
        >>> closer = advkit.HopSkipJump(model, starting_points=result.images, max_queries=300).run(images, labels)
        >>> bool(closer.distance("l2").mean() < result.distance("l2").mean())
        True
    """

    norm: str | Norm = norm("l2", "linf")
    steps: int = number(64, at_least=1, integer=True)
    initial_gradient_eval_steps: int = number(100, at_least=1, integer=True)
    max_gradient_eval_steps: int = number(10_000, at_least=1, integer=True)
    gamma: float = number(0.01, above=0)
    memory: bool = flag(True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        nearest = Nearest(ask, images, norms.get(self.norm))
        features = images[0].numel()
        tolerance = min(0.5, self.gamma / features**0.5)
        way_back = 1 + math.ceil(-math.log2(tolerance))  # in queries, with the look at the step itself
        delta = self.gamma * (1 if nearest.norm is L2 else features**0.5)  # in distances

        rows, x = self._starts(ask, images)
        normal = torch.zeros_like(x)
        for step in range(1, self.steps + 2):
            x = nearest.back(rows, x, tolerance)
            distances = nearest.note(rows, x)
            most = min(int(self.initial_gradient_eval_steps * math.sqrt(step)), self.max_gradient_eval_steps)
            halvings = _TURNS if self.memory and step > 1 else 0
            probes = (ask.left[rows] - way_back - halvings).clamp_max(most)
            kept = (probes > 0).nonzero().squeeze(1)
            rows, x, distances, probes, normal = (each[kept] for each in (rows, x, distances, probes, normal))
            if step > self.steps or not len(rows):
                break
            first = torch.full_like(distances, _FIRST_DELTA * (self.bounds[1] - self.bounds[0]))
            radius = first if step == 1 else delta * distances
            fresh = self._normal(ask, rows, x, radius, probes, normal)
            normal = self._turned(ask, rows, x, radius, normal, fresh) if halvings else fresh
            x = self._jump(ask, rows, x, images[rows], normal, distances / math.sqrt(step))
            if not self.memory:
                normal = torch.zeros_like(normal)
        return nearest.images

    def _normal(self, ask: Oracle, rows: Tensor, x: Tensor, delta: Tensor, probes: Tensor, known: Tensor) -> Tensor:
        """The direction in which neighbours (n, ...) fool, from so many of them, int64 (n,), at a distance (n,).

        They are at right angles to what is known, (n, ...), of length 1 or 0, and so is the direction, of length 1.
        """
        places, most = torch.arange(len(x), device=x.device), int(probes.max())
        delta = delta.clamp_min(torch.finfo(x.dtype).tiny)
        weighted, plain, balance, done = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(delta), 0
        while done < most:
            width = min(most - done, ask.width(len(rows), 4 * most))
            which = places.repeat_interleave((probes - done).clamp(0, width))
            here, far = x[which], column(delta[which], x)
            noise = _across(self._noise(here), known[which])
            tried = (here + far * L2.steepest(noise)).clamp_(*self.bounds)
            moved = (tried - here) / far  # as it is, clipped and rounded
            signs = ask.fools(tried, rows[which]).to(x) * 2 - 1
            weighted.index_add_(0, which, moved * column(signs, x))
            plain.index_add_(0, which, moved)
            balance.index_add_(0, which, signs)
            done += width
        mean = balance / probes
        return L2.steepest(_across(weighted - column(mean.where(mean.abs() < 1, 0), x) * plain, known))

    def _turned(self, ask: Oracle, rows: Tensor, x: Tensor, delta: Tensor, known: Tensor, fresh: Tensor) -> Tensor:
        """The normal (n, ...) in the plane of two directions, of length 1 and at right angles to each other.

        From x along cos(a) ``fresh`` - sin(a) ``known`` is along the boundary where that begins to fool.
        """

        def at(places: Tensor, angles: Tensor) -> Tensor:
            cosine, sine = column(angles.cos(), x), column(angles.sin(), x)
            way = cosine * fresh[places] - sine * known[places]
            return (x[places] + column(delta[places], x) * way).clamp_(*self.bounds)

        right = torch.full_like(delta, math.pi / 2)
        angles = bisected(ask, rows, at, right, torch.zeros_like(right), 0.0, _TURNS)
        return column(angles.sin(), x) * fresh + column(angles.cos(), x) * known

    def _noise(self, like: Tensor) -> Tensor:
        if norms.get(self.norm) is L2:
            return normal_like(like, self.generator)
        return uniform_like(like, self.generator) * 2 - 1

    def _jump(self, ask: Oracle, rows: Tensor, x: Tensor, originals: Tensor, normal: Tensor, length: Tensor) -> Tensor:
        """Images (n, ...) so far, (n,), along the normal, or half as far and so on: the first that fool, or ``x``."""
        found, change = x.clone(), x - originals
        circle = self.memory and norms.get(self.norm) is L2
        direction = (
            L2.steepest(_across(normal, L2.steepest(change))) if circle else norms.get(self.norm).steepest(normal)
        )
        share = length / L2.size(change) if circle else torch.zeros_like(length)
        places = torch.arange(len(x), device=x.device)
        for halving in range(_MOST_HALVINGS):
            places = places[ask.left[rows[places]] > 0]
            if not len(places):
                break
            part = 0.5**halving
            way = change[places] + column(part * length[places], x) * direction[places]
            shorter = 1 + (part * share[places]) ** 2
            tried = (originals[places] + way / column(shorter, x)).clamp_(*self.bounds)
            fools = ask.fools(tried, rows[places])
            found[places] = tried.where(column(fools, x), found[places])
            places = places[~fools]
        return found


def _across(directions: Tensor, known: Tensor) -> Tensor:
    """The part of each direction (n, ...) that is at right angles to one that is known, of length 1 or 0."""
    return directions - known * column(dot(known, directions), known)
