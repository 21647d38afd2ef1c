"""A gradient estimated from pairs of queries, and ascent along it."""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._engine.ball import Ball
from advkit._engine.oracle import Oracle
from advkit.norms import column

__all__ = ["StepRule", "climb", "estimated"]


class StepRule(Protocol):
    """Where a gradient leads, by what is known of each row."""

    def moved(self, x: Tensor, gradient: Tensor, step: int) -> Tensor:
        """Where rows at ``x``, (n, ...), go at a step, counted from 0, with their gradients: a new tensor."""
        ...

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows: places int64 (m,)."""
        ...


def climb(
    ask: Oracle,
    ball: Ball,
    rule: StepRule,
    *,
    steps: int,
    samples: int,
    radius: float,
    draw: Callable[[Tensor], Tensor],
) -> None:
    """Steps inside a ball along gradients estimated from queries, until each image is fooled or has none left.

    A step costs ``2 * samples + 1`` queries, the last of them for where it led; the last step takes what is left. What
    fools is in the oracle's hands.

    Args:
        ask: the model.
        ball: around the images, where the ascent begins.
        rule: what a step makes of a gradient; the ball brings it back.
        steps: how many, at most.
        samples: how many pairs of queries an estimate has.
        radius: how far they lie from where it is made; see `estimated`, and for ``draw``.
        draw: random directions in the shape of a tensor.
    """
    x, left = ball.originals, ask.limit
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        pairs = min(samples, (left - 1) // 2)
        if pairs < 1 or not len(rows):
            break
        x = ball.project(rule.moved(x, estimated(ask, x, rows, radius, pairs, draw), step))
        left -= 2 * pairs + 1
        kept = (ask(x, rows) != torch.inf).nonzero().squeeze(1)
        if len(kept) < len(rows):
            rows, x, ball, rule = rows[kept], x[kept], ball.rows(kept), rule.rows(kept)


def estimated(
    ask: Oracle, x: Tensor, rows: Tensor, radius: float, pairs: int, draw: Callable[[Tensor], Tensor]
) -> Tensor:
    """The mean over random directions v of (f(x + r v) - f(x - r v)) / 2r times v: (n, ...).

    With directions whose covariance is the identity that is the gradient of the loss f in the mean, where f is linear.
    It costs two queries a pair. The probes are no answers: they may lie outside the budget.

    Args:
        ask: the model, of whose losses it is.
        x: (n, ...), where.
        rows: int64 (n,), the image that each row of ``x`` is of.
        radius: r, in units of pixels, greater than 0.
        pairs: how many directions, at least 1; each image has its own.
        draw: random directions in the shape of a tensor.
    """
    total, done = torch.zeros_like(x), 0
    while done < pairs:
        count = min(pairs - done, ask.width(2 * len(rows), 4 * pairs))  # as many as fill a batch
        places = torch.arange(len(x), device=x.device).repeat_interleave(count)
        directions = draw(x.new_empty(len(places), *x.shape[1:]))
        ends = torch.cat([x[places] + radius * directions, x[places] - radius * directions])
        ahead, behind = ask.probe(ends, rows[places].repeat(2)).to(x).chunk(2)
        slopes = (ahead - behind).div(2 * radius).nan_to_num(0, 0, 0)  # a mask of -inf in the logits has no slope
        total = total.index_add(0, places, directions * column(slopes, x))
        done += count
    return total / pairs
