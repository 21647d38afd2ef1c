"""`evaluate` flags what looks robust and is not, with its cause, and tells honest models no untruth."""

import copy
import math

import pytest
import torch
from torch import nn

import advkit
from advkit._io.progress import Bar
from advkit.defenses import InputTransformation
from advkit.evaluation.batch_evaluator import BatchEvaluator
from advkit.evaluation.passes import Passes, counting
from advkit.evaluation.plan import Contender, planned_attacks
from advkit.evaluation.pool import Pool
from advkit.evaluation.searches import helped
from advkit.evaluation.tries import Survivors
from advkit.norms import Linf, column
from evaluation.masked import EPS, Masked, scene, trained

PLAIN, ROBUST = trained(False)[0], trained(True)[0]
BUDGET = [
    advkit.FGSM(PLAIN, eps=EPS),
    advkit.PGD(PLAIN, eps=EPS, alpha=EPS / 4, steps=20),
    advkit.MIFGSM(PLAIN, eps=EPS, alpha=EPS / 4),
]
OTHERS = [advkit.CW(PLAIN), advkit.DeepFool(PLAIN), advkit.PixelSwap(PLAIN, max_swaps=4)]


class Backward(torch.autograd.Function):
    """The identity, whose gradient is a function of the gradient and the images."""

    @staticmethod
    def forward(ctx, images, change):
        ctx.change = change
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx, gradient):
        return ctx.change(gradient, *ctx.saved_tensors), None


def rounded(x, levels=7):
    return (x * levels).round() / levels


def drawn(x):
    """Noise for each image, which depends on the image."""
    seeds = (x.detach().double().flatten(1).sum(1) * 1e6).long().tolist()
    return torch.stack([torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def most_pixels_rounded(net, x):
    keep = torch.zeros(8, 8)
    keep[::4, ::4] = 1
    return net(keep * x + (1 - keep) * rounded(x))


def another_network(net, x):
    other = ROBUST(x)
    return other + (net(x) - other).detach()


def most_gradients_cut(net, x):
    kept = torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) < 0.1
    return net(Backward.apply(x, lambda gradient, _: gradient * kept))


def signs_changed(net, x):
    signs = torch.randint(2, (8, 8), generator=torch.Generator().manual_seed(1)) * 2 - 1
    return net(Backward.apply(x, lambda gradient, _: gradient * signs))


def noisy_by_image(net, x):
    return net(
        Backward.apply(x, lambda g, images: g + 5 * g.abs().flatten(1).mean(1).view(-1, 1, 1, 1) * drawn(images))
    )


def answers_by_image(net, x):
    return ROBUST(x + 0.15 * drawn(x))


def under_autograd(net, x):
    return net(x) if torch.is_grad_enabled() else ROBUST(x)


def lower_half_detached(net, x):
    return net(torch.cat([x[:, :, :4], x[:, :, 4:].detach()], 2))


def some_signs_changed(net, x):
    """One sign in six."""
    signs = 1 - 2 * (torch.rand(8, 8, generator=torch.Generator().manual_seed(1)) < 1 / 6).float()
    return ROBUST(Backward.apply(x, lambda gradient, _: gradient * signs))


def centre_cut(net, x):
    """Four pixels of 64 have no gradient."""
    kept = torch.ones(8, 8)
    kept[3:5, 3:5] = 0
    return ROBUST(Backward.apply(x, lambda gradient, _: gradient * kept))


def nearest(x):
    """The image that is nearest among those that `evaluated` looks at, and how far it is in Linf."""
    return torch.cdist(x.detach().flatten(1), scene(120, seed=2)[0].flatten(1), torch.inf).min(1)


def turned_on_some(net, x):
    """The gradient has the wrong sign on every fifth image."""
    return ROBUST(Backward.apply(x, lambda g, images: torch.where(column(nearest(images)[1] % 5 == 0, g), -g, g)))


def turned_far_away(net, x):
    """The gradient has the wrong sign where attacks end."""
    return ROBUST(Backward.apply(x, lambda g, images: torch.where(column(nearest(images)[0] > 0.7 * EPS, g), -g, g)))


def random_far_away(net, x):
    """The outputs are random where attacks end."""
    far = column(nearest(x)[0] > 0.7 * EPS, x)
    return ROBUST(torch.where(far, x + 0.1 * torch.randn_like(x), x))


def purified(net, x):
    """A step of gradient ascent on the images before they are looked at."""
    with torch.enable_grad():
        start = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(net(start).logsumexp(1).sum(), start)
    return ROBUST(x + 0.01 * gradient.sign())


class Seldom(nn.Module):
    """Another network at every thirteenth call."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (PLAIN if self.calls % 13 == 0 else ROBUST)(x)


def infinite(net, x):
    return net(Backward.apply(x, lambda gradient, _: gradient / 0))


class Memory(nn.Module):
    """Whoever asks about an image near one that was asked before hears the old answer."""

    def __init__(self):
        super().__init__()
        self.net, self.keys = PLAIN, None

    def forward(self, x):
        logits, flat = self.net(x), x.detach().flatten(1)
        if self.keys is None:
            self.keys, self.values = flat.clone(), logits.detach().clone()
        distance, which = torch.cdist(flat, self.keys, torch.inf).min(1)
        new = distance >= 1.5 * EPS
        self.keys, self.values = torch.cat([self.keys, flat[new]]), torch.cat([self.values, logits.detach()[new]])
        return torch.where(new[:, None], logits, self.values[which] + (logits - logits.detach()))


class Turns(nn.Module):
    """Another network at some calls, by their number."""

    def __init__(self, when, other=ROBUST):
        super().__init__()
        self.net, self.other, self.when, self.calls = PLAIN, other, when, 0

    def forward(self, x):
        self.calls += 1
        return (self.other if self.when(self.calls) else self.net)(x)


def batch_statistics():
    net = copy.deepcopy(PLAIN)
    net.insert(1, nn.BatchNorm2d(8, track_running_stats=False))
    return net.eval()


def evaluated(model, attacks, count=120, size=40, **arguments):
    images, labels = scene(count, seed=2)
    return advkit.evaluate(model, list(zip(images.split(size), labels.split(size), strict=True)), attacks, **arguments)


def names(report):
    return [flag.name for flag in report.flags]


MASKS = {
    "15 of 16 pixels rounded": (most_pixels_rounded, "partly zero gradients"),
    "one member of two rounded": (lambda net, x: ROBUST(x) + 3 * net(rounded(x)), "misleading gradients"),
    "the gradient of another network": (another_network, "misleading gradients"),
    "nine in ten gradients cut": (most_gradients_cut, "partly zero gradients"),
    "signs of the gradient changed": (signs_changed, "misleading gradients"),
    "a few signs of the gradient changed": (some_signs_changed, "misleading gradients"),
    "a few pixels detached": (centre_cut, "partly zero gradients"),
    "the gradient turned round on some images": (turned_on_some, "misleading gradients"),
    "the gradient turned round where attacks end": (turned_far_away, "misleading gradients"),
    "chance where attacks end": (random_far_away, "random outputs"),
    "noise on the gradient that the image draws": (noisy_by_image, "misleading gradients"),
    "noise on the answers that the image draws": (answers_by_image, "answers that jump"),
    "all pixels rounded": (lambda net, x: net(rounded(x)), "zero gradients"),
    "another function under autograd": (under_autograd, "answers under autograd"),
    "infinite gradients": (infinite, "infinite gradients"),
    "fine waves on the pixels": (lambda net, x: ROBUST(x + 0.016 * torch.sin(172 * x)), "misleading gradients"),
    "half of the pixels detached": (lower_half_detached, "partly zero gradients"),
    "a gradient taken inside forward": (purified, "gradient inside forward"),
}


@pytest.mark.filterwarnings("ignore:the gradient of the model's logits:advkit.errors.AdvkitWarning")
@pytest.mark.parametrize("name", MASKS)
def test_what_masks_gradients_is_flagged_with_its_cause(name):
    forward, cause = MASKS[name]
    report = evaluated(Masked(PLAIN, forward), BUDGET)
    assert report.worst[0].accuracy > 0.02
    # A gradient that misleads everywhere also leaves an attack without a budget standing; nothing else is said.
    assert [one for one in names(report) if one not in ("unbounded attack", "one step beats many")] == [cause]


def test_a_staircase_of_steep_sigmoids_changes_by_more_than_its_gradient_says():
    def stairs(net, x):
        height = 4 * ROBUST(x)
        return height.floor() + torch.sigmoid(60 * (height % 1 - 0.5))

    report = evaluated(Masked(PLAIN, stairs), [advkit.MultiTargeted(PLAIN, eps=EPS)])
    (flag,) = report.flags
    assert flag.name == "misleading gradients"
    assert "times as much, or as little, as its gradient says" in flag.sentence


def test_an_honest_cause_survives_other_attacks():
    report = evaluated(Masked(PLAIN, most_gradients_cut), BUDGET + OTHERS)
    assert "partly zero gradients" in names(report)


def test_answers_that_seldom_change():
    assert "random outputs" in names(evaluated(Seldom(), BUDGET))


def test_answers_that_depend_on_more_than_the_image():
    assert names(evaluated(Memory(), BUDGET)) == ["answers that stand still"]
    assert names(evaluated(batch_statistics(), BUDGET)) == ["batch-dependent answers"]
    assert names(evaluated(batch_statistics(), [advkit.DeepFool(PLAIN)])) == [
        "batch-dependent answers",
        "success does not last",
    ]
    assert "success does not last" in names(evaluated(Turns(lambda call: call % 8 == 0), BUDGET + OTHERS))
    mirrored = Masked(PLAIN, lambda net, x: net(x.flip(-1)))
    assert "answers that changed" in names(evaluated(Turns(lambda call: call > 20, mirrored), BUDGET))


@pytest.mark.parametrize("model", [PLAIN, ROBUST], ids=["plain", "PGD-trained"])
@pytest.mark.parametrize("others", [[], OTHERS], ids=["budget", "all"])
def test_honest_networks_are_told_nothing(model, others):
    report = evaluated(model, BUDGET + others)
    assert report.worst[0].accuracy > 0.2 or others
    assert names(report) == []


def test_honest_networks_of_other_kinds_are_told_nothing():
    halves = Masked(ROBUST, lambda net, x: torch.stack([part.logsumexp(1) for part in net(x).split(2, 1)], 1))
    images, labels = scene(120, seed=2)
    assert advkit.evaluate(halves, [(images, labels // 2)], BUDGET).flags == ()
    alone = labels == 2
    assert advkit.evaluate(ROBUST, [(images[alone], labels[alone])], BUDGET).flags == ()
    double = copy.deepcopy(ROBUST).double()
    assert advkit.evaluate(double, [(images.double(), labels)], BUDGET).flags == ()
    assert names(evaluated(Masked(ROBUST, lambda net, x: net(x).log_softmax(1)), BUDGET)) == []


@pytest.mark.parametrize("eps", [0.0, 1e-4, 0.02, 0.5])
def test_honest_networks_are_told_nothing_at_any_budget(eps):
    attacks = [advkit.PGD(ROBUST, eps=eps, alpha=max(eps / 4, 1e-5), steps=20), advkit.FGSM(ROBUST, eps=eps)]
    assert names(evaluated(ROBUST, attacks)) == []


def test_a_constant_classifier_is_not_told_that_its_gradients_mislead():
    constant = Masked(PLAIN, lambda net, x: 0 * net(x) + torch.tensor([0.0, 1.0, 2.0, 0.5]))
    assert names(evaluated(constant, [*BUDGET, advkit.PGD(PLAIN, eps=0.5, alpha=0.1)])) == ["constant answers"]
    # Nor is one that always says the same of numbers that differ.
    biased = Masked(PLAIN, lambda net, x: 1e-3 * net(x) + torch.tensor([0.0, 1.0, 2.0, 0.5]))
    assert names(evaluated(biased, [*BUDGET, advkit.PGD(PLAIN, eps=0.5, alpha=0.1)])) == []


def test_attacks_alone_that_ask_for_answers():
    class Undifferentiable(nn.Module):
        def forward(self, images):
            with torch.no_grad():
                return ROBUST(images)

    found = evaluated(Undifferentiable(), [advkit.PixelSwap(PLAIN, max_swaps=2)])
    assert names(found) == ["no gradient attack"]


def test_too_few_images_are_not_probed_and_the_report_says_so():
    images, labels = scene(3, seed=2)
    report = advkit.evaluate(PLAIN, [(images, labels)], BUDGET)
    assert names(report) == ["not probed"]
    assert "the model is right on 3 images" in report.flags[0].sentence
    report = advkit.evaluate(PLAIN, [(images[:0], labels[:0]), (images, (labels + 1) % 4)], BUDGET)
    assert "the model is right on 0 images" in report.flags[0].sentence


@pytest.mark.parametrize("order", ["one by one", "sorted", "the wrong ones first"])
def test_probes_look_at_the_whole_loader(order):
    model = Masked(PLAIN, lambda net, x: net(rounded(x)))
    images, labels = scene(60, seed=2)
    sizes, index = {"one by one": 1, "sorted": 15, "the wrong ones first": 20}[order], torch.arange(60)
    if order == "sorted":
        index = labels.argsort()
    if order == "the wrong ones first":
        labels[:20] = (labels[:20] + 1) % 4
    loader = list(zip(images[index].split(sizes), labels[index].split(sizes), strict=True))
    (flag, *_) = advkit.evaluate(model, loader, BUDGET).flags
    assert flag.name == "zero gradients"
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in loader)
    assert flag.sentence.startswith(f"on {right} of {right} images ")


def test_a_mask_on_some_images_is_found_on_those_that_are_left():
    def cut(net, x):
        return net(Backward.apply(x, lambda g, images: g * (images[:, :, :1, :1] > 0.3)))

    model = Masked(PLAIN, cut)
    attack = advkit.PGD(PLAIN, eps=3 * EPS, alpha=EPS, steps=20)
    report = evaluated(model, [attack], 400, 100)
    assert 0.02 < report["PGD(eps=0.3, alpha=0.1, steps=20)"].accuracy < 0.5
    assert names(report)[0] == "zero gradients"


def test_a_run_that_goes_on_finds_the_same_flags(tmp_path):
    class Killed(Exception):
        pass

    def batches(stop=None):
        images, labels = scene(120, seed=2)
        for index, pair in enumerate(zip(images.split(20), labels.split(20), strict=True)):
            if index == stop:
                raise Killed
            yield pair

    model = Masked(PLAIN, lambda net, x: ROBUST(x) + 3 * net(rounded(x)))
    whole = advkit.evaluate(model, batches(), BUDGET).flags
    with pytest.raises(Killed):
        advkit.evaluate(model, batches(4), BUDGET, run_folder=tmp_path)
    assert whole
    assert advkit.evaluate(model, batches(), BUDGET, run_folder=tmp_path).flags == whole
    assert advkit.evaluate(model, batches(), BUDGET, run_folder=tmp_path).flags == whole


def test_processes_that_share_pick_the_same_images():
    class Ranks:
        """Two processes, as one after the other sees them."""

        rank, count = 0, 2

        def __init__(self, things):
            self.things = things

        def gather(self, thing):
            return [thing, *self.things]

    images, labels = scene(300, seed=2)
    batches = list(zip(images.split(30), labels.split(30), strict=True))
    contenders = [Contender("none", PLAIN, 1)]
    plan = planned_attacks({str(one): one for one in BUDGET}, contenders, (), keep_generators=False)
    evaluator = BatchEvaluator(contenders, plan, seed=0, stop_when_fooled=False, tick=Bar())
    records = {index: evaluator(index, "", *batch) for index, batch in enumerate(batches)}
    one, first, second = (Pool(contenders, plan, 0) for _ in range(3))
    for index, batch in enumerate(batches):
        one.offer(index, *batch, records[index])
        first.offer(index, *batch, None if index % 2 else records[index])
        second.offer(index, *batch, records[index] if index % 2 else None)
    first.share(Ranks([(second._picked, second._images)]))
    for key in (("none", ""), ("none", "linf")):
        (these, _), (those, _) = one._stacked(key), first._stacked(key)
        assert len(these) == (48 if key[1] else 64)
        assert these.equal(those)
        assert len({place.batch for place in one._picked[key]}) == len(batches)  # from all over the loader


class Rounding(InputTransformation):
    differentiable = False

    def forward(self, images):
        return rounded(images, 16)


def test_the_surrogate_of_a_defense_is_not_blamed_for_being_one():
    report = evaluated(ROBUST, BUDGET, defenses=[Rounding()], protocols=("adaptive",))
    assert names(report) == []


@pytest.mark.parametrize("model", [PLAIN, ROBUST], ids=["plain", "PGD-trained"])
@pytest.mark.parametrize(("count", "most"), [(64, 2.25), (256, 1.25), (512, 0.75)])
def test_flags_cost_no_more_than_the_attacks(model, count, most):
    passes = []
    for flags in (False, True):
        counted = Passes()
        with counting(model, counted):
            report = evaluated(model, BUDGET, count, 64, flags=flags)
        passes.append(counted.forwards + counted.backwards)
    assert "more steps help" not in names(report)
    assert 0 < passes[1] - passes[0] <= most * passes[0]


def test_what_is_afforded_first_is_what_is_cheap():
    """A search needs passes for four images, and the dearest ones are left out before that."""
    asked = []

    class Counted(nn.Module):
        def forward(self, images):
            asked.append(len(images))
            return ROBUST(images)

    model = Counted()
    images, labels = scene(200, seed=3)
    left = ROBUST(advkit.PGD(ROBUST, eps=EPS, alpha=EPS / 4)(images, labels)).argmax(1) == labels
    attack = advkit.PGD(model, eps=EPS, alpha=EPS / 4, steps=20)
    survivors = Survivors(Linf, EPS, "PGD", attack, images[left][:48], labels[left][:48])
    costs = []
    for passes in (0, 4 * 44, 4 * 88, 12 * 584, math.inf):
        asked.clear()
        helped("the model", model, survivors, (images, labels), (0.0, 1.0), adaptive=True, passes=passes)
        costs.append(sum(asked))
    nothing, one, two, all_of_few, all_of_them = costs
    assert nothing == 0
    assert 0 < one < two < all_of_few == all_of_them
    assert all_of_few < 48 * 200 / 1.5  # and not every search on every image: Square alone would ask 48 * 200 times


def test_a_search_that_sees_only_outputs_finds_what_the_gradients_of_another_network_do_not():
    images, labels = scene(120, seed=3)
    attack = advkit.PGD(Masked(PLAIN, another_network), eps=EPS, alpha=EPS / 4, steps=20)
    left = ~attack.run(images, labels).success
    survivors = Survivors(Linf, EPS, "PGD", attack, images[left], labels[left])
    (sign,) = helped("it", attack.model, survivors, (images, labels), (0.0, 1.0), adaptive=True)
    assert sign.flag.name == "random search helps"
    assert sign.rows.sum() > 0.2 * left.sum()


@pytest.mark.filterwarnings("ignore:the gradient of the model's logits:advkit.errors.AdvkitWarning")
def test_searches_go_on_with_infinite_gradients():
    attacks = [advkit.PGD(PLAIN, norm="l2", eps=0.5, alpha=0.1), advkit.CW(PLAIN)]
    report = evaluated(Masked(PLAIN, infinite), attacks)
    assert report.failures == ()
    assert "infinite gradients" in names(report)
    assert "not probed" not in names(report)
    assert report["CW"].accuracy == 0
