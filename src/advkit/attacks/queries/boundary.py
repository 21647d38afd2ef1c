"""Boundary attack."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.random import normal_like
from advkit._engine.boundaries import dot
from advkit._engine.decisions import Nearest
from advkit.attacks.queries.starting import Starting
from advkit.black_box import BlackBox, Oracle
from advkit.hyperparameters import flag, number
from advkit.norms import L2, Norm, column

__all__ = ["Boundary"]

_TOLERANCE = 1e-3  # of the bisection at the start, as a share of the way
_SIDEWAYS, _INWARDS = 0.42, 0.23  # the shares of steps that are to fool: on a plane they get closest soonest
_SETTLING = 250  # the step at which lengths follow by three quarters as much as at first; it ends at a half
_LEANING = 1 / 6  # how much more a direction that fools weighs than one that does not, each of length 1
_REMEMBERED = 2  # how many steps a direction counts for, in features


@dataclass(frozen=True, eq=False)
class Boundary(Starting, BlackBox):
    """Boundary attack: a random walk along the boundary, on adversarial images alone, ever closer to the original (L2).

    A step goes ``spherical_step`` times the distance in a random direction on the sphere around the original, and then
    ``source_step`` times the distance inwards. It is taken if its end fools the model. Both lengths adapt to the
    success rate, image by image: the one inwards at every step, so that 23 % of the steps succeed, and the one on the
    sphere at every ``update_stats_every_k``-th step, so that 42 % of the points on the sphere fool the model. These are
    queried only where the end of the step does not.

    With ``memory``, which the paper does not have, random directions lean towards those of earlier steps that
    succeeded, and away from those that did not.

    It starts from the starting point that is given, if that fools the model, or else from uniform noise or another
    image of the batch, and bisects from there to the original; where none of them fools the model, the image is
    returned unchanged.

    Brendel, Rauber & Bethge, "Decision-based adversarial attacks: Reliable attacks against black-box machine learning
    models", ICLR 2018, algorithm 1. The paper adjusts the lengths after a number of steps, so that about half of those
    on the sphere succeed; near one half they may grow without limit.
    arXiv:1712.04248.

    Args:
        model: pixels (N, ...) to logits (N, K), of which only the argmax is used; any callable, no gradient is
            needed.
        steps: how many steps, at least 1.
        spherical_step: the first step on the sphere, as a fraction of the distance, greater than 0.
        source_step: the first step inwards, as a fraction of the distance, greater than 0 and at most 0.5.
        source_step_convergence: an image is done when its step inwards falls below this fraction, at least 0.
        step_adaptation: how fast the lengths adapt, greater than 1: about the factor by which a success on the sphere
            raises its step at first; by its square root later on.
        update_stats_every_k: after how many steps the step on the sphere adapts, at least 1.
        memory: whether directions depend on earlier steps; False for independent ones, as in the paper.
        starting_points: (N, ...), an image within ``bounds`` for each image to start from; None for noise.
        init_size: how many draws of noise to try at most, and how many images of the batch, at least 1.
        max_queries: the most forwards for one image, at least 1; None for as many as the steps take.
        batch_size: the most images in one call of the model, at least 1; None for as many as suit the
            device.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for noise and steps; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.Boundary(model, max_queries=150).run(images, labels)
        >>> bool(result.success.all()), bool((result.queries <= 150).all())
        (True, True)
    """

    norm: ClassVar[Norm] = L2

    steps: int = number(25_000, at_least=1, integer=True)
    spherical_step: float = number(0.01, above=0)
    source_step: float = number(0.01, above=0, at_most=0.5)
    source_step_convergence: float = number(1e-7, at_least=0)
    step_adaptation: float = number(1.5, above=1)
    update_stats_every_k: int = number(10, at_least=1, integer=True)
    memory: bool = flag(True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        nearest = Nearest(ask, images, L2)
        rows, x = self._starts(ask, images)
        x = nearest.back(rows, x, _TOLERANCE)
        nearest.note(rows, x)
        sideways, inwards = (x.new_full((len(x),), step) for step in (self.spherical_step, self.source_step))
        lean, fading = torch.zeros_like(x), 1 - 1 / (1 + _REMEMBERED * images[0].numel())
        for step in range(self.steps):
            kept = ((ask.left[rows] > 0) & (inwards >= self.source_step_convergence)).nonzero().squeeze(1)
            if len(kept) < len(rows):
                rows, x, sideways, inwards, lean = (each[kept] for each in (rows, x, sideways, inwards, lean))
            if not len(rows):
                break
            originals = images[rows]
            direction = self._direction(x - originals, lean)
            way = L2.size(x - originals)
            sphere = x - originals + column(sideways * way, x) * direction
            sphere = sphere / column((1 + sideways**2).sqrt(), x)
            tried = (originals + sphere * column(1 - inwards, x)).clamp_(*self.bounds)
            fools = ask.fools(tried, rows) & (L2.distance(tried, originals) < way)
            x = tried.where(column(fools, x), x)
            pace = self.step_adaptation ** (0.5 + 0.5 / (1 + step / _SETTLING))
            inwards = (inwards * pace ** ((fools.to(x) - _INWARDS) / 2)).clamp_max(0.5)
            nearest.note(rows, x)
            if self.memory:
                lean = fading * lean + column(_LEANING * (fools.to(x) - _INWARDS), x) * direction
            if step % self.update_stats_every_k == 0:
                asked = (~fools & (ask.left[rows] > 0)).nonzero().squeeze(1)
                if len(asked):
                    fools[asked] = ask.fools((originals + sphere)[asked].clamp_(*self.bounds), rows[asked])
                sideways = (sideways * pace ** (fools.to(x) - _SIDEWAYS)).clamp_max(1)
        return nearest.images

    def _direction(self, outwards: Tensor, lean: Tensor) -> Tensor:
        """Random directions (n, ...) of length 1 at right angles to ``outwards``, (n, ...), that lean somewhere."""
        noise = normal_like(outwards, self.generator) + lean
        return L2.steepest(noise - outwards * column(dot(noise, outwards) / dot(outwards, outwards), noise))
