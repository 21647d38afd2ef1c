"""The attacks on decisions against closed forms on linear models, and what they share."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import advkit
from advkit._engine.decisions import bisected
from advkit._engine.oracle import Oracle
from advkit.errors import InputError
from contracts.scenes import Counting, draw

NAMES = ["HopSkipJump", "Boundary", "RayS", "SurFree"]
FEATURES = 24
WEIGHTS = torch.randn(FEATURES, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def linear(x: Tensor) -> Tensor:
    """Two classes on either side of a plane through mid-grey."""
    score = (x.flatten(1).to(WEIGHTS) - 0.5) @ WEIGHTS
    return torch.stack([score, -score], 1)


def make(name: str, model: Any, **settings: Any) -> Any:
    return getattr(advkit, name)(model, generator=torch.Generator().manual_seed(0), **settings)


@pytest.mark.parametrize(
    ("name", "norm", "queries", "within"),
    [
        ("HopSkipJump", "l2", 700, 1.15),
        ("HopSkipJump", "linf", 700, 1.3),
        ("Boundary", "l2", 500, 1.2),
        ("RayS", "linf", 300, 1.05),
        ("SurFree", "l2", 300, 1.4),
    ],
)
def test_the_distance_is_that_of_the_plane(name: str, norm: str, queries: int, within: float) -> None:
    images = draw(4, 2, 3, 4, low=0.3, high=0.7)
    settings = {"norm": norm} if name == "HopSkipJump" else {"frequencies": 1.0} if name == "SurFree" else {}
    model = Counting(linear)
    result = make(name, model, max_queries=queries, **settings).run(images, linear(images).argmax(1))
    assert result.success.all()
    assert (result.queries <= queries).all()
    assert sum(model.rows) == int(result.queries.sum()) + 4
    dual = WEIGHTS.norm() if norm == "l2" else WEIGHTS.abs().sum()
    ratio = result.distance(norm) / (linear(images)[:, 0].abs() / dual)
    assert ratio.min() > 1 - 1e-5
    assert ratio.max() < within


def test_the_normal_is_as_good_as_so_many_decisions_make_it() -> None:
    """Its cosine to the weights is that of the mean of B random directions, each with the right sign."""
    images, probes = torch.full((4, FEATURES), 0.5), 200
    ask = Oracle(linear, images, advkit.Untargeted(torch.zeros(4, dtype=torch.int64)), access="decisions")
    attack, rows = make("HopSkipJump", linear), torch.arange(4)
    delta, counts, nothing = torch.full((4,), 0.1), torch.tensor([probes, probes, 9, probes]), torch.zeros(4, FEATURES)
    normal = attack._normal(ask, rows, images, delta, counts, nothing)
    assert ask.queries.tolist() == [probes, probes, 9, probes]
    signal = 2 * probes / math.pi
    expected = math.sqrt(signal / (FEATURES + signal))
    cosine = torch.nn.functional.cosine_similarity(normal.double(), -WEIGHTS[None])
    assert (cosine[[0, 1, 3]] - expected).abs().max() < 0.05
    assert 0 < cosine[2] < cosine[0]

    fresh = attack._normal(ask, rows, images, delta, counts, normal)
    torch.testing.assert_close((fresh * normal).sum(1), torch.zeros(4), atol=1e-5, rtol=0)
    turned = attack._turned(ask, rows, images, delta, normal, fresh)
    cosine = torch.nn.functional.cosine_similarity(turned.double(), -WEIGHTS[None])
    assert (1 - cosine[[0, 1, 3]] ** 2 < 2 * (1 - expected**2) ** 2).all()
    assert ask.queries.tolist() == [2 * probes + 6, 2 * probes + 6, 24, 2 * probes + 6]


@pytest.mark.parametrize(
    ("name", "settings"), [("HopSkipJump", {"norm": "l2"}), ("HopSkipJump", {"norm": "linf"}), ("Boundary", {})]
)
def test_what_steps_remember_makes_up_for_many_features(name: str, settings: dict[str, str]) -> None:
    """With 6.6 decisions for each of them, as 5,000 are for 768."""
    features, queries = 256, 1700
    weights = torch.randn(features, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        score = (x.to(weights) - 0.5) @ weights
        return torch.stack([score, -score], 1)

    images, norm = draw(8, features, low=0.3, high=0.7), settings.get("norm", "l2")
    scores = model(images)
    true = scores[:, 0].abs() / (weights.norm() if norm == "l2" else weights.abs().sum())
    attack = make(name, model, max_queries=queries, **settings)
    papers = make(name, model, max_queries=queries, memory=False, **settings)
    found, without = (each.run(images, scores.argmax(1)).distance(norm) / true for each in (attack, papers))
    assert found.min() > 1 - 1e-5
    assert found.mean() < 1.1 < without.mean()


def test_neighbours_outlast_rounding() -> None:
    """Of images of 224 x 224 close to the boundary, in float32."""
    noted = []

    class Spied(advkit.HopSkipJump):
        def _normal(self, ask: Oracle, rows: Tensor, x: Tensor, delta: Tensor, probes: Tensor, known: Tensor) -> Tensor:
            noted.append((x, float(delta)))
            return super()._normal(ask, rows, x, delta, probes, known)

    def brighter(x: Tensor) -> Tensor:
        return torch.stack([x.new_full((len(x),), 0.502), x.double().flatten(1).mean(1)], 1)

    grey = torch.full((1, 3, 224, 224), 0.5)
    attack = Spied(brighter, starting_points=grey + 0.01, steps=2, initial_gradient_eval_steps=2, max_queries=80)
    assert attack.run(grey, torch.tensor([0])).success.all()
    x, delta = noted[1]
    noise = draw(1, 3, 224, 224) - 0.5
    moved = (x + delta * noise / noise.norm()) - x
    assert abs(float(moved.norm()) / delta - 1) < 1e-3
    assert delta < (x - grey).norm() / 50


def test_bisection_stops_for_each_row_by_itself() -> None:
    thresholds = torch.tensor([0.1, 0.7, 0.3])
    images = torch.zeros(3, 1)

    def model(x: Tensor) -> Tensor:
        return torch.cat([thresholds[0] - x, x - thresholds[0]], 1)

    goal = advkit.Untargeted(torch.zeros(3, dtype=torch.int64))
    ask = Oracle(model, images, goal, 20, access="decisions")
    scale = thresholds[0] / thresholds  # so that each row has its own
    tolerance = torch.tensor([2**-4, 2**-9, 2**-30])
    found = bisected(
        ask,
        torch.arange(3),
        lambda places, values: (values * scale[places])[:, None],
        torch.zeros(3),
        torch.ones(3),
        tolerance,
    )
    assert ask.queries.tolist() == [4, 9, 20]
    assert (found >= thresholds).all()
    assert (found - thresholds <= tolerance.clamp_min(2**-20)).all()


def test_what_fools_by_rounding_alone_does_not_count() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([torch.ones_like(x), 1 + x], 1)

    ask = Oracle(model, torch.zeros(1, 1), advkit.Untargeted(torch.zeros(1, dtype=torch.int64)), access="decisions")
    tried, rows = torch.tensor([[0.0], [2e-7], [1e-3]]), torch.zeros(3, dtype=torch.int64)
    assert ask(tried, rows).isinf().tolist() == [False, True, True]
    assert ask.fools(tried, rows).tolist() == [False, False, True]
    assert ask.queries.tolist() == [6]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("limit", [1, 2, 3, 17])
def test_a_few_queries(name: str, limit: int) -> None:
    """The second image is wrong already, and the model is never asked about it again."""
    images = draw(3, 1, 4, 6, low=0.3, high=0.7)
    labels = linear(images).argmax(1)
    labels[1] = 1 - labels[1]
    model = Counting(linear)
    result = make(name, model, max_queries=limit).run(images, labels)
    assert sum(model.rows) == int(result.queries.sum()) + 3
    assert result.queries[1] == 1
    assert (result.queries <= limit).all()
    assert result.images[1].equal(images[1])
    assert result.images[~result.success].equal(images[~result.success])
    if limit == 1:
        assert result.images.equal(images)


def hidden(x: Tensor) -> Tensor:
    """Class 1 near white, class 2 near black, and class 0 for everything else, such as noise."""
    mean = x.flatten(1).mean(1)
    return torch.stack([torch.full_like(mean, 0.8), mean, 1 - mean], 1)


@pytest.mark.parametrize("name", ["HopSkipJump", "Boundary", "SurFree"])
def test_where_it_begins(name: str) -> None:
    grey = torch.full((2, 1, 4, 4), 0.5)
    labels = torch.zeros(2, dtype=torch.int64)
    lost = make(name, hidden, max_queries=40, init_size=5).run(grey, labels)
    assert not lost.success.any()
    assert lost.images.equal(grey)
    assert lost.queries.tolist() == [1 + 5 + 1] * 2  # five times noise, and the other image

    points = torch.stack([torch.full((1, 4, 4), 1 + 2e-7), torch.full((1, 4, 4), 0.6)])  # the second fools nobody
    given = make(name, hidden, max_queries=40, init_size=5, starting_points=points).run(grey, labels)
    assert given.success.tolist() == [True, False]
    assert given.distance("l2")[0] <= 0.31 * 4  # the boundary is at 0.8

    images, targets = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)]), torch.tensor([2, 1])
    others = make(name, hidden, max_queries=60).run(images, torch.tensor([1, 2]), targets=targets)
    assert others.success.all()
    assert (others.distance("l2") < 3.9).all()  # no longer the other image itself

    with pytest.raises(InputError, match=r"starting_points has shape \(3, 1, 4, 4\), but a batch of images of shape"):
        make(name, hidden, starting_points=torch.ones(3, 1, 4, 4))(grey, labels)
    with pytest.raises(InputError, match="starting_points must lie within bounds"):
        make(name, hidden, starting_points=points + 1)(grey, labels)


@pytest.mark.parametrize("name", ["RayS", "Square", "PixelSwap"])
def test_a_batch_size_holds_for_every_call(name: str) -> None:
    model = Counting(linear)
    images = draw(7, 1, 4, 6, low=0.3, high=0.7)
    settings = {"max_queries": 30} | ({"eps": 0.05} if name == "Square" else {})
    labels = linear(images).argmax(1)
    result = make(name, model, batch_size=3, **settings).run(images, labels)
    assert max(model.rows) == 3
    if name == "RayS":
        assert result.images.equal(make(name, linear, **settings)(images, labels))
        assert sum(model.rows) == int(result.queries.sum()) + 7


def test_rays_end_when_nothing_is_gained_or_it_is_enough() -> None:
    """More queries than that would all have been asked before, and find nothing."""
    images = draw(4, 2, 3, 4, low=0.3, high=0.7)
    labels = linear(images).argmax(1)
    asked: list[Tensor] = []

    def noted(x: Tensor) -> Tensor:
        asked.append(x.clone())
        return linear(x)

    ended = make("RayS", noted, max_queries=2000).run(images, labels)
    assert ended.success.all()
    assert (ended.queries < 500).all()
    near = [one for x in asked[:-1] for one in x.double() if linear(one[None]).abs().min() < 0.1]
    assert len({one.numpy().tobytes() for one in near}) == len(near) > 600

    eps = ended.distance("linf") * torch.tensor([3.0, 1.01, 1.001, 0.5])
    enough = make("RayS", linear, max_queries=2000, eps=eps).run(images, labels)
    assert enough.success.tolist() == [True, True, True, False]
    assert (enough.distance("linf") <= eps).all()
    assert (enough.queries < ended.queries).tolist() == [True, True, True, False]
    assert enough.queries[0] < enough.queries[1] / 2
    assert enough.images[3].equal(images[3])
