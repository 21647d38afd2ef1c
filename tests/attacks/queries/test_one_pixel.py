import pytest
import torch
from torch import Tensor

from advkit import OnePixel
from contracts.scenes import Counting, conv_net, draw, said_by


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spot(images: Tensor) -> Tensor:
    """Says the second class of an image whose pixel at row 1, column 6 is nearly red; leans on how red it is."""
    redness = images[:, 0, 1, 6] - images[:, 1, 1, 6] - images[:, 2, 1, 6]
    return torch.stack([torch.full((len(images),), 0.5), redness], 1)


def test_it_finds_the_one_pixel_that_matters() -> None:
    images = torch.full((6, 3, 4, 8), 0.5)
    attack = OnePixel(spot, steps=30, popsize=60, generator=seeded())
    result = attack.run(images, torch.zeros(6, dtype=torch.int64))
    assert result.success.all()
    changed = (result.images != images).any(1)
    assert changed.sum((1, 2)).tolist() == [1] * 6
    assert changed[:, 1, 6].all()


@pytest.mark.parametrize("pixels", [1, 2, 5])
@pytest.mark.parametrize("shape", [(3, 6, 9), (1, 5, 5), (30,), (5, 12), (3, 4, 5, 2)])
def test_no_more_pixels_than_that(pixels: int, shape: tuple[int, ...]) -> None:
    images = draw(4, *shape)
    weights = draw(images[0].numel(), 3, seed=1, low=-3.0, high=3.0)

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights

    result = OnePixel(model, pixels, steps=3, popsize=30, generator=seeded()).run(images, said_by(model, images))
    changed = result.images != images
    changed = changed.any(1) if len(shape) > 2 else changed
    assert (changed.flatten(1).sum(1) <= pixels).all()
    assert (changed.flatten(1).sum(1) > 0).equal(result.success)


def test_grey_images_need_no_channel() -> None:
    images = draw(8, 6, 7)
    weights = draw(42, 3, seed=1, low=-3.0, high=3.0)
    labels = said_by(lambda x: x.flatten(1) @ weights, images)
    grey = OnePixel(lambda x: x.flatten(1) @ weights, steps=10, generator=seeded()).run(images, labels)
    with_channel = OnePixel(lambda x: x.flatten(1) @ weights, steps=10, generator=seeded())(images[:, None], labels)
    assert grey.distance("l0")[grey.success].unique().tolist() == [1.0]
    assert grey.images.equal(with_channel[:, 0])


def test_the_search_climbs() -> None:
    """A needle that the first generation misses is found by going on, and not by drawing as many at random."""
    images = torch.full((24, 1, 16, 16), 0.5)
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    slope = 1 - ((rows - 3) ** 2 + (columns - 12) ** 2).sqrt() / 20

    def model(x: Tensor) -> Tensor:
        reward = ((x[:, 0] - 0.5).clamp_min(0) * slope).amax((1, 2))
        return torch.stack([torch.full((len(x),), 0.495), reward], 1)

    labels = torch.zeros(24, dtype=torch.int64)
    evolved = OnePixel(model, steps=20, popsize=20, generator=seeded()).run(images, labels)
    drawn = OnePixel(model, steps=0, popsize=420, generator=seeded()).run(images, labels)
    assert evolved.success.sum() > drawn.success.sum()


def test_the_whole_population_of_the_whole_batch_in_one_forward() -> None:
    model = Counting(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    images = draw(4, 3, 5, 5)
    result = OnePixel(model, steps=3, popsize=12, generator=seeded()).run(images, torch.zeros(4, dtype=torch.int64))
    assert model.rows == [4, 48, 48, 48, 48, 4]
    assert result.queries.tolist() == [49] * 4
    assert result.images.equal(images)


def test_large_populations_are_asked_about_in_batches_of_few_sizes() -> None:
    """A CPU makes kernels for each size, and keeps them."""
    model = Counting(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    result = OnePixel(model, steps=1, popsize=11).run(draw(30, 3, 5, 5), torch.zeros(30, dtype=torch.int64))
    assert model.rows == [30, *[64] * 5, 8, 2, *[64] * 5, 8, 2, 30]
    assert result.queries.tolist() == [23] * 30


@pytest.mark.parametrize("limit", [1, 2, 12, 13, 14, 30])
def test_max_queries_is_spent_and_not_exceeded(limit: int) -> None:
    model = Counting(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2))
    attack = OnePixel(model, steps=9, popsize=12, max_queries=limit, generator=seeded())
    result = attack.run(draw(3, 3, 5, 5), torch.tensor([0, 1, 0]))
    assert result.queries.tolist() == [limit, 1, limit]  # the second is wrong already
    assert sum(model.rows) - 3 == int(result.queries.sum())


def test_the_generator_decides() -> None:
    images, model = draw(4, 3, 6, 6), conv_net()
    labels = said_by(model, images)
    before = torch.get_rng_state()
    runs = [OnePixel(model, 3, steps=4, popsize=20, generator=seeded(seed))(images, labels) for seed in (0, 0, 1)]
    assert torch.get_rng_state().equal(before)
    assert runs[0].equal(runs[1])
    assert not runs[0].equal(runs[2]) or runs[0].equal(images)
