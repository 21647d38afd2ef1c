"""Adversarial weight perturbation: training for robustness of nearby weights as well."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from advkit._engine.checks import check_number
from advkit.attacks import PGD
from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.adversarial_training import AdversarialTraining
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import DtypeError

__all__ = ["AWP"]

_SCALE = 1024.0  # of a loss whose gradient passes halves, and of which the direction alone counts


class AWP(TrainingDefense):
    """Adversarial weight perturbation around another recipe: gradients are taken at nearby weights of higher loss.

    Once the adversarial images x' of a batch are made, the weights w of each layer are moved to raise the recipe's loss
    L,

        v = gamma * ||w|| * g / ||g||,   g the gradient of L(x') with respect to w,

    L is differentiated at w + v, and the optimizer's step is taken from w, which is restored bit for bit. Only
    parameters of two or more dimensions are moved: biases and BatchNorm parameters stay. It costs one more
    forward and one more backward per batch, which do not affect BatchNorm statistics. (The authors' optimizer
    takes its step at w + v and v is subtracted afterwards, which differs in what weight decay sees, and in rounding.)

    Wu, Xia & Wang, "Adversarial weight perturbation helps robust generalization", NeurIPS 2020. arXiv:2004.05884.

    Args:
        recipe: the recipe that it wraps, such as `TRADES`, `MART` or `AdversarialTraining`; if None, training on images
            of PGD with 10 steps at 8/255.
        gamma: how far the weights are moved, relative to their norm, at least 0. The authors take 0.01, and around
            `TRADES` 0.005.
        warmup: for how many epochs the recipe runs without it first; 10 around `TRADES` in the paper.

    Raises:
        InputError: a number is out of its range.
        DtypeError: the recipe does not first make adversarial images and then compute a loss on them.

    Examples:
        >>> defense = advkit.defenses.AWP(advkit.defenses.TRADES(steps=3), gamma=0.005)
        >>> trained = defense.fit(model, loader, torch.optim.SGD(model.parameters(), 0.01), epochs=1)
        >>> len(defense.history)
        1
    """

    def __init__(self, recipe: AdversarialRecipe | None = None, gamma: float = 0.01, warmup: int = 0) -> None:
        super().__init__()
        if recipe is None:
            recipe = AdversarialTraining(PGD(nn.Identity(), eps=8 / 255, alpha=2 / 255, steps=10), clean_ratio=0)
        if not isinstance(recipe, AdversarialRecipe):
            raise DtypeError(
                f"recipe must make adversarial images, such as advkit.defenses.TRADES(); got {type(recipe).__name__}"
            )
        check_number("gamma", gamma, at_least=0)
        check_number("warmup", warmup, at_least=0, integer=True)
        self.recipe, self.gamma, self.warmup = recipe, gamma, warmup
        self.replays, self.guard = recipe.replays, recipe.guard

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.recipe!r}, gamma={self.gamma:g}, warmup={self.warmup})"

    def generators(self) -> Sequence[torch.Generator | None]:
        """Those of the recipe."""
        return self.recipe.generators()

    def state(self) -> dict[str, Any]:
        """That of the recipe."""
        return self.recipe.state()

    def load(self, state: dict[str, Any]) -> None:
        """Give the recipe its state back."""
        self.recipe.load(state)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """That of the recipe."""
        return self.recipe.loss(network, batch)

    @contextmanager
    def around(self, network: Network, batch: Batch) -> Iterator[Batch | None]:
        """The batch with its adversarial images, with the weights moved to raise their loss."""
        with self.recipe.around(network, batch) as given:
            batch = batch if given is None else given
            if batch.epoch < self.warmup:
                yield batch
                return
            if batch.adversarials is None:
                batch = replace(batch, adversarials=self.recipe.attacked(network, batch))
            weights = [one for one in network.parameters() if one.requires_grad and one.ndim > 1]
            with _moved(weights, self._ascent(network, batch, weights)):
                yield batch

    def _ascent(self, network: Network, batch: Batch, weights: Sequence[Tensor]) -> list[Tensor]:
        """How far each of the weights is moved."""
        with network.unseen():
            value = self.recipe.loss(network, batch)
            if network.ranks.count > 1:
                here = len(batch.images)
                value = value * (here / network.ranks.sums(here)[0])
            if network.autocast == torch.float16:
                value = value * _SCALE
            gradients = torch.autograd.grad(value, weights, allow_unused=True)
        network.ranks.sum_tensors(gradients)
        moves = []
        for weight, gradient in zip(weights, gradients, strict=True):
            norm = None if gradient is None else gradient.norm()
            if gradient is None or norm is None:
                moves.append(torch.zeros_like(weight))
            else:  # where there is no slope, or none that is finite, the weights stay
                factor = torch.where((norm > 0) & norm.isfinite(), self.gamma * weight.detach().norm() / norm, 0)
                moves.append((gradient * factor).nan_to_num(0, 0, 0))
        return moves


@contextmanager
def _moved(weights: Sequence[Tensor], moves: Sequence[Tensor]) -> Iterator[None]:
    """The weights, moved; afterwards they are as they were, to the bit."""
    before = [weight.detach().clone() for weight in weights]
    try:
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight += move
        yield
    finally:
        with torch.no_grad():
            for weight, its in zip(weights, before, strict=True):
                weight.copy_(its)
