"""What the defenses that look at height and width share: batches of pictures (N, C, H, W)."""

from abc import abstractmethod

import torch
from torch import Tensor

from advkit._engine.checks import check_bounds, check_number
from advkit.defenses.base import InputTransformation
from advkit.errors import DtypeError, InputError

__all__ = ["PictureTransformation", "check_larger", "check_pictures", "check_window", "clipped"]


class PictureTransformation(InputTransformation):
    """Base of the input transformations of images (N, C, H, W): a subclass defines `_transform`.

    Args:
        bounds: the lowest and the highest value of a pixel.
    """

    def __init__(self, *, bounds: tuple[float, float]) -> None:
        super().__init__()
        check_bounds(bounds)
        self.bounds = bounds

    def forward(self, images: Tensor) -> Tensor:
        """What the model sees instead of the images.

        Args:
            images: floating, (N, C, H, W), within the bounds; N may be 0.

        Returns:
            Images of the same shape, dtype and device, within the bounds.

        Raises:
            DtypeError: ``images`` is not a floating tensor.
            InputError: ``images`` is of another shape, or one that the transformation cannot work on.
        """
        check_pictures(images)
        work = torch.promote_types(images.dtype, torch.float32)  # weights in 16 bits do not sum to 1
        return clipped(self._transform(images.to(work)), self.bounds).to(images.dtype)

    @abstractmethod
    def _transform(self, pictures: Tensor) -> Tensor:
        """The transformed pictures, float32 or better; they may be out of bounds by a rounding error."""

    def extra_repr(self) -> str:
        """The arguments that it was made with."""
        shown = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if name != "generator")


def check_pictures(images: object) -> None:
    """Refuse images that are not a floating batch of pictures, N of which there may be none."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        seen = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise DtypeError(f"images must be a floating tensor of shape (N, C, H, W), got {seen}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InputError(
            f"images must have shape (N, C, H, W), got {tuple(images.shape)}; add missing dimensions with unsqueeze"
        )


def clipped(images: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Images that rounding took out of bounds, back within them, exactly.

    The gradient is that of the identity: a white pixel that came out as 1.0000001 must not go flat.
    """
    with torch.no_grad():
        excess = images.clamp(*bounds) - images
    return images + excess


def check_window(kernel_size: int) -> None:
    """Refuse a window without a centre."""
    check_number("kernel_size", kernel_size, at_least=1, integer=True)
    if not kernel_size % 2:
        raise InputError(f"kernel_size must be odd, so that the window has a centre; got {kernel_size}")


def check_larger(pictures: Tensor, kernel_size: int) -> None:
    """Refuse pictures whose borders cannot be mirrored as far as a window reaches."""
    if min(pictures.shape[-2:]) <= kernel_size // 2:
        raise InputError(
            f"images of {pictures.shape[-2]}x{pictures.shape[-1]} pixels are too small for kernel_size={kernel_size}: "
            f"mirroring their borders needs more than {kernel_size // 2} pixels a side"
        )
