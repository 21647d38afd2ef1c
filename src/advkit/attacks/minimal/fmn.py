"""Fast minimum-norm attack."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._engine.ball import Ball
from advkit._engine.boundaries import dual_size, linear_distances
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.shrinking import Shrinking, annealed, reach
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import Norm, column

__all__ = ["FMN"]

_ROOM = 1e-5  # a feature that is this close to its bound, over the range, is at it but for rounding


@dataclass
class _InBall(Shrinking):
    """Rows that stand in a ball about their image.

    Args:
        eps: (n,), its radius.
        farthest: (n,), the largest change that the box allows.
    """

    eps: Tensor
    farthest: Tensor


@dataclass(frozen=True, eq=False)
class FMN(Attack):
    """Fast minimum-norm attack: gradient steps in a ball whose radius adapts to the boundary (L0, L1, L2, Linf).

    Each step adds alpha * g / ||g||_2, with g the gradient of max_{i != y} Z_i - Z_y, and projects onto the ball and
    the box. Until an image has fooled the model, its radius is 1 + ``gamma`` times the estimated distance to the
    boundary, ||delta||_p + |Z_y - max_{i != y} Z_i| / ||g||_q, and never shrinks; afterwards it is multiplied by
    1 - ``gamma`` at each success, and is at most the size of the smallest one, and by 1 + ``gamma`` at each failure.
    In L0 the radius starts at one feature, and changes by at least one. On cosine schedules, alpha decays to a
    hundredth and ``gamma`` to ``gamma_final``. The smallest success met is returned; an image for which none is found
    is returned unchanged, as is one that is already misclassified.

    All other images take all ``steps``: a forward and a backward each, and a forward after the last step. Three things
    differ from the paper. There, the first radius has no factor 1 + gamma and may shrink: an image that reaches the
    boundary to within rounding then stays there for good. There, g includes features at a bound that it would push
    further, which leaves little for the others in a black-and-white image; in L0 it does so here, too. And in L1, a
    step here goes to the closest point of the intersection of ball and box.

    Pintor, Roli, Brendel & Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints",
    NeurIPS 2021, algorithm 1.
    arXiv:2102.12827.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: the number of steps, at least 1.
        alpha: the first step's length in L2, positive, in units of pixels; None for the paper's: the range of
            ``bounds``, and ten times that for Linf.
        gamma: by which fraction the radius changes at the first step, above 0 and below 1.
        gamma_final: the same at the last step.
        norm: "l2", "l0", "l1" or "linf", or an object of `advkit.norms`: the norm to minimise.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.FMN(model, norm="linf").run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> further = advkit.DeepFool(model, norm="linf").run(images, labels)
        >>> bool(result.distance("linf").median() < further.distance("linf").median())
        True
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    steps: int = number(100, at_least=1, integer=True)
    alpha: float | None = number(None, above=0)
    gamma: float = number(0.05, above=0, at_most=0.999)
    gamma_final: float = number(0.001, above=0, at_most=0.999)
    _: KW_ONLY
    norm: str | Norm = hyperparameters.norm("l2", "l0", "l1", "linf")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        norm = norms.get(self.norm)
        kept, farthest = Smallest(images, norm), norm.size(reach(images, self.bounds))
        eps = torch.ones_like(farthest) if norm is norms.L0 else torch.zeros_like(farthest)
        rows = _InBall(images, goal, images, kept, eps, farthest)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="margin", keep=kept)

    def _step(self, rows: _InBall, look: Look) -> Tensor:
        rows.begin(look)
        norm, (low, high) = norms.get(self.norm), self.bounds
        alpha = self.alpha or (10 if norm is norms.Linf else 1) * (high - low)
        gamma = annealed(self.gamma, self.gamma_final, look.step, self.steps)
        inside = look.gradient
        if norm is norms.L0:
            eps = self._counted(rows, look, gamma)
        else:
            room = _ROOM * (high - low)
            stuck = ((look.x < low + room) & (inside < 0)) | ((look.x > high - room) & (inside > 0))
            inside = inside.where(~stuck, 0)
            steepest = dual_size(inside, norms.L1).clamp_min(torch.finfo(inside.dtype).tiny)
            inside = inside / column(steepest, inside)  # or squares would underflow
            gap = ((look.loss.abs() + 2 * look.edge) / steepest).to(look.x.dtype)
            eps = self._measured(rows, look, linear_distances(gap, dual_size(inside, norm)), gamma)
        rows.eps = eps.minimum(rows.farthest)
        ahead = look.x + annealed(alpha, alpha / 100, look.step, self.steps) * norms.L2.steepest(inside)
        return Ball.of(norm, rows.originals, rows.eps, self.bounds).project(ahead)

    def _measured(self, rows: _InBall, look: Look, across: Tensor, gamma: float) -> Tensor:
        """The next radius, (n,), where the boundary seems so far away, (n,)."""
        linear = norms.get(self.norm).distance(look.x, rows.originals) + across.where(across.isfinite(), 0)
        grown = torch.where(rows.best.isinf(), linear.maximum(rows.eps), rows.eps) * (1 + gamma)
        return torch.where(look.clearly, (rows.eps * (1 - gamma)).minimum(rows.best), grown)

    def _counted(self, rows: _InBall, look: Look, gamma: float) -> Tensor:
        """The same in features."""
        fewer = (rows.eps - 1).minimum((rows.eps * (1 - gamma)).floor()).minimum(rows.best).clamp_min(0)
        more = (rows.eps + 1).maximum((rows.eps * (1 + gamma)).floor())
        return torch.where(look.clearly, fewer, more)
