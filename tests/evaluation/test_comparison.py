"""Flags that a whole evaluation raises, from its records."""

from dataclasses import dataclass

import torch
from torch import nn

import advkit
from advkit.attack import Attack
from advkit.defenses import InputTransformation


class Threshold(nn.Module):
    """Class 1 where the pixels' mean is above a half."""

    def forward(self, images):
        score = images.flatten(1).mean(1) - 0.5
        return torch.stack([-score, score], 1)


class Rounding(InputTransformation):
    differentiable = False

    def forward(self, images):
        return (images * 64).round() / 64


@dataclass(frozen=True, eq=False)
class Blind(Attack):
    """Sees nothing, and takes ``by`` off every pixel; raises on an image that is all ``bad``."""

    access = "decisions"
    by: float = 8 / 255
    bad: float = -1.0

    def _perturb(self, images, goal):
        if (images == self.bad).flatten(1).all(1).any():
            raise RuntimeError("not this one")
        return images - self.by


def loader(*batches):
    """Batches of so many images of class 1, all of the grey 0.52, with one of 0.9 at the end of each."""
    made = [torch.tensor([0.52] * count + [0.9]).view(-1, 1, 1, 1).expand(-1, 1, 4, 4) for count in batches]
    return [(images, torch.ones(len(images), dtype=torch.int64)) for images in made]


def names(report):
    return [flag.name for flag in report.flags]


def test_an_honest_evaluation_has_no_flag():
    model = Threshold()
    attacks = [advkit.FGSM(model), advkit.PGD(model), advkit.DeepFool(model), Blind(model)]
    report = advkit.evaluate(model, loader(20, 5), attacks, [Rounding()], ("adaptive",))
    assert report.flags == ()


def test_who_stands_still_is_beaten_by_who_sees_nothing_and_by_who_knows_nothing():
    model = Threshold()
    attacks = {"PGD": advkit.PGD(model, random_start=False), "blind": Blind(model)}
    report = advkit.evaluate(model, loader(20, 5), attacks, {"rounding": Rounding()}, ("oblivious", "naive"))
    assert report.score("PGD", "rounding", "naive").accuracy == 1
    assert names(report) == ["zero gradients", "transfer beats white-box", "black-box beats white-box"]
    assert "the model behind rounding falls to blind (naive)" in report.flags[2].sentence
    assert " on 25 images " in report.flags[2].sentence
    # Who knows of the defense differentiates what stands in for it, and loses to nobody. The naive one still does.
    report = advkit.evaluate(model, loader(20, 5), attacks, {"rounding": Rounding()})
    assert report.score("PGD", "rounding", "adaptive").accuracy == 2 / 27
    assert names(report) == ["transfer beats white-box"]
    assert "that the naive attacker fails on" in report.flags[0].sentence


def test_a_few_images_raise_none_and_nor_do_attacks_that_saw_different_ones():
    model = Threshold()
    attacks = {"PGD": advkit.PGD(model, random_start=False), "blind": Blind(model)}
    assert names(advkit.evaluate(model, loader(6), attacks, [Rounding()])) == []
    fooled = advkit.evaluate(model, loader(20, 5), attacks, [Rounding()], stop_when_fooled=True)
    assert names(fooled) == []
    assert advkit.evaluate(model, loader(20, 5), attacks, [Rounding()], flags=False).flags == ()


def test_images_that_errors_cost_are_left_out():
    model = Threshold()
    attacks = {"PGD": advkit.PGD(model, random_start=False), "blind": Blind(model, bad=0.9)}
    report = advkit.evaluate(model, loader(20, 5), attacks, {"rounding": Rounding()}, ("naive",))
    assert len(report.failures) > 0
    assert names(report) == ["zero gradients", "black-box beats white-box"]
    assert " on 25 images " in report.flags[1].sentence
