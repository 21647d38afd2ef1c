"""How many passes the budget attacks make, and for how many rows."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from contracts.scenes import IMAGE, Passes, conv_net, draw, easy_images, linear_net, said_by

STEPS = [1, 3, 7]
ITERATIVE = {
    "IFGSM": (advkit.IFGSM, {}),
    "MIFGSM": (advkit.MIFGSM, {}),
    "PGD": (advkit.PGD, {}),
    "PGD-centre": (advkit.PGD, {"random_start": False}),
    "PGD-L2": (advkit.PGD, {"norm": "l2"}),
}


@pytest.mark.parametrize("targeted", [False, True])
def test_fgsm_is_one_forward_and_one_backward(targeted: bool) -> None:
    model = Passes(conv_net())
    images, labels = draw(5, *IMAGE), torch.tensor([0, 1, 2, 3, 0])
    targets = (labels + 1) % 4 if targeted else None
    advkit.FGSM(model)(images, labels, targets=targets)
    assert (model.forwards, model.backwards) == ([5], [5])
    advkit.FGSM(model).run(images, labels, targets=targets)
    assert (model.forwards, model.backwards) == ([5, 5, 5], [5, 5])


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("steps", STEPS)
def test_each_step_is_one_forward_and_one_backward(name: str, steps: int) -> None:
    make, options = ITERATIVE[name]
    model = Passes(conv_net())
    attack = make(model, steps=steps, **options)
    images, labels = draw(4, *IMAGE), torch.tensor([0, 1, 2, 3])
    attack(images, labels)
    assert (model.forwards, model.backwards) == ([4] * steps, [4] * steps)
    attack.run(images, labels)
    assert (model.forwards, model.backwards) == ([4] * (2 * steps + 1), [4] * (2 * steps))


@pytest.fixture
def spread() -> tuple[nn.Module, Tensor, Tensor]:
    """Images at growing distances from the boundary of a linear model, the first of them wrong already."""
    model = linear_net().double()
    images, labels = easy_images(model, count=1024)
    images, labels = images[::128], labels[::128].clone()
    labels[0] = (labels[0] + 1) % 3
    return model, images, labels


@pytest.mark.parametrize("name", ["IFGSM", "MIFGSM", "PGD-centre", "PGD-L2-centre"])
def test_fooled_rows_leave(name: str, spread: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, images, labels = spread
    options: dict[str, Any] = {"eps": 0.05, "alpha": 0.002, "steps": 20}
    if name == "PGD-L2-centre":
        options = {"eps": 0.6, "alpha": 0.03, "steps": 20, "norm": "l2"}
    make, more = ITERATIVE[name.removesuffix("-L2-centre")]
    if make is advkit.PGD:
        more = {"random_start": False}
    model = Passes(network)
    attack = make(model, early_stop=True, **options, **more)
    result = attack.run(images, labels)
    rows = model.forwards[:-1]
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == len(images)
    assert len(set(rows)) >= 4, "rows leave one after another"
    assert model.backwards[0] == len(images)  # the rows that leave do so before the step, after its backward

    alone = [attack(images[row : row + 1], labels[row : row + 1]) for row in range(len(images))]
    torch.testing.assert_close(result.images, torch.cat(alone), rtol=0, atol=1e-9)
    assert result.images[0].equal(images[0])

    # A row that left stands where it first was fooled: one step earlier it was not.
    full = make(network, **options, **more)
    for row in range(len(images)):
        one = slice(row, row + 1)
        walk = [images[one]]
        for steps in range(1, options["steps"] + 1):
            walk.append(full._with(steps=steps)(images[one], labels[one]))
        fooled = [bool(said_by(network, x) != labels[one]) for x in walk]
        first = fooled.index(True) if any(fooled) else options["steps"]
        torch.testing.assert_close(result.images[one], walk[first], rtol=0, atol=1e-9)


def test_when_all_are_fooled_there_is_no_backward() -> None:
    model = Passes(linear_net())
    images, labels = easy_images(model.model)
    wrong = (labels + 1) % 3
    found = advkit.MIFGSM(model, early_stop=True)(images, wrong)
    assert found.equal(images)
    assert (model.forwards, model.backwards) == ([4], [])


def test_a_targeted_row_leaves_at_its_target() -> None:
    model = Passes(linear_net())
    images, labels = easy_images(model.model)
    said, labels = labels, (labels + 2) % 3
    targets = (labels + 2) % 3
    targets[0] = said[0]
    result = advkit.MIFGSM(model, eps=0.2, steps=6, early_stop=True).run(images, labels, targets=targets)
    assert result.images[0].equal(images[0])
    assert result.success.all()
    assert model.forwards[:2] == [4, 3]
