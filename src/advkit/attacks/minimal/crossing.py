"""What DeepFool and what builds on it share: which boundary is nearest, and the step over it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from advkit._engine.boundaries import Boundaries, linear_distances, nearest_boundaries
from advkit._engine.classifier import Classifier
from advkit.attacks.minimal.rivals import WithRivals
from advkit.goals import Goal
from advkit.norms import Norm

__all__ = ["Crossing", "answer", "beyond"]

# After the first step a boundary is looked for among the two that seemed nearest, by the slopes last seen. On
# CNNs for CIFAR-10, plain and adversarially trained, that gives what all nine of them give, in half the passes.
_NEAREST = 2

# A step goes at least this far beyond the boundary, in parts of the pixels' range: rounding must not undo it.
_BEYOND = 1e-4


@dataclass
class Crossing(WithRivals):
    """Rows that step over the boundaries of their rivals."""

    slopes: Tensor = field(init=False)  # (n, m), the dual norm of the gradient of each gap, where last computed
    count: int = field(init=False)  # of rivals that the next step looks at

    def __post_init__(self) -> None:
        super().__post_init__()
        self.slopes = torch.ones_like(self.rivals, dtype=self.x.dtype)
        self.count = self.rivals.shape[1]

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


def answer(model: Classifier, images: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """What the model says of images (n, ...), and before it the leaf of its graph."""
    x = images.detach().requires_grad_()
    return x, model.of(goal).logits(x)


def beyond(distance: Tensor, overshoot: float, bounds: tuple[float, float]) -> Tensor:
    """How far to go for a boundary at this distance: (n,), 0 where there is none."""
    more = (overshoot * distance).clamp_min(_BEYOND * (bounds[1] - bounds[0]))
    return (distance + more).where(distance.isfinite(), 0)
