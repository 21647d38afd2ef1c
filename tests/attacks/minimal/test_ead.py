"""EAD against closed forms, its own promises, and the defects of other implementations."""

import math

import pytest
import torch
from torch import Tensor, nn

from advkit import CW, EAD, losses
from contracts.scenes import IMAGE, Passes, draw, linear_net, said_by, trained_net, undecided


def least_l1(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The exact distance (L1) to the nearest boundary of a linear model in the box: fill the steepest pixels first."""
    weight = model[-1].weight.detach().double()
    x = images.flatten(1).double()
    with torch.no_grad():
        logits = model(images).double()
    least = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for rival in range(len(weight)):
        slope = weight[labels] - weight[rival]
        steep, order = slope.abs().sort(1, descending=True)
        room = torch.where(slope > 0, x, 1 - x).gather(1, order)
        fall = (steep * room).cumsum(1)
        gap = (logits.gather(1, labels[:, None]) - logits[:, rival : rival + 1]).clamp_min(0)
        full = fall <= gap
        used = full.sum(1, keepdim=True).clamp_max(x.shape[1] - 1)
        before = torch.where(full, room, 0).sum(1)
        left = gap.squeeze(1) - torch.where(full, steep * room, 0).sum(1)
        length = before + left / steep.gather(1, used).squeeze(1)
        length[(fall[:, -1] < gap.squeeze(1)) | (labels == rival)] = torch.inf
        least = torch.minimum(least, length)
    return least


@pytest.mark.parametrize("classes", [2, 10])
def test_the_nearest_boundary_of_a_linear_model(classes: int) -> None:
    model = linear_net(classes)
    images = draw(16, *IMAGE, seed=7)
    labels = said_by(model, images)
    result = EAD(model, beta=1.0).run(images, labels)
    assert result.success.all()
    ratio = result.distance("l1") / least_l1(model, images, labels)
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio <= 1.05).all()


def test_more_beta_moves_fewer_pixels() -> None:
    model, images, labels = trained_net()
    # Its own search: without a first c a walk that makes L1 small, whatever beta, looks again.
    found = [EAD(model, beta=beta, initial_c=10.0).run(images, labels) for beta in (1e-5, 1e-3, 1e-1)]
    assert all(result.success.all() for result in found)
    moved = [result.distance("l0").mean() for result in found]
    assert moved[0] > moved[1] > moved[2]
    assert found[0].distance("l2").mean() < found[2].distance("l2").mean()
    assert (found[1].distance("l1") < CW(model).run(images, labels).distance("l1")).all()


def test_the_decision_rule_is_what_is_smallest() -> None:
    model, images, labels = trained_net()
    beta = 0.02
    l1 = EAD(model, beta=beta).run(images, labels)
    elastic = EAD(model, beta=beta, decision_rule="elastic").run(images, labels)

    def score(result: object) -> Tensor:
        return result.distance("l2") ** 2 + beta * result.distance("l1")

    assert (l1.distance("l1") <= elastic.distance("l1") + 1e-4).all()
    assert (score(elastic) <= score(l1) + 1e-4).all()


def test_a_success_has_the_margin_asked_for() -> None:
    model, images, labels = trained_net()
    result = EAD(model, kappa=5.0).run(images, labels)
    assert result.success.all()
    with torch.no_grad():
        assert (losses.margin(model(result.images), labels) <= -5).all()


def test_it_reaches_any_target() -> None:
    model, images, labels = trained_net()
    for shift in (1, 2, 3):
        targets = (labels + shift) % 4
        assert EAD(model).run(images, labels, targets=targets).predictions.equal(targets)


def test_pixels_at_their_bounds_move() -> None:
    model = linear_net(2)
    images, labels = undecided(model)
    result = EAD(model).run(images, labels)
    assert result.success.all()
    assert (result.distance("l1") > 0).all()


def test_the_original_does_not_drift() -> None:
    """torchattacks' parameter is the image it measures from, and writes to it."""
    model, images, labels = trained_net()
    before = images.clone()
    result = EAD(model).run(images, labels)
    assert images.equal(before)
    assert result.originals.equal(before)
    # Shrinkage leaves most pixels exactly where they were: of the original, not of one that moved along.
    assert ((result.images == before).flatten(1).sum(1) > 96).all()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_c_grows_until_the_image_is_reached() -> None:
    model, images, labels = trained_net()
    assert not EAD(model, initial_c=1e-6, binary_search_steps=1).run(images, labels).success.any()
    assert EAD(model, initial_c=1e-6, binary_search_steps=9).run(images, labels).success.all()
    assert EAD(model, initial_c=1e10).run(images, labels).success.all()


def test_one_impossible_row() -> None:
    network, images, _ = trained_net()

    images = images.clone()
    images[:, 0, 0] = 0.4
    images[2, 0, 0] = 0.9

    def guarded(x: Tensor) -> Tensor:
        return torch.where((x[:, 0, 0].mean(1, keepdim=True) > 0.7), 0 * network(x) + 10 * torch.eye(4)[0], network(x))

    labels = said_by(guarded, images)
    result = EAD(guarded).run(images, labels)
    assert result.images[2].equal(images[2])
    assert result.success.tolist() == [row != 2 for row in range(8)]


@pytest.mark.parametrize("rule", ["l1", "elastic"])
def test_the_published_search_is_fista_and_bisection(rule: str) -> None:
    """Against a plain loop over images that follows the paper."""
    model, images, labels = trained_net()
    settings = {"initial_c": 1e-2, "binary_search_steps": 4, "steps": 30, "lr": 0.02, "beta": 5e-3}
    found = EAD(model, **settings, decision_rule=rule, schedule="constant").run(images, labels)
    expected = torch.stack(
        [reference(model, image, int(label), rule) for image, label in zip(images, labels, strict=True)]
    )
    assert found.success.all()
    torch.testing.assert_close(found.images, expected, rtol=0, atol=1e-5)


def reference(model: nn.Module, image: Tensor, label: int, rule: str) -> Tensor:
    """Eq. (6) and (7) with the shrinkage of eq. (5), and a binary search on c, for one image."""
    lr, beta, steps = 0.02, 5e-3, 30
    best, closest, c, low, high = image, math.inf, 1e-2, 0.0, math.inf

    def margin(x: Tensor) -> Tensor:
        logits = model(x[None])[0]
        return logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()

    for _ in range(4):
        x, y, reached, last = image, image, False, math.inf
        for k in range(steps):
            point = y.detach().requires_grad_()
            cost = (point - image).square().sum() + c * margin(point).clamp_min(0)
            (gradient,) = torch.autograd.grad(cost, point)
            if k % 3 == 0:
                if float(cost.detach()) > 0.9999 * last:
                    break
                last = float(cost.detach())
            z = y - lr * math.sqrt(1 - k / steps) * gradient
            shrunk = torch.where(z - image > beta, (z - beta).clamp_max(1), image)
            shrunk = torch.where(z - image < -beta, (z + beta).clamp_min(0), shrunk)
            x, before = shrunk, x
            y = x + k / (k + 3) * (x - before)
            with torch.no_grad():
                if margin(x) <= -1e-5:
                    reached = True
                    l1 = float((x - image).abs().sum())
                    size = l1 if rule == "l1" else beta * l1 + float((x - image).square().sum())
                    if size < closest:
                        best, closest = x, size
        low, high = (low, c) if reached else (c, high)
        c = c * 10 if math.isinf(high) else (low + high) / 2
    return best


def test_the_published_search_has_the_margin_asked_for() -> None:
    model, images, labels = trained_net()
    result = EAD(model, kappa=5.0, initial_c=1.0, steps=60, lr=0.05, schedule="constant").run(images, labels)
    assert result.success.all()
    with torch.no_grad():
        assert (losses.margin(model(result.images), labels) <= -5).all()


def test_the_published_search_makes_two_forwards_and_a_backward_a_step() -> None:
    network, images, labels = trained_net()
    model = Passes(network)
    EAD(model, initial_c=1.0, binary_search_steps=1, steps=5, beta=1e-5, schedule="constant")(images, labels)
    assert model.forwards == [8] + [8] * 10
    assert model.backwards == [8] * 5
