"""Against what does not need bounds: random search, linear programs, and exact values where there are any."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import linprog
from torch import Tensor, nn

import advkit
from advkit.errors import InputError
from advkit.evaluation import margin_bounds, verify
from advkit.norms import L1, L2, Linf, Norm

SHAPE = (2, 6, 6)


def small(seed: int = 0) -> nn.Module:
    """All layers that can be followed, with weights and statistics of any sign."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=1, padding=1, padding_mode="reflect"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.MaxPool2d(3, 2, padding=1, ceil_mode=True), nn.Identity(), nn.Dropout(0.5)),
        nn.Conv2d(4, 4, 2, groups=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 6),
        nn.BatchNorm1d(6),
        nn.ReLU(),
        nn.Linear(6, 3),
    )
    for norm in (net[1], net[9]):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    return advkit.Normalized(net, (0.4, 0.5), (0.3, 0.2)).eval()


def dense(seed: int, widths: tuple[int, ...] = (4, 5, 5, 3)) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for one, other in pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).double().eval()


def reached(model: nn.Module, images: Tensor, labels: Tensor, norm: Norm, eps: float) -> Tensor:
    """The least margins (N, K) among many images of the ball: random ones, its corners, and what PGD finds."""
    shown = []
    for _ in range(100):
        step = norm.sample(images, None)
        step = step / norm.size(step).view(-1, *[1] * (images.ndim - 1)) if torch.rand(()) < 0.5 else step
        step = step.sign() if norm is Linf and torch.rand(()) < 0.5 else step
        shown.append((images + eps * step).clamp(0, 1))
    if norm is not L1:
        attack = advkit.PGD(model, norm=norm, eps=eps, steps=10)
        shown += [attack(images, labels, targets=(labels + k) % 3) for k in (1, 2)]
    with torch.no_grad():
        logits = torch.stack([model(one) for one in shown])
    return (logits.gather(2, labels.expand(len(shown), -1)[..., None]) - logits).amin(0)


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_bounds_hold_and_linear_ones_are_never_looser(norm: Norm, seed: int) -> None:
    model = small(seed)
    images = torch.rand(5, *SHAPE)
    labels = torch.randint(0, 3, (5,))
    for eps in (0.0, {Linf: 0.02, L2: 0.1, L1: 0.3}[norm], {Linf: 0.2, L2: 1.0, L1: 3.0}[norm]):
        interval, crown = (margin_bounds(model, images, labels, norm, eps, method=how) for how in ("interval", "crown"))
        found = reached(model, images, labels, norm, eps).double()
        assert (interval <= found + 1e-5).all()
        assert (crown <= found + 1e-5).all()
        assert (crown >= interval - 1e-9).all()
        if not eps:
            torch.testing.assert_close(crown, found, rtol=0, atol=1e-5)
        else:
            assert (crown > interval + 1e-6).any()


@pytest.mark.parametrize("norm", [Linf, L2, L1], ids=str)
def test_exact_where_the_network_is_linear(norm: Norm) -> None:
    """The least margin is the margin minus the dual norm of the difference of rows, off the edges of the pixels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    net = net.double().eval()
    images, labels, eps = 0.3 + 0.4 * torch.rand(3, *SHAPE).double(), torch.tensor([0, 1, 3]), 0.05
    found = margin_bounds(net, images, labels, norm, eps)
    pixels = images.clone().requires_grad_()
    logits = net(pixels)
    for k in range(4):
        margin = logits.gather(1, labels[:, None]).squeeze(1) - logits[:, k]
        (slope,) = torch.autograd.grad(margin.sum(), pixels, retain_graph=True)
        dual = {Linf: 1, L2: 2, L1: torch.inf}[norm]
        exact = margin - eps * torch.linalg.vector_norm(slope.flatten(1), dual, dim=1)
        torch.testing.assert_close(found[:, k], exact.detach(), rtol=0, atol=1e-10)


def test_pixels_end_at_their_bounds() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).double()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    images, labels = torch.tensor([[1.0, 0.05]]).double(), torch.tensor([0])
    for norm, least in (("linf", 0.6), ("l2", 0.95 - 0.3 * 2**0.5)):  # x may fall to 0.7 and y may rise to 0.1, if...
        wanted = (0.7 - 0.35) if norm == "linf" else least
        assert margin_bounds(net, images, labels, norm, 0.3)[0, 1].item() == pytest.approx(wanted)
    # Upwards there is no room for the first, nor downwards for the second.
    high = torch.tensor([1])
    assert margin_bounds(net, images, high, "linf", 0.3)[0, 0].item() == pytest.approx(0.0 - 1.0)


def program(net: nn.Sequential, image: np.ndarray, eps: float, row: np.ndarray, known: list) -> float:
    """The least of row . logits by the triangle relaxation of each ReLU, which no linear bound can be above."""
    layers = [one for one in net if isinstance(one, nn.Linear)]
    sizes = [len(image), *[one.out_features for one in layers for _ in (0, 1)][:-1]]
    starts = np.cumsum([0, *sizes])
    total, equal, equal_to, less, less_than = starts[-1], [], [], [], []
    bounds = [(max(0, v - eps), min(1, v + eps)) for v in image] + [(None, None)] * (total - len(image))
    at = 0
    for number, one in enumerate(layers):
        weight, bias = one.weight.detach().numpy(), one.bias.detach().numpy()
        for i in range(one.out_features):
            line = np.zeros(total)
            line[starts[at + 1] + i] = 1
            line[starts[at] : starts[at] + one.in_features] -= weight[i]
            equal.append(line)
            equal_to.append(bias[i])
        at += 1
        if number == len(layers) - 1:
            break
        low, high = known[number]
        for i in range(one.out_features):
            z, y = starts[at] + i, starts[at + 1] + i
            slope, top = (1.0, 0.0) if low[i] >= 0 else (0.0, 0.0)
            if low[i] < 0 < high[i]:
                slope = high[i] / (high[i] - low[i])
                top = -slope * low[i]
            for line_z, line_y, most in ((-slope, 1, top), (1, -1, 0.0), (0, -1, 0.0)):
                if (line_z, line_y) == (1, -1) and high[i] <= 0:
                    continue
                line = np.zeros(total)
                line[z], line[y] = line_z, line_y
                less.append(line)
                less_than.append(most)
        at += 1
    cost = np.zeros(total)
    cost[starts[at] : starts[at] + len(row)] = row
    return float(linprog(cost, less, less_than, equal, equal_to, bounds=bounds).fun)


@pytest.mark.parametrize("seed", range(3))
def test_linear_bounds_are_below_linear_programs_and_near_them(seed: int) -> None:
    """With one hidden layer the intermediate bounds are exact, so that the relaxations are the same."""
    net = dense(seed, (4, 6, 3))
    images, labels = torch.rand(2, 4).double(), torch.tensor([0, 2])
    gaps = []
    for eps in (0.02, 0.1, 0.3):
        crown, interval = (margin_bounds(net, images, labels, "linf", eps, method=how) for how in ("crown", "interval"))
        for n, image in enumerate(images.numpy()):
            low, high = np.clip(image - eps, 0, 1), np.clip(image + eps, 0, 1)
            weight, bias = net[1].weight.detach().numpy(), net[1].bias.detach().numpy()
            centre, reach = weight @ (low + high) / 2 + bias, np.abs(weight) @ (high - low) / 2
            for k in range(3):
                row = np.eye(3)[labels[n]] - np.eye(3)[k]
                exact = program(net, image, eps, row, [(centre - reach, centre + reach)])
                assert crown[n, k] <= exact + 1e-7
                gaps.append((exact - float(crown[n, k]), exact - float(interval[n, k])))
    mine, plain = np.array(gaps).mean(0)
    assert mine < 0.3 * plain


def test_verified_images_are_not_fooled_and_the_model_stays_as_it_was() -> None:
    model = small(1).train()
    images = torch.rand(40, *SHAPE)
    labels = model.eval()(images).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    eps = 0.02
    found = verify(model, images, labels, eps=eps)
    assert model.training
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert found.dtype == torch.bool
    assert not found[0]  # the model is wrong on it
    assert 0 < found.sum() < 40
    fooled = advkit.PGD(model, eps=eps, steps=30).run(images, labels).success
    assert not (found & fooled).any()
    alone = torch.cat(
        [verify(model, one[None], label[None], eps=eps) for one, label in zip(images, labels, strict=True)]
    )
    assert alone.equal(found)
    assert verify(model, images[:0], labels[:0]).shape == (0,)


def test_a_layer_that_stands_in_two_places_is_followed_through_both() -> None:
    torch.manual_seed(0)
    relu, twice = nn.ReLU(), nn.Linear(6, 6)
    net = nn.Sequential(nn.Linear(4, 6), relu, twice, relu, twice, relu, nn.Linear(6, 3)).double().eval()
    images, labels = torch.rand(4, 4).double(), torch.tensor([0, 1, 2, 0])
    logits = net(images).detach()
    assert (logits[:, 0] - logits[:, 1]).std() > 0  # so that it says something
    found = margin_bounds(net, images, labels, eps=0.0)
    torch.testing.assert_close(found, logits.gather(1, labels[:, None]) - logits, rtol=0, atol=1e-12)


def test_nothing_is_proved_within_what_the_models_own_arithmetic_is_off() -> None:
    """A float32 of eight millions has no halves: pixels above 0.5 count as 1, whatever the layers say."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 2))
    with torch.no_grad():
        net[0].weight.fill_(1)
        net[0].bias.fill_(2**23)
        net[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
        net[1].bias.copy_(torch.tensor([100.0 - 2**23, 100.45]))
    images, label = torch.tensor([[0.52]]), torch.tensor([0])
    assert net(images).argmax(1) == label
    assert net(images - 0.04).argmax(1) != label
    assert margin_bounds(net, images, label, eps=0.04)[0, 1].item() == pytest.approx(0.03, abs=1e-4)
    assert not verify(net, images, label, eps=0.04)


class Own(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Centred(nn.Conv2d):
    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, weight - weight.mean((1, 2, 3), keepdim=True), bias)


class Called(nn.ReLU):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x).sin()


def patched() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    net[1].forward = lambda x: F.linear(x, net[1].weight)
    return net


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "a layer": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Tanh()), r"propagated through Tanh \(2\): "),
    "a module": (lambda: Own(nn.Flatten(), nn.Linear(72, 3)), r"propagated through Own"),
    "inside a layer": (lambda: nn.Sequential(Centred(2, 1, 3), nn.Flatten(), nn.Linear(16, 3)), "was overridden"),
    "around a layer": (lambda: nn.Sequential(Called(), nn.Flatten(), nn.Linear(72, 3)), "was overridden"),
    "one layer alone": (patched, r"propagated through Linear \(1\)"),
    "nested": (lambda: advkit.Normalized(nn.Sequential(nn.Sequential(nn.GELU())), 0.5, 0.5), r"GELU \(net.0.0\)"),
    "a defense": (
        lambda: advkit.defenses.RandomizedSmoothing(0.1).wrap(nn.Flatten()),
        r"propagated through Defended",
    ),
    "statistics": (
        lambda: nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False), nn.Flatten(), nn.Linear(72, 3)),
        r"BatchNorm2d \(0\) normalises by the statistics of the batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_followed_is_named(name: str) -> None:
    make, words = REFUSED[name]
    with pytest.raises(InputError, match=words):
        verify(make(), torch.rand(1, *SHAPE), torch.zeros(1, dtype=torch.int64))


def test_other_refusals() -> None:
    net, images, labels = dense(0), torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(InputError, match="no bounds are known for L0"):
        verify(net, images, labels, "l0", 1.0)
    with pytest.raises(InputError, match=r"through .*, since it is not a module"):
        verify(lambda pixels: net(pixels), images, labels)
    net[1].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(InputError, match=r"Linear \(1\) has a hook"):
        verify(net, images, labels)
