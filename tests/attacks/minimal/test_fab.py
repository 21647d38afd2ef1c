"""FAB against the authors' code image by image, against closed forms, and by its passes."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import CW, FAB, norms
from advkit.attacks.minimal.fab import _Closest, _Walk
from contracts.scenes import Passes, conv_net, draw, flat_net, linear_net, said_by, trained_net
from references.network import of_fab

NORMS = pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
MODES = pytest.mark.parametrize("target_classes", [9, None], ids=["targeted", "untargeted"])
RECORD = json.loads((Path(__file__).parents[2] / "references" / "fab.json").read_text())
CLASSES = {"targeted": 9, "untargeted": None}


@pytest.mark.parametrize("name", RECORD["distances"])
def test_it_finds_what_the_authors_code_finds(name: str) -> None:
    norm, mode, steps = name.split(", ")
    model, images, labels = of_fab()
    result = FAB(model, norm, steps=int(steps), target_classes=CLASSES[mode]).run(images, labels)
    expected = torch.tensor([math.inf if far is None else far for far in RECORD["distances"][name]]).double()
    found = result.distance(norm).where(result.success, torch.inf)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert (result.images == images).flatten(1).all(1).equal(~result.success)
    assert len(found.unique()) > 2


@pytest.mark.parametrize("name", RECORD["fooled"])
def test_the_verdict_of_the_authors_code_within_a_budget(name: str) -> None:
    norm, mode, budget = name.split(", ")
    model, images, labels = of_fab()
    eps = float(budget)
    result = FAB(model, norm, eps=eps, target_classes=CLASSES[mode]).run(images, labels)
    assert result.success.tolist() == RECORD["fooled"][name]
    assert 0 < int(result.success.sum()) < len(images)
    assert (result.distance(norm) < eps).all()
    assert result.images[~result.success].equal(images[~result.success])


def two_classes(weight: Tensor, bias: float) -> nn.Linear:
    model = nn.Linear(len(weight), 2, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros_like(weight), weight]))
        model.bias.copy_(torch.tensor([0.0, bias]))
    return model


@MODES
@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", torch.inf)])
def test_the_boundary_of_a_linear_model(norm: str, dual: float, target_classes: int | None) -> None:
    """Two classes: the least distance is the gap over the dual norm, and FAB ends just beyond it."""
    weight = draw(8, seed=1, low=-1).double()
    model = two_classes(weight, -0.1 - 0.5 * float(weight.sum()))
    images = torch.full((3, 8), 0.5).double() + draw(3, 8, seed=2, low=-0.01, high=0.01)
    labels = said_by(model, images)
    assert not labels.any()
    result = FAB(model, norm, target_classes=target_classes).run(images, labels)
    least = model(images)[:, 1].detach().abs() / weight.norm(dual)
    assert result.success.all()
    assert (result.distance(norm) > least).all()
    assert (result.distance(norm) < 1.06 * least).all()


@NORMS
def test_pixels_at_a_bound_are_no_obstacle(norm: str) -> None:
    """All of them black, half of them of no use: the others go as far as it takes."""
    weight = torch.tensor([1.0, -2.0, 1.0, -2.0]).double()
    model = two_classes(weight, -0.5)
    images = torch.zeros(1, 4).double()
    result = FAB(model, norm).run(images, torch.tensor([0]))
    least = {"linf": 0.25, "l2": 0.5 / 2**0.5, "l1": 0.5}[norm]
    assert result.success.all()
    assert least < float(result.distance(norm)) < 1.06 * least
    assert not result.images[0, 1::2].any()


@NORMS
@MODES
def test_passes(norm: str, target_classes: int | None) -> None:
    """Two forwards and a backward a step, or a backward for each class but the label; the authors take as many."""
    model = Passes(conv_net(classes=5))
    images = draw(4, 3, 8, 8)
    labels = said_by(model.model, images)
    FAB(model, norm, steps=7, target_classes=target_classes)(images, labels)
    walks, gaps = (1, 4) if target_classes is None else (4, 1)
    assert model.forwards == [4] * (1 + walks * 7 * 2)
    assert model.backwards == [4] * (walks * 7 * gaps)


def test_a_backward_for_each_class_is_not_what_many_classes_cost() -> None:
    model = Passes(flat_net(192, classes=100))
    images = draw(2, 3, 8, 8)
    labels = said_by(model.model, images)
    assert FAB(model, steps=3, target_classes=2).run(images, labels).success.any()
    assert model.backwards == [2] * 6
    model.backwards.clear()
    FAB(model, steps=1, target_classes=None)(images, labels)
    assert model.backwards == [2] * 99


def test_the_images_that_are_wrong_already_cost_one_forward() -> None:
    model = Passes(linear_net(5))
    images = draw(3, 3, 8, 8)
    labels = (said_by(model.model, images) + 1) % 5
    assert FAB(model)(images, labels).equal(images)
    assert (model.forwards, model.backwards) == ([3], [])


def test_with_eps_rows_leave_with_their_first_success() -> None:
    model, images, labels = of_fab()
    counted = Passes(model)
    assert FAB(counted, eps=0.03)(images, labels).shape == images.shape
    whole = 12 * (1 + 2 * 4 * 100)
    assert sum(counted.forwards) < 0.4 * whole
    assert counted.forwards[-1] == 3  # those that no target gets
    counted = Passes(model)
    FAB(counted, eps=1.0)(images, labels)
    assert sum(counted.forwards) < 0.02 * whole


def test_eps_for_each_image() -> None:
    model, images, labels = of_fab()
    far = FAB(model, steps=10).run(images, labels).distance("linf")
    eps = far * torch.where(torch.arange(12) % 2 == 0, 1.001, 0.9)
    result = FAB(model, eps=eps, steps=10).run(images, labels)
    assert result.success.tolist() == [True, False] * 6
    assert (result.distance("linf") < eps).all()


def test_what_lies_on_eps_does_not_count() -> None:
    model, images, labels = of_fab()
    far = FAB(model, steps=5).run(images, labels).distance("linf")
    assert (far > 0).any()
    assert not FAB(model, steps=5, eps=far).run(images, labels).success.any()
    assert not FAB(model, steps=5, eps=0).run(images, labels).success.any()


@NORMS
def test_it_is_targeted_at_the_class_that_is_given(norm: str) -> None:
    """Where several classes lie in between as well, and the first boundaries crossed are not the last."""
    model, images, labels = of_fab()
    targets = (labels + 1 + torch.arange(12) % 4) % 5
    result = FAB(model, norm, steps=30).run(images, labels, targets=targets)
    assert result.success.sum() >= (11 if norm == "l1" else 12)
    assert result.images[~result.success].equal(images[~result.success])
    least = CW(model).run(images, labels, targets=targets) if norm == "l2" else None
    assert least is None or (result.distance("l2") < 1.2 * least.distance("l2")).all()
    other = FAB(model, norm, steps=30, target_classes=None)(images, labels, targets=targets)
    assert other.equal(result.images)  # one class, one boundary


def test_targets_keep_to_their_images_when_others_leave() -> None:
    """One by one or in a batch, some of them wrong from the start, some done before others: the same."""
    model, images, labels = of_fab()
    labels = labels.clone()
    labels[1], labels[4] = (labels[1] + 1) % 5, (labels[4] + 1) % 5
    targets = (labels + 2) % 5
    for chosen in (None, targets):
        together = FAB(model, eps=0.05, steps=20)(images, labels, targets=chosen)
        for index in range(12):
            one = slice(index, index + 1)
            alone = FAB(model, eps=0.05, steps=20)(
                images[one], labels[one], targets=None if chosen is None else chosen[one]
            )
            torch.testing.assert_close(together[one], alone, rtol=0, atol=1e-9)


def test_a_class_out_of_the_race_has_no_walk() -> None:
    net = flat_net(192, classes=3)

    def masked(images: Tensor, value: float) -> Tensor:
        logits = net(images)
        return torch.cat([logits, torch.full_like(logits, value)], 1)

    images = draw(4, 3, 8, 8)
    labels = said_by(net, images)
    plain = FAB(net, steps=10)(images, labels)
    assert not plain.equal(images)
    for value in (-math.inf, -1e9):
        for target_classes in (9, None):
            model = Passes(lambda images, value=value: masked(images, value))
            found = FAB(model, steps=10, target_classes=target_classes)(images, labels)
            if target_classes:
                torch.testing.assert_close(found, plain)
                a_step_each = 2 * 3 if value > -math.inf else 0  # to see that they are out of reach
                assert model.forwards == [4] * (1 + 2 * 20 + a_step_each)
            assert (said_by(model.model, found) != labels).all()
        unreachable = FAB(model, steps=10)(images, labels, targets=torch.full_like(labels, 5))
        assert unreachable.equal(images)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_an_image_on_the_edge_of_two_classes_can_be_made_a_third(norm: str) -> None:
    """The two largest logits are about 0, and -2 is thousands of times as far behind: that is not a mask."""
    model = linear_net(3, (1, 4, 4))
    images = torch.full((4, 1, 4, 4), 0.5)
    labels = torch.zeros(4, dtype=torch.int64)
    with torch.no_grad():
        model[1].bias.copy_(torch.tensor([1e-3, 0.0, -2.0]) - model[1].weight @ images[0].flatten())
    assert FAB(model, norm, steps=20).run(images, labels, targets=labels + 2).success.all()


def test_a_row_without_a_gradient_comes_back_and_leaves_after_one_step() -> None:
    net = flat_net(192, classes=3)

    def deaf_to_some(images: Tensor) -> Tensor:
        fixed = torch.arange(3.0).flip(0).expand(len(images), 3)
        return torch.where(images.flatten(1).amax(1, keepdim=True) < 1e-3, fixed, net(images))

    model = Passes(deaf_to_some)
    images = draw(3, 3, 8, 8)
    images[1] = 0
    result = FAB(model, steps=4, target_classes=1).run(images, said_by(deaf_to_some, images))
    assert result.success.tolist() == [True, False, True]
    assert result.images[1].equal(images[1])
    assert model.forwards == [3, 3, 3, *[2] * 6, 3]


def test_a_tie_is_left() -> None:
    """A first step to just where both logits are equal: the label is the first of them, so that it is no success."""
    model = two_classes(torch.tensor([1.0, 0.0]).double(), -0.75)
    images = torch.tensor([[0.75, 0.5]]).double()
    assert said_by(model, images).tolist() == [0]
    result = FAB(model).run(images, torch.tensor([0]))
    assert result.success.all()
    assert 0 < float(result.distance("linf")) < 1e-6


@NORMS
def test_restarts_begin_where_the_authors_begin_them(norm: str) -> None:
    """On the sphere of half the radius, each row from draws of its own, and in Linf one pixel at the end."""
    images = torch.full((64, 100), 0.5)
    labels = torch.zeros(64, dtype=torch.long)
    for eps, radius in ((0.2, 0.1), (None, {"linf": 0.15, "l2": 0.5, "l1": 2.5}[norm])):
        attack = FAB(linear_net(2), norm, eps=eps, generator=torch.Generator().manual_seed(0))
        closest = _Closest(images, norms.get(norm), eps)
        walk = _Walk(
            images,
            advkit.Untargeted(labels),
            labels[:, None],
            images[:, 0],
            images,
            torch.arange(64),
            labels > 0,
            labels > 0,
        )
        starts = attack._elsewhere(walk, closest) - images
        torch.testing.assert_close(norms.get(norm).size(starts), torch.full((64,), radius), rtol=1e-4, atol=0)
        assert len(starts.unique(dim=0)) == 64
        assert starts.mean(0).abs().max() < 4 * radius / 8 * (
            0.58 if norm == "linf" else 0.1 if norm == "l2" else 0.0126
        )
        if eps is None:
            closest.least[:] = 0.02
            assert (norms.get(norm).size(attack._elsewhere(walk, closest) - images) < 0.0101).all()


@NORMS
@MODES
def test_restarts_come_no_further_and_draw_from_the_generator_alone(norm: str, target_classes: int | None) -> None:
    model, images, labels = of_fab()
    settings: dict[str, Any] = {"norm": norm, "steps": 3, "target_classes": target_classes}
    once = FAB(model, **settings).run(images, labels).distance(norm)
    state = torch.get_rng_state()
    found = [
        FAB(model, **settings, restarts=3, generator=torch.Generator().manual_seed(seed))(images, labels)
        for seed in (0, 0, 1)
    ]
    assert torch.get_rng_state().equal(state)
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])
    far = torch.stack([norms.get(norm).distance(one, images) for one in found])
    assert ((far <= once) | (once == 0)).all()
    assert (far != once).any()


def test_another_range_of_pixels_is_another_unit() -> None:
    model, images, labels = of_fab()
    for norm in ("linf", "l2", "l1"):
        plain = FAB(model, norm, steps=4)(images, labels)
        wide = FAB(lambda x: model((x + 1) / 4), norm, steps=4, bounds=(-1, 3))(images * 4 - 1, labels)
        torch.testing.assert_close((wide + 1) / 4, plain, rtol=0, atol=1e-6)


@NORMS
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_the_scale_of_logits_does_not_matter(norm: str, scale: float) -> None:
    net = flat_net(192)
    images = draw(4, 3, 8, 8)
    labels = said_by(net, images)
    plain = FAB(net, norm, steps=10).run(images, labels)
    scaled = FAB(lambda x: net(x) * scale, norm, steps=10).run(images, labels)
    assert plain.success.all()
    assert scaled.success.all()
    torch.testing.assert_close(scaled.distance(norm), plain.distance(norm), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_verdict_on_images_of_16_bits_stays_inside_eps(dtype: torch.dtype) -> None:
    model, images, labels = trained_net()
    images = images.to(dtype)
    for norm in ("linf", "l2", "l1"):
        eps = FAB(model, norm=norm, steps=5).run(images, labels).distance(norm).sort().values[len(images) // 2]
        result = FAB(model, norm=norm, eps=float(eps), steps=5).run(images, labels)
        size = norms.get(norm).distance(result.images.double(), images.double())
        assert result.success.sum() >= len(images) // 4
        assert (size <= eps + 1e-6).all()
