"""Defenses, and who attacks them."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

import advkit
from advkit import Defense, errors
from advkit.attack import Attack
from advkit.defenses import InputTransformation
from contracts.scenes import Passes, Rounding, said_by, trained_net

EPS = 0.25


class Jitter(InputTransformation):
    stochastic = True
    eot_samples = 5

    def forward(self, images):
        return images + 0.3 * torch.randn(images.shape)


@pytest.fixture
def scene():
    """A network with its passes counted, and batches of images of which it gets some wrong."""
    net, images, labels = trained_net()
    images = torch.cat([images, 1 - images, images.flip(3), 0.7 * images + 0.15])
    labels = labels.repeat(4)
    return Passes(net), images, labels, list(zip(images.split(10), labels.split(10), strict=True))


def accuracy(model, images, labels):
    return float((said_by(model, images) == labels).float().mean())


def same(one, other):
    """Whether two scores say the same, but for times."""
    return replace(one, prediction_seconds=0, seconds_per_image=0) == replace(
        other, prediction_seconds=0, seconds_per_image=0
    )


def test_the_three_protocols_by_hand(scene):
    net, images, labels, loader = scene
    attack = advkit.FGSM(net, eps=EPS)
    defended = Rounding().wrap(net)
    report = advkit.evaluate(net, loader, {"FGSM": attack}, {"rounding": Rounding()}, flags=False)
    assert report.defenses[1].accuracy == pytest.approx(accuracy(defended, images, labels))
    for protocol, adversarials in (
        ("oblivious", attack(images, labels)),
        ("naive", attack.on(defended, adaptive=False)(images, labels)),
        ("adaptive", attack.on(defended)(images, labels)),
    ):
        right = said_by(defended, images) == labels
        kept = right & (said_by(defended, adversarials) == labels)
        score = report.score("FGSM", "rounding", protocol)
        assert score.accuracy == pytest.approx(float(kept.float().mean()))
        assert score.success_rate == pytest.approx(1 - float(kept.sum() / right.sum()))
        assert score.attacked == int(right.sum())
    bare = report["FGSM"]
    assert bare.accuracy == pytest.approx(accuracy(net, attack(images, labels), labels), abs=1e-6)
    found = [report.score("FGSM", "rounding", protocol).accuracy for protocol in advkit.evaluation.PROTOCOLS]
    assert found[1] == report.defenses[1].accuracy  # flat to the naive attacker
    assert found[2] < found[1]


def test_only_the_protocols_asked_for(scene):
    net, _, _, loader = scene
    report = advkit.evaluate(net, loader, [advkit.FGSM(net)], [Rounding()], ("adaptive", "naive"), flags=False)
    assert [(score.defense, score.protocol) for score in report.scores] == [
        ("none", None),
        ("Rounding", "naive"),
        ("Rounding", "adaptive"),
    ]
    assert [worst.protocol for worst in report.worst] == [None, "naive", "adaptive"]
    with pytest.raises(errors.InputError, match="each of the protocols must be one of"):
        advkit.evaluate(net, loader, [], protocols=["grey"])


def test_passes_are_those_of_the_network(scene):
    net, _, _, loader = scene
    attacks = {"FGSM": advkit.FGSM(net), "PGD": advkit.PGD(net, steps=3)}
    report = advkit.evaluate(net, loader, attacks, {"jitter": Jitter()}, flags=False)
    for name, steps in (("FGSM", 1), ("PGD", 3)):
        for protocol, draws in (("oblivious", 1), ("naive", 1), ("adaptive", 5)):
            score = report.score(name, "jitter", protocol)
            assert (score.forwards_per_image, score.backwards_per_image) == (steps * draws, steps * draws)
    deepfool = advkit.evaluate(net, loader[:1], [advkit.DeepFool(net)], flags=False).attacks[0]
    net.forwards.clear()
    net.backwards.clear()
    images, labels = loader[0]
    right = said_by(net, images) == labels
    net.forwards.clear()
    advkit.DeepFool(net)(images[right], labels[right])
    count = int(right.sum())
    assert deepfool.forwards_per_image == pytest.approx(sum(net.forwards) / count)
    assert deepfool.backwards_per_image == pytest.approx(sum(net.backwards) / count)


def test_nothing_is_done_twice(scene):
    """The bare model is attacked once, whoever sees the images; and who knows no more attacks no more."""
    net, _, _, loader = scene
    trained, _, _ = trained_net(seed=3)
    trained = Passes(trained)
    bare = [advkit.evaluate(net, loader, [advkit.FGSM(net)], flags=False)]
    alone = len(net.backwards)
    net.backwards.clear()
    both = advkit.evaluate(net, loader, [advkit.FGSM(net)], {"trained": trained}, flags=False)
    # The images that only the other gets right are made as well, for each batch at most once more.
    assert len(net.backwards) <= 2 * alone
    assert len(trained.backwards) == sum(bool((said_by(trained, x) == y).any()) for x, y in loader)
    assert same(both["FGSM"], bare[0]["FGSM"])
    assert same(
        both.score("FGSM", "trained", "adaptive"),
        replace(both.score("FGSM", "trained", "naive"), protocol="adaptive"),
    )
    calls = []

    class Asking(advkit.black_box.BlackBox):
        def _search(self, ask, images, heights):
            calls.append(len(images))
            return images

    advkit.evaluate(net, loader[:1], [Asking(net)], {"rounding": Rounding()}, ("naive", "adaptive"), flags=False)
    assert len(calls) == 2  # bare and rounding


def test_a_random_model_is_judged_by_the_mean_over_draws():
    class Fickle(Defense):
        """Right in the first and in every third draw after it, whatever it is asked."""

        stochastic = True

        def __init__(self):
            self.calls = 0

        def wrap(self, model):
            class Wrapped(nn.Module):
                def forward(_, images):
                    self.calls += 1
                    return model(images) * (1 if self.calls % 3 == 1 else -1)

            return Wrapped()

        def surrogate(self, model):
            return model

    class Bright(nn.Module):
        def forward(self, images):
            mean = images.flatten(1).mean(1) - 0.5
            return torch.stack([-mean, mean], 1)

    images = torch.tensor([0.9, 0.8, 0.1, 0.3]).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels = torch.tensor([1, 1, 0, 1])  # the last is wrong
    attack = advkit.FGSM(Bright(), eps=0.0)
    report = advkit.evaluate(Bright(), [(images, labels)], {"FGSM": attack}, {"fickle": Fickle()}, draws=6, flags=False)
    clean = report.defenses[1]
    assert (report.defenses[0].draws, clean.draws) == (1, 6)
    assert clean.accuracy == pytest.approx((3 * 2 + 1 * 4) / 24)
    assert sum(count for *_, count in clean.confusion) == 24
    assert clean.interval == pytest.approx(advkit.evaluation.metrics.wilson(10 / 24, 4))
    score = report.score("FGSM", "fickle")
    # Every image is right in some draw; the vote of the draws is right for the last alone.
    assert (score.accuracy, score.attacked) == (pytest.approx(10 / 24), 4)
    assert score.success_rate == 0


def test_reports_repeat_and_leave_the_random_numbers_alone(scene):
    net, _, _, loader = scene
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    attacks = {"PGD": advkit.PGD(net, eps=EPS, steps=2, generator=generator)}

    def evaluated(**arguments):
        return advkit.evaluate(net, loader, attacks, {"jitter": Jitter()}, draws=3, flags=False, **arguments)

    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one, other, another = evaluated(), evaluated(), evaluated(seed=7)
    assert torch.equal(torch.rand(3), expected)
    assert all(map(same, one.scores, other.scores))
    assert not all(map(same, one.scores, another.scores))
    assert torch.equal(generator.get_state(), before)
    # The bare model's images do not depend on who else is there.
    assert same(advkit.evaluate(net, loader, attacks, flags=False)["PGD"], one["PGD"])
    evaluated(seed=None)
    assert not torch.equal(generator.get_state(), before)


@dataclass(frozen=True, eq=False)
class Darken(Attack):
    """Takes ``by`` off the images whose first pixel is below ``only``, and remembers what it was given."""

    by: float = 0.5
    only: float = 1.0

    def _perturb(self, images, goal):
        SEEN.append(len(images))
        dark = images.flatten(1)[:, 0] < self.only
        return images - self.by * dark.view(-1, 1, 1, 1)


SEEN = []


class Mean(nn.Module):
    def forward(self, images):
        mean = images.flatten(1).mean(1) - 0.5
        return torch.stack([-mean, mean], 1)


LEVELS = torch.tensor([0.6, 0.7, 0.8, 0.9, 0.2]).view(5, 1, 1, 1).expand(5, 1, 2, 2)
ONES = torch.ones(5, dtype=torch.int64)


def test_the_worst_case_is_per_image():
    attacks = {"dim": Darken(Mean(), by=0.5, only=0.65), "shift": Darken(Mean(), by=0.25)}
    report = advkit.evaluate(Mean(), [(LEVELS, ONES)], attacks, flags=False)
    # dim fools 0.6; shift 0.6 and 0.7.
    assert [score.accuracy for score in report.scores] == [3 / 5, 2 / 5]
    assert report.worst[0].accuracy == 2 / 5
    attacks = {"dim": Darken(Mean(), by=0.5, only=0.65), "rest": Darken(Mean(), by=0.0)}
    report = advkit.evaluate(Mean(), [(LEVELS, ONES)], attacks, flags=False)
    assert report.worst[0].accuracy == 3 / 5


def test_who_is_fooled_is_not_attacked_again():
    attacks = {"dim": Darken(Mean(), by=0.5, only=0.65), "shift": Darken(Mean(), by=0.25), "none": Darken(Mean(), by=0)}
    SEEN.clear()
    whole = advkit.evaluate(Mean(), [(LEVELS, ONES)], attacks, flags=False)
    assert SEEN == [4, 4, 4]
    SEEN.clear()
    stopped = advkit.evaluate(Mean(), [(LEVELS, ONES)], attacks, stop_when_fooled=True, flags=False)
    assert SEEN == [4, 3, 2]
    assert [score.accuracy for score in stopped.scores] == [3 / 5, 2 / 5, 2 / 5]
    assert [score.success_rate for score in stopped.scores] == [1 / 4, 1 / 3, 0]
    assert stopped.worst[0].accuracy == whole.worst[0].accuracy == 2 / 5
    assert "left" in str(stopped)


def test_stopping_leaves_the_worst_case_of_defenses_as_it_is(scene):
    net, _, _, loader = scene
    attacks = [advkit.FGSM(net, eps=EPS / 2), advkit.MIFGSM(net, eps=EPS), advkit.OnePixel(net, steps=1, popsize=3)]
    deterministic = attacks[:2]
    defenses = {"rounding": Rounding(), "trained": trained_net(seed=3)[0]}
    whole = advkit.evaluate(net, loader, deterministic, defenses, flags=False)
    stopped = advkit.evaluate(net, loader, deterministic, defenses, stop_when_fooled=True, flags=False)
    assert stopped.worst == whole.worst
    assert stopped.scores[-1].accuracy == stopped.worst[-1].accuracy
    advkit.evaluate(net, loader, attacks, {"jitter": Jitter()}, stop_when_fooled=True, draws=2, flags=False)


def test_defenses_that_are_none(scene):
    net, _, _, loader = scene

    class Blind(Defense):
        differentiable = False

        def wrap(self, model):
            return nn.Sequential(Rounding(), model)

    for defenses, error, words in (
        ({"none": Rounding()}, errors.InputError, "that is the bare model"),
        ([3], errors.DtypeError, "or defended models"),
        (Rounding(), errors.DtypeError, "defenses must be a list of defenses"),
        ([Defense()], errors.InputError, "does not wrap models"),
        ([Blind()], errors.ModelError, "Blind is not differentiable and has no surrogate"),
    ):
        with pytest.raises(error, match=words):
            advkit.evaluate(net, loader, [advkit.FGSM(net)], defenses)
    assert not net.forwards
    names = [one.name for one in advkit.evaluate(net, loader, [], [Rounding(), Rounding()], flags=False).defenses]
    assert names == ["none", "Rounding", "Rounding #2"]


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("how", [torch.jit.script, lambda net: lambda images: net(images)])
def test_models_that_have_no_hooks_are_counted_too(scene, how):
    net, _, _, loader = scene
    attacks, defenses = [advkit.FGSM(net)], {"jitter": Jitter()}
    whole = advkit.evaluate(net.model, loader, attacks, defenses, draws=2)
    report = advkit.evaluate(how(net.model), loader, attacks, defenses, draws=2)
    for one, other in zip(report.scores, whole.scores, strict=True):
        assert (one.accuracy, one.forwards_per_image) == (other.accuracy, other.forwards_per_image)
        assert one.backwards_per_image == other.backwards_per_image > 0
