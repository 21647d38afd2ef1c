"""The best pair of features, found without a table of all pairs."""

import torch
from torch import Tensor

__all__ = ["best_pair", "leaders"]

_TABLE = 2**22  # entries of the table of pairs that are in memory at once


def best_pair(a: Tensor, b: Tensor, domain: Tensor) -> tuple[Tensor, Tensor]:
    """The pair p < q of maximal (a_p + a_q) * (b_p + b_q) among those with both sums positive, exactly.

    Sort the features by falling a, ties in order of place. Suppose that two earlier ones, k and l, both have
    b_k, b_l >= b_i. In any pair of i with j, i can be replaced by the one of k and l that is not j: neither sum
    falls, so the pair still qualifies and its product does not fall. Each replacement takes a feature further
    to the front, so they come to an end, at a best pair of features that fewer than two earlier ones beat:
    those with b_i > the second largest of b_0 .. b_{i-1}, the first two layers of a skyline. That second largest
    is a running maximum, of min(b_i, b_0 .. b_{i-1}'s largest). The cost is that of the sort, O(d log d), and
    a table over the few features that remain.

    Args:
        a: (n, d), what the pair gains.
        b: (n, d), what it makes others lose.
        domain: bool (n, d), the features to choose from.

    Returns:
        int64 (n, 2), the two features, and bool (n,), whether there is a pair with both sums positive; where
        there is none the features mean nothing.
    """
    order, present = leaders(a, b, domain, 2)
    a, b = (values.gather(1, order).where(present, -torch.inf) for values in (a, b))
    count = a.shape[1]
    place = torch.arange(count, device=a.device)
    score, where = a.new_full(a.shape[:1], -torch.inf), torch.zeros_like(order[:, 0])
    block = max(1, _TABLE // (len(a) * count))
    for start in range(0, count, block):
        part = slice(start, start + block)
        sum_a, sum_b = (values[:, part, None] + values[:, None] for values in (a, b))
        fits = (sum_a > 0) & (sum_b > 0) & (place[part, None] < place)
        top, at = (sum_a * sum_b).where(fits, -torch.inf).flatten(1).max(1)
        where = torch.where(top > score, at + start * count, where)
        score = top.maximum(score)
    pair = torch.stack([where // count, where % count], 1)
    return order.gather(1, pair).sort(1).values, score > -torch.inf


def leaders(a: Tensor, b: Tensor, domain: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """The features that fewer than ``depth`` earlier ones beat, in order of falling a, ties in order of place.

    Among them are ``depth`` / 2 best pairs, one after the other, of which each takes its features from the domain.

    Args:
        a: (n, d).
        b: (n, d).
        domain: bool (n, d), the features to choose from.
        depth: at least 1.

    Returns:
        int64 (n, m), the features, m at least 2; and bool (n, m), False where a row has fewer.
    """
    a, order = a.where(domain, -torch.inf).sort(dim=1, descending=True, stable=True)
    b = b.where(domain, -torch.inf).gather(1, order)
    before = torch.full_like(b[:, :1], -torch.inf)
    spilled = b
    for _ in range(depth):  # the largest so far, the second largest, and so on: each takes what the last one let go
        largest = torch.cat([before, spilled.cummax(1).values[:, :-1]], 1)
        spilled = spilled.minimum(largest)
    return _compacted(b > largest, order)


def _compacted(keep: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """The entries to keep of each row, in order, at least 2 columns of them, and which of these are filled."""
    count = keep.sum(1, keepdim=True)
    columns = max(2, int(count.max()))
    slot = (keep.cumsum(1) - 1).where(keep, columns)
    compact = order.new_zeros(len(order), columns + 1).scatter_(1, slot, order)[:, :columns]
    return compact, torch.arange(columns, device=order.device) < count
