"""Gradients of random models."""

from dataclasses import dataclass

from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.part import Part
from advkit.hyperparameters import number

__all__ = ["EOT"]


@dataclass(frozen=True, repr=False)
class EOT(Part):
    """Expectation over transformation: each gradient is the mean over several passes of a random model.

    Each pass is a call of its own, so that the model may draw for all rows at once. `PGD` and `APGD` have
    ``eot_samples`` for it.

    Athalye, Engstrom, Ilyas & Kwok, "Synthesizing robust adversarial examples", ICML 2018. arXiv:1707.07397.

    Args:
        samples: the number of passes, at least 1.

    Examples:
        >>> from advkit.attacks.transfer import EOT, Momentum
        >>> noisy = lambda pixels: model(pixels + 0.1 * torch.randn_like(pixels))
        >>> result = advkit.Transfer(noisy, [EOT(samples=8), Momentum()]).run(images, labels)
    """

    samples: int = number(20, at_least=1, integer=True)

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """The mean of ``samples`` gradients at x."""
        total = ascent.gradient(x)
        for _ in range(1, self.samples):
            total = total + ascent.gradient(x)
        return total / self.samples
