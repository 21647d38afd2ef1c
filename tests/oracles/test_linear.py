"""On a linear model the answers are known: Linf moves by eps * sign(w), L2 by eps * w / ||w||_2."""

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import losses

EPS = 0.07
SHAPE = (3, 5, 4)


@pytest.fixture
def binary() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Two classes, logits (0, w x + b), and images too far from black and white for the box to matter."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    layer = nn.Linear(weight.numel(), 2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight[0].zero_()
        layer.weight[1].copy_(weight.flatten())
        layer.bias.copy_(torch.tensor([0.0, 0.3]))
    images = 0.3 + 0.4 * torch.rand(6, *SHAPE, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    return nn.Sequential(nn.Flatten(), layer), weight, images, labels


def away(labels: Tensor) -> Tensor:
    """+1 where the logit of class 1 must rise, -1 where it must fall."""
    return torch.where(labels == 0, 1.0, -1.0).double().view(-1, 1, 1, 1)


LINF = [
    advkit.FGSM,
    lambda model, eps: advkit.IFGSM(model, eps=eps, alpha=eps / 4, steps=5),
    lambda model, eps: advkit.MIFGSM(model, eps=eps, alpha=eps / 4, steps=5),
    lambda model, eps: advkit.MIFGSM(model, eps=eps, alpha=eps / 4, steps=5, accumulate="sign"),
    lambda model, eps: advkit.PGD(model, eps=eps, alpha=eps / 4, steps=5, random_start=False),
    lambda model, eps: advkit.PGD(model, eps=eps, alpha=eps, steps=3, random_start=True),
]


@pytest.mark.parametrize("make", LINF, ids=["FGSM", "IFGSM", "MIFGSM", "MIFGSM-sign", "PGD", "PGD-random"])
@pytest.mark.parametrize("targeted", [False, True])
def test_linf(make: type[advkit.FGSM], targeted: bool, binary: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    model, weight, images, labels = binary
    targets = 1 - labels if targeted else None
    found = make(model, eps=EPS)(images, labels, targets=targets)
    torch.testing.assert_close(found, images + away(labels) * EPS * weight.sign(), rtol=0, atol=1e-12)
    before, after = (losses.margin(model(x), labels) for x in (images, found))
    fall = EPS * weight.abs().sum()
    torch.testing.assert_close(before - after, fall.expand(6), rtol=0, atol=1e-10)
    # and so the cross-entropy log(1 + exp(-margin)) is known exactly
    risen = losses.cross_entropy(model(found), labels)
    torch.testing.assert_close(risen, nn.functional.softplus(fall - before), rtol=1e-10, atol=0)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_l2(random_start: bool, targeted: bool, binary: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    model, weight, images, labels = binary
    steps = 400 if random_start else 5
    attack = advkit.PGD(model, eps=EPS, alpha=EPS / 4, steps=steps, random_start=random_start, norm="l2")
    found = attack(images, labels, targets=1 - labels if targeted else None)
    expected = images + away(labels) * EPS * weight / weight.norm()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 if not random_start else 1e-10)
    before, after = (losses.margin(model(x), labels) for x in (images, found))
    torch.testing.assert_close(before - after, (EPS * weight.norm()).expand(6), rtol=0, atol=1e-10)


def test_one_fgsm_step_on_many_classes() -> None:
    """The gradient of the cross-entropy is W^T (softmax - onehot), whatever the number of classes."""
    generator = torch.Generator().manual_seed(1)
    layer = nn.Linear(12, 7, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(7, 12, generator=generator))
    images = 0.2 + 0.6 * torch.rand(5, 12, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 6, 3, 3, 1])
    probabilities = layer(images).softmax(1).detach()
    gradient = (probabilities - nn.functional.one_hot(labels, 7)) @ layer.weight.detach()
    found = advkit.FGSM(layer, eps=EPS)(images, labels)
    torch.testing.assert_close(found, images + EPS * gradient.sign(), rtol=0, atol=1e-12)
    targets = torch.tensor([1, 2, 2, 5, 0])
    gradient = (probabilities - nn.functional.one_hot(targets, 7)) @ layer.weight.detach()
    found = advkit.FGSM(layer, eps=EPS)(images, labels, targets=targets)
    torch.testing.assert_close(found, images - EPS * gradient.sign(), rtol=0, atol=1e-12)


def test_the_box_cuts_the_step_off() -> None:
    """Pixels near black and white go to the bound and no further; the others by eps."""
    layer = nn.Linear(4, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -1.0, 1.0, -1.0]]))
    images = torch.tensor([[0.99, 0.02, 0.5, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 0.0, 0.6, 0.4]], dtype=torch.float64)
    labels = torch.tensor([0])
    for make in LINF:
        torch.testing.assert_close(make(layer, eps=0.1)(images, labels), expected, rtol=0, atol=1e-12)


def test_momentum_by_hand() -> None:
    """Dong et al. eq. (6) on a model whose gradient turns round: the old direction wins while decay lasts."""

    def model(x: Tensor) -> Tensor:  # the loss of class 0 rises to x = 0.52 and falls from there, more steeply
        height = torch.where(x < 0.52, x, 0.52 + 3 * (0.52 - x)).sum(1)
        return torch.stack([torch.zeros_like(height), height], 1)

    start = torch.full((1, 2), 0.5, dtype=torch.float64)
    for decay, steps, expected in [
        (1.0, 1, 0.53),  # up
        (1.0, 2, 0.53),  # momentum 1 - 1 = 0 after normalisation: stays
        (1.0, 3, 0.50),  # 0 - 1: down
        (0.0, 2, 0.50),  # no memory: down at once
        (2.0, 2, 0.56),  # 2 - 1: still up
    ]:
        found = advkit.MIFGSM(model, eps=0.1, alpha=0.03, steps=steps, decay=decay)(start, torch.tensor([0]))
        torch.testing.assert_close(found, torch.full_like(start, expected), rtol=0, atol=1e-12)


def test_momentum_adds_gradients_and_not_their_signs() -> None:
    """Two features: the gradient's sizes decide which way the sum points, the signs alone would say otherwise."""

    def model(x: Tensor) -> Tensor:
        first = x[:, 0] < 0.51
        slopes = torch.where(first[:, None], torch.tensor([1.0, 3.0]), torch.tensor([1.0, -0.2])).to(x)
        logit = (slopes * x).sum(1)
        return torch.stack([torch.zeros_like(logit), logit], 1)

    start = torch.full((1, 2), 0.5, dtype=torch.float64)
    labels = torch.tensor([0])
    of_gradients = advkit.MIFGSM(model, alpha=0.02, eps=0.1, steps=2)(start, labels)
    of_signs = advkit.MIFGSM(model, alpha=0.02, eps=0.1, steps=2, accumulate="sign")(start, labels)
    torch.testing.assert_close(of_gradients, torch.tensor([[0.54, 0.54]], dtype=torch.float64))
    torch.testing.assert_close(of_signs, torch.tensor([[0.54, 0.52]], dtype=torch.float64))


def test_a_flat_model_moves_nothing_and_divides_by_nothing() -> None:
    """A zero gradient gives no NaN; a subnormal one still has a direction."""
    images = torch.rand(3, 6, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, dtype=torch.long)
    weight = torch.linspace(-1, 1, 6)

    def model(scale: float) -> nn.Module:
        layer = nn.Linear(6, 2, bias=False)
        with torch.no_grad():
            layer.weight.copy_(torch.stack([0 * weight, scale * weight]))
        return layer

    for make in LINF[1:5]:
        assert make(model(0.0), eps=0.1)(images, labels).equal(images)
        assert ((make(model(1e-40), eps=0.1)(images, labels) - images).sign() == weight.sign()).float().mean() > 0.8
    l2 = advkit.PGD(model(0.0), eps=0.1, norm="l2", random_start=False)
    assert l2(images, labels).equal(images)
    moved = advkit.PGD(model(1e-30), eps=0.01, alpha=0.01, steps=1, norm="l2", random_start=False)(images, labels)
    assert moved.sub(images).norm(dim=1).max() > 0.005
