"""What "standard" and "autoattack" stand for, and the number that they come to."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit.errors import InputError
from advkit.evaluation.audit import audit
from advkit.evaluation.randomness import over_draws
from advkit.evaluation.verdict import SecondLook, verdict
from advkit.model import is_stochastic
from contracts.scenes import Passes, draw, learn, said_by, trained_net

Loader = list[tuple[Tensor, Tensor]]


def loader(images: Tensor, labels: Tensor, size: int = 5) -> Loader:
    return list(zip(images.split(size), labels.split(size), strict=True))


class Line(nn.Module):
    """Two classes that lie on either side of sum(x) = 0: how far an image is from the other is known in any norm."""

    def forward(self, images: Tensor) -> Tensor:
        total = images.flatten(1).sum(1, keepdim=True)
        return torch.cat([total, -total], 1)


def at_distances() -> tuple[Tensor, Tensor]:
    """Images of four features, the class 0, at Linf distances 1/80, 2/80, ... 20/80, in a mixed order."""
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    images = torch.full((20, 4), 1.0) * (order[:, None] + 1) / 80
    return images, torch.zeros(20, dtype=torch.long)


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [("standard", "linf", 0.1), ("standard", "l2", 0.2), ("standard", "l1", 0.4), ("autoattack", "linf", 0.1)],
)
def test_the_number_is_the_true_one_where_it_is_known(name: str, norm: str, eps: float) -> None:
    """And so is each image's verdict, in the loader's order: all three budgets reach the same images."""
    images, labels = at_distances()
    far = images[:, 0]
    batches = loader(images, labels, 10)
    report = advkit.evaluate(Line(), batches, name, norm=norm, eps=eps, bounds=(-1, 1), progress=False)
    sure = (far - 0.1).abs() > 0.003  # of one at the edge rounding decides
    assert report.robust.dtype == torch.bool
    assert report.robust[sure].equal((far > 0.1)[sure])
    assert report.robust_accuracy == pytest.approx(report.robust.float().mean().item())
    assert report.verdict == name
    assert report.stop_when_fooled
    assert "upper bound" in str(report)
    assert advkit.RobustnessReport.from_json(report.to_json()) == report


def test_the_fast_verdict_takes_few_passes() -> None:
    """A hundredth of those of AutoAttack, on images that gradients lead to."""
    images, labels = at_distances()
    counted = {}
    for name in ("standard", "autoattack"):
        model = Passes(Line())
        advkit.evaluate(model, loader(images, labels, 20), name, eps=0.1, bounds=(-1, 1), flags=False, progress=False)
        counted[name] = sum(model.forwards) + sum(model.backwards)
    assert counted["standard"] < counted["autoattack"] / 20


class Masked(nn.Module):
    """A network behind steps so fine that its gradient is zero, and its answers are what they were."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        rounded = (images * 200).round() / 200
        logits: Tensor = self.net(rounded + 0 * images)
        return logits


def test_a_masked_network_is_seen_through() -> None:
    net, images, labels = trained_net()
    honest, masked = (
        advkit.evaluate(model, [(images, labels)], "standard", eps=0.25, flags=False, progress=False)
        for model in (net, Masked(net))
    )
    assert honest.robust_accuracy == 0
    assert masked["MultiTargeted"].accuracy > 0.5, "the gradient that there is leads nowhere"
    assert masked.robust_accuracy <= 0.25
    assert "second look" in str(masked)


class Sealed(nn.Module):
    """A network that leaves torch on its way, as one behind an API or in another framework does."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.detach())
        return logits


def test_a_model_without_a_gradient_is_searched_at_random() -> None:
    net, images, labels = trained_net()
    few = [(images[:3], labels[:3])]
    sealed = advkit.evaluate(Sealed(net), few, "standard", eps=0.25, progress=False)
    assert sealed.robust_accuracy == 0
    assert "without a gradient: MultiTargeted" in str(sealed)
    assert "lost" not in str(sealed)
    assert [flag.name for flag in sealed.flags].count("gradients refused") == 1
    honest = advkit.evaluate(net, [(images, labels)], "standard", eps=0.0, flags=False, progress=False)
    blind = honest["no gradient"]
    assert blind.attacked == len(labels)
    assert blind.forwards_per_image == blind.backwards_per_image == 1 / len(labels)


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_budgets_that_decide_nothing_and_everything(eps: float) -> None:
    net, images, labels = trained_net()
    report = advkit.evaluate(net, [(images, labels)], "standard", eps=eps, progress=False)
    assert report.robust_accuracy == (1.0 if eps == 0 else 0.0)


def test_wrong_images_are_not_robust_and_nobody_attacks_them() -> None:
    net, images, labels = trained_net()
    wrong = (labels + (torch.arange(len(labels)) < 3)) % 4
    report = advkit.evaluate(net, [(images, wrong)], "standard", eps=0.0, progress=False)
    assert report.robust.tolist() == [False] * 3 + [True] * (len(labels) - 3)
    assert report["MultiTargeted"].attacked == len(labels) - 3
    assert f"Only the {len(labels) - 3} that the model gets right" in " ".join(str(report).split())
    none = advkit.evaluate(net, [(images, (labels + 1) % 4)], "standard", flags=False, progress=False)
    assert "gets none of them right, so that nothing was attacked" in " ".join(str(none).split())


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes(classes: int) -> None:
    images = draw(12, 3, 8, 8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, classes))
    labels = torch.arange(12) % classes
    learn(model, images, labels, steps=40, lr=0.02)
    labels = said_by(model.eval(), images)
    for name in ("standard", "autoattack"):
        report = advkit.evaluate(model, loader(images, labels, 6), name, eps=0.3, flags=False, progress=False)
        assert report.robust_accuracy == 0


def test_a_run_is_resumed_and_is_the_same(tmp_path: object) -> None:
    images, labels = at_distances()
    whole = advkit.evaluate(Line(), loader(images, labels), "standard", eps=0.1, bounds=(-1, 1), progress=False)
    model, calls = Line(), []

    def stop(*_: object) -> None:
        calls.append(1)
        if len(calls) == 40:
            raise KeyboardInterrupt

    handle = model.register_forward_pre_hook(stop)
    arguments = {"eps": 0.1, "bounds": (-1, 1), "run_folder": tmp_path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        advkit.evaluate(model, loader(images, labels), "standard", **arguments)
    handle.remove()
    again = advkit.evaluate(Line(), loader(images, labels), "standard", **arguments)
    assert again.standing == whole.standing
    assert again.robust_accuracy == whole.robust_accuracy


def test_a_defense_is_attacked_by_who_knows_it() -> None:
    net, images, labels = trained_net()
    defense = {"rounded": advkit.defenses.BitDepthReduction(bits=3)}
    report = advkit.evaluate(net, [(images, labels)], "standard", defense, ("adaptive",), eps=0.25, progress=False)
    assert report.score("MultiTargeted", "rounded").accuracy <= 0.25


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"attacks": "strong"}, "attacks, where they are given by a name, must be one of 'standard', 'autoattack'"),
        ({"attacks": "standard", "norm": "l2"}, "a verdict in L2 needs a budget"),
        ({"attacks": "standard", "norm": "l0", "eps": 3}, "norm must be one of Linf, L2, L1"),
        ({"attacks": "standard", "eps": -1.0}, "eps must be at least 0"),
        ({"attacks": "standard", "eps": 8}, "eps=8 in Linf is wider than the range of a pixel, 0 to 1"),
        (
            {"attacks": "autoattack", "eps": 4.5, "bounds": (-2, 2)},
            "eps=4.5 in Linf is wider than .*, -2 to 2",
        ),
    ],
)
def test_what_is_no_verdict_is_told(arguments: dict[str, object], words: str) -> None:
    net, images, labels = trained_net()
    with pytest.raises(InputError, match=words):
        advkit.evaluate(net, [(images, labels)], **arguments)


def test_a_budget_beside_attacks_that_have_theirs_is_refused() -> None:
    """Which of the two would count could only be guessed."""
    net, images, labels = trained_net()
    with pytest.raises(InputError, match="Attacks that you pass have their own"):
        advkit.evaluate(net, [(images, labels)], [advkit.FGSM(net, eps=0.1)], eps=0.2)
    with pytest.raises(InputError, match="norm and bounds are for a verdict"):
        advkit.evaluate(net, [(images, labels)], [advkit.FGSM(net)], norm="l2", bounds=(0.0, 1.0))


def test_autoattack_is_for_random_models_what_its_authors_say() -> None:
    net, _, _ = trained_net()
    wrapped = advkit.defenses.RandomCropRescale().wrap(net)
    names = list(verdict("autoattack", [wrapped], norm="linf", eps=0.1, bounds=(0, 1)))
    assert len(names) == 2
    assert all("eot_samples=20" in name for name in names)


def test_a_second_look_leaves_alone_what_is_robust() -> None:
    """Where gradients say truly that nothing is within the budget, images come back as they were."""
    images, labels = at_distances()
    kept = images[:, 0] > 0.15
    found = SecondLook(Line(), eps=0.1, bounds=(-1, 1))(images[kept], labels[kept])
    assert found.equal(images[kept])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_that_are_robust_do_not_pay_for_every_attack(count: int) -> None:
    """Whatever the size of the batch, a second look at an honest model is cheap."""
    images, labels = at_distances()
    kept = (images[:, 0] > 0.15).nonzero().squeeze(1)[:count]
    model = Passes(Line())
    found = SecondLook(model, eps=0.1, bounds=(-1, 1))(images[kept], labels[kept])
    assert found.equal(images[kept])
    assert sum(model.forwards) + sum(model.backwards) < 500  # where every attack takes 2,600


def test_a_masked_network_is_seen_through_image_by_image() -> None:
    net, images, labels = trained_net()
    masked = Masked(net)
    taken = [SecondLook(masked, eps=0.25).run(*pair).success.all() for pair in loader(images[:3], labels[:3], 1)]
    assert sum(map(bool, taken)) >= 2


class _Turned(torch.autograd.Function):
    """The gradient that there is where every pixel is one of 256 levels, and its opposite elsewhere."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return images.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (images,), (gradient,) = ctx.saved_tensors, gradients
        off = (images * 255 - (images * 255).round()).abs().flatten(1).amax(1) > 1e-2
        return torch.where(off.view(-1, 1, 1, 1), -gradient, gradient)


class Turned(nn.Module):
    """A network whose gradient is right at images that come from files, and nowhere about them."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(_Turned.apply(images))
        return logits


class HalfDetached(nn.Module):
    """A network that has a gradient in the upper half of an image."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        upper, lower = images.tensor_split(2, dim=2)
        logits: Tensor = self.net(torch.cat([upper, lower.detach()], 2))
        return logits


@pytest.mark.parametrize(("mask", "count", "cause"), [(Turned, 8, "misleading"), (HalfDetached, 4, "partly zero")])
def test_gradients_that_are_wrong_beside_the_image_or_in_part_are_not_believed(
    mask: type[nn.Module], count: int, cause: str
) -> None:
    """Of few images, as many are left in a small batch, as of many."""
    net, images, _ = trained_net()
    images = ((images * 255).round() / 255)[:count]
    labels = said_by(net, images)
    left = torch.ones(count, dtype=torch.bool)
    honest, masked = (
        audit(advkit.MultiTargeted(model, eps=4 / 255), images, labels, left, passes=1) for model in (net, mask(net))
    )
    assert honest.believed
    assert masked.verdict == "misleading"
    assert cause in masked.causes[0].name


def test_a_surrogate_is_what_a_second_look_differentiates() -> None:
    net, images, labels = trained_net()
    rounded = Masked(net)
    report = advkit.evaluate(
        lambda pixels: rounded(pixels), [(images, labels)], "standard", surrogate=net, eps=0.02, progress=False
    )
    assert not report.failures
    assert len(report.robust) == len(images)


class Swaying(nn.Module):
    """A network whose answers are swayed along a random direction, by as much in eval mode as in training."""

    def __init__(self, net: nn.Module, strength: float) -> None:
        super().__init__()
        self.net, self.strength = net, strength

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        sway = (flat - 0.5) @ torch.randn(flat.shape[1], 4) * self.strength
        logits: Tensor = self.net(images) + sway
        return logits


class Now(nn.Module):
    """A network that answers something else every eighth time."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.asked = net, 0

    def forward(self, images: Tensor) -> Tensor:
        self.asked += 1
        logits: Tensor = self.net(images)
        return logits.flip(1) if self.asked % 8 == 0 else logits


def test_a_model_that_turns_out_random_is_judged_over_draws() -> None:
    """Gradients are means over draws, several answers decide, and the report says so."""
    net, images, labels = trained_net()
    swaying = Swaying(net, 0.1)
    some = [(images[:0], labels[:0]), (images[:4], labels[:4])]
    report = advkit.evaluate(swaying, some, "standard", eps=0.12, draws=6, flags=False, progress=False)
    (flag,) = report.flags
    assert flag.name == "random outputs"
    assert "on 4 of 4 images the model returns" in flag.sentence
    assert "averaged over 10 draws, and predictions over 6" in flag.sentence
    assert flag.doubts("none", None, None)
    assert report.defenses[0].draws == 6
    assert report.robust_accuracy <= 0.6  # by gradients of one draw it is 0.75
    autoattack, *_ = attacked_over_draws("autoattack", swaying, some)
    assert "eot_samples=20" in autoattack


def attacked_over_draws(name: str, model: nn.Module, batches: Loader) -> list[str]:
    """The names of the attacks of a verdict on a model, once it is known what it is."""
    models, _, _ = over_draws({"none": model}, iter([(0, *batch) for batch in batches]), draws=6)
    return list(verdict(name, models.values(), norm="linf", eps=0.1, bounds=(0, 1)))


def test_chance_may_be_rare_and_an_honest_model_stays_what_it_is() -> None:
    net, images, labels = trained_net()
    given = {"none": net, "now and then": Now(net), "said": advkit.defenses.RandomCropRescale().wrap(net)}
    models, batches, flags = over_draws(given, iter([(0, images, labels), (1, images, labels)]), draws=10)
    assert [name for name, model in given.items() if models[name] is model] == ["none", "said"]
    assert is_stochastic(models["now and then"])
    assert [flag.defense for flag in flags] == ["now and then"]
    assert [index for index, _, _ in batches] == [0, 1]
