"""Rows don't see each other, and each may have numbers of its own.

In float64, since a convolution over a batch of one rounds in another order than over a batch of six, and a sign is
not continuous.
"""

import pytest
import torch
from torch import Tensor

from contracts.cases import Case, each_variant
from contracts.scenes import IMAGE, conv_net, draw, easy_images, judge, linear_net, said_by


def mixed_batch() -> tuple[Tensor, Tensor]:
    """Images of every fate: barely right, wrong already, black, white, ordinary."""
    model = linear_net().double()
    easy, labels = easy_images(model, count=2)
    images = torch.cat([easy, draw(2, *IMAGE).double(), torch.zeros(1, *IMAGE), torch.ones(1, *IMAGE)])
    wrong = (said_by(model, images[3:4]) + 1) % 3
    return images, torch.cat([labels, said_by(model, images[2:3]), wrong, said_by(model, images[4:])])


@each_variant(lambda case: case.deterministic)
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_a_batch_is_its_images_one_by_one(case: Case, targeted: bool, kind: str) -> None:
    if targeted and not case.targetable:
        pytest.skip("takes no targets")
    model = (linear_net() if kind == "linear" else conv_net(classes=3)).double()
    images, labels = mixed_batch() if kind == "linear" else (draw(6, *IMAGE).double(), torch.arange(6) % 3)
    targets = (labels + 1) % 3 if targeted else None
    attack = case.make(model)
    together = attack.run(images, labels, targets=targets)
    judge(case, together, images, labels, model=model, targets=targets)
    for row in range(0, len(images), 1 if kind == "linear" else 2):  # there each has a fate of its own
        one = slice(row, row + 1)
        alone = attack(images[one], labels[one], targets=None if targets is None else targets[one])
        torch.testing.assert_close(alone, together.images[one], rtol=0, atol=1e-6)


@each_variant(lambda case: case.deterministic)
def test_the_order_of_a_batch_does_not_matter(case: Case) -> None:
    model = conv_net().double()
    images, labels = draw(5, *IMAGE).double(), torch.tensor([0, 1, 2, 3, 0])
    order = torch.tensor([3, 0, 4, 1, 2])
    found = case.make(model)(images, labels)
    shuffled = case.make(model)(images[order], labels[order])
    torch.testing.assert_close(shuffled, found[order], rtol=0, atol=1e-6)


@each_variant(lambda case: case.per_row)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_number_for_each_image(case: Case, dtype: torch.dtype) -> None:
    """Row i of a run with a tensor is row i of a run with its i-th number."""
    model = conv_net().double()
    images = draw(4, *IMAGE).double()
    labels = said_by(model, images)
    for name in case.per_row:
        values = case.settings[name] * torch.tensor([0.25, 1.0, 0.5, 0.0 if name == "eps" else 0.75], dtype=dtype)
        found = case.make(model, **{name: values}).run(images, labels)
        judge(case, found, images, labels, model=model)
        for row, value in enumerate(values.tolist()):
            alone = case.make(model, **{name: value})(images, labels)
            torch.testing.assert_close(found.images[row], alone[row], rtol=0, atol=1e-6)


@each_variant(lambda case: case.per_row)
def test_one_number_as_a_tensor(case: Case) -> None:
    model = conv_net()
    images, labels = draw(3, *IMAGE), torch.tensor([0, 1, 2])
    expected = case.make(model)(images, labels)
    for name in case.per_row:
        for value in (torch.tensor(case.settings[name]), torch.full((3,), case.settings[name])):
            found = case.make(model, **{name: value})(images, labels)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert not found.requires_grad


@each_variant(lambda case: case.per_row)
def test_numbers_for_another_batch(case: Case) -> None:
    for name in case.per_row:
        attack = case.make(conv_net(), **{name: torch.full((2,), 0.1)})
        with pytest.raises(ValueError, match=rf"{name} has shape \(2,\), but a batch of 3 images needs one number"):
            attack(draw(3, *IMAGE), torch.tensor([0, 1, 2]))
