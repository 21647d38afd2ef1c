"""Jacobian-based saliency: what raises a class and lowers the others, and the pairs of features that do it best."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.scale import contenders, power_of_two
from advkit._engine.boundaries import dot
from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit.attacks.minimal.skyline import best_pair, leaders
from advkit.errors import InputError
from advkit.goals import Goal

__all__ = ["Jacobian", "PairMover", "Saliency", "jacobians"]

_ROUNDING = 1e-4  # of a step: how near a bound is at it


@dataclass
class Saliency(Rows):
    """Rows whose features are moved to raise one class and to lower the others.

    Args:
        x: (n, ...), where each row starts, and then stands.
        originals: (n, ...).
        goal: of the rows.
    """

    originals: Tensor
    goal: Goal

    def __post_init__(self) -> None:
        super().__post_init__()
        self.target = self.goal.classes  # int64 (n,), the class to raise
        self.expected = self.x.new_zeros(len(self.x), 2)  # target logit and sum of logits, by the latest Jacobian
        self.alive = torch.ones_like(self.active)[:, None]  # (n, K), the classes in the race
        self.spread = torch.ones_like(self.expected[:, 0])  # of their logits about the mean, on the original
        self.centred = torch.zeros_like(self.active)  # whether it is the logits less their mean that are read

    def enter(self, logits: Tensor) -> None:
        """Note what the logits (n, K) of the originals say: who is in the race, and where to go."""
        self.target = self.goal.rivals(logits, 1).squeeze(1)
        self.alive = contenders(logits).scatter(1, self.target[:, None], True)
        self.spread = self.spread_of(logits)

    def read(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The target's logit and the sum of those in the race, (n,) each, less their mean where that is read."""
        raised, total = logits.gather(1, self.target[:, None]).squeeze(1), logits.where(self.alive, 0).sum(1)
        common = total.where(self.centred, 0)
        return raised - common / self.alive.sum(1), total - common

    def spread_of(self, logits: Tensor) -> Tensor:
        """The absolute sum of the logits (n, K) in the race, less their mean, which no prediction depends on: (n,)."""
        mean = logits.where(self.alive, 0).sum(1, keepdim=True) / self.alive.sum(1, keepdim=True)
        return (logits - mean).where(self.alive, 0).abs().sum(1)

    def answered(self, logits: Tensor, came: Tensor, unit: Tensor, fooled: Tensor) -> None:
        """Take note of an answer.

        Args:
            logits: (n, K).
            came: (n, 2), what `read` gives, over the unit.
            unit: (n,).
            fooled: bool (n,), whether the goal is reached.
        """


@dataclass(frozen=True)
class Jacobian:
    """The two sums of a Jacobian's rows that the criterion is about, over a unit.

    Attributes:
        alpha: (n, ...), of the target's logit.
        beta: (n, ...), of the sum of the others.
        came: (n, 2), the target's logit and the sum of all, where they belong to.
    """

    alpha: Tensor
    beta: Tensor
    came: Tensor


def jacobians(model: Classifier, rows: Saliency) -> Iterator[Jacobian]:
    """A Jacobian of the rows where they stand, one after the other, until no row is open: those that fool it leave.

    One forward and two backwards each, whatever the number of classes.
    """
    for step in itertools.count():
        x = rows.x.detach().requires_grad_()
        logits = model.of(rows.goal).logits(x)
        if not step:
            rows.enter(logits.detach())
        unit = power_of_two(rows.spread)
        raised, total = (values / unit for values in rows.read(logits))
        came = torch.stack([raised, total], 1).detach()
        fooled = rows.goal.success(logits)
        rows.answered(logits.detach(), came, unit, fooled)
        if not rows.retire(fooled):
            break
        alpha = model.gradient(raised, x, keep_graph=True)
        beta = model.gradient(total, x) - alpha
        del x, logits, raised, total  # and with them the graph, before the search makes tensors of its own
        alpha, beta, came = rows.compact(alpha, beta, came)
        yield Jacobian(alpha, beta, came)
        if rows.finished:
            break


@dataclass(frozen=True)
class PairMover:
    """What moves pairs of features, and which.

    Args:
        theta: how far a step moves a feature, positive or negative.
        gamma: the largest fraction of an image's features that may change.
        bounds: of the pixels.
    """

    theta: float
    gamma: float
    bounds: tuple[float, float]

    def check_share(self, images: Tensor) -> None:
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

    def move(self, rows: Saliency, jacobian: Jacobian, pace: int) -> None:
        """Move the best pairs of each row by what a Jacobian says, ``pace`` of them at most.

        A row that has no pair closes where it came from. Others take at most a quarter of the pairs that may still
        change, so that this limit is not met on the way.
        """
        given = (rows.x, rows.originals, jacobian.alpha, jacobian.beta)
        (x, originals, alpha, beta), came = (each.flatten(1) for each in given), jacobian.came
        gain, loss = (alpha, -beta) if self.theta > 0 else (-alpha, beta)
        changed = x != originals
        left = self._allowed(x.shape[1]) - changed.sum(1)
        domain = ((x + self.theta).clamp(*self.bounds) != x) & (changed | (left >= 2)[:, None])
        most = (left // 8).clamp(1, pace)
        filled, possible = self._filled(x, gain, loss, domain, most)
        blind = (~possible & ~changed.any(1)).nonzero().squeeze(1)
        if len(blind):
            rows.centred = rows.centred.index_fill(0, blind, True)
            alpha, beta, came = _less_the_mean(alpha, beta, came, blind, rows.alive.sum(1, keepdim=True))
            gain = (alpha if self.theta > 0 else beta)[blind]
            filled[blind], possible[blind] = self._filled(x[blind], gain, gain, domain[blind], most[blind])
        rows.expected = came + torch.stack([dot(alpha, filled - x), dot(alpha + beta, filled - x)], 1)
        rows.move(filled.where(possible[:, None], originals).view_as(rows.x))
        rows.retire(~possible)
        rows.compact()

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
