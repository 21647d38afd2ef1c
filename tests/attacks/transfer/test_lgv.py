"""LGV: models along SGD, that take turns, beside a model that stays as it was."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit.attacks.transfer import InTurn, Momentum, along_sgd
from advkit.errors import InputError
from contracts.scenes import draw, trained_net


def batches() -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(24) % 4
    return list(zip(draw(24, 3, 8, 8, seed=9).split(8), labels.split(8), strict=True))


def weights(model: nn.Module) -> Tensor:
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def test_the_models_are_those_along_sgd() -> None:
    model, _, _ = trained_net()
    model.requires_grad_(False)
    found = list(along_sgd(model, batches(), lr=0.1, epochs=2, models_per_epoch=2, weight_decay=0.01))
    by_hand, expected = copy.deepcopy(model).requires_grad_(True), []
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(6):
        images, labels = batches()[step % 3]
        optimizer.zero_grad()
        nn.functional.cross_entropy(by_hand(images), labels).backward()
        optimizer.step()
        if step % 3 in (1, 2):
            expected.append(weights(by_hand))
    torch.testing.assert_close([weights(each) for each in found], expected)
    assert not torch.equal(expected[0], weights(model))
    assert not any(each.training for each in found)


class InADict(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self.model(images)}


def test_batches_and_answers_come_as_they_do_elsewhere() -> None:
    """Labels in a column and of any integers, batches made in inference mode, and logits in a dict."""
    model, _, _ = trained_net()
    (expected,) = along_sgd(model, batches(), epochs=1, models_per_epoch=1)
    with torch.inference_mode():
        others = [(images.clone(), labels[:, None].int()) for images, labels in batches()]
    (found,) = along_sgd(InADict(model), others, epochs=1, models_per_epoch=1)
    assert torch.equal(weights(found), weights(expected))
    with pytest.raises(
        InputError, match=r"a loader of batches \(images, labels\) to train on; this one yields dict with"
    ):
        next(along_sgd(model, [{"image": images} for images, _ in batches()], models_per_epoch=1))
    with pytest.raises(InputError, match=r"labels must have shape \(8,\)"):
        next(along_sgd(model, [(images, torch.zeros(3).long()) for images, _ in batches()], models_per_epoch=1))


def test_models_take_turns() -> None:
    asked: list[int] = []
    models = [lambda x, place=place: asked.append(place) or x * place for place in range(5)]
    turns = InTurn(models, generator=torch.Generator().manual_seed(0))
    for _ in range(10):
        turns(torch.ones(1, 2))
    assert sorted(asked[:5]) == [0, 1, 2, 3, 4] != asked[:5]
    assert asked[5:] == asked[:5]
    together = InTurn(models, at_once=9)
    assert torch.equal(together(torch.ones(1, 2)), torch.full((1, 2), 2.0))


def test_each_step_is_on_the_next_model_and_the_stand_in_stays_as_it_was() -> None:
    model, images, labels = trained_net()
    before, state = weights(model), copy.deepcopy(model.state_dict())
    attack = advkit.LGV(model.train(), batches(), epochs=1, models_per_epoch=3, eps=0.2, alpha=0.05, steps=3)
    models = attack.collect()
    drawn = torch.Generator().manual_seed(5)
    order = torch.randperm(3, generator=drawn)
    x = images
    for place in order.tolist():
        x = advkit.IFGSM(models[place], 1.0, 0.05, 1)(x, labels)
    x = (images + (x - images).clamp(-0.2, 0.2)).clamp(0, 1)
    by_turns = attack._with(generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(by_turns(images, labels), x)
    assert by_turns.collect() is not None
    assert all(one is other for one, other in zip(by_turns.collect(), models, strict=True))  # copies share them
    assert model.training
    assert torch.equal(weights(model), before)
    assert all(each.equal(state[name]) for name, each in model.state_dict().items())
    targets = (labels + 1) % 4
    aimed = advkit.LGV(model, models=models, parts=[Momentum()], eps=0.2, steps=12)(images, labels, targets=targets)
    lead = advkit.losses.margin
    assert (lead(model.eval()(aimed), targets) > lead(model(images), targets)).all()


def test_it_goes_on_where_it_was_interrupted() -> None:
    model, images, labels = trained_net()

    class Failing(list[Any]):
        failing = True

        def __iter__(self) -> Iterator[Any]:
            yield from super().__iter__()
            if self.failing:
                raise KeyboardInterrupt

    loader = Failing(batches())
    attack = advkit.LGV(model, loader, epochs=2, models_per_epoch=3, steps=2)
    with pytest.raises(KeyboardInterrupt):
        attack(images, labels)
    loader.failing = False
    first = list(along_sgd(model, batches(), epochs=1, models_per_epoch=3))
    models = attack.collect()
    assert len(models) == 6
    for again, once in zip(models[:3], first, strict=True):
        torch.testing.assert_close(weights(again), weights(once))


def test_a_frozen_layer_stays_frozen_also_after_an_interruption() -> None:
    """Thawed, its statistics would become those of the last batches."""
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))
    model[2].eval()
    attack = advkit.LGV(model, batches(), lr=0.01, epochs=2, models_per_epoch=1)
    first = next(along_sgd(model, batches(), lr=0.01, models_per_epoch=1))
    attack._kept.models.append(first)  # all there was when it was interrupted
    for found in attack.collect():
        assert found[2].running_mean.equal(model[2].running_mean)  # type: ignore[index]
        assert not found[0].running_mean.equal(model[0].running_mean)  # type: ignore[index]
    assert [module.training for module in model] == [True, True, False, True, True]


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (None, "got NoneType with 0"),
        ([(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64))], "got list with 1"),
    ],
)
def test_too_little_to_train_on_is_told(loader: Any, words: str) -> None:
    model, images, labels = trained_net()
    with pytest.raises(InputError, match=words):
        advkit.LGV(model, loader)(images, labels)
    with pytest.raises(InputError, match="with parameters, to train further; got function"):
        advkit.LGV(lambda x: model(x), batches())(images, labels)
