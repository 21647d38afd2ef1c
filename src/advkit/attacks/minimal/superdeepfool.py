"""SuperDeepFool."""

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from advkit._base.scale import magnitude
from advkit._engine.boundaries import dot
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.crossing import Crossing, answer, beyond
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.norms import L2, Norm, column

__all__ = ["SuperDeepFool"]


@dataclass
class _Walk(Crossing):
    """Rows that cross the nearest boundary, and then project what led them there onto its normal.

    Args:
        originals: (n, ...).
    """

    originals: Tensor
    start: Tensor = field(init=False)  # (n, ...), where DeepFool started
    projected: Tensor = field(init=False)  # bool (n,), whether it was a projection that led to where the row stands

    def __post_init__(self) -> None:
        super().__post_init__()
        self.start, self.projected = self.x, torch.ones_like(self.active)

    def gaps(self, logits: Tensor) -> Tensor:
        """Where the model is fooled the boundary that was crossed is the one that counts, in whatever column."""
        crossed = (self.goal.margin(logits).unsqueeze(1) / self.unit).to(self.slopes.dtype)
        return torch.where(self.fooled(logits).unsqueeze(1), crossed, super().gaps(logits))


@dataclass(frozen=True, eq=False)
class SuperDeepFool(Attack):
    """SuperDeepFool: the smallest change (L2), by DeepFool's steps and projections onto the normal of the boundary.

    `DeepFool` steps from the current point until the model is fooled, at x'. The next point is the start plus the
    projection of x' - x onto w, the gradient of Z_k - Z_y at x' for the class k predicted there: at the closest point
    of a smooth boundary, x' - x and w are parallel. If that point fools the model the search is over, otherwise
    DeepFool goes on from it. At the end, ``search_steps`` halvings of the segment from x find where the model is first
    fooled; if an earlier x' was closer, that is returned.

    An image leaves the batch when its search is over. Each evaluation is a forward and, as in `DeepFool`, a backward
    for each class but the label at first and two later on; then come ``search_steps`` forwards. An image that is
    already misclassified is returned unchanged, as is one that does not fool the model after all ``steps``, or whose
    gradients are zero. With ``targets``, the only boundary is that between the target and the predicted class.

    Abdollahpourrostam, Abroshan & Moosavi-Dezfooli, "SuperDeepFool: a new fast and accurate minimal adversarial
    attack", NeurIPS 2024, SDF(inf, 1). As in the authors' code, projections add up: they are measured from where
    DeepFool started rather than from x.
    arXiv:2303.12481.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: the most steps, DeepFool's and projections together, at least 1.
        overshoot: how much further than the boundary DeepFool goes, at least 0, as a fraction of the distance to it.
        search_steps: the number of halvings at the end, at least 0.
        candidates: how many of the classes with the largest logits are considered, the label among them; at least
            2. All are, if there are fewer.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> closer = advkit.SuperDeepFool(model).run(images, labels)
        >>> bool((closer.distance("l2") < advkit.DeepFool(model).run(images, labels).distance("l2")).all())
        True
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L2

    steps: int = number(100, at_least=1, integer=True)
    overshoot: float = number(0.02, at_least=0)
    search_steps: int = number(10, at_least=0, integer=True)
    candidates: int = number(10, at_least=2, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        model, kept = self.classifier, Smallest(images, L2)
        x, logits = answer(model, images, goal)
        rows = _Walk(images, goal, goal.rivals(logits, self.candidates - 1), magnitude(logits, goal.classes), images)
        fooled = goal.success(logits)
        for step in range(1, self.steps + 1):
            if not rows.retire((fooled & rows.projected) | rows.stuck(logits)):
                break
            rows.move(self._step(rows, x, logits, fooled))
            rows.compact()
            del logits  # and the graph, before there is another
            x, logits = answer(model, rows.x, rows.goal)
            fooled = rows.fooled(logits)
            said = logits.detach()
            kept.see(rows, Look(step, rows.x, said, rows.goal.margin(said), rows.x.new_empty(0), rows.goal))
        return self._closest(images, goal, rows.whole(), kept)

    def _step(self, rows: _Walk, x: Tensor, logits: Tensor, fooled: Tensor) -> Tensor:
        """Over the nearest boundary, or onto the normal of the one just crossed: (n, ...)."""
        found = rows.nearest(self.classifier, x, logits, L2)
        normal, fooled_ = L2.steepest(found.gradient), column(fooled, x)
        across = rows.x - column(beyond(found.distance, self.overshoot, self.bounds), x) * normal
        onto = rows.start + column(dot(rows.x - rows.originals, normal), x) * normal
        moved = torch.where(fooled_, onto, across).clamp(*self.bounds)
        rows.start, rows.projected = torch.where(fooled_, moved, rows.start), fooled
        return moved

    def _closest(self, images: Tensor, goal: Goal, ends: Tensor, kept: Smallest) -> Tensor:
        """Where the way to each end (N, ...) crosses the boundary, or what was kept if that is closer: (N, ...)."""
        near, far = torch.zeros_like(kept.least), torch.ones_like(kept.least)
        for _ in range(self.search_steps):
            middle = (near + far) / 2
            with torch.no_grad():
                logits = self.classifier.logits(torch.lerp(images, ends, column(middle, images)))
            fooled = goal.clearly(logits)
            near, far = torch.where(fooled, near, middle), torch.where(fooled, middle, far)
        halved = torch.lerp(images, ends, column(far, images))
        closer = (far < 1) & (L2.distance(halved, images) < kept.least)
        return halved.where(column(closer, images), kept.images)
