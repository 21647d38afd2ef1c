"""Elastic-net attack."""

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advkit._engine.looks import Look
from advkit.attacks.minimal.bisection import Bisection, Descent
from advkit.attacks.minimal.objectives import ElasticNet, WeightedL1
from advkit.attacks.minimal.penalty import Penalty
from advkit.hyperparameters import OfRange, choice, number
from advkit.norms import L1, Norm

__all__ = ["EAD"]

_SPARSER = 10.0  # times the weight of L1 where nothing else counts


@dataclass
class _Ahead(Descent):
    """Rows whose gradients are taken ahead of where they stand."""

    ahead: Tensor = field(init=False)  # (n, ...)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.ahead = self.x


@dataclass(frozen=True, eq=False)
class EAD(Penalty):
    """Elastic-net attack: the smallest change (L1) that makes the model predict another class.

    Minimises c * max(margin(x') + kappa, 0) + ||x' - x||_2^2 + weight * ||x' - x||_1 within the bounds, with its own c
    for each image. The margin is max_{i != t} Z_i - Z_t for a target t, and Z_y - max_{i != y} Z_i without one. Of the
    successes met, the one with the smallest L1 is returned, or the one with the smallest
    ||x' - x||_2^2 + beta * ||x' - x||_1. An image for which none is found is returned unchanged, as is one that is
    already misclassified, by whatever margin.

    In the paper, a step of length ``lr`` is followed by shrinking every pixel's change by ``beta``, whose fixed point
    has weight = beta / lr; that is the weight here for the rule "elastic", and ten times that for "l1". By default, not
    as in the paper and in a fraction of FISTA's passes, the problem with the mean of the latest tangents in place of
    the margin is solved in closed form, by shrinkage and clipping, with c as the largest multiplier allowed, and a step
    goes a decaying fraction of the way to that solution. c starts at a multiple of the linearised problem's, and each
    search aims at another class, the nearest in the linearised model first. Images leave once no class promises a
    smaller change than they have. Without ``initial_c``, a walk of at most 20 steps from noise far away follows, as in
    `Minimal` in L1; it minimises L1 whatever ``beta`` is, and where it ends closer by a quarter, up to eight more
    follow.

    The paper's own search is ``EAD(model, initial_c=1e-3, binary_search_steps=9, steps=100, schedule="constant")``:
    FISTA from the image itself, with a step size that falls as the square root of the number of steps left, and with c
    multiplied by ten until an adversarial is found and then bisected between the largest c that failed and the smallest
    that succeeded. A step is two forwards and a backward, and an image leaves a search when a tenth of its steps pass
    without decreasing the smooth part of the objective.

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
        beta: the weight of L1, at least 0, in units of pixels; 1/1000 of the range of ``bounds`` if not given.
        decision_rule: "l1" or "elastic": the measure by which the smallest success is chosen.
        schedule: "cosine" for advkit's search with decaying steps, "constant" for the paper's search, as in `CW`.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> sparse, smooth = advkit.EAD(model).run(images, labels), advkit.CW(model).run(images, labels)
        >>> bool(sparse.distance("l1").median() < smooth.distance("l1").median())
        True
        >>> bool(sparse.distance("l0").median() < 50), bool(smooth.distance("l0").median() > 500)  # of 768 features
        (True, True)
    """

    norm: ClassVar[Norm] = L1

    steps: int = number(30, at_least=1, integer=True)
    beta: float = number(OfRange(1e-3), at_least=0)
    _: KW_ONLY
    decision_rule: Literal["l1", "elastic"] = choice("l1", "elastic")

    def _objective(self) -> WeightedL1:
        weight = self.beta / self.lr
        if self.decision_rule == "l1":
            return WeightedL1(self.bounds, _SPARSER * weight)
        return ElasticNet(self.bounds, weight, self.beta)

    def _published(self, search: Bisection) -> Tensor:
        # Not a case for `iterate`: it looks twice a step, ahead for the gradient, and where the row stands to judge.
        no_gradient = torch.empty(0)
        for rows in search.rounds(self.binary_search_steps, _Ahead):
            for step in range(self.steps):
                slope = rows.descent(self._look(rows, step), self.steps)
                if rows.finished:
                    break
                self._fista(rows, slope, step)
                del slope
                with torch.no_grad():
                    logits = self.classifier.of(rows.goal).logits(rows.x)
                search.closest.see(rows, Look(step, rows.x, logits, -rows.hinge(logits), no_gradient, rows.goal))
        return search.closest.images

    def _look(self, rows: _Ahead, step: int) -> Look:
        """What the model shows ahead of where the rows stand: the gradient is taken there."""
        x = rows.ahead.detach().requires_grad_()
        logits = self.classifier.of(rows.goal).logits(x)
        climbed = -rows.hinge(logits)
        return Look(
            step, rows.ahead, logits.detach(), climbed.detach(), self.classifier.gradient(climbed, x), rows.goal
        )

    def _fista(self, rows: _Ahead, slope: Tensor, step: int) -> None:
        """A step with shrinkage from ahead, and how far ahead the next one begins: eq. (6) and (7) of the paper."""
        length = self.lr * math.sqrt(1 - step / self.steps)
        changes = torch.nn.functional.softshrink(rows.ahead - length * slope - rows.originals, self.beta)
        before = rows.x
        rows.move((rows.originals + changes).clamp(*self.bounds))
        rows.ahead = rows.x + step / (step + 3) * (rows.x - before)
