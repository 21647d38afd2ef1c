"""DeepFool."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters, norms
from advkit._base.scale import magnitude
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.crossing import Crossing, answer, beyond
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import Norm, column

__all__ = ["DeepFool"]


@dataclass(frozen=True, eq=False)
class DeepFool(Attack):
    """DeepFool: step over the nearest boundary of the linearised model, until the prediction changes (L2 or Linf).

    With f = Z_k - Z_y and w = grad_x f for each class k that competes with the label y, the nearest boundary is that of
    the smallest |f| / ||w||_q, and the step to it is r = |f| / ||w||_q^q |w|^(q-1) sign(w), with q the dual exponent
    of the norm: 2 for L2, 1 for Linf. Each step is (1 + ``overshoot``) times as long, and is clipped to the box.

    An image leaves the batch when it fools the model: if that takes s steps, it takes s + 1 forwards. Its first step
    takes a backward for each class but the label, later steps one for each of the two classes that are nearest by the
    slopes last seen; a prediction of any other class ends it. An image that is already misclassified is returned
    unchanged, as is one that does not fool the model after all ``steps``, or whose gradients are zero. With
    ``targets``, the only boundary is that between the target and the predicted class.

    Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural networks", CVPR
    2016, algorithm 2, with sec. 3.3 for Linf. As in the authors' code, the overshoot is part of every step.
    arXiv:1511.04599.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: the most steps, at least 1.
        overshoot: how much further than the boundary to go, at least 0, as a fraction of the distance to it.
        candidates: how many of the classes with the largest logits are considered, the label among them; at least
            2. All are, if there are fewer.
        norm: "l2" or "linf", or `advkit.norms.L2` or `advkit.norms.Linf`: the norm to minimise.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

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
        model, norm = self.classifier, norms.get(self.norm)
        x, logits = answer(model, images, goal)
        rows = Crossing(images, goal, goal.rivals(logits, self.candidates - 1), magnitude(logits, goal.classes))
        fooled = goal.success(logits)
        for _ in range(self.steps):
            still_active = rows.retire(fooled[rows.index] | rows.stuck(logits))
            if not still_active:
                break
            # Retired rows would ride through every backward. A forward without them is often cheaper.
            if rows.count * (len(x) - still_active) > still_active:
                rows.compact()
                if len(rows.x) < len(x):
                    del logits  # and the graph, before there is another
                    x, logits = answer(model, rows.x, rows.goal)
            found = rows.nearest(model, x, logits, norm)
            length = beyond(found.distance, self.overshoot, self.bounds)
            rows.move((rows.x - column(length, x) * norm.steepest(found.gradient)).clamp(*self.bounds))
            del found
            rows.compact()
            x, logits = answer(model, rows.x, rows.goal)  # after the last step only to see who is fooled
            fooled[rows.index] |= rows.fooled(logits)
        return rows.whole().where(column(fooled, images), images)
