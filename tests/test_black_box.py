"""What the base of black-box attacks promises, whoever wrote the attack."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import advkit
from advkit.black_box import BlackBox, Oracle
from advkit.errors import AdvkitError
from contracts.scenes import IMAGE, Counting, conv_net, draw, linear_net, said_by


@dataclass(frozen=True, eq=False)
class Insatiable(BlackBox):
    """Noise for ever, whatever the limit. It finds when the noise grows, unless it is stopped before."""

    growth: float = 0.0

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        index = torch.arange(len(images)).repeat_interleave(3)
        size = 0.01
        while True:
            size = size + self.growth
            noise = torch.randn(len(index), *images.shape[1:], generator=generator) * size
            ask(lambda rows, change: (images[rows] + change).clamp(0, 1), index, noise)


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
def test_a_budget_of_queries_is_never_exceeded(limit: int) -> None:
    model = Counting(conv_net())
    images = draw(5, *IMAGE)
    labels = said_by(model.model, images)
    result = Insatiable(model, max_queries=limit).run(images, labels)
    assert sum(model.rows) == limit * 5 + 5  # and one for the judge
    assert result.queries.tolist() == [limit] * 5
    assert result.images[~result.success].equal(images[~result.success])


def test_what_fooled_before_the_queries_ended_is_the_answer() -> None:
    model = linear_net(offset=0.5)
    images = draw(6, *IMAGE, low=0.45, high=0.55)
    labels = said_by(model, images)
    result = Insatiable(model, max_queries=60, growth=0.05).run(images, labels)
    assert result.success.all()
    assert (result.distance() > 0).all()
    assert (result.queries <= 60).all()


@dataclass(frozen=True, eq=False)
class Greedy(BlackBox):
    """Asks about two candidates for the first image and four for the second, and notes the heights."""

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        index = torch.tensor([0, 1, 1, 0, 1, 1])
        NOTED.append(ask(lambda rows: images[rows], index))
        return images


NOTED: list[Tensor] = []


def test_the_candidates_that_come_last_are_passed_over() -> None:
    NOTED.clear()
    model = conv_net()
    images = draw(2, *IMAGE)
    result = Greedy(model, max_queries=4).run(images, said_by(model, images))
    assert result.queries.tolist() == [3, 4]
    assert NOTED[0].isinf().tolist() == [False, False, False, False, False, True]
    assert NOTED[0][5] == -torch.inf


@dataclass(frozen=True, eq=False)
class Cheat(BlackBox):
    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        self.model(images)
        return images


def test_the_model_is_asked_by_the_oracle_alone() -> None:
    model = conv_net()
    images = draw(2, *IMAGE)
    with pytest.raises(AdvkitError, match="asks the model by way of the oracle"):
        Cheat(model)(images, said_by(model, images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", [advkit.OnePixel, advkit.Pixle, advkit.PixelSwap])
def test_images_of_16_bits_are_asked_about_as_they_will_be(attack: type[BlackBox], dtype: torch.dtype) -> None:
    model = linear_net(offset=0.5)
    images = draw(16, *IMAGE, low=0.45, high=0.55).to(dtype)
    labels = said_by(model, images.float())
    result = attack(model, generator=torch.Generator().manual_seed(0)).run(images, labels)
    assert result.success.any()
    assert result.images[~result.success].equal(images[~result.success])
