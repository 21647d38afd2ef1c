"""Gradients through float16, held to the same weights in float32."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advkit import losses
from advkit._engine.classifier import Classifier
from advkit._engine.gradients import Scaling, finite, passed
from contracts.scenes import draw


def pair(scale: float = 1.0) -> tuple[nn.Module, nn.Module]:
    """A network in float16, and one of the same weights in float32."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 5))
    with torch.no_grad():
        network[3].weight.mul_(scale)
    half = network.half()
    return half, copy.deepcopy(half).float()


def test_scaling_there_and_back_is_exact() -> None:
    """Whatever the size of the cotangent, down to the smallest float that is not subnormal."""
    x = draw(40, 6).requires_grad_()
    scaling = Scaling()
    logits = scaling.logits(scaling.images(x) * 3)
    cotangent = draw(40, 6, seed=1, low=-1.0) * 10.0 ** torch.arange(-36, 4)[:, None]
    cotangent[-1] = 0
    (gradient,) = torch.autograd.grad(logits, x, cotangent)
    assert gradient.equal(cotangent * 3)


@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e-6, 1.0, 1e6])
def test_rows_of_any_size_come_through_float16(size: float) -> None:
    """Also beside rows of another size, twice from one graph, and to who differentiates the answer himself."""
    half, full = pair()
    images = draw(6, 3, 4, 4)
    sizes = torch.tensor([size, 1.0, size, 1e-3, 0.0, size])[:, None]
    gradients = []
    for network in (half, full):
        x = images.clone().requires_grad_()
        model = Classifier(network, {})
        values = (model(x) * torch.tensor([1.0, -1.0, 0.5, 0.0, 2.0]) * sizes).sum(1)
        (first,) = torch.autograd.grad(values.sum() + (x * 0.5 * sizes[:, :, None, None]).sum(), x, retain_graph=True)
        gradients.append((first, model.gradient(values, x, keep_graph=True), model.gradient(values, x)))
        model.verify()
    (sum_half, once, twice), (sum_full, expected, _) = gradients
    assert once.equal(twice)
    for found, wanted in ((once, expected), (sum_half, sum_full)):
        for row, of_row in zip(found, wanted, strict=True):
            torch.testing.assert_close(row, of_row, rtol=0.02, atol=0.02 * float(of_row.abs().max()))


@pytest.mark.parametrize("scale", [1e2, 1e3, 1e4])
def test_what_overflows_is_asked_for_again_with_less(scale: float) -> None:
    half, full = pair(scale)
    with torch.no_grad():
        for network in (half, full):
            network[1].weight.mul_(4)
    labels = torch.arange(6) % 5

    def search(model: Classifier) -> Tensor:
        x = draw(6, 3, 4, 4).requires_grad_()
        return model.gradient(losses.margin(model.logits(x), labels), x)

    found, expected = (model.verified(search) for model in (Classifier(half, {}), Classifier(full, {})))
    difference = (found - expected).flatten(1).norm(dim=1)
    assert (difference < 0.05 * expected.flatten(1).norm(dim=1)).all()


def test_float16_is_found_in_a_graph() -> None:
    half, full = pair()
    x = draw(2, 48).requires_grad_()
    assert torch.float16 not in passed(full(x).grad_fn)
    assert torch.float16 not in passed(full.bfloat16()(x.bfloat16()).float().grad_fn)
    assert torch.float16 in passed(half(x.half()).float().grad_fn)
    assert torch.float16 not in passed(full.float()(x).double().exp().grad_fn)


@pytest.mark.filterwarnings("ignore")
def test_float16_is_found_in_a_compiled_graph() -> None:
    _, full = pair()
    full.requires_grad_(False)

    class Low(nn.Module):
        def forward(self, x: Tensor) -> Any:
            with torch.autocast("cpu", torch.float16):
                return full(x).float()

    torch._dynamo.reset()
    x = draw(2, 48).requires_grad_()
    assert torch.float16 in passed(torch.compile(Low(), backend="aot_eager")(x).grad_fn)
    assert torch.float16 not in passed(torch.compile(full, backend="aot_eager")(x).grad_fn)
    torch._dynamo.reset()


def test_infinite_entries_are_as_large_as_the_largest_finite_one() -> None:
    gradient = torch.tensor([[torch.inf, -2.0, 1.0], [-torch.inf, 0.0, torch.inf], [3.0, torch.nan, -torch.inf]])
    expected = torch.tensor([[2.0, -2.0, 1.0], [-1.0, 0.0, 1.0], [3.0, torch.nan, -3.0]])
    torch.testing.assert_close(finite(gradient), expected, equal_nan=True)
