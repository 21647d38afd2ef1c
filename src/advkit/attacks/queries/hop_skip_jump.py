"""HopSkipJumpAttack."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit import norms
from advkit._base.random import normal_like, uniform_like
from advkit._engine.decisions import Nearest
from advkit.attacks.queries.starting import Starting
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import norm, number
from advkit.norms import L2, Norm, column

__all__ = ["HopSkipJump"]

_FIRST_DELTA = 0.1  # of the range of the pixels, how far away the probes of the first step are
_MOST_HALVINGS = 25  # of a step that does not fool


@dataclass(frozen=True, eq=False)
class HopSkipJump(Starting, BlackBox):
    """HopSkipJump: along the boundary, in directions estimated from decisions around it (L2 or Linf).

    Step t has three parts. The direction v is estimated from B sqrt(t) random neighbours of x, which lies on the
    boundary: the mean of those that fool the model less that of the others. Then x + xi v, with xi = d / sqrt(t) and d
    the distance of x, where xi is halved until the model is fooled. Then bisection between that point and the original,
    back to the boundary. The closest image of all steps is returned.

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

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        nearest = Nearest(ask, images, norms.get(self.norm))
        features = images[0].numel()
        tolerance = min(0.5, self.gamma / features**0.5)
        way_back = 1 + math.ceil(-math.log2(tolerance))  # in queries, with the look at the step itself
        delta = self.gamma * (1 if nearest.norm is L2 else features**0.5)  # in distances

        rows, x = self._starts(ask, images)
        for step in range(1, self.steps + 2):
            x = nearest.back(rows, x, tolerance)
            distances = nearest.note(rows, x)
            most = min(int(self.initial_gradient_eval_steps * math.sqrt(step)), self.max_gradient_eval_steps)
            probes = (ask.left[rows] - way_back).clamp_max(most)
            kept = (probes > 0).nonzero().squeeze(1)
            rows, x, distances, probes = rows[kept], x[kept], distances[kept], probes[kept]
            if step > self.steps or not len(rows):
                break
            first = torch.full_like(distances, _FIRST_DELTA * (self.bounds[1] - self.bounds[0]))
            normal = self._normal(ask, rows, x, first if step == 1 else delta * distances, probes)
            x = self._jump(ask, rows, x, nearest.norm.steepest(normal), distances / math.sqrt(step))
        return nearest.images

    def _normal(self, ask: Oracle, rows: Tensor, x: Tensor, delta: Tensor, probes: Tensor) -> Tensor:
        """The direction in which neighbours (n, ...) fool, from so many of them, int64 (n,), at a distance (n,)."""
        places, most = torch.arange(len(x), device=x.device), int(probes.max())
        delta = delta.clamp_min(torch.finfo(x.dtype).tiny)
        weighted, plain, balance, done = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(delta), 0
        while done < most:
            width = min(most - done, ask.width(len(rows), 4 * most))
            which = places.repeat_interleave((probes - done).clamp(0, width))
            here, far = x[which], column(delta[which], x)
            noise = self._noise(here)
            tried = (here + far * noise / column(L2.size(noise), noise)).clamp_(*self.bounds)
            moved = (tried - here) / far  # as it is, clipped and rounded
            signs = ask.fools(tried, rows[which]).to(x) * 2 - 1
            weighted.index_add_(0, which, moved * column(signs, x))
            plain.index_add_(0, which, moved)
            balance.index_add_(0, which, signs)
            done += width
        mean = balance / probes
        return weighted - column(mean.where(mean.abs() < 1, 0), x) * plain

    def _noise(self, like: Tensor) -> Tensor:
        if norms.get(self.norm) is L2:
            return normal_like(like, self.generator)
        return uniform_like(like, self.generator) * 2 - 1

    def _jump(self, ask: Oracle, rows: Tensor, x: Tensor, direction: Tensor, length: Tensor) -> Tensor:
        """Images (n, ...) so far, (n,), in a direction, or half as far and so on: the first that fool, or ``x``."""
        found, length = x.clone(), length.clone()
        places = torch.arange(len(x), device=x.device)
        for _ in range(_MOST_HALVINGS):
            places = places[ask.left[rows[places]] > 0]
            if not len(places):
                break
            tried = (x[places] + column(length[places], x) * direction[places]).clamp_(*self.bounds)
            fools = ask.fools(tried, rows[places])
            found[places] = tried.where(column(fools, x), found[places])
            places = places[~fools]
            length[places] /= 2
        return found
