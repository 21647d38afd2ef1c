import inspect
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import advkit
from advkit import norms
from advkit._engine.ball import Ball
from advkit.attacks.queries import square
from contracts.scenes import Counting, draw, trained_net

EPS = {"linf": 0.1, "l2": 2.0, "l1": 12.0}


def never(x: Tensor) -> Tensor:
    """A model of two classes that says the first of everything, less surely of darker images."""
    return torch.stack([x.flatten(1).mean(1) + 1, torch.zeros(len(x))], 1)


class Watched(Counting):
    """Keeps what it is asked about."""

    def __init__(self, model=never) -> None:  # type: ignore[no-untyped-def]
        super().__init__(model)
        self.asked: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.asked.append(images.clone())
        return super().forward(images)


def labels_of(images: Tensor) -> Tensor:
    return torch.zeros(len(images), dtype=torch.int64)


def test_the_order_of_arguments() -> None:
    assert list(inspect.signature(advkit.Square).parameters)[:5] == ["model", "norm", "eps", "max_queries", "p_init"]
    attack = advkit.Square(never)
    assert (attack.norm, attack.eps, attack.max_queries, attack.p_init) == ("linf", 8 / 255, 5000, 0.8)


@pytest.mark.parametrize(
    ("share", "size", "least", "expected"),
    [
        (0.8, (1, 200), 1, (1, 160)),
        (0.8, (200, 1), 1, (160, 1)),
        (0.01, (1, 200), 3, (1, 3)),
        (0.5, (1, 200), 3, (1, 101)),
        (0.8, (1, 2), 3, (1, 2)),
        (0.8, (1, 1), 1, (1, 1)),
        (0.8, (1, 1), 3, (1, 1)),
        (0.8, (5, 40), 1, (5, 5)),
        (0.001, (8, 8), 1, (1, 1)),
        (0.001, (8, 8), 3, (3, 3)),
    ],
)
def test_sides(share: float, size: tuple[int, int], least: int, expected: tuple[int, int]) -> None:
    assert square._sides(share, size, least) == expected


@pytest.mark.parametrize(
    "shape", [(3, 12, 12), (1, 9, 14), (1, 1, 30), (2, 30, 1), (12, 9), (40,), (1,), (1, 2, 2), (2, 3, 6, 6)]
)
@pytest.mark.parametrize("norm", EPS)
def test_all_that_is_asked_is_in_the_ball_and_the_box(norm: str, shape: tuple[int, ...]) -> None:
    images = draw(5, *shape).round(decimals=1)
    images[0], images[1] = 0, 1
    model = Watched()
    eps = EPS[norm] * torch.tensor([1.0, 0.5, 1.0, 1e-3, 1.0])
    result = advkit.Square(model, norm, eps, 30, generator=torch.Generator().manual_seed(0)).run(
        images, labels_of(images)
    )
    assert model.rows == [5] * 31  # and the judge
    assert result.queries.tolist() == [30] * 5
    assert result.images.equal(images)
    assert not model.asked[1].equal(model.asked[2])
    for asked in model.asked[1:30]:
        size = norms.get(norm).distance(asked.double(), images.double())
        assert (size <= eps + 1e-6).all()
        assert (size[2:] > 0).all() or images[0].numel() < 20
        assert asked.min() >= 0
        assert asked.max() <= 1


def test_squares_in_linf() -> None:
    """One square of each image is at the edge of the ball, with a sign for each channel; no two rows' are the same."""
    images = draw(6, 3, 16, 16, low=0.05, high=0.95)
    model = Watched(lambda x: torch.ones(len(x), 2).cumsum(1).flip(1))  # nothing helps: the best is the start
    advkit.Square(model, "linf", 0.1, 42, p_init=0.2, generator=torch.Generator().manual_seed(0))(
        images, labels_of(images)
    )
    low, high = (images - 0.1).clamp(min=0), (images + 0.1).clamp(max=1)
    start = model.asked[1]
    assert (start == start[:, :, :1]).logical_or((start - images).abs() > 0.0499).all()
    assert ((start == high) == (start == high)[:, :, :1]).all()
    seen = []
    for turn, asked in enumerate(model.asked[2:]):
        side = 7 if turn <= 10 else 5
        for image, before, after, least, most in zip(images, start, asked, low, high, strict=True):
            changed = (after != before).any(0)
            rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
            assert changed.any()
            assert rows.max() - rows.min() < side
            assert columns.max() - columns.min() < side
            window = changed.nonzero()
            signs = (after - image)[:, window[:, 0], window[:, 1]].sign()
            up = after == most
            assert (up | (after == least)).all()
            seen.append((turn, *window[0].tolist(), *signs[:, 0].tolist()))
    assert len(set(seen)) > 0.8 * len(seen)
    by_turn = [{entry[1:] for entry in seen if entry[0] == turn} for turn in range(40)]
    assert all(len(of_turn) > 1 for of_turn in by_turn)


def test_no_query_is_spent_on_the_best_itself() -> None:
    """In grey images every other square would change nothing when its side is 1."""
    images = draw(4, 1, 8, 8, low=0.2, high=0.8)
    model = Watched()
    advkit.Square(model, "linf", 0.1, 400, p_init=0.02, generator=torch.Generator().manual_seed(0))(
        images, labels_of(images)
    )
    best, mean = model.asked[1], model.asked[1].flatten(1).mean(1)
    for asked in model.asked[2:]:
        assert (asked != best).flatten(1).any(1).all()
        better = asked.flatten(1).mean(1) < mean
        best = torch.where(better[:, None, None, None], asked, best)
        mean = best.flatten(1).mean(1)
    assert best.equal((images - 0.1).clamp(min=0))  # which the search finds, border and all


def naive_pyramids(side: int, power: int) -> Tensor:
    """The pattern of one window from the paper's formula, square upon square."""
    halves = []
    for height, sign in ((side // 2, 1.0), (side - side // 2, -1.0)):
        half = torch.zeros(height, side, dtype=torch.float64)
        top, middle = height // 2, side // 2
        for ring in range(max(top, middle) + 1):
            for row in range(height):
                for column in range(side):
                    if abs(row - top) <= ring and abs(column - middle) <= ring:
                        half[row, column] += 1 / (ring + 1) ** power
        size = half.norm() if power == 2 else half.sum()
        halves.append(sign * half / size.where(size > 0, 1))
    pattern = torch.cat(halves)
    return pattern / (pattern.norm() if power == 2 else pattern.abs().sum())


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 4)])
@pytest.mark.parametrize("side", [1, 2, 3, 4, 7, 10])
def test_pyramids(norm: str, power: int, side: int) -> None:
    rule = square._RULES[norms.get(norm)](Ball.of(norm, torch.zeros(1, 1, 16, 16).double(), 1.0, (0, 1)), None)
    expected = naive_pyramids(side, power)
    upright, turned = rule._pattern((side, side))  # type: ignore[attr-defined]
    torch.testing.assert_close(upright, expected)
    torch.testing.assert_close(turned, expected.T)


@pytest.mark.parametrize("norm", EPS)
def test_each_row_is_changed_by_its_own_draws(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of rows is what each of them is alone with the same draws."""
    n, channels = 5, 2
    images = draw(n, channels, 9, 11).double()
    eps = EPS[norm] * torch.tensor([1.0, 0.5, 0.25, 1.0, 0.1]).double()
    numbers = {}

    def drawn(like: Tensor, generator: object) -> Tensor:
        assert generator is None
        shape = tuple(like.shape)
        rows_at = 1 if shape[0] == 2 and shape[1] in (1, n) else 0
        full = (*shape[:rows_at], n, *shape[rows_at + 1 :])
        key = (len(calls), full)
        calls.append(full)
        whole = numbers.setdefault(key, draw(*full, seed=len(calls)).double())
        return whole.narrow(rows_at, row, shape[rows_at])

    monkeypatch.setattr(square, "uniform_like", drawn)
    calls, row = [], 0
    rule = square._RULES[norms.get(norm)](Ball.of(norm, images, eps, (0.0, 1.0)), None)
    best = rule.start()
    changed = rule.changed(best, (5, 5))
    assert not changed.equal(best)
    for row in range(n):
        calls = []
        alone = rule.rows(torch.tensor([row]))
        torch.testing.assert_close(alone.start(), best[row : row + 1], rtol=0, atol=1e-12)
        torch.testing.assert_close(
            alone.changed(best[row : row + 1], (5, 5)), changed[row : row + 1], rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("norm", EPS)
def test_finished_images_leave(norm: str) -> None:
    model, images, labels = trained_net()
    counting = Counting(model)
    eps = 3 * EPS[norm]
    result = advkit.Square(counting, norm, eps, 600, generator=torch.Generator().manual_seed(0)).run(images, labels)
    assert result.success.sum() > 4
    assert sum(counting.rows) == int(result.queries.sum()) + len(images)
    assert all(after <= before for before, after in pairwise(counting.rows[:-1]))
    assert len(counting.rows) == int(result.queries.max()) + 1


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_queries(limit: int) -> None:
    model, images = Watched(), draw(3, 1, 6, 6)
    result = advkit.Square(model, max_queries=limit).run(images, labels_of(images))
    assert result.queries.tolist() == [limit] * 3
    assert model.rows == [3] * (limit + 1)


@pytest.mark.parametrize("norm", EPS)
def test_the_search_is_the_same_in_pixels_from_0_to_255(norm: str) -> None:
    """The start, too: in L1 the pattern that is brought into the ball would be next to nothing there."""
    images, labels = draw(6, 3, 5, 9).double(), torch.zeros(6, dtype=torch.int64)
    asked = []
    for scale in (1.0, 255.0):
        model = Watched(lambda x, scale=scale: never(x / scale))
        random = torch.Generator().manual_seed(0)
        attack = advkit.Square(model, norm, eps=EPS[norm] * scale, max_queries=6, bounds=(0.0, scale), generator=random)
        attack(images * scale, labels)
        asked.append(torch.cat(model.asked) / scale)
    torch.testing.assert_close(*asked, rtol=0, atol=1e-9)


def test_a_budget_of_nothing_costs_no_query() -> None:
    images = draw(4, 3, 8, 8)
    result = advkit.Square(never, eps=torch.tensor([0.0, 0.1, 0.0, 0.1]), max_queries=20).run(images, labels_of(images))
    assert result.queries.tolist() == [1, 20, 1, 20]
    assert advkit.Square(never, eps=0.0).run(images, labels_of(images)).queries.tolist() == [1] * 4


@pytest.mark.parametrize("norm", EPS)
def test_targets(norm: str) -> None:
    """The logit of the target has to pass all others, and the search climbs its margin."""
    model, images, labels = trained_net()
    targets = (labels + 1) % 4
    attack = advkit.Square(model, norm, 4 * EPS[norm], 1500, generator=torch.Generator().manual_seed(0))
    result = attack.run(images, labels, targets=targets)
    assert result.success.sum() >= 6
    assert result.predictions[result.success].equal(targets[result.success])


def test_a_tie_is_no_success_where_the_model_still_says_the_label() -> None:
    images = draw(2, 1, 5, 5)
    tied = lambda x: torch.zeros(len(x), 3)  # noqa: E731
    result = advkit.Square(tied, max_queries=9).run(images, torch.zeros(2, dtype=torch.int64))
    assert result.queries.tolist() == [9, 9]
    assert not result.success.any()
    result = advkit.Square(tied, max_queries=9).run(images, torch.ones(2, dtype=torch.int64))
    assert result.success.all()


def test_a_loss_of_ones_own_is_climbed() -> None:
    """The darkest image is where this loss is highest."""
    images = draw(2, 1, 6, 6, low=0.3, high=0.7)
    model = Watched()
    attack = advkit.Square(model, "linf", 0.1, 300, loss=lambda logits, classes: logits[:, 0], p_init=0.05)
    attack(images, labels_of(images))
    assert (model.asked[-1] > images).float().mean() > 0.9
