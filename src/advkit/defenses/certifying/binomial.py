"""What counts say of a probability: the exact bound of Clopper and Pearson, and the exact test of a fair coin."""

import math

import torch
from torch import Tensor

__all__ = ["fair_coin", "lower_bound"]

_TINY = 1e-300
_CLOSE = 1e-14


def lower_bound(hits: Tensor, n: int, alpha: float) -> Tensor:
    """A number that the probability of a hit is above, with confidence 1 - alpha: float64, like ``hits``.

    One-sided, and exact: the p with which ``hits`` or more of n have the probability alpha, which is the quantile
    alpha of Beta(hits, n - hits + 1) (Clopper & Pearson, "The use of confidence or fiducial limits illustrated in the
    case of the binomial", Biometrika 1934).

    Args:
        hits: integers from 0 to n, on the CPU.
        n: how many trials.
        alpha: above 0, and at most 1/2.
    """
    k = hits.double()
    p = torch.minimum(k / (n + 1), (k + 1) / (n + 3)).clamp_min(0.5 / n)
    # The logarithm of the tail is concave in p: from the left, Newton's steps rise to the root and don't pass it.
    for _ in range(100):
        log_tail, slope = _log_tail(p, k.clamp_min(1), n)
        step = (math.log(alpha) - log_tail) / slope
        new = torch.where(p + step > 0, p + step, p / 2)
        moved = (new - p).abs() > 1e-11 * p
        p = new
        if not bool(moved.any()):
            break
    return torch.where(k == 0, 0.0, torch.where(k == n, alpha ** (1 / n), p))


def fair_coin(hits: Tensor, n: Tensor) -> Tensor:
    """How probable it is that a fair coin, tossed n times, is as far from n / 2 as this: float64, like ``hits``.

    The exact test, two-sided.

    Args:
        hits: integers from n / 2 to n, on the CPU.
        n: how many trials, likewise, at least 1.
    """
    k, n = hits.double(), n.double()
    log_tail, _ = _log_tail(torch.full_like(k, 0.5), k, n)
    return (2 * log_tail.exp()).clamp(max=1)


def _log_tail(p: Tensor, k: Tensor, n: float | Tensor) -> tuple[Tensor, Tensor]:
    """The logarithm of P(X >= k) for X of Binomial(n, p), and its derivative in p; p at most about k / n.

    By the continued fraction of the incomplete beta function, evaluated as Lentz does (Press et al., "Numerical
    recipes", section 6.4).
    """
    a, b = k, n - k + 1
    front = a * p.log() + b * torch.log1p(-p) - (a.lgamma() + b.lgamma() - (a + b).lgamma())
    c, d = torch.ones_like(p), 1 / _away(1 - (a + b) * p / (a + 1))
    fraction = d
    for m in range(1, 10_000):
        even = m * (b - m) * p / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _away(1 + even * d), _away(1 + even / c)
        fraction = fraction * d * c
        odd = -(a + m) * (a + b + m) * p / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _away(1 + odd * d), _away(1 + odd / c)
        fraction = fraction * d * c
        if not bool(((d * c - 1).abs() > _CLOSE).any()):
            break
    tail = fraction / a  # over exp(front)
    return front + tail.log(), 1 / (tail * p * (1 - p))


def _away(value: Tensor) -> Tensor:
    """The same, away from zero."""
    return torch.where(value.abs() < _TINY, _TINY, value)
