"""Images sewn together from patches, along the cuts that show least; all images of a batch at once."""

import torch
from torch import Tensor

__all__ = ["quilt"]


def quilt(patches: Tensor, overlap: int) -> Tensor:
    """Lay patches on a grid in reading order, each over the earlier ones along its minimum-error boundary cuts.

    Where a patch overlaps what is there, in a strip on its left and one at its top, the cut is the path across the
    strip of least squared difference, found by dynamic programming; a pixel of the patch is laid if it is on or
    beyond both cuts (Efros & Freeman, "Image quilting for texture synthesis and transfer", SIGGRAPH 2001, section
    2.1). Patches at (i, j) with the same 2i + j do not touch each other, and all that they touch lies earlier in
    both orders: they are laid together, for all images.

    Args:
        patches: (N, rows, cols, C, size, size).
        overlap: how many pixels neighbours share, from 1 to size // 2.

    Returns:
        (N, C, H, W), with H = size + (rows - 1) * (size - overlap) and W likewise: differentiable, the cuts as given.
    """
    count, rows, cols, channels, size, _ = patches.shape
    stride = size - overlap
    height, width = size + (rows - 1) * stride, size + (cols - 1) * stride
    canvas = patches.new_zeros(count, channels, height * width)
    step = torch.arange(size, device=patches.device)
    inside = step[:, None] * width + step
    for wave in range(2 * (rows - 1) + cols):
        i = torch.arange(max(0, (wave - cols + 2) // 2), min(rows - 1, wave // 2) + 1, device=patches.device)
        j = wave - 2 * i
        place = (i * width + j)[:, None, None] * stride + inside
        old, new = canvas[:, :, place], patches[:, i, j].transpose(1, 2)
        error = (old - new).detach().square().sum(1)
        left = _cut(error[..., :overlap]).mul_((j > 0)[:, None])
        top = _cut(error[..., :overlap, :].mT).mul_((i > 0)[:, None])
        laid = (step >= left[..., None]) & (step[:, None] >= top[..., None, :])
        canvas[:, :, place] = torch.where(laid[:, None], new, old)
    return canvas.view(count, channels, height, width)


def _cut(error: Tensor) -> Tensor:
    """The path of least error down a strip (..., length, width), one column to either side a row: int64 (..., length).

    Of equal paths it is the one furthest to the left where it ends, and on from there.
    """
    costs = [error[..., 0, :]]
    for row in error.unbind(-2)[1:]:
        costs.append(row + _neighbours(costs[-1]).amin(-1))
    path = [costs[-1].argmin(-1)]
    for cost in reversed(costs[:-1]):
        near = _neighbours(cost).gather(-2, path[-1][..., None, None].expand(*path[-1].shape, 1, 3))
        path.append(path[-1] - 1 + near.squeeze(-2).argmin(-1))
    return torch.stack(path[::-1], -1)


def _neighbours(cost: Tensor) -> Tensor:
    """The costs on the left of each column, in it and on its right: (..., width, 3), infinite beyond the border."""
    beyond = torch.full_like(cost[..., :1], torch.inf)
    return torch.cat([beyond, cost, beyond], -1).unfold(-1, 3, 1)
