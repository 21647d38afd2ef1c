"""A gradient estimated from pairs of queries."""

from collections.abc import Callable

import torch
from torch import Tensor

from advkit._engine.oracle import Oracle
from advkit.norms import column

__all__ = ["estimated"]


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
