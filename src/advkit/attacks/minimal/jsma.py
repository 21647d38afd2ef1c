"""Jacobian-based saliency map attack."""

import itertools
import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.boundaries import dot
from advkit._engine.rows import Rows
from advkit._engine.scale import contenders, magnitude, power_of_two, rounding_margin
from advkit.attack import Aim, Attack
from advkit.attacks.minimal.skyline import best_pair, leaders
from advkit.errors import InputError
from advkit.goals import Goal
from advkit.hyperparameters import Number, OfRange, declared, number
from advkit.norms import L0, Norm, column

__all__ = ["JSMA"]


_SLIGHT = 1e-4  # of what the logits differ from their mean: how far a linear model may be from what was expected of it
_ROUNDING = 1e-4  # of a step: how near a bound is at it
_TURNS = 6  # tries at putting features back
_FASTEST = 2**30  # pairs a Jacobian, which no image has


@dataclass
class _Saliency(Rows):
    originals: Tensor  # (n, ...)
    goal: Goal
    target: Tensor  # int64 (n,), the class to raise

    def __post_init__(self) -> None:
        super().__post_init__()
        self.expected = self.x.new_zeros(len(self.x), 2)  # target logit and sum of logits, by the latest Jacobian
        self.alive = torch.ones_like(self.open)[:, None]  # (n, K), the classes in the race
        self.spread = torch.ones_like(self.expected[:, 0])  # of their logits about the mean, on the original
        self.centred = torch.zeros_like(self.open)  # whether it is the logits less their mean that are read
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
        self.magnitude = torch.zeros_like(self.slack)  # of the logits that the margin compares, at first


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
    and beta_p + beta_q < 0; for a negative ``theta`` both signs are turned round. A feature leaves the search
    when it reaches a bound. Without ``targets``, t is the runner-up of the label on the original image, and any class
    but the label is a success. An image for which no pair is left is returned unchanged. A Jacobian is one forward and
    two backwards, whatever the number of classes, and memory grows linearly with the features.

    Logits are only determined up to what they have in common, on which the betas depend. Where they leave no pair on
    the original image, it is the logits less their mean that are read: their sum is constant, as that of the paper's
    probabilities is. So a network of two classes has one answer, whether it says (0, z) or (-z/2, z/2). A class that
    is out of the race, such as one that is masked with -1e9 or -inf, is in no sum.

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
        InputError: a number is out of its range, or ``gamma`` allows no pair of the images' features; see `Attack` for
            the rest.
    """

    independent_rows: ClassVar[bool] = True
    aim: ClassVar[Aim] = "minimal"
    norm: ClassVar[Norm] = L0

    theta: float = declared(OfRange(1.0), _Step())
    gamma: float = number(0.1, above=0, at_most=1)
    _: KW_ONLY
    pairs: int | None = number(None, at_least=1, integer=True)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        self._check_share(images)
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

    def _check_share(self, images: Tensor) -> None:
        """Refuse a ``gamma`` that allows no pair of features. An image of one has none to begin with."""
        features = images[0].numel()
        if (allowed := self._allowed(features)) < 2 <= features:
            raise InputError(
                f"JSMA moves features in pairs, and gamma={self.gamma:g} lets {allowed} of the {features} features of "
                f"an image change; give a gamma of {math.ceil(200 / features) / 100:g} at least, or 1 for no limit"
            )

    def _allowed(self, features: int) -> int:
        """How many of an image's features may change."""
        return math.floor(self.gamma * features + 1e-6)

    def _saturate(self, images: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
        """Move pair after pair: images (N, ...), where they fool the model, and where it was not linear: bool (N,)."""
        model, rows = self._classifier, _Saliency(images, images, goal, goal.classes)
        reached, bent = torch.zeros_like(rows.open), torch.zeros_like(rows.open)
        for step in itertools.count():
            x = rows.x.detach().requires_grad_()
            logits = model.logits(x)
            if not step:
                _enter(rows, logits.detach())
            unit = power_of_two(rows.spread)
            raised, total = (values / unit for values in _read(rows, logits))
            came = torch.stack([raised, total], 1).detach()
            if step:
                slight = _slight(rows, logits.detach()) / unit
                rows.bent = rows.bent | ((came - rows.expected).abs() > slight[:, None]).any(1)
            fooled = rows.goal.success(logits)
            reached[rows.index] = fooled
            bent[rows.index] = rows.bent if step else fooled  # what is wrong already needs nothing
            if not rows.close(fooled):
                break
            alpha = model.gradient(raised, x, keep_graph=True)
            beta = model.gradient(total, x) - alpha
            del x, logits, raised, total  # and with them the graph, before the search makes tensors of its own
            alpha, beta, came = rows.compact(alpha, beta, came)
            if not self._move(rows, alpha, beta, came, min(4 * 2**step, _FASTEST)):
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
        left = self._allowed(x.shape[1]) - changed.sum(1)
        domain = ((x + self.theta).clamp(*self.bounds) != x) & (changed | (left >= 2)[:, None])
        most = (left // 8).clamp(1, pace if self.pairs is None else min(pace, self.pairs))
        filled, possible = self._filled(x, gain, loss, domain, most)
        blind = (~possible & ~changed.any(1)).nonzero().squeeze(1)
        if len(blind):
            rows.centred = rows.centred.index_fill(0, blind, True)
            alpha, beta, came = _less_the_mean(alpha, beta, came, blind, rows.alive.sum(1, keepdim=True))
            gain = (alpha if self.theta > 0 else beta)[blind]
            filled[blind], possible[blind] = self._filled(x[blind], gain, gain, domain[blind], most[blind])
        rows.expected = came + torch.stack([dot(alpha, filled - x), dot(alpha + beta, filled - x)], 1)
        rows.move(filled.where(possible[:, None], originals).view_as(rows.x))
        still_open = rows.close(~possible)
        rows.compact()
        return still_open

    def _filled(self, x: Tensor, gain: Tensor, loss: Tensor, domain: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, d) after ``most`` of the best pairs, int64 (n,), and whether there was one, bool (n,)."""
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
        filled = torch.cat([x, x[:, :1]], 1).scatter(1, lead.where(present, x.shape[1]), at)[:, :-1]
        return filled, possible

    def _put_back(self, rows: _Fooling) -> Tensor:
        """Put features back that the model is fooled without: images (n, ...).

        Those go first that the margin, linearised, needs least. Where so many were too many, half as many are tried.
        """
        model, trial = self._classifier, rows.x
        for turn in range(_TURNS + 1):
            x = trial.detach().requires_grad_()
            logits = model.logits(x)
            margin = rows.goal.margin(logits)
            rows.magnitude = rows.magnitude.maximum(magnitude(logits, rows.goal.classes))
            enough = margin <= -rounding_margin(rows.magnitude)
            fools = rows.goal.success(logits) & enough if turn else rows.open
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


def _enter(rows: _Saliency, logits: Tensor) -> None:
    """Note what the logits (n, K) of the originals say: who is in the race, and where to go."""
    rows.target = rows.goal.rivals(logits, 1).squeeze(1)
    rows.alive = contenders(logits).scatter(1, rows.target[:, None], True)
    rows.spread = _spread(rows, logits)


def _read(rows: _Saliency, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The target's logit and the sum of those in the race, (n,) each, less their mean where that is what is read."""
    raised, total = logits.gather(1, rows.target[:, None]).squeeze(1), logits.where(rows.alive, 0).sum(1)
    common = total.where(rows.centred, 0)
    return raised - common / rows.alive.sum(1), total - common


def _less_the_mean(
    alpha: Tensor, beta: Tensor, came: Tensor, rows: Tensor, count: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A Jacobian, (n, d) twice, and what it belongs to, (n, 2), as if ``rows`` were read less their mean.

    Args:
        alpha: of the target's logit.
        beta: of the sum of the others.
        came: the target's logit and the sum of all.
        rows: int64 (m,).
        count: (n, 1), of how many logits that sum is.
    """
    centred = alpha[rows] - (alpha[rows] + beta[rows]) / count[rows]
    raised = came[rows, :1] - came[rows, 1:] / count[rows]
    came = came.index_copy(0, rows, torch.cat([raised, torch.zeros_like(raised)], 1))
    return alpha.index_copy(0, rows, centred), beta.index_copy(0, rows, -centred), came


def _spread(rows: _Saliency, logits: Tensor) -> Tensor:
    """The absolute sum of the logits (n, K) in the race, less their mean, which no prediction depends on: (n,)."""
    mean = logits.where(rows.alive, 0).sum(1, keepdim=True) / rows.alive.sum(1, keepdim=True)
    return (logits - mean).where(rows.alive, 0).abs().sum(1)


def _slight(rows: _Saliency, logits: Tensor) -> Tensor:
    """How far a linear model's logits may be from what was expected of them: (n,)."""
    rounding = rounding_margin(logits.where(rows.alive, 0).abs().sum(1))
    return _SLIGHT * _spread(rows, logits).maximum(rows.spread) + rounding
