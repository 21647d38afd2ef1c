"""Random models are asked several times for a gradient, and starts are drawn where they are said to be."""

from collections.abc import Callable
from itertools import cycle

import pytest
import torch
from torch import Tensor

import advkit
from advkit import Attack
from advkit.attacks.transfer import EOT, RandomStart
from references.smooth import dyadic_images, smooth_net


@pytest.mark.parametrize(
    "make",
    [
        lambda model, draws: advkit.PGD(model, 0.5, 0.125, 1, random_start=False, eot_samples=draws),
        lambda model, draws: advkit.Transfer(model, [EOT(samples=draws)], 0.5, 0.125, 1),
    ],
    ids=["PGD", "EOT"],
)
def test_the_step_is_along_the_mean_of_the_draws(make: Callable[..., Attack]) -> None:
    weights = torch.tensor([[1.0, 1.0, -1.0], [-3.0, 1.0, -1.0], [-3.0, 1.0, 5.0]])
    turn = cycle(weights)

    def model(x: Tensor) -> Tensor:
        along = x @ next(turn)
        return torch.stack([-along, along], 1)

    images, labels = torch.full((2, 3), 0.5), torch.tensor([0, 0])
    moved = make(model, 3)(images, labels) - images
    assert torch.equal(moved.sign(), torch.tensor([[-1.0, 1.0, 1.0]] * 2))


def test_a_start_is_uniform_or_in_a_corner() -> None:
    model, images = smooth_net(), 0.25 + dyadic_images(40) / 2
    labels = model(images).argmax(1)
    eps = torch.linspace(0.01, 0.2, 40).double()
    for signs in (False, True):
        start = RandomStart(radius=0.5, signs=signs)
        attack = advkit.Transfer(model, [start], eps, 1e-9, 1, generator=torch.Generator().manual_seed(0))
        share = (attack(images, labels) - images) / eps.view(-1, 1, 1, 1)
        assert share.abs().max() <= 0.5 + 1e-6
        assert share.mean().abs() < 0.05
        assert float(share.square().mean()) == pytest.approx(0.25 if signs else 0.25 / 3, rel=0.1)
