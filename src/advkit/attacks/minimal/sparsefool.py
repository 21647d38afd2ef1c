"""SparseFool."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.boundaries import dot
from advkit._engine.rows import Rows
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.deepfool import DeepFool
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import L0, L1, Norm, column

__all__ = ["SparseFool"]


@dataclass
class _Walk(Rows):
    """Rows that go to the boundary by few pixels."""

    goal: Goal
    originals: Tensor  # (n, ...)


@dataclass(frozen=True, eq=False)
class SparseFool(Attack):
    """SparseFool: to the boundary that `DeepFool` finds, changing few pixels (L0, by way of L1).

    A step runs `DeepFool` from the current point x to the closest point beyond the boundary, x + r, and takes the
    hyperplane through x + ``lam`` r whose normal is the gradient of the margin at x + r. It goes to the point of that
    hyperplane within the box that is closest in L1: the pixels with the largest slopes go to the end of the box, one
    after another, until it is reached. A point (1 + ``overshoot``) times as far, clipped to the box, is returned if it
    fools the model.

    An image leaves the batch when it fools the model. One that is already misclassified is returned unchanged, as is
    one that does not fool the model after all ``steps``. With ``targets``, the margin is that of the target.

    A step costs one forward, one backward, another forward to judge success, and what `DeepFool` takes.

    Modas, Moosavi-Dezfooli & Frossard, "SparseFool: a few pixels make a big difference", CVPR 2019, algorithm 2.
    arXiv:1811.02248. As in the authors' code (LTS4/SparseFool at 958e2bf), each step starts where the last one ended,
    and the overshoot applies to the result alone.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: the most steps, at least 1.
        lam: how far away the hyperplane is, in units of the distance to the boundary, at least 1: larger values succeed
            in fewer steps, with more pixels.
        overshoot: how much further to go, at least 0, as a fraction of the whole change.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SparseFool(model).run(images, labels)
        >>> bool(result.success.all()), bool((result.distance("l0") < 100).all())  # of 768 features
        (True, True)
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L0

    steps: int = number(10, at_least=1, integer=True)
    lam: float = number(3.0, at_least=1)
    overshoot: float = number(0.02, at_least=0)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        model = self.classifier
        with torch.no_grad():
            fooled = goal.success(model.logits(images))
        rows, stuck = _Walk(images, goal, images), torch.zeros_like(fooled)
        for _ in range(self.steps):
            if not rows.retire(fooled[rows.index] | stuck[rows.index]):
                break
            rows.compact()
            x = self._stepped(rows)
            answers = rows.originals + (1 + self.overshoot) * (x - rows.originals)
            answers = answers.clamp_(*self.bounds)
            with torch.no_grad():
                hit = rows.goal.clearly(model.of(rows.goal).logits(answers)) & rows.active
            stuck[rows.index] = (x == rows.x).flatten(1).all(1)
            fooled[rows.index] |= hit
            rows.move(answers.where(column(hit, x), x))
        return rows.whole().where(column(fooled, images), images)

    def _stepped(self, rows: _Walk) -> Tensor:
        """The point closest to each row in L1 on the hyperplane beyond its boundary: (n, ...)."""
        x, model = rows.x, self.classifier
        way = DeepFool(self.model, bounds=self.bounds)._perturb(x, rows.goal) - x
        boundary = (x + way).requires_grad_()
        slope = model.gradient(rows.goal.margin(model.of(rows.goal).logits(boundary)), boundary)
        return (x + step_to_hyperplane(L1, x, slope, -self.lam * dot(slope, way), self.bounds)).clamp(*self.bounds)
