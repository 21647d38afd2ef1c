"""NES, SPSA and SimBA against what can be worked out on a linear model."""

import pytest
import torch
from torch import Tensor

import advkit
from advkit._engine.oracle import Oracle
from advkit._engine.resampling import cosines
from advkit._engine.slopes import estimated
from advkit.errors import AdvkitError
from advkit.norms import Linf
from contracts.scenes import Counting, draw

WEIGHTS = draw(12, seed=3, low=-1.0, high=1.0).double()


def linear(x: Tensor) -> Tensor:
    """The logit of class 1 against 0, which never leads."""
    lead = x.flatten(1) @ WEIGHTS.to(x)
    return torch.stack([torch.zeros_like(lead), lead - 100], 1)


@pytest.mark.parametrize("name", ["NES", "SPSA"])
def test_the_mean_of_the_estimates_is_the_gradient(name: str) -> None:
    """And it has the variance of a mean over as many pairs, each with the error of one."""
    images, labels = draw(2, 3, 2, 2, low=0.4, high=0.6).double(), torch.zeros(2, dtype=torch.int64)
    ask = Oracle(linear, images, advkit.Untargeted(labels), 10**6, aim="budget", loss="margin")
    generator = torch.Generator().manual_seed(0)
    attack = getattr(advkit, name)(linear, generator=generator)
    draws = attack._signs if name == "SPSA" else lambda like: torch.randn(like.shape, generator=generator).to(like)
    pairs = 20000
    found = estimated(ask, images, torch.arange(2), 0.01, pairs, draws).flatten(1)
    assert ask.queries.tolist() == [2 * pairs] * 2
    error = WEIGHTS.norm() * (2 / pairs) ** 0.5  # no entry varies by more than that
    assert ((found - WEIGHTS).abs() < 5 * error).all()
    assert not found[0].equal(found[1])  # each has draws of its own


@pytest.mark.parametrize("name", ["NES", "SPSA"])
def test_a_probe_that_fools_is_no_answer(name: str) -> None:
    """Neighbours lie outside the ball, and what fools there is not returned."""

    def model(x: Tensor) -> Tensor:
        out = (x - 0.5).abs().flatten(1).amax(1) - 0.0101
        return torch.stack([torch.zeros_like(out), out], 1)

    images, labels = torch.full((3, 1, 4, 4), 0.5), torch.zeros(3, dtype=torch.int64)
    scale = {"NES": {"sigma": 0.05}, "SPSA": {"delta": 0.05}}[name]
    result = getattr(advkit, name)(model, eps=0.01, steps=5, samples=4, **scale).run(images, labels)
    assert not result.success.any()
    assert result.images.equal(images)
    assert result.queries.tolist() == [1 + 5 * 9] * 3


@pytest.mark.parametrize("name", ["NES", "SPSA"])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 20, 33])
def test_the_last_step_takes_what_is_left(name: str, limit: int) -> None:
    model = Counting(linear)
    images, labels = draw(3, 3, 2, 2), torch.zeros(3, dtype=torch.int64)
    result = getattr(advkit, name)(model, samples=5, max_queries=limit).run(images, labels)
    assert sum(model.rows) == int(result.queries.sum()) + 3
    whole, rest = divmod(limit - 1, 11)
    assert result.queries.tolist() == [1 + 11 * whole + (rest - (rest + 1) % 2 if rest > 2 else 0)] * 3


@pytest.mark.parametrize("name", ["NES", "SPSA"])
def test_the_end_is_the_corner_that_the_weights_point_to(name: str) -> None:
    images, labels = torch.full((2, 3, 2, 2), 0.5).double(), torch.zeros(2, dtype=torch.int64)
    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(x.clone())
        return linear(x)

    generator = torch.Generator().manual_seed(0)
    getattr(advkit, name)(model, eps=0.05, steps=25, samples=100, generator=generator)(images, labels)
    last = asked[-1].flatten(1) - 0.5
    assert Linf.size(last).max() <= 0.05 + 1e-6
    clear = WEIGHTS.abs() > 0.2
    torch.testing.assert_close(last[:, clear], 0.05 * WEIGHTS.sign()[clear].expand(2, -1), rtol=0, atol=1e-6)


def test_decisions_have_no_losses_to_probe() -> None:
    images, labels = draw(1, 3, 2, 2), torch.zeros(1, dtype=torch.int64)
    ask = Oracle(linear, images, advkit.Untargeted(labels), access="decisions")
    with pytest.raises(AdvkitError, match="sees no losses"):
        ask.probe(images, torch.tensor([0]))


@pytest.mark.parametrize("basis", ["pixels", "dct"])
@pytest.mark.parametrize("shape", [(2, 4, 6), (1, 1, 5)])
def test_the_basis_is_orthonormal(basis: str, shape: tuple[int, ...]) -> None:
    count = torch.Size(shape).numel()
    images = torch.zeros(count, *shape, dtype=torch.float64)
    vectors = advkit.SimBA(linear, basis=basis)._vectors(torch.arange(count), shape, images).flatten(1)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(count, dtype=torch.float64), rtol=0, atol=1e-6)


def test_waves_are_those_of_the_dct() -> None:
    """Their second differences are a multiple of them, with ends that are reflected."""
    for frequency in range(6):
        wave = cosines(torch.tensor([frequency]), 6, torch.zeros(1))[0]
        mirrored = torch.cat([wave[:1], wave, wave[-1:]])
        second = mirrored[2:] - 2 * wave + mirrored[:-2]
        expected = 2 * (torch.cos(torch.tensor(torch.pi * frequency / 6)) - 1)
        torch.testing.assert_close(second, expected * wave, rtol=0, atol=1e-5)


def test_simba_on_a_linear_model_goes_along_the_signs_of_the_weights() -> None:
    """Every feature is moved once, by alpha, in the direction that helps; a wrong sign first costs a query."""
    asked = []

    def model(x: Tensor) -> Tensor:
        asked.append(x.clone())
        return linear(x) + torch.tensor([0.0, 99.0])

    images, labels = torch.full((4, 3, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    result = advkit.SimBA(model, alpha=0.1, generator=torch.Generator().manual_seed(0)).run(images, labels)
    assert not result.success.any()
    assert result.images.equal(images)
    wrong = int((WEIGHTS < 0).sum())
    assert result.queries.tolist() == [1 + 12 + wrong] * 4
    best = torch.stack(asked[1:-1]).flatten(2)
    lead = (best @ WEIGHTS.float()).max(0).values
    torch.testing.assert_close(lead, 0.5 * WEIGHTS.float().sum() + 0.1 * WEIGHTS.float().abs().sum().expand(4))


def test_simba_returns_what_fooled() -> None:
    def model(x: Tensor) -> Tensor:
        lead = x.flatten(1) @ WEIGHTS.to(x)
        return torch.stack([torch.zeros_like(lead), lead - 0.5 * WEIGHTS.sum() - 0.25], 1)

    images, labels = torch.full((4, 3, 2, 2), 0.5), torch.zeros(4, dtype=torch.int64)
    result = advkit.SimBA(model, alpha=0.2, generator=torch.Generator().manual_seed(0)).run(images, labels)
    assert result.success.all()
    moved = (result.images - 0.5).flatten(1)
    assert set(moved.abs().mul(10).round().unique().tolist()) == {0.0, 2.0}
    assert (moved * WEIGHTS >= 0).all()
