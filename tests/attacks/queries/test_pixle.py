import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from advkit import Pixle
from advkit.black_box import overwrite
from contracts.scenes import Counting, draw, said_by


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def stubborn(x: Tensor) -> Tensor:
    return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)


@pytest.mark.parametrize("shape", [(3, 4, 15), (3, 15, 4), (1, 1, 9), (2, 3, 4, 5), (5, 6), (40,)])
def test_every_pixel_comes_from_a_patch_of_the_original(shape: tuple[int, ...]) -> None:
    """Also where height and width differ, which torchattacks mixes up."""
    size = torch.Size(shape[1:] if len(shape) > 2 else shape)
    count = size.numel()
    ids = torch.arange(count).view(size) / count
    images = ids.expand(1, *shape).clone()
    seen: list[Tensor] = []

    def model(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return stubborn(x)

    Pixle(model, restarts=1, iterations=200, patch=(2, 3), generator=seeded()).run(images, torch.tensor([0]))
    candidates = torch.cat(seen[1:-1])
    assert len(candidates) == 200
    flat = candidates.view(200, -1, count)
    assert (flat == flat[:, :1]).all()  # a pixel keeps its channels together
    names = (flat[:, 0] * count).round().long()
    places = torch.arange(count)
    sources, targets = set(), set()
    for row in names:
        moved = (row != places).nonzero().flatten()
        for corners in torch.unravel_index(row[moved], size):
            assert not len(moved) or corners.max() - corners.min() < 3
        sources |= set(row[moved].tolist())
        targets |= set(moved.tolist())
    assert sources == targets == set(range(count))


def test_the_best_is_kept_and_the_first_that_fools_is_taken() -> None:
    images = draw(8, 3, 6, 9)
    weights = draw(images[0].numel(), 4, seed=3, low=-1.0, high=1.0)

    def model(x: Tensor) -> Tensor:
        return x.flatten(1) @ weights

    labels = said_by(model, images)
    result = Pixle(model, generator=seeded()).run(images, labels)
    assert result.success.all()
    once = Pixle(model, restarts=1, iterations=1, generator=seeded()).run(images, labels)
    assert once.success.float().mean() < 1
    assert once.images[~once.success].equal(images[~once.success])


def test_restarts_go_on_from_the_best() -> None:
    """A model that falls only when many pixels have changed: no single patch would do."""
    images = draw(6, 1, 8, 8)
    labels = torch.zeros(6, dtype=torch.int64)

    def model(x: Tensor) -> Tensor:
        changed = torch.cdist(x.flatten(1), images.flatten(1), p=0).amin(1)
        return torch.stack([torch.full((len(x),), 20.0), changed], 1)

    assert (
        not Pixle(model, restarts=1, iterations=300, patch=(2, 3), generator=seeded()).run(images, labels).success.any()
    )
    assert Pixle(model, restarts=30, iterations=10, patch=(2, 3), generator=seeded()).run(images, labels).success.all()


@pytest.mark.parametrize("limit", [1, 2, 7, 30, None])
def test_queries(limit: int | None) -> None:
    model = Counting(stubborn)
    attack = Pixle(model, restarts=2, iterations=10, max_queries=limit, generator=seeded())
    result = attack.run(draw(3, 3, 5, 5), torch.tensor([0, 1, 0]))
    spent = min(21, limit or 21)
    assert result.queries.tolist() == [spent, 1, spent]
    assert sum(model.rows) - 3 == int(result.queries.sum())


@given(data=st.data(), pixels=st.integers(1, 6), channels=st.integers(1, 3), writes=st.integers(1, 8))
@settings(max_examples=60)
def test_the_last_to_be_written_stays(data: st.DataObject, pixels: int, channels: int, writes: int) -> None:
    places = torch.tensor([data.draw(st.lists(st.integers(0, pixels), min_size=writes, max_size=writes))])
    canvas, values = draw(1, channels, pixels), draw(1, channels, writes, seed=1)
    expected = canvas.clone()
    for write, place in enumerate(places[0].tolist()):
        if place < pixels:
            expected[0, :, place] = values[0, :, write]
    assert overwrite(canvas, places, values).equal(expected)
