"""APGD and APGDT: step by step what the reference does, and what it has no answer to."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import losses
from advkit._engine import scatter
from advkit.attacks.budget import apgd, apgd_l1
from advkit.attacks.budget.apgd_l1 import phases
from contracts.scenes import IMAGE, Passes, Shifted, conv_net, draw, easy_images, linear_net, said_by, trained_net
from references.smooth import dyadic_images, smooth_net

RECORD = json.loads((Path(__file__).parents[2] / "references" / "apgd.json").read_text())
RUNS = {f"{run['norm']}-{run['loss']}": run for run in RECORD["runs"]}


class Recorder(nn.Module):
    """A model that keeps what it is asked about."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        logits: Tensor = self.model(x)
        return logits


def recorded(name: str) -> tuple[dict[str, Any], Tensor, Tensor, Tensor]:
    """A run of the reference's, the images, their labels, and the targets that it went for."""
    images = dyadic_images(4)[1:]
    ranked = smooth_net()(images).argsort(1, descending=True)
    return RUNS[name], images, ranked[:, 0], ranked[:, 2]


@pytest.mark.parametrize("row", range(3))
@pytest.mark.parametrize("name", RUNS)
def test_each_step_is_the_references(name: str, row: int, monkeypatch: pytest.MonkeyPatch) -> None:
    run, images, labels, targets = recorded(name)
    one = slice(row, row + 1)
    images, labels = images[one], labels[one]
    noise = torch.tensor(run["noise"], dtype=torch.float64).view(3, *images.shape[1:])[one]
    monkeypatch.setattr(scatter, "uniform_like", lambda like, generator: (noise + 1) / 2)
    for drawing in (scatter, apgd):
        monkeypatch.setattr(drawing, "normal_like", lambda like, generator: noise)
    lengths: list[float] = []
    for kind in (apgd._Halving, apgd_l1.Sparse):
        monkeypatch.setattr(kind, "advance", watched(kind.advance, lengths))  # type: ignore[attr-defined]

    model = Recorder(smooth_net())
    if run["loss"] == "targeted":  # the third class is the second that it goes for
        monkeypatch.setattr(advkit.Untargeted, "rivals", lambda goal, logits, count: targets[one, None])
        attack: advkit.Attack = advkit.APGDT(model, norm=run["norm"], eps=run["eps"])
    else:
        attack = advkit.APGD(model, norm=run["norm"], eps=run["eps"], loss=run["loss"])
    found = attack(images, labels)

    looks = model.seen[1:]
    assert len(looks) == len(run["losses"]) or bool(said_by(smooth_net(), found) != labels)
    climbed: dict[str, Callable[[Tensor], Tensor]] = {
        "ce": lambda z: losses.cross_entropy(z, labels),
        "dlr": lambda z: losses.dlr(z, labels),
        "targeted": lambda z: losses.targeted_dlr(z, labels, targets[one]),
    }
    seen = torch.stack([climbed[run["loss"]](smooth_net()(x))[0] for x in looks])
    expected = torch.tensor([each[row] for each in run["losses"]], dtype=torch.float64)
    torch.testing.assert_close(seen, expected[: len(seen)], rtol=0, atol=1e-5)
    length = None
    for step, here in enumerate(lengths):
        length = run["lengths"].get(str(step), length)
        assert here == pytest.approx(length[row], abs=1e-7), f"step {step}"
    for look, places in run["places"].items():
        if int(look) < len(looks):
            place = torch.tensor(places, dtype=torch.float64).view(3, *images.shape[1:])[one]
            torch.testing.assert_close(looks[int(look)], place, rtol=0, atol=1e-5)


def watched(advance: Callable[[Any, Any], Tensor], lengths: list[float]) -> Callable[[Any, Any], Tensor]:
    def watching(rows: Any, look: Any) -> Tensor:
        moved = advance(rows, look)
        lengths.append(rows.alpha.item())
        return moved

    return watching


def test_the_checkpoints_are_the_papers() -> None:
    """p_j + max(p_j - p_(j-1) - 0.03, 0.06) from 0 and 0.22 on: of 100 steps after 22, 41, 57, 70, 80, 87, 93, 99."""
    assert dict(apgd._windows(100)) == {22: 22, 41: 19, 57: 16, 70: 13, 80: 10, 87: 7, 93: 6, 99: 6}
    for steps in (1, 2, 3, 7, 20, 33, 1000):
        after, windows = zip(*apgd._windows(steps).items(), strict=True) if apgd._windows(steps) else ((), ())
        assert list(after) == [sum(windows[: at + 1]) for at in range(len(windows))]
        assert all(0 < one < steps for one in after)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (100, [(3, 30), (2, 30), (1, 40)]),
        (7, [(3, 3), (2, 3), (1, 1)]),
        (3, [(3, 1), (2, 1), (1, 1)]),
        (2, [(1, 2)]),
        (1, [(1, 1)]),
    ],
)
def test_the_balls_of_l1(steps: int, expected: list[tuple[int, int]]) -> None:
    assert phases(steps) == expected


def stubborn(images: Tensor) -> Tensor:
    """Logits of six classes that no small change fools, and that bend."""
    pixels = images.flatten(1)
    return torch.stack([100 + 0 * pixels[:, 0], *(torch.sin((1 + at) * pixels).sum(1) for at in range(5))], 1)


@pytest.mark.parametrize(("norm", "more"), [("linf", 0), ("l2", 0), ("l1", 2)])
def test_the_passes_of_a_run(norm: str, more: int) -> None:
    images, labels = draw(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    model = Passes(stubborn)
    advkit.APGD(model, norm=norm, eps=0.1, restarts=2, steps=50)(images, labels)
    assert model.forwards == [3] * (1 + 2 * (51 + more))
    assert model.backwards == [3] * 100
    model = Passes(stubborn)
    advkit.APGDT(model, norm=norm, eps=0.1, target_classes=3, steps=10)(images, labels)
    assert model.forwards == [3] * (1 + 3 * (11 + more))
    assert model.backwards == [3] * 30


def test_what_is_wrong_already_is_only_looked_at_and_stays() -> None:
    model = Passes(linear_net())
    images, labels = easy_images(model.model)
    for attack in (advkit.APGD(model), advkit.APGDT(model, norm="l1")):
        assert attack(images, (labels + 1) % 3).equal(images)
    assert (model.forwards, model.backwards) == ([4, 4], [])


def test_only_survivors_meet_the_next_run() -> None:
    """One image that is fooled at once, among those that never are."""
    images, labels = draw(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    images[1] = 0.5

    def model(x: Tensor) -> Tensor:
        weak = ((x - 0.5).flatten(1).abs().amax(1) < 0.2) & ((x - 0.5).flatten(1).abs().amax(1) > 1e-6)
        return stubborn(x) - weak[:, None] * torch.tensor([200.0, 0, 0, 0, 0, 0])

    for attack in (advkit.APGD, advkit.APGDT):
        passes = Passes(model)
        result = attack(passes, eps=0.1, steps=5, restarts=2).run(images, labels)
        assert result.success.tolist() == [False, True, False]
        assert passes.forwards[:3] == [3, 3, 2]
        assert set(passes.forwards[2:-1]) == {2}


def test_an_unfooled_image_stands_where_its_loss_was_highest() -> None:
    """Over all runs."""
    images, labels = draw(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    for norm in ("linf", "l2"):
        recorder = Recorder(Wrapped(stubborn))
        found = advkit.APGD(recorder, norm=norm, eps=0.2, steps=9, restarts=3, loss="dlr")(images, labels)
        values = torch.stack([losses.dlr(stubborn(x), labels) for x in recorder.seen[1:]])
        torch.testing.assert_close(losses.dlr(stubborn(found), labels), values.amax(0))


class Wrapped(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def test_targets_are_the_clean_ranks() -> None:
    """Every run goes for one of them: the second class of the image itself, then the third, and so on."""
    images, labels = draw(4, 1, 4, 4), torch.zeros(4, dtype=torch.int64)
    gone_for: list[Tensor] = []

    def spy(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        gone_for.append(targets)
        return losses.margin(logits, targets)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(losses, "targeted_dlr", spy)
        advkit.APGDT(stubborn, steps=1)(images, labels)
    ranked = stubborn(images).argsort(1, descending=True)
    expected = [ranked[:, at] for at in range(1, 6) for _ in range(2)]  # two looks a run, and five others in all
    assert torch.stack(gone_for).equal(torch.stack(expected))


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_few_classes(classes: int, norm: str) -> None:
    """A linear model, on which the exact distance is known: beyond it each image is fooled, below it none is."""
    weights = torch.linalg.qr(draw(16, 16, seed=2).double() - 0.5).Q[:classes]
    images = 0.4 + 0.2 * draw(6, 16, seed=3).double()

    def model(x: Tensor) -> Tensor:
        return 5 * (x - 0.5) @ weights.T

    labels = model(images).argmax(1)
    dual = {"linf": 1, "l2": 2, "l1": torch.inf}[norm]
    rivals = torch.stack([weights[labels] - weights[c] for c in range(classes)], 1)
    gaps = (rivals @ (images - 0.5)[:, :, None]).squeeze(2) / rivals.norm(dual, dim=2)
    exact = gaps.scatter(1, labels[:, None], torch.inf).amin(1)
    assert (exact < 0.3).all(), "the box is in nobody's way"
    further = 2 if norm == "l1" else 1.02  # its step is never along fewer than two features, once there are two
    for attack in (
        advkit.APGDT(model, norm=norm, steps=60),
        advkit.APGD(model, norm=norm, steps=60, loss="ce"),
        advkit.APGD(model, norm=norm, steps=60, loss="dlr"),
    ):
        assert not attack._with(eps=0.98 * exact).run(images, labels).success.any()
        if classes == 2 or isinstance(attack, advkit.APGDT):  # the others climb something else than the distance
            beyond = attack._with(eps=further * exact).run(images, labels)
            assert beyond.success.all()
            assert (beyond.distance(norm) <= further * exact * (1 + 1e-9)).all()


@pytest.mark.parametrize("classes", [3, 10])
def test_every_target_is_reached(classes: int) -> None:
    """Also one that comes third or last: minus its DLR would be flat."""
    model = linear_net(classes) if classes == 3 else ten_classes
    images = draw(4, *IMAGE)
    labels = model(images).argmax(1)
    ranked = model(images).argsort(1, descending=True)
    for rank in range(1, classes):
        for attack in (advkit.APGD(model, eps=0.5, loss="dlr", steps=40), advkit.APGDT(model, eps=0.5, steps=40)):
            result = attack.run(images, labels, targets=ranked[:, rank])
            assert result.predictions.equal(ranked[:, rank]), f"{attack}, rank {rank}"


def ten_classes(images: Tensor) -> Tensor:
    weights = draw(10, images[0].numel(), seed=5).to(images) - 0.5
    return (images - 0.5).flatten(1) @ weights.T


def test_a_class_that_is_masked_is_no_target() -> None:
    mask = torch.tensor([0.0, 0, -torch.inf, -torch.inf, 0, 0])
    images, labels = draw(3, 1, 4, 4), torch.zeros(3, dtype=torch.int64)
    model = Passes(lambda x: stubborn(x) + mask)
    advkit.APGDT(model, steps=4)(images, labels)
    assert len(model.forwards) == 1 + 3 * 5, "three others are in the race"
    impossible = advkit.APGDT(model, steps=4).run(images, labels, targets=torch.tensor([2, 2, 3]))
    assert impossible.images.equal(images)
    assert not impossible.success.any()
    for attack in (advkit.APGD(model, steps=4, loss="dlr"), advkit.APGD(model, steps=4, norm="l1")):
        assert not attack.run(images, labels, targets=torch.tensor([1, 2, 3])).success.any()


def test_the_step_in_l2_is_each_images_own() -> None:
    """Images whose gradients differ a thousandfold go as far as they would alone."""
    images, labels = dyadic_images(4), smooth_net()(dyadic_images(4)).argmax(1)
    scales = torch.tensor([1.0, 1e-3, 1e3, 1.0], dtype=torch.float64)

    def scaled(x: Tensor, at: Tensor) -> Tensor:
        return smooth_net()(x) * scales[at, None]

    def seen(rows: list[int]) -> list[Tensor]:
        at = torch.tensor(rows)
        recorder = Recorder(Wrapped(lambda x: scaled(x, at)))
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(scatter, "normal_like", lambda like, generator: dyadic_images(4)[at] - 0.5)
            advkit.APGD(recorder, norm="l2", eps=0.02, steps=12)(images[at], labels[at])
        return recorder.seen

    together = seen([0, 1, 2, 3])
    assert [len(x) for x in together] == [4] * 14
    for row in range(4):
        for both, alone in zip(together, seen([row]), strict=True):
            torch.testing.assert_close(both[row : row + 1], alone, rtol=0, atol=1e-12)


def test_rows_do_not_share_draws() -> None:
    images = draw(1, *IMAGE, low=0.3, high=0.7).expand(5, *IMAGE)
    labels = said_by(conv_net(), images)
    for norm in ("linf", "l2", "l1"):
        recorder = Recorder(conv_net())
        advkit.APGD(recorder, norm=norm, eps=0.01, steps=1)(images, labels)
        starts = (recorder.seen[1] - images).flatten(1)
        assert (torch.pdist(starts) > 1e-3).all()
        size = advkit.norms.get(norm).size(starts)
        torch.testing.assert_close(size, torch.full((5,), 0.01), rtol=1e-3, atol=0)


class Jumping(nn.Module):
    """Logits whose slope is drawn anew for each call, about a mean."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.spread = spread
        self.generator = torch.Generator().manual_seed(0)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        slopes = draw(16, seed=7) - 0.5 + self.spread * torch.randn(16, generator=self.generator)
        lead = (x - 0.5).flatten(1) @ slopes
        return torch.stack([1 - lead, lead], 1)


def test_a_gradient_is_the_mean_over_draws() -> None:
    images, labels = torch.full((2, 1, 4, 4), 0.5), torch.zeros(2, dtype=torch.int64)
    one, many = Jumping(2.0), Jumping(2.0)
    true = (draw(16, seed=7) - 0.5).sign()

    def agreement(model: Jumping, draws: int) -> float:
        found = advkit.APGD(model, eps=0.01, steps=10, eot_samples=draws)(images, labels)
        return float(((found - images).flatten(1).sign() * true).mean())

    assert agreement(many, 100) > agreement(one, 1) + 0.2
    assert many.calls == 100 * 12
    for attack in (advkit.APGD, advkit.APGDT):
        model = trained_net()[0]
        options: dict[str, Any] = {"eps": 0.02, "steps": 5, "norm": "l2"}
        scene = trained_net()[1:]
        expected = attack(model, generator=torch.Generator().manual_seed(1), **options)(*scene)
        found = attack(model, generator=torch.Generator().manual_seed(1), eot_samples=3, **options)(*scene)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_lucky_draw_is_no_success() -> None:
    """A model that says the wrong class in a tenth of its answers: with enough draws nobody leaves."""
    generator = torch.Generator().manual_seed(0)

    def model(x: Tensor) -> Tensor:
        lucky = torch.rand(len(x), generator=generator) < 0.1
        lead = 1 + 0.01 * x.flatten(1).sum(1) - 4 * lucky
        return torch.stack([lead, -lead], 1)

    images, labels = draw(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
    passes = Passes(model)
    advkit.APGD(passes, eps=0.01, steps=10, eot_samples=40)(images, labels)
    assert passes.forwards == [8] * (40 * 12)


def test_saturated_logits() -> None:
    """Where cross-entropy is zero in float32, so that its gradient says nothing, the DLR still climbs."""
    model, images, labels = trained_net()
    sure = Shifted(model, lambda logits: 1e4 * logits)
    options: dict[str, Any] = {"eps": 0.15, "steps": 20, "norm": "l2"}
    for make in (lambda asked: advkit.APGD(asked, loss="dlr", **options), lambda asked: advkit.APGDT(asked, **options)):
        distances = []
        for asked in (model, sure):
            torch.manual_seed(0)
            distances.append(losses.dlr(model(make(asked)(images, labels)), labels))
        torch.testing.assert_close(distances[0], distances[1], rtol=0, atol=1e-3)
        assert (distances[1] > losses.dlr(model(images), labels) + 1e-3).all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_other_bounds_are_another_unit(norm: str) -> None:
    images, labels = dyadic_images(3), smooth_net()(dyadic_images(3)).argmax(1)
    model = smooth_net()
    options: dict[str, Any] = {"norm": norm, "steps": 20}
    seeded = torch.Generator().manual_seed(0)
    found = advkit.APGD(model, eps=0.05, generator=seeded, **options)(images, labels)
    seeded = torch.Generator().manual_seed(0)
    wide = advkit.APGD(lambda x: model(x / 256), eps=12.8, bounds=(0.0, 256.0), generator=seeded, **options)
    torch.testing.assert_close(wide(256 * images, labels) / 256, found, rtol=0, atol=1e-6)
