"""What comes back: shape, dtype, bounds, budget, success; and that an attack does something at all."""

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from advkit import norms
from contracts.cases import Case, each_variant
from contracts.scenes import IMAGE, conv_net, draw, easy_images, judge, learn, linear_net, said_by, usual


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learned patterns of a tenth of the range under noise, and images it gets right."""
    patterns = draw(4, *IMAGE, seed=3).round() * 0.2 - 0.1
    labels = torch.arange(64) % 4
    images = 0.5 + patterns[labels] + draw(64, *IMAGE, seed=4, low=-0.1, high=0.1)
    model = conv_net().train()
    model[4] = nn.AdaptiveAvgPool2d(8)
    model[6] = nn.Linear(256, 4)
    nn.init.zeros_(model[6].weight)
    nn.init.zeros_(model[6].bias)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        learn(model, images, labels, steps=40, lr=0.02)
    model.eval()
    assert said_by(model, images).equal(labels)
    return model, images[:8], labels[:8]


@each_variant()
def test_it_fools_a_model_that_is_barely_right(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.success.float().mean() >= case.fools
    assert (result.distance("linf") > 0)[result.success].all()


@each_variant(lambda case: case.needs_gradient)
def test_it_fools_an_undefended_network(case: Case, trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    model, images, labels = trained
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.success.float().mean() >= case.fools


@each_variant(lambda case: case.targetable)
def test_it_reaches_the_next_class(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model)
    with torch.no_grad():
        targets = model(images).topk(2).indices[:, 1]
    result = case.make(model).run(images, labels, targets=targets)
    judge(case, result, images, labels, model=model, targets=targets)
    assert result.targets is not None
    assert result.targets.equal(targets)
    assert result.success.float().mean() >= case.fools


@each_variant(lambda case: case.targetable and case.needs_gradient)
def test_it_reaches_the_class_that_is_furthest(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model)
    with torch.no_grad():
        targets = model(images).argmin(1)
    result = case.make(model).run(images, labels, targets=targets)
    judge(case, result, images, labels, model=model, targets=targets)
    assert result.success.float().mean() >= case.fools


@each_variant(lambda case: case.kind != "budget")
@pytest.mark.parametrize("slope", [0.0, 1e-4])
def test_a_failure_gives_the_image_back(case: Case, slope: float) -> None:
    """In a batch with images that can be fooled, and with a gradient of zero or next to it."""
    model = Stubborn(slope)
    images = draw(3, *IMAGE, low=0.2, high=0.8)
    images[1, 0, 0, 0] = 1.0
    labels = said_by(model, images)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.images[[0, 2]].equal(images[[0, 2]])
    assert result.success.tolist()[::2] == [False, False]


class Stubborn(nn.Module):
    """Says the first class of everything, and leans on pixels only by ``slope``."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        lean = self.slope * images.flatten(1).mean(1)
        return torch.stack([10 - lean, lean, 2 * lean], 1)


@each_variant(lambda case: case.kind != "budget")
def test_what_is_wrong_already_stays_as_it_is(case: Case) -> None:
    model = linear_net()
    images, said = easy_images(model)
    labels = torch.where(torch.tensor([True, False, True, False]), (said + 1) % 3, said)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.images[::2].equal(images[::2])
    assert result.success[::2].all()
    assert result.success[1::2].float().mean() >= case.fools


@each_variant(lambda case: case.budget is not None)
def test_a_budget_of_zero_changes_nothing(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model)
    found = case.make(model, eps=0.0)(images, labels)
    assert found.equal(images)
    assert found.data_ptr() != images.data_ptr()


@each_variant(lambda case: case.budget is not None and not case.settings.get("early_stop"))
def test_the_budget_is_used(case: Case) -> None:
    """On a linear model the loss rises all the way to the edge of the ball."""
    model = linear_net()
    images, labels = easy_images(model)
    distance = norms.get(case.norm).distance(case.make(model)(images, labels), images)
    assert (distance > 0.5 * case.budget).all()


@each_variant()
def test_calling_and_running_agree(case: Case) -> None:
    model, images, labels, found = usual(case)
    result = case.make(model).run(images, labels)
    assert found.equal(result.images)
    assert f"{int(result.success.sum())} of 3" in repr(result)
    for name in ("l0", "l1", "l2", "linf"):
        assert result.distance(name).shape == (3,)


@each_variant()
def test_it_is_made_again_for_another_model(case: Case) -> None:
    first, second = conv_net(seed=0), conv_net(seed=1)
    images = draw(3, *IMAGE)
    labels = said_by(second, images)
    attack = case.make(first)
    moved = attack.on(second)
    assert type(moved) is type(attack)
    assert moved.model is second
    assert attack.model is first
    assert str(moved) == str(attack)
    assert moved(images, labels).equal(case.make(second)(images, labels))


@each_variant()
def test_it_survives_pickling_and_copying(case: Case) -> None:
    model = conv_net()
    images = draw(2, *IMAGE)
    labels = said_by(model, images)
    attack = case.make(model, generator=None)
    for again in (pickle.loads(pickle.dumps(attack)), copy.deepcopy(attack)):
        assert str(again) == str(attack)
        torch.manual_seed(0)
        expected = attack(images, labels)
        torch.manual_seed(0)
        assert again(images, labels).equal(expected)


@each_variant(lambda case: not case.deterministic)
def test_chance_comes_from_the_generator_or_the_default_one(case: Case) -> None:
    model = conv_net()
    images = draw(3, *IMAGE)
    labels = said_by(model, images)
    same = [case.make(model)(images, labels) for _ in range(2)]
    assert same[0].equal(same[1])
    attack = case.make(model, generator=None)
    torch.manual_seed(1)
    first, second = attack(images, labels), attack(images, labels)
    torch.manual_seed(1)
    assert attack(images, labels).equal(first)
    if case.kind == "budget":
        assert not first.equal(second), "an attack must not reseed"
