"""What the defenses that look at height and width share."""

from abc import abstractmethod

import torch
from torch import Tensor

from advkit._engine.checks import check_bounds
from advkit._engine.pictures import check_pictures, clipped
from advkit.defenses.base import InputTransformation


class PictureTransformation(InputTransformation):
    """Base of the input transformations of images (N, C, H, W): a subclass writes `_transform`.

    Args:
        bounds: the lowest and the highest value of a pixel.
    """

    def __init__(self, *, bounds: tuple[float, float]) -> None:
        super().__init__()
        check_bounds(bounds)
        self.bounds = bounds

    def forward(self, images: Tensor) -> Tensor:
        """What the model sees of images.

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
        """The numbers that it was given."""
        shown = {name: value for name, value in vars(self).items() if name[0] != "_" and name != "training"}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items() if name != "generator")
