"""What the base class does for every attack; what it promises is in ``contracts``."""

import dataclasses

import pytest
import torch
from torch import Tensor

import advkit
from advkit import Attack
from advkit.errors import AdvkitError
from advkit.goals import Goal
from contracts.scenes import IMAGE, Passes, conv_net, draw, trained_net

IMAGES, LABELS = draw(3, *IMAGE), torch.tensor([0, 1, 2])


@dataclasses.dataclass(frozen=True, eq=False)
class Careless(Attack):
    """An attack that leaves the clean-up to its base."""

    shift: float | Tensor = 5.0
    shape: bool = True

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        moved = images.requires_grad_() * 1 + torch.as_tensor(self.shift)
        return moved if self.shape else moved[:1]


def test_the_base_clips_and_detaches() -> None:
    found = Careless(conv_net())(IMAGES, LABELS)
    assert found.equal(torch.ones_like(IMAGES))
    assert not found.requires_grad
    assert not IMAGES.requires_grad


@dataclasses.dataclass(frozen=True, eq=False)
class Mirrored(Attack):
    """Another attack, against the mirror image of the model."""

    other: type[Attack] = advkit.FGSM

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return self.other(lambda x: self.model(x.flip(-1)))._perturb(images, goal)


@pytest.mark.parametrize("other", [advkit.FGSM, advkit.MIFGSM, advkit.DeepFool, advkit.CW])
def test_an_attack_can_be_built_from_another(other: type[Attack]) -> None:
    model, images, labels = trained_net()
    found = Mirrored(model, other=other)(images.flip(-1), labels).flip(-1)
    expected = other(model)(images, labels)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (found != images).any()


def test_images_without_a_pixel_are_left_as_they_are() -> None:
    result = advkit.FGSM(lambda x: torch.tensor([[1.0, 0.0]]).expand(len(x), 2)).run(
        torch.zeros(6, 0), torch.zeros(6).int()
    )
    assert result.images.shape == (6, 0)
    assert not result.success.any()


def test_an_attack_of_the_wrong_shape_is_the_authors_mistake() -> None:
    with pytest.raises(AdvkitError, match=r"Careless._perturb returned shape \(1, 3, 8, 8\) for images of shape"):
        Careless(conv_net(), shape=False)(IMAGES, LABELS)


def test_a_tensor_for_each_row_is_checked_for_any_hyperparameter() -> None:
    with pytest.raises(advkit.errors.InputError, match=r"shift has shape \(2,\), but a batch of 3 images"):
        Careless(conv_net(), shift=torch.zeros(2))(IMAGES, LABELS)


def test_an_attack_is_immutable() -> None:
    attack = advkit.FGSM(conv_net())
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.eps = 0.5  # type: ignore[misc]
    with pytest.raises(TypeError, match="abstract"):
        Attack(conv_net())


def test_it_prints_what_was_chosen() -> None:
    model = conv_net()
    assert str(advkit.FGSM(model)) == "FGSM"
    assert str(advkit.PGD(model, eps=4 / 255, steps=40)) == "PGD(eps=4/255, steps=40)"
    assert str(advkit.PGD(model, eps=0.5, norm="l2")) == "PGD(eps=0.5, norm='l2')"
    assert str(advkit.MIFGSM(model, bounds=(-1.0, 1.0))) == "MIFGSM(bounds=(-1.0, 1.0))"
    assert str(advkit.FGSM(model, eps=torch.tensor([1 / 255, 0.5]))) == "FGSM(eps=[1/255 to 0.5])"


def test_distances_of_a_result() -> None:
    result = advkit.FGSM(conv_net(), eps=0.1).run(0.5 + 0 * IMAGES, LABELS)
    torch.testing.assert_close(result.distance("linf"), torch.full((3,), 0.1))
    torch.testing.assert_close(result.distance(advkit.norms.L2), torch.full((3,), 0.1 * 192**0.5))
    torch.testing.assert_close(result.distance("l0"), torch.full((3,), 192.0))
    half = dataclasses.replace(result, images=result.images.half(), originals=result.originals.half())
    assert half.distance("l1").dtype == torch.float32


def test_a_large_batch_is_done_in_parts_on_a_cpu() -> None:
    model = Passes(conv_net())
    images, labels = draw(150, *IMAGE), torch.arange(150) % 4
    eps = torch.linspace(0, 0.2, 150)
    attack = advkit.MIFGSM(model, eps=eps, steps=1)
    found = attack(images, labels)
    assert (model.forwards, model.backwards) == ([64, 64, 22], [64, 64, 22])
    rows = slice(120, 140)
    few = advkit.MIFGSM(model, eps=eps[rows], steps=1)(images[rows], labels[rows])
    torch.testing.assert_close(found[rows], few, rtol=0, atol=1e-6)

    labels[-1] = 4  # in the last part, and known at the first answer
    model.forwards.clear()
    with pytest.raises(advkit.errors.InputError, match=r"labels must lie in \[0, 4\)"):
        attack(images, labels)
    assert model.forwards == [64]


@pytest.mark.parametrize(
    ("kind", "access", "aim"),
    [
        ("budget", "gradient", "budget"),
        ("minimal", "gradient", "minimal"),
        ("black-box", "scores", "minimal"),
    ],
)
def test_an_attack_that_still_says_its_kind_is_understood(kind: str, access: str, aim: str) -> None:
    older = type("Older", (Careless,), {"kind": kind})
    assert (older.access, older.aim) == (access, aim)
    assert older(conv_net())(IMAGES, LABELS).shape == IMAGES.shape


@dataclasses.dataclass(frozen=True, eq=False)
class Odd(Attack):
    """Gives back what a stranger's attack may."""

    how: str = "double"

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        if self.how == "double":
            return images.double() + 0.1
        moved = images + 0.1
        moved[1, 0, 0, 0] = torch.nan
        return moved


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_the_result_has_the_dtype_of_the_images_whatever_the_attack_gives(dtype: torch.dtype) -> None:
    found = Odd(conv_net())(IMAGES.to(dtype), LABELS)
    assert found.dtype == dtype
    assert (found != IMAGES.to(dtype)).any()


@pytest.mark.parametrize(
    "attack", [advkit.FGSM, advkit.PGD, advkit.SparseL1Descent, advkit.DeepFool, advkit.CW, advkit.OnePixel]
)
def test_another_default_dtype_changes_nothing(attack: type[Attack]) -> None:
    more = {"random_start": True} if attack is advkit.SparseL1Descent else {}
    found = []
    for dtype in (torch.float32, torch.float64):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            found.append(attack(conv_net().float(), generator=torch.Generator().manual_seed(0), **more)(IMAGES, LABELS))
        finally:
            torch.set_default_dtype(before)
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)


def test_nan_in_the_images_of_an_attack_is_the_attacks() -> None:
    with pytest.raises(AdvkitError, match=r"Odd\._perturb returned images with NaN in them") as caught:
        Odd(conv_net(), how="nan")(IMAGES, LABELS)
    assert not isinstance(caught.value, advkit.errors.ModelError)
