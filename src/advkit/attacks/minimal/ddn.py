"""Decoupled direction and norm."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.shrinking import Shrinking, annealed, reach
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.norms import L2, Norm, column

__all__ = ["DDN"]


@dataclass
class _OnSphere(Shrinking):
    """Rows that stand on a sphere about their image.

    Args:
        radius: (n,).
        farthest: (n,), to the far corner of the box.
    """

    radius: Tensor
    farthest: Tensor


@dataclass(frozen=True, eq=False)
class DDN(Attack):
    """Decoupled direction and norm: the smallest change (L2), by steps along a sphere whose radius follows success.

    From delta = 0, each step adds alpha * grad_x J / ||grad_x J||_2, rescales delta to the radius, and clips the image
    to the box. The radius is multiplied by 1 - ``gamma`` where the current image fools the model, and by 1 + ``gamma``
    where it does not. alpha decays from 1 to 1/100 on a cosine schedule, in units of the range of ``bounds``. The
    smallest success met is returned; an image for which none is found is returned unchanged, as is one that is already
    misclassified.

    All other images take all ``steps``: a forward and a backward each, and a forward after the last step. As in the
    authors' code, delta is what is left after clipping; as in adv_lib, the radius stays below the distance to the
    furthest corner of the box. The result is not rounded to 256 levels. The loss is `losses.log_odds`, which has the
    same gradient direction as the cross-entropy and does not round to zero.

    Rony, Hafemann, Oliveira, Ben Ayed, Sabourin & Granger, "Decoupling direction and norm for efficient gradient-based
    L2 adversarial attacks and defenses", CVPR 2019, algorithm 1.
    arXiv:1811.09600.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: how many steps, at least 1.
        gamma: by which fraction the radius changes at a step, above 0 and below 1.
        init_norm: the first radius, positive, in units of pixels; the range of ``bounds`` if not given.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.DDN(model).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> nearer = advkit.DDN(model, init_norm=0.1).run(images, labels)  # where the boundary is that near
        >>> bool(nearer.distance("l2").median() < result.distance("l2").median())
        True
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L2

    steps: int = number(100, at_least=1, integer=True)
    gamma: float = number(0.05, above=0, at_most=0.999)
    init_norm: float = number(OfRange(1.0), above=0)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        kept, farthest = Smallest(images, L2), L2.size(reach(images, self.bounds))
        rows = _OnSphere(images, goal, images, kept, farthest.clamp_max(self.init_norm), farthest)
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="log_odds", keep=kept)

    def _step(self, rows: _OnSphere, look: Look) -> Tensor:
        rows.begin(look)
        low, high = self.bounds
        alpha = annealed(1, 0.01, look.step, self.steps) * (high - low)
        change = look.x - rows.originals + alpha * L2.steepest(look.gradient)
        factor = (1 + self.gamma) - 2 * self.gamma * look.clearly.to(change.dtype)
        rows.radius = (rows.radius * factor).minimum(rows.farthest)
        return (rows.originals + column(rows.radius, change) * L2.steepest(change)).clamp(low, high)
