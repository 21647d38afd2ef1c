"""Random numbers from the caller's generator, wherever it lives. Nothing here ever seeds one."""

import torch
from torch import Tensor

__all__ = ["normal_like", "uniform_like"]


def uniform_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent draws from [0, 1), in the shape, dtype and device of the images.

    Examples:
        >>> draws = advkit.parts.uniform_like(images, torch.Generator().manual_seed(0))
        >>> draws.shape == images.shape, bool((draws < 1).all())
        (True, True)
    """
    if generator is None:
        return torch.rand(images.shape, dtype=images.dtype, device=images.device)  # which `torch.export` can follow
    return torch.rand(images.shape, dtype=images.dtype, device=generator.device, generator=generator).to(images.device)


def normal_like(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """Independent draws from N(0, 1), in the shape, dtype and device of the images.

    Examples:
        >>> advkit.parts.normal_like(images, None).shape == images.shape  # from torch's default generator
        True
    """
    device = images.device if generator is None else generator.device
    return torch.randn(images.shape, dtype=images.dtype, device=device, generator=generator).to(images.device)
