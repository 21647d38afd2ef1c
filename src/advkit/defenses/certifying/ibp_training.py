"""Training on interval bounds, so that bounds can prove something afterwards."""

from collections.abc import Iterable, Sized
from typing import Any

import torch
from torch import Tensor, nn

from advkit import norms
from advkit._engine.bounds.chain import chain
from advkit._engine.bounds.crown import Around, interval_margins
from advkit._engine.checks import check_bounds, check_number
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.loop import Training
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.losses import cross_entropy

__all__ = ["IBPTraining"]


class IBPTraining(TrainingDefense):
    """Train on the worst-case logits by interval bound propagation (IBP) within a Linf budget.

    Gowal et al., "On the effectiveness of interval bound propagation for training verifiably robust models",
    arXiv:1810.12715, 2018. With z the logits of an image, and z' a worst case that no attack can exceed, the loss is

        kappa * J(z, y) + (1 - kappa) * J(z', y)

    where J is the cross-entropy. z' has the label's logit at 0 and each other one as far above it as intervals allow,
    with the last layer merged into the difference. For networks trained in other ways, intervals are too wide to prove
    anything. The budget starts at 0, and rises for ``ramp`` epochs after the end of ``warmup``, while kappa falls from
    1.

    It is for networks through which bounds can be propagated, see `advkit.evaluation.verify`, without dropout and
    without BatchNorm in training mode, with which the output for an image does not depend on that image alone.

    Args:
        eps: the budget in Linf, in units of pixels, at least 0. It helps to make it a little larger than what is to be
            certified.
        kappa: the weight of clean images at the end, from 0 to 1.
        warmup: epochs on clean images alone, at least 0; fractions of an epoch are allowed.
        ramp: epochs over which the budget grows, at least 0; likewise.
        bounds: the lowest and the highest value of a pixel.

    Raises:
        InputError: a number is out of its range; or, when training, bounds cannot be propagated through the model.

    Examples:
        >>> small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 10))
        >>> defense = advkit.defenses.IBPTraining(eps=1 / 255, warmup=0, ramp=1)
        >>> trained = defense.fit(small, loader, torch.optim.Adam(small.parameters()), epochs=2)
        >>> report = advkit.evaluate(trained, loader, "standard", eps=1 / 255, certify=True)
        >>> report.verified_accuracy <= report.robust_accuracy
        True
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        *,
        kappa: float = 0.5,
        warmup: float = 1.0,
        ramp: float = 2.0,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        check_number("eps", eps, at_least=0)
        check_number("kappa", kappa, at_least=0, at_most=1)
        check_number("warmup", warmup, at_least=0)
        check_number("ramp", ramp, at_least=0)
        check_bounds(bounds)
        self.eps, self.kappa, self.warmup, self.ramp = float(eps), float(kappa), float(warmup), float(ramp)
        self.bounds = bounds
        self._batches = 1

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The mixed loss of a batch; in validation that of the end of the schedule."""
        grown = self._grown(batch.turn) if network.training else 1.0
        kappa, eps = 1 - (1 - self.kappa) * grown, self.eps * grown
        clean = cross_entropy(network(batch.images), batch.labels).mean()
        if kappa == 1:
            return clean
        worst = -self._margins(network, batch, eps)
        mixed: Tensor = kappa * clean + (1 - kappa) * cross_entropy(worst, batch.labels).mean()
        return mixed

    def _margins(self, network: Network, batch: Batch, eps: float) -> Tensor:
        pixels = batch.images if network.dtype is None else batch.images.to(network.dtype)
        around = Around.of(pixels, norms.Linf, eps, self.bounds)
        found = interval_margins(chain(network.model), around, batch.labels)
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _grown(self, turn: int) -> float:
        """How far the schedule is, from 0 to 1. The epoch is known from what is behind, so that training resumes."""
        epoch = len(self.history)
        passed = epoch + (turn - epoch) / self._batches - self.warmup
        if passed < 0:
            return 0.0
        return min(1.0, passed / self.ramp) if self.ramp else 1.0

    def _train(self, training: Training, loader: Iterable[Any], epochs: int) -> nn.Module:
        self._batches = max(1, len(loader)) if isinstance(loader, Sized) else 1
        return super()._train(training, loader, epochs)
