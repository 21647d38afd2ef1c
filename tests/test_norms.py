import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from torch import Tensor

from advkit import norms
from advkit.errors import InputError
from advkit.norms import L0, L1, L2, Linf, Norm

ALL = [L0, L1, L2, Linf]
CONVEX = [L1, L2, Linf]
ORDERS = {"l0": 0, "l1": 1, "l2": 2, "linf": math.inf}


def some(seed: int = 0, count: int = 5, shape: tuple[int, ...] = (2, 3)) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("norm", ALL, ids=repr)
def test_size_and_distance(norm: Norm) -> None:
    x, y = some(0), some(1)
    x[0, 0, 0], x[1] = 0.0, 0.0
    expected = torch.linalg.vector_norm(x.flatten(1), ORDERS[norm.name], dim=1)
    torch.testing.assert_close(norm.size(x), expected)
    torch.testing.assert_close(norm.distance(x, y), norm.size(x - y))
    assert norm.size(x).dtype == x.dtype
    assert norm.size(x[:0]).shape == (0,)


@pytest.mark.parametrize("norm", ALL, ids=repr)
@settings(max_examples=40)
@given(data=st.data())
def test_projection(norm: Norm, data: st.DataObject) -> None:
    """Inside the ball, itself where it was inside, and idempotent; a budget for all or one for each."""
    count, features = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    numbers = st.floats(-1e3, 1e3, width=32)
    values = data.draw(st.lists(numbers, min_size=count * features, max_size=count * features))
    x = torch.tensor(values, dtype=torch.float64).view(count, features)
    budgets = st.integers(0, features) if norm is L0 else st.floats(0, 1e3, width=32)
    eps = torch.tensor(data.draw(st.lists(budgets, min_size=count, max_size=count)), dtype=torch.float64)
    found = norm.project(x, eps)
    assert (norm.size(found) <= eps * (1 + 1e-9) + 1e-12).all()
    torch.testing.assert_close(norm.project(found, eps), found, rtol=1e-9, atol=1e-9)
    inside = norm.size(x) <= eps
    torch.testing.assert_close(found[inside], x[inside], rtol=1e-12, atol=0)
    for row in range(count):
        one = norm.project(x[row : row + 1], float(eps[row]))
        torch.testing.assert_close(one, found[row : row + 1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", CONVEX, ids=repr)
@pytest.mark.parametrize("eps", [0.3, 1.0, 2.5])
def test_projection_is_the_closest_point(norm: Norm, eps: float) -> None:
    """Against a general solver. L1 in split variables, x = p - q with p, q >= 0 and their sum at most eps."""
    for x in some(2, count=6, shape=(5,)):
        found = norm.project(x[None], eps)[0].numpy()
        if norm is L1:
            split = np.block([[np.eye(5), -np.eye(5)]])
            result = optimize.minimize(
                lambda z, x=x, split=split: 0.5 * np.sum((split @ z - x.numpy()) ** 2),
                np.zeros(10),
                jac=lambda z, x=x, split=split: split.T @ (split @ z - x.numpy()),
                bounds=[(0, None)] * 10,
                constraints={"type": "ineq", "fun": lambda z: eps - z.sum(), "jac": lambda z: -np.ones(10)},
                method="SLSQP",
                options={"ftol": 1e-14, "maxiter": 500},
            )
            expected = split @ result.x
        elif norm is L2:
            expected = x.numpy() * min(1.0, eps / np.linalg.norm(x.numpy()))
        else:
            expected = np.clip(x.numpy(), -eps, eps)
        np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("eps", [0, 1, 2, 5])
def test_l0_projection_by_brute_force(eps: int) -> None:
    for x in some(3, count=4, shape=(5,)):
        kept = [
            x.where(torch.tensor([i in pick for i in range(5)]), 0) for pick in itertools.combinations(range(5), eps)
        ]
        closest = min((x - candidate).norm() for candidate in kept)
        found = L0.project(x[None], eps)[0]
        torch.testing.assert_close((x - found).norm(), closest)
        assert found.count_nonzero() == eps


def test_l1_projection_of_ties_and_zeros() -> None:
    x = torch.tensor([[1.0, 1.0, -1.0, 0.0], [0.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]])
    expected = torch.tensor([[0.5, 0.5, -0.5, 0.0], [0.0, 0.0, 0.0, 0.0], [1.5, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(L1.project(x, 1.5), expected)
    torch.testing.assert_close(L1.project(x, 0.0), torch.zeros(3, 4))


@pytest.mark.parametrize("norm", ALL, ids=repr)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000), size=st.sampled_from([1e-40, 1e-25, 1.0, 1e25]))
def test_steepest_step_is_the_best_of_norm_one(norm: Norm, seed: int, size: float) -> None:
    """Its gain is the dual norm of the gradient, which no perturbation of norm 1 exceeds (Hölder)."""
    gradient = some(seed).float() * size
    step = norm.steepest(gradient)
    assert step.shape == gradient.shape
    torch.testing.assert_close(norm.size(step), torch.ones(5))
    dual = {"l0": torch.inf, "l1": torch.inf, "l2": 2, "linf": 1}[norm.name]
    gain = (step.double() * gradient.double()).flatten(1).sum(1)
    best = torch.linalg.vector_norm(gradient.double().flatten(1), dual, dim=1)
    torch.testing.assert_close(gain, best, rtol=1e-5, atol=0)


@pytest.mark.parametrize("norm", ALL, ids=repr)
def test_steepest_step_of_nothing(norm: Norm) -> None:
    assert norm.steepest(torch.zeros(2, 3)).equal(torch.zeros(2, 3))


@pytest.mark.parametrize("norm", CONVEX, ids=repr)
def test_sample_is_uniform(norm: Norm) -> None:
    """Of points uniform in a ball of d dimensions, a share r^d lies within radius r, and every side has half."""
    features, count = 4, 20_000
    points = norm.sample(torch.empty(count, 2, 2), torch.Generator().manual_seed(0))
    assert points.shape == (count, 2, 2)
    sizes = norm.size(points)
    assert (sizes <= 1 + 1e-6).all()
    for radius in (0.5, 0.8, 0.95):
        share = radius**features
        error = 5 * math.sqrt(share * (1 - share) / count)
        assert abs(float((sizes <= radius).float().mean()) - share) < error
    flat = points.flatten(1)
    assert ((flat > 0).float().mean(0) - 0.5).abs().max() < 5 * 0.5 / math.sqrt(count)
    # all directions alike: coordinates have one variance and no covariance
    covariance = flat.T.cov()
    spread = covariance.diag().mean()
    assert (covariance / spread - torch.eye(features)).abs().max() < 0.06
    second_moments = {"l1": 2 / ((features + 1) * (features + 2)), "l2": 1 / (features + 2), "linf": 1 / 3}
    assert abs(float(spread) / second_moments[norm.name] - 1) < 0.03


@pytest.mark.parametrize("norm", CONVEX, ids=repr)
def test_sample_draws_from_its_generator_alone(norm: Norm) -> None:
    state = torch.get_rng_state()
    images = torch.empty(2, 3)
    first = norm.sample(images, torch.Generator().manual_seed(5))
    assert first.equal(norm.sample(images, torch.Generator().manual_seed(5)))
    assert torch.get_rng_state().equal(state)
    norm.sample(images, None)
    assert not torch.get_rng_state().equal(state)


def test_l0_has_no_uniform_distribution() -> None:
    with pytest.raises(InputError, match="no uniform distribution over the L0 ball"):
        L0.sample(torch.empty(1, 2), None)


def test_names() -> None:
    for norm in ALL:
        assert norms.get(norm) is norm
        assert norms.get(norm.name.upper()) is norm
        assert repr(norm).lower() == norm.name
    for wrong in ("l3", "", 2, None):
        with pytest.raises(InputError, match="the norms are 'l0', 'l1', 'l2', 'linf'"):
            norms.get(wrong)


def test_a_column_broadcasts_over_rows() -> None:
    images = torch.zeros(2, 3, 4)
    assert norms.column(torch.tensor([1.0, 2.0]), images).shape == (2, 1, 1)
    assert norms.column(0.5, images) == 0.5
    assert norms.column(torch.tensor(0.5), images).ndim == 0
