"""CW against closed forms, its own promises, and the defects of other implementations."""

import math

import pytest
import torch
from torch import Tensor, nn

from advkit import CW, EAD, Attack, losses
from contracts.scenes import IMAGE, Passes, Shifted, conv_net, draw, linear_net, said_by, trained_net, undecided

PUBLISHED = {"initial_c": 1e-3, "binary_search_steps": 9, "lr": 0.01, "schedule": "constant"}


def nearest_boundary(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The distance (L2) to the nearest boundary of a linear model without a box: (N,)."""
    with torch.no_grad():
        logits = model(images)
        weight = model[-1].weight
        gaps = logits.gather(1, labels[:, None]) - logits
        lengths = (weight[labels][:, None] - weight[None]).norm(dim=2)
        return (gaps / lengths).where(lengths > 0, math.inf).amin(1)


@pytest.mark.parametrize(
    ("classes", "settings"), [(2, {}), (10, {}), (2, {**PUBLISHED, "steps": 300})], ids=["2", "10", "2-published"]
)
def test_the_nearest_boundary_of_a_linear_model(classes: int, settings: dict[str, object]) -> None:
    model = linear_net(classes)
    images = draw(16, *IMAGE, seed=7, low=0.3, high=0.7)
    labels = said_by(model, images)
    result = CW(model, **settings).run(images, labels)
    assert result.success.all()
    ratio = result.distance("l2") / nearest_boundary(model, images, labels)
    assert (ratio >= 1 - 1e-4).all()
    assert (ratio <= 1.02).all()


def test_the_nearest_point_in_the_box() -> None:
    """With pixels at their bounds: against a projection onto half-space and box by bisection."""
    model = linear_net(2)
    images = draw(8, *IMAGE, seed=8).mul(1.6).sub(0.3).clamp(0, 1)
    with torch.no_grad():
        model[-1].bias.mul_(0)
    labels = said_by(model, images)
    result = CW(model).run(images, labels)
    assert result.success.all()
    weight = (model[-1].weight[0] - model[-1].weight[1]).detach().double().view(1, *IMAGE)
    sign = torch.where(labels == 0, 1.0, -1.0).double().view(-1, 1, 1, 1)
    slope = sign * weight
    low, high = torch.zeros(8).double(), torch.full((8,), 1e3).double()
    for _ in range(100):
        middle = (low + high) / 2
        moved = (images - middle.view(-1, 1, 1, 1) * slope).clamp(0, 1)
        inside = (moved * slope).flatten(1).sum(1) > 0
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    exact = ((images - high.view(-1, 1, 1, 1) * slope).clamp(0, 1) - images).flatten(1).norm(dim=1)
    assert (result.distance("l2") <= 1.02 * exact).all()


@pytest.mark.parametrize(
    "settings", [{}, {"schedule": "constant", "steps": 60, "lr": 0.05}], ids=["default", "constant"]
)
def test_a_success_has_the_margin_asked_for(settings: dict[str, object]) -> None:
    model, images, labels = trained_net()
    with torch.no_grad():
        assert (losses.margin(model(images), labels) > 1).all()
    result = CW(model, kappa=5.0, **settings).run(images, labels)
    assert result.success.all()
    with torch.no_grad():
        margin = torch.cat(
            [losses.margin(model(image[None]), label[None]) for image, label in zip(result.images, labels, strict=True)]
        )
    assert (margin <= -5).all()
    assert (margin >= -5.2).all()
    assert (result.distance() > CW(model, **settings).run(images, labels).distance()).all()


def test_it_reaches_any_target() -> None:
    model, images, labels = trained_net()
    for shift in (1, 2, 3):
        targets = (labels + shift) % 4
        result = CW(model).run(images, labels, targets=targets)
        assert result.success.all()
        assert result.predictions.equal(targets)


def test_an_untargeted_attack_is_no_worse_than_its_best_target() -> None:
    """The margin of all classes leads to the class that was nearest where it began; the search tries the others."""
    model, images, labels = trained_net(seed=3)
    distance = CW(model).run(images, labels).distance()
    best = torch.stack([CW(model).run(images, labels, targets=(labels + shift) % 4).distance() for shift in (1, 2, 3)])
    assert (distance <= 1.02 * best.amin(0)).all()


@pytest.mark.parametrize("settings", [{}, {"schedule": "constant", "steps": 200}], ids=["default", "constant"])
def test_pixels_at_their_bounds_move(settings: dict[str, object]) -> None:
    """torchattacks starts at atanh(1), where nothing moves."""
    model = linear_net(2)
    images, labels = undecided(model)
    result = CW(model, **settings).run(images, labels)
    assert result.success.all()
    assert (result.distance("l2") > 0).all()
    assert (result.images - images).abs().flatten(1).count_nonzero(1).gt(20).all()


@pytest.mark.parametrize("change", [lambda z: z - 100, lambda z: z.log_softmax(1)], ids=["negative", "log"])
def test_logits_that_are_all_negative(change: object) -> None:
    """torchattacks masks the label with zero, which is then the largest logit."""
    model, images, labels = trained_net()
    shifted = Shifted(model, change)
    assert CW(model).run(images, labels).success.all()
    result = CW(shifted).run(images, labels)
    assert result.success.all()
    torch.testing.assert_close(result.distance(), CW(model).run(images, labels).distance(), rtol=0.02, atol=0)


class Deaf(nn.Module):
    """Another model, that says class 0 of images whose first pixel is 1, whatever the rest."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits = self.model(images)
        fixed = 10 * torch.eye(logits.shape[1])[0] + 0 * logits
        return torch.where((images[:, 0, 0, 0] > 0.9)[:, None], fixed, logits)


@pytest.mark.parametrize(
    "settings",
    [{}, {"schedule": "constant", "steps": 30, "binary_search_steps": 2, "lr": 0.05}],
    ids=["default", "constant"],
)
def test_one_impossible_row(settings: dict[str, object]) -> None:
    """foolbox gives black images for rows that it cannot solve."""
    network, images, _ = trained_net()
    images = images.clone()
    images[2, 0, 0, 0] = 1.0
    images[[0, 1, 3, 4, 5, 6, 7], 0, 0, 0] = 0.3
    model = Deaf(network)
    labels = said_by(model, images)
    result = CW(model, **settings).run(images, labels)
    assert result.images[2].equal(images[2])
    assert result.success.tolist() == [row != 2 for row in range(8)]
    alone = torch.cat([CW(model, **settings)(images[row : row + 1], labels[row : row + 1]) for row in (1, 2, 3)])
    torch.testing.assert_close(alone, result.images[1:4], rtol=0, atol=1e-3)


def test_a_pixel_that_nothing_depends_on_does_not_move() -> None:
    """The image is not rebuilt from w, which would move every pixel by its rounding."""
    model = linear_net(3)
    with torch.no_grad():
        model[-1].weight[:, 50:] = 0
    images = draw(4, *IMAGE, seed=11)
    labels = said_by(model, images)
    for settings in ({}, {"schedule": "constant", "steps": 100}):
        found = CW(model, **settings).run(images, labels)
        assert found.success.any()
        assert found.images.flatten(1)[:, 50:].equal(images.flatten(1)[:, 50:])


def test_rows_leave_and_passes_are_few() -> None:
    network, images, labels = trained_net()
    model = Passes(network)
    result = CW(model).run(images, labels)
    assert result.success.all()
    forwards, backwards = sum(model.forwards[:-1]) / 8, sum(model.backwards) / 8
    assert forwards <= 1 + 3 * 50
    assert backwards <= 3 + 3 * 50
    assert min(model.forwards) < 8
    model.forwards.clear()
    CW(model)(images, (labels + 1) % 4)
    assert model.forwards == [8], "what is wrong already needs one forward"


def test_the_published_search_is_adam_and_bisection() -> None:
    """Against a plain loop over images that follows the paper."""
    model, images, labels = trained_net()
    settings = {"initial_c": 1e-2, "binary_search_steps": 4, "steps": 30, "lr": 0.02, "schedule": "constant"}
    found = CW(model, **settings).run(images, labels)
    expected = torch.stack([reference(model, image, int(label)) for image, label in zip(images, labels, strict=True)])
    torch.testing.assert_close(found.distance(), (expected - images).flatten(1).norm(dim=1), rtol=1e-3, atol=0)


def reference(model: nn.Module, image: Tensor, label: int) -> Tensor:
    """Adam on w and a binary search on c, for one image, as in section VI of the paper."""
    best, closest, c, low, high = image, math.inf, 1e-2, 0.0, math.inf
    scale = 0.5 / 0.95
    for _ in range(4):
        w = torch.atanh((image - 0.5) / scale).requires_grad_()
        optimizer = torch.optim.Adam([w], lr=0.02)
        reached, last = False, math.inf
        for step in range(30):
            x = 0.5 + scale * torch.tanh(w)
            logits = model(x.clamp(0, 1)[None])[0]
            margin = logits[label] - torch.cat([logits[:label], logits[label + 1 :]]).max()
            cost = (x - image).square().sum() + c * margin.clamp_min(0)
            if margin <= -1e-5:
                reached = True
                size = float((x.detach().clamp(0, 1) - image).norm())
                if size < closest:
                    best, closest = x.detach().clamp(0, 1), size
            if step % 3 == 0:
                if float(cost.detach()) > 0.9999 * last:
                    break
                last = float(cost.detach())
            optimizer.zero_grad()
            (w.grad,) = torch.autograd.grad(cost, w)
            optimizer.step()
        low, high = (low, c) if reached else (c, high)
        c = c * 10 if math.isinf(high) else (low + high) / 2
    return best


def test_c_grows_until_the_image_is_reached() -> None:
    model, images, labels = trained_net()
    for schedule in ("cosine", "constant"):
        small = {"initial_c": 1e-6, "steps": 60, "lr": 0.05, "schedule": schedule}
        assert not CW(model, binary_search_steps=1, **small).run(images, labels).success.any()
        assert CW(model, binary_search_steps=9, **small).run(images, labels).success.all()


def test_the_largest_c_is_no_nan() -> None:
    model, images, labels = trained_net()
    for schedule in ("cosine", "constant"):
        result = CW(model, initial_c=1e10, steps=30, schedule=schedule).run(images, labels)
        assert result.images.isfinite().all()
        assert schedule == "constant" or result.success.all()


@pytest.mark.parametrize("attack", [CW, EAD])
@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_a_gradient_that_is_one_number_for_all_pixels(attack: type[Attack], schedule: str) -> None:
    """It takes no memory of its own, so that nothing can be written into it."""

    def bright(x: Tensor) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([1 - total, total - 1], 1)

    images = torch.full((2, 3, 4, 4), 0.01)
    result = attack(bright, schedule=schedule, initial_c=1.0).run(images, torch.zeros(2, dtype=torch.int64))
    assert result.success.all()
    assert (result.images.flatten(1).sum(1) <= 1.06).all()


def test_nothing_is_left_on_the_parameters() -> None:
    model = conv_net()
    images = draw(3, *IMAGE)
    before = images.clone()
    CW(model, steps=5)(images, said_by(model, images))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert images.equal(before)
