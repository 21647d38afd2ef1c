"""The best pair of features, found without a table of all pairs."""

import torch
from torch import Tensor

__all__ = ["best_pair"]

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
    a, order = a.where(domain, -torch.inf).sort(dim=1, descending=True, stable=True)
    b = b.where(domain, -torch.inf).gather(1, order)
    before = torch.full_like(b[:, :1], -torch.inf)
    largest = torch.cat([before, b.cummax(1).values[:, :-1]], 1)
    second = torch.cat([before, b.minimum(largest).cummax(1).values[:, :-1]], 1)
    layers = b > second

    a, b, order = _compacted(layers, a, b, order)
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


def _compacted(keep: Tensor, a: Tensor, b: Tensor, order: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The entries to keep of each row, in order, at least 2 columns of them; -inf and 0 fill the rest."""
    count = max(2, int(keep.sum(1).max()))
    slot = (keep.cumsum(1) - 1).where(keep, count)

    def compact(values: Tensor, fill: float) -> Tensor:
        return values.new_full((len(values), count + 1), fill).scatter_(1, slot, values)[:, :count]

    return compact(a, -torch.inf), compact(b, -torch.inf), compact(order, 0)
