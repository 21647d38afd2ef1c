"""Feature smoothing: every pixel becomes a weighted mean of those around it."""

from torch import Tensor

from advkit._engine.checks import check_number
from advkit.defenses.wrapping.pictures import PictureTransformation, check_larger, check_window

__all__ = ["FeatureSmoothing"]


class FeatureSmoothing(PictureTransformation):
    """Gaussian blur in front of the model, by torchvision.

    A pixel becomes the mean of its neighbours with weights K(x, y) = exp(-(x^2 + y^2) / (2 sigma^2)) / (2 pi sigma^2),
    divided by their sum. Borders are mirrored. The blur is linear, and attackers differentiate it as it is.

    Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024, eq. (10) and (11).

    Args:
        kernel_size: the side of the window in pixels, odd.
        sigma: the standard deviation of the weights in pixels, positive.
        bounds: the lowest and the highest value of a pixel.

    Raises:
        InputError: a number is out of its range; or, when it is called, images are not of shape (N, C, H, W) or not
            larger than half the window.

    Examples:
        >>> defended = advkit.defenses.FeatureSmoothing(kernel_size=3, sigma=1.0).wrap(model)
        >>> defended(images).shape
        torch.Size([12, 10])
    """

    def __init__(self, kernel_size: int = 3, sigma: float = 1.0, *, bounds: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__(bounds=bounds)
        check_window(kernel_size)
        check_number("sigma", sigma, above=0)
        self.kernel_size = kernel_size
        self.sigma = sigma

    def _transform(self, pictures: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import gaussian_blur

        check_larger(pictures, self.kernel_size)
        size = int(self.kernel_size)
        blurred: Tensor = gaussian_blur(pictures, [size, size], [float(self.sigma)] * 2)
        return blurred
