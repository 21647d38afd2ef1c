"""advkit's own search for few features: many pairs from one Jacobian, and then back with those that were too many.

The first Jacobian gives four pairs, the second eight, and so on. What fools the model by then has more features than
it needs, so that some are put back. Where the logits went just where the Jacobian said, as in a linear model, the
image is done again with one pair at a time, and so it is where many pairs at a time came to no success.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.scale import magnitude, rounding_margin
from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit.attacks.minimal.saliency import PairMover, Saliency, jacobians
from advkit.goals import Goal
from advkit.norms import column

__all__ = ["ManyPairs"]

_SLIGHT = 1e-4  # of what the logits differ from their mean: how far a linear model may be from what was expected of it
_TURNS = 6  # tries at putting features back
_FASTEST = 2**30  # pairs a Jacobian, which no image has


@dataclass
class _Outcome:
    fooled: Tensor  # bool (N,), whether the model is
    bent: Tensor  # bool (N,), whether it was not linear on the way


@dataclass
class _Watched(Saliency):
    """Rows of which is known whether the model was as linear as each Jacobian said."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.bent = torch.zeros_like(self.active)  # whether another answer came
        self.outcome = _Outcome(self.active & False, self.active & False)
        self.moved = False  # whether there was a Jacobian yet

    def answered(self, logits: Tensor, came: Tensor, unit: Tensor, fooled: Tensor) -> None:
        """Note in the outcome, of the whole batch, what came of each row."""
        if self.moved:
            slight = self._slight(logits) / unit
            self.bent = self.bent | ((came - self.expected).abs() > slight[:, None]).any(1)
        self.outcome.fooled[self.index] = fooled
        self.outcome.bent[self.index] = self.bent if self.moved else fooled  # what is wrong already needs nothing
        self.moved = True

    def _slight(self, logits: Tensor) -> Tensor:
        """How far a linear model's logits may be from what was expected of them: (n,)."""
        rounding = rounding_margin(logits.where(self.alive, 0).abs().sum(1))
        return _SLIGHT * self.spread_of(logits).maximum(self.spread) + rounding


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
class ManyPairs:
    """The search.

    Args:
        mover: says which pairs, and moves them.
        pairs: how many to take from one Jacobian at most; None for no limit.
        one_by_one: the paper's algorithm, for images (N, ...) and their goal: images (N, ...).
    """

    mover: PairMover
    pairs: int | None
    one_by_one: Callable[[Tensor, Goal], Tensor]

    def search(self, model: Classifier, images: Tensor, goal: Goal) -> Tensor:
        """What fools the model with few features changed, and the images themselves where nothing does: (N, ...)."""
        found, outcome = self._saturate(model, images, goal)
        rest = (~(outcome.fooled & outcome.bent)).nonzero().squeeze(1)
        if len(rest):
            found[rest] = self.one_by_one(images[rest], goal.rows(rest))
        moved = (outcome.bent & (found != images).flatten(1).any(1)).nonzero().squeeze(1)
        if len(moved):
            found[moved] = _put_back(model, _Fooling(found[moved], images[moved], goal.rows(moved)))
        return found

    def _saturate(self, model: Classifier, images: Tensor, goal: Goal) -> tuple[Tensor, _Outcome]:
        """Move pairs, the more of them the longer it takes: images (N, ...), and what came of each."""
        rows = _Watched(images, images, goal)
        for step, jacobian in enumerate(jacobians(model, rows)):
            self.mover.move(rows, jacobian, min(4 * 2**step, self.pairs or _FASTEST, _FASTEST))
        return rows.whole().clone(), rows.outcome


def _put_back(model: Classifier, rows: _Fooling) -> Tensor:
    """Put features back that the model is fooled without: images (n, ...).

    Those go first that the margin, linearised, needs least. Where so many were too many, half as many are tried.
    """
    trial = rows.x
    for turn in range(_TURNS + 1):
        x = trial.detach().requires_grad_()
        logits = model.of(rows.goal).logits(x)
        margin = rows.goal.margin(logits)
        rows.magnitude = rows.magnitude.maximum(magnitude(logits, rows.goal.classes))
        enough = margin <= -rounding_margin(rows.magnitude)
        fools = rows.goal.success(logits) & enough if turn else rows.active
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
        if not rows.retire(count < 1):
            break
        back = order.argsort(1) < count[:, None]
        trial = rows.originals.where(back.view_as(x), rows.x)
        (trial,) = rows.compact(trial)
    return rows.whole()
