import math

import pytest
import torch
from scipy import ndimage
from torchvision.transforms.v2.functional import gaussian_blur

from advkit.defenses import FeatureSmoothing, MedianSmoothing
from advkit.errors import InputError
from contracts.scenes import draw


@pytest.mark.parametrize(("size", "sigma"), [(3, 1.0), (5, 0.7), (1, 2.0)])
def test_the_blur_is_that_of_each_image(size: int, sigma: float) -> None:
    images = draw(4, 3, 9, 7)
    blurred = FeatureSmoothing(size, sigma)(images)
    for image, found in zip(images, blurred, strict=True):
        torch.testing.assert_close(found, gaussian_blur(image, [size, size], [sigma, sigma]))


def test_the_weights_are_those_of_the_paper() -> None:
    """Eq. (11), over their sum: what a single bright pixel leaves around it."""
    point = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    point[..., 3, 3] = 1
    steps = range(-2, 3)
    weights = torch.tensor([[math.exp(-(x * x + y * y) / (2 * 1.3**2)) for x in steps] for y in steps])
    found = FeatureSmoothing(5, 1.3)(point)[0, 0, 1:6, 1:6]
    torch.testing.assert_close(found, (weights / weights.sum()).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 3, 5])
def test_the_median_is_that_of_each_image(size: int) -> None:
    images = draw(3, 2, 9, 6)
    for image, found in zip(images, MedianSmoothing(size)(images), strict=True):
        expected = [ndimage.median_filter(channel.numpy(), size, mode="mirror") for channel in image]
        torch.testing.assert_close(found, torch.stack([torch.from_numpy(channel) for channel in expected]))


def test_the_gradient_of_a_median_goes_to_the_pixel_that_it_is() -> None:
    images = draw(1, 1, 5, 5).requires_grad_()
    centre = MedianSmoothing(3)(images)[0, 0, 2, 2]
    (gradient,) = torch.autograd.grad(centre, images)
    torch.testing.assert_close(gradient, (images == centre).float(), rtol=0, atol=0)


def test_white_stays_white_and_has_a_gradient() -> None:
    """A sum of weights of 1.0000001 must not make it flat."""
    images = torch.ones(1, 1, 8, 8, requires_grad=True)
    for sigma in (0.5, 0.8, 1.0, 1.7, 2.3):
        blurred = FeatureSmoothing(5, sigma)(images)
        assert float(blurred.detach().max()) <= 1
        (gradient,) = torch.autograd.grad(blurred.sum(), images)
        torch.testing.assert_close(gradient.sum(), torch.tensor(64.0))


@pytest.mark.parametrize("defense", [FeatureSmoothing(5), MedianSmoothing(5)], ids=lambda it: type(it).__name__)
def test_images_smaller_than_half_the_window(defense: FeatureSmoothing | MedianSmoothing) -> None:
    assert defense(draw(1, 1, 3, 3)).shape == (1, 1, 3, 3)
    with pytest.raises(InputError, match="images of 3x2 pixels are too small for kernel_size=5"):
        defense(draw(1, 1, 3, 2))
