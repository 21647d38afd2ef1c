from dataclasses import dataclass

import pytest
import torch
from torch import nn

import advkit
from advkit import errors, norms
from advkit.attack import Attack
from advkit.black_box import BlackBox
from advkit.evaluation.metrics import wilson
from advkit.evaluation.security import SecurityCurve, security_curve
from contracts.scenes import Passes, trained_net


class Threshold(nn.Module):
    """Class 1 where the pixels' mean is above a half."""

    def forward(self, images):
        score = images.flatten(1).mean(1) - 0.5
        return torch.stack([-score, score], 1)


def levels(*values):
    """Images (N, 1, 2, 2) of one grey each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


IMAGES, LABELS = levels(0.55, 0.65, 0.9, 0.4, 0.2), torch.tensor([1, 1, 1, 0, 1])  # wrong on the last
EPS = (0.0, 0.08, 0.12, 0.2, 0.45)
EXPECTED = [[1, 1, 1, 1, 0], [0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]


@pytest.mark.parametrize("make", [advkit.FGSM, advkit.IFGSM, lambda model: advkit.DeepFool(model, norm="linf")])
def test_by_hand(make):
    curve = security_curve(make(Threshold()), IMAGES, LABELS, eps=EPS[::-1])
    assert curve.eps == EPS
    assert curve.norm is norms.Linf
    assert curve.right.int().tolist() == EXPECTED
    assert curve.accuracy == curve.worst == (0.8, 0.6, 0.4, 0.2, 0.0)
    assert curve.interval == tuple(wilson(share, 5) for share in curve.accuracy)
    assert curve.flags == ()


@pytest.mark.parametrize("attack", ["FGSM", "MIFGSM", "PGD", "L1"])
def test_it_is_one_run_for_each_budget(attack):
    model, images, labels = trained_net()
    labels = labels.clone()
    labels[3] = (labels[3] + 1) % 4  # one that is wrong to begin with
    eps = (0.02, 0.06, 0.15)
    made = {
        "FGSM": lambda value: advkit.FGSM(model, eps=value),
        "MIFGSM": lambda value: advkit.MIFGSM(model, eps=value, alpha=value / 4),
        "PGD": lambda value: advkit.PGD(model, eps=value, alpha=value / 4, norm="l2", random_start=False),
        "L1": lambda value: advkit.SparseL1Descent(model, eps=20 * value),
    }[attack]
    budgets = [20 * value for value in eps] if attack == "L1" else eps
    curve = security_curve(made(0.1), images, labels, eps=budgets)
    for row, value in zip(curve.right, eps, strict=True):
        alone = made(value).run(images, labels)
        assert row.equal((alone.predictions == labels) & (torch.arange(8) != 3))


def test_all_budgets_are_in_one_pass_and_what_is_wrong_is_not_attacked():
    model = Passes(Threshold())
    security_curve(advkit.MIFGSM(model, steps=3), IMAGES, LABELS, eps=EPS)
    assert model.backwards == [4 * 4] * 3
    model = Passes(Threshold())
    security_curve(advkit.MIFGSM(model, steps=3), IMAGES, LABELS, eps=[0.0])
    assert model.backwards == []


def test_a_minimal_attack_runs_once_and_fails_at_every_budget_or_none():
    @dataclass(frozen=True, eq=False)
    class Some(Attack):
        kind = "minimal"
        norm = norms.L2

        def _perturb(self, images, goal):
            ran.append(len(images))
            return images.where(images < 0.6, torch.zeros_like(images)).where(images > 0.5, images)

    ran = []
    curve = security_curve(Some(Threshold()), IMAGES, LABELS, eps=[0.5, 1.2, 1.4, 9])
    assert ran == [4]
    # 0.55 and 0.4 stay; 0.65 falls at an L2 of 1.3, 0.9 at 1.8.
    assert curve.norm is norms.L2
    assert curve.right.int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1, 0, 0, 1, 0]]
    curve = security_curve(Some(Threshold()), IMAGES, LABELS, eps=[0.7], norm="linf")
    assert curve.right.int().tolist() == [[1, 0, 1, 1, 0]]


def test_one_minimal_run_is_the_whole_curve_with_its_mean_and_median():
    curve = security_curve(advkit.DeepFool(Threshold(), norm="linf"), IMAGES, LABELS)
    assert curve.eps[0] == 0
    assert curve.eps[-1] == curve.distances.amax()
    assert curve.accuracy[0] == 0.8  # one is wrong to begin with
    assert curve.accuracy[-1] == 0
    expected = sorted(float(each) for each in curve.distances if each > 0)
    assert len(expected) == 4
    assert curve.mean == pytest.approx(sum(expected) / 4)
    assert curve.median == pytest.approx(expected[2])
    assert "on average, median" in str(curve)
    for eps, accuracy in zip(curve.eps, curve.accuracy, strict=True):
        assert accuracy == sum(each > eps for each in expected) / 5
    halves = [(IMAGES[:2], LABELS[:2]), (IMAGES[2:], LABELS[2:])]
    assert security_curve(advkit.DeepFool(Threshold(), norm="linf"), halves).distances.equal(curve.distances)
    assert security_curve(advkit.FGSM(Threshold()), IMAGES, LABELS, eps=EPS).median is None
    with pytest.raises(errors.InputError, match="eps needs at least one budget"):
        security_curve(advkit.FGSM(Threshold()), IMAGES, LABELS)


def test_a_loader_gives_what_one_batch_gives():
    whole = security_curve(advkit.FGSM(Threshold()), IMAGES, LABELS, eps=EPS)
    batches = [(IMAGES[:2], LABELS[:2]), (IMAGES[:0], LABELS[:0]), (IMAGES[2:], LABELS[2:])]
    parts = security_curve(advkit.FGSM(Threshold()), iter(batches), eps=EPS)
    assert parts.right.equal(whole.right)


def test_an_accuracy_that_rises_is_shown_and_flagged():
    @dataclass(frozen=True, eq=False)
    class Odd(Attack):
        eps: float = 0.1

        def _perturb(self, images, goal):
            close = (self.eps < 0.2).view(-1, 1, 1, 1)
            return (images - 0.2).where(close, images)

    images, labels = levels(*[0.6] * 9, *[0.9] * 3), torch.ones(12, dtype=torch.int64)
    curve = security_curve(Odd(Threshold()), images, labels, eps=[0, 0.1, 0.3])
    assert curve.accuracy == (1.0, 0.25, 1.0)
    assert curve.worst == (1.0, 0.25, 0.25)
    (flag,) = curve.flags
    assert flag.name == "accuracy rises with eps"
    assert str(flag) in str(curve)


def test_the_table():
    right = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.bool)
    assert str(SecurityCurve("PGD", norms.Linf, (0.0, 8 / 255, 0.5), right)).splitlines() == [
        "PGD, Linf, 4 images",
        "",
        "  eps  accuracy    95 % interval  up to eps",
        "-------------------------------------------",
        "    0    100.0%  51.0% to 100.0%     100.0%",
        "8/255     75.0%   30.1% to 95.4%      75.0%",
        "  0.5      0.0%    0.0% to 49.0%       0.0%",
    ]


class Blind(BlackBox):
    def _search(self, ask, images, heights):
        return images


def test_what_cannot_be_measured():
    model = Threshold()
    fgsm = advkit.FGSM(model)
    for arguments, message in [
        ({"eps": [-1]}, r"eps\[0\] must be at least 0"),
        ({"eps": []}, "eps needs at least one budget"),
        ({"eps": [1], "norm": "l2"}, "norm cannot be 'l2'"),
    ]:
        with pytest.raises(errors.InputError, match=message):
            security_curve(fgsm, IMAGES, LABELS, **arguments)
    with pytest.raises(errors.InputError, match="needs a positive number as its own eps"):
        security_curve(advkit.FGSM(model, eps=0.0), IMAGES, LABELS, eps=[1])
    with pytest.raises(errors.InputError, match="has no norm for its distances"):
        security_curve(Blind(model), IMAGES, LABELS, eps=[1])
    assert security_curve(Blind(model), IMAGES, LABELS, eps=[1], norm="l0").accuracy == (0.8,)
    with pytest.raises(errors.DtypeError, match="need labels"):
        security_curve(fgsm, IMAGES, eps=[1])
    with pytest.raises(errors.InputError, match="there are no images"):
        security_curve(fgsm, [], eps=[1])
    with pytest.raises(errors.InputError, match=r"labels must lie in \[0, 2\)"):
        security_curve(fgsm, IMAGES, LABELS + 1, eps=[1])
    with pytest.raises(errors.InputError, match=r"outside bounds"):
        security_curve(fgsm, 2 * IMAGES, LABELS, eps=[1])


def test_a_random_attack_draws_from_its_generator():
    model, images, labels = trained_net()
    state = torch.get_rng_state()
    curves = [
        security_curve(advkit.PGD(model, generator=torch.Generator().manual_seed(1)), images, labels, eps=[0.1, 0.2])
        for _ in range(2)
    ]
    assert curves[0].right.equal(curves[1].right)
    assert torch.get_rng_state().equal(state)


def test_a_bar_shows_the_way(capsys):
    pytest.importorskip("tqdm")
    security_curve(advkit.FGSM(Threshold()), [(IMAGES, LABELS)], eps=EPS, progress=True)
    assert "security_curve" in capsys.readouterr().err
