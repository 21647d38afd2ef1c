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
    """Jacobian-based saliency map attack: two features a step, those that most raise the target class (L0).

    With alpha_i = dZ_t / dx_i and beta_i = sum_{j != t} dZ_j / dx_i, a step moves the two features p and q of
    maximal -(alpha_p + alpha_q) * (beta_p + beta_q) by ``theta``, among the pairs with alpha_p + alpha_q > 0
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are reversed. A feature leaves the search
    when it reaches a bound. Without ``targets``, t is the runner-up of the label on the original image, and any class
    but the label is a success. An image for which no pair is left is returned unchanged. A Jacobian is one forward and
    two backwards, whatever the number of classes, and memory grows linearly with the features.

    Logits are only determined up to what they have in common, on which the betas depend. Where the betas leave no pair
    on the original image, the logits less their mean are read instead: their sum is constant, as that of the paper's
    probabilities is. So a network of two classes gets one answer, whether its logits are (0, z) or (-z/2, z/2). A class
    that is out of the race, such as one that is masked with -1e9 or -inf, is in no sum.

    The paper takes one pair from each Jacobian; ``JSMA(model, pairs=1)`` is its algorithm. By default the first
    Jacobian gives four pairs, the second eight, and so on, at most a quarter of those that ``gamma`` leaves, each the
    best of the features that are still in the search. What fools the model by then has changed more features than it
    needs to; in six tries some are put back, those first that the margin, linearised at the image found, needs least.
    Where the logits went just where the Jacobian said, as in a linear model, the image is done again with one pair at a
    time and nothing is put back, so that a linear model gets the paper's answer; where many pairs at a time did not
    succeed it is done again too, so that every image that the paper's algorithm fools is fooled.

    Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, "The limitations of deep learning in adversarial settings",
    EuroS&P 2016, eq. (8) to (10) and algorithm 3, on logits.
    arXiv:1511.07528.

    Args:
        model: pixels (N, ...) to logits (N, K).
        theta: how far a step moves a feature, in units of pixels: positive or negative, not 0; the whole range of
            ``bounds`` if not given.
        gamma: the largest fraction of an image's features that may change, in (0, 1].
        pairs: how many pairs to take from one Jacobian at most; 1 for the paper's algorithm, None for no limit.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range, or ``gamma`` allows no pair of the images' features; see `Attack` for
            the rest.

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
