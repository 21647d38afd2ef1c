"""What the recipes that train on adversarial images have in common."""

from abc import ABC, abstractmethod

from torch import Tensor

from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch

__all__ = ["AdversarialRecipe", "divergence"]


class AdversarialRecipe(TrainingDefense, ABC):
    """Base of the recipes that first make adversarial images and then compute a loss on them, which `AWP` separates.

    Examples:
        >>> class OnFGSM(advkit.defenses.training.AdversarialRecipe):
        ...     def attacked(self, network, batch):
        ...         return advkit.FGSM(network)(batch.images, batch.labels)
        ...
        ...     def loss_on(self, network, batch, adversarials):
        ...         return batch.cross_entropy(network(adversarials)).mean()
        >>> defense = advkit.defenses.AWP(OnFGSM())
        >>> trained = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
    """

    @abstractmethod
    def attacked(self, network: Network, batch: Batch) -> Tensor:
        """The adversarial images (N, ...) of a batch, detached; the images themselves if training is on clean ones."""

    @abstractmethod
    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """The mean loss of a batch, a scalar, given its adversarial images (N, ...)."""

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The loss of a batch on its adversarial images, which are made here if it has none."""
        known = batch.adversarials
        return self.loss_on(network, batch, self.attacked(network, batch) if known is None else known)


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL(p || q) of each image, (N,), with p the softmax of clean logits (N, K) and q that of attacked ones."""
    p, q = clean.log_softmax(1), attacked.log_softmax(1)
    change = (p - q).masked_fill(p.isneginf(), 0)  # of a class that is masked there is nothing to diverge
    return (p.exp() * change).sum(1)
