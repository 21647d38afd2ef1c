"""SparseFool against its linear solver, pixel by pixel, and where a boundary is a plane."""

import torch
from torch import Tensor, nn

import advkit
from contracts.scenes import draw


def one_by_one(x: Tensor, weight: Tensor, gap: float) -> Tensor:
    """The pixels with the largest slopes to their ends, until the gap is closed."""
    x = x.clone()
    for place in weight.abs().argsort(descending=True):
        step = -gap / weight[place]
        moved = (x[place] + step).clamp(0, 1) - x[place]
        x[place] += moved
        gap += float(weight[place] * moved)
        if abs(gap) < 1e-9:
            return x
    raise AssertionError("the box does not reach the plane")


def test_on_a_plane_it_takes_the_steepest_pixels() -> None:
    layer = nn.Linear(20, 2).double()
    with torch.no_grad():
        layer.weight.copy_(draw(2, 20, seed=4, low=-1.0))
        layer.bias.copy_(torch.tensor([0.2, 0.0]))
    images = draw(12, 20, seed=5).double()
    labels = layer(images).argmax(1)
    lam, overshoot = 1.5, 0.02
    result = advkit.SparseFool(layer, lam=lam, overshoot=overshoot).run(images, labels)
    assert result.success.all()
    for image, label, found in zip(images, labels, result.images, strict=True):
        weight = (layer.weight[label] - layer.weight[1 - label]).detach()
        lead = float(weight @ image + (layer.bias[label] - layer.bias[1 - label]).detach())
        reached = advkit.DeepFool(layer)(image[None], label[None])[0]
        way = float(weight @ (reached - image))
        assert -1.1 * lead < way <= -lead
        expected = image + (1 + overshoot) * (one_by_one(image, weight, -lam * way) - image)
        torch.testing.assert_close(found, expected.clamp(0, 1))
    assert result.distance("l0").max() < advkit.DeepFool(layer).run(images, labels).distance("l0").min()


def test_it_stops_where_nothing_leads_on() -> None:
    flat = nn.Linear(8, 3)
    with torch.no_grad():
        flat.weight.zero_()
        flat.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))
    images = draw(2, 8)
    assert torch.equal(advkit.SparseFool(flat)(images, torch.tensor([0, 0])), images)
