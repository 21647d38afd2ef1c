"""Attacks that the authors of recipes train with, and that differ from those of the library."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advkit import losses
from advkit._base.random import normal_like
from advkit._engine.ball import Ball
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit.attack import Attack
from advkit.defenses.training.adversarial import divergence
from advkit.goals import Goal
from advkit.hyperparameters import choice, flag, number
from advkit.losses import Loss
from advkit.norms import Linf, Norm

__all__ = ["NearbyPGD", "NoisyStep"]

_NEARBY = 0.001  # the standard deviation of the noise that leads away from the image, where the KL has no slope


@dataclass(frozen=True, eq=False)
class NearbyPGD(Attack):
    """PGD in Linf from a point next to the image, as TRADES and MART have it.

    The start is x + 0.001 N(0, 1). The loss is the cross-entropy, or the KL divergence from the prediction on
    the image itself, which is computed once.

    Examples:
        >>> from advkit.defenses.training.ascents import NearbyPGD
        >>> attack = NearbyPGD(model, eps=8 / 255, alpha=2 / 255, climbs="divergence")
        >>> bool((attack(images, labels) - images).abs().max() <= 8 / 255 + 1e-6)
        True
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf

    eps: float = number(0.031, at_least=0)
    alpha: float = number(0.007, above=0)
    steps: int = number(10, at_least=1, integer=True)
    climbs: Literal["ce", "divergence"] = choice("ce", "divergence")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        climbed: Loss = losses.cross_entropy
        if self.climbs == "divergence":
            with torch.no_grad():
                clean = self.classifier.logits(images)

            def climbed(logits: Tensor, classes: Tensor) -> Tensor:
                return divergence(clean, logits)

        ball = Ball.of(self.norm, images, self.eps, self.bounds)
        start = images + _NEARBY * normal_like(images, self.generator)
        return iterate(
            self.classifier,
            Climb(start, goal, ball, self.alpha),
            lambda rows, look: rows.stepped(ball.norm.steepest(look.gradient)),
            steps=self.steps,
            loss=climbed,
        )


@dataclass(frozen=True, eq=False)
class NoisyStep(Attack):
    """One step of ``alpha`` along the sign of the gradient, from a point drawn uniformly from the box of ``noise``.

    Examples:
        >>> from advkit.defenses.training.ascents import NoisyStep
        >>> attack = NoisyStep(model, eps=8 / 255, alpha=8 / 255, noise=16 / 255, clipped=False)
        >>> bool((attack(images, labels) - images).abs().max() > 8 / 255)
        True
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = Linf
    steps: ClassVar[int] = 1

    eps: float = number(8 / 255, at_least=0)
    alpha: float = number(10 / 255, above=0)
    noise: float = number(8 / 255, at_least=0)
    clipped: bool = flag(True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        x = Ball.of(self.norm, images, self.noise, self.bounds).sample(self.generator) if self.noise else images
        x = x.detach().requires_grad_()
        gradient = self.classifier.gradient(goal.climbed(losses.cross_entropy, self.classifier.logits(x)), x)
        moved = gradient.sign().mul_(self.alpha).add_(x.detach())
        return Ball.of(self.norm, images, self.eps, self.bounds).project(moved) if self.clipped else moved
