"""What DeepFool and what builds on it share: which boundary is nearest, and the step over it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._base.scale import magnitude, power_of_two, rounding_margin
from advkit._engine.boundaries import Boundaries, linear_distances, nearest_boundaries
from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.norms import Norm

__all__ = ["Crossing", "answer", "beyond"]

# After the first step a boundary is looked for among the two that seemed nearest, by the slopes last seen. On
# CNNs for CIFAR-10, plain and adversarially trained, that gives what all nine of them give, in half the passes.
_NEAREST = 2

# A step goes at least this far beyond the boundary, in parts of the pixels' range: rounding must not undo it.
_BEYOND = 1e-4


@dataclass
class Crossing(Rows):
    """Rows that know their rivals, the classes whose boundaries they could cross.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
        rivals: int64 (n, m).
        first: (n, K), the logits of the originals.
    """

    goal: Goal
    rivals: Tensor
    first: Tensor
    magnitude: Tensor = field(init=False)  # (n,), of the logits that the margin compares, on the original
    slopes: Tensor = field(init=False)  # (n, m), the dual norm of the gradient of each gap, where last computed
    count: int = field(init=False)  # of rivals that the next step looks at

    def __post_init__(self) -> None:
        super().__post_init__()
        self.magnitude = magnitude(self.first, self.goal.classes)
        self.slopes = torch.ones_like(self.rivals, dtype=self.x.dtype)
        self.count = self.rivals.shape[1]

    @property
    def unit(self) -> Tensor:
        """What logits are measured in, (n,): squares of the gradients of tiny ones would underflow."""
        return power_of_two(self.magnitude)

    def edge(self, logits: Tensor) -> Tensor:
        """The margin beyond rounding that a success must have: (n,)."""
        return rounding_margin(magnitude(logits, self.goal.classes).maximum(self.magnitude))

    def fooled(self, logits: Tensor) -> Tensor:
        """Whether logits (n, K) are a success beyond rounding: bool (n,)."""
        return self.goal.margin(logits) < -self.edge(logits)

    def gaps(self, logits: Tensor) -> Tensor:
        """By how much each rival is behind the class that is held, over the unit: (n, m)."""
        gaps = logits.gather(1, self.goal.held(logits)) - logits.gather(1, self.rivals)
        edge = self.edge(logits).unsqueeze(1)
        gaps = torch.where(gaps > edge, gaps, gaps + 2 * edge)  # who is as near is to cross it
        return (gaps / self.unit.unsqueeze(1)).to(self.slopes.dtype)

    def stuck(self, logits: Tensor) -> Tensor:
        """Whether there is no boundary to go to, as far as the slopes last seen tell: bool (n,)."""
        return linear_distances(self.gaps(logits.detach()), self.slopes).isinf().all(1)

    def nearest(self, model: Classifier, x: Tensor, logits: Tensor, norm: Norm) -> Boundaries:
        """The boundaries that seem nearest, a backward each. Notes the slopes seen on the way.

        Args:
            model: that was asked about ``x``.
            x: (n, ...), the leaf of the graph.
            logits: (n, K), with their graph, which is gone afterwards.
            norm: in which to measure.
        """
        gaps = self.gaps(logits)
        places = linear_distances(gaps.detach(), self.slopes).topk(self.count, largest=False).indices
        # Of differences, one for each boundary: the gradient of the label alone is never needed.
        found = nearest_boundaries(model, x, gaps.gather(1, places).unbind(1), norm)
        self.slopes = self.slopes.scatter(1, places, found.slopes)
        self.count = min(self.count, _NEAREST)
        return found


def answer(model: Classifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the model says of images (n, ...), and before it the leaf of its graph."""
    x = images.detach().requires_grad_()
    return x, model.logits(x)


def beyond(distance: Tensor, overshoot: float, bounds: tuple[float, float]) -> Tensor:
    """How far to go for a boundary at this distance: (n,), 0 where there is none."""
    more = (overshoot * distance).clamp_min(_BEYOND * (bounds[1] - bounds[0]))
    return (distance + more).where(distance.isfinite(), 0)
