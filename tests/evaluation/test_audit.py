"""One question about a model's gradients, and its answer image by image."""

import pytest
import torch
from torch import nn

import advkit
from advkit._engine.run import Done
from advkit.errors import InputError
from advkit.evaluation import verdict
from advkit.evaluation.audit import audit
from advkit.evaluation.passes import Passes, counting
from evaluation.masked import EPS, Masked, scene, trained

PLAIN, ROBUST = trained(False)[0], trained(True)[0]


def asked(model, attack=None, count=80, **arguments):
    """An audit of what PGD leaves, with the images and the rows that it left."""
    images, labels = scene(count, seed=2)
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    images, labels = images[right], labels[right]
    attack = attack or advkit.PGD(model, eps=EPS, alpha=EPS / 4, steps=20, random_start=False)
    left = ~attack.on(model).run(images, labels).success
    return audit(attack.on(model), images, labels, left, **arguments), images, labels, left


def test_honest_gradients_are_believed():
    found, _, _, left = asked(ROBUST)
    assert left.sum() >= 12
    assert (found.verdict, found.causes, found.believed) == ("believed", (), True)
    assert not found.doubted.any()
    assert found.share == 0
    assert found.examined.sum() >= 64


class Turned(torch.autograd.Function):
    """The identity, whose gradient has other signs in half of the pixels."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        signs = torch.randint(2, gradient.shape[1:], generator=torch.Generator().manual_seed(1)) * 2 - 1
        return gradient * signs


def sometimes(net, x):
    """Another answer at every ninth call."""
    net.calls = getattr(net, "calls", 0) + 1
    return (ROBUST if net.calls % 9 == 0 else net)(x)


@pytest.mark.parametrize(
    ("forward", "verdict", "cause"),
    [
        (lambda net, x: net(Turned.apply(x)), "misleading", "misleading gradients"),
        (lambda net, x: net((x * 7).round() / 7), "misleading", "zero gradients"),
        (lambda net, x: 100 * net(x), "misleading", "saturated softmax"),
        (sometimes, "unstable", "random outputs"),
    ],
)
def test_what_is_wrong_is_said_and_where(forward, verdict, cause):
    found, *_ = asked(Masked(PLAIN, forward))
    assert (found.verdict, found.believed) == (verdict, False)
    assert cause in [flag.name for flag in found.causes]
    assert found.doubted.any()
    assert not (found.doubted & ~found.examined).any()
    assert found.share > 0


def linear():
    """Which of four means an image is like: a network whose gradient is the same everywhere."""
    images, labels = scene(512)
    means = torch.stack([images[labels == label].mean(0) for label in range(4)]).flatten(1) - images.mean(0).flatten()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    net[1].weight.data, net[1].bias.data = means, -means @ images.mean(0).flatten()
    return net


def judged(model, norm, eps, monkeypatch):
    """What the audits of a verdict concluded, and the verdict's passes for each image."""
    concluded, passes = [], Passes()

    def listened(*arguments, **numbers):
        found = audit(*arguments, **numbers)
        concluded.append(found.verdict)
        return found

    monkeypatch.setattr(verdict, "audit", listened)
    images, labels = scene(40, seed=2)
    with counting(model, passes):
        report = advkit.evaluate(model, [(images, labels)], "standard", norm=norm, eps=eps, flags=False, progress=False)
    assert report.robust.sum() > 10
    return concluded, (passes.forwards + passes.backwards) / len(labels)


@pytest.mark.parametrize(
    ("net", "norm", "eps"),
    [
        (PLAIN, "linf", EPS / 2),
        (Masked(PLAIN, lambda net, x: 100 * net(x)), "l2", 0.3),  # saturated, but attacked by differences of logits
        (ROBUST, "linf", EPS),
        (ROBUST, "l2", 0.5),
        (linear(), "linf", EPS),
        (linear(), "l2", 0.5),
    ],
)
def test_a_verdict_believes_an_honest_network_and_is_cheap(net, norm, eps, monkeypatch):
    """Where it does not believe, what follows takes some 2,600 passes for each image that is left."""
    concluded, passes = judged(net, norm, eps, monkeypatch)
    assert concluded == ["believed"]
    assert passes < 450


@pytest.mark.parametrize("scale", [1, 100])
def test_a_verdict_does_not_believe_a_masked_network(scale, monkeypatch):
    tried = []

    def left_alone(look, images, labels, wanted):
        tried.append(wanted)
        return Done(images.clone(), None)

    monkeypatch.setattr(verdict.SecondLook, "_more", left_alone)
    masked = Masked(ROBUST, lambda net, x: scale * net(Turned.apply(x)))
    concluded, _ = judged(masked, "linf", EPS / 2, monkeypatch)
    assert "believed" not in concluded  # or none was asked, since what gradients promised did not come
    assert len(tried) == 1
    assert tried[0].all()


def test_what_a_search_fools_is_no_longer_robust():
    short = advkit.PGD(PLAIN, eps=2 * EPS, alpha=EPS / 4, steps=2, random_start=False)
    found, images, labels, left = asked(PLAIN, short)
    assert (found.verdict, found.believed) == ("stronger attacks", True)
    assert [flag.name for flag in found.causes] == ["more steps help"]
    assert found.fooled.sum() > 0
    assert not (found.fooled & ~left).any()
    long = advkit.PGD(PLAIN, eps=2 * EPS, alpha=EPS / 4, steps=40).run(images, labels).success
    assert (long & found.fooled).sum() >= 0.9 * found.fooled.sum()


def test_it_takes_no_more_passes_than_it_may_and_says_how_many():
    counted = Passes()
    with counting(ROBUST, counted):
        asked_of, *_ = asked(ROBUST)
        searching = asked_of.forwards + asked_of.backwards
    assert 0 < searching < counted.forwards + counted.backwards
    look = asked(ROBUST, passes=0)[0]
    looking = look.forwards + look.backwards
    cheap = asked(ROBUST, passes=looking + 1500)[0]
    assert looking < cheap.forwards + cheap.backwards < searching
    assert asked(ROBUST, passes=looking + 1500)[0].forwards == cheap.forwards


def test_too_little_to_look_at():
    images, labels = scene(8, seed=2)
    attack = advkit.PGD(ROBUST, eps=EPS)
    few = audit(attack, images[:3], labels[:3], torch.ones(3, dtype=torch.bool))
    assert (few.verdict, few.believed) == ("unknown", False)
    none = audit(attack, images[:0], labels[:0], torch.ones(0, dtype=torch.bool))
    assert none.verdict == "unknown"
    assert none.share != none.share
    nothing_left = audit(attack, images, labels, torch.zeros(8, dtype=torch.bool))
    assert nothing_left.verdict == "believed"
    with pytest.raises(InputError, match="DeepFool has none"):
        audit(advkit.DeepFool(ROBUST), images, labels, torch.ones(8, dtype=torch.bool))
