"""What goes wrong during an evaluation: an image's fault is reported, the caller's is raised."""

import math
import re
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import advkit
from advkit import errors
from advkit.attack import Attack
from advkit.evaluation import RobustnessReport


class Mean(nn.Module):
    """Class 1 where the pixels' mean is above a half; raises, or says NaN, where an image's mean is ``bad``."""

    def __init__(self, bad=None, says_nan=False):
        super().__init__()
        self.bad = bad
        self.says_nan = says_nan
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        mean = images.flatten(1).mean(1)
        score = mean - 0.5
        if self.bad is not None and bool(((mean - self.bad).abs() < 1e-4).any()):
            if not self.says_nan:
                raise RuntimeError("no such image")
            score = score / 0
        return torch.stack([-score, score], 1)


@dataclass(frozen=True, eq=False)
class Shift(Attack):
    """Takes ``by`` off every pixel, and raises on images whose mean is ``bad``."""

    by: float = 0.1
    bad: float = -1.0

    def _perturb(self, images, goal):
        if bool(((images.flatten(1).mean(1) - self.bad).abs() < 1e-4).any()):
            raise ValueError("not this one")
        return images - self.by


def levels(*values):
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2), torch.ones(len(values), dtype=torch.long)


LOADER = [levels(0.55, 0.7, 0.2), levels(0.9, 0.52, 0.8, 0.58), levels(0.7)]


def test_an_image_on_which_an_attack_raises_is_lost_and_no_other():
    attacks = {"bad": Shift(Mean(), bad=0.52), "good": Shift(Mean())}
    report = advkit.evaluate(Mean(), LOADER, attacks, flags=False)
    (failure,) = report.failures
    assert (failure.batch, failure.rows, failure.attack, failure.defense) == (1, (1,), "bad", "none")
    assert failure.error == "ValueError: not this one"
    bad, good = report.scores
    assert (bad.images, bad.attacked, good.images, good.attacked) == (7, 6, 8, 7)
    assert good.accuracy == 4 / 8  # 0.55, 0.52 and 0.58 fall
    assert bad.accuracy == 4 / 7
    assert (bad.success_rate, good.success_rate) == (2 / 6, 3 / 7)
    assert (report.worst[0].images, report.worst[0].accuracy) == (7, 4 / 7)
    assert report.defenses[0].images == report.images == 8
    assert "1 image lost: bad raised ValueError: not this one" in str(report)
    assert RobustnessReport.from_json(report.to_json()).failures == report.failures


def test_what_was_lost_stays_lost_when_attacks_are_made_in_turn():
    attacks = {"bad": Shift(Mean(), bad=0.52), "good": Shift(Mean())}
    report = advkit.evaluate(Mean(), LOADER, attacks, stop_when_fooled=True, flags=False)
    assert [score.images for score in report.scores] == [7, 7]
    assert report.worst[0].accuracy == 4 / 7


@pytest.mark.parametrize(("says_nan", "error"), [(False, "RuntimeError: no such"), (True, "ModelError: .*NaN logits")])
def test_an_image_that_the_model_cannot_bear_is_lost(says_nan, error):
    if says_nan:

        class Row(Mean):
            def forward(self, images):
                mean = images.flatten(1).mean(1)
                score = torch.where((mean - 0.52).abs() < 1e-4, torch.nan, mean - 0.5)
                return torch.stack([-score, score], 1)

        model = Row()
    else:
        model = Mean(bad=0.52)
    report = advkit.evaluate(model, LOADER, [Shift(model)], {"copy": Mean()}, flags=False)
    assert report.defenses[0].images == 7
    assert report.attacks[0].images == 7
    assert report.defenses[1].images == 8
    places = {(failure.attack, failure.defense, failure.protocol, failure.rows) for failure in report.failures}
    # Shift makes its images without the model, so that the other one can be shown them.
    assert places == {(None, "none", None, (1,))}
    assert re.match(error, report.failures[0].error)


def test_adversarial_images_of_nan_are_lost():
    @dataclass(frozen=True, eq=False)
    class Broken(Attack):
        def _perturb(self, images, goal):
            return torch.where(images < 0.55, torch.nan, images)

    report = advkit.evaluate(Mean(), LOADER, [Broken(Mean())], flags=False)
    assert [failure.rows for failure in report.failures] == [(1,)]
    assert "NaN" in report.failures[0].error


def test_what_fails_on_everything_is_raised():
    with pytest.raises(ValueError, match="not this one"):
        advkit.evaluate(Mean(), [levels(0.7, 0.2), levels(0.7)], [Shift(Mean(), bad=0.7)], flags=False)
    with pytest.raises(RuntimeError, match="no such image"):
        advkit.evaluate(Mean(bad=0.7), [levels(0.7)], [], flags=False)
    with pytest.raises(errors.ModelError, match="NaN logits"):
        advkit.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(4, 2), Nan()), LOADER, [], flags=False)

    def detached(images):
        return Mean()(images.detach())

    with pytest.raises(errors.ModelError, match="no gradient flows"):
        advkit.evaluate(detached, LOADER, [advkit.FGSM(detached)], flags=False)


class Nan(nn.Module):
    def forward(self, logits):
        return logits * math.nan


def test_three_batches_are_enough_to_know():
    given = []

    def batches():
        for _ in range(10):
            given.append(1)
            yield levels(0.7, 0.8)

    @dataclass(frozen=True, eq=False)
    class Never(Attack):
        def _perturb(self, images, goal):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        advkit.evaluate(Mean(), batches(), [Never(Mean())], flags=False)
    assert len(given) == 3


def test_the_callers_mistakes_are_raised_at_once():
    for batch, words in (
        ((levels(0.7)[0], torch.tensor([2])), r"labels must lie in \[0, 2\)"),
        ((levels(0.7)[0] * 2, torch.tensor([1])), "outside bounds"),
    ):
        with pytest.raises(errors.InputError, match=words):
            advkit.evaluate(Mean(), [LOADER[0], batch], [Shift(Mean())], flags=False)

    @dataclass(frozen=True, eq=False)
    class Picky(Attack):
        def _perturb(self, images, goal):
            raise errors.InputError("only images of 32x32")

    model = Mean()
    with pytest.raises(errors.InputError, match="32x32"):
        advkit.evaluate(model, LOADER, [Picky(model)], flags=False)
    assert model.calls == 1


def test_an_interrupt_is_no_failure():
    @dataclass(frozen=True, eq=False)
    class Interrupted(Attack):
        def _perturb(self, images, goal):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advkit.evaluate(Mean(), LOADER, [Interrupted(Mean())], flags=False)


def test_empty_batches_and_other_dtypes():
    empty = (torch.empty(0, 1, 2, 2), torch.empty(0, dtype=torch.long))
    whole = advkit.evaluate(Mean(), LOADER, [advkit.FGSM(Mean(), eps=0.1)], flags=False)
    for dtype in (torch.float64, torch.bfloat16):
        loader = (pair for x, y in LOADER for pair in ((x.to(dtype), y.int()), empty))
        report = advkit.evaluate(Mean(), loader, [advkit.FGSM(Mean(), eps=0.1)])
        assert report.images == 8
        assert report["FGSM(eps=0.1)"].accuracy == whole["FGSM(eps=0.1)"].accuracy


def test_what_is_hopeless_is_not_tried_for_long():
    given = []

    @dataclass(frozen=True, eq=False)
    class Never(Attack):
        def _perturb(self, images, goal):
            given.append(len(images))
            raise ZeroDivisionError

    many = torch.full((1024, 1, 2, 2), 0.9), torch.ones(1024, dtype=torch.long)
    with pytest.raises(ZeroDivisionError):
        advkit.evaluate(Mean(), [many], [Never(Mean())], flags=False)
    assert sum(given) < 3.1 * 1024  # in place of 11 * 1024


def test_a_mistake_can_be_mended_and_the_run_goes_on(tmp_path):
    broken = [True]

    @dataclass(frozen=True, eq=False)
    class Mended(Attack):
        def _perturb(self, images, goal):
            if broken:
                raise ZeroDivisionError
            return images

    with pytest.raises(ZeroDivisionError):
        advkit.evaluate(Mean(), LOADER, [Mended(Mean())], run_folder=tmp_path)
    broken.clear()
    report = advkit.evaluate(Mean(), LOADER, [Mended(Mean())], run_folder=tmp_path)
    assert not report.failures


@pytest.mark.parametrize(
    "output", [torch.zeros(()), torch.zeros(3), (torch.zeros(1, 2), torch.ones(1, 2)), torch.zeros(1, 2).int()]
)
def test_models_whose_answers_are_no_logits(output):
    with pytest.raises(errors.ModelError, match="the model returned"):
        advkit.evaluate(lambda images: output, [levels(0.7)], [], flags=False)
