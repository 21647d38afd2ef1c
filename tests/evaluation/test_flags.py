"""Every kind of masked gradient raises the flag meant for it, and honest networks raise none."""

import math
from dataclasses import dataclass

import pytest
import torch
from scipy import stats

import advkit
from advkit import norms
from advkit.attack import Attack
from advkit.defenses import InputTransformation
from advkit.evaluation import flags
from advkit.evaluation.comparison import compared
from advkit.evaluation.flags import beats, rising
from advkit.evaluation.outcomes import Outcome
from advkit.evaluation.probes import probed
from advkit.evaluation.tries import Survivors
from evaluation.masked import EPS, Masked, scene, trained


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
    "rounded logits": lambda net, x: net(x) + 1e6,
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
    found = compared("none", clean, outcomes, labels)
    if adversarially:  # in Linf; PGD in L2 leaves 91 %, however many steps it takes, and DeepFool 76 %
        assert names(found) == ["minimal beats budget"]
        assert "falls to DeepFool within L2 0.5 on " in found[0].sentence
        found = compared("none", clean, [one for one in outcomes if getattr(one.attack, "norm", None) != "l2"], labels)
    assert found == ()
    if adversarially:
        assert outcomes[3].right.float().mean() > 0.5  # there is robustness to be doubted


@pytest.mark.parametrize("adversarially", [True, False], ids=["PGD-trained", "plain"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_raises_the_flag_meant_for_it(name, adversarially):
    net, images, labels = trained(adversarially)
    model = Masked(net, MASKS[name])
    found = probed("none", model, {}, images, labels)
    assert names(found) == [name]
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
    assert "raise that defense's eot_samples" in str(found)


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
    assert len(calls) <= 5 + 13 + 1 + 10 + 1
    assert sum(calls) <= (5 + 10 + 1) * len(images) + 4 * 13 + 8
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
    assert names(found) == ["not probed"]
    assert (
        "the gradients of the model behind D could not be examined, since a probe raised RuntimeError: not this one"
        in found[0].sentence
    )


def test_other_bounds():
    net, images, labels = trained(True)
    model = Masked(net, lambda net, x: net(x / 255))
    attacks = {"PGD": advkit.PGD(model, eps=255 * EPS, alpha=64 * EPS, bounds=(0.0, 255.0))}
    assert probed("none", model, attacks, 255 * images, labels) == ()


def test_more_steps_help_an_attack_that_stopped_short():
    net, images, labels = trained(False)
    short = advkit.PGD(net, eps=2 * EPS, alpha=EPS / 4, steps=2, random_start=False)
    left = ~short.run(images, labels).success
    survivors = Survivors(norms.Linf, 2 * EPS, "short", short, images[left], labels[left])
    (flag,) = probed("none", net, {"short": short}, images, labels, [survivors])
    assert flag.name == "more steps help"
    assert f"short failed on {int(left.sum())} images of the model, and fools " in flag.sentence
    clean = torch.ones_like(labels, dtype=torch.bool)
    long = advkit.PGD(net, eps=2 * EPS, alpha=EPS / 4, steps=40, random_start=False)
    outcomes = [outcome(attack, images, labels) for attack in (short, long)]
    assert names(compared("none", clean, outcomes)) == ["steps too short", "more steps help"]
    assert compared("none", clean, outcomes[1:] * 2) == ()
    # What another attack with the budget fools as well is no reason for more steps.
    other = advkit.MIFGSM(net, eps=2 * EPS, alpha=EPS / 4)
    both = Outcome("other", None, other, outcomes[1].right, outcomes[1].distances)
    assert names(compared("none", clean, [*outcomes, both])) == ["steps too short"]


@dataclass(frozen=True, eq=False)
class Blind(Attack):
    """A black-box attack that is better than it should be."""

    access = "decisions"
    eps: float = EPS

    def _perturb(self, images, goal):
        result = advkit.PGD(self.model.model.net, eps=self.eps, alpha=self.eps / 4).run(images, goal.classes)
        fools = goal.success(self.model(result.images))
        return result.images.where(fools[:, None, None, None], images)


def test_attacks_that_should_lose_and_win():
    net, images, labels = trained(False)
    masked = Masked(net, MASKS["zero gradients"])
    clean = masked(images).argmax(1) == labels
    images, labels, clean = images[clean], labels[clean], clean[clean]
    pgd, blind = advkit.PGD(masked, eps=EPS, alpha=EPS / 4, random_start=False), Blind(masked)
    oblivious = outcome(advkit.PGD(net, eps=EPS), images, labels, "PGD", "oblivious")
    oblivious = Outcome("PGD", "oblivious", pgd, masked(images).argmax(1) == labels, oblivious.distances)
    seen = outcome(pgd, images, labels, "PGD", "adaptive")
    assert seen.right.all()
    found = compared("none", clean, [seen, outcome(blind, images, labels, "Blind", "adaptive")])
    assert names(found) == ["black-box beats white-box"]
    # An image that the white-box attack was not allowed to find says nothing about it.
    narrow = advkit.PGD(masked, eps=EPS / 4, alpha=EPS / 4, random_start=False)
    narrow = outcome(narrow, images, labels, "PGD", "adaptive")
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
    assert "90.0 % of the images under FGSM (oblivious), and on 80.0 % without" in found[0].sentence


def test_unbounded():
    net = trained(True)[0]
    clean, few, labels = torch.arange(100) < 80, torch.arange(100) < 40, torch.arange(100) % 4
    anything = advkit.PGD(net, eps=0.5, alpha=0.1)
    for attack in (anything, advkit.DeepFool(net)):
        assert names(compared("none", clean, [made(attack, few)], labels)) == ["unbounded attack"]
        # Of one class alone the model may know no other: who always says it is right, whatever the image.
        assert compared("none", clean, [made(attack, few)], torch.zeros_like(labels)) == ()
    one_step = compared("none", clean, [made(advkit.FGSM(net, eps=0.5), few)], labels)
    assert names(one_step) == ["no iterative attack"]  # which may well fail


def test_an_attack_that_cannot_reach_its_budget_is_told_so_and_no_more():
    net = trained(True)[0]
    clean, labels = torch.arange(100) < 90, torch.arange(100) % 4
    fgsm = made(advkit.FGSM(net, eps=0.5), torch.arange(100) < 20, distance=0.5)
    for attack in (advkit.MIFGSM(net, eps=0.5, alpha=0.01), advkit.PGD(net, eps=0.5, alpha=1e-5)):
        found = compared("none", clean, [fgsm, made(attack, torch.arange(100) < 60)], labels)
        assert names(found) == ["steps too short"]
        assert "lead no further than" in found[0].sentence
    short = made(advkit.PGD(net, eps=8 / 255, alpha=1 / 255, steps=4), torch.arange(100) < 60)
    assert "4 steps of 1/255 lead no further than 4/255 " in compared("none", clean, [short], labels)[0].sentence
    enough = advkit.MIFGSM(net, eps=0.5, alpha=0.05)
    assert compared("none", clean, [made(enough, torch.arange(100) < 0)], labels) == ()


@dataclass(frozen=True, eq=False)
class Guess(Attack):
    """A black-box attack with a budget."""

    access = "scores"
    eps: float = EPS
    norm: str = "linf"

    def _perturb(self, images, goal):
        return images


@dataclass(frozen=True, eq=False)
class OnMargin(advkit.PGD):
    """Known by its loss to go by differences of logits."""

    loss: str = "margin"


def test_a_random_search_that_takes_a_few_images_after_thorough_attacks():
    net = trained(True)[0]
    clean, right = torch.arange(1000) < 900, torch.arange(1000) < 500
    guess = made(Guess(net), clean & ~((torch.arange(1000) >= 490) & right), distance=EPS)
    steps = {"eps": EPS, "alpha": EPS / 4, "steps": 50}
    rivals = [made(advkit.PGD(net, **steps), right), made(OnMargin(net, **steps), right)]
    assert names(compared("none", clean, [*rivals, guess])) == ["black-box beats white-box"]
    assert compared("none", clean, [rivals[0], guess]) == ()  # cross-entropy alone may well have missed some
    few = made(Guess(net), clean & ~((torch.arange(1000) >= 498) & right), distance=EPS)
    assert compared("none", clean, [*rivals, few]) == ()
    further = made(Guess(net), guess.right, distance=2 * EPS)
    assert compared("none", clean, [*rivals, further]) == ()


def test_what_does_not_last():
    net = trained(True)[0]
    clean = torch.ones(100, dtype=torch.bool)
    pgd, many, few = made(advkit.PGD(net), ~clean), torch.arange(100) < 20, torch.arange(100) < 5
    for attack in (advkit.CW(net), advkit.OnePixel(net)):
        found = compared("none", clean, [pgd, made(attack, many, distance=0.1)])
        assert names(found) == ["success does not last"]
        assert "returned 100 changed images as fooling the model, which is right on 20" in found[0].sentence
        assert compared("none", clean, [pgd, made(attack, few, distance=0.1)]) == ()
    returned = made(advkit.CW(net), torch.arange(100) < 20)  # unchanged, which is how a minimal attack fails
    assert "success does not last" not in names(compared("none", clean, [returned]))


def test_attacks_that_are_missing():
    net = trained(True)[0]
    clean = right = torch.arange(100) < 50
    one, iterative, blind = advkit.FGSM(net), advkit.PGD(net), advkit.OnePixel(net)
    assert names(compared("none", clean, [made(one, right)])) == ["no iterative attack"]
    assert names(compared("none", clean, [made(blind, right)])) == ["no gradient attack"]
    assert compared("none", clean, [made(one, right), made(iterative, right), made(blind, right)]) == ()
    assert compared("none", clean, [made(one, ~right & right)]) == ()  # nothing is left to be doubted


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
        assert flags.tail(count, n, p) == pytest.approx(stats.binom.sf(count - 1, n, p), rel=1e-9, abs=1e-300)


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
