"""Primal-dual gradient descent, and the same with a proximal step."""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from advkit import hyperparameters, norms
from advkit._base.scale import magnitude, power_of_two
from advkit._engine.adam import Adam
from advkit._engine.iterate import iterate
from advkit._engine.keeps import Smallest
from advkit._engine.looks import Look
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.proximal import proximal
from advkit.attacks.minimal.shrinking import Shrinking
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, number
from advkit.losses import Loss
from advkit.norms import L2, Norm, column

__all__ = ["PDGD", "PDPGD"]

_PRIMAL, _DUAL = 0.01, 0.1  # the last step sizes, over the first ones
_MEMORY = 0.9  # how much of the mean multiplier a step keeps
_LEAST_UNIT, _LARGEST_UNIT = 0.25, 16.0  # powers of two of which logits are as the paper takes them
_MOST = 1e6  # neither multiplier is more than that many times the other


@dataclass
class _Players(Shrinking):
    """Rows of which one player moves the image, and the other sets what the size of its change costs.

    Args:
        odds: (n,), the logarithm of the margin's multiplier over the norm's.
        cost: (n,), the norm's multiplier, in the mean over the steps. That of the margin is 1 less it.
        adam: of the image.
        unit: (n,), what its margin is measured in, from the first look on; 0 before it.
    """

    odds: Tensor
    cost: Tensor
    adam: Adam
    unit: Tensor

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """Minus the softplus of the margin, whatever the loss."""
        size = power_of_two(magnitude(logits, self.goal.classes))
        self.unit = self.unit.where(self.unit > 0, size / size.clamp(_LEAST_UNIT, _LARGEST_UNIT))
        return -softplus(self.goal.margin(logits) / self.unit)


@dataclass(frozen=True, eq=False)
class PrimalDual(Attack):
    """What both attacks share: the game, its step sizes, and the second player."""

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"

    steps: int = number(500, at_least=1, integer=True)
    primal_lr: float = number(OfRange(0.1), above=0)
    dual_lr: float = number(0.1, above=0)
    dual_ratio: float = number(0.01, at_least=1 / _MOST, at_most=_MOST)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        kept = Smallest(images, self._measure)
        odds = -torch.full_like(kept.least, self.dual_ratio).log()
        adam = Adam(images, 1e-8 / (self.bounds[1] - self.bounds[0]))
        rows = _Players(images, goal, images, kept, odds, torch.sigmoid(-odds), adam, torch.zeros_like(kept.least))
        return iterate(self.classifier, rows, self._step, steps=self.steps, loss="margin", keep=kept)

    def _step(self, rows: _Players, look: Look) -> Tensor:
        rows.begin(look)
        moved = self._moved(rows, look, self.primal_lr * _PRIMAL ** (look.step / self.steps))
        by = self.dual_lr * (1 - (1 - _DUAL) * look.step / max(1, self.steps - 1))
        bound = torch.full_like(rows.odds, _MOST).log()
        rows.odds = torch.where(look.clearly, rows.odds - by, rows.odds + by).clamp(-bound, bound)
        rows.cost = torch.lerp(rows.cost, torch.sigmoid(-rows.odds), 1 - _MEMORY)
        return moved

    @property
    @abstractmethod
    def _measure(self) -> Norm:
        """What is to be small."""

    @abstractmethod
    def _moved(self, rows: _Players, look: Look, lr: float) -> Tensor:
        """Where the first player moves the images in a step of this size: (n, ...)."""


@dataclass(frozen=True, eq=False)
class PDGD(PrimalDual):
    """Primal-dual gradient descent: the smallest change (L2), as a game of two players.

    The first player moves the image by a step of Adam along the gradient of c * ||delta||_2 + (1 - c) *
    softplus(margin) and clips it to the box; the second raises the odds of 1 - c while the model is right and lowers
    them while it is fooled, and c is averaged over the steps. The margin is Z_y - max_{i != y} Z_i, and
    max_{i != t} Z_i - Z_t for a target t. The first player's step size decays exponentially to a hundredth, the
    second's linearly to a tenth. The smallest success met is returned; an image for which none is found is returned
    unchanged, as is one that is already misclassified.

    All other images take all ``steps``: a forward and a backward each, and a forward after the last step. As in the
    paper, the margin is in units of the logits, as long as the two that it compares on the image are between 1/4 and
    32. The paper's constants are not made for larger or smaller ones, which are scaled into that range by a power of
    two.

    Matyasko & Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack", 2021.
    arXiv:2106.01538.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: how many steps, at least 1.
        primal_lr: Adam's first step size, positive, in units of pixels; a tenth of the range of ``bounds`` if not
            given.
        dual_lr: the first step size of the log-odds, positive.
        dual_ratio: the initial ratio c / (1 - c), from 1e-6 to 1e6.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.PDGD(model).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool(result.distance("l2").median() < 1.1 * advkit.CW(model).run(images, labels).distance("l2").median())
        True
    """

    norm: ClassVar[Norm] = L2

    @property
    def _measure(self) -> Norm:
        return L2

    def _moved(self, rows: _Players, look: Look, lr: float) -> Tensor:
        cost = column(rows.cost, look.x)
        outwards = L2.steepest(look.x - rows.originals) / (self.bounds[1] - self.bounds[0])
        mean, scale = rows.adam.see(cost * outwards - (1 - cost) * look.gradient, look.step)
        return (look.x - lr * mean / scale).clamp(*self.bounds)


@dataclass(frozen=True, eq=False)
class PDPGD(PrimalDual):
    """Primal-dual proximal gradient descent: `PDGD` with a proximal step for the norm (Linf, L1, L2).

    The first player moves the image by a step of Adam along the gradient of softplus(margin) alone and clips it to the
    box. Then delta becomes the z that minimises c / (1 - c) * ||z||_p + ||z - delta||_H^2 / 2, where H is Adam's
    denominator divided by its step size: features that Adam moves far are shrunk more. The rest is as in `PDGD`.

    All images that are not misclassified already take all ``steps``: a forward and a backward each, and a forward after
    the last step. The paper approximates z by up to five proximal steps; here it is found in closed form, and in L2 by
    Newton's method, which makes the changes in L2 smaller.

    The margin is scaled as in `PDGD`.

    Matyasko & Chau, "PDPGD: primal-dual proximal gradient descent adversarial attack", 2021.
    arXiv:2106.01538.

    Args:
        model: pixels (N, ...) to logits (N, K).
        steps: how many steps, at least 1.
        primal_lr: Adam's first step size, positive, in units of pixels; a tenth of the range of ``bounds`` if not
            given.
        dual_lr: the first step size of the log-odds, positive.
        dual_ratio: the initial ratio c / (1 - c), from 1e-6 to 1e6.
        norm: "linf", "l1" or "l2", or an object of `advkit.norms`: the norm to minimise.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range, or the norm is not supported; see `Attack` for the rest.

    Examples:
        >>> result = advkit.PDPGD(model, steps=200, norm="l1").run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool(result.distance("l0").median() < 50)  # of 768 features
        True
    """

    _: KW_ONLY
    norm: str | Norm = hyperparameters.norm("linf", "l1", "l2")

    @property
    def _measure(self) -> Norm:
        return norms.get(self.norm)

    def _moved(self, rows: _Players, look: Look, lr: float) -> Tensor:
        mean, scale = rows.adam.see(-look.gradient, look.step)
        change = (look.x - lr * mean / scale).clamp(*self.bounds) - rows.originals
        weight = lr * rows.cost / (1 - rows.cost) / (self.bounds[1] - self.bounds[0])
        return rows.originals + proximal(self._measure, change, scale, weight)
