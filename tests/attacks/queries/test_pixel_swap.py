from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advkit import PixelSwap
from contracts.scenes import draw, said_by


def prefixes(image: Tensor) -> list[Tensor]:
    """The image (C, H, W) after 0, 1, 2, ... swaps that change it, swapped one by one."""
    flat = image.flatten(1).clone()
    order = sorted(range(flat.shape[1]), key=lambda place: float(flat.mean(0)[place]))
    found = [image]
    for dark, light in zip(order[: len(order) // 2], reversed(order), strict=False):
        if not flat[:, dark].equal(flat[:, light]):
            flat[:, [dark, light]] = flat[:, [light, dark]]
            found.append(flat.clone().view_as(image))
    return found


def moody(features: int, seed: int, classes: int = 3) -> Callable[[Tensor], Tensor]:
    """A model that often changes its mind."""
    weights = draw(features, classes, seed=seed, low=-20.0, high=20.0)
    return lambda images: torch.sin(images.flatten(1) @ weights)


@given(
    seed=st.integers(0, 10**6), height=st.integers(1, 4), width=st.integers(1, 5), levels=st.sampled_from([2, 4, 256])
)
@settings(max_examples=40)
def test_the_fewest_swaps_of_all_prefixes(seed: int, height: int, width: int, levels: int) -> None:
    images = (draw(3, 1, height, width, seed=seed) * levels).floor() / levels
    model = moody(height * width, seed)
    labels = said_by(model, images)
    result = PixelSwap(model).run(images, labels)
    for image, label, found, queries in zip(images, labels, result.images, result.queries, strict=True):
        tries = prefixes(image)
        fooling = [step for step, tried in enumerate(tries) if said_by(model, tried[None]) != label]
        expected = tries[fooling[0]] if fooling else image
        assert found.equal(expected)
        assert found.flatten().sort().values.equal(image.flatten().sort().values)
        needed = fooling[0] + 1 if fooling else len(tries)
        assert needed <= queries <= min(len(tries), needed + 7)


@pytest.mark.parametrize("shape", [(4, 6), (24,), (1, 2, 3, 4)])
def test_without_channels_each_value_is_a_pixel(shape: tuple[int, ...]) -> None:
    """Grey images (N, H, W), flat vectors and volumes of one channel are swapped as (N, 1, H, W) is."""
    images = draw(4, 1, 4, 6)
    model = moody(24, 3)
    labels = said_by(model, images)
    expected = PixelSwap(model)(images, labels)
    assert not expected.equal(images)
    assert PixelSwap(model)(images.view(4, *shape), labels).equal(expected.view(4, *shape))


def test_a_pixel_keeps_its_channels_together() -> None:
    images = draw(1, 3, 4, 6)
    before = images[0].flatten(1)
    dark, light = int(before.mean(0).argmin()), int(before.mean(0).argmax())

    def model(x: Tensor) -> Tensor:  # falls when its darkest pixel turns light
        return torch.stack([torch.full((len(x),), 0.5), x.flatten(2).mean(1)[:, dark]], 1)

    result = PixelSwap(model).run(images, torch.tensor([0]))
    swapped = before.clone()
    swapped[:, [dark, light]] = before[:, [light, dark]]
    assert result.images[0].flatten(1).equal(swapped)
    assert result.success.all()


def test_identical_pixels_are_no_swap_and_no_query() -> None:
    images = torch.full((1, 3, 4, 4), 0.5)
    images[0, :, 0, 0] = 0.9
    result = PixelSwap(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2)).run(images, torch.tensor([0]))
    assert result.queries.tolist() == [2]
    assert result.images.equal(images)


@pytest.mark.parametrize("limit", [1, 2, 5, 20])
def test_max_swaps_and_max_queries(limit: int) -> None:
    images = draw(5, 1, 6, 6)
    for first in range(0, 18, 4):  # the model falls after so many swaps of the first image
        last = prefixes(images[0])[first]
        model = lambda x, last=last: torch.stack([torch.zeros(len(x)), 1 - (x - last).abs().sum((1, 2, 3))], 1)  # noqa: E731
        labels = torch.zeros(5, dtype=torch.int64)
        swaps = PixelSwap(model, max_swaps=limit).run(images, labels)
        assert bool(swaps.success[0]) == (first <= limit)
        queries = PixelSwap(model, max_queries=limit).run(images, labels)
        assert (queries.queries <= limit).all()
        assert bool(queries.success[0]) == (first + 1 <= limit)
        assert queries.images[1:].equal(images[1:])


def test_finished_images_leave() -> None:
    rows = []

    def model(x: Tensor) -> Tensor:
        rows.append(len(x))
        return torch.stack([x[:, 0, 0, 0] - 0.5, torch.zeros(len(x))], 1)

    images = torch.full((40, 1, 8, 8), 0.6)
    images[:, 0, 0, 0] = 1.0
    images[:, 0, 0, 1] = 0.0  # one swap fools
    result = PixelSwap(model).run(images, torch.zeros(40, dtype=torch.int64))
    assert result.success.all()
    assert sum(rows) == 80 + 40  # and the judge
    assert result.queries.tolist() == [2] * 40
