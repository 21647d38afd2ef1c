"""What an attack finds depends neither on the scale of the logits, nor on classes that are out of the race."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from advkit import (
    CW,
    EAD,
    FGSM,
    FMN,
    IFGSM,
    JSMA,
    MIFGSM,
    PDGD,
    PDPGD,
    PGD,
    Attack,
    DeepFool,
    OnePixel,
    PixelSwap,
    Pixle,
    SparseL1Descent,
)
from advkit._base.scale import contenders, magnitude, power_of_two
from contracts.scenes import Shifted, draw, said_by, trained_net

Model = Callable[[Tensor], Tensor]
MINIMAL: dict[str, tuple[Callable[[Model], Attack], str]] = {
    "DeepFool": (DeepFool, "l2"),
    "DeepFool-Linf": (lambda model: DeepFool(model, norm="linf"), "linf"),
    "CW": (CW, "l2"),
    "CW-published": (lambda model: CW(model, steps=60, schedule="constant"), "l2"),
    "EAD": (EAD, "l1"),
    "EAD-elastic": (lambda model: EAD(model, decision_rule="elastic"), "l1"),
    "EAD-published": (lambda model: EAD(model, steps=60, schedule="constant"), "l1"),
    "FMN": (lambda model: FMN(model, steps=20), "l2"),
    "JSMA": (lambda model: JSMA(model, gamma=1.0), "l0"),
    "JSMA-published": (lambda model: JSMA(model, gamma=1.0, pairs=1), "l0"),
}
each = pytest.mark.parametrize(("make", "norm"), MINIMAL.values(), ids=MINIMAL)
MASKS = [-1e4, -1e9, torch.finfo(torch.float32).min, -torch.inf]


def scene() -> tuple[nn.Module, Tensor]:
    """A network of ten classes, and images. Of only the first five a network is in use."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_((2 * torch.rand(parameter.shape, generator=generator) - 1) * parameter.shape[-1] ** -0.5)
    return network, draw(6, 3, 8, 8, seed=1)


def masked(network: nn.Module, value: float, live: int = 5) -> nn.Module:
    return Shifted(network, lambda logits: logits.masked_fill(torch.arange(10) >= live, value))


def lowered(network: nn.Module, value: float, live: int = 5) -> nn.Module:
    """The same by adding, so that what is out of the race has gradients."""
    return Shifted(network, lambda logits: logits + torch.zeros(10).masked_fill(torch.arange(10) >= live, value))


@pytest.mark.parametrize("attack", [PDGD, PDPGD])
def test_a_game_about_logits_of_any_scale_ends_about_as_close(attack: type[PDGD | PDPGD]) -> None:
    network, images, labels = trained_net()
    expected = attack(network, steps=40).run(images, labels)
    for scale in (1e-30, 100, 1e30):
        found = attack(Shifted(network, lambda logits, scale=scale: scale * logits), steps=40).run(images, labels)
        assert found.success.all()
        torch.testing.assert_close(found.distance("l2").mean(), expected.distance("l2").mean(), rtol=0.15, atol=0)


@each
@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_scaled_logits_give_the_same_answers(make: Callable[[Model], Attack], norm: str, scale: float) -> None:
    network, images, labels = trained_net()
    expected = make(network).run(images, labels)
    found = make(Shifted(network, lambda logits: scale * logits)).run(images, labels)
    assert expected.success.any()
    assert found.success.equal(expected.success)
    torch.testing.assert_close(found.distance(norm), expected.distance(norm), rtol=1e-3, atol=0)


@each
@pytest.mark.parametrize("exponent", [-60])
def test_powers_of_two_change_nothing_at_all(make: Callable[[Model], Attack], norm: str, exponent: int) -> None:
    network, images, labels = trained_net()
    found = make(Shifted(network, lambda logits: logits * 2.0**exponent))(images, labels)
    assert found.equal(make(network)(images, labels))
    assert not found.equal(images)


@each
@pytest.mark.parametrize("shift", [100.0])
def test_shifted_logits_give_the_same_answers(make: Callable[[Model], Attack], norm: str, shift: float) -> None:
    network, images, labels = trained_net()
    expected = make(network).run(images, labels)
    found = make(Shifted(network, lambda logits: logits + shift)).run(images, labels)
    assert found.success.equal(expected.success)
    torch.testing.assert_close(found.distance(norm), expected.distance(norm), rtol=1e-2, atol=0)


@each
@pytest.mark.parametrize(
    ("mask", "value"), [*zip([masked, lowered, masked, lowered], MASKS, strict=True), (masked, -torch.inf)]
)
@pytest.mark.parametrize("targeted", [False, True])
def test_what_is_masked_is_not_there(
    make: Callable[[Model], Attack], norm: str, mask: Callable[..., nn.Module], value: float, targeted: bool
) -> None:
    network, images = scene()
    alone = Shifted(network, lambda logits: logits[:, :5])
    labels = said_by(alone, images)
    targets = (labels + 1) % 5 if targeted else None
    expected = make(alone).run(images, labels, targets=targets)
    found = make(mask(network, value)).run(images, labels, targets=targets)
    assert expected.success.float().mean() > 0.5
    assert found.success.equal(expected.success)
    torch.testing.assert_close(found.distance(norm), expected.distance(norm), rtol=1e-4, atol=1e-5)


@each
@pytest.mark.parametrize("value", MASKS)
def test_what_is_masked_cannot_be_reached(make: Callable[[Model], Attack], norm: str, value: float) -> None:
    network, images = scene()
    images = images[:2]
    model = lowered(network, value)
    labels = said_by(model, images)
    assert make(model)(images, labels, targets=torch.full_like(labels, 7)).equal(images)
    assert make(masked(network, value, live=1))(images, 0 * labels).equal(images), "there is no other class"


@each
def test_what_is_infinite_is_a_failure_and_no_nan(make: Callable[[Model], Attack], norm: str) -> None:
    network, images = scene()
    labels = said_by(network, images)
    for classes in ([3], [3, 4]):
        at = torch.zeros(10, dtype=torch.bool)
        at[classes] = True
        model = Shifted(network, lambda logits, at=at: logits.masked_fill(at, torch.inf))
        assert make(model)(images, torch.full_like(labels, 3)).equal(images)
        assert make(model)(images, labels, targets=(labels + 1) % 2).equal(images)


def test_dead_classes_take_no_turn() -> None:
    """Four classes are left to search for, and a fifth search is another try, as it is without the others."""
    network, images = scene()
    alone = Shifted(network, lambda logits: logits[:, :5])
    labels = said_by(alone, images)
    for attack in (CW, EAD):
        settings = {"initial_c": 1e-4, "steps": 8, "binary_search_steps": 7}
        expected = attack(alone, **settings).run(images, labels)
        found = attack(masked(network, -1e9), **settings).run(images, labels)
        assert found.images.equal(expected.images)


def test_the_race() -> None:
    logits = torch.tensor([[3.0, 2.0, -50.0, -1e9], [-1e4, -1e4 - 1, -2e4, -1e9], [1e-12, 0.0, -1e-10, -torch.inf]])
    assert contenders(logits).tolist() == [[True, True, True, False]] * 3
    assert contenders(logits.roll(1, 1)).tolist() == [[False, True, True, True]] * 3
    classes = torch.tensor([1, 0, 0])
    # From zero; from the mean, -13,333.7, a third of the way to -20,000; and from zero.
    torch.testing.assert_close(magnitude(logits, classes), torch.tensor([3.0, 10000 / 3 + 1 / 3 + 40001 / 24, 1e-12]))


def test_what_all_logits_have_in_common_counts_little() -> None:
    logits = torch.tensor([[2.0, 1.0, -3.0]])
    label = torch.tensor([0])
    plain = magnitude(logits, label)
    torch.testing.assert_close(plain, torch.tensor([2.0]))
    for shift in (1e2, 1e3, 1e4):
        for sign in (-1, 1):
            assert float(magnitude(logits + sign * shift, label)) <= 2.0 + shift / 8


def test_the_unit() -> None:
    sizes = torch.tensor([1.0, 3.0, 0.3, 2.0**-100, 0.0, torch.inf, torch.nan])
    assert power_of_two(sizes).tolist() == [1.0, 2.0, 0.25, 2.0**-100, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("attack", [FGSM, IFGSM, MIFGSM, PGD, SparseL1Descent, OnePixel, PixelSwap, Pixle])
@pytest.mark.parametrize("value", [-1e9, -torch.inf])
def test_losses_do_not_see_what_is_masked(attack: type[Attack], value: float) -> None:
    network, images = scene()
    alone = Shifted(network, lambda logits: logits[:, :5])
    labels = said_by(alone, images)

    def found(model: nn.Module) -> Tensor:
        adversarials: Tensor = attack(model, generator=torch.Generator().manual_seed(0))(images, labels)
        return adversarials

    assert not found(alone).equal(images)
    assert found(masked(network, value)).equal(found(alone))
