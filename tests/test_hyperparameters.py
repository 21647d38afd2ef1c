"""Hyperparameters: declared once, and everything else comes from there."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

import advkit
from advkit import Attack, hyperparameters
from advkit.errors import InputError
from advkit.goals import Goal
from advkit.hyperparameters import Choice, Number, OfEps, OfRange, choice, flag, norm, number
from contracts.cases import CASES
from contracts.scenes import IMAGE, conv_net, draw


@dataclass(frozen=True, eq=False)
class Strangers(Attack):
    """An attack of somebody else's, with one of each."""

    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(2 / 255, 1 / 4), above=0, per_image=True)
    steps: int = number(10, at_least=1, integer=True)
    most: float | None = number(None, at_most=3)
    how: Literal["up", "down"] = choice("up", "down")
    twice: bool = flag(False)
    norm: str | advkit.norms.Norm = norm("linf", "l2")
    pattern: Tensor | None = None
    weights: float | Tensor = 1.0

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        change = torch.as_tensor(self.eps).view(-1, *[1] * (images.ndim - 1))
        return images + change + (0 if self.pattern is None else self.pattern)


@dataclass(frozen=True, eq=False)
class Heir(Strangers):
    steps: int = 5


MODEL = conv_net()


def test_what_is_declared_is_known() -> None:
    known = hyperparameters.of(Strangers)
    assert list(known) == ["adaptive", "eps", "alpha", "steps", "most", "how", "twice", "norm"]
    assert str(known["eps"]) == "a number, at least 0, or one for each image"
    assert str(known["steps"]) == "an integer, at least 1"
    assert str(known["how"]) == "one of 'up', 'down'"
    assert hyperparameters.per_image(Strangers) == (
        "model",
        "bounds",
        "generator",
        "autocast",
        "eps",
        "alpha",
        "pattern",
        "weights",
    )
    assert str(Strangers(MODEL, 4 / 255, steps=3)) == "Strangers(eps=4/255, steps=3)"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("eps", -1, "eps must be at least 0, got -1"),
        ("eps", torch.tensor([-1.0]), "eps must be at least 0 and finite for every image"),
        ("alpha", 0, "alpha must be greater than 0, got 0"),
        ("steps", 0, "steps must be at least 1, got 0"),
        ("steps", torch.tensor([1.0]), "steps must be an integer"),
        ("most", 4, "most must be at most 3, got 4"),
        ("how", "left", "how must be one of 'up', 'down'; got 'left'"),
        ("twice", "yes", "twice must be one of True, False; got 'yes'"),
        ("norm", "l1", "norm must be one of Linf, L2; got L1"),
        ("adaptive", None, "adaptive must be one of True, False; got None"),
    ],
)
@pytest.mark.parametrize("attack", [Strangers, Heir])
def test_a_strangers_attack_is_checked(attack: type[Attack], name: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        attack(MODEL, **{name: value})


def test_none_is_taken_where_it_is_the_default() -> None:
    assert Strangers(MODEL, most=None).most is None
    with pytest.raises(InputError, match="steps must be an integer, got None"):
        Strangers(MODEL, steps=None)  # type: ignore[arg-type]


def test_a_tensor_for_all_images_is_no_value_for_each() -> None:
    images, labels = draw(70, *IMAGE, high=0.5), torch.zeros(70, dtype=torch.int64)
    pattern = draw(*IMAGE, high=0.1)
    found = Strangers(MODEL, pattern=pattern)(images, labels)
    torch.testing.assert_close(found, images + 8 / 255 + pattern)
    with pytest.raises(InputError, match=r"weights has shape \(3,\), and a batch of 70 images"):
        Strangers(MODEL, weights=torch.ones(3))(images, labels)


def test_lengths_follow_what_they_are_shares_of() -> None:
    attack = Strangers(MODEL, bounds=(0, 255))
    assert (attack.eps, attack.alpha) == (8, 2)
    assert dataclasses.replace(attack, eps=16).alpha == 4
    eps = torch.tensor([0.1, 0.2])
    torch.testing.assert_close(torch.as_tensor(Strangers(MODEL, eps).alpha), eps / 4)


@pytest.mark.parametrize("attack", sorted({case.attack for case in CASES}, key=lambda attack: attack.__name__))
def test_every_attack_refuses_what_its_declarations_exclude(attack: type[Attack]) -> None:
    """And declares all that it adds to the base."""
    known = hyperparameters.of(attack)
    own = {field.name for field in dataclasses.fields(attack)} - {"model", "bounds", "generator", "autocast"}
    assert own == set(known)
    tried = 0
    for name, what in known.items():
        assert str(what)
        for value in what.bad():
            with pytest.raises(InputError, match=f"{name}|there is no norm"):
                attack(MODEL, **{name: value})
            tried += 1
    assert tried >= len(known)


def test_the_bad_values_are_bad_and_others_are_not() -> None:
    for what in (Number(above=0), Number(at_least=-1, at_most=1), Number(integer=True), Choice(("a", "b"))):
        for value in what.bad():
            with pytest.raises(InputError):
                what.check("it", value)
    Number(above=0).check("it", 1e-9)
    Number(at_least=-1, at_most=1).check("it", 1)
    Number(integer=True).check("it", 3)
    Number(per_image=True, at_least=0).check("it", torch.tensor([0.0, 2.0]))
    with pytest.raises(InputError):
        Number().check("it", math.inf)
