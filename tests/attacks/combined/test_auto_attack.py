"""AutoAttack is the attacks that it says, in their order, on what those before have left."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advkit import APGD, APGDT, FAB, Attack, AutoAttack, Square, WorstOf, norms
from advkit.errors import InputError
from contracts.cases import ShortAutoAttack
from contracts.scenes import IMAGE, Passes, draw, easy_images, flat_net, linear_net, said_by, trained_net

MODEL = linear_net()
NUMBERS = ("steps", "restarts", "rho", "loss", "eot_samples", "target_classes", "max_queries", "p_init", "norm", "eps")
ASCENT = {"steps": 100, "rho": 0.75, "restarts": 1, "eot_samples": 1}
TARGETED = {**ASCENT, "target_classes": 9}
BOUNDARY = {"steps": 100, "restarts": 1, "target_classes": 9}
SQUARES = {"max_queries": 5000, "p_init": 0.8, "loss": "margin"}


def numbers(attack: Attack) -> dict[str, Any]:
    return {name: value for name in NUMBERS if (value := getattr(attack, name, NUMBERS)) is not NUMBERS}


def standard(norm: str) -> list[tuple[type[Attack], dict[str, Any]]]:
    in_l1 = norm == "l1"
    return [
        (APGD, {**ASCENT, "loss": "ce", "restarts": 5 if in_l1 else 1}),
        (APGDT, {**TARGETED, "target_classes": 5 if in_l1 else 9}),
        (FAB, BOUNDARY),
        (Square, SQUARES),
    ]


PLUS = [
    (APGD, {**ASCENT, "loss": "ce", "restarts": 5}),
    (APGD, {**ASCENT, "loss": "dlr", "restarts": 5}),
    (FAB, {**BOUNDARY, "restarts": 5, "target_classes": None}),
    (Square, SQUARES),
    (APGDT, TARGETED),
    (FAB, BOUNDARY),
]
RAND = [(APGD, {**ASCENT, "eot_samples": 20, "loss": loss}) for loss in ("ce", "dlr")]
VERSIONS = [("standard", norm, standard(norm)) for norm in ("linf", "l2", "l1")]
VERSIONS += [("plus", "linf", PLUS), ("plus", "l2", PLUS), ("rand", "l2", RAND)]


@pytest.mark.parametrize(("version", "norm", "expected"), VERSIONS)
def test_the_attacks_of_each_version(version: str, norm: str, expected: Any) -> None:
    generator, eps = torch.Generator(), torch.tensor([0.1, 0.2])
    low = {"autocast": torch.bfloat16, "bounds": (0.0, 2.0), "generator": generator, "adaptive": False}
    attack = AutoAttack(MODEL, norm, eps, version, **low)
    parts = attack._parts()
    assert [(type(part), numbers(part)) for part in parts] == [
        (kind, {**numbers(kind(MODEL)), **its, "norm": norm, "eps": eps}) for kind, its in expected
    ]
    for part in parts:
        assert all(getattr(part, name) == value for name, value in low.items() if name != "autocast")
        assert part.autocast is (None if part.access == "scores" else torch.bfloat16)
    other = flat_net(192)
    assert all(part.model is other and part.adaptive for part in attack.on(other)._parts())
    assert (attack.access, attack.aim) == ("gradient", "budget")


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.03), ("l2", 0.4), ("l1", 4.0)])
def test_it_is_the_worst_of_its_attacks(norm: str, eps: float) -> None:
    """On images that it fools at different stages, and on some that it does not fool."""
    model, images, labels = hard()
    attack = ShortAutoAttack(model, norm, eps, generator=torch.Generator().manual_seed(0))
    passes = Passes(model)
    result = attack.on(passes).run(images, labels)
    assert sum(stage.forwards for stage in result.stages) == sum(passes.forwards) - len(images)
    assert sum(stage.backwards for stage in result.stages) == sum(passes.backwards)
    assert attack.generator is not None
    attack.generator.manual_seed(0)
    other = WorstOf(attack._parts()).run(images, labels)
    assert result.images.equal(other.images)
    assert result.fooled_by is not None
    assert other.fooled_by is not None
    assert result.fooled_by.equal(other.fooled_by)
    assert 0 < int(result.success.sum()) < len(images)
    assert (result.distance(norm) <= eps + 1e-6).all()
    assert (result.distance(norm)[~result.success] > 0.5 * eps).all()  # as an ascent left them
    assert [stage.attack.split("(")[0] for stage in result.stages] == ["APGD", "APGDT", "FAB", "Square"]
    assert result.queries is not None
    assert result.queries[~result.success].unique().tolist() == [30]
    assert not result.queries[result.success & (result.fooled_by < 3)].any()


def test_the_shorter_one_of_the_tests_has_the_same_attacks() -> None:
    short, whole = ShortAutoAttack(MODEL)._parts(), AutoAttack(MODEL)._parts()
    assert [type(part) for part in short] == [type(part) for part in whole]


def hard() -> tuple[nn.Module, Tensor, Tensor]:
    """A network, six images near its boundaries and two that are far from any, and what it says of them."""
    model, images, labels = trained_net()
    near, said = easy_images(model, count=4)
    return model, torch.cat([near, images[:2]]), torch.cat([said, labels[:2]])


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_few_classes(classes: int, norm: str) -> None:
    model = linear_net(classes, (1, 4, 6))
    images, labels = easy_images(model, shape=(1, 4, 6))
    result = ShortAutoAttack(model, norm, {"linf": 0.1, "l2": 0.4, "l1": 1.5}[norm]).run(images, labels)
    assert result.success.all()


def test_targets_and_a_budget_for_each_image() -> None:
    model = linear_net(classes=5)
    images, labels = easy_images(model)
    with torch.no_grad():
        targets = model(images).topk(4).indices[:, 3]
    result = ShortAutoAttack(model, eps=torch.tensor([0.3, 0.3, 0.0, 0.3])).run(images, labels, targets=targets)
    assert result.success.tolist() == [True, True, False, True]
    assert result.images[2].equal(images[2])


def test_a_random_model() -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return model(x + 0.02 * torch.randn_like(x))

    model, images, labels = trained_net()
    torch.manual_seed(0)
    passes = Passes(Noisy())
    images[0] = 0.5
    labels = labels.clone()
    labels[0] = (said_by(model, images[:1]) + 1) % 4
    wrong = ShortAutoAttack(passes, eps=0.3, version="rand").run(images[:1], labels[:1])
    assert passes.forwards == [1] * 20  # ten answers before, and ten in the end
    assert wrong.images.equal(images[:1])
    images, labels = images[1:], labels[1:]
    result = ShortAutoAttack(Noisy(), eps=0.3, version="rand").run(images, labels)
    assert result.success.all()
    assert [stage.attack for stage in result.stages] == [
        "APGD(eps=0.3, steps=5, eot_samples=20)",
        "APGD(eps=0.3, steps=5, eot_samples=20, loss='dlr')",
    ]


def test_words() -> None:
    assert str(AutoAttack(MODEL, norm="l2", eps=0.5)) == "AutoAttack(norm='l2', eps=0.5)"
    assert AutoAttack(MODEL, bounds=(0.0, 255.0)).eps == 8.0
    with pytest.raises(InputError, match="version must be one of 'standard', 'plus', 'rand'; got 'custom'"):
        AutoAttack(MODEL, version="custom")
    with pytest.raises(InputError, match=r"eps has shape \(2,\), but a batch of 3"):
        AutoAttack(MODEL, eps=torch.tensor([0.1, 0.2]))(draw(3, *IMAGE), torch.tensor([0, 1, 2]))
    with pytest.raises(InputError, match="eps must be at least 0"):
        AutoAttack(MODEL, eps=-1.0)
    assert norms.get(AutoAttack(MODEL).norm) is norms.Linf
    assert said_by(MODEL, draw(1, *IMAGE)).shape == (1,)
