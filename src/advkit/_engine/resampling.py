"""Resampling of batches, each image in its own way: as products with a matrix for each side."""

import torch
from torch import Tensor

__all__ = ["by_sides", "interpolation"]


def interpolation(at: Tensor, size: int) -> Tensor:
    """The matrices that read lines of ``size`` pixels at places (r, m), linearly: (r, m, size).

    Places count in pixels from the middle of the first one; those beyond an end are taken to be there.
    """
    pixels = torch.arange(size, dtype=at.dtype, device=at.device)
    return (1 - (at.clamp(0, size - 1)[..., None] - pixels).abs()).clamp_(min=0)


def by_sides(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (r, C, H, W) with a matrix for each over their height (r, H', H) and one over their width (r, W', W)."""
    return rows[:, None] @ x @ columns[:, None].mT
