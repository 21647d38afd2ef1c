"""Elastic-net attack."""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advkit._engine.descent import Descent
from advkit._engine.search import Objective, dot
from advkit.attacks.minimal.penalty import Penalty
from advkit.hyperparameters import OfRange, choice, number
from advkit.norms import L1, Norm, column

__all__ = ["EAD"]

_HALVINGS = 10  # of the range that a multiplier lies in, on a scale of powers
_SPARSER = 10.0  # times the weight of L1 where nothing else counts


@dataclass(frozen=True, eq=False)
class EAD(Penalty):
    """Elastic-net attack: the smallest change (L1) that the model takes for another class.

    Minimises c * max(margin(x') + kappa, 0) + ||x' - x||_2^2 + weight * ||x' - x||_1 within the bounds, with a c
    for each image on its own. The margin is max_{i != t} Z_i - Z_t for a target t, and Z_y - max_{i != y} Z_i
    without one. Of the successes on the way the one with the least L1 is returned, or with the least
    ||x' - x||_2^2 + beta * ||x' - x||_1. An image that is not reached comes back as it was; so does one that is
    misclassified already, by whatever margin.

    In the paper a step of length ``lr`` is followed by shrinking every pixel's change by ``beta``, whose fixed point
    has weight = beta / lr; so it is here for the rule "elastic", and ten times that for "l1". By default, not as in
    the paper and in a fraction of FISTA's passes, a step shrinks and clips to the box as much as the mean of the
    latest tangents of the margin asks for, and goes a decaying part of the way there; c is the most that it may ask
    for. It starts at a multiple of what the linearised problem asks for, and each search aims at another class, the
    nearest of the linearised model first. Images leave when no class promises less than what they have.

    The paper's own search is ``EAD(model, initial_c=1e-3, binary_search_steps=9, steps=100, schedule="constant")``:
    FISTA from the image itself, with a step size that falls as the square root of the steps that are left, c times
    ten until an adversarial is found and then the middle between the largest c that failed and the smallest that did
    not. A step is two forwards and a backward, and a row leaves a search when a tenth of its steps has not brought
    the smooth part of the objective down.

    Chen, Sharma, Zhang, Yi & Hsieh, "EAD: elastic-net attacks to deep neural networks via adversarial examples",
    AAAI 2018, eq. (3) to (7) and algorithm 1, with both decision rules.
    arXiv:1709.04114.

    Args:
        model: pixels (N, ...) to logits (N, K).
        kappa: the margin that a success must have, at least 0, in units of the logits.
        initial_c: the first c, positive; None for a multiple of the one that solves the linearised problem.
        binary_search_steps: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        lr: FISTA's first step size, positive; ``beta`` divided by it is the weight of L1.
        beta: how much L1 counts, at least 0, in units of pixels; 1/1000 of the range of ``bounds`` if not given.
        decision_rule: "l1" or "elastic", what is the least of the successes.
        schedule: "cosine" for steps that decay to none, "constant" for the paper's search, named as in `CW`.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.
    """

    norm: ClassVar[Norm] = L1

    steps: int = number(30, at_least=1, integer=True)
    beta: float = number(OfRange(1e-3), at_least=0)
    _: KW_ONLY
    decision_rule: Literal["l1", "elastic"] = choice("l1", "elastic")

    def _objective(self) -> "_L1":
        weight = self.beta / self.lr
        if self.decision_rule == "l1":
            return _L1(self.bounds, _SPARSER * weight)
        return _Elastic(self.bounds, weight, self.beta)

    def _descent(self) -> Callable[..., Descent]:
        return partial(_FISTA, bounds=self.bounds, beta=self.beta, lr=self.lr)


@dataclass
class _FISTA(Descent):
    """Steps with shrinkage, from ahead of where the last one ended: eq. (6) and (7) of the paper."""

    judged_apart = True

    bounds: tuple[float, float]
    beta: float
    lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slack = self.x

    @property
    def ahead(self) -> Tensor:
        return self.slack

    def descend(self, slope: Tensor, step: int, steps: int) -> None:
        length = self.lr * math.sqrt(1 - step / steps)
        changes = torch.nn.functional.softshrink(self.slack - length * slope - self.originals, self.beta)
        before = self.x
        self.move((self.originals + changes).clamp(*self.bounds))
        self.slack = self.x + step / (step + 3) * (self.x - before)


class _L1(Objective):
    """||x' - x||_2^2 + weight * ||x' - x||_1 in the box, and L1 to choose by."""

    memory = 0.95
    first = 1.0
    overshoot = 1e-2

    def __init__(self, bounds: tuple[float, float], weight: float) -> None:
        super().__init__(bounds)
        self.weight = weight

    def size(self, changes: Tensor) -> Tensor:
        return L1.size(changes)

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        # Each pixel moves against its slope, by the shrinkage of multiplier * |slope| / 2, up to the end of the box.
        # The margin falls as the multiplier rises, so halving finds where it is met; on a scale of powers.
        steep = slope.abs()
        room = torch.where(slope > 0, originals - self.low, self.high - originals)
        first = self.weight / steep.flatten(1).amax(1).clamp_min(torch.finfo(slope.dtype).tiny)
        low = first.clamp(self.smallest_c, self.largest_c)
        known = isinstance(most, Tensor)
        high = torch.as_tensor(most, dtype=low.dtype, device=low.device).expand_as(low)
        for _ in range(_HALVINGS if known else 3 * _HALVINGS):
            middle = low.sqrt() * high.sqrt()
            short = dot(steep, self._moved(steep, room, middle)) < level
            low, high = torch.where(short, middle, low), torch.where(short, high, middle)
        # The margin that is asked for lies between the two ends, so it is met by a mixture of them.
        near, far = self._moved(steep, room, low), self._moved(steep, room, high)
        fall = dot(steep, near)
        span = (dot(steep, far) - fall).clamp_min(torch.finfo(slope.dtype).tiny)
        share = ((level - fall) / span).clamp(0, 1)
        return -slope.sign() * torch.lerp(near, far, column(share, near)), high

    def _moved(self, steep: Tensor, room: Tensor, multiplier: Tensor) -> Tensor:
        """How far each pixel moves: (n, ...)."""
        return ((column(multiplier, steep) * steep - self.weight) / 2).clamp_min(0).minimum(room)

    def move(self, x: Tensor, by: Tensor) -> Tensor:
        return (x + by).clamp(self.low, self.high)


class _Elastic(_L1):
    """The same, and the elastic net to choose by."""

    def __init__(self, bounds: tuple[float, float], weight: float, beta: float) -> None:
        super().__init__(bounds, weight)
        self.beta = beta

    def size(self, changes: Tensor) -> Tensor:
        return dot(changes, changes) + self.beta * L1.size(changes)
