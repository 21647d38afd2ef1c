"""DeepFool against closed forms, against the algorithm of the paper image by image, and by its passes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advkit import PGD, DeepFool, norms
from advkit.errors import ModelError
from contracts.scenes import Passes, conv_net, draw, said_by

NORMS = pytest.mark.parametrize("norm", ["l2", "linf"])
DUAL = {"l2": 2, "linf": 1}


def linear(classes: int, features: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A linear model whose classes have weights of very different sizes, undecided in the middle of the box."""
    model = nn.Linear(features, classes, dtype=dtype)
    sizes = torch.logspace(-1, 1, classes, dtype=dtype)[torch.randperm(classes, generator=generator(seed))]
    with torch.no_grad():
        model.weight.copy_(draw(classes, features, seed=seed, low=-1, high=1) * sizes.unsqueeze(1))
        model.bias.copy_(-0.5 * model.weight.sum(1))
    return model


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def least_distance(model: nn.Linear, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """The distance to the nearest boundary of a linear model, as if there were no box."""
    weights, logits = model.weight.detach().double(), model(images).detach().double()
    slopes = (weights - weights[labels].unsqueeze(1)).norm(DUAL[norm], dim=2)
    gaps = logits.gather(1, labels.unsqueeze(1)) - logits
    return (gaps / slopes).nan_to_num(nan=torch.inf).amin(1)


def paper(model: nn.Module, image: Tensor, label: int, *, norm: str, steps: int, overshoot: float) -> Tensor:
    """Algorithm 2 on one image with every class at every step, written with loops; back in the box at each step."""
    x = image.clone()
    for _ in range(steps):
        logits = model(x.unsqueeze(0))[0].detach()
        if int(logits.argmax()) != label:
            return x
        jacobian = torch.autograd.functional.jacobian(lambda z: model(z.unsqueeze(0))[0], x)
        best, towards = torch.inf, torch.zeros_like(x)
        for other in range(len(logits)):
            if other != label:
                w = jacobian[other] - jacobian[label]
                distance = float((logits[label] - logits[other]) / w.flatten().norm(DUAL[norm]))
                if distance < best:
                    best, towards = distance, w.sign() if norm == "linf" else w / w.norm()
        x = (x + (best + max(overshoot * best, 1e-4)) * towards).clamp(0, 1).detach()
    return x


@NORMS
@pytest.mark.parametrize(("classes", "features"), [(2, 3), (2, 48), (10, 6), (10, 192)])
def test_it_finds_the_nearest_boundary_of_a_linear_model(norm: str, classes: int, features: int) -> None:
    model = linear(classes, features)
    images = draw(64, features, low=0.49, high=0.51)
    labels = said_by(model, images)
    result = DeepFool(model, norm=norm).run(images, labels)
    least = least_distance(model, images, labels, norm)
    assert result.success.all()
    found = result.distance(norm).double()
    assert (found > least).all()
    assert (found <= (1.02 * least).maximum(least + 1e-4) + 1e-6).all()


@NORMS
@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), classes=st.integers(2, 12), overshoot=st.sampled_from([0.0, 0.02, 0.5]))
def test_it_goes_as_far_as_the_overshoot_says(norm: str, seed: int, classes: int, overshoot: float) -> None:
    model = linear(classes, 8, seed=seed, dtype=torch.float64)
    images = draw(3, 8, seed=seed, low=0.4, high=0.6).double()
    labels = said_by(model, images)
    result = DeepFool(model, overshoot=overshoot, candidates=classes, norm=norm).run(images, labels)
    least = least_distance(model, images, labels, norm)
    expected = (least * (1 + overshoot)).maximum(least + 1e-4)
    inside = ((result.images > 0) & (result.images < 1)).all(1)
    assert result.success.all()
    assert result.images.dtype == torch.float64
    assert torch.allclose(result.distance(norm)[inside], expected[inside], rtol=1e-9, atol=0)


@NORMS
def test_it_is_the_algorithm_of_the_paper(norm: str) -> None:
    """Two classes after the first step find what all nine find; in float64, where no success is within rounding."""
    model = conv_net(classes=10).double()
    images = draw(16, 3, 8, 8).double()
    labels = said_by(model, images)
    result = DeepFool(model, norm=norm).run(images, labels)
    expected = [paper(model, *row, norm=norm, steps=50, overshoot=0.02) for row in zip(images, labels, strict=True)]
    assert result.success.all()
    assert torch.allclose(result.images, torch.stack(expected), rtol=0, atol=1e-9)


def test_a_success_within_rounding_is_none_yet() -> None:
    """The nearest boundary is so flat that the least step beyond it changes the logits by less than they are exact."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2e-4, 0.0], [0.0, 0.0]]))
        model.bias.copy_(torch.tensor([1.0, 1.0001]))
    images, labels = torch.tensor([[0.6, 0.5]]), torch.tensor([0])
    found = DeepFool(model)(images, labels)
    logits = model(found).detach()[0]
    assert float(logits[1] - logits[0]) > 2 * torch.finfo(torch.float32).eps  # of two logits of about 1
    assert float((found - images).norm()) > 0.1 + 1e-4


def test_it_makes_a_backward_for_each_class_but_the_label_and_stops_at_the_first_boundary() -> None:
    model = Passes(linear(10, 12))
    images = draw(5, 12, low=0.49, high=0.51)
    labels = said_by(model.model, images)
    assert DeepFool(model).run(images, labels).success.all()
    assert model.forwards == [5, 5, 5]  # at the start, after the step, and to report
    assert model.backwards == [5] * 9


def test_fewer_candidates_make_fewer_backwards() -> None:
    model = Passes(linear(10, 12))
    images = draw(5, 12, low=0.49, high=0.51)
    labels = said_by(model.model, images)
    assert DeepFool(model, candidates=4).run(images, labels).success.all()
    assert model.backwards == [5] * 3


def test_with_two_candidates_the_boundary_is_that_of_the_second_largest_logit() -> None:
    model = linear(10, 12)
    images = draw(8, 12, low=0.49, high=0.51)
    labels = said_by(model, images)
    top, second = model(images).detach().topk(2).values.unbind(1)
    classes = model(images).topk(2).indices
    slope = (model.weight[classes[:, 0]] - model.weight[classes[:, 1]]).detach().norm(dim=1)
    distance = DeepFool(model, candidates=2).run(images, labels).distance("l2")
    assert torch.allclose(distance, ((top - second) / slope * 1.02).maximum((top - second) / slope + 1e-4), rtol=1e-3)


def test_later_steps_make_two_backwards_for_the_images_that_still_need_them() -> None:
    model = Passes(conv_net(classes=10))
    images = draw(16, 3, 8, 8)
    labels = said_by(model.model, images)
    DeepFool(model)(images, labels)
    assert len(model.forwards) > 3
    first, later = model.backwards[:9], model.backwards[9:]
    assert first == [16] * 9
    assert later[::2] == later[1::2]
    assert later == sorted(later, reverse=True)
    assert sum(later) < 2 * sum(model.forwards[1:])


def test_the_images_that_are_wrong_already_cost_one_forward() -> None:
    model = Passes(linear(10, 12))
    images = draw(5, 12)
    labels = (said_by(model.model, images) + 1) % 10
    assert DeepFool(model)(images, labels).equal(images)
    assert model.forwards == [5]
    assert model.backwards == []


def test_the_images_that_are_wrong_already_do_not_ride_through_the_backwards() -> None:
    model = Passes(linear(10, 12))
    images = draw(8, 12, low=0.49, high=0.51)
    labels = said_by(model.model, images)
    labels[:3] = (labels[:3] + 1) % 10
    found = DeepFool(model)(images, labels)
    assert found[:3].equal(images[:3])
    assert (said_by(model.model, found) != labels).all()
    assert model.forwards == [8, 5, 5]
    assert model.backwards == [5] * 9


@NORMS
def test_a_batch_is_its_images_one_by_one(norm: str) -> None:
    model = conv_net(classes=10)
    images = draw(8, 3, 8, 8)
    labels = said_by(model, images)
    labels[2] = (labels[2] + 1) % 10
    attack = DeepFool(model, norm=norm)
    alone = torch.cat([attack(image, label) for image, label in zip(images.split(1), labels.split(1), strict=True)])
    assert torch.allclose(attack(images, labels), alone, atol=1e-6)


@NORMS
def test_a_row_without_a_gradient_comes_back_and_leaves_after_one_step(norm: str) -> None:
    net = linear(10, 12)

    def deaf_to_some(images: Tensor) -> Tensor:
        fixed = torch.arange(10.0).flip(0).expand(len(images), 10)
        return torch.where(images[:, :1] > 0.9, fixed, net(images))

    model = Passes(deaf_to_some)
    images = draw(6, 12, low=0.49, high=0.51)
    images[1], images[4] = 0.95, 1.0
    labels = said_by(deaf_to_some, images)
    result = DeepFool(model, norm=norm).run(images, labels)
    assert result.success.tolist() == [True, False, True, True, False, True]
    assert result.images[[1, 4]].equal(images[[1, 4]])
    assert model.forwards == [6, 6, 6]


def test_a_row_that_loses_its_gradient_on_the_way_comes_back() -> None:
    def plateau(images: Tensor) -> Tensor:
        gap = images.sum(1).clamp_min(1.0)
        return torch.stack([gap, torch.zeros_like(gap)], 1)

    images = torch.full((2, 4), 0.5)
    result = DeepFool(plateau).run(images, torch.tensor([0, 0]))
    assert not result.success.any()
    assert result.images.equal(images)


@NORMS
def test_a_boundary_outside_the_box_is_no_success(norm: str) -> None:
    def far(images: Tensor) -> Tensor:
        gap = 5.0 - images.sum(1)
        return torch.stack([gap, torch.zeros_like(gap)], 1)

    images = torch.full((2, 4), 0.5)
    result = DeepFool(far, steps=5, norm=norm).run(images, torch.tensor([0, 1]))
    assert result.success.tolist() == [False, True]
    assert result.images.equal(images)


@NORMS
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_black_and_white_images_are_fooled_inside_the_box(norm: str, value: float) -> None:
    model = conv_net(classes=10)
    images = torch.full((2, 3, 8, 8), value)
    result = DeepFool(model, norm=norm).run(images, said_by(model, images))
    assert result.success.all()
    assert result.images.min() >= 0
    assert result.images.max() <= 1


@NORMS
@pytest.mark.parametrize(
    "change", [lambda logits: logits - 100, lambda logits: logits.log_softmax(1)], ids=["negative", "log-probabilities"]
)
def test_only_differences_of_logits_count(norm: str, change: Callable[[Tensor], Tensor]) -> None:
    net = conv_net(classes=10)
    images = draw(8, 3, 8, 8)
    labels = said_by(net, images)
    result = DeepFool(lambda images: change(net(images)), norm=norm).run(images, labels)
    assert result.success.all()
    assert torch.allclose(result.images, DeepFool(net, norm=norm)(images, labels), atol=1e-3)


@NORMS
def test_the_targets_that_can_be_reached_are(norm: str) -> None:
    model = Passes(conv_net(classes=10))
    images = draw(8, 3, 8, 8)
    labels = said_by(model.model, images)
    targets = (labels + torch.arange(1, 9)) % 10
    result = DeepFool(model, norm=norm).run(images, labels, targets=targets)
    anywhere = PGD(model.model, eps=1.0, alpha=0.05, steps=100, random_start=False, early_stop=True)
    reachable = anywhere.run(images, labels, targets=targets).success
    assert reachable.any()
    assert result.success[reachable].all()
    assert sum(model.backwards) < sum(model.forwards)  # one boundary


def test_with_two_classes_the_target_is_the_other_one() -> None:
    model = linear(2, 12)
    images = draw(5, 12, low=0.49, high=0.51)
    labels = said_by(model, images)
    assert DeepFool(model)(images, labels).equal(DeepFool(model)(images, labels, targets=1 - labels))


def test_a_target_that_is_said_already_changes_nothing() -> None:
    model = linear(10, 12)
    images = draw(5, 12)
    said = said_by(model, images)
    assert DeepFool(model)(images, (said + 1) % 10, targets=said).equal(images)


@NORMS
def test_an_image_on_the_boundary_itself_is_moved_off_it(norm: str) -> None:
    model = linear(10, 12)
    images = torch.full((1, 12), 0.5)  # every logit is zero up to rounding, or exactly
    with torch.no_grad():
        model.bias.zero_()
        model.weight.sub_(model.weight.mean(1, keepdim=True)).mul_(64).round_()
        model.weight[:, 0] -= model.weight.sum(1)
    assert model(images).eq(0).all()
    result = DeepFool(model, overshoot=0.0, norm=norm).run(images, torch.tensor([0]))
    assert result.success.all()
    assert result.distance(norm) <= 1.001e-4


def test_bounds_are_those_given() -> None:
    """A model that sees pixels on another scale has its boundaries there."""
    net = conv_net(classes=10)
    images = draw(6, 3, 8, 8)
    labels = said_by(net, images)
    found = DeepFool(lambda pixels: net(pixels / 2 + 0.5), bounds=(-1.0, 1.0))(images * 2 - 1, labels)
    assert torch.allclose(found / 2 + 0.5, DeepFool(net)(images, labels), atol=1e-4)


def test_a_norm_may_be_an_object() -> None:
    model = conv_net(classes=10)
    images = draw(4, 3, 8, 8)
    labels = said_by(model, images)
    for name, norm in (("l2", norms.L2), ("linf", norms.Linf)):
        assert DeepFool(model, norm=norm)(images, labels).equal(DeepFool(model, norm=name)(images, labels))


def test_each_norm_is_the_smaller_by_its_own_measure() -> None:
    model = conv_net(classes=10)
    images = draw(16, 3, 8, 8)
    labels = said_by(model, images)
    by_l2, by_linf = (DeepFool(model, norm=norm).run(images, labels) for norm in ("l2", "linf"))
    assert by_l2.distance("l2").mean() < by_linf.distance("l2").mean()
    assert by_linf.distance("linf").mean() < by_l2.distance("linf").mean()


@NORMS
def test_a_gradient_of_nan_is_the_models_fault_and_no_failure(norm: str) -> None:
    def root(images: Tensor) -> Tensor:
        distance = (images - 0.5).square().sum(1).sqrt()  # 0/0 in the backward at the centre
        return torch.stack([1 - distance, distance], 1)

    images = torch.full((3, 4), 0.5)
    images[0] = 0.6
    with pytest.raises(ModelError, match="images is NaN"):
        DeepFool(root, norm=norm)(images, torch.zeros(3, dtype=torch.int64))


def test_a_model_that_detaches_is_named() -> None:
    with pytest.raises(ModelError, match="no gradient flows"):
        DeepFool(lambda images: linear(3, 4)(images.detach()).detach())(draw(2, 4), torch.tensor([0, 1]))
