import torch
from torch import Tensor

import advkit
from contracts.scenes import Passes


def wells(images: Tensor) -> Tensor:
    """Two classes. Each feature has a broad well, where gradients lead, and a narrow one, three times as deep."""
    x = images.flatten(1)
    broad, narrow = 0.3 * (1 - ((x - 0.6) / 0.2) ** 2), 1 - ((x - 0.9) / 0.1) ** 2
    depth = torch.where(x < 0.8, broad, narrow).clamp_min(-2).mean(1)
    return torch.stack([torch.zeros_like(depth), depth - 0.7], 1)


def test_hops_keep_what_restarts_forget() -> None:
    images, labels = torch.full((4, 1, 6, 6), 0.5), torch.zeros(4, dtype=torch.int64)
    draws = torch.Generator().manual_seed(0)
    hops = advkit.BasinHopping(wells, eps=0.5, searches=100, generator=draws)
    restarts = advkit.APGD(wells, eps=0.5, steps=40, restarts=8, generator=draws)
    assert hops.run(images, labels).success.all()
    assert not restarts.run(images, labels).success.any()


def test_no_image_gets_more_searches_than_it_was_given() -> None:
    images, labels = torch.full((3, 1, 6, 6), 0.5), torch.tensor([0, 0, 1])  # the last is fooled as it is
    for searches in (1, 7, 30):
        model = Passes(wells)
        advkit.BasinHopping(model, eps=0.01, searches=searches, steps=2)(images, labels)
        assert (sum(model.forwards), sum(model.backwards)) == (3 + 2 * 3 * searches, 2 * 2 * searches)
