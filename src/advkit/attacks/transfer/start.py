"""Where the search begins."""

from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import Part
from advkit.hyperparameters import flag, number
from advkit.norms import column

__all__ = ["RandomStart"]


@dataclass(frozen=True, repr=False)
class RandomStart(Part):
    """The search starts at a point drawn uniformly from the budget, rather than at the image.

    Or at a random corner: with ``signs``, and one step with the rest of the budget, this is R+FGSM, of Tramèr et al.,
    "Ensemble adversarial training: attacks and defenses", ICLR 2018. arXiv:1705.07204.

    Args:
        radius: how far out the points may be, as a fraction of the budget, from 0 to 1.
        signs: draw one end of that range for each feature, rather than a point between them.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, RandomStart
        >>> result = advkit.Transfer(model, [RandomStart(), Momentum()]).run(images, labels)
        >>> corner = RandomStart(radius=1 / 2, signs=True)
        >>> result = advkit.Transfer(model, [corner], eps=8 / 255, alpha=4 / 255, steps=1).run(images, labels)
    """

    radius: float = number(1.0, at_least=0, at_most=1)
    signs: bool = flag(False)

    def start(self, x: Tensor, ascent: Ascent) -> Tensor:
        """A point of the ball for each row."""
        noise = 2 * ascent.uniform(*x.shape) - 1
        if self.signs:
            noise = (noise >= 0).to(x) * 2 - 1
        return ascent.ball.project(x + self.radius * column(ascent.eps, x) * noise)
