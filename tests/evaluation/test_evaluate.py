import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit import errors, norms
from advkit.attack import Attack
from advkit.evaluation import batch_evaluator


class Threshold(nn.Module):
    """Class 1 where the pixels' mean is above a half. Counts the images that it sees."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        score = self.scale * (images.flatten(1).mean(1) - 0.5)
        return torch.stack([-score, score], 1)


@dataclass(frozen=True, eq=False)
class Shift(Attack):
    """Takes ``by`` off every pixel; remembers the batches that it was given."""

    by: float = 0.1
    scales: tuple[float, ...] = (1.0, math.inf)

    def _perturb(self, images, goal):
        self.model.model.batches.append(images)
        return images - self.by


def levels(*values):
    """Images (N, 1, 2, 2) of one grey each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


@pytest.fixture
def model():
    model = Threshold()
    model.batches = []
    return model


@pytest.fixture
def loader():
    """Six images in two batches: the model is wrong on 0.2 and 0.7 (the last), right on the rest."""
    return [
        (levels(0.55, 0.2, 0.65), torch.tensor([1, 1, 1])),
        (levels(0.9, 0.4, 0.7), torch.tensor([1, 0, 0])),
    ]


def test_counts_accuracies_and_medians_by_hand(model, loader):
    report = advkit.evaluate(model, loader, {"little": Shift(model, by=0.1), "much": Shift(model, by=0.2)})
    assert report.images == 6
    assert report.clean_accuracy == pytest.approx(4 / 6)
    little, much = report.attacks
    # Right are 0.55, 0.65, 0.9 (class 1) and 0.4 (class 0). Off by 0.1 only 0.55 falls, by 0.2 also 0.65.
    assert (little.accuracy, little.success_rate) == (3 / 6, 1 / 4)
    assert (much.accuracy, much.success_rate) == (2 / 6, 2 / 4)
    assert little.median_linf == pytest.approx(0.1, abs=1e-6)
    assert little.median_l2 == pytest.approx(0.2, abs=1e-6)  # four pixels
    assert much.median_l2 == pytest.approx(0.4, abs=1e-6)
    assert report["much"] is much
    assert little.seconds_per_image > 0


def test_median_is_over_the_successes_alone(model):
    images = levels(0.6, 0.55, 0.1, 0.95)
    images[2, 0, 0] = 1.0  # mean 0.55, and the darker half has only 0.1 to lose
    report = advkit.evaluate(model, [(images, torch.ones(4, dtype=torch.long))], [Shift(model, by=0.3)])
    assert report.attacks[0].success_rate == 3 / 4  # 0.95 holds
    assert report.attacks[0].median_l2 == pytest.approx(0.6, abs=1e-6)  # of 0.6, 0.6 and less
    report = advkit.evaluate(model, [(images[1:3], torch.ones(2, dtype=torch.long))], [Shift(model, by=0.3)])
    clipped = math.sqrt(2 * 0.1**2 + 2 * 0.3**2)
    assert report.attacks[0].median_l2 == pytest.approx((0.6 + clipped) / 2, abs=1e-6)  # of two, halfway


def test_only_images_that_were_right_are_attacked(model, loader):
    advkit.evaluate(model, loader, [Shift(model)], flags=False)
    attacked = torch.cat(model.batches)[:, 0, 0, 0]
    torch.testing.assert_close(attacked, torch.tensor([0.55, 0.65, 0.9, 0.4]))
    assert model.seen == 6 + 4  # once clean, and once to judge each adversarial image; Shift itself does not look


def test_fgsm_on_a_linear_model_has_its_closed_form(model, loader):
    # FGSM moves every pixel by eps towards the wrong side: it fools where the mean is within eps of a half.
    report = advkit.evaluate(model, loader, [advkit.FGSM(model, eps=0.12)])
    assert report.attacks[0].success_rate == 2 / 4  # 0.55 and 0.4
    assert report.attacks[0].median_l2 == pytest.approx(0.24, abs=1e-6)
    assert model.scale.grad is None


def test_attacks_are_pointed_at_the_model(model, loader):
    elsewhere = Threshold()
    advkit.evaluate(model, loader, [advkit.FGSM(elsewhere)])
    assert elsewhere.seen == 0


def test_the_loader_is_gone_through_once(model, loader):
    attacks = [advkit.FGSM(model, eps=0.12), Shift(model)]
    from_generator = advkit.evaluate(model, (batch for batch in loader), attacks)
    from_list = advkit.evaluate(model, loader, attacks)
    for one, other in zip(from_generator.attacks, from_list.attacks, strict=True):
        assert (one.accuracy, one.median_l2) == (other.accuracy, other.median_l2)


def test_batching_does_not_matter(model, loader):
    whole = TensorDataset(*map(torch.cat, zip(*loader, strict=True)))
    for size in (1, 4, 6):
        report = advkit.evaluate(model, DataLoader(whole, batch_size=size), [Shift(model)])
        assert (report.clean_accuracy, report.attacks[0].accuracy) == (4 / 6, 3 / 6)


def test_an_attack_without_success_and_one_without_images(model, loader):
    report = advkit.evaluate(model, loader, [advkit.FGSM(model, eps=0.0)])
    score = report.attacks[0]
    assert (score.accuracy, score.success_rate) == (4 / 6, 0)
    assert math.isnan(score.median_l2)
    assert math.isnan(score.median_linf)
    wrong = [(levels(0.2, 0.3), torch.tensor([1, 1]))]
    score = advkit.evaluate(model, wrong, [Shift(model)]).attacks[0]
    assert score.accuracy == 0
    assert math.isnan(score.success_rate)
    assert math.isnan(score.seconds_per_image)
    assert not model.batches


def test_the_model_is_left_as_it_was(loader):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 2)).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    advkit.evaluate(model, loader, [advkit.FGSM(model)])
    assert (model.training, model[1].training) == (True, False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_names_are_the_attacks_and_differ(model, loader):
    attacks = [advkit.FGSM(model), advkit.FGSM(model), advkit.FGSM(model, eps=4 / 255), advkit.FGSM(model)]
    names = [score.name for score in advkit.evaluate(model, loader, attacks).attacks]
    assert names == ["FGSM", "FGSM #2", "FGSM(eps=4/255)", "FGSM #3"]


def test_arguments_are_plain(model, loader):
    attacks = [advkit.PGD(model, norm=norms.L2, generator=torch.Generator()), Shift(model)]
    pgd, shift = advkit.evaluate(model, loader, attacks).attacks
    assert (pgd.attack, shift.attack) == ("PGD", "Shift")
    assert pgd.arguments == {
        "bounds": [0.0, 1.0],
        "autocast": None,
        "eps": 8 / 255,
        "alpha": 2 / 255,
        "steps": 10,
        "random_start": True,
        "norm": "L2",
        "early_stop": False,
        "loss": "ce",
        "eot_samples": 1,
        "mask": None,
        "levels": None,
    }
    assert shift.arguments["scales"] == [1.0, "inf"]


def test_time_is_that_of_the_attack(model, loader, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(batch_evaluator.time, "perf_counter", lambda: float(next(clock)))
    report = advkit.evaluate(model, loader, [Shift(model)], flags=False)
    # Two batches, each from one reading of the clock to the next: two seconds for four images.
    assert report.attacks[0].seconds_per_image == 0.5
    assert report.attacks[0].prediction_seconds == 0.5 + 0.5  # and two seconds to judge them
    assert report.defenses[0].prediction_seconds == 2 / 6


def test_nothing_to_evaluate(model):
    for empty in ([], iter([]), [(levels(), torch.empty(0, dtype=torch.long))]):
        with pytest.raises(errors.InputError, match="the loader has no images"):
            advkit.evaluate(model, empty, [advkit.FGSM(model)])


def test_a_batch_that_is_no_pair(model, loader):
    images, labels = loader[0]
    for batch, words in (
        (images, "batch 1 is a Tensor$"),
        ((images,), "batch 1 is a tuple of Tensor$"),
        ((images, labels.tolist()), "batch 1 is a tuple of Tensor, list"),
        ({"image": images}, "batch 1 is a dict"),
    ):
        with pytest.raises(errors.DtypeError, match=words):
            advkit.evaluate(model, [loader[0], batch], [advkit.FGSM(model)])


def test_images_and_labels_are_checked_before_the_model_sees_them(model):
    for images, labels, words in (
        (levels(0.5) * 255, torch.tensor([1]), "outside bounds"),
        (levels(0.5), torch.tensor([1, 0]), "labels must have shape"),
        ((levels(0.5) * 255).byte(), torch.tensor([1]), "images must be floating"),
    ):
        with pytest.raises(errors.InputError, match=words):
            advkit.evaluate(model, [(images, labels)], [advkit.FGSM(model)])
    assert model.seen == 0
    with pytest.raises(errors.InputError, match=r"labels must lie in \[0, 2\)"):
        advkit.evaluate(model, [(levels(0.5), torch.tensor([2]))], [])


def test_attacks_that_are_none(model, loader):
    with pytest.raises(errors.DtypeError, match="a list of attacks"):
        advkit.evaluate(model, loader, advkit.FGSM(model))
    with pytest.raises(errors.DtypeError, match="objects such as"):
        advkit.evaluate(model, loader, [advkit.FGSM])
    with pytest.raises(errors.InputError, match="for each image of one batch; to evaluate it, omit starting_points"):
        advkit.evaluate(model, loader, [advkit.HopSkipJump(model, starting_points=torch.zeros(3, 3, 8, 8))])
    with pytest.raises(errors.InputError, match="eps for each image of one batch"):
        advkit.evaluate(model, loader, [advkit.FGSM(model, eps=torch.tensor([0.1, 0.2, 0.3]))])
    with pytest.raises(errors.InputError, match="to evaluate it, omit starting_points, or attack each batch"):
        advkit.evaluate(model, loader, [advkit.HopSkipJump(model, starting_points=torch.rand(2, 1, 1, 2))])
    with pytest.raises(errors.DtypeError, match="model must be callable"):
        advkit.evaluate(None, loader, [])
