"""Copies of the images on which a model should agree: scaled, and mixed with others."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit.attacks.transfer.ascent import Ascent
from advkit.attacks.transfer.momentum import Momentum, Nesterov
from advkit.attacks.transfer.part import Part
from advkit.attacks.transfer.transfer import Shorthand
from advkit.errors import InputError
from advkit.hyperparameters import number

__all__ = ["NIFGSM", "SINIFGSM", "Admix", "ScaleCopies"]


@dataclass(frozen=True, repr=False)
class ScaleCopies(Part):
    """The gradient is the mean over copies x / 2^i, i = 0, 1, ..., with x counted from the lowest value of a pixel.

    Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020.
    arXiv:1908.06281.

    Args:
        copies: the number of copies, at least 1.

    Examples:
        >>> from advkit.attacks.transfer import Momentum, ScaleCopies
        >>> result = advkit.Transfer(model, [ScaleCopies(), Momentum()]).run(images, labels)
    """

    copies: int = number(5, at_least=1, integer=True)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """The copies x / 2^i."""
        return x * ascent.over(0.5 ** copy.to(x.dtype), x)


@dataclass(frozen=True, repr=False)
class Admix(Part):
    """The model is shown images with a fraction of another image of the batch added: x + strength * x'.

    Wang et al., "Admix: enhancing the transferability of adversarial attacks", ICCV 2021. arXiv:2102.00436.
    In the paper, each mixture is also scaled: ``[Admix(), ScaleCopies(), Momentum()]``. There, x' is of another class;
    here, it is any other image of the batch, at its current state, so that a batch is attacked as a whole. An image
    that is alone in its batch has nothing to be mixed with, and is shown as it is: the last images of a batch, in an
    evaluation or after other attacks, may well be a single one.

    Args:
        strength: the weight of the other image, at least 0.
        copies: the number of mixtures of each image, at least 1.

    Examples:
        >>> from advkit.attacks.transfer import Admix, Momentum, ScaleCopies
        >>> result = advkit.Transfer(model, [Admix(), ScaleCopies(), Momentum()]).run(images, labels)
    """

    independent_rows = False

    strength: float = number(0.2, at_least=0)
    copies: int = number(3, at_least=1, integer=True)

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """The mixtures. No gradient flows to the other image."""
        count, place = len(ascent.x), torch.arange(len(x), device=x.device)
        if count == 1:
            return x
        image = place % count
        other = (image + 1 + ascent.integers(len(x), below=count - 1)) % count
        return x + self.strength * x.detach()[place - image + other]

    def check_beside(self, others: Sequence[Part]) -> None:
        """(x + strength * x') / 2^i, and not x / 2^i + strength * x'."""
        if any(isinstance(part, ScaleCopies) for part in others[: list(others).index(self)]):
            raise InputError("Admix would mix whole images into those that ScaleCopies has scaled; put it before it")


@dataclass(frozen=True, eq=False)
class NIFGSM(Shorthand):
    """Nesterov iterative fast gradient sign method (Linf): `Momentum`, with the gradient taken ahead along it.

    Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020.
    arXiv:1908.06281.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.NIFGSM(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    decay: float = number(1.0, at_least=0)

    @property
    def parts(self) -> Sequence[Part]:
        """`Nesterov` and `Momentum`."""
        return [Nesterov(), Momentum(self.decay)]


@dataclass(frozen=True, eq=False)
class SINIFGSM(Shorthand):
    """Scale-invariant Nesterov iterative fast gradient sign method (Linf): `NIFGSM` with `ScaleCopies`.

    Lin et al., "Nesterov accelerated gradient and scale invariance for adversarial attacks", ICLR 2020,
    algorithm 1. arXiv:1908.06281.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a quarter of ``eps`` if not given.
        steps: how many steps, at least 1.
        decay: passed to `Momentum`.
        m: how many copies, at least 1.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> advkit.SINIFGSM(model).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    decay: float = number(1.0, at_least=0)
    m: int = number(5, at_least=1, integer=True)

    @property
    def parts(self) -> Sequence[Part]:
        """`Nesterov`, `ScaleCopies` and `Momentum`."""
        return [Nesterov(), ScaleCopies(self.m), Momentum(self.decay)]
