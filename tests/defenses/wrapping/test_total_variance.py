import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from advkit.defenses.wrapping.total_variance import minimize_tv
from contracts.scenes import draw


def objective(z: Tensor, images: Tensor, known: Tensor, weight: float, smoothing: float = 0.0) -> Tensor:
    """What is to be small, for each channel of each image: (N, C)."""
    down = torch.zeros_like(z)
    right = torch.zeros_like(z)
    down[..., :-1, :] = z[..., 1:, :] - z[..., :-1, :]
    right[..., :-1] = z[..., 1:] - z[..., :-1]
    length = (down.square() + right.square() + smoothing**2).sqrt()
    return (0.5 * known * (z - images).square() + weight * length).sum((-2, -1))


def by_scipy(image: Tensor, known: Tensor, weight: float) -> float:
    """The minimum for one channel (H, W), by L-BFGS on lengths that are rounded off less and less."""
    x = image.numpy().ravel()
    for smoothing in (1e-1, 1e-2, 1e-3):

        def value(x: np.ndarray, smoothing: float = smoothing) -> tuple[float, np.ndarray]:
            z = torch.from_numpy(x).view(image.shape).requires_grad_()
            loss = objective(z, image, known, weight, smoothing)
            (gradient,) = torch.autograd.grad(loss, z)
            return loss.item(), gradient.numpy().ravel()

        x = minimize(value, x, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "maxfun": 6000}).x
    return float(objective(torch.from_numpy(x).view(image.shape), image, known, weight))


@pytest.mark.parametrize("weight", [0.01, 0.03, 0.2])
@pytest.mark.parametrize("shape", [(6, 6), (5, 9)], ids=str)
def test_it_finds_the_minimum(shape: tuple[int, int], weight: float) -> None:
    images, known = draw(2, 2, *shape).double(), draw(2, 2, *shape, seed=1) < 0.5
    expected = torch.tensor(
        [by_scipy(x, m, weight) for x, m in zip(images.flatten(0, 1), known.flatten(0, 1), strict=True)]
    )
    found = {n: objective(minimize_tv(images, known, weight, n), images, known, weight).flatten() for n in (30, 1000)}
    assert (found[1000] < 1.0001 * expected).all()  # that of scipy is a minimum from above
    assert (found[30] < 1.05 * expected).all()
    start = objective(images * known, images, known, weight).flatten()
    assert (found[30] < 0.7 * start).all()


def test_each_channel_of_each_image_is_solved_alone() -> None:
    images, known = draw(3, 2, 7, 8), draw(3, 2, 7, 8, seed=1) < 0.5
    together = minimize_tv(images, known, 0.03, 20)
    for i in range(3):
        for j in range(2):
            one = np.s_[i : i + 1, j : j + 1]
            torch.testing.assert_close(minimize_tv(images[one], known[one], 0.03, 20), together[one])


def test_it_treats_height_as_width() -> None:
    images, known = draw(2, 1, 6, 9), draw(2, 1, 6, 9, seed=1) < 0.5
    found = minimize_tv(images, known, 0.03, 300)
    turned = minimize_tv(images.mT.contiguous(), known.mT, 0.03, 300).mT
    torch.testing.assert_close(found, turned, rtol=0, atol=1e-4)


def test_pixels_that_are_not_known_are_not_read() -> None:
    images, known = draw(2, 1, 6, 6), draw(2, 1, 6, 6, seed=1) < 0.5
    other = images.where(known, 0.77)
    assert minimize_tv(images, known, 0.03, 20).equal(minimize_tv(other, known, 0.03, 20))


def test_an_image_of_which_nothing_is_known_is_flat() -> None:
    found = minimize_tv(draw(1, 1, 5, 5), torch.zeros(1, 1, 5, 5, dtype=torch.bool), 0.03, 20)
    assert found.isfinite().all()
    assert float(found.std()) < 1e-6
