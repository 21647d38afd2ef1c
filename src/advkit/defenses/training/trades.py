"""TRADES: clean accuracy traded off against predictions that are stable nearby."""

from torch import Tensor

from advkit.defenses.training.adversarial import divergence
from advkit.defenses.training.nearby import NearbyRecipe
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch

__all__ = ["TRADES"]


class TRADES(NearbyRecipe):
    """Train a model to be right on clean images, and to make the same predictions nearby.

    The loss, with p(x) the softmax of the model's logits and x' the image within eps at which the KL divergence is
    largest, is

        CE(x, y) + beta * KL(p(x) || p(x'))

    x' starts from x + 0.001 N(0, 1) and maximises the divergence by steps of ``alpha`` along the gradient's sign, in
    eval mode. Clean and adversarial images are separate batches for BatchNorm, as in the authors' code. The defaults
    are theirs, which go with SGD, a learning rate of 0.1 and a weight decay of 2e-4, for 76 epochs. The divergence
    does not use labels.

    Zhang, Yu, Jiao, Xing, El Ghaoui & Jordan, "Theoretically principled trade-off between robustness and accuracy",
    ICML 2019, algorithm 1. arXiv:1901.08573.

    Args:
        beta: the weight of the KL divergence, at least 0 (1/lambda in the paper).
        eps: the radius of the Linf ball, at least 0, in units of pixels.
        alpha: the length of a step, positive.
        steps: how many steps, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start; torch's default if None.

    Raises:
        InputError: a number is out of its range.

    Examples:
        >>> defense = advkit.defenses.TRADES(beta=6.0, steps=3)
        >>> trained = defense.fit(model, loader, torch.optim.SGD(model.parameters(), 0.01), epochs=1)
        >>> len(defense.history)
        1
    """

    climbs = "divergence"

    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """CE(x, y) + beta * KL(p(x) || p(x'))."""
        clean, attacked = network(batch.images), network(adversarials)
        return batch.cross_entropy(clean).mean() + self.beta * divergence(clean, attacked).mean()
