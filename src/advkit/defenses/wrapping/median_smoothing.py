"""Median smoothing: every pixel becomes the median of those around it."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from advkit.defenses.wrapping.pictures import PictureTransformation, check_larger, check_window

__all__ = ["MedianSmoothing"]


class MedianSmoothing(PictureTransformation):
    """Median filter in front of the model, one of the squeezers of feature squeezing.

    A pixel becomes the median of the window around it, in each channel on its own; borders are mirrored. The median
    is one of the pixels of its window, and its gradient goes to that pixel: this is the derivative wherever the
    window's values differ, and attackers differentiate it as it is. Between equal pixels it is shared.

    Xu, Evans & Qi, "Feature squeezing: detecting adversarial examples in deep neural networks", NDSS 2018,
    section 3.2. Theirs also has windows of 2x2, which shift the image by half a pixel; here the side is odd.

    Args:
        kernel_size: the side of the window in pixels, odd.
        bounds: the lowest and the highest value of a pixel.

    Raises:
        InputError: ``kernel_size`` is not odd; or, when it is called, images are not of shape (N, C, H, W) or not
            larger than half the window.

    Examples:
        >>> one_white_pixel = torch.zeros(1, 1, 5, 5)
        >>> one_white_pixel[0, 0, 2, 2] = 1
        >>> advkit.defenses.MedianSmoothing()(one_white_pixel).max()
        tensor(0.)
    """

    def __init__(self, kernel_size: int = 3, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(bounds=bounds)
        check_window(kernel_size)
        self.kernel_size = kernel_size

    def _transform(self, pictures: Tensor) -> Tensor:
        check_larger(pictures, self.kernel_size)
        size = int(self.kernel_size)
        height, width = pictures.shape[-2:]
        padded = pad(pictures, [size // 2] * 4, mode="reflect")
        return _median([padded[..., i : i + height, j : j + width] for i in range(size) for j in range(size)])


def _median(values: list[Tensor]) -> Tensor:
    """The median of an odd number of tensors, element by element, by minima and maxima alone.

    Of any n // 2 + 2 values neither the smallest nor the largest is the median of all n: both are forgotten, and
    another value joins those that are left. On a CPU that is ten times as fast as `torch.median` for windows of 3x3.
    """
    count = len(values) // 2 + 2
    kept, waiting = values[:count], values[count:]
    while len(kept) > 1:
        for i in range(1, len(kept)):
            kept[0], kept[i] = torch.minimum(kept[0], kept[i]), torch.maximum(kept[0], kept[i])
        for i in range(1, len(kept) - 1):
            kept[i], kept[-1] = torch.minimum(kept[i], kept[-1]), torch.maximum(kept[i], kept[-1])
        kept = kept[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return kept[0]
