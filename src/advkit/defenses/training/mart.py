"""MART: adversarial training that focuses on the images that the model gets wrong."""

from torch import Tensor

from advkit.defenses.training.adversarial import divergence
from advkit.defenses.training.nearby import NearbyRecipe
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.losses import best_other

__all__ = ["MART"]

_FLOOR = 1.0001  # in place of 1, so that the logarithm stays finite


class MART(NearbyRecipe):
    """Misclassification aware adversarial training: more weight on images that the model is less confident of.

    The loss, with p(x) the softmax of the model's logits, is

        CE(x', y) - log(1.0001 - max_{k != y} p_k(x')) + beta * KL(p(x) || p(x')) * (1 - p_y(x))

    x' starts from x + 0.001 N(0, 1) and maximises the cross-entropy by steps of ``alpha`` along the gradient's sign,
    in eval mode. Clean and adversarial images are separate batches for BatchNorm, as in the authors' code. The
    defaults are theirs, which go with SGD and a weight decay of 7e-4, for 90 epochs. With soft labels, y is the class
    with the largest share, except in CE.

    Wang, Zou, Yi, Bailey, Ma & Gu, "Improving adversarial robustness requires revisiting misclassified examples", ICLR
    2020, algorithm 1.

    Args:
        beta: the weight of the KL divergence, at least 0.
        eps: the radius of the Linf ball, at least 0, in units of pixels.
        alpha: the length of a step, positive.
        steps: how many steps, at least 1.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start; torch's default if None.

    Raises:
        InputError: a number is out of its range.

    Examples:
        >>> defense = advkit.defenses.MART(steps=3)
        >>> trained = defense.fit(model, loader, torch.optim.SGD(model.parameters(), 0.01), epochs=1)
        >>> len(defense.history)
        1
    """

    climbs = "ce"

    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """The boosted cross-entropy, plus the KL divergence weighted by 1 - p_y(x)."""
        clean, attacked = network(batch.images), network(adversarials)
        doubt = 1 - clean.softmax(1).gather(1, batch.labels[:, None]).squeeze(1)
        boost = -(_FLOOR - best_other(attacked.softmax(1), batch.labels)).log()
        each: Tensor = batch.cross_entropy(attacked) + boost + self.beta * divergence(clean, attacked) * doubt
        return each.mean()
