"""Noise on the gradients, which an attacker who knows the defense bypasses."""

import torch
from torch import Tensor

from advkit._base.random import normal_like
from advkit._engine.checks import check_number
from advkit.defenses.base import InputTransformation
from advkit.model import Model

__all__ = ["GradientMasking"]


class GradientMasking(InputTransformation):
    """Random noise on the gradients with respect to the images: G' = G + eps * N(0, 1). Outputs are unchanged.

    It is no defense against anyone who has the model: the model's outputs do not depend on the noise, so an attacker
    who knows the defense differentiates the model without it, which is what `surrogate` returns. A naive attacker
    follows noise where ``eps`` is large compared with the gradient.

    Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024, eq. (12). They do not give
    their eps. Its unit is the attacker's loss per pixel value, so what is large depends on the model: compare it with
    the size of the gradient.

    Args:
        eps: the standard deviation of the noise, at least 0.
        generator: random generator for the noise; torch's default if None.

    Raises:
        InputError: ``eps`` is negative or not finite.

    Examples:
        >>> defended = advkit.defenses.GradientMasking(eps=0.01).wrap(model)
        >>> torch.equal(defended(images), model(images))
        True
    """

    def __init__(self, eps: float, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        check_number("eps", eps, at_least=0)
        self.eps = eps
        self.generator = generator

    def forward(self, images: Tensor) -> Tensor:
        """The images (N, ...), of any dtype, with noise on the gradients with respect to them."""
        seen = images.view_as(images)
        if seen.requires_grad:
            seen.register_hook(self._masked)
        return seen

    def _masked(self, gradient: Tensor) -> Tensor:
        return gradient + self.eps * normal_like(gradient, self.generator)

    def surrogate(self, model: Model) -> Model:
        """The model itself, without the noise."""
        return model

    def extra_repr(self) -> str:
        """The scale of the noise."""
        return f"eps={self.eps!r}"
