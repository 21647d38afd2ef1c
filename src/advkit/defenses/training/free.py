"""Free adversarial training: one gradient for both the weights and the images."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from advkit._engine.checks import check_bounds, check_number
from advkit.attacks import FGSM
from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch

__all__ = ["FreeTraining"]


class FreeTraining(AdversarialRecipe):
    """Train on each batch several times, and update its images with the same gradients as the weights.

    A perturbation d is kept from step to step and from batch to batch. Each step takes the gradients of the
    cross-entropy at x + d, clipped to the bounds, with respect to the weights and to d, and then

        d <- clip(d + alpha * sign(gradient), -eps, eps)

    so that a step costs one forward and one backward. Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor &
    Goldstein, "Adversarial training for free!", NeurIPS 2019, algorithm 1. arXiv:1904.12843.

    An epoch goes through the loader once and trains ``replays`` times on each batch, so divide the number of epochs of
    other recipes by that factor. Checkpoints contain d. Validation sees each image once, and attacks it with
    `advkit.FGSM`; a ``validation_attack`` is better.

    Args:
        eps: the radius of the Linf ball, at least 0, in units of pixels.
        replays: how many times each batch is trained on, at least 1.
        alpha: the length of a step, positive; ``eps`` if None.
        bounds: the lowest and the highest value of a pixel.

    Raises:
        InputError: a number is out of its range.

    Examples:
        >>> defense = advkit.defenses.FreeTraining(replays=4)
        >>> trained = defense.fit(model, loader, torch.optim.SGD(model.parameters(), 0.04), epochs=1)
        >>> len(defense.history)
        1
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        replays: int = 8,
        alpha: float | None = None,
        *,
        bounds: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        super().__init__()
        check_number("eps", eps, at_least=0)
        check_number("replays", replays, at_least=1, integer=True)
        if alpha is not None:
            check_number("alpha", alpha, above=0)
        check_bounds(bounds)
        self.eps, self.replays, self.alpha, self.bounds = eps, replays, eps if alpha is None else alpha, bounds
        self._perturbation: Tensor | None = None

    def state(self) -> dict[str, Any]:
        """The perturbation."""
        return {} if self._perturbation is None else {"perturbation": self._perturbation}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a perturbation, or to none."""
        self._perturbation = state.get("perturbation")

    @contextmanager
    def around(self, network: Network, batch: Batch) -> Iterator[Batch | None]:
        """The perturbed images; afterwards the perturbation takes a step."""
        kept = self._kept(batch.images)
        here = kept[: len(batch.images)].clone().requires_grad_()
        yield replace(batch, adversarials=(batch.images + here).clamp(*self.bounds))
        if here.grad is not None:  # a scaled loss may have overflowed
            step = here.grad.nan_to_num(0).sign().mul_(self.alpha)
            kept[: len(here)] = (here.detach() + step).clamp_(-self.eps, self.eps)

    def _kept(self, images: Tensor) -> Tensor:
        """The perturbation, for at least so many images; zero where there was none."""
        kept = self._perturbation
        if kept is None or kept.shape[1:] != images.shape[1:]:
            kept = torch.zeros_like(images)
        kept = kept.to(images)
        if len(kept) < len(images):
            kept = torch.cat([kept, torch.zeros_like(images[len(kept) :])])
        self._perturbation = kept
        return kept

    def attacked(self, network: Network, batch: Batch) -> Tensor:
        """For validation alone: one step of ``eps``."""
        return FGSM(network, eps=self.eps, bounds=self.bounds)(batch.images, batch.labels)

    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """The cross-entropy of the perturbed images."""
        return batch.cross_entropy(network(adversarials)).mean()
