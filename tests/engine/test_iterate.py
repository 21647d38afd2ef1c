"""The loop of iterative attacks: what a step sees, what is kept, and how many looks that takes."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from advkit import norms
from advkit._engine.ball import Ball, LinfBall
from advkit._engine.classifier import Classifier
from advkit._engine.iterate import iterate
from advkit._engine.keeps import FirstSuccess, HighestLoss, Keep, Last, Smallest, Worst
from advkit._engine.looks import Climb, Look, Peak
from advkit.goals import Untargeted
from contracts.scenes import Passes, draw

PATH = [0.1, 0.7, 0.6, 0.9, 0.2]  # where the only feature of each row goes, by way of five steps from 0.5


class Threshold(nn.Module):
    """Says 1 above 0.65, and is the surer the further."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([0.65 - x, x - 0.65], 1)


def along(rows: Climb, look: Look) -> Tensor:
    return torch.full_like(rows.x, PATH[look.step])


def walk(keep: Keep | None, **more: object) -> tuple[list[float], Passes]:
    model = Passes(Threshold())
    images = torch.full((2, 1), 0.5)
    goal = Untargeted(torch.zeros(2, dtype=torch.int64))
    rows = Climb(images, goal, LinfBall(images, 1.0, (0.0, 1.0)), 0.1)
    found = iterate(Classifier(model, {}), rows, along, steps=5, loss="ce", keep=keep, **more)  # type: ignore[arg-type]
    return found[:, 0].tolist(), model


@pytest.mark.parametrize(
    ("keep", "place", "forwards"),
    [
        (lambda images: None, 0.2, 5),
        (lambda images: Last(), 0.2, 5),
        (HighestLoss, 0.9, 6),
        (FirstSuccess, 0.7, 6),
        (Worst, 0.7, 6),
        (lambda images: Smallest(images, norms.Linf), 0.7, 6),
    ],
)
def test_what_is_kept(keep: Callable[[Tensor], Keep | None], place: float, forwards: int) -> None:
    found, model = walk(keep(torch.full((2, 1), 0.5)))
    assert found == pytest.approx([place, place])
    assert model.forwards == [2] * forwards
    assert model.backwards == [2] * 5


def test_a_row_that_is_fooled_leaves() -> None:
    found, model = walk(None, early_stop=True)
    assert found == pytest.approx([0.7, 0.7])
    assert (model.forwards, model.backwards) == ([2, 2, 2], [2, 2])


@pytest.mark.parametrize("keep", [HighestLoss, FirstSuccess, Worst, lambda images: Smallest(images, norms.Linf)])
def test_a_row_that_leaves_is_kept_as_it_left(keep: Callable[[Tensor], Keep]) -> None:
    """At 0.7, where it is fooled, though it saw nothing there but its answer."""
    found, model = walk(keep(torch.full((2, 1), 0.5)), early_stop=True)
    assert found == pytest.approx([0.7, 0.7])
    assert (model.forwards, model.backwards) == ([2, 2, 2], [2, 2])


def test_the_worst_place_is_the_highest_loss_where_nothing_fools() -> None:
    found, _ = walk(Worst(torch.full((2, 1), 0.5)), inputs=lambda x: x / 2)
    assert found == pytest.approx([0.9, 0.9])


def test_the_model_is_shown_the_inputs_and_the_gradient_passes_back_through_them() -> None:
    images, seen = torch.full((2, 1), 0.5), []
    rows = Climb(images, Untargeted(torch.zeros(2).long()), LinfBall(images, 1.0, (0.0, 1.0)), 0.1)

    def step(rows: Climb, look: Look) -> Tensor:
        seen.append((look.x, look.logits, look.gradient))
        return rows.x

    iterate(Classifier(Threshold()), rows, step, steps=1, loss="margin", inputs=lambda x: 1 - 3 * x)
    x, logits, gradient = seen[0]
    assert x.equal(images)
    torch.testing.assert_close(logits, Threshold()(1 - 3 * images))
    assert gradient.eq(-6).all()


def test_a_peak_is_what_was_seen_at_the_highest_loss_of_each_row() -> None:
    goal = Untargeted(torch.zeros(3).long())
    peak = Peak.of(torch.zeros(3, 2))
    for step, loss in enumerate([[1.0, 5.0, -9.0], [2.0, 4.0, -9.0], [0.0, 6.0, -9.0]]):
        here = torch.full((3, 2), float(step))
        peak.see(Look(step, here, torch.zeros(3, 2), torch.tensor(loss), 10 * here, goal))
    assert peak.loss.tolist() == [2, 6, -9]
    assert peak.x[:, 0].tolist() == [1, 2, 0]
    assert peak.gradient[:, 0].tolist() == [10, 20, 0]
    assert peak.rows(torch.tensor([1])).x.tolist() == [[2, 2]]


def test_a_look_answers_a_question_once_until_rows_are_dropped() -> None:
    asked = []

    class Asked(Untargeted):
        def success(self, logits: Tensor) -> Tensor:
            asked.append(len(logits))
            return super().success(logits)

    labels, logits = torch.tensor([0, 0, 0]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1e-7]])
    images = torch.zeros(3, 1)
    rows = Climb(images, Asked(labels), LinfBall(images, 1.0, (0.0, 1.0)), 0.1)
    look = Look(0, images, logits, torch.zeros(3), images, rows.goal)
    for _ in range(2):
        assert look.success.tolist() == [False, True, True]
        assert look.clearly.tolist() == [False, True, True]  # 1e-7 is much, where no logit is larger
        assert torch.equal(look.edge, 16 * torch.finfo().eps * look.magnitude)
    assert asked == [3]

    rows.retire(look.success)
    look.compact(rows)
    assert (look.success.tolist(), look.clearly.tolist(), look.magnitude.tolist()) == ([False], [False], [0.5625])
    assert asked == [3, 1]


def test_the_last_place_counts_too() -> None:
    PATH.append(0.95)
    try:
        images = torch.full((2, 1), 0.5)
        rows = Climb(images, Untargeted(torch.zeros(2).long()), LinfBall(images, 1.0, (0.0, 1.0)), 0.1)
        found = iterate(Classifier(Threshold(), {}), rows, along, steps=6, loss="ce", keep=HighestLoss(images))
    finally:
        PATH.pop()
    assert found[:, 0].tolist() == pytest.approx([0.95, 0.95])


def test_rows_that_never_fool_keep_their_images() -> None:
    images = torch.full((3, 1), 0.5)
    for keep in (FirstSuccess(images), Smallest(images, norms.L2)):
        rows = Climb(images, Untargeted(torch.ones(3).long()), LinfBall(images, 0.1, (0.0, 1.0)), 0.1)
        model = Classifier(lambda x: torch.cat([x - 9, 9 - x], 1), {})
        found = iterate(
            model, rows, lambda rows, look: rows.stepped(look.gradient.sign()), steps=3, loss="ce", keep=keep
        )
        assert found.equal(images)


@dataclass
class Counted(Climb):
    """Rows that remember how many steps they have taken, and belong to a ball each of their own size."""

    taken: Tensor


def test_what_rows_know_leaves_with_them() -> None:
    """Row i stops once it is above 0.65: the one with the longest step first."""
    images = torch.full((3, 1), 0.5)
    alpha = torch.tensor([0.06, 0.2, 0.1])
    ball = LinfBall(images, torch.tensor([0.3, 0.4, 0.2]), (0.0, 1.0))
    rows = Counted(images, Untargeted(torch.zeros(3).long()), ball, alpha, taken=torch.zeros(3))
    sizes = []

    def step(rows: Counted, look: Look) -> Tensor:
        rows.taken += 1
        assert rows.taken.eq(look.step + 1).all()
        assert len(look.logits) == len(look.loss) == len(look.gradient) == len(rows.alpha) == len(rows.ball.originals)  # type: ignore[arg-type]
        sizes.append(len(rows.x))
        return rows.stepped(look.gradient.sign())

    found = iterate(Classifier(Threshold(), {}), rows, step, steps=9, loss="margin", early_stop=True)
    assert found[:, 0].tolist() == pytest.approx([0.68, 0.7, 0.7])
    assert sizes == [3, 2, 1]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_ball_is_the_set_that_the_budget_allows(norm: str) -> None:
    originals = draw(5, 3, 4)
    eps = torch.tensor([0.0, 0.1, 0.3, 1.0, 50.0])
    ball = Ball.of(norm, originals, eps, (0.0, 1.0))
    for points in (ball.project(draw(5, 3, 4, seed=1, low=-2, high=3)), ball.sample(torch.Generator().manual_seed(0))):
        assert (ball.norm.distance(points, originals) <= eps + 1e-6).all()
        assert ((points >= 0) & (points <= 1)).all()
        torch.testing.assert_close(ball.project(points.clone()), points, rtol=0, atol=1e-6)
        assert (points[1:] != originals[1:]).flatten(1).any(1).all()
    part = ball.rows(torch.tensor([3, 1]))
    assert part.originals.equal(originals[[3, 1]])
    assert torch.as_tensor(part.eps).equal(eps[[3, 1]])


def test_a_step_may_close_rows() -> None:
    """Rows leave at a look of the step's choice, and when all have left there is no other, not at the end either."""
    model, seen = Passes(Threshold()), []
    images = torch.tensor([[0.1], [0.2], [0.3]])
    goal = Untargeted(torch.zeros(3, dtype=torch.int64))

    def step(rows: Climb, look: Look) -> Tensor:
        rows.retire(look.x[:, 0] < 0.15 + 0.1 * look.step)
        look.compact(rows)
        seen.append(look.x[:, 0].tolist())
        return look.x + 0.01

    rows = Climb(images, goal, LinfBall(images, 1.0, (0.0, 1.0)), 0.1)
    found = iterate(Classifier(model, {}), rows, step, steps=9, loss="ce", keep=HighestLoss(images))
    assert [pytest.approx(each) for each in seen] == [[0.2, 0.3], [0.31], []]
    assert found[:, 0].tolist() == pytest.approx([0.1, 0.21, 0.32])
    assert model.forwards == model.backwards == [3, 2, 1]


def test_rows_may_climb_something_of_their_own() -> None:
    class Up(Climb):
        def climbed(self, loss: object, logits: Tensor) -> Tensor:
            return 3 * logits[:, 1]

    images = torch.full((2, 1), 0.5)
    slopes = []

    def step(rows: Up, look: Look) -> Tensor:
        slopes.append((look.loss.tolist(), look.gradient[:, 0].tolist()))
        return rows.x

    rows = Up(images, Untargeted(torch.zeros(2, dtype=torch.int64)), LinfBall(images, 1.0, (0.0, 1.0)), 0.1)
    iterate(Classifier(Threshold(), {}), rows, step, steps=1, loss="ce")
    assert slopes == [(pytest.approx([-0.45, -0.45]), [3.0, 3.0])]


def test_a_step_is_taken_from_rows_that_ask_for_a_gradient() -> None:
    images = torch.full((2, 3), 0.5)
    ball, goal = LinfBall(images, 0.2, (0.0, 1.0)), Untargeted(torch.zeros(2).long())
    rows = Climb(images.clone().requires_grad_(), goal, ball, 0.1)
    assert rows.stepped(torch.ones(2, 3)).equal(torch.full((2, 3), 0.6))
