"""Fast gradient sign method."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters, losses
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm, column

__all__ = ["FGSM"]


@dataclass(frozen=True, eq=False)
class FGSM(Attack):
    """Fast gradient sign method: one step of ``eps`` along the sign of the gradient (Linf).

    x' = clip(x + eps * sign(grad_x J(x, y))), with J the cross-entropy of the label; with ``targets``, the step
    decreases the cross-entropy of the target. One forward and one backward.

    Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples", ICLR 2015, section 4.
    arXiv:1412.6572.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the size of the step in units of pixels, at least 0: a number, or a tensor of shape (N,); 8/255 of the
            range of ``bounds`` if not given.
        loss: the loss to maximise: "ce", "margin", "dlr" or "log_odds", or a function of logits (N, K) and classes (N,)
            that returns one number per image; see `advkit.losses.get`. With targets it is minimised.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: ``eps`` is negative, not finite or of the wrong shape; see `Attack` for the rest.

    Examples:
        >>> grey = images.clamp(0.1, 0.9)  # so that nothing is clipped
        >>> change = advkit.FGSM(model, eps=8 / 255)(grey, labels) - grey
        >>> (255 * change).round().unique()  # 0 where the model does not look
        tensor([-8.,  0.,  8.])
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf
    steps: ClassVar[int] = 1

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    _: KW_ONLY
    loss: str | Loss = hyperparameters.loss()

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        x = images.detach().requires_grad_()
        model = self.classifier
        gradient = model.gradient(goal.climbed(losses.get(self.loss), model.logits(x)), x)
        return gradient.sign().mul_(column(self.eps, images)).add_(images)
