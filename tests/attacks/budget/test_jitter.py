"""Jitter against autograd, of the loss as it is written down."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

import advkit
from advkit._engine.ball import LinfBall
from advkit._engine.classifier import Classifier
from advkit._engine.looks import Climb, Look
from advkit.goals import Goal, Targeted, Untargeted
from references.smooth import dyadic_images, smooth_net


@pytest.mark.parametrize("targeted", [False, True])
def test_a_step_is_along_the_loss_over_the_change(targeted: bool) -> None:
    model, images = smooth_net(), dyadic_images(8)
    labels = model(images).argmax(1)
    x = LinfBall(images, 0.5, (0, 1)).sample(torch.Generator().manual_seed(1)).requires_grad_()
    logits = model(x)
    classes = logits.argmax(1).where(torch.arange(8) % 2 == 0, (labels + 1) % 6) if targeted else labels
    goal: Goal = Targeted(classes) if targeted else Untargeted(classes)
    off = ((10 * logits / logits.abs().amax(1, keepdim=True)).softmax(1) - F.one_hot(classes, 6)).square().mean(1)
    size = (x - images).flatten(1).abs().amax(1)
    there = goal.success(logits)
    assert 0 < there.sum() < 8
    loss = -off * size.where(there, 1) if targeted else off / size.where(there, 1)
    (expected,) = torch.autograd.grad(loss.sum(), x, retain_graph=True)

    attack, asked = advkit.Jitter(model, std=0.0), Classifier(model)
    values = goal.climbed(attack._off, logits)
    rows = Climb(x.detach(), goal, LinfBall(images, 1.0, (-9, 9)), 1 / 16)
    moved = attack._step(rows, Look(0, rows.x, logits, values, asked.gradient(values, x), goal)) - x
    assert torch.equal(moved.sign(), expected.sign())
    plain = torch.autograd.grad(goal.climbed(attack._off, model(x)).sum(), x)[0].sign()
    assert targeted or not torch.equal(plain, expected.sign())  # or the change had no part in it


def test_what_comes_back_is_the_closest_that_fooled() -> None:
    model, images = smooth_net(), dyadic_images(8)
    labels = model(images).argmax(1)
    runs = [advkit.Jitter(model, 0.5, 0.05, steps, 10.0, 0.0, False).run(images, labels) for steps in range(1, 13)]
    for before, after in pairwise(runs):
        assert (after.success | ~before.success).all()
        both = before.success & after.success
        assert (after.distance("linf") <= before.distance("linf") + 1e-12)[both].all()
    assert runs[-1].success.all()
    assert (runs[-1].distance("linf") < 0.5).any()
