"""Images on a grid, against all of its values and against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor

from advkit._engine.grid import Grid, Halves, Levels, inward
from advkit.errors import InputError
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


def test_inward_where_the_original_is_off_the_grid() -> None:
    originals = torch.tensor([[0.4, 0.4, 0.4]]) / 255
    found = torch.tensor([[0.4, 2.9, 0.45]]) / 255
    assert (inward(Levels((0.0, 1.0)), found, originals) * 255).round().tolist() == [[0, 2, 0]]


def test_levels_that_a_dtype_cannot_tell_apart() -> None:
    Levels((0.0, 1.0), 256, torch.float16).check()
    Levels((0.0, 1.0), 256, torch.bfloat16).check()
    with pytest.raises(InputError, match=r"torch\.bfloat16 images cannot represent 300 distinct levels"):
        Levels((0.0, 1.0), 300, torch.bfloat16).check()
