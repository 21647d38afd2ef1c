"""Random places at a distance."""

import torch
from torch import Tensor

from advkit import norms
from advkit._base.random import normal_like, uniform_like
from advkit.norms import Norm, column

__all__ = ["scattered"]


def scattered(x: Tensor, norm: Norm, radius: float | Tensor, generator: torch.Generator | None) -> Tensor:
    """Points as far from x (n, ...) as the radius, one for all or (n,), in directions drawn as in AutoAttack.

    Examples:
        >>> from advkit._engine.scatter import scattered
        >>> x = scattered(torch.zeros(2, 3), advkit.norms.L2, torch.tensor([1.0, 2.0]), None)
        >>> torch.allclose(x.norm(dim=1), torch.tensor([1.0, 2.0]))
        True
    """
    noise = 2 * uniform_like(x, generator) - 1 if norm is norms.Linf else normal_like(x, generator)
    return x + column(radius / norm.size(noise).clamp_min(torch.finfo(noise.dtype).tiny), x) * noise
