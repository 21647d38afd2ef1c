from collections import deque

import pytest
import torch
from torch import Tensor

from advkit import Untargeted
from advkit._engine import classifier
from advkit._engine.classifier import Classifier
from advkit.errors import AdvkitWarning, InputError, ModelError
from contracts.scenes import IMAGE, conv_net, draw


def test_logits_are_float32_or_better() -> None:
    for dtype, expected in [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)]:
        logits = Classifier(conv_net().to(dtype), {})(draw(2, *IMAGE))
        assert logits.dtype == expected


def test_later_nan_is_noted_and_told_when_asked() -> None:
    answers = iter([torch.zeros(1, 2), torch.tensor([[0.0, torch.nan]]), torch.zeros(1, 2)])
    model = Classifier(lambda x: next(answers), {})
    for _ in range(3):
        model(torch.zeros(1, 3))
    with pytest.raises(ModelError, match="the model returned NaN logits"):
        model.verify()


def test_a_gradient_of_nan_is_noted_and_told_when_asked() -> None:
    model = Classifier(lambda x: x.sqrt(), {})
    x = torch.tensor([[-0.0, 1.0, 4.0]], requires_grad=True)
    values = (model(x) * torch.tensor([0.0, 1.0, 1.0])).sum()  # 0 * inf
    model.verify()
    torch.autograd.grad(values, x)
    with pytest.raises(ModelError, match="the gradient of the model's logits with respect to its images is NaN"):
        model.verify()


def test_the_first_nan_is_to_blame() -> None:
    """What comes after it was computed from it, whichever of the two it was."""
    x = torch.tensor([[-0.0, 1.0]], requires_grad=True)
    for answers, blamed in [
        ([lambda x: x.sqrt(), lambda x: x.log()], "the gradient of the model's logits"),
        ([lambda x: x.abs(), lambda x: x.log() * 0], "the model returned NaN logits"),
    ]:
        says = iter(answers)
        model = Classifier(lambda x, says=says: next(says)(x), {})
        for _ in answers:
            model.gradient((model.logits(x) * torch.tensor([0.0, 1.0])).sum(1), x)
        with pytest.raises(ModelError, match=blamed):
            model.verify()


def test_a_long_search_does_not_keep_everything_until_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_MOST_WATCHED", 10)
    answers = iter([torch.zeros(1, 2)] * 4 + [torch.full((1, 2), torch.nan)] + [torch.zeros(1, 2)] * 20)
    model = Classifier(lambda x: next(answers), {})
    with pytest.raises(ModelError, match="NaN logits"):
        deque(map(model, torch.zeros(20, 1, 3)), maxlen=0)
    assert len(list(answers)) == 14  # one verified at once, then ten at a time


def test_infinite_gradients_of_both_signs_are_looked_at_again() -> None:
    """Their sum is NaN, and they are not."""
    model = Classifier(lambda x: 1e38 * x, {})
    x = torch.ones(1, 4, requires_grad=True)

    def search(model: Classifier) -> Tensor:
        (gradient,) = torch.autograd.grad((model(x) * torch.tensor([9.0, -9.0, 1.0, -2.0])).sum(), x)
        return gradient

    found = model.verified(search)
    torch.testing.assert_close(found, torch.tensor([[2e38, -2e38, 1e38, -2e38]]))
    with pytest.warns(AdvkitWarning, match="infinite, on at least 1 images"):
        model.verify()
    model.verify()


def test_a_gradient_of_nan_is_named_when_looked_at() -> None:
    def search(model: Classifier) -> Tensor:
        x = torch.tensor([[0.0, 1.0]], requires_grad=True)
        return model.gradient((model.logits(x) * torch.tensor([0.0, 1.0])).sum(1), x)

    with pytest.raises(ModelError, match="with respect to its images is NaN; look for a square root"):
        Classifier(lambda x: x.sqrt(), {}).verified(search)


def test_a_large_sum_is_no_infinite_gradient() -> None:
    model = Classifier(lambda x: 3e38 * x, {})
    x = torch.ones(2, 4, requires_grad=True)
    found = model.verified(lambda model: model.gradient(model.logits(x)[:, :2].sum(1), x))
    assert found.max() == 3e38 == found[:, 1].min()
    model.verify()  # without a warning


def test_a_constant_has_no_gradient_behind_an_infinite_slope() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, 4.0]], requires_grad=True)
    model = Classifier(lambda x: x.sqrt(), {})
    found = model.verified(lambda model: model.gradient((model.logits(x) * torch.tensor([[0.0], [1.0]])).sum(1), x))
    assert found.tolist() == [[0.0, 0.0], [0.25, 0.25]]
    with pytest.warns(AdvkitWarning, match="on at least 1 images"):
        model.verify()


def test_it_may_be_asked_about_no_image() -> None:
    """As an attack does that picks rows by a mask."""
    model = Classifier(lambda x: x.flatten(1)[:, :3] * 2, {"labels": torch.tensor([2])})
    for _ in range(2):
        x = torch.zeros(0, 3, 2, 2, requires_grad=True)
        assert model.gradient(model.logits(x).sum(1), x).shape == x.shape
    model.verify()


def test_labels_are_held_against_the_first_answer() -> None:
    with pytest.raises(InputError, match=r"targets must lie in \[0, 3\)"):
        Classifier(lambda x: x, {"labels": torch.tensor([2]), "targets": torch.tensor([3])})(torch.zeros(1, 3))


def test_the_gradient_is_of_the_sum_over_the_batch() -> None:
    """A mean would shrink with the batch, and with it the gradients of large batches to nothing."""
    net = conv_net().double()
    model = Classifier(net, {})
    images, goal = draw(4, *IMAGE).double(), Untargeted(torch.tensor([0, 1, 2, 3]))
    x = images.clone().requires_grad_()
    together = model.gradient(goal.loss(model.logits(x)), x)
    for row in range(4):
        x = images[row : row + 1].clone().requires_grad_()
        alone = model.gradient(goal.rows(torch.tensor([row])).loss(model.logits(x)), x)
        torch.testing.assert_close(alone, together[row : row + 1])
    assert all(parameter.grad is None for parameter in net.parameters())
