import pytest
import torch
from torch.nn import functional as F

from advkit import losses

LOGITS = torch.tensor([[3.0, 1.0, 0.5, -2.0], [-5.0, -1.0, -3.0, -2.0], [0.0, 2.0, 2.0, 1.0]], dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1])


def test_cross_entropy_is_per_image() -> None:
    found = losses.cross_entropy(LOGITS, LABELS)
    torch.testing.assert_close(found, -LOGITS.log_softmax(1)[torch.arange(3), LABELS])
    assert found.mean().item() == pytest.approx(F.cross_entropy(LOGITS, LABELS).item())


def test_margin() -> None:
    """The second row's logits are all negative: a mask of zero would make its margin -3."""
    torch.testing.assert_close(losses.margin(LOGITS, LABELS), torch.tensor([2.0, -2.0, 0.0]).double())
    torch.testing.assert_close(losses.best_other(LOGITS, LABELS), torch.tensor([1.0, -1.0, 2.0]).double())


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
def test_margin_and_dlr_do_not_see_a_shift(shift: float) -> None:
    torch.testing.assert_close(losses.margin(LOGITS + shift, LABELS), losses.margin(LOGITS, LABELS))
    torch.testing.assert_close(losses.dlr(LOGITS + shift, LABELS), losses.dlr(LOGITS, LABELS))
    logs = LOGITS.log_softmax(1)
    torch.testing.assert_close(losses.margin(logs, LABELS), losses.margin(LOGITS, LABELS))


def test_dlr_by_hand() -> None:
    """-(Z_y - max_{i != y} Z_i) / (Z_(1) - Z_(3)): -2 / 2.5, 2 / 2, 0 / 1."""
    torch.testing.assert_close(losses.dlr(LOGITS, LABELS), torch.tensor([-0.8, 1.0, 0.0]).double())
    torch.testing.assert_close(losses.dlr(7 * LOGITS, LABELS), losses.dlr(LOGITS, LABELS))


def test_dlr_of_two_classes_and_of_ties() -> None:
    two = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    torch.testing.assert_close(losses.dlr(two, torch.tensor([0, 1])), torch.tensor([2.0, 0.0]))
    ties = torch.ones(1, 5, requires_grad=True)
    loss = losses.dlr(ties, torch.tensor([2]))
    assert loss.isfinite().all()


@pytest.mark.parametrize("loss", [losses.cross_entropy, losses.margin, losses.dlr, losses.best_other])
def test_gradients(loss: object) -> None:
    logits = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert callable(loss)
    assert torch.autograd.gradcheck(lambda z: loss(z, torch.tensor([0, 4, 2, 2])), logits)
    assert loss(logits[:0], torch.empty(0, dtype=torch.long)).shape == (0,)


def test_targeted_dlr_by_hand() -> None:
    """(Z_t - Z_y) / (Z_(1) - (Z_(3) + Z_(4)) / 2): -2.5 / 3.75, 1 / 3, -1 / 1.5."""
    targets = torch.tensor([2, 3, 3])
    expected = torch.tensor([-2.5 / 3.75, 1 / 3, -1 / 1.5]).double()
    torch.testing.assert_close(losses.targeted_dlr(LOGITS, LABELS, targets), expected)
    torch.testing.assert_close(losses.targeted_dlr(7 * LOGITS - 2, LABELS, targets), expected)


@pytest.mark.parametrize("classes", [2, 3, 4, 10])
def test_targeted_dlr_is_nowhere_flat(classes: int) -> None:
    logits = torch.linspace(1, -1, classes).square().mul(3).add(torch.linspace(2, 0, classes))[None].requires_grad_()
    ranked = logits.detach().argsort(1, descending=True)[0]
    for target in ranked[1:]:
        loss = losses.targeted_dlr(logits, ranked[:1], target[None])
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient[0, target] > 0.05
        assert loss < 0


def test_masked_classes_leave_dlr_finite_gradients() -> None:
    logits = torch.tensor([[3.0, 1.0, -torch.inf, -torch.inf, 0.0]], requires_grad=True)
    for target, finite in ((1, True), (4, True), (2, False)):
        loss = losses.targeted_dlr(logits, torch.tensor([0]), torch.tensor([target]))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert bool(loss.isfinite()) is finite
        assert gradient.isfinite().all()


@pytest.mark.parametrize("mask", [-1e9, -3e38, torch.finfo(torch.float32).min, -torch.inf])
def test_a_masked_class_in_the_lead_leaves_dlr_a_gradient(mask: float) -> None:
    """As the label or as the target: the gradient of what is over a spread is over its square."""
    logits = torch.tensor([[0.03, 0.02, mask, -0.01, 0.01]], requires_grad=True)
    masked, other = torch.tensor([2]), torch.tensor([1])
    for loss in (
        losses.dlr(logits, masked),
        losses.targeted_dlr(logits, masked, other),
        losses.targeted_dlr(logits, other, masked),
    ):
        (gradient,) = torch.autograd.grad(loss, logits)
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0


def test_log_odds_are_what_cross_entropy_is_the_softplus_of() -> None:
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 5
    labels = torch.arange(50) % 7
    odds = losses.log_odds(logits, labels)
    torch.testing.assert_close(torch.nn.functional.softplus(odds), losses.cross_entropy(logits, labels))
    probability = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    torch.testing.assert_close(odds, ((1 - probability) / probability).log())


@pytest.mark.parametrize("mask", [-1e9, torch.finfo(torch.float32).min, -torch.inf])
def test_masked_logits_leave_the_others_their_losses(mask: float) -> None:
    live = torch.tensor([[3.0, 1.0], [-5.0, -1.0], [0.5, 0.25]], requires_grad=True)
    logits = torch.cat([live, torch.full((3, 3), mask)], 1)
    labels = torch.tensor([0, 0, 1])
    for loss in (losses.cross_entropy, losses.margin, losses.dlr):
        found, expected = loss(logits, labels), loss(live, labels)
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(values.sum(), live, retain_graph=True)[0] for values in (found, expected)]
        torch.testing.assert_close(*gradients)
