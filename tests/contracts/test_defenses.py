"""What every defense that wraps promises."""

import copy
import io
import pickle
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Attack, Defended
from advkit.defenses import BitDepthReduction, GradientMasking, InputTransformation
from advkit.errors import AdvkitError, DtypeError, InputError
from contracts.defense_cases import DEFENSES, DefenseCase, each_defense
from contracts.scenes import IMAGE, conv_net, draw, said_by, trained_net
from contracts.test_untouched import everything, mixed_up

SHAPES = [IMAGE, (1, 8, 8), (4, 8, 8), (3, 6, 11), (3, 11, 6)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
STRONG: dict[type[Attack], dict[str, Any]] = {
    advkit.FGSM: {"eps": 0.25},
    advkit.MIFGSM: {"eps": 0.2, "alpha": 0.04},
    advkit.DeepFool: {"steps": 20},
    advkit.CW: {"binary_search_steps": 2},
}


def images_like(case: DefenseCase, shape: tuple[int, ...] = IMAGE, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Random images, a white one, a black one and one of stripes."""
    images = draw(5, *shape, low=low, high=high)
    images[1], images[2] = high, low
    images[3] = torch.where(torch.arange(shape[-1]) % 2 == 0, low, high)
    return images


def transformation(case: DefenseCase, channels: int = 3, **overrides: object) -> InputTransformation:
    defense = case.make(channels, **overrides)
    assert isinstance(defense, InputTransformation)
    return defense


@each_defense()
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_images_come_out_as_they_went_in(
    case: DefenseCase, shape: tuple[int, ...], dtype: torch.dtype, bounds: tuple[float, float]
) -> None:
    """In shape, dtype and range; and they are the defense's own, not the caller's written over."""
    if shape[0] not in case.channels:
        pytest.skip("not for so many channels")
    overrides = {} if case.any_shape else {"bounds": bounds}
    images = images_like(case, shape, *bounds).to(dtype)
    before, version = images.clone(), images._version
    found = transformation(case, shape[0], **overrides)(images)
    assert type(found) is Tensor
    assert (found.shape, found.dtype, found.device) == (images.shape, dtype, images.device)
    low, high = bounds
    assert low <= float(found.min()) <= float(found.max()) <= high
    assert images.equal(before)
    assert images._version == version
    assert case.any_shape or not found.equal(images)


@each_defense()
def test_16_bits_come_close_to_32(case: DefenseCase) -> None:
    images = draw(4, *IMAGE).bfloat16()
    full = transformation(case)(images.float())
    torch.testing.assert_close(transformation(case)(images), full.bfloat16(), rtol=0, atol=0)


@each_defense()
def test_bounds_only_scale(case: DefenseCase) -> None:
    if case.any_shape:
        pytest.skip("has no bounds")
    images = draw(4, *IMAGE)
    found = transformation(case)(images)
    patches = {"patches": 255 * case.make().patches - 100} if case.patches else {}
    scaled = transformation(case, bounds=(-100.0, 155.0), **patches)(255 * images - 100)
    assert ((scaled + 100) / 255 - found).abs().mean() < 1e-4


@each_defense()
def test_an_empty_batch(case: DefenseCase) -> None:
    defense, net = transformation(case), conv_net()
    empty = draw(0, *IMAGE)
    assert defense(empty).shape == empty.shape
    for model in (defense.wrap(net), defense.surrogate(net)):
        assert model(empty).shape == (0, 4)
    assert advkit.MIFGSM(defense.wrap(net))(empty, torch.zeros(0, dtype=torch.int64)).shape == empty.shape


@each_defense(lambda case: not case.stochastic)
def test_a_deterministic_defense_draws_nothing_and_treats_each_image_alone(case: DefenseCase) -> None:
    state = torch.get_rng_state()
    defense = transformation(case)
    images = images_like(case)
    first = defense(images)
    assert torch.get_rng_state().equal(state)
    assert first.equal(defense(images))
    singles = torch.cat([defense(image[None]) for image in images])
    torch.testing.assert_close(first, singles, rtol=0, atol=1e-6)


@each_defense(lambda case: case.stochastic)
def test_a_random_defense_draws_for_each_image_from_its_generator(case: DefenseCase) -> None:
    state = torch.get_rng_state()
    images = draw(1, *IMAGE).expand(12, *IMAGE)
    defense = transformation(case)
    first = defense(images)
    assert not defense(images).equal(first)
    assert transformation(case)(images).equal(first)
    assert torch.get_rng_state().equal(state)
    assert len(first.flatten(1).unique(dim=0)) > 2
    own = transformation(case, generator=None)
    torch.manual_seed(1)
    first = own(images)
    assert not torch.get_rng_state().equal(state)
    torch.manual_seed(1)
    assert own(images).equal(first)
    torch.set_rng_state(state)


@each_defense()
def test_layout_does_not_matter(case: DefenseCase) -> None:
    images = draw(4, *IMAGE)
    expected = transformation(case)(images)
    strided = images.repeat_interleave(2, dim=3)[..., ::2]
    for other in (images.contiguous(memory_format=torch.channels_last), strided):
        torch.testing.assert_close(transformation(case)(other), expected, rtol=0, atol=1e-6)


@each_defense()
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_without_gradients(case: DefenseCase, mode: type) -> None:
    images = draw(4, *IMAGE)
    expected = transformation(case)(images)
    wrapped = case.make().wrap(conv_net())
    with mode():
        torch.testing.assert_close(transformation(case)(images), expected, rtol=0, atol=1e-6)
        assert not torch.equal(advkit.FGSM(wrapped, eps=0.1)(images, torch.tensor([0, 1, 2, 3])), images)


@each_defense()
def test_the_model_behind_it(case: DefenseCase) -> None:
    net, images = conv_net(), draw(4, *IMAGE)
    wrapped = case.make().wrap(net)
    assert isinstance(wrapped, Defended)
    assert isinstance(wrapped.defense, case.defense)
    assert wrapped.undefended is net
    seen = transformation(case)(images)
    torch.testing.assert_close(wrapped(images), net(seen), rtol=0, atol=1e-6)


@each_defense()
def test_the_mode_changes_nothing_but_the_model(case: DefenseCase) -> None:
    images = draw(4, *IMAGE)
    expected = transformation(case)(images)
    assert transformation(case).train()(images).equal(expected)
    assert transformation(case).eval()(images).equal(expected)


@each_defense()
@pytest.mark.parametrize("attack", [advkit.FGSM, advkit.PixelSwap], ids=lambda attack: attack.__name__)
def test_an_attack_leaves_everything_as_it_was(case: DefenseCase, attack: type[Attack]) -> None:
    model = case.make().wrap(mixed_up(conv_net()))
    unchanged = everything(model)
    attack(model).run(draw(3, *IMAGE), torch.tensor([0, 1, 2]))
    unchanged()


@each_defense()
def test_state_dict(case: DefenseCase) -> None:
    images = draw(4, *IMAGE)
    model = case.make().wrap(conv_net(seed=1))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    overrides = {"patches": draw(40, 3, 5, 5, seed=8)} if case.patches else {}
    other = case.make(**overrides).wrap(conv_net(seed=2))
    other.load_state_dict(torch.load(file, weights_only=True))
    torch.testing.assert_close(other(images), model(images), rtol=0, atol=0)


@each_defense()
@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))], ids=["copy", "pickle"])
def test_copies(case: DefenseCase, again: object) -> None:
    images, labels = draw(4, *IMAGE), torch.tensor([0, 1, 2, 3])
    assert callable(again)
    for original in (transformation(case), case.make().wrap(conv_net())):
        other = again(original)
        assert other is not original
        assert other(images).equal(original(images))
    model = case.make().wrap(conv_net())
    assert advkit.MIFGSM(again(model))(images, labels).equal(advkit.MIFGSM(model)(images, labels))


@each_defense(lambda case: bool(case.exports))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_export(case: DefenseCase) -> None:
    images = draw(case.exports[0], *IMAGE)
    model = case.make(**({"generator": None} if case.stochastic else {})).wrap(conv_net())
    shapes = ({0: torch.export.Dim("batch", min=2)},) if len(case.exports) > 1 else None
    program = torch.export.export(model, (images,), dynamic_shapes=shapes).module()
    for count in case.exports:
        images = draw(count, *IMAGE, seed=count)
        answers = []
        for one in (model, program):
            torch.manual_seed(0)
            answers.append(one(images))
        torch.testing.assert_close(*answers)


@each_defense()
def test_the_surrogate_answers_as_the_defended_model(case: DefenseCase) -> None:
    """To the bit; that of a random defense in the mean over its draws."""
    net, images = conv_net(), images_like(case)
    defense = case.make()
    answer = defense.surrogate(net)(images)
    defense = case.make()
    wrapped = defense.wrap(net)
    draws = [wrapped(images) for _ in range(defense.eot_samples if defense.stochastic else 1)]
    torch.testing.assert_close(answer, torch.stack(draws).mean(0), rtol=0, atol=1e-6 if defense.stochastic else 0)


@each_defense()
def test_gradients(case: DefenseCase) -> None:
    """An attacker who knows the defense gets one; a naive one, of a defense without, gets zeros and no error."""
    net, images = conv_net(), images_like(case).requires_grad_()
    defense = case.make()
    (known,) = torch.autograd.grad(defense.surrogate(net)(images).sum(), images)
    assert known.isfinite().all()
    assert known.flatten(1).abs().amax(1).gt(0).all()
    (found,) = torch.autograd.grad(defense.wrap(net)(images).sum(), images)
    assert found.isfinite().all()
    assert bool(found.any()) == defense.differentiable


@each_defense(lambda case: case.make().differentiable and not case.any_shape)
def test_the_gradient_of_a_differentiable_defense_is_its_derivative(case: DefenseCase) -> None:
    images = draw(1, 2, 4, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: transformation(case, 2)(x), images)


@each_defense()
@pytest.mark.parametrize("attack", STRONG, ids=lambda attack: attack.__name__)
def test_knowing_the_defense_never_hurts(case: DefenseCase, attack: type[Attack]) -> None:
    net, images, _ = trained_net()
    images = images.repeat(4 if case.stochastic else 1, 1, 1, 1)  # each row has draws of its own
    defended = case.make().wrap(net)
    labels = votes(defended, images)
    # What is fooled by no margin in the mean, a random defense gets right in every other draw.
    margin = {advkit.CW: {"kappa": 1.0}, advkit.DeepFool: {"overshoot": 1.0}}.get(attack, {}) if case.stochastic else {}
    adaptive = attack(defended, **STRONG[attack], **margin)
    knowing = adaptive.run(images, labels).success.float().mean()
    unknowing = adaptive.on(defended, adaptive=False).run(images, labels).success.float().mean()
    assert knowing >= unknowing, (knowing, unknowing)
    assert knowing >= 0.5
    if not defended.defense.differentiable:
        assert unknowing < 0.3  # it saw no gradient; a random defense changes its mind by itself


def votes(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.stack([model(images).argmax(1) for _ in range(10)]).mode(0).values


def test_rounding_is_no_robustness() -> None:
    """The classic trap: the gradient through rounding is zero, and who believes it finds a perfect defense."""
    net, images, _ = trained_net()
    defended = BitDepthReduction(bits=3).wrap(net)
    labels = said_by(defended, images)
    attack = advkit.MIFGSM(defended, eps=0.25, alpha=0.05)
    assert attack.run(images, labels).success.float().mean() > 0.9
    naive = attack.on(defended, adaptive=False).run(images, labels)
    assert naive.images.equal(images)
    assert not naive.success.any()


def test_masking_the_gradient_is_no_robustness() -> None:
    net, images, labels = trained_net()
    defended = GradientMasking(eps=100.0, generator=torch.Generator().manual_seed(0)).wrap(net)
    for attack in (advkit.FGSM(net, eps=0.25), advkit.MIFGSM(net, eps=0.2, alpha=0.04)):
        assert attack.on(defended)(images, labels).equal(attack(images, labels))
        naive = attack.on(defended, adaptive=False).run(images, labels)
        assert naive.success.float().mean() < attack.run(images, labels).success.float().mean()


BAD = [
    pytest.param(case, arguments, words, id=f"{case}-{arguments!r:.40}")
    for case in DEFENSES
    for arguments, words in case.bad
]


@pytest.mark.parametrize(("case", "arguments", "words"), BAD)
def test_bad_arguments(case: DefenseCase, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as caught:
        case.make(**arguments)
    assert isinstance(caught.value, AdvkitError)


@each_defense(lambda case: not case.any_shape)
def test_bad_images(case: DefenseCase) -> None:
    defense = transformation(case)
    with pytest.raises(DtypeError, match=r"must be a floating tensor of shape \(N, C, H, W\), got torch.uint8"):
        defense(draw(2, *IMAGE).byte())
    with pytest.raises(DtypeError, match=r"must be a floating tensor of shape \(N, C, H, W\), got list"):
        defense([[0.0]])
    with pytest.raises(InputError, match=r"images must have shape \(N, C, H, W\), got \(3, 8, 8\)"):
        defense(draw(*IMAGE))
    if 4 not in case.channels:
        with pytest.raises(InputError, match=r"images of 1 or 3 channels, got images of shape \(2, 4, 8, 8\)"):
            defense(draw(2, 4, 8, 8))


@each_defense()
def test_it_says_what_it_is(case: DefenseCase) -> None:
    shown = repr(transformation(case))
    assert shown.startswith(case.defense.__name__)
    assert all(f"{name}={value!r}" in shown for name, value in case.settings.items())
