"""Hyperparameters: declared once, and everything else comes from there."""

import dataclasses
import math
import re
from collections.abc import Mapping
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
    assert list(known) == [
        "adaptive",
        "compiled",
        "mask",
        "levels",
        "eps",
        "alpha",
        "steps",
        "most",
        "how",
        "twice",
        "norm",
    ]
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
    with pytest.raises(InputError, match=r"weights has shape \(3,\), but a batch of 70 images"):
        Strangers(MODEL, weights=torch.ones(3))(images, labels)


@dataclass(frozen=True, eq=False)
class Fixed(Attack):
    pattern: Tensor = hyperparameters.tensor()

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return images + self.pattern.to(images)


def test_a_tensor_for_all_may_have_any_shape() -> None:
    """Also that of one value for each image: it is not cut to the rows of a part."""
    model = torch.nn.Linear(3, 2)
    images, labels = draw(3, 3, high=0.5), torch.zeros(3, dtype=torch.int64)
    pattern = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    torch.testing.assert_close(Fixed(model, pattern)(images, labels), images + pattern.float())
    torch.testing.assert_close(Fixed(model, pattern)(images[:2], labels[:2]), images[:2] + pattern.float())
    assert str(Fixed(model, pattern)) == "Fixed(pattern=[0.1 to 0.3])"
    assert hyperparameters.per_image(Fixed) == ("model", "bounds", "generator", "autocast")
    for value in hyperparameters.of(Fixed)["pattern"].bad():
        with pytest.raises(InputError, match="pattern must be a floating tensor of finite numbers, the same for all"):
            Fixed(model, value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pattern"):
        Fixed(model)  # type: ignore[call-arg]


def test_lengths_follow_what_they_are_shares_of() -> None:
    attack = Strangers(MODEL, bounds=(0, 255))
    assert (attack.eps, attack.alpha) == (8, 2)
    assert dataclasses.replace(attack, eps=16).alpha == 4
    eps = torch.tensor([0.1, 0.2])
    torch.testing.assert_close(torch.as_tensor(Strangers(MODEL, eps).alpha), eps / 4)


BAD_EPS = (
    ({"eps": -0.1}, "eps must be at least 0, got -0.1"),
    ({"eps": float("nan")}, "eps must be at least 0, got nan"),
    ({"eps": float("inf")}, "eps must be at least 0, got inf"),
    ({"eps": "8/255"}, "eps must be a number, got '8/255'"),
    ({"eps": True}, "eps must be a number, got True"),
    ({"eps": torch.tensor([0.1, -0.1])}, "eps must be at least 0 and finite for every image"),
    ({"eps": torch.tensor([0.1, torch.nan])}, "eps must be at least 0 and finite for every image"),
    ({"eps": torch.tensor([1, 2])}, "eps must be a number, or a floating tensor of shape (N,)"),
    ({"eps": torch.zeros(2, 1)}, "eps must be a number, or a floating tensor of shape (N,)"),
)
BAD_STEPS = (
    ({"steps": 0}, "steps must be at least 1, got 0"),
    ({"steps": 2.0}, "steps must be an integer, got 2.0"),
    ({"steps": True}, "steps must be an integer, got True"),
)
BAD_ALPHA = (
    ({"alpha": 0.0}, "alpha must be greater than 0"),
    ({"alpha": -0.1}, "alpha must be greater than 0"),
    ({"alpha": torch.tensor([-0.1, 0.1])}, "alpha must be at least 0 and finite for every image"),
)
BAD_QUERIES = (
    ({"max_queries": 0}, "max_queries must be at least 1, got 0"),
    ({"max_queries": 10.5}, "max_queries must be an integer, got 10.5"),
)
BAD_SEARCH = (
    *BAD_STEPS,
    ({"kappa": -1}, "kappa must be at least 0, got -1"),
    ({"initial_c": 0.0}, "initial_c must be greater than 0"),
    ({"initial_c": 1e11}, "initial_c must be greater than 0 and at most 1e+10"),
    ({"binary_search_steps": 0}, "binary_search_steps must be at least 1, got 0"),
    ({"lr": 0.0}, "lr must be greater than 0"),
    ({"schedule": "linear"}, "schedule must be one of 'cosine', 'constant'; got 'linear'"),
)
WORDS: Mapping[type[Attack], Any] = {
    advkit.FGSM: BAD_EPS,
    advkit.MIFGSM: (
        *BAD_EPS,
        *BAD_STEPS,
        *BAD_ALPHA,
        ({"decay": -1}, "decay must be at least 0, got -1"),
        ({"accumulate": "signs"}, "accumulate must be one of 'gradient', 'sign'; got 'signs'"),
    ),
    advkit.PGD: (
        *BAD_EPS,
        *BAD_STEPS,
        *BAD_ALPHA,
        ({"norm": "l1"}, "norm must be one of Linf, L2; got L1"),
        ({"norm": "max"}, "there is no norm 'max'"),
    ),
    advkit.JSMA: (
        ({"theta": 0}, "theta must be positive, to raise features, or negative, to lower them; got 0"),
        ({"theta": float("inf")}, "theta must be finite, got inf"),
        ({"gamma": 0.0}, "gamma must be greater than 0 and at most 1, got 0.0"),
        ({"gamma": 1.1}, "gamma must be greater than 0 and at most 1, got 1.1"),
        ({"pairs": 0}, "pairs must be at least 1, got 0"),
        ({"pairs": 1.5}, "pairs must be an integer, got 1.5"),
    ),
    advkit.SparseL1Descent: (
        *BAD_EPS,
        *BAD_STEPS,
        *BAD_ALPHA,
        ({"quantile": 1.1}, "quantile must be at least 0 and at most 1, got 1.1"),
    ),
    advkit.PixelSwap: (
        ({"max_swaps": 0}, "max_swaps must be at least 1, got 0"),
        ({"max_swaps": 1.5}, "max_swaps must be an integer, got 1.5"),
        *BAD_QUERIES,
    ),
    advkit.OnePixel: (
        ({"pixels": 0}, "pixels must be at least 1, got 0"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"popsize": 2}, "popsize must be at least 3, got 2"),
        *BAD_QUERIES,
    ),
    advkit.Pixle: (
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"patch": 3}, "patch must be a pair, the smallest and the largest side; got 3"),
        ({"patch": (0, 2)}, "patch[0] must be at least 1, got 0"),
        ({"patch": (3, 2)}, "patch[1] must be at least 3, got 2"),
        *BAD_QUERIES,
    ),
    advkit.DeepFool: (
        *BAD_STEPS,
        ({"overshoot": -0.1}, "overshoot must be at least 0, got -0.1"),
        ({"overshoot": float("nan")}, "overshoot must be at least 0, got nan"),
        ({"candidates": 1}, "candidates must be at least 2, got 1"),
        ({"candidates": 2.0}, "candidates must be an integer, got 2.0"),
        ({"norm": "l1"}, "norm must be one of L2, Linf; got L1"),
    ),
    advkit.CW: BAD_SEARCH,
    advkit.EAD: (
        *BAD_SEARCH,
        ({"beta": -1e-3}, "beta must be at least 0, got -0.001"),
        ({"decision_rule": "l2"}, "decision_rule must be one of 'l1', 'elastic'; got 'l2'"),
    ),
}


@pytest.mark.parametrize(
    ("attack", "settings", "words"),
    [
        pytest.param(attack, *bad, id=f"{attack.__name__}-{next(iter(bad[0].items()))}")
        for attack, cases in WORDS.items()
        for bad in cases
    ],
)
def test_the_words_for_what_is_out_of_range(attack: type[Attack], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        attack(MODEL, **settings)


@pytest.mark.parametrize(
    "attack", sorted({case.attack for case in CASES if not case.parts}, key=lambda attack: attack.__name__)
)
def test_every_attack_refuses_what_its_declarations_exclude(attack: type[Attack]) -> None:
    """And declares all that it adds to the base."""
    known = hyperparameters.of(attack)
    own = {field.name for field in dataclasses.fields(attack)} - {"model", "bounds", "generator", "autocast"}
    given = {"loader", "models"} if attack is advkit.LGV else set()  # what it learns from, which is no number
    assert own - given == set(known)
    needed = {"parts": []} if attack is advkit.Transfer else {}
    tried = 0
    for name, what in known.items():
        assert str(what)
        for value in what.bad():
            with pytest.raises(InputError, match=f"{name}|there is no norm"):
                attack(MODEL, **{**needed, name: value})
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
