"""Jacobian-based saliency map attack."""

import itertools
import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.checks import check_number
from advkit._engine.lengths import OfRange
from advkit._engine.rows import Rows
from advkit._engine.search import dot, sliver
from advkit._engine.skyline import best_pair, leaders
from advkit.attack import Attack, Kind
from advkit.errors import InputError
from advkit.goals import Goal, Untargeted
from advkit.norms import L0, Norm, column

__all__ = ["JSMA"]


_SLIGHT = 1e-4  # of the logits' absolute sum: how far a linear model may be from what was expected of it
_ROUNDING = 1e-4  # of a step: how near a bound is at it
_TURNS = 6  # tries at putting features back


@dataclass
class _Saliency(Rows):
    originals: Tensor  # (n, ...)
    goal: Goal
    target: Tensor  # int64 (n,), the class to raise

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expected = self.x.new_zeros(len(self.x), 2)  # target logit and sum of logits, by the latest Jacobian
        self.bent = torch.zeros_like(self.open)  # whether another answer came


@dataclass
class _Fooling(Rows):
    originals: Tensor  # (n, ...)
    goal: Goal

    def __post_init__(self) -> None:
        super().__post_init__()
        self.harm = self.x.flatten(1)  # (n, d), what putting each feature back adds to the margin; inf if it is back
        self.slack = torch.zeros_like(self.harm[:, 0])  # what may be added
        self.share = torch.full_like(self.slack, 0.5)  # of the features that fit into the slack, those to try


@dataclass(frozen=True, eq=False)
class JSMA(Attack):
    """Jacobian-based saliency map attack: two features a step, those that most raise the target class (L0).

    With alpha_i = dZ_t / dx_i and beta_i = sum_{j != t} dZ_j / dx_i, a step moves the two features p and q of
    maximal -(alpha_p + alpha_q) * (beta_p + beta_q) by ``theta``, among the pairs with alpha_p + alpha_q > 0
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are turned round. A feature leaves the search
    when it reaches a bound. Without ``targets``, t is the runner-up of the label on the original image, and any
    class but the label is a success. An image for which no pair is left is returned unchanged. A Jacobian is one
    forward and two backwards, whatever the number of classes, and memory grows linearly with the features.

    The paper takes one pair from each Jacobian; ``JSMA(model, pairs=1)`` is its algorithm. By default the first
    Jacobian gives four pairs, the second eight, and so on, at most a quarter of those that ``gamma`` leaves, each
    the best of the features that are still in the search. What fools the model by then has more features than
    it needs; in six tries, those are put back first that the margin, linearised where the image has come to, needs
    least. Where the logits went just where the Jacobian said, as in a linear model, the image is done again with one
    pair at a time and nothing is put back, so that a linear model gets the paper's answer; where many pairs at a time
    came to no success it is done again too, so that all that the paper's algorithm fools is fooled.

    Papernot, McDaniel, Jha, Fredrikson, Celik & Swami, "The limitations of deep learning in adversarial settings",
    EuroS&P 2016, eq. (8) to (10) and algorithm 3, on logits.

    Args:
        model: pixels (N, ...) to logits (N, K).
        theta: how far a step moves a feature, in units of pixels: positive or negative, not 0; the whole range of
            ``bounds`` if not given.
        gamma: the largest fraction of an image's features that may change, in (0, 1].
        pairs: how many pairs to take from one Jacobian at most; 1 for the paper's algorithm, None for no limit.
        bounds: the lowest and the highest value of a pixel.
        generator: not drawn from.

    Raises:
        InputError: a number is out of its range; see `Attack` for the rest.
    """

    kind: ClassVar[Kind] = "minimal"
    norm: ClassVar[Norm] = L0

    theta: float = OfRange(1.0)
    gamma: float = 0.1
    _: KW_ONLY
    pairs: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("theta", self.theta)
        if not self.theta:
            raise InputError("theta must be positive, to raise features, or negative, to lower them; got 0")
        check_number("gamma", self.gamma, above=0, at_most=1)
        if self.pairs is not None:
            check_number("pairs", self.pairs, at_least=1, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        found, fooled, bent = self._saturate(images, goal)
        if self.pairs == 1:
            return found
        rest = (~(fooled & bent)).nonzero().squeeze(1)
        if len(rest):
            found[rest] = self._with(pairs=1)._perturb(images[rest], goal.rows(rest))
        moved = (bent & (found != images).flatten(1).any(1)).nonzero().squeeze(1)
        if len(moved):
            found[moved] = self._put_back(_Fooling(found[moved], images[moved], goal.rows(moved)))
        return found

    def _saturate(self, images: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """Move pair after pair: images (N, ...), where they fool the model, and where it was not linear: bool (N,)."""
        model, rows = self._classifier, _Saliency(images, images, goal, goal.classes)
        reached, bent = torch.zeros_like(rows.open), torch.zeros_like(rows.open)
        for step in itertools.count():
            x = rows.x.detach().requires_grad_()
            logits = model.logits(x)
            if not step and isinstance(goal, Untargeted):
                rows.target = logits.scatter(1, goal.classes[:, None], -torch.inf).argmax(1)
            raised, total = logits.gather(1, rows.target[:, None]).squeeze(1), logits.sum(1)
            came = torch.stack([raised, total], 1).detach()
            slight = _SLIGHT * logits.detach().abs().sum(1, keepdim=True)
            if step:
                rows.bent = rows.bent | ((came - rows.expected).abs() > slight).any(1)
            fooled = rows.goal.success(logits)
            reached[rows.index] = fooled
            bent[rows.index] = rows.bent if step else fooled  # what is wrong already needs nothing
            if not rows.close(fooled):
                break
            alpha = model.gradient(raised, x, keep_graph=True)
            beta = model.gradient(total, x) - alpha
            del x, logits, raised, total  # and with them the graph, before the search makes tensors of its own
            alpha, beta, came = rows.compact(alpha, beta, came)
            if not self._move(rows, alpha, beta, came, 2 ** (step + 2)):
                break
        return rows.whole().clone(), reached, bent

    def _move(self, rows: _Saliency, alpha: Tensor, beta: Tensor, came: Tensor, pace: int) -> int:
        """Move the best pairs of each row, ``pace`` of them at most; says how many rows are open.

        A row that has no pair closes where it came from. Others take at most a quarter of the pairs that may still
        change, so that this limit is not met on the way.
        """
        x, originals, alpha, beta = (each.flatten(1) for each in (rows.x, rows.originals, alpha, beta))
        gain, loss = (alpha, -beta) if self.theta > 0 else (-alpha, beta)
        changed = x != originals
        left = math.floor(self.gamma * x.shape[1] + 1e-6) - changed.sum(1)
        domain = ((x + self.theta).clamp(*self.bounds) != x) & (changed | (left >= 2)[:, None])
        most = (left // 8).clamp(1, pace if self.pairs is None else min(pace, self.pairs))
        pairs = int(most.max())

        # No other feature comes into a best pair: only those of the pairs taken can leave the search on the way.
        lead, present = leaders(gain, loss, domain, 2 * pairs)
        gain, loss, start = (values.gather(1, lead) for values in (gain, loss, x))
        at, possible = start, None
        while possible is None or most.any():
            domain = present & ((at + self.theta).clamp(*self.bounds) != at)
            pair, exists = best_pair(gain, loss, domain)
            # The same pair is the best until one of the two is at its bound.
            far = (self.bounds[self.theta > 0] - at.gather(1, pair)) / self.theta
            times = (far.amin(1) - _ROUNDING).ceil().clamp_min(1).minimum(most).where(exists, 0)
            moved = (at.gather(1, pair) + self.theta * times[:, None]).clamp(*self.bounds)
            at = at.scatter(1, pair, moved)
            most = (most - times).where(exists, 0)
            possible = exists if possible is None else possible
        filled = torch.cat([x, originals[:, :1]], 1).scatter(1, lead.where(present, x.shape[1]), at)[:, :-1]
        rows.expected = came + torch.stack([dot(alpha, filled - x), dot(alpha + beta, filled - x)], 1)
        rows.move(filled.where(possible[:, None], originals).view_as(rows.x))
        still_open = rows.close(~possible)
        rows.compact()
        return still_open

    def _put_back(self, rows: _Fooling) -> Tensor:
        """Put features back that the model is fooled without: images (n, ...).

        Those go first that the margin, linearised, needs least. Where so many were too many, half as many are tried.
        """
        model, trial = self._classifier, rows.x
        for turn in range(_TURNS + 1):
            x = trial.detach().requires_grad_()
            logits = model.logits(x)
            margin = rows.goal.margin(logits)
            fools = rows.goal.success(logits) & (margin <= -sliver(logits)) if turn else rows.open
            rows.x = x.detach().where(column(fools, x), rows.x)
            if turn == _TURNS:
                break
            harm = model.gradient(margin, x) * (rows.originals - rows.x)
            harm = harm.flatten(1).where((rows.x != rows.originals).flatten(1), torch.inf)
            rows.harm = harm.where(fools[:, None], rows.harm)
            rows.slack = (-margin.detach()).where(fools, rows.slack)
            rows.share = rows.share.where(fools, rows.share / 2)

            harm, order = rows.harm.sort(dim=1, stable=True)
            count = (rows.share * (harm.cumsum(1) <= rows.slack[:, None]).sum(1)).ceil()
            if not rows.close(count < 1):
                break
            back = order.argsort(1) < count[:, None]
            trial = rows.originals.where(back.view_as(x), rows.x)
            (trial,) = rows.compact(trial)
        return rows.whole()
