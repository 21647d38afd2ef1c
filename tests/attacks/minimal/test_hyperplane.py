"""The closest point of a hyperplane and a box, against scipy's linear programs and a bisection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, linprog
from torch import Tensor

from advkit import norms
from advkit.attacks.minimal.hyperplane import step_to_hyperplane
from advkit.norms import L1, L2, Linf, Norm

NORMS = pytest.mark.parametrize("norm", [Linf, L2, L1], ids=repr)
LOW, HIGH = -1.0, 2.0


def least(norm: Norm, x: np.ndarray, slope: np.ndarray, gap: float) -> float | None:
    """The length of the shortest step by a linear program, or in L2 by the root of the dual; None if there is none."""
    features, low, high = len(x), LOW - x, HIGH - x
    if norm is L2:

        def left(multiplier: float) -> float:  # of the gap, by the step that the multiplier makes optimal
            return float(gap + slope @ np.clip(-multiplier * slope, low, high))

        far = 1e9 * np.sign(gap)
        if left(far) * gap > 0 or not slope.any():
            return None
        return float(np.linalg.norm(np.clip(-brentq(left, 0, far, xtol=1e-300, rtol=1e-15) * slope, low, high)))
    one = np.eye(features)
    size = np.ones((features, 1)) if norm is Linf else one
    rest = size.shape[1]
    answer = linprog(
        np.r_[np.zeros(features), np.ones(rest)],
        A_ub=np.block([[one, -size], [-one, -size]]),
        b_ub=np.zeros(2 * features),
        A_eq=np.r_[slope, np.zeros(rest)][None],
        b_eq=[-gap],
        bounds=[*zip(low, high, strict=True), *[(0, None)] * rest],
    )
    return float(answer.fun) if answer.status == 0 else None


def check(norm: Norm, x: Tensor, slope: Tensor, gap: Tensor) -> int:
    """Hold each row to the program; how many of them had an answer."""
    steps = step_to_hyperplane(norm, x, slope, gap, (LOW, HIGH))
    assert ((x + steps >= LOW - 1e-12) & (x + steps <= HIGH + 1e-12)).all()
    count = 0
    for row, step in enumerate(steps):
        expected = least(norm, x[row].numpy(), slope[row].numpy(), float(gap[row]))
        closed = float(gap[row] + slope[row] @ step)
        if expected is None:  # as close as the box comes
            ends = torch.where(slope[row] * gap[row].sign() > 0, LOW, HIGH) - x[row]
            assert torch.allclose(step, ends.where(slope[row] != 0, 0), atol=1e-9)
            continue
        count += 1
        assert abs(closed) < 1e-9 * max(1, abs(float(gap[row])))
        assert float(norm.size(step[None])) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    return count


@NORMS
def test_the_programs(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.rand(40, 12, generator=generator, dtype=torch.float64) - 1
    x[::4, :4], x[1::4, 5:] = LOW, HIGH
    slope = torch.randn(40, 12, generator=generator, dtype=torch.float64)
    slope[::5, ::2], slope[::7] = 0, slope[::7].sign()
    gap = 12 * torch.randn(40, generator=generator, dtype=torch.float64)
    assert 20 < check(norm, x, slope, gap) < 40


numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3).map(lambda value: round(value, 2)))


@NORMS
@given(data=st.data(), features=st.integers(1, 6))
@settings(max_examples=60)
def test_any_of_them(norm: Norm, data: st.DataObject, features: int) -> None:
    def vector(of: st.SearchStrategy[float]) -> Tensor:
        return torch.tensor(data.draw(st.lists(of, min_size=features, max_size=features))).double()

    x, slope = vector(st.sampled_from([LOW, -0.25, 0.5, 1.75, HIGH])), vector(numbers)
    gap = torch.tensor([data.draw(numbers)]).double()
    if gap:
        check(norm, x[None], slope[None], gap)


@NORMS
def test_no_gap_and_no_slope_lead_nowhere(norm: Norm) -> None:
    x = torch.full((2, 3), 0.5)
    slope = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    assert not step_to_hyperplane(norm, x, slope, torch.tensor([0.0, 1.0]), (0, 1)).any()


@NORMS
@pytest.mark.parametrize("scale", [1e-37, 1e-20, 1e20])
def test_slopes_of_any_scale(norm: Norm, scale: float) -> None:
    """In float32, whose squares end at 1e-38 and 1e38."""
    x, slope = torch.rand(4, 50, generator=torch.Generator().manual_seed(1)), torch.linspace(-1, 1, 50).expand(4, 50)
    gap = torch.tensor([0.5, -1.0, 2.0, 5.0])
    expected = step_to_hyperplane(norm, x, slope, gap, (0, 1))
    found = step_to_hyperplane(norm, x, slope * scale, gap * scale, (0, 1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert expected.isfinite().all()


@NORMS
def test_many_pixels_in_float32(norm: Norm) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(2, 150_528, generator=generator)
    slope = torch.randn(2, 150_528, generator=generator) ** 3
    gap = torch.tensor([3.0, 30_000.0])
    step = step_to_hyperplane(norm, x, slope, gap, (0, 1))
    left = gap.double() + (slope.double() * step.double()).sum(1)
    assert (left.abs() < 1e-5 * gap).all()
    exact = step_to_hyperplane(norm, x.double(), slope.double(), gap.double(), (0, 1))
    torch.testing.assert_close(norms.get(norm).size(step).double(), norms.get(norm).size(exact), rtol=1e-5, atol=0)
