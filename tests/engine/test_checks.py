"""Checks that no attack exercises by itself; the rest is in ``contracts/test_errors.py``."""

import re
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import advkit
from advkit._engine.checks import check_number
from advkit.errors import DtypeError, InputError, ModelError
from contracts.scenes import IMAGE, conv_net, draw, said_by


@pytest.mark.parametrize(
    ("value", "limits", "words"),
    [
        (1.5, {"at_least": 0, "at_most": 1}, "p must be at least 0 and at most 1, got 1.5"),
        (0, {"above": 0}, "p must be greater than 0, got 0"),
        (float("nan"), {}, "p must be finite, got nan"),
        (float("-inf"), {"at_most": 1}, "p must be at most 1, got -inf"),
    ],
)
def test_numbers_out_of_range(value: float, limits: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_number("p", value, **limits)


def test_numbers_of_numpy_are_numbers() -> None:
    for value in (np.float16(0.5), np.float32(0.5), np.float64(0.5), np.int64(1), np.uint8(1)):
        check_number("p", value, at_least=0)
    check_number("p", np.int64(3), integer=True)
    for wrong in (np.float64(3), np.bool_(True)):
        with pytest.raises(DtypeError, match="p must be an integer"):
            check_number("p", wrong, integer=True)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_attacks_with_numbers_of_numpy(kind: type) -> None:
    model, images = conv_net(), draw(2, *IMAGE)
    labels = said_by(model, images)
    for make, more in ((advkit.FGSM, {}), (advkit.MIFGSM, {"steps": np.int64(2)}), (advkit.PGD, {"norm": "l2"})):
        options = {**more, "random_start": False} if make is advkit.PGD else more
        found = make(model, eps=kind(0.125), **options)(images, labels)
        assert found.equal(make(model, eps=0.125, **options)(images, labels))
        assert found.dtype == torch.float32


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_what_a_rounding_put_outside_is_clamped(bounds: tuple[float, float], dtype: torch.dtype) -> None:
    """As normalising images and going back does, in most batches."""
    low, high = bounds
    top = max(abs(low), abs(high))
    images = (low + draw(4, *IMAGE) * (high - low)).to(dtype)
    beyond = torch.tensor(top, dtype=dtype) * (1 + 2 * torch.finfo(dtype).eps)
    images[0, 0, 0, 0] = beyond
    images[1, 0, 0, 0] = low - 2 * torch.finfo(dtype).eps * top
    assert images[0, 0, 0, 0] > high
    assert images[1, 0, 0, 0] < low
    found = advkit.FGSM(conv_net(), eps=0.1, bounds=bounds)(images, torch.arange(4))
    assert found.dtype == dtype
    assert (found >= low).all()
    assert (found <= high).all()
    clamped = advkit.FGSM(conv_net(), eps=0.1, bounds=bounds)(images.clamp(low, high), torch.arange(4))
    assert found.equal(clamped)


def test_normalised_images_that_are_taken_back_can_be_attacked() -> None:
    mean, std = (
        torch.tensor([0.4914, 0.4822, 0.4465]).view(3, 1, 1),
        torch.tensor([0.2023, 0.1994, 0.201]).view(3, 1, 1),
    )
    images = (draw(16, *IMAGE) * 255).round() / 255
    back = ((images - mean) / std) * std + mean
    back[0] = 1.0 + 1e-7
    assert (back > 1).any()
    result = advkit.PGD(conv_net(), random_start=False).run(back, torch.zeros(16, dtype=torch.int64))
    assert (result.images <= 1).all()
    assert (result.distance("linf") <= 8 / 255 + 1e-6).all()


@pytest.mark.parametrize("value", [1 + 1e-6, 1.00001, 1.5, 300.0])
def test_more_than_a_rounding_is_told_with_digits_that_show_it(value: float) -> None:
    images = draw(2, *IMAGE)
    images[0, 0, 0, 0] = value
    with pytest.raises(InputError, match=r"images\.clamp") as caught:
        advkit.FGSM(conv_net())(images, torch.tensor([0, 1]))
    shown = re.search(r"lie in \[([^,]*), ([^\]]*)\]", str(caught.value))
    assert shown is not None
    assert float(shown[2]) > 1


def test_nan_is_told_by_image() -> None:
    images = draw(20, *IMAGE)
    images[3, 0, 0, 0] = images[17, 2, 1, 1] = torch.nan
    with pytest.raises(InputError, match="images contain NaN: 2 of 20, at index 3, 17"):
        advkit.FGSM(conv_net())(images, torch.zeros(20, dtype=torch.int64))
    with pytest.raises(InputError, match=r"20 of 20, at index 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        advkit.FGSM(conv_net())(images * torch.nan, torch.zeros(20, dtype=torch.int64))


def test_the_labels_are_no_targets() -> None:
    images, labels = draw(4, *IMAGE), torch.tensor([0, 1, 2, 3])
    attack = advkit.FGSM(conv_net())
    with pytest.raises(InputError, match="but are the same for 4 of 4, at index 0, 1, 2, 3"):
        attack(images, labels, targets=labels.clone())
    with pytest.raises(InputError, match="but are the same for 1 of 4, at index 2; draw them from the other classes"):
        attack(images, labels, targets=torch.tensor([1, 2, 2, 0]))
    assert attack(images, labels, targets=torch.tensor([1, 2, 3, 0])).shape == images.shape
    assert attack(images[:0], labels[:0], targets=labels[:0]).shape == (0, *IMAGE)


def test_what_new_users_pass_is_told_what_to_do() -> None:
    image, label = draw(1, *IMAGE)[0], torch.tensor(2)
    for one in (label, label[None]):
        with pytest.raises(InputError, match=re.escape("make a batch of it: images[None], labels.reshape(1)")):
            advkit.FGSM(conv_net())(image, one)
    assert advkit.FGSM(conv_net())(image[None], label.reshape(1)).shape == (1, *IMAGE)
    for made in (advkit.PGD, lambda model, generator: advkit.defenses.RandomizedSmoothing(0.1, generator=generator)):
        with pytest.raises(DtypeError, match=re.escape("got 7; for a seed, give torch.Generator().manual_seed(7)")):
            made(conv_net(), generator=7)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda logits: logits.argmax(1), "make scores of them: torch.nn.functional.one_hot(classes, K).float()"),
        (lambda logits: torch.nn.functional.one_hot(logits.argmax(1), 4), "make them floating: output.float()"),
        (lambda logits: logits.detach().numpy(), "make one of the array: torch.from_numpy(output)"),
    ],
)
def test_a_model_that_says_classes_or_returns_an_array_is_told_what_to_return(
    answer: Callable[[torch.Tensor], object], words: str
) -> None:
    net = conv_net()
    with pytest.raises(ModelError, match=re.escape(words)):
        advkit.Noise(lambda images: answer(net(images)))(draw(2, *IMAGE), torch.tensor([0, 1]))


ON_LEVELS = partial(advkit.DeepFool, levels=256)


@pytest.mark.parametrize(
    "attack", [advkit.FGSM, advkit.PGD, advkit.DeepFool, ON_LEVELS, advkit.CW, advkit.JSMA, advkit.OnePixel]
)
def test_another_default_device_changes_nothing(attack: Callable[..., advkit.Attack]) -> None:
    """Whatever is made on the way is made where the images are: on "meta" there would be no numbers."""
    images, labels = draw(4, *IMAGE), torch.tensor([0, 1, 2, 3])
    network = conv_net()
    found = []
    for device in ("cpu", "meta"):
        generator = torch.Generator().manual_seed(0)
        with torch.device(device):
            model = advkit.Normalized(network, [0.4, 0.5, 0.6], 0.25)
            found.append(attack(model, generator=generator).run(images, labels))
    assert found[0].images.equal(found[1].images)
    assert found[0].success.equal(found[1].success)
