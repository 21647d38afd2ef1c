"""What all attacks together leave: an image that a minimal attack fooled counts only where a budget allows it."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import advkit
from advkit import errors
from advkit.attack import Attack
from advkit.evaluation.report import RobustnessReport


class Threshold(nn.Module):
    """Class 1 where the pixels' mean is above a half."""

    def forward(self, images):
        score = images.flatten(1).mean(1) - 0.5
        return torch.stack([-score, score], 1)


@dataclass(frozen=True, eq=False)
class Down(Attack):
    """Takes ``by`` off every pixel, without a look at the model."""

    access = "decisions"
    aim = "minimal"
    by: float = 0.3

    def _perturb(self, images, goal):
        return images - self.by


def loader():
    images = torch.tensor([0.51, 0.52, 0.6, 0.7, 0.9]).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return [(images, torch.ones(5, dtype=torch.int64))]


def test_a_minimal_attack_counts_within_the_budget():
    model = Threshold()
    attacks = {"PGD": advkit.PGD(model, eps=0.03), "DeepFool": advkit.DeepFool(model), "far": Down(model)}
    report = advkit.evaluate(model, loader(), attacks, flags=False)
    assert [report[name].accuracy for name in attacks] == [3 / 5, 0, 1 / 5]
    (worst,) = report.worst
    assert (worst.accuracy, worst.within) == (3 / 5, {"linf": 0.03})
    # A wider budget allows what the others found as well, and so does one in another norm.
    wide = attacks | {"wide": advkit.PGD(model, eps=0.31, steps=1, alpha=1e-9, random_start=False)}
    assert advkit.evaluate(model, loader(), wide, flags=False).worst[0].accuracy == 1 / 5
    l2 = attacks | {"L2": advkit.PGD(model, norm="l2", eps=0.45, steps=1, alpha=1e-9, random_start=False)}
    (worst,) = advkit.evaluate(model, loader(), l2, flags=False).worst
    assert (worst.accuracy, worst.within) == (2 / 5, {"l2": 0.45, "linf": 0.03})
    # Without any budget all that attacks find counts.
    free = {name: attacks[name] for name in ("DeepFool", "far")}
    (worst,) = advkit.evaluate(model, loader(), free, flags=False).worst
    assert (worst.accuracy, worst.within) == (0, {})
    assert RobustnessReport.from_json(report.to_json()) == report


def test_an_image_that_fell_beyond_the_budget_is_attacked_again():
    model = Threshold()
    attacks = {"far": Down(model), "PGD": advkit.PGD(model, eps=0.03)}
    whole, fast = (
        advkit.evaluate(model, loader(), attacks, flags=False, stop_when_fooled=stop) for stop in (False, True)
    )
    assert fast.worst == whole.worst
    assert fast["PGD"].attacked == 5
    assert fast.worst[0].accuracy == 3 / 5


class Detached(Threshold):
    def forward(self, images):
        return super().forward(images.detach())


def test_attacks_that_need_no_gradient_are_carried_out_where_there_is_none(tmp_path):
    model = Detached()
    attacks = {"PGD": advkit.PGD(model), "CW": advkit.CW(model), "down": Down(model, by=0.15)}
    for _ in range(2):  # and found again in the folder
        report = advkit.evaluate(model, loader() * 4, attacks, run_folder=tmp_path)
        assert report["down"].accuracy == 2 / 5
        assert report["PGD"].accuracy != report["PGD"].accuracy
        assert (report["PGD"].images, report["PGD"].attacked) == (0, 0)
        assert report.worst[0].accuracy == 1  # what "down" did is beyond the budget of PGD
        flag, *others = report.flags
        assert flag.name == "gradients refused"
        assert [one.name for one in others] == ["success does not last"]  # "down" returns whatever it made
        assert "so that PGD, CW could not be carried out" in flag.sentence
        assert {failure.attack for failure in report.failures} == {"PGD", "CW"}
    assert "down" in str(report)
    with pytest.raises(errors.NoGradientError, match="no gradient flows"):
        advkit.evaluate(model, loader(), [advkit.PGD(model)])


def test_a_surrogate_for_a_model_that_stands_alone():
    class Rounded(Threshold):
        def forward(self, images):
            return super().forward((images * 50).round() / 50)

    model, attacks = Rounded(), {"PGD": advkit.PGD(Threshold(), eps=0.15, random_start=False)}
    alone = advkit.evaluate(model, loader(), attacks, flags=False)
    helped = advkit.evaluate(model, loader(), attacks, flags=False, surrogate=Threshold())
    assert alone["PGD"].accuracy == 1
    assert helped["PGD"].accuracy == 2 / 5
    assert helped.defenses[0].defense == "Rounded"
    with pytest.raises(errors.DtypeError):
        advkit.evaluate(model, loader(), attacks, surrogate="the smooth one")


@pytest.mark.parametrize(
    ("attacks", "kinds"),
    [
        ([advkit.FGSM(Threshold())], (True, True, True, True)),
        ([advkit.PGD(Threshold())], (False, True, True, True)),
        ([advkit.PGD(Threshold()), advkit.DeepFool(Threshold())], (False, False, True, True)),
        ([Down(Threshold())], (True, True, True, False)),
    ],
)
def test_what_was_not_tried_is_said(attacks, kinds):
    report = advkit.evaluate(Threshold(), loader(), attacks, flags=False)
    names = ("an attack of many steps along gradients", "a loss other than cross-entropy", "several random starts")
    names = (*names, "an attack that sees only outputs")
    assert report.not_tried == tuple(name for name, missing in zip(names, kinds, strict=True) if missing)
    words = report.to_markdown()
    assert (f"Not tried: {', '.join(report.not_tried)}." in words) is (report.worst[0].accuracy > 0)
