"""Spatial against brute force, and what its grid and its budget are."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

import advkit
from advkit.attacks.queries.spatial import _moved
from contracts import scenes


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 11), (2, 9, 5)], ids=str)
def test_images_are_moved_as_torchvision_does(shape: tuple[int, ...]) -> None:
    """One by one, by its own resampling: on images that are not square as well."""
    images, (height, width) = scenes.draw(5, *shape), shape[1:]
    asked = [(0, 0, 0), (30, 0, 0), (-17, 1, 0), (90, 0, -2), (12, -1, 2)]  # degrees, pixels down, pixels right
    moves = torch.tensor([(math.radians(angle), down / height, right / width) for angle, down, right in asked])
    expected = [
        affine(image, angle, [right, down], 1.0, [0.0], InterpolationMode.BILINEAR)
        for image, (angle, down, right) in zip(images, asked, strict=True)
    ]
    torch.testing.assert_close(_moved(images, moves), torch.stack(expected), rtol=0, atol=2e-6)


def test_the_grid_finds_what_brute_force_finds() -> None:
    model = scenes.flat_net(240)
    images = scenes.draw(40, 3, 8, 10, seed=3)
    labels = scenes.said_by(model, images)
    attack = advkit.Spatial(model, max_rotation=6.0, max_translation=0.05, rotations=5, translations=3)
    result = attack.run(images, labels)

    def fooled_by_any(image: Tensor, label: Tensor) -> bool:
        every = torch.cartesian_prod(
            torch.linspace(-math.radians(6), math.radians(6), 5),
            torch.linspace(-0.05, 0.05, 3),
            torch.linspace(-0.05, 0.05, 3),
        )
        return bool((scenes.said_by(model, _moved(image.expand(45, -1, -1, -1), every)) != label).any())

    expected = [fooled_by_any(image, label) for image, label in zip(images, labels, strict=True)]
    assert result.success.tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert (result.queries[~result.success] == 45).all()  # the image, and all of the grid but that
    assert (result.queries[result.success] < 45).any()  # who is fooled leaves
    assert result.images[~result.success].equal(images[~result.success])
    drawn = advkit.Spatial(model, 6.0, 0.05, "random", samples=6, generator=torch.Generator().manual_seed(0))
    result = drawn.run(images, labels)
    assert result.success.any()
    assert (result.queries[~result.success] == 7).all()
    few = advkit.Spatial(model, max_queries=5).run(images, labels)
    assert few.queries.max() == 5


def test_nothing_is_black_where_pixels_go_from_minus_one_up() -> None:
    corner = torch.full((1, 1, 4, 4), 0.7)
    seen: list[Tensor] = []

    def model(images: Tensor) -> Tensor:
        seen.append(images)
        return images.flatten(1)[:, :1] * torch.tensor([1.0, 0.0])

    attack = advkit.Spatial(model, 0.0, 0.25, translations=3, bounds=(-1.0, 1.0))
    result = attack.run(corner, torch.tensor([0]))
    assert torch.cat(seen).round(decimals=5).unique().tolist() == pytest.approx([-1.0, 0.7])
    assert result.success.all()


@pytest.mark.parametrize(("kind", "share"), [("gaussian", 0.8427), ("uniform", 1.0), ("salt_and_pepper", 0.1)])
def test_noise_is_of_the_size_it_is_said_to_be(kind: str, share: float) -> None:
    """Of pixels: how many are within sqrt(2) standard deviations, or the largest change, or are changed at all."""
    images, seen = torch.full((4, 3, 64, 64), 128.0), []

    def model(batch: Tensor) -> Tensor:
        seen.append(batch)
        return torch.tensor([1.0, 0.0]).expand(len(batch), 2)

    attack = advkit.Noise(model, kind, amount=0.1, repeats=3, bounds=(0.0, 255.0))
    result = attack._with(generator=torch.Generator().manual_seed(0)).run(images, torch.zeros(4).long())
    assert result.images.equal(images)
    assert (result.queries == 4).all()
    _, *tries, _ = seen
    assert len(tries) == 3
    assert not tries[0].equal(tries[1])
    for noisy in tries:
        change = noisy - images
        if kind == "salt_and_pepper":
            moved = change != 0
            assert moved.any(1).float().mean() == pytest.approx(share, abs=0.01)
            assert moved.any(1).equal(moved.all(1))
            assert noisy[moved].unique().tolist() == [0, 255]
        else:
            far = 25.5 * (math.sqrt(2) if kind == "gaussian" else 1)
            assert (change.abs() <= far * 1.0001).float().mean() == pytest.approx(share, abs=0.01)
            assert change.abs().flatten(1).amax(1).min() > 25.4


@pytest.mark.parametrize("kind", ["grey", "blur"])
def test_the_mildest_change_that_fools_is_found(kind: str) -> None:
    """On a model that says 1 where a picture of stripes has lost more than so much of its contrast."""
    stripes = torch.tensor([0.0, 1.0]).repeat(4).expand(1, 1, 8, 8).repeat(3, 1, 1, 1)
    limits = torch.tensor([0.9, 0.31, -1.0])  # the last is never reached

    def model(images: Tensor) -> Tensor:
        contrast = images[:, :, :, 3:5].diff(dim=3).abs().mean((1, 2, 3))
        limit = limits[: len(images)] if len(images) == 3 else limits.new_tensor([0.31]).expand(len(images))
        return torch.stack([contrast, limit], 1)

    one = stripes[1:2]
    attack = advkit.Blended(model, "grey") if kind == "grey" else advkit.Blur(model)
    result = attack.run(one, torch.tensor([0]))
    assert result.success.all()
    left = float(result.images[:, :, :, 3:5].diff(dim=3).abs().mean())
    assert 0.27 < left < 0.31
    if kind == "grey":
        assert float(result.distance("linf")) == pytest.approx(0.5 * 0.69, abs=0.5 / 20 / 2**6)
    assert int(result.queries) <= 1 + 20 + 6
    never = advkit.Blended(lambda images: torch.tensor([1.0, 0.0]).expand(len(images), 2)).run(one, torch.tensor([0]))
    assert never.images.equal(one)
    assert int(never.queries) == 21


def test_what_a_report_says_of_no_attacker() -> None:
    model, images, labels = scenes.trained_net()
    attacks = [
        advkit.Spatial(model, rotations=5),
        advkit.Noise(model),
        advkit.Blended(model, "grey"),
        advkit.Blur(model),
    ]
    report = advkit.evaluate(model, [(images, labels)], attacks, flags=False)
    assert [score.name for score in report.attacks] == [str(attack) for attack in attacks]
    assert all(0 <= score.accuracy <= 1 for score in report.attacks)
