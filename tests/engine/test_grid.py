"""Images on a grid, against all of its values and against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from advkit._engine.grid import Grid, Halves, Levels, fooling, inward
from contracts.scenes import draw

GRIDS: list[Grid] = [Halves(torch.float16), Halves(torch.bfloat16), Levels((0.0, 1.0)), Levels((-1.0, 1.0), 16)]


def values(grid: Grid) -> Tensor:
    """All of a grid's values in [0, 1], ascending."""
    if isinstance(grid, Halves):
        every = torch.arange(2**15).to(torch.int16).view(grid.dtype).float()
        return every[(every >= 0) & (every <= 1)].sort().values
    return grid.value(torch.arange(256.0))[: grid.count].unique()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_nearest_and_neighbours(grid: Grid) -> None:
    every = values(grid)
    x = draw(1000)
    nearest = grid.nearest(x)
    assert torch.isin(nearest, every).all()
    distances = (x[:, None] - every.double()).abs().amin(1)
    torch.testing.assert_close((nearest - x).abs().double(), distances, rtol=0, atol=1e-7)
    inside = every[1:-1]
    assert grid.neighbours(inside, torch.ones_like(inside)).equal(every[2:])
    assert grid.neighbours(inside, -torch.ones_like(inside)).equal(every[:-2])
    assert grid.neighbours(inside, torch.zeros_like(inside)).equal(inside)


def test_halves_below_zero() -> None:
    x = np.array([0.0, 1e-7, -1e-7, -0.25, 2.0], dtype=np.float16)
    for direction, towards in ((1.0, np.inf), (-1.0, -np.inf)):
        found = Halves(torch.float16).neighbours(torch.from_numpy(x).float(), torch.full((5,), direction))
        np.testing.assert_array_equal(found.numpy(), np.nextafter(x, np.float16(towards)).astype(np.float32))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_inward_stays_within_the_change(grid: Grid) -> None:
    originals = grid.nearest(draw(50, 20))
    found = (originals + draw(50, 20, seed=1, low=-0.2, high=0.2)).clamp(0, 1)
    rounded = inward(grid, found, originals)
    assert torch.isin(rounded, values(grid)).all()
    assert ((rounded - originals).abs() <= (found - originals).abs() + grid.slack).all()
    assert (rounded != originals).any()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_fooling_goes_as_far_as_the_grid_needs(grid: Grid) -> None:
    """A mean of pixels must pass a threshold that rounding to the nearest would miss; some rows cannot."""
    originals = grid.nearest(torch.full((40, 30), 0.5))
    shift = torch.linspace(0, 0.02, 40)[:, None]
    found = originals + shift
    needed = shift.squeeze(1).double()
    needed[-3:] = 9.0  # out of reach
    tried = []

    def fools(candidates: Tensor, rows: Tensor) -> Tensor:
        tried.append(len(rows))
        return (candidates - originals[rows]).double().mean(1) >= needed[rows]

    answer = fooling(grid, found, originals, fools, (0.0, 1.0))
    assert answer[0].equal(originals[0])  # which was not moved
    assert answer[-3:].equal(originals[-3:])
    assert torch.isin(answer, values(grid)).all()
    moved = (answer - originals).double().mean(1)
    assert (moved[1:-3] >= needed[1:-3]).all()
    coarse = values(grid)[values(grid) >= 0.5].diff().amax()
    assert (moved[1:-3] <= needed[1:-3] + coarse).all()
    assert tried == sorted(tried, reverse=True)
    assert tried[0] == 39
