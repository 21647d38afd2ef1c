"""Where the search begins."""

from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import Part

__all__ = ["RandomStart"]


@dataclass(frozen=True, repr=False)
class RandomStart(Part):
    """The search begins at a point drawn uniformly from the budget, rather than at the image.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, RandomStart
        >>> result = advkit.Transfer(model, [RandomStart(), Momentum()]).run(images, labels)
    """

    def start(self, x: Tensor, ascent: Ascent) -> Tensor:
        """A point of the ball for each row."""
        return ascent.ball.sample(ascent.generator)
