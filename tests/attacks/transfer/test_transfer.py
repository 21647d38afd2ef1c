"""The loop and the parts of transfer attacks, against formulas written out by hand."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advkit
from advkit import Attack, attacks
from advkit._engine.ball import LinfBall
from advkit._engine.classifier import Classifier
from advkit._engine.resampling import Strips
from advkit.attacks import transfer
from advkit.attacks.transfer import (
    Admix,
    Ascent,
    BlockShuffle,
    BlockTransforms,
    EnhancedMomentum,
    GradientRelevance,
    InputDiversity,
    Momentum,
    Nesterov,
    Part,
    PatchWise,
    PenalizedGradient,
    RandomStart,
    ScaleCopies,
    SpectrumTransform,
    Transfer,
    TranslationKernel,
    VarianceTuning,
)
from advkit.errors import AdvkitError, InputError
from contracts.scenes import IMAGE, Passes, conv_net, draw, flat_net, linear_net, said_by

CLASSES = [thing for name in transfer.__all__ if isinstance(thing := getattr(transfer, name), type)]
PARTS = [thing for thing in CLASSES if issubclass(thing, Part) and thing is not Part]
SHOWING = [BlockShuffle, BlockTransforms, InputDiversity, SpectrumTransform]


def ascent(x: Tensor, model: nn.Module | None = None, seed: int = 0, **more: object) -> Ascent:
    """A search that stands at x."""
    fields = {
        "x": x,
        "model": Classifier(model or conv_net(x.shape[1])),
        "goal": advkit.Untargeted(torch.zeros(len(x), dtype=torch.long)),
        "ball": LinfBall(x, 0.1, (0.0, 1.0)),
        "alpha": 0.02,
        "showing": [],
        "loss": "ce",
        "generator": torch.Generator().manual_seed(seed),
    }
    return Ascent(**{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("targeted", [False, True])
def test_momentum_alone_is_mifgsm(targeted: bool) -> None:
    model = conv_net().double()
    images, labels = draw(5, *IMAGE).double(), torch.arange(5) % 4
    targets = (labels + 1) % 4 if targeted else None
    for decay in (1.0, 0.7):
        length = {"eps": torch.linspace(0, 0.1, 5), "alpha": 0.02, "steps": 7}
        found = Transfer(model, [Momentum(decay)], **length)(images, labels, targets=targets)
        expected = advkit.MIFGSM(model, decay=decay, **length)(images, labels, targets=targets)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)
        assert not found.equal(images)


def test_no_part_is_ifgsm() -> None:
    model, images = conv_net(), draw(3, *IMAGE)
    labels = said_by(model, images)
    found = Transfer(model, [], eps=0.1, alpha=0.02)(images, labels)
    assert found.equal(advkit.IFGSM(model, eps=0.1, alpha=0.02)(images, labels))


@pytest.mark.parametrize(
    "make", [advkit.NIFGSM, advkit.SINIFGSM, advkit.VMIFGSM, advkit.PIFGSM, advkit.GRA, advkit.PGN]
)
def test_a_gradient_of_zero_stops_nothing(make: type[Attack]) -> None:
    """Divided by its size it would be NaN, and the image would never move again."""

    class Gate(nn.Module):
        asked = 0

        def forward(self, images: Tensor) -> Tensor:
            self.asked += 1
            logits = images.flatten(1).sum(1, keepdim=True) * torch.tensor([[1.0, -1.0]])
            return logits * (0.0 if self.asked == 1 else 1.0)

    images = torch.full((2, 1, 4, 4), 0.5)
    found = make(Gate(), eps=0.1, steps=4)(images, torch.tensor([0, 0]))
    assert found.isfinite().all()
    assert (found < images).all()


def test_passes_are_those_of_the_algorithm() -> None:
    counts = {
        (): 1.0,
        (Momentum(), Nesterov()): 1,
        (ScaleCopies(4),): 4,
        (Admix(copies=2), ScaleCopies(3)): 6,
        (EnhancedMomentum(samples=5), Momentum()): 5,
        (VarianceTuning(samples=6),): 1 + 6 * 2 / 3,  # the last step asks for none
        (GradientRelevance(samples=6),): 7,
        (PenalizedGradient(samples=6),): 12,
        (PenalizedGradient(samples=2), InputDiversity(), SpectrumTransform(copies=3)): 12,
    }
    images, labels = draw(5, *IMAGE), torch.arange(5) % 4
    for parts, count in counts.items():
        model = Passes(conv_net())
        Transfer(model, list(parts), steps=3)(images, labels)
        assert sum(model.forwards) == sum(model.backwards) == 3 * count * len(images), parts


def test_how_many_rows_are_asked_about_at_a_time_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv_net().double()
    images, labels = draw(3, *IMAGE).double(), torch.arange(3)
    found = []
    for most in (1, 4, 1000):
        monkeypatch.setitem(transfer.ascent._AT_A_TIME, "cpu", most)
        model_passes = Passes(model)
        found.append(Transfer(model_passes, [ScaleCopies(5), EnhancedMomentum(samples=3), Momentum()])(images, labels))
        assert max(model_passes.forwards) <= max(most, 3)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-9)


def test_a_part_of_ones_own() -> None:
    @dataclass(frozen=True, repr=False)
    class Left(Part):
        """Only the left half moves."""

        def gradient(self, gradient: Tensor, ascent: Ascent) -> Tensor:
            return gradient * (torch.arange(gradient.shape[-1]) < 4)

    images = draw(2, *IMAGE)
    found = Transfer(conv_net(), [Left(), Momentum()])(images, torch.tensor([0, 1]))
    assert found[..., 4:].equal(images[..., 4:])
    assert not found[..., :4].equal(images[..., :4])

    @dataclass(frozen=True, repr=False)
    class Half(Part):
        step: float = 0.5  # type: ignore[assignment]

    with pytest.raises(InputError, match=r"Half's step is 0\.5, but step is the method"):
        Half()

    @dataclass(frozen=True, repr=False)
    class Kept(Part):
        copies: int = 2

        def gradient(self, gradient: Tensor, ascent: Ascent) -> Tensor:
            ascent.remember("carried", gradient)
            return gradient

    with pytest.raises(InputError, match=r"Kept's copies must be at least 1, got 0"):
        Kept(copies=0)
    with pytest.raises(InputError, match="Kept and Momentum both remember 'carried'; one of them must"):
        Transfer(conv_net(), [Kept(), Momentum()])(images, torch.tensor([0, 1]))


@pytest.mark.parametrize("place", ["start", "look", "inputs", "slope", "gradient", "direction", "step"])
def test_what_a_part_of_ones_own_gets_wrong_has_its_name(place: str) -> None:
    """A NaN above all: its sign is 0, so that the attack would find nothing and say so."""
    images, labels = draw(3, *IMAGE), torch.tensor([0, 1, 2])
    mistakes: dict[str, Callable[[Tensor], Tensor | None]] = {
        "returned NoneType": lambda x: None,
        r"returned a tensor of shape \(2, 3, 8, 8\); it must return": lambda x: x[1:],
        "returned NaN": lambda x: x * torch.nan,
    }
    if place == "inputs":
        mistakes["no gradient flows back through what"] = lambda x: x.detach()
    for words, mistake in mistakes.items():
        mine = type("Mine", (Part,), {place: lambda self, x, *more, mistake=mistake: mistake(x)})()
        with pytest.raises(AdvkitError, match=rf"(^| )Mine\.{place} .*{words}|{words} Mine\.{place}"):
            Transfer(conv_net(), [mine, Momentum()], steps=2)(images, labels)


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([Nesterov()], "parts has no Momentum; add it"),
        ([Momentum(), Momentum(0.5)], "more than one Momentum"),
        ([VarianceTuning(), PenalizedGradient()], "VarianceTuning and PenalizedGradient, and each of them says"),
        ([EnhancedMomentum(), Nesterov(), Momentum()], "both look ahead"),
        ([ScaleCopies(), Admix()], "put it before it"),
        (Momentum(), r"parts must be a list of parts, such as .*; got Momentum\(\)"),
        ([advkit.MIFGSM], "must be a list of parts"),
        (None, "must be a list of parts"),
    ],
)
def test_lists_that_make_no_sense(parts: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Transfer(conv_net(), parts)  # type: ignore[arg-type]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_numbers_of_parts_are_checked_and_told(part: type[Part]) -> None:
    for name, what in advkit.hyperparameters.of(part).items():
        for value in what.bad():
            with pytest.raises(InputError, match=rf"{part.__name__}'s {name} must"):
                part(**{name: value})
    assert repr(part()) == f"{part.__name__}()"


def test_a_kernel_has_a_middle() -> None:
    for make in (lambda: TranslationKernel(size=4), lambda: advkit.TIFGSM(conv_net(), len_kernel=4)):
        with pytest.raises(InputError, match="must be odd, so that a kernel has a middle; got 4"):
            make()


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_vectors_are_attacked_or_told(part: type[Part]) -> None:
    images, model = draw(3, 24), flat_net(24)
    attack = Transfer(model, [part(), *([Momentum()] if part is not Momentum else [])], steps=2)
    if part.spatial:
        with pytest.raises(InputError, match=rf"{part.__name__} depends on where pixels lie.*got \(3, 24\)"):
            attack(images, torch.tensor([0, 1, 2]))
    else:
        assert not attack(images, torch.tensor([0, 1, 2])).equal(images)


def test_admix_adds_nothing_to_an_image_that_is_alone() -> None:
    """One that is left over of a batch, in an evaluation or by another attack, must not end the work on all others."""
    model, images = conv_net(), draw(5, *IMAGE)
    labels = said_by(model, images)
    mixing = Transfer(model, [Admix(), Momentum()], eps=0.05, steps=2)
    assert mixing(images[:1], labels[:1]).equal(
        Transfer(model, [Momentum()], eps=0.05, steps=2)(images[:1], labels[:1])
    )
    report = advkit.evaluate(model, [(images[:4], labels[:4]), (images[4:], labels[4:])], [mixing], flags=False)
    assert (report.images, report.failures) == (5, ())
    labels[1:] = (labels[1:] + 1) % 3  # the model errs on all but one of them
    found = advkit.WorstOf([advkit.FGSM(model, eps=0.0), mixing])(images, labels)
    assert not found[0].equal(images[0])
    assert found[1:].equal(images[1:])


def test_admix_wants_others() -> None:
    attack = Transfer(conv_net(), [Admix(), Momentum()])
    assert not attack.independent_rows
    assert Transfer(conv_net(), [Momentum()]).independent_rows
    x = torch.eye(4).view(4, 1, 2, 2).repeat(50, 1, 1, 1)
    mixed = Admix(strength=0.25).inputs(x, torch.zeros(200, dtype=torch.long), ascent(x[:4])) - x
    assert (mixed.amax((1, 2, 3)) == 0.25).all()
    assert (mixed * x == 0).all()  # never the image itself
    shares = mixed.view(50, 4, 4).mean(0)
    assert (shares.masked_select(~torch.eye(4, dtype=torch.bool)) > 0.03).all()  # but any other


@pytest.mark.parametrize("part", SHOWING, ids=lambda part: part.__name__)
@pytest.mark.parametrize("shape", [(1, 6, 6), (3, 5, 9), (3, 9, 5), (2, 1, 7), (1, 1, 1)], ids=str)
def test_rows_draw_apart_and_shapes_stay(part: type[Part], shape: tuple[int, ...]) -> None:
    x = draw(1, *shape).expand(40, *shape)
    shown = part().inputs(x, torch.zeros(40, dtype=torch.long), ascent(x))
    assert shown.shape == x.shape
    assert shown.isfinite().all()
    if min(shape) > 4:
        assert len({tuple(row.flatten().tolist()) for row in shown}) > 15  # one draw for all would give one


@pytest.mark.parametrize("rate", [0.5, 0.9, 1.0, 1.5])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 12, 7)], ids=str)
def test_diverse_inputs_are_resizes_with_padding(rate: float, shape: tuple[int, ...]) -> None:
    """Each is one of those that interpolation, padding and, above 1, interpolation back give."""
    x = draw(1, *shape).double()
    many = x.expand(300, *shape)
    shown = InputDiversity(rate, probability=0.8).inputs(many, torch.zeros(300, dtype=torch.long), ascent(many))
    ends = [(min(side, other), max(side, other)) for side in shape[1:] for other in [int(side * rate)]]
    sizes = [range(low, max(high, low + 1)) for low, high in ends]
    known = [x]
    for height in sizes[0]:
        for width in sizes[1]:
            small = F.interpolate(x, (height, width), mode="bilinear", align_corners=False)
            for top in range(max(1, ends[0][1] - height)):
                for left in range(max(1, ends[1][1] - width)):
                    beyond = (left, ends[1][1] - width - left, top, ends[0][1] - height - top)
                    padded = F.pad(small, beyond)
                    known.append(F.interpolate(padded, shape[1:], mode="bilinear", align_corners=False))
    distance = torch.cdist(shown.flatten(1), torch.cat(known).flatten(1))
    assert (distance.amin(1) < 1e-5).all()
    if rate != 1:
        assert 0.05 < (distance[:, 0] < 1e-5).double().mean() < 0.4  # those left alone
        assert len(distance.argmin(1).unique()) >= min(8, len(known))


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "uniform"])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_translation_kernel_is_a_convolution(kernel: str, channels: int) -> None:
    gradient = draw(2, channels, 9, 6).double() - 0.5
    found = TranslationKernel(5, 2.0, kernel).gradient(gradient, ascent(gradient))  # type: ignore[arg-type]
    steps = torch.arange(-2, 3).double()
    line = {"gaussian": (-steps.square() / 2).exp(), "linear": 1 - steps.abs() / 3, "uniform": torch.ones(5).double()}
    whole = torch.outer(line[kernel], line[kernel])
    weight = (whole / whole.sum()).expand(channels, 1, 5, 5)
    torch.testing.assert_close(found, F.conv2d(gradient, weight, padding=2, groups=channels), rtol=0, atol=1e-6)


def test_a_spectrum_left_alone_is_the_image() -> None:
    x = draw(3, 2, 5, 8).double()
    same = SpectrumTransform(rho=0.0, sigma=0.0).inputs(x, torch.zeros(3), ascent(x))
    torch.testing.assert_close(same, x, rtol=0, atol=1e-12)
    scaled = SpectrumTransform(rho=0.5, sigma=0.0).inputs(torch.ones_like(x), torch.zeros(3), ascent(x))
    assert (scaled - scaled[..., :1, :1]).abs().amax() < 1e-12  # the constant has one frequency
    assert (scaled > 0.5).all()
    assert (scaled < 1.5).all()
    noisy = SpectrumTransform(rho=0.0).inputs(x.repeat(200, 1, 1, 1), torch.zeros(600), ascent(x)) - x.repeat(
        200, 1, 1, 1
    )
    assert abs(float(noisy.std()) - 0.1) < 0.002


def test_strips_are_a_permutation() -> None:
    cuts, order = draw(500, 9), draw(500, 4, seed=1)
    whole, mixed = Strips.of(cuts, 4), Strips.of(cuts, 4, order)
    assert whole.source.equal(torch.arange(9).expand(500, 9))
    assert mixed.source.sort(1).values.equal(whole.source)
    assert (mixed.number.diff(dim=1) >= 0).all()
    assert mixed.number.amax(1).eq(3).all()  # four strips of one pixel and more
    inside = mixed.number[:, 1:] == mixed.number[:, :-1]
    assert (mixed.source.diff(dim=1)[inside] == 1).all()
    assert (mixed.start + mixed.length > torch.arange(9)).all()
    firsts = mixed.source[:, 0].eq(0).double().mean()
    assert abs(float(firsts) - 0.25) < 0.07
    assert Strips.of(draw(5, 2), 4).number.amax() == 1  # no more than there are pixels


def test_blocks_keep_their_pixels() -> None:
    """What is not darkened or noisy is a permutation of the pixels of each block, for all channels alike."""
    x = (torch.arange(64.0).view(1, 1, 8, 8) / 64).repeat(200, 2, 1, 1)
    shown = BlockTransforms(blocks=1).inputs(x, torch.zeros(200, dtype=torch.long), ascent(x))
    kept = shown[(shown * 64 % 1 == 0).flatten(1).all(1)]
    kept = kept[kept.flatten(1).amax(1) > 0]
    assert len(kept) > 80
    assert kept[:, 0].equal(kept[:, 1])
    assert kept[:, 0].flatten(1).sort(1).values.equal(x[: len(kept), 0].flatten(1))
    flips = [x[0].flip(1), x[0].flip(2), x[0].flip(1, 2), *[x[0].roll(k, d) for k in range(8) for d in (1, 2)]]
    assert all(any(row.equal(flip) for flip in flips) for row in kept)
    assert len({tuple(row.flatten().tolist()) for row in kept}) > 12
    gradient = torch.autograd.grad(BlockTransforms().inputs(x.requires_grad_(), torch.zeros(200), ascent(x)).sum(), x)[
        0
    ]
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0


def test_shuffles_without_rotation_are_permutations() -> None:
    x = (torch.arange(63.0).view(1, 1, 7, 9) / 63).repeat(300, 2, 1, 1)
    shown = BlockShuffle(blocks=2, degrees=0).inputs(x, torch.zeros(300), ascent(x))
    assert shown[:, 0].equal(shown[:, 1])
    torch.testing.assert_close(shown.flatten(2).sort(2).values, x.flatten(2), rtol=0, atol=1e-5)
    rows = (shown[:, 0] * 63).round().long() // 9
    lying = (rows == rows[..., :1]).all(-1).all(-1).double().mean()  # strips across keep their rows
    assert 0.3 < float(lying) < 0.9
    whole = BlockShuffle(blocks=1, degrees=0).inputs(x, torch.zeros(300), ascent(x))
    torch.testing.assert_close(whole, x, rtol=0, atol=1e-6)


def test_rotations_are_about_the_middle_and_bring_black() -> None:
    x = torch.ones(400, 1, 9, 9)
    shown = BlockShuffle(blocks=1, degrees=45).inputs(x, torch.zeros(400), ascent(x))
    assert (shown[:, :, 4, 4] > 0.999).all()
    assert (shown[:, :, 0, 0] == 0).double().mean() > 0.5
    assert ((shown > 1e-6).flatten(1).double().mean(1) > 0.75).all()
    ramp = (torch.arange(9.0) / 8).view(1, 1, 1, 9).repeat(400, 1, 9, 1)
    turned = BlockShuffle(blocks=1, degrees=30).inputs(ramp, torch.zeros(400), ascent(ramp))
    across, along = (turned[:, 0, 4, 5] - turned[:, 0, 4, 3]) * 4, (turned[:, 0, 5, 4] - turned[:, 0, 3, 4]) * 4
    torch.testing.assert_close(
        across.hypot(along), torch.ones(400), rtol=0, atol=1e-4
    )  # a turned slope of the same size
    assert along.abs().amax() < math.sin(math.pi / 6) + 1e-4
    assert along.amax() > 0.4
    assert along.amin() < -0.4


@pytest.mark.parametrize("eps", [29 / 255, 16 / 255, 0.1])
def test_patch_wise_steps_hand_on_no_rounding(eps: float) -> None:
    """A first step as long as the budget leads to its edge, however ten tenths of it are rounded."""
    model, images = conv_net(), draw(3, *IMAGE)
    labels = said_by(model, images)
    found = advkit.PIFGSM(model, eps=eps, alpha=eps / 10, steps=1)(images, labels)
    torch.testing.assert_close(found, advkit.FGSM(model, eps=eps)(images, labels), rtol=0, atol=1e-6)


def test_patch_wise_steps_hand_on_what_leads_out() -> None:
    """One pixel that is pushed beyond the budget pushes the eight around it, and itself no more."""
    x = torch.full((1, 1, 5, 5), 0.5)
    search, step = ascent(x), torch.zeros_like(x)
    step[0, 0, 2, 2] = 0.02
    part = PatchWise(amplification=4.0, project_factor=0.5)
    assert part.step(step, search).equal(4 * step)  # 0.08 of 0.1
    second = part.step(step, search)
    expected = F.pad(torch.full((1, 1, 3, 3), 0.04), (1, 1, 1, 1))
    expected[0, 0, 2, 2] = 0.08
    torch.testing.assert_close(second, expected)


def test_pixels_are_shown_as_shares_of_their_range() -> None:
    """Half as bright is half way to black, whatever number black has."""

    class Watch(Part):
        def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
            assert x.min() >= 0
            assert x.max() <= 1
            return x

    net, images, labels = conv_net().double(), draw(3, *IMAGE).double(), torch.arange(3)
    parts = [Watch(), ScaleCopies(3), Momentum()]
    plain = Transfer(net, parts, eps=0.1)(images, labels)
    wide = Transfer(lambda x: net((x + 3) / 4), parts, eps=0.4, bounds=(-3.0, 1.0))(images * 4 - 3, labels)
    torch.testing.assert_close((wide + 3) / 4, plain, rtol=0, atol=1e-9)


def test_nearby_is_within_the_radius_of_each_image() -> None:
    eps = torch.tensor([0.0, 0.1, 0.2])
    x = draw(3, *IMAGE)
    search = ascent(x, ball=LinfBall(x, eps, (0.0, 1.0)))
    away = (search.nearby(x.repeat(30, 1, 1, 1), 1.5) - x.repeat(30, 1, 1, 1)).abs().view(30, 3, -1).amax((0, 2))
    torch.testing.assert_close(away, 1.5 * eps, rtol=0.01, atol=1e-6)


def test_relevance_and_penalty_on_a_linear_model() -> None:
    """Where the slope is the same everywhere, all ways to ask for it give the direction of one question."""
    model = linear_net(2).double()
    images, labels = draw(3, *IMAGE).double(), torch.arange(3) % 2
    one = Transfer(model, [Momentum()], loss="margin", steps=4)(images, labels)
    for part in (GradientRelevance(3), PenalizedGradient(3), VarianceTuning(3), EnhancedMomentum(3), Nesterov()):
        parts = [part, Momentum()]
        torch.testing.assert_close(Transfer(model, parts, loss="margin", steps=4)(images, labels), one)


def test_enhanced_momentum_of_one_place_asks_where_it_stands() -> None:
    """And not at the end of the line through it, seven steps behind."""
    images, labels = draw(3, *IMAGE).double(), torch.arange(3) % 2
    model = conv_net().double()
    alone = Transfer(model, [EnhancedMomentum(samples=1), Momentum()], steps=4)(images, labels)
    torch.testing.assert_close(alone, Transfer(model, [Momentum()], steps=4)(images, labels))


def test_steps_that_turn_get_shorter() -> None:
    x = torch.full((1, 1, 1, 2), 0.5)
    search, part = ascent(x), GradientRelevance(shrink=0.5)
    steps = [torch.tensor([0.1, 0.1]), torch.tensor([-0.1, 0.1]), torch.tensor([0.1, 0.1])]
    found = [part.step(step.view_as(x), search).flatten().tolist() for step in steps]
    assert found == [pytest.approx([0.1, 0.1]), pytest.approx([-0.05, 0.1]), pytest.approx([0.025, 0.1])]


def test_a_random_start_lies_in_the_budget() -> None:
    x = draw(3, *IMAGE, seed=7)
    start = RandomStart().start(x, ascent(x))
    assert 0.09 < float((start - x).abs().max()) <= 0.1 + 1e-6
    assert advkit.DIFGSM(conv_net(), random_start=True).parts[0] == RandomStart()


def test_targets_are_reached_by_their_logit() -> None:
    """Where the cross-entropy of a sure model has no slope any more."""
    model = linear_net().double()
    images = draw(3, *IMAGE).double()
    labels = said_by(model, images)
    targets = (labels + 1) % 3
    found = Transfer(model, [Momentum()], eps=0.3, steps=20, loss="logit").run(images, labels, targets=targets)
    with torch.no_grad():
        before, after = model(images), model(found.images)
    assert (after.gather(1, targets[:, None]) > before.gather(1, targets[:, None]) + 1).all()


def test_the_parts_of_a_shorthand_make_it() -> None:
    shorthands = [each for name in attacks.__all__ if hasattr(each := getattr(attacks, name), "parts")]
    shorthands = [each for each in shorthands if each not in (Transfer, advkit.LGV)]  # which is on other models
    assert len(shorthands) == 13
    model, images, labels = conv_net(), draw(3, *IMAGE), torch.tensor([0, 1, 2])
    for make in shorthands:
        short = make(model, eps=0.1, steps=3, generator=torch.Generator().manual_seed(0))
        alpha = 0.1 / 3 if short.alpha is None else short.alpha
        whole = Transfer(model, short.parts, 0.1, alpha, 3, generator=torch.Generator().manual_seed(0))
        assert short(images, labels).equal(whole(images, labels)), make


@pytest.mark.parametrize("part", [Part, *PARTS], ids=lambda part: part.__name__)
def test_a_part_is_short(part: type[Part]) -> None:
    lines = [line for line in inspect.getsource(part).splitlines() if line.strip()]
    assert part is Part or len(lines) <= 40
