"""The attack of Carlini and Wagner, L2."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.descent import Descent
from advkit._engine.search import Objective, dot
from advkit.attacks.minimal.penalty import Penalty
from advkit.norms import L2, Norm, column

__all__ = ["CW"]

_MARGIN = 0.05  # tanh ends this much beyond the bounds, or no step could move a pixel that is at one


@dataclass(frozen=True, eq=False)
class CW(Penalty):
    """Carlini and Wagner's attack: the smallest change (L2) that the model takes for another class.

    Minimises ||x' - x||^2 + c * max(margin(x') + kappa, 0) with x' = mid + half * tanh(w) / (1 - 0.05), and a c
    for each image on its own. The margin is max_{i != t} Z_i - Z_t for a target t, and Z_y - max_{i != y} Z_i
    without one. An image that is not reached comes back as it was; so does one that is misclassified already,
    by whatever margin.

    By default c starts at the multiplier of the image's own linearised problem, each step goes a decaying part of
    the way to the minimum of the latest tangents' mean, in w, and each search aims at another class, the nearest of
    the linearised model first. Images leave when no class promises less than what they have: on a CIFAR-10 network
    after about 65 of the 250 passes allowed.

    The paper's own search is ``CW(model, initial_c=1e-3, binary_search_steps=9, steps=1000, schedule="constant")``:
    Adam on w with a constant step size from the image itself, c times ten until an adversarial is found and then
    the middle between the largest c that failed and the smallest that did not. There a row leaves a search when a
    tenth of its steps has not brought the objective down.

    Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, section VI: the box by
    tanh, objective f_6, and binary search on c.
    arXiv:1608.04644.

    Args:
        model: pixels (N, ...) to logits (N, K).
        kappa: the margin that a success must have, at least 0, in units of the logits.
        initial_c: the first c, positive; None for a multiple of the one that solves the linearised problem.
        binary_search_steps: the most searches an image gets, at least 1.
        steps: the most passes in each, at least 1.
        lr: Adam's step size in w, positive; only the schedule "constant" takes steps of a given size.
        schedule: "cosine" for steps that decay, "constant" for the paper's.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.
    """

    norm: ClassVar[Norm] = L2

    def _objective(self) -> "_SquaredL2":
        return _SquaredL2(self.bounds)

    def _descent(self) -> Callable[..., Descent]:
        return partial(_Adam, objective=self._objective(), lr=self.lr)


@dataclass
class _Adam(Descent):
    """Adam on w."""

    objective: "_SquaredL2"
    lr: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self.mean = torch.zeros_like(self.x)
        self.square = torch.zeros_like(self.x)

    def descend(self, slope: Tensor, step: int, steps: int) -> None:
        slope = slope * self.objective.slope(self.x)
        self.mean = torch.lerp(self.mean, slope, 0.1)
        self.square = torch.lerp(self.square, slope * slope, 0.001)
        scale = (self.square / (1 - 0.999 ** (step + 1))).sqrt() + self.objective.tiny
        self.move(self.objective.stepped(self.x, -self.lr / (1 - 0.9 ** (step + 1)) * self.mean / scale))


class _SquaredL2(Objective):
    """||x' - x||^2 in the variable w, with x = mid + reach * tanh(w).

    w is never stored. tanh(w + v) = tanh(w) + tanh(v) * (1 - tanh(w)^2) / (1 + tanh(w) * tanh(v)), so a step v is
    taken from the pixels themselves: what does not move stays what it is to the bit.
    """

    memory = 0.8
    first = 0.5
    overshoot = 1e-3

    def __init__(self, bounds: tuple[float, float]) -> None:
        super().__init__(bounds)
        self.mid = (self.low + self.high) / 2
        self.reach = (self.high - self.low) / 2 / (1 - _MARGIN)
        self.tiny = 1e-8 * (self.high - self.low) ** 2  # Adam's epsilon

    def size(self, changes: Tensor) -> Tensor:
        return L2.size(changes)

    def solve(
        self, x: Tensor, originals: Tensor, slope: Tensor, level: Tensor, most: Tensor | float
    ) -> tuple[Tensor, Tensor]:
        # Stationary where 2 * changes + c * slope = 0. A pixel at a bound that is pushed further stays there.
        stuck = ((x <= self.low) & (slope > 0)) | ((x >= self.high) & (slope < 0))
        changes = (x - originals).where(stuck, 0)
        free = slope.where(~stuck, 0)
        tiny = torch.finfo(slope.dtype).tiny
        multiplier = (2 * (level + dot(slope, changes)) / dot(free, free).clamp_min(tiny)).clamp_min(0).clamp_max(most)
        return changes - column(multiplier / 2, free) * free, multiplier

    def move(self, x: Tensor, by: Tensor) -> Tensor:
        return self.stepped(x, by / self.slope(x))

    def slope(self, x: Tensor) -> Tensor:
        """dx/dw, (n, ...), which the margin keeps away from zero."""
        return self.reach * (1 - ((x - self.mid) / self.reach).square())

    def stepped(self, x: Tensor, step: Tensor) -> Tensor:
        """The pixels at w + step, (n, ...), inside the bounds."""
        short = step.tanh()
        moved = x + short * self.slope(x) / (1 + short * (x - self.mid) / self.reach)
        return moved.clamp(self.low, self.high)
