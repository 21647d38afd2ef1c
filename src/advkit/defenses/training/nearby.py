"""What TRADES and MART have in common: adversarial images nearby, and a weighted KL divergence."""

from abc import ABC
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from advkit._engine.checks import check_number
from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.ascents import NearbyPGD
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch

__all__ = ["NearbyRecipe"]


class NearbyRecipe(AdversarialRecipe, ABC):
    """Base of the recipes whose adversarial images `NearbyPGD` makes. A subclass defines ``climbs`` and its loss.

    Args:
        beta: the weight of the KL divergence, at least 0.
        eps: the radius of the Linf ball, at least 0, in units of pixels.
        alpha: the length of a step, positive.
        steps: how many steps, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start; torch's default if None.
    """

    climbs: ClassVar[Literal["ce", "divergence"]]

    def __init__(
        self,
        beta: float = 6.0,
        eps: float = 0.031,
        alpha: float = 0.007,
        steps: int = 10,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("beta", beta, at_least=0)
        self.beta, self.eps, self.alpha, self.steps = beta, eps, alpha, steps
        model = nn.Identity()  # which stands for the one in training
        self.attack = NearbyPGD(model, eps, alpha, steps, self.climbs, bounds=bounds, generator=generator)

    def generators(self) -> list[torch.Generator | None]:
        """That of the start."""
        return [self.attack.generator]

    def attacked(self, network: Network, batch: Batch) -> Tensor:
        """The worst images nearby, by the loss that it ``climbs``."""
        return self.attack.on(network)(batch.images, batch.labels)
