import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from advkit import SparseL1Descent
from advkit._engine.ball import L1Ball
from contracts.scenes import Counting, conv_net, draw, easy_images, linear_net, said_by


def project(x: Tensor, originals: Tensor, eps: float | Tensor, bounds: tuple[float, float]) -> Tensor:
    return L1Ball(originals, eps, bounds).project(x)


def solver(y: np.ndarray, low: np.ndarray, high: np.ndarray, eps: float) -> np.ndarray:
    """The closest z to y with sum |z| <= eps and low <= z <= high, as a quadratic program in z = plus - minus."""
    features = len(y)
    bounds = [(0, max(0.0, h)) for h in high] + [(0, max(0.0, -lo)) for lo in low]

    def loss(parts: np.ndarray) -> tuple[float, np.ndarray]:
        away = parts[:features] - parts[features:] - y
        return 0.5 * float(away @ away), np.concatenate([away, -away])

    room = {"type": "ineq", "fun": lambda parts: eps - parts.sum(), "jac": lambda parts: -np.ones_like(parts)}
    start = np.zeros(2 * features)
    found = minimize(
        loss,
        start,
        jac=True,
        bounds=bounds,
        constraints=[room],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success
    return found.x[:features] - found.x[features:]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("eps", [0.0, 0.3, 1.0, 2.5])
def test_the_projection_of_a_convex_solver(seed: int, eps: float) -> None:
    generator = np.random.default_rng(seed)
    originals = generator.uniform(0, 1, 8)
    originals[:3] = generator.integers(0, 2, 3)  # some have no room on one side
    x = originals + generator.normal(0, 0.6, 8)
    x[3] = originals[3]
    expected = originals + solver(x - originals, -originals, 1 - originals, eps)
    found = project(torch.from_numpy(x)[None], torch.from_numpy(originals)[None], eps, (0.0, 1.0))
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-6)


@given(
    seed=st.integers(0, 10**6), eps=st.sampled_from([0.0, 0.01, 1.0, 12.0, 100.0]), high=st.sampled_from([1.0, 255.0])
)
@example(seed=65874, eps=12.0, high=1.0)  # a row of it ends in the box, just inside the ball
@settings(max_examples=60)
def test_inside_the_ball_and_the_box_and_as_close_as_it_gets(seed: int, eps: float, high: float) -> None:
    originals = draw(3, 5, 20, seed=seed) * high
    originals[1] = originals[1].round()
    x = originals + draw(3, 5, 20, seed=seed + 1, low=-high, high=high) ** 3 / high**2
    found = project(x, originals, eps, (0.0, high))
    assert (found >= 0).all()
    assert (found <= high).all()
    moved = (found.double() - originals.double()).flatten(1)
    size = moved.abs().sum(1)
    assert (size <= eps).all()
    boxed = (x.clamp(0, high) - originals).flatten(1)
    inside = boxed.abs().sum(1) < 0.999 * eps
    torch.testing.assert_close(moved[inside].float(), boxed[inside], rtol=1e-5, atol=1e-5 * high)
    reach = boxed.abs().sum(1).clamp_max(eps)  # all of the ball, or all that the box leaves of the way
    torch.testing.assert_close(size.float(), reach, rtol=1e-4, atol=1e-4 * high)
    again = project(found, originals, eps, (0.0, high))
    torch.testing.assert_close(again, found, rtol=1e-5, atol=1e-5 * high)


def test_a_ball_for_each_row() -> None:
    originals = torch.full((2, 4), 0.5)
    x = originals + torch.tensor([[0.4, 0.2, 0.0, -0.1]])
    found = project(x, originals, torch.tensor([0.2, 0.4]), (0.0, 1.0)) - originals
    torch.testing.assert_close(found, torch.tensor([[0.2, 0.0, 0.0, 0.0], [0.3, 0.1, 0.0, 0.0]]))


def one_step(weights: Tensor, images: Tensor, **settings: float) -> Tensor:
    """What a step moves on a model of two classes, of which the second has these weights."""

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x @ weights], 1)

    attack = SparseL1Descent(model, steps=1, **settings)
    return attack(images, torch.zeros(len(images), dtype=torch.int64)) - images


def test_a_step_takes_the_features_of_largest_gradient() -> None:
    weights = torch.arange(1.0, 101.0) * torch.tensor([1.0, -1.0]).repeat(50)
    moved = one_step(weights, torch.full((1, 100), 0.5), eps=10.0, alpha=0.8, quantile=0.96)
    expected = torch.zeros(1, 100)
    expected[0, 96:] = torch.tensor([0.2, -0.2, 0.2, -0.2])  # 97 is at index 96 of 0 .. 99, beyond 0.96 * 99
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-6)


def test_at_quantile_one_only_the_largest_moves_and_ties_move_together() -> None:
    weights = torch.tensor([1.0, 3.0, 2.0, -3.0])
    moved = one_step(weights, torch.full((1, 4), 0.5), eps=10.0, alpha=0.2, quantile=1.0)
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0.1, 0.0, -0.1]]))


def test_a_gradient_out_of_the_box_counts_as_zero() -> None:
    images = torch.tensor([[1.0, 0.0, 0.5, 1.0]])
    moved = one_step(torch.tensor([4.0, -3.0, 2.0, -1.0]), images, eps=10.0, alpha=0.3, quantile=0.9)
    torch.testing.assert_close(moved, torch.tensor([[0.0, 0.0, 0.3, 0.0]]))


def test_passes_and_early_stop() -> None:
    model = linear_net()
    images, labels = easy_images(model, count=6)
    counting = Counting(model)
    assert SparseL1Descent(counting, steps=7).run(images, labels).success.all()
    assert counting.rows == [6] * 8  # seven steps and the judge
    counting.rows.clear()
    assert SparseL1Descent(counting, steps=7, early_stop=True).run(images, labels).success.all()
    assert sum(counting.rows) < 6 * 8


def test_alpha_is_a_fifth_of_eps() -> None:
    model = conv_net()
    images = draw(3, 3, 8, 8)
    labels = said_by(model, images)
    eps = torch.tensor([1.0, 2.0, 5.0])
    assert SparseL1Descent(model, eps)(images, labels).equal(SparseL1Descent(model, eps, alpha=eps / 5)(images, labels))
