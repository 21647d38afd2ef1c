"""Lengths that nobody gave follow what they are shares of; a number that somebody gave stays."""

import copy
import dataclasses
import inspect
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Attack, norms
from advkit.attacks import EAD, FGSM, IFGSM, JSMA, MIFGSM, PGD, SparseL1Descent
from advkit.evaluation import security_curve
from contracts.scenes import draw, said_by, trained_net


class Levels(nn.Module):
    """A network on [0, 1] that is given other pixels."""

    def __init__(self, net: nn.Module, bounds: tuple[float, float]) -> None:
        super().__init__()
        self.net = net
        self.low, self.high = bounds

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net((images - self.low) / (self.high - self.low))
        return logits


NET = nn.Linear(6, 3)
ITERATIVE = (IFGSM, MIFGSM, PGD)
DEFAULTS: list[tuple[type[Attack], str, float]] = [
    *((attack, "eps", 8 / 255) for attack in (FGSM, *ITERATIVE)),
    *((attack, "alpha", 2 / 255) for attack in ITERATIVE),
    (SparseL1Descent, "eps", 12.0),
    (EAD, "beta", 1e-3),
    (JSMA, "theta", 1.0),
]


@pytest.mark.parametrize(("attack", "name", "value"), DEFAULTS)
def test_the_numbers_in_the_signature_are_those_for_pixels_in_0_1(
    attack: type[Attack], name: str, value: float
) -> None:
    assert inspect.signature(attack).parameters[name].default == value
    assert repr(inspect.signature(attack).parameters[name].default) == repr(value)
    assert getattr(attack(NET), name) == value
    assert str(attack(NET)) == attack.__name__


@pytest.mark.parametrize(("attack", "name", "value"), DEFAULTS)
@pytest.mark.parametrize("bounds", [(0, 255), (-1.0, 1.0), (0.0, 1e-3)])
def test_they_are_shares_of_the_range(
    attack: type[Attack], name: str, value: float, bounds: tuple[float, float]
) -> None:
    made = attack(NET, bounds=bounds)
    assert getattr(made, name) == pytest.approx(value * (bounds[1] - bounds[0]))
    assert str(made) == f"{attack.__name__}(bounds={bounds!r})"
    assert getattr(dataclasses.replace(attack(NET), bounds=bounds), name) == getattr(made, name)
    given = attack(NET, bounds=bounds, **{name: value})
    assert getattr(given, name) == value
    assert f"{name}=" in str(given)


@pytest.mark.parametrize("attack", ITERATIVE)
def test_a_step_is_a_quarter_of_the_budget(attack: type[Attack]) -> None:
    assert attack(NET, eps=8, bounds=(0, 255)).alpha == 2
    assert attack(NET, eps=0.3).alpha == pytest.approx(0.075)
    assert attack(NET, eps=0.3, alpha=2 / 255).alpha == 2 / 255
    assert str(attack(NET, eps=0.3)) == f"{attack.__name__}(eps=0.3)"
    assert str(attack(NET, eps=0.3, alpha=0.01)) == f"{attack.__name__}(eps=0.3, alpha=0.01)"


COPIES: dict[str, Callable[[Attack], Attack]] = {
    "itself": lambda attack: attack,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda attack: pickle.loads(pickle.dumps(attack)),
    "on": lambda attack: attack.on(NET),
    "replace": lambda attack: dataclasses.replace(attack, steps=3),
    "with": lambda attack: attack._with(eps=0.1),
}


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
@pytest.mark.parametrize("eps", [0.3, torch.tensor([0.1, 0.2, 0.3])])
def test_a_copy_remembers_what_was_given(copied: Callable[[Attack], Attack], eps: float | Tensor) -> None:
    free, bound = copied(PGD(NET, eps=eps)), copied(PGD(NET, eps=eps, alpha=0.075))
    torch.testing.assert_close(torch.as_tensor(free.alpha), torch.as_tensor(free.eps / 4))
    assert "alpha" not in str(free)
    assert dataclasses.replace(free, eps=0.4).alpha == pytest.approx(0.1)
    assert dataclasses.replace(bound, eps=0.4).alpha == 0.075
    assert dataclasses.replace(dataclasses.replace(free, eps=eps), eps=0.4).alpha == pytest.approx(0.1)


def test_each_image_has_a_step_of_its_own() -> None:
    network, images, labels = trained_net()
    eps = torch.linspace(0.01, 0.2, len(images))
    for attack in ITERATIVE:
        settings = {"random_start": False} if attack is PGD else {}
        together = attack(network, eps=eps, **settings)(images, labels)
        apart = [
            attack(network, eps=float(size), **settings)(image[None], label[None])
            for size, image, label in zip(eps, images, labels, strict=True)
        ]
        torch.testing.assert_close(together, torch.cat(apart))


def test_eight_of_255_levels_are_8_255() -> None:
    network, images, labels = trained_net()
    levels = Levels(network, (0, 255))
    for attack in (FGSM, IFGSM, MIFGSM, SparseL1Descent, EAD):
        given = {"eps": 8} if attack in (FGSM, IFGSM, MIFGSM) else {}
        for settings in ({}, given):
            found = attack(levels, bounds=(0, 255), **settings)(255 * images, labels)
            expected = attack(network)(images, labels)
            moved = norms.L1.distance(found / 255, images)
            torch.testing.assert_close(moved, norms.L1.distance(expected, images), rtol=1e-3, atol=0)
            assert moved.all()


def test_the_whole_budget_is_reached() -> None:
    network, images, labels = trained_net()
    for attack in ITERATIVE:
        result = attack(network, eps=0.3).run(images, labels)
        torch.testing.assert_close(result.distance("linf"), torch.full((8,), 0.3))


def test_no_budget_is_no_change() -> None:
    network, images, labels = trained_net()
    for attack in ITERATIVE:
        assert attack(network, eps=0)(images, labels).equal(images)
        assert attack(network, eps=0.0).alpha == 0


def test_the_transform_follows_the_range_too() -> None:
    network, images, labels = trained_net()
    transform = advkit.FGSMTransform(Levels(network, (0, 255)), bounds=(0, 255))
    found, _ = transform(255 * images, labels)
    torch.testing.assert_close(found, 255 * FGSM(network)(images, labels))
    assert inspect.signature(advkit.FGSMTransform).parameters["eps"].default == 8 / 255
    assert "eps=8," in repr(transform)


def test_a_security_curve_scales_the_steps_as_it_does_given_ones() -> None:
    network, images, labels = trained_net()
    eps = [0.01, 0.05, 0.2]
    curve = security_curve(IFGSM(network), images, labels, eps=eps)
    for size, accuracy in zip(eps, curve.accuracy, strict=True):
        success = IFGSM(network, eps=size).run(images, labels).success
        assert accuracy == 1 - success.float().mean().item()


@dataclasses.dataclass(frozen=True, eq=False)
class Stranger(Attack):
    """Somebody else's attack, whose defaults are numbers and nothing more."""

    eps: float = 8 / 255
    alpha: float = 2 / 255

    def _perturb(self, images: Tensor, goal: object) -> Tensor:
        return images + self.alpha


def test_plain_defaults_stay() -> None:
    made = Stranger(NET, eps=0.3, bounds=(0.0, 255.0))
    assert made.alpha == 2 / 255
    images = draw(2, 6)
    found = made(images, said_by(NET, images))
    torch.testing.assert_close(norms.Linf.distance(found, images), torch.full((2,), 2 / 255))
