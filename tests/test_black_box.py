"""What the base of black-box attacks promises, whoever wrote the attack."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import advkit
from advkit import hyperparameters
from advkit.black_box import BlackBox, Oracle
from advkit.errors import AdvkitError
from advkit.goals import Goal
from advkit.hyperparameters import number
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
    with pytest.raises(AdvkitError, match="queries the model through the oracle"):
        Cheat(model)(images, said_by(model, images))


@dataclass(frozen=True, eq=False)
class Sneaky(BlackBox):
    """Overrides what asks the oracle, and asks the model itself, for ever."""

    most: int = 99

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        generator, best = torch.Generator().manual_seed(0), images
        while True:
            noisy = (images + torch.randn(images.shape, generator=generator) * 0.3).clamp(0, 1)
            fooled = goal.success(self.classifier(noisy[: self.most]))
            best = noisy.where(fooled[:, None, None, None], best)


@pytest.mark.parametrize("limit", [1, 7])
def test_a_budget_holds_whatever_an_attack_overrides(limit: int) -> None:
    model = Counting(conv_net())
    images = draw(5, *IMAGE)
    result = Sneaky(model, max_queries=limit).run(images, said_by(model.model, images))
    assert sum(model.rows) == limit * 5 + 5
    assert result.queries.tolist() == [limit] * 5
    assert result.images[~result.success].equal(images[~result.success])
    with pytest.raises(AdvkitError, match="with 4 images in a batch of 5, so that they cannot be charged"):
        Sneaky(model, max_queries=limit, most=4)(images, said_by(model.model, images))


@dataclass(frozen=True, eq=False)
class InBudget(BlackBox):
    """Noise of so much, for each image forty times at once. What it returns is nonsense."""

    aim = "budget"
    norm = advkit.norms.Linf
    eps: float | Tensor = number(0.1, at_least=0, per_image=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        index = torch.arange(len(images)).repeat_interleave(40)
        signs = draw(len(index), *IMAGE, seed=3, low=-1.0).sign().to(images.dtype)
        ask(images[index] + advkit.norms.column(self.eps, images)[index] * signs, index)
        return torch.zeros_like(images)


@pytest.mark.parametrize("limit", [None, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_budget_attack_on_scores(limit: int | None, dtype: torch.dtype) -> None:
    """Gives back what it was seen to fool with, within the budget, or else the image."""
    model = linear_net(offset=0.5)
    images = draw(16, *IMAGE, low=0.46, high=0.54).to(dtype)
    labels = said_by(model, images.float())
    labels[0] = (labels[0] + 1) % 3  # wrong already, and so gone before the search
    eps = torch.linspace(0, 0.06, 16)
    result = InBudget(model, eps, max_queries=limit).run(images, labels)
    assert result.success.any()
    assert not result.success.all()
    assert result.images[0].equal(images[0])
    assert result.images[~result.success].equal(images[~result.success])
    assert (result.distance("linf") <= eps + 1e-6).all()
    assert (result.distance("linf") > 0)[result.success][1:].all()
    assert result.queries.tolist() == [1] + [min(limit or 41, 41)] * 15


@dataclass(frozen=True, eq=False)
class Decisive(BlackBox):
    access = "decisions"
    peeks: bool = False

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        assert heights.eq(0).all()
        index = torch.zeros(300, dtype=torch.int64)  # one image in whole batches, and then too often
        candidates = draw(300, *IMAGE, seed=8)
        SEEN.extend([ask(candidates, index), ask.decisions(candidates[:5], index[:5])])
        if self.peeks:
            ask.scores(candidates, index)
        return images


SEEN: list[Tensor] = []


def test_an_attack_on_decisions_sees_nothing_else() -> None:
    SEEN.clear()
    model = Counting(conv_net())
    images = draw(2, *IMAGE)
    labels = said_by(model.model, images)
    result = Decisive(model, max_queries=304).run(images, labels)
    assert set(SEEN[0].tolist()) <= {0.0, torch.inf}
    classes = said_by(model.model, draw(300, *IMAGE, seed=8))
    assert SEEN[0].isinf().equal(classes != labels[0])
    assert SEEN[1].tolist() == [*classes[:3].tolist(), -1, -1]
    assert result.queries.tolist() == [304, 1]
    assert sum(model.rows) == 305 + 2
    with pytest.raises(AdvkitError, match='access = "decisions" sees no scores'):
        Decisive(model, peeks=True)(images, labels)


@dataclass(frozen=True, eq=False)
class Reader(BlackBox):
    access = "decisions"

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        SEEN.append(self.model(images))
        return images


def test_scores_are_hidden_from_an_attack_on_decisions_that_asks_the_model() -> None:
    SEEN.clear()
    model, images = conv_net(), draw(3, *IMAGE)
    labels = said_by(model, images)
    Reader(model)(images, labels)
    assert SEEN[0].equal(torch.nn.functional.one_hot(labels, 4).float())


def test_heights_are_those_of_the_loss_that_an_attack_has() -> None:
    @dataclass(frozen=True, eq=False)
    class ByMargin(BlackBox):
        loss: str = hyperparameters.loss("margin")

        def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
            every = torch.arange(len(images))
            SEEN.extend([heights, ask.scores(lambda rows: images[rows], every)])
            return images

    SEEN.clear()
    model, images = conv_net(), draw(3, *IMAGE)
    labels = said_by(model, images)
    ByMargin(model)(images, labels)
    torch.testing.assert_close(SEEN[0], -advkit.losses.margin(SEEN[1], labels))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attack", [advkit.OnePixel, advkit.Pixle, advkit.PixelSwap])
def test_images_of_16_bits_are_asked_about_as_they_will_be(attack: type[BlackBox], dtype: torch.dtype) -> None:
    model = linear_net(offset=0.5)
    images = draw(16, *IMAGE, low=0.45, high=0.55).to(dtype)
    labels = said_by(model, images.float())
    result = attack(model, generator=torch.Generator().manual_seed(0)).run(images, labels)
    assert result.success.any()
    assert result.images[~result.success].equal(images[~result.success])
