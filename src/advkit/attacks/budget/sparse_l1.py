"""Sparse L1 descent."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters
from advkit._engine.ball import L1Ball
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb, Look
from advkit.attack import Attack
from advkit.goals import Goal
from advkit.hyperparameters import OfRange, flag, number
from advkit.losses import Loss
from advkit.norms import L1, Norm

__all__ = ["SparseL1Descent"]


@dataclass(frozen=True, eq=False)
class SparseL1Descent(Attack):
    """Sparse L1 descent: projected ascent along the features of largest gradient (L1).

    x <- project(x + alpha * e / ||e||_1), where e is the sign of the gradient of the cross-entropy at the features
    whose gradient magnitude is at or above the ``quantile``, and 0 elsewhere. A gradient that points out of the box
    counts as 0. The projection is the exact one onto the intersection of the L1 ball and the box.
    ``steps`` forwards and as many backwards.

    Tramèr & Boneh, "Adversarial training and robustness for multiple perturbations", NeurIPS 2019, section 3 and
    algorithm 1.
    arXiv:1904.13000.

    Args:
        model: pixels (N, ...) to logits (N, K).
        eps: the radius of the ball, at least 0: a number, or a tensor of shape (N,); 12 times the range of ``bounds``
            if not given.
        steps: how many steps, at least 1.
        quantile: the fraction of features that a step leaves alone, in [0, 1]; at 1 only the largest moves.
        random_start: start at a point drawn uniformly from the ball and projected, rather than at the image.
        alpha: the length of a step in L1, positive: a number, or a tensor of shape (N,); a fifth of ``eps`` if None.
        early_stop: stop at each image's first success, and return the image as it then is.
        loss: the loss to maximise: "ce", "margin", "dlr" or "log_odds", or a function of logits (N, K) and classes (N,)
            that returns one number per image; see `advkit.losses.get`. With targets it is minimised.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the random start; torch's default if None.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.

    Examples:
        >>> result = advkit.SparseL1Descent(model, eps=4.0, steps=10).run(images, labels)
        >>> result
        AdversarialResult(12 of 12 successful)
        >>> bool((result.distance("l1") <= 4 + 1e-5).all()), bool((result.distance("l0") < 40).all())  # of 768 features
        (True, True)
    """

    independent_rows: ClassVar[bool] = True
    norm: ClassVar[Norm] = L1

    eps: float | Tensor = number(OfRange(12.0), at_least=0, per_image=True)
    steps: int = number(50, at_least=1, integer=True)
    quantile: float = number(0.99, at_least=0, at_most=1)
    random_start: bool = flag(False)
    _: KW_ONLY
    alpha: float | Tensor | None = number(None, above=0, per_image=True)
    early_stop: bool = flag(False)
    loss: str | Loss = hyperparameters.loss()

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        ball = L1Ball(images, self.eps, self.bounds)
        x = ball.sample(self.generator) if self.random_start else images
        alpha = self.eps / 5 if self.alpha is None else self.alpha
        return iterate(
            self.classifier,
            Climb(x, goal, ball, alpha),
            lambda rows, look: rows.stepped(self._direction(look)),
            steps=self.steps,
            loss=self.loss,
            early_stop=self.early_stop,
        )

    def _direction(self, look: Look) -> Tensor:
        """The sign of the gradient at its largest features, of norm 1: (n, ...)."""
        low, high = self.bounds
        gradient = look.gradient
        outward = ((look.x <= low) & (gradient < 0)) | ((look.x >= high) & (gradient > 0))
        flat = gradient.masked_fill(outward, 0).flatten(1)
        moving = flat.shape[1] - math.ceil(self.quantile * (flat.shape[1] - 1) - 1e-6)
        magnitudes = flat.abs()
        threshold = magnitudes.topk(moving, dim=1, sorted=False).values.amin(1, keepdim=True)
        direction = flat.sign().where(magnitudes >= threshold, 0)
        return (direction / L1.size(direction).clamp_min(1)[:, None]).view_as(gradient)
