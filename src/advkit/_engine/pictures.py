"""Images as batches of pictures (N, C, H, W), for what works on height and width."""

import torch
from torch import Tensor

from advkit.errors import DtypeError, InputError

__all__ = ["check_pictures", "clipped"]


def check_pictures(images: object) -> None:
    """Refuse images that are not a floating batch of pictures, N of which there may be none."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        seen = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DtypeError(f"images must be a floating tensor of shape (N, C, H, W), got {seen}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InputError(
            f"images must have shape (N, C, H, W), got {tuple(images.shape)}; add what is missing with unsqueeze"
        )


def clipped(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Images that rounding took out of bounds, back within them, exactly.

    The gradient is that of the identity: a white pixel that came out as 1.0000001 must not go flat.
    """
    with torch.no_grad():
        excess = images.clamp(*bounds) - images
    return images + excess
