"""DeepFool."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.scale import magnitude
from advkit._engine.boundaries import linear_distances, nearest_boundaries
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.rivals import WithRivals
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import Norm, column

__all__ = ["DeepFool"]

# After the first step a boundary is looked for among the two that seemed nearest, by the slopes last seen. On
# CNNs for CIFAR-10, plain and adversarially trained, that gives what all nine of them give, in half the passes.
_NEAREST = 2

# A step goes at least this far beyond the boundary, in parts of the pixels' range: rounding must not undo it.
_BEYOND = 1e-4


@dataclass
class _Row(WithRivals):
    slopes: Tensor  # (n, m), the dual norm of the gradient of each gap, where last computed


@dataclass(frozen=True, eq=False)
class DeepFool(Attack):
    """DeepFool: step over the boundary that is nearest by linearisation, until the model says another class.

    With f = Z_k - Z_y and w = grad_x f for each class k that the label y competes with, the nearest boundary is
    that of the least |f| / ||w||_q, and the step to it is r = |f| / ||w||_q^q |w|^(q-1) sign(w), with q the dual
    of the norm: 2 for L2, 1 for Linf. Each step goes ``overshoot`` times further than that, and back into the box.

    An image leaves the batch when it is fooled, at its last forward: an image that takes s steps takes s + 1
    forwards. Its first step takes a backward for each class but the label, its later steps one for each of the
    two classes that are nearest by the slopes last seen; any class that the model says ends it. An image that the
    model gets wrong to begin with comes back as it is, and so does one that is not fooled after all ``steps``, or
    whose gradients are zero. With ``targets`` the only boundary is that between the target and what the model says.

    Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", CVPR
    2016, algorithm 2, with sec. 3.3 for Linf. As in the authors' code the overshoot is part of every step.
    arXiv:1511.04599.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: how many steps at most, at least 1.
        overshoot: how much further than the boundary to go, at least 0, as a fraction of the way there.
        candidates: how many of the classes with the largest logits are considered, the label among them; at least
            2. If there are fewer classes, all are.
        norm: "l2" or "linf", or `advkit.norms.L2` or `advkit.norms.Linf`: the one to make small.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range, or there is no DeepFool for the norm; see `Attack` for the rest.

    Examples:
        >>> nearest = advkit.DeepFool(model).run(images, labels)
        >>> within = advkit.PGD(model, eps=0.5, norm="l2").run(images, labels)
        >>> bool(nearest.success.all() and within.success.all())
        True
        >>> bool(nearest.distance("l2").median() < 0.5 * within.distance("l2").median())
        True
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    steps: int = number(50, at_least=1, integer=True)
    overshoot: float = number(0.02, at_least=0)
    candidates: int = number(10, at_least=2, integer=True)
    _: KW_ONLY
    norm: str | Norm = hyperparameters.norm("l2", "linf")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        x, logits = self._answer(images)
        rivals = goal.rivals(logits, self.candidates - 1)
        rows = _Row(images, goal, rivals, magnitude(logits, goal.classes), torch.ones_like(rivals, dtype=images.dtype))
        fooled = goal.success(logits)
        count = rivals.shape[1]
        for _ in range(self.steps):
            stuck = linear_distances(rows.gaps(logits.detach()), rows.slopes).isinf().all(1)
            still_active = rows.retire(fooled[rows.index] | stuck)
            if not still_active:
                break
            # Closed rows would ride through every backward. A forward without them is often cheaper.
            if count * (len(x) - still_active) > still_active:
                rows.compact()
                if len(rows.x) < len(x):
                    del logits  # and the graph, before there is another
                    x, logits = self._answer(rows.x)
            rows.move(self._step(rows, x, logits, count))
            rows.compact()
            count = min(count, _NEAREST)
            x, logits = self._answer(rows.x)  # after the last step only to see who is fooled
            fooled[rows.index] |= rows.fooled(logits)
        return rows.whole().where(column(fooled, images), images)

    def _answer(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the model says of images (n, ...), and the leaf of its graph."""
        x = images.detach().requires_grad_()
        return x, self.classifier.logits(x)

    def _step(self, rows: _Row, x: Tensor, logits: Tensor, count: int) -> Tensor:
        """Where the rows are after a step over the nearest of ``count`` boundaries: (n, ...), inside the box.

        Notes the slopes seen on the way.
        """
        norm, gaps = norms.get(self.norm), rows.gaps(logits)
        nearest = linear_distances(gaps.detach(), rows.slopes).topk(count, largest=False).indices
        # Of differences, one for each boundary: the gradient of the label alone is never needed.
        found = nearest_boundaries(self.classifier, x, gaps.gather(1, nearest).unbind(1), norm)
        rows.slopes = rows.slopes.scatter(1, nearest, found.slopes)
        distance = found.distance
        beyond = (self.overshoot * distance).clamp_min(_BEYOND * (self.bounds[1] - self.bounds[0]))
        length = (distance + beyond).where(distance.isfinite(), 0)
        return (rows.x - column(length, x) * norm.steepest(found.gradient)).clamp(*self.bounds)
