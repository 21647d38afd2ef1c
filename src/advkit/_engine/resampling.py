"""Resampling of batches of images, each in its own way, without a loop over them."""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Strips", "by_sides", "cosines", "interpolation", "own_precision"]


def own_precision(device: torch.device) -> AbstractContextManager[object]:
    """Where products and convolutions are in the dtype of their tensors, also under a caller's `torch.autocast`."""
    kind = device.type
    rounding = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return torch.autocast(kind, enabled=False) if rounding else nullcontext()


def interpolation(at: Tensor, size: int) -> Tensor:
    """The matrices that read lines of ``size`` pixels at places (r, m), linearly: (r, m, size).

    Places count in pixels from the middle of the first one; those beyond an end are taken to be there.
    """
    pixels = torch.arange(size, dtype=at.dtype, device=at.device)
    return (at.clamp(0, size - 1)[..., None] - pixels).abs_().neg_().add_(1).clamp_(min=0)


def by_sides(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (r, C, H, W) with a matrix over their height, (..., H', H), and one over their width, (..., W', W)."""
    return rows.unsqueeze(-3) @ x @ columns.unsqueeze(-3).mT


def cosines(frequency: Tensor, size: int, like: Tensor) -> Tensor:
    """The vectors of the orthonormal discrete cosine transform (DCT-II) of these frequencies, int64 (n,): (n, size)."""
    places = (torch.arange(size, dtype=like.dtype, device=like.device) + 0.5) * (math.pi / size)
    waves = (frequency.to(like)[:, None] * places).cos() * math.sqrt(2 / size)
    return waves.where(frequency[:, None] != 0, waves * math.sqrt(0.5))


@dataclass(frozen=True)
class Strips:
    """Lines of pixels, each cut into strips of random lengths, which are put together in another order or as they are.

    Attributes:
        number: int64 (r, side), which strip of the new line each pixel is in.
        start: int64 (r, side), where that strip begins.
        length: int64 (r, side), its length.
        source: int64 (r, side), the pixel of the old line that is there.
    """

    number: Tensor
    start: Tensor
    length: Tensor
    source: Tensor

    @classmethod
    def of(cls, cuts: Tensor, count: int, order: Tensor | None = None) -> "Strips":
        """At most ``count`` strips of at least one pixel.

        Args:
            cuts: independent draws (r, side): where the first of them are least there are cuts.
            count: how many strips.
            order: independent draws (r, count) that say the order; None for as they are.
        """
        side, pixels = cuts.shape[1], torch.arange(cuts.shape[1], device=cuts.device)
        count = min(count, side)
        inner = cuts[:, 1:].argsort(1)[:, : count - 1].sort(1).values + 1
        edges = torch.cat([torch.zeros_like(pixels[:1]).expand(len(cuts), 1), inner], 1)
        lengths = torch.cat([edges, torch.full_like(edges[:, :1], side)], 1).diff(dim=1)
        if order is not None:
            permuted = order[:, :count].argsort(1)
            edges, lengths = edges.gather(1, permuted), lengths.gather(1, permuted)
        ends = lengths.cumsum(1)
        number = (pixels[None, :, None] >= ends[:, None, :-1]).sum(2)
        length = lengths.gather(1, number)
        start = ends.gather(1, number) - length
        return cls(number, start, length, edges.gather(1, number) + pixels - start)
