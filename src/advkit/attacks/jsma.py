"""Jacobian-based saliency map attack."""

import itertools
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.checks import check_number
from advkit._engine.classifier import image_gradient
from advkit._engine.rows import Rows
from advkit._engine.skyline import best_pair
from advkit.attack import Attack, Kind
from advkit.errors import InputError
from advkit.goals import Goal, Untargeted
from advkit.norms import L0, Norm

__all__ = ["JSMA"]


@dataclass
class _Saliency(Rows):
    originals: Tensor  # (n, ...)
    goal: Goal
    target: Tensor  # int64 (n,), the class to raise


@dataclass(frozen=True, eq=False)
class JSMA(Attack):
    """Jacobian-based saliency map attack: two features a step, those that most raise the target class (L0).

    With alpha_i = dZ_t / dx_i and beta_i = sum_{j != t} dZ_j / dx_i, a step moves the two features p and q of
    maximal -(alpha_p + alpha_q) * (beta_p + beta_q) by ``theta``, among the pairs with alpha_p + alpha_q > 0
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are turned round. A feature leaves the search
    when it reaches a bound. Without ``targets``, t is the runner-up of the label on the original image, and any
    class but the label is a success. An image for which no pair is left is returned unchanged. Each step is one
    forward and two backwards, whatever the number of classes, and memory grows linearly with the features.

    Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, "The limitations of deep learning in adversarial settings",
    EuroS&P 2016, eq. (8) to (10) and algorithm 3, on logits.

    Args:
        model: pixels (N, ...) to logits (N, K).
        theta: how far a step moves a feature, in units of pixels: positive or negative, not 0.
        gamma: the largest fraction of an image's features that may change, in (0, 1].
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.
    """

    kind: ClassVar[Kind] = "minimal"
    norm: ClassVar[Norm] = L0

    theta: float = 1.0
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("theta", self.theta)
        if not self.theta:
            raise InputError("theta must be positive, to raise features, or negative, to lower them; got 0")
        check_number("gamma", self.gamma, above=0, at_most=1)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        most = math.floor(self.gamma * images[0].numel() + 1e-6)
        rows = _Saliency(images, images, goal, goal.classes)
        for step in itertools.count():
            x = rows.x.detach().requires_grad_()
            logits = self.model(x)
            if not step and isinstance(goal, Untargeted):
                rows.target = logits.scatter(1, goal.classes[:, None], -torch.inf).argmax(1)
            if not rows.close(rows.goal.success(logits)):
                break
            raised = image_gradient(logits.gather(1, rows.target[:, None]), x, keep_graph=True)
            total = image_gradient(logits, x)
            del x, logits  # and with them the graph, before the search makes tensors of its own
            raised, others = rows.compact(raised, total - raised)
            if not self._move(rows, raised, others, most):
                break
        return rows.whole()

    def _move(self, rows: _Saliency, alpha: Tensor, beta: Tensor, most: int) -> int:
        """Move the best pair of each row; one that has none closes where it came from. Says how many are open."""
        x, originals, alpha, beta = (each.flatten(1) for each in (rows.x, rows.originals, alpha, beta))
        moved = (x + self.theta).clamp(*self.bounds)
        changed = x != originals
        domain = (moved != x) & (changed | (changed.sum(1, keepdim=True) + 2 <= most))
        if self.theta > 0:
            pair, exists = best_pair(alpha, -beta, domain)
        else:
            pair, exists = best_pair(-alpha, beta, domain)

        moved = x.scatter(1, pair, moved.gather(1, pair))
        rows.move(torch.where(exists[:, None], moved, originals).view_as(rows.x))
        still_open = rows.close(~exists)
        rows.compact()
        return still_open
