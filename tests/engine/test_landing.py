"""Images that land on a grid, against the best that whole levels allow."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from advkit import Untargeted
from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier
from advkit._engine.grid import Grid, Halves, Levels
from advkit._engine.landing import Landing
from contracts.scenes import draw

GRIDS: list[Grid] = [Halves(torch.float16), Halves(torch.bfloat16), Levels((0.0, 1.0)), Levels((0.0, 1.0), 16)]


def held(threshold: Tensor) -> Tensor:
    """A pixel that holds a threshold from -10 to 10."""
    return (threshold / 20 + 0.5).float()


def threshold(pixel: Tensor) -> Tensor:
    return 20 * (pixel.double() - 0.5)


class Past(nn.Module):
    """Says 1 where weights . pixels passes a threshold, which the last pixel of an image holds."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, images: Tensor) -> Tensor:
        over = (images[:, :-1].double() - 0.5) @ self.weights - threshold(images[:, -1])
        return torch.stack([torch.zeros_like(over), over], 1)


def landing(grid: Grid, weights: Tensor, originals: Tensor, ball: Ball | None = None) -> Landing:
    """For images whose last pixel holds still."""
    free = torch.ones_like(originals, dtype=torch.bool)
    free[:, -1] = False
    goal = Untargeted(torch.zeros(len(originals), dtype=torch.int64))
    return Landing(grid, Classifier(Past(weights)), originals, goal, (0.0, 1.0), ball, free)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_change_goes_as_far_as_the_grid_needs(grid: Grid) -> None:
    """A mean of pixels must pass a threshold that rounding to the nearest would miss; some rows cannot."""
    needed = torch.linspace(0, 0.02, 40)
    needed[-3:] = 0.9  # out of reach
    originals = torch.cat([grid.nearest(torch.full((40, 30), 0.5)), held(needed)[:, None]], 1)
    found = originals.clone()
    found[:, :-1] += torch.linspace(0, 0.02, 40)[:, None]
    start = originals[0, 0] - 0.5  # half of 255 levels is none of them
    answer = landing(grid, torch.full((30,), 1 / 30, dtype=torch.float64), originals).of(found, within=False)
    assert answer[0].equal(originals[0])  # which was not moved
    assert answer[-3:].equal(originals[-3:])
    assert answer[:, -1].equal(originals[:, -1])
    assert grid.nearest(answer[:, :-1]).equal(answer[:, :-1])
    moved = (answer[1:-3, :-1] - 0.5).double().mean(1)
    assert (moved > needed[1:-3]).all()
    coarse = (grid.neighbours(originals[0, 0], torch.ones(())) - originals[0, 0]).item()
    assert (moved <= needed[1:-3] + start.clamp_min(0) + coarse).all()


def test_the_shortest_change_on_the_grid_where_the_margin_is_linear() -> None:
    """Against all changes by whole levels, in L2: the scale that is found by halving is nearly the best."""
    grid, weights = Levels((0.0, 1.0), 16), draw(5, seed=1, low=0.2, high=1.0).double()
    needed = torch.linspace(0.1, 0.5, 9)
    originals = torch.cat([grid.nearest(torch.full((9, 5), 0.4)), held(needed)[:, None]], 1)
    base = originals[0, :-1].double() - 0.5
    found = originals.clone()
    gap = needed.double() - base @ weights
    found[:, :-1] += (gap[:, None] * weights / (weights @ weights)).float()
    answer = landing(grid, weights, originals).of(found, within=False)
    steps = torch.tensor([*product(range(9), repeat=5)]).double() / 15
    for row in range(9):
        enough = steps[steps @ weights > gap[row]]
        best = enough.square().sum(1).min().sqrt()
        change = (answer[row] - originals[row])[:-1].double()
        assert change @ weights > gap[row]
        assert change.norm() <= 1.2 * best


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("on_grid", [True, False])
def test_a_budget_holds_and_what_fooled_within_it_does_again(norm: str, on_grid: bool) -> None:
    """Rounding undoes half of what barely fools; steps on the grid find other changes in the same budget."""
    grid, weights = Levels((0.0, 1.0)), draw(200, seed=1, low=-1.0, high=1.0).double()
    pixels = draw(20, 200, seed=2, low=0.2, high=0.8)
    pixels = grid.nearest(pixels) if on_grid else pixels
    eps = {"linf": 4.4 / 255, "l2": 0.3, "l1": 4.0}[norm]
    originals = torch.cat([pixels, torch.zeros(20, 1)], 1)
    ball = Ball.of(norm, originals, eps, (0.0, 1.0))
    found = torch.cat([pixels + 0.2 * (draw(20, 200, seed=3) - 0.5), torch.zeros(20, 1)], 1)
    found[:, :-1] += 0.02 * weights.sign().float()
    found = ball.project(found)
    originals[:, -1] = found[:, -1] = held((found[:, :-1].double() - 0.5) @ weights - 1e-5)
    ball = Ball.of(norm, originals, eps, (0.0, 1.0))
    answer = landing(grid, weights, originals, ball).of(found, within=True)
    assert grid.nearest(answer[:, :-1]).equal(answer[:, :-1])
    assert (ball.norm.distance(answer, originals) <= eps + 1e-6).all()
    assert Past(weights)(found).argmax(1).all()
    assert Past(weights)(answer).argmax(1).all()


def test_few_levels_take_no_liberties_with_a_budget() -> None:
    """A level that is a little too far away is too far, however wide levels are."""
    grid, originals = Levels((0.0, 1.0), 2), torch.tensor([[0.0, 1.0, 0.0]])
    for eps, changed in ((0.99995, False), (1.0, True)):
        ball = Ball.of("linf", originals, eps, (0.0, 1.0))
        found = (originals - eps * (2 * originals - 1)).clamp(0, 1)
        landed = landing(grid, torch.ones(2).double(), originals, ball).inside(found)
        assert landed[:, :2].ne(originals[:, :2]).all(1).tolist() == [changed]
