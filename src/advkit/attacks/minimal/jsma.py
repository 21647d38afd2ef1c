"""Jacobian-based saliency map attack."""

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit.attack import Aim, Attack
from advkit.attacks.minimal.many_pairs import ManyPairs
from advkit.attacks.minimal.saliency import PairMover, Saliency, jacobians
from advkit.errors import InputError
from advkit.goals import Goal
from advkit.hyperparameters import Number, OfRange, declared, number
from advkit.norms import L0, Norm

__all__ = ["JSMA"]


@dataclass(frozen=True)
class _Step(Number):
    """A number of either sign."""

    def _check(self, name: str, value: object) -> None:
        super()._check(name, value)
        if not value:
            raise InputError(f"{name} must be positive, to raise features, or negative, to lower them; got 0")


@dataclass(frozen=True, eq=False)
class JSMA(Attack):
    """Jacobian-based saliency map attack: two features a step, those that raise the target class most (L0).

    With alpha_i = dZ_t / dx_i and beta_i = sum_{j != t} dZ_j / dx_i, a step moves the two features p and q of
    maximal -(alpha_p + alpha_q) * (beta_p + beta_q) by ``theta``, among the pairs with alpha_p + alpha_q > 0
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are reversed. A feature leaves the search
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are reversed. A feature leaves the search
    when it reaches a bound. Without ``targets``, t is the class with the largest logit but the label's on the original
    image, and any class but the label is a success. An image for which no pair is left is returned unchanged. A
    Jacobian costs one forward and two backwards, whatever the number of classes, and memory is linear in the features.

    Logits are determined only up to a constant that they share, and the betas depend on it. Where the betas leave no
    pair on the original image, the logits minus their mean are used instead: their sum is constant, as is that of the
    paper's probabilities. So a two-class network has one result, whether its logits are (0, z) or (-z/2, z/2). A class
    that is effectively excluded, such as by a mask of -1e9 or -inf, is in no sum.

    The paper takes one pair from each Jacobian; ``JSMA(model, pairs=1)`` is its algorithm. By default, the first
    Jacobian gives four pairs, the second eight, and so on, at most a quarter of those that ``gamma`` leaves, each the
    best of the features still in the search. An adversarial found that way has changed more features than it needs;
    six tries put some of them back, first those that the margin, linearised at that image, needs least. Where the
    logits moved just as the Jacobian predicted, as in a linear model, the image is attacked again with one pair at a
    time and nothing is put back, so that a linear model gets the paper's result; so is an image on which many pairs at
    a time failed, so that every image that the paper's algorithm fools is fooled.

    Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, "The limitations of deep learning in adversarial settings",
    EuroS&P 2016, eq. (8) to (10) and algorithm 3, on logits.
    arXiv:1511.07528.

    Args:
        model: pixels (N, ...) to logits (N, K).
        theta: how far a step moves a feature, in units of pixels: positive or negative, not 0; the whole range of
            ``bounds`` if not given.
        gamma: the largest fraction of an image's features that may change, in (0, 1].
        pairs: the most pairs to take from one Jacobian, at least 1; 1 is the paper's algorithm, None is no limit.
        bounds: the lowest and the highest value of a pixel.
        generator: unused, since the attack is deterministic.

    Raises:
        InputError: a number is out of its range, or ``gamma`` does not allow even one pair of features; see `Attack`
            for the rest.

    Examples:
        >>> result = advkit.JSMA(model, gamma=0.05).run(images, labels, targets=targets)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("l0") <= 0.05 * 768).all())
        True
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L0

    theta: float = declared(OfRange(1.0), _Step())
    gamma: float = number(0.1, above=0, at_most=1)
    _: KW_ONLY
    pairs: int | None = number(None, at_least=1, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        self._mover.check_share(images)
        if self.pairs == 1:
            return self._published(images, goal)
        return ManyPairs(self._mover, self.pairs, self._published).search(self.classifier, images, goal)

    def _published(self, images: Tensor, goal: Goal) -> Tensor:
        """Algorithm 3 of the paper: the best pair of each Jacobian. A row without one goes back to where it began."""
        rows = Saliency(images, images, goal)
        for jacobian in jacobians(self.classifier, rows):
            self._mover.move(rows, jacobian, 1)
        return rows.whole().clone()

    @property
    def _mover(self) -> PairMover:
        return PairMover(self.theta, self.gamma, self.bounds)
