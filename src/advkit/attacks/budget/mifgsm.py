"""Iterative fast gradient sign method, with and without momentum."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advkit import hyperparameters
from advkit._engine.ball import LinfBall
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb, Look
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, choice, flag, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm, column

__all__ = ["IFGSM", "MIFGSM"]


@dataclass
class _WithMomentum(Climb):
    momentum: Tensor  # (n, ...)


@dataclass(frozen=True, eq=False)
class MIFGSM(Attack):
    """Momentum iterative fast gradient sign method (Linf).

    g <- decay * g + grad_x J(x, y) / ||grad_x J(x, y)||_1 and x <- clip(x + alpha * sign(g)), from g = 0 and the
    image itself, with x kept within ``eps`` of the image. ``steps`` forwards and as many backwards. An image
    whose gradient is zero does not move; nothing is divided by zero.

    Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018, eq. (6) and (7). The gradient is
    divided by its mean magnitude, which is its L1 norm up to a factor that no sign depends on. arXiv:1710.06081.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: the decay factor of the momentum, at least 0; 1 in the paper.
        early_stop: stop at each image's first success, and return the image as it then is.
        accumulate: "gradient" as in the paper, or "sign": g <- decay * g + sign(grad) / ||sign(grad)||_1, which is
            eq. (3) of Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024.
        loss: the loss to maximise: "ce", "margin", "dlr" or "log_odds", or a function of logits (N, K) and classes (N,)
            that returns one number per image; see `advkit.losses.get`. With targets it is minimised.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> whole = advkit.MIFGSM(model, eps=8 / 255).run(images, labels)
        >>> first = advkit.MIFGSM(model, eps=8 / 255, early_stop=True).run(images, labels)
        >>> whole, first
        (AdversarialResult(12 of 12 successful), AdversarialResult(12 of 12 successful))
        >>> bool(first.distance("l2").mean() < 0.5 * whole.distance("l2").mean())
        True
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    decay: float = number(1.0, at_least=0)
    early_stop: bool = flag(False)
    _: KW_ONLY
    accumulate: Literal["gradient", "sign"] = choice("gradient", "sign")
    loss: str | Loss = hyperparameters.loss()

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = LinfBall(images, self.eps, self.bounds)
        return iterate(
            self.classifier,
            _WithMomentum(images, goal, ball, self.alpha, momentum=torch.zeros_like(images)),
            self._step,
            steps=self.steps,
            loss=self.loss,
            early_stop=self.early_stop,
        )

    def _step(self, rows: _WithMomentum, look: Look) -> Tensor:
        gradient = look.gradient.sign() if self.accumulate == "sign" else look.gradient
        size = gradient.flatten(1).abs().mean(1).clamp_min(torch.finfo(gradient.dtype).tiny)
        if self.decay != 1:
            rows.momentum.mul_(self.decay)
        rows.momentum.addcdiv_(gradient, column(size, gradient))
        return rows.stepped(rows.momentum.sign())


@dataclass(frozen=True, eq=False)
class IFGSM(MIFGSM):
    """Iterative fast gradient sign method, also called BIM: `MIFGSM` without momentum, ``decay=0``.

    Kurakin, Goodfellow & Bengio, "Adversarial examples in the physical world", ICLR workshop 2017, section 2.2.
    arXiv:1607.02533.

    Examples:
        >>> without = advkit.MIFGSM(model, steps=5, decay=0)(images, labels)
        >>> torch.equal(advkit.IFGSM(model, steps=5)(images, labels), without)
        True
    """

    decay: float = 0.0
