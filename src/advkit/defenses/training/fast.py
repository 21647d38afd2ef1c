"""Fast adversarial training: single-step, from a random start, with a guard against collapse."""

import torch
from torch import Tensor, nn
from typing_extensions import Self

from advkit._base.random import uniform_like
from advkit._engine.checks import check_number
from advkit.attacks import PGD
from advkit.defenses.training.adversarial import AdversarialRecipe
from advkit.defenses.training.ascents import NoisyStep
from advkit.defenses.training.guard import Guard
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch

__all__ = ["FastTraining"]


class FastTraining(AdversarialRecipe):
    """Train on single-step adversarial images from a random start, with two forwards and backwards per batch.

    With n drawn uniformly from [-noise, noise] and clipped to the bounds,

        x' = x + clip(n + alpha * sign(grad_x CE(x + n, y)), -eps, eps), clipped to the bounds

    Wong, Rice & Kolter, "Fast is better than free: revisiting adversarial training", ICLR 2020, algorithm 3.
    arXiv:2001.03994. `n_fgsm` makes the variant of de Jorge et al. The model is attacked in eval mode (the authors
    leave it in training mode).

    Single-step training can collapse within an epoch: the model then withstands this single step and nothing else,
    which is called catastrophic overfitting. So after each epoch a `Guard` runs PGD with 5 steps on the epoch's first
    batch. If the accuracy has fallen by more than ``guard``, training stops with a warning, and the model gets the
    weights of the epoch before. Five steps are cheap, and may miss the collapse: a model may withstand 5 steps of PGD
    and fall to 20. Where that would be costly, give a `Guard` with more steps, and `advkit.evaluate` the result.

    GradAlign adds grad_align * (1 - cos(grad_x CE(x, y), grad_x CE(x + u, y))) to the loss, averaged over the images
    where neither gradient is zero, with u drawn uniformly from [-eps, eps], at the cost of two more forwards and about
    three more backwards. Andriushchenko & Flammarion, "Understanding and improving fast adversarial training", NeurIPS
    2020.

    Args:
        eps: the radius of the Linf ball, at least 0, in units of pixels.
        alpha: the length of the step, positive; 1.25 ``eps`` if None.
        noise: how far the start may lie from the image, at least 0; ``eps`` if None. 0 is FGSM training.
        clipped: whether the result is clipped to ``eps``.
        grad_align: the weight of GradAlign, at least 0; 0.2 in its paper at 8/255.
        guard: the drop in accuracy that stops training, from 0 to 1, or a `Guard`; None for no guard.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the start; torch's default if None.

    Raises:
        InputError: a number is out of its range.

    Examples:
        >>> defense = advkit.defenses.FastTraining()
        >>> trained = defense.fit(model, loader, torch.optim.SGD(model.parameters(), 0.01), epochs=1)
        >>> defense.history[0].stopped is None
        True
    """

    def __init__(
        self,
        eps: float = 8 / 255,
        alpha: float | None = None,
        *,
        noise: float | None = None,
        clipped: bool = True,
        grad_align: float = 0.0,
        guard: float | Guard | None = 0.2,
        bounds: tuple[float, float] = (0.0, 1.0),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_number("eps", eps, at_least=0)
        check_number("grad_align", grad_align, at_least=0)
        self.eps, self.alpha = eps, (1.25 * eps or 1.0) if alpha is None else alpha
        self.noise, self.clipped, self.grad_align = eps if noise is None else noise, clipped, grad_align
        self.attack = NoisyStep(nn.Identity(), eps, self.alpha, self.noise, clipped, bounds=bounds, generator=generator)
        if guard is not None and not isinstance(guard, Guard):
            guard = Guard(PGD(nn.Identity(), eps=eps, steps=5, bounds=bounds, generator=generator), guard)
        self.guard = guard

    @classmethod
    def n_fgsm(cls, eps: float = 8 / 255, *, guard: float | Guard | None = 0.2, **rest: object) -> Self:
        """N-FGSM: noise of twice ``eps``, a step of ``eps``, and no clipping except to the bounds.

        de Jorge, Bibi, Volpi, Sanyal, Torr, Rogez & Dokania, "Make some noise: reliable and efficient single-step
        adversarial training", NeurIPS 2022. arXiv:2202.01181.

        Args:
            eps: the radius of the Linf ball in which the model should be robust.
            guard: as for `FastTraining`.
            rest: arguments of `FastTraining` that should differ from these.
        """
        settings = {"alpha": eps or None, "noise": 2 * eps, "clipped": False, **rest}
        return cls(eps, guard=guard, **settings)  # type: ignore[arg-type]  # as they are above

    def generators(self) -> list[torch.Generator | None]:
        """That of the start."""
        return [self.attack.generator]

    def attacked(self, network: Network, batch: Batch) -> Tensor:
        """The adversarial images."""
        return self.attack.on(network)(batch.images, batch.labels)

    def loss_on(self, network: Network, batch: Batch, adversarials: Tensor) -> Tensor:
        """The cross-entropy of the adversarial images, plus the GradAlign term."""
        loss = batch.cross_entropy(network(adversarials)).mean()
        if self.grad_align and network.training:
            loss = loss + self.grad_align * self._misaligned(network, batch)
        return loss

    def _misaligned(self, network: Network, batch: Batch) -> Tensor:
        """1 - cos of the input gradients at the images and at points nearby, the mean where there are both."""
        images, attack = batch.images, self.attack
        nearby = images + attack.eps * (2 * uniform_like(images, attack.generator) - 1)
        gradients = []
        for x in (images, nearby):
            x = x.detach().requires_grad_()
            loss = batch.cross_entropy(network(x)).sum()
            gradients.append(torch.autograd.grad(loss, x, create_graph=True)[0].flatten(1))
        both = (gradients[0].detach() != 0).any(1) & (gradients[1].detach() != 0).any(1)
        one, other = (its[both] for its in gradients)
        if not len(one):
            return torch.zeros((), device=images.device)
        return (1 - torch.cosine_similarity(one, other, eps=0)).mean()
