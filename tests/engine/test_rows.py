"""Rows of a batch leave when they are closed: at once on a CPU, by halves on an accelerator."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from advkit import Untargeted, norms
from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.model import Model
from contracts.scenes import draw, easy_images, linear_net


class Elsewhere(Tensor):
    """A tensor on the CPU that says it is on an accelerator."""

    device = SimpleNamespace(type="cuda", index=0)


class Counted(Classifier):
    """A model on the CPU that is asked from `Elsewhere`."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, {})
        self.sizes: list[int] = []

    def logits(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        return super().logits(images.as_subclass(Tensor))


@dataclass
class Work(Rows):
    numbers: Tensor
    one: Tensor
    plain: float
    goal: Goal


def some(count: int = 8, *, accelerator: bool = False) -> Work:
    x = torch.arange(count).float().view(-1, 1).repeat(1, 3)
    rows = Work(x, torch.arange(count) * 10, torch.tensor(0.5), 0.25, Untargeted(torch.arange(count)))
    if accelerator:
        rows.x = rows.x.as_subclass(Elsewhere)
    return rows


def done(rows: Rows, *which: int) -> Tensor:
    return torch.isin(rows.index, torch.tensor(which))


def test_on_a_cpu_closed_rows_leave_at_once() -> None:
    rows = some()
    assert rows.retire(done(rows, 1, 5)) == 6
    gradient, other = rows.compact(rows.x * 2, torch.arange(8))
    kept = [0, 2, 3, 4, 6, 7]
    assert rows.index.tolist() == kept
    assert rows.x[:, 0].tolist() == kept
    assert gradient[:, 0].tolist() == [2.0 * row for row in kept]
    assert other.tolist() == kept
    assert rows.numbers.tolist() == [10 * row for row in kept]
    assert rows.goal.classes.tolist() == kept
    assert (rows.one.item(), rows.plain) == (0.5, 0.25)
    assert rows.active.all()


def test_nothing_is_copied_while_all_are_open() -> None:
    rows = some()
    x, gradient = rows.x, torch.ones(8, 3)
    assert rows.retire(torch.zeros(8, dtype=torch.bool)) == 8
    assert rows.compact(gradient)[0] is gradient
    assert rows.x is x
    assert rows.whole() is x


def test_rows_that_left_stay_where_they_stood() -> None:
    rows = some()
    start = rows.x.clone()
    rows.retire(done(rows, 0, 3))
    rows.compact()
    rows.move(rows.x + 100)
    rows.retire(done(rows, 7))
    rows.compact()
    rows.move(rows.x + 100)
    expected = torch.tensor([0.0, 201, 202, 3, 204, 205, 206, 107])
    assert rows.whole()[:, 0].equal(expected)
    assert rows.whole().shape == start.shape
    assert start[:, 0].equal(torch.arange(8).float()), "the caller's tensor was written to"


def test_closed_twice_is_closed_once() -> None:
    rows = some(accelerator=True)
    assert rows.retire(done(rows, 2)) == 7
    assert rows.retire(done(rows, 2)) == 7
    assert rows.retire(done(rows, 2, 3)) == 6


def test_on_an_accelerator_rows_leave_by_halves_and_stand_still_meanwhile() -> None:
    rows = some(accelerator=True)
    rows.retire(done(rows, 0, 1, 2))
    (gradient,) = rows.compact(torch.ones(8, 3))
    assert len(gradient) == len(rows.x) == 8  # five of eight are open: more than half
    rows.move(rows.x + 100)
    assert rows.x[:, 0].tolist() == [0, 1, 2, 103, 104, 105, 106, 107]
    rows.retire(done(rows, 3))
    (gradient,) = rows.compact(torch.ones(8, 3))
    assert len(gradient) == len(rows.x) == 4  # four of eight
    assert rows.index.tolist() == [4, 5, 6, 7]
    assert rows.goal.classes.tolist() == [4, 5, 6, 7]
    rows.move(rows.x + 100)
    assert rows.whole()[:, 0].tolist() == [0, 1, 2, 103, 204, 205, 206, 207]
    assert rows.retire(done(rows, 4, 5, 6, 7)) == 0
    rows.compact()
    assert rows.whole()[:, 0].tolist() == [0, 1, 2, 103, 204, 205, 206, 207]


@pytest.mark.parametrize("norm", [norms.Linf, norms.L2], ids=repr)
def test_both_policies_give_the_same_images(norm: norms.Norm) -> None:
    model = linear_net().double()
    images, labels = easy_images(model, count=512)
    images, labels = images[::32], labels[::32]
    shapes: dict[bool, list[int]] = {}
    found = {}
    eps = (0.03 if norm is norms.Linf else 0.4) * draw(len(images), seed=9, low=0.5).double()
    for accelerator in (False, True):
        rows = Climb(images, Untargeted(labels), Ball.of(norm, images, eps, (0.0, 1.0)), eps / 10)
        if accelerator:
            rows.x = rows.x.as_subclass(Elsewhere)
        counted = Counted(model)
        found[accelerator] = iterate(
            counted,
            rows,
            lambda rows, look: rows.stepped(norm.steepest(look.gradient)),
            steps=15,
            loss="ce",
            early_stop=True,
        )
        shapes[accelerator] = counted.sizes
    torch.testing.assert_close(found[True].as_subclass(Tensor), found[False], rtol=0, atol=1e-12)
    assert len(set(shapes[False])) > len(set(shapes[True])) > 1
    assert (found[False] != images).any()
