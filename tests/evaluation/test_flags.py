"""Every kind of masked gradient raises the flag meant for it, and honest networks raise none."""

import math
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from scipy import stats
from torch import nn

import advkit
from advkit import norms
from advkit.attack import Attack
from advkit.defenses import InputTransformation
from advkit.evaluation import flags
from advkit.evaluation.flags import Outcome, beats, compared, probed, rising

EPS = 0.1


def scene(count, seed=0, shift=0.25):
    """Images (N, 1, 8, 8) of four classes: which quarter is the brightest, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = 0.25 + 0.25 * torch.rand(count, 1, 8, 8, generator=generator)
    for quarter in range(4):
        row, column = 4 * (quarter // 2), 4 * (quarter % 2)
        images[labels == quarter, :, row : row + 4, column : column + 4] += shift
    return images, labels


@cache
def trained(adversarially):
    """A small CNN, trained as it is or on PGD's images, and 32 images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()
        )
        net.append(nn.Linear(128, 4))
        attack = advkit.PGD(net, eps=EPS, alpha=EPS / 2, steps=4)
        images, labels = scene(512)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(8 if adversarially else 3):
            for x, y in zip(images.split(64), labels.split(64), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(attack(x, y) if adversarially else x), y).backward()
                optimizer.step()
        optimizer.zero_grad()
    net.eval()
    images, labels = scene(40, seed=1)
    right = net(images).argmax(1) == labels
    assert right.sum() >= 32
    return net, images[right][:32], labels[right][:32]


def usual(model, seed=0):
    random = {"generator": torch.Generator().manual_seed(seed)}
    return {
        str(attack): attack
        for attack in (
            advkit.FGSM(model, eps=EPS),
            advkit.PGD(model, eps=EPS / 2, alpha=EPS / 8, **random),
            advkit.PGD(model, eps=EPS, alpha=EPS / 4, **random),
            advkit.PGD(model, eps=EPS, alpha=EPS / 4, steps=40, **random),
            advkit.MIFGSM(model, eps=EPS, alpha=EPS / 4),
            advkit.PGD(model, eps=0.5, alpha=0.1, norm="l2", **random),
            advkit.SparseL1Descent(model, eps=3.0),
            advkit.DeepFool(model),
            advkit.OnePixel(model, steps=3, popsize=10, **random),
        )
    }


def outcome(attack, images, labels, name=None, protocol=None):
    result = attack.run(images, labels)
    distances = {norm: result.distance(norm) for norm in ("l0", "l1", "l2", "linf")}
    return Outcome(name or str(attack), protocol, attack, result.predictions == labels, distances)


def names(found):
    return [flag.name for flag in found]


class Masked(nn.Module):
    """A network behind a function of it and its images."""

    def __init__(self, net, forward):
        super().__init__()
        self.net = net
        self.answer = forward

    def forward(self, images):
        return self.answer(self.net, images)


class NoisyGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + gradient.abs().mean() * torch.randn_like(gradient)


class BrokenGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return torch.full_like(gradient, torch.nan)


class Turned(torch.autograd.Function):
    """A gradient that leads away from the boundary."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


MASKS = {
    "gradient noise": lambda net, x: net(NoisyGradient.apply(x)),
    "zero gradients": lambda net, x: net((x * 16).round() / 16),
    "saturated softmax": lambda net, x: 100 * net(x),
    "random outputs": lambda net, x: net(x + 0.02 * torch.randn_like(x)),
    "probabilities": lambda net, x: net(x).softmax(1),
    "NaN gradients": lambda net, x: net(BrokenGradient.apply(x)),
    "unbounded attack": lambda net, x: net(Turned.apply(x)),
}


@pytest.mark.parametrize("adversarially", [True, False], ids=["PGD-trained", "plain"])
def test_an_honest_network_raises_none(adversarially):
    net, images, labels = trained(adversarially)
    attacks = usual(net)
    assert probed("none", net, attacks, images, labels) == ()
    images, labels = scene(120, seed=2)
    clean = net(images).argmax(1) == labels
    assert 0.9 < clean.float().mean() <= 1
    outcomes = [outcome(attack, images, labels) for attack in attacks.values()]
    assert compared("none", clean, outcomes) == ()
    if adversarially:
        assert outcomes[3].right.float().mean() > 0.5  # there is robustness to be doubted


@pytest.mark.parametrize("adversarially", [True, False], ids=["PGD-trained", "plain"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_raises_the_flag_meant_for_it(name, adversarially):
    net, images, labels = trained(adversarially)
    model = Masked(net, MASKS[name])
    found = probed("none", model, {}, images, labels)
    also = {"zero gradients": ["unbounded attack"], "NaN gradients": ["unbounded attack"]}
    assert names(found) == [name, *also.get(name, [])]
    assert " of 32 images the " in found[0].sentence
    assert found[0].paper


@pytest.mark.parametrize("name", MASKS)
def test_one_image_of_many_raises_none(name):
    net, images, labels = trained(True)

    def one(net, x):
        return torch.cat([MASKS[name](net, x[:1]), net(x[1:])]) if len(x) == 32 else net(x)

    found = probed("none", Masked(net, one), {}, images, labels)
    assert names(found) == (["NaN gradients"] if name == "NaN gradients" else [])


@pytest.mark.parametrize("change", [lambda z: z.log_softmax(1), lambda z: z - 50, lambda z: z.half().float()])
def test_logits_of_other_kinds_raise_none(change):
    net, images, labels = trained(True)
    assert probed("none", Masked(net, lambda net, x: change(net(x))), {}, images, labels) == ()


class Rounding(InputTransformation):
    differentiable = False

    def forward(self, images):
        return (images * 16).round() / 16


class Jitter(InputTransformation):
    stochastic = True

    def forward(self, images):
        return images + 0.02 * torch.randn_like(images)


@pytest.mark.parametrize(("defense", "name"), [(Rounding(), "zero gradients"), (Jitter(), "random outputs")])
def test_a_defense_is_judged_by_what_attackers_differentiate(defense, name):
    net, images, labels = trained(True)
    model = defense.wrap(net)
    adaptive, naive = (advkit.FGSM(net).on(model, adaptive=adaptive) for adaptive in (True, False))
    assert probed("D", model, {"FGSM": adaptive}, images, labels) == ()
    found = probed("D", model, {"FGSM": naive}, images, labels)
    assert found[0].name == name
    assert "the model behind D" in found[0].sentence


def test_the_mean_over_too_few_draws_is_noise():
    class Storm(InputTransformation):
        stochastic = True
        eot_samples = 1

        def forward(self, images):
            return images + 2 * torch.randn_like(images)

    net, images, labels = trained(False)
    found = probed("storm", Storm().wrap(net), {}, images, labels)
    assert "gradient noise" in names(found)
    assert "raise eot_samples" in str(found)


def test_a_probe_leaves_the_model_as_it_was_and_is_cheap():
    net, images, labels = trained(True)
    calls = []

    def counted(net, x):
        calls.append(len(x))
        return net(x)

    model = Masked(net, counted)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.inference_mode():
        assert probed("none", model, {}, images.clone(), labels) == ()
    assert len(calls) <= 2 + 10 + 1
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert torch.get_rng_state().equal(state)


def test_a_probe_that_raises_is_a_flag_and_no_more():
    def no(net, x):
        raise RuntimeError("not this one")

    net, images, labels = trained(True)
    model = Masked(net, no)
    found = probed("D", model, {"PGD": advkit.PGD(model)}, images, labels)
    assert names(found) == ["not probed", "not probed"]
    assert "gradients of the model behind D, since a probe raised RuntimeError: not this one" in found[0].sentence


def test_other_bounds():
    net, images, labels = trained(True)
    model = Masked(net, lambda net, x: net(x / 255))
    attacks = {"PGD": advkit.PGD(model, eps=255 * EPS, alpha=64 * EPS, bounds=(0.0, 255.0))}
    assert probed("none", model, attacks, 255 * images, labels) == ()


def test_more_steps_help_an_attack_that_stopped_short():
    net, images, labels = trained(False)
    short = advkit.PGD(net, eps=2 * EPS, alpha=EPS / 4, steps=2, random_start=False)
    assert names(probed("none", net, {"short": short}, images, labels)) == ["more steps help"]
    clean = torch.ones_like(labels, dtype=torch.bool)
    long = advkit.PGD(net, eps=2 * EPS, alpha=EPS / 4, steps=40, random_start=False)
    outcomes = [outcome(attack, images, labels) for attack in (short, long)]
    assert names(compared("none", clean, outcomes)) == ["more steps help"]
    assert compared("none", clean, outcomes[1:] * 2) == ()


@dataclass(frozen=True, eq=False)
class Blind(Attack):
    """A black-box attack that is better than it should be."""

    kind = "black-box"
    eps: float = EPS

    def _perturb(self, images, goal):
        return advkit.PGD(self.model.model.net, eps=self.eps, alpha=self.eps / 4)(images, goal.classes)


def test_attacks_that_should_lose_and_win():
    net, images, labels = trained(False)
    masked = Masked(net, MASKS["zero gradients"])
    clean = masked(images).argmax(1) == labels
    images, labels, clean = images[clean], labels[clean], clean[clean]
    pgd, blind = advkit.PGD(masked, eps=EPS, random_start=False), Blind(masked)
    oblivious = outcome(advkit.PGD(net, eps=EPS), images, labels, "PGD", "oblivious")
    oblivious = Outcome("PGD", "oblivious", pgd, masked(images).argmax(1) == labels, oblivious.distances)
    seen = outcome(pgd, images, labels, "PGD", "adaptive")
    assert seen.right.all()
    found = compared("none", clean, [seen, outcome(blind, images, labels, "Blind", "adaptive")])
    assert names(found) == ["black-box beats white-box"]
    # An image that the white-box attack was not allowed to find says nothing about it.
    narrow = outcome(advkit.PGD(masked, eps=EPS / 4, random_start=False), images, labels, "PGD", "adaptive")
    assert compared("none", clean, [narrow, outcome(blind, images, labels, "Blind", "adaptive")]) == ()
    assert compared("none", clean, [oblivious, seen]) == ()
    fallen = Outcome("PGD", "oblivious", pgd, torch.zeros_like(clean), oblivious.distances)
    assert names(compared("D", clean, [fallen, seen])) == ["transfer beats white-box"]
    naive = Outcome("PGD", "naive", pgd, torch.zeros_like(clean), oblivious.distances)
    assert names(compared("D", clean, [naive, seen])) == ["naive beats adaptive"]


def rows(*right):
    return torch.tensor(right, dtype=torch.bool)


def made(attack, right, protocol=None, distance=0.0):
    distances = {norm: torch.full((len(right),), distance) for norm in ("l0", "l1", "l2", "linf")}
    return Outcome(str(attack), protocol, attack, right, distances)


def test_one_step_beats_many_and_accuracy_rises():
    net = trained(True)[0]
    right = torch.arange(100) < 60
    clean = torch.arange(100) < 90
    fgsm, pgd, wide = advkit.FGSM(net), advkit.PGD(net), advkit.PGD(net, eps=16 / 255)
    assert compared("none", clean, [made(fgsm, right), made(pgd, right)]) == ()
    better = torch.arange(100) < 54  # by six images
    assert compared("none", clean, [made(fgsm, better), made(pgd, right)]) == ()
    better = torch.arange(100) < 53  # by seven
    assert names(compared("none", clean, [made(fgsm, better), made(pgd, right)])) == ["one step beats many"]
    found = compared("none", clean, [made(pgd, better), made(wide, right)])
    assert names(found) == ["accuracy rises with eps"]
    assert "53.0 % of the images under PGD with eps=8/255, and on 60.0 % with eps=16/255" in found[0].sentence


def test_above_clean_accuracy():
    net = trained(True)[0]
    clean, right = torch.arange(100) < 80, torch.arange(100) < 90
    found = compared("D", clean, [made(advkit.FGSM(net), right, "oblivious")])
    assert names(found) == ["above clean accuracy"]
    assert "90.0 % of the images under FGSM (oblivious), and on 80.0 % when nobody" in found[0].sentence


def test_unbounded():
    net = trained(True)[0]
    clean = torch.arange(100) < 80
    few = torch.arange(100) < 20
    assert names(compared("none", clean, [made(advkit.PGD(net, eps=0.5), few)])) == ["unbounded attack"]
    assert compared("none", clean, [made(advkit.FGSM(net, eps=0.5), few)]) == ()  # one step may well fail


def test_a_curve_that_rises():
    honest = torch.stack([torch.arange(100) < level for level in (90, 60, 61, 30)])
    assert rising("PGD", (0.0, 0.1, 0.2, 0.3), honest) == ()
    assert rising("PGD", (0.1,), honest[:1]) == ()
    odd = torch.stack([torch.arange(100) < level for level in (90, 60, 64, 70)])
    (flag,) = rising("PGD", (0.0, 0.1, 0.2, 0.3), odd)
    assert flag.name == "accuracy rises with eps"
    assert "60.0 % of the images under PGD with eps=0.1, and on 70.0 % with eps=0.3" in flag.sentence


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (1, 0), (6, 0), (7, 0), (30, 12), (30, 14), (500, 400), (3, 9)])
def test_beats_is_mcnemars_exact_test(won, lost):
    winner = torch.arange(1000) < won
    loser = (torch.arange(1000) >= won) & (torch.arange(1000) < won + lost)
    both = torch.arange(1000) >= 950
    chance = stats.binomtest(won, won + lost, alternative="greater").pvalue if won + lost else 1
    assert beats(winner | both, loser | both) is bool(chance < 0.01)


@pytest.mark.parametrize("p", [0.02, 0.05, 0.5])
@pytest.mark.parametrize("n", [1, 8, 32, 5000])
def test_the_tail_of_the_binomial(n, p):
    for count in {0, 1, n // 2, n, min(n, math.ceil(n * p) + 2)}:
        assert flags._tail(count, n, p) == pytest.approx(stats.binom.sf(count - 1, n, p), rel=1e-9, abs=1e-300)


def test_what_an_attack_was_allowed():
    net, images, labels = trained(True)
    near = outcome(advkit.FGSM(net, eps=EPS), images, labels)
    assert near.allowed(near).all()
    assert not outcome(advkit.FGSM(net, eps=EPS / 2), images, labels).allowed(near).any()
    assert outcome(advkit.DeepFool(net), images, labels).allowed(near).all()
    assert not outcome(advkit.JSMA(net), images, labels).allowed(near).any()
    assert flags.named_norm(advkit.PGD(net, norm="l2")) is norms.L2


def test_a_flag_is_one_line_of_text():
    flag = flags.Flag("a", "b.", "c")
    assert str(flag) == "a: b. (c)"
