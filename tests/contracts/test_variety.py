"""Every kind of image and model: dtypes, shapes, classes, channels, extremes, modes, logits of any sign."""

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from advkit import Normalized, norms
from advkit.attacks.fitted.base import Fitted
from advkit.errors import InputError
from contracts.cases import Case, each_variant
from contracts.scenes import (
    IMAGE,
    Counting,
    RowsReader,
    Shifted,
    conv_net,
    draw,
    easy_images,
    flat_net,
    initialised,
    judge,
    linear_net,
    said_by,
    usual,
)

#: Of a model, and of the images that it is attacked on.
DTYPES = {
    torch.float32: (torch.float32, torch.float64, torch.float16, torch.bfloat16),
    torch.float64: (torch.float32, torch.float64),
    torch.bfloat16: (torch.float32, torch.float16, torch.bfloat16),
}


@each_variant()
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_any_number_of_classes(case: Case, classes: int) -> None:
    model = linear_net(classes)
    images, labels = easy_images(model, count=3)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.success.float().mean() >= case.fools


@each_variant()
@pytest.mark.parametrize("shape", [(1, 8, 8), (5, 4, 4), (3, 5, 9), (3, 9, 5), (2, 1, 7)], ids=str)
def test_any_channels_and_any_height_and_width(case: Case, shape: tuple[int, ...]) -> None:
    model = conv_net(shape[0])
    images = draw(3, *shape)
    labels = said_by(model, images)
    judge(case, case.make(model).run(images, labels), images, labels, model=model)
    easy = linear_net(3, shape)
    images, labels = easy_images(easy, shape=shape)
    result = case.make(easy).run(images, labels)
    judge(case, result, images, labels, model=easy)
    assert result.success.any() or not case.fools


@each_variant()
@pytest.mark.parametrize("shape", [(24,), (6, 4)], ids=str)
def test_vectors_and_sequences(case: Case, shape: tuple[int, ...]) -> None:
    model = flat_net(24)
    images = draw(3, *shape)
    labels = said_by(model, images)
    if case.spatial:
        with pytest.raises(InputError, match=r"needs images of shape \(N, C, H, W\); got \(3, "):
            case.make(model).run(images, labels)
        return
    judge(case, case.make(model).run(images, labels), images, labels, model=model)


@each_variant()
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_saturated_images_can_move(case: Case, value: float) -> None:
    """All black and all white, on a model that is undecided there."""
    model = linear_net(3, offset=value)
    images = torch.full((2, *IMAGE), value)
    labels = said_by(model, images)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    if case.needs_gradient and not case.one_way:  # what swaps or copies pixels has nothing to swap
        assert result.success.float().mean() >= case.fools


@each_variant()
def test_black_and_white_images_can_move(case: Case) -> None:
    model = linear_net()
    noise = draw(2048, *IMAGE, seed=5).round()
    with torch.no_grad():
        top = model(noise).topk(2).values
    images = noise[(top[:, 0] - top[:, 1]).argsort()[:3]]
    labels = said_by(model, images)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.success.float().mean() >= case.fools


@cache
def barely_right(case: Case) -> Tensor:
    """Which images that a linear model barely gets right an attack fools it on."""
    model = linear_net().double()
    return case.make(model).run(*easy_images(model)).success


@each_variant()
@pytest.mark.parametrize(
    "change",
    [lambda z: z - 100, lambda z: z.log_softmax(1), lambda z: z + 1000, lambda z: z / 100],
    ids=["negative", "log-probabilities", "positive", "small"],
)
def test_logits_of_any_sign_and_size(case: Case, change: Any) -> None:
    model = linear_net().double()
    images, labels = easy_images(model)
    shifted = Shifted(model, change)
    result = case.make(shifted).run(images, labels)
    judge(case, result, images, labels, model=shifted)
    if not issubclass(case.attack, Fitted):  # where an image weighs what its loss says, in one pattern for all
        assert result.success.equal(barely_right(case))


@each_variant()
def test_an_empty_batch(case: Case) -> None:
    model = Counting(conv_net())
    images = draw(0, *IMAGE)
    labels = torch.empty(0, dtype=torch.long)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert model.calls == 0
    assert result.predictions.shape == result.success.shape == (0,)
    assert result.distance().shape == (0,)


@each_variant()
@pytest.mark.parametrize("model_dtype", DTYPES, ids=str)
def test_any_floating_dtype(case: Case, model_dtype: torch.dtype) -> None:
    """The answer is as narrow as the images, and inside the budget all the same."""
    model = conv_net().to(model_dtype)
    for dtype in DTYPES[model_dtype]:
        images = draw(3, *IMAGE).to(dtype)
        images[0, 0, 0, :2] = torch.tensor([0.0, 1.0])
        labels = said_by(model, images.to(model_dtype))
        result = case.make(model).run(images, labels)
        judge(case, result, images, labels, model=lambda x: model(x.to(model_dtype)))
        assert {parameter.dtype for parameter in model.parameters()} == {model_dtype}
        if case.kind == "budget":
            assert (result.distance("linf") > 0).all()


@each_variant()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_plain_function_gets_numbers_it_can_use(case: Case, dtype: torch.dtype) -> None:
    """Whether it is attacked or asked for its predictions: nothing says what dtype a function wants."""
    network = conv_net()
    images = draw(2, *IMAGE).to(dtype)
    labels = said_by(network, images.float())
    result = case.make(lambda x: network(x)).run(images, labels)
    judge(case, result, images, labels, model=lambda x: network(x.float()))


@each_variant()
def test_a_plain_function_is_a_model(case: Case) -> None:
    network, images, labels, expected = usual(case)
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode():
            found = case.make(lambda x: network(x))(images, labels)
        assert found.equal(expected)
        assert all(parameter.grad is None for parameter in network.parameters())


@each_variant()
def test_a_plain_function_may_answer_in_float64(case: Case) -> None:
    network = linear_net()
    images, labels = easy_images(network)
    network = network.double()

    def model(x: Tensor) -> Tensor:
        return network(x.double())

    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    assert result.success.float().mean() >= case.fools


@each_variant(lambda case: case.kind == "black-box")
def test_a_black_box_never_asks_for_a_gradient(case: Case) -> None:
    """A model that leaves torch, and would raise on tensors that want a gradient."""
    network = linear_net()
    images, labels = easy_images(network)
    rows = []

    def numpy_model(x: Tensor) -> Tensor:
        assert not x.requires_grad
        rows.append(len(x))
        with torch.no_grad():
            return torch.from_numpy(network(torch.from_numpy(x.numpy().copy())).numpy())

    result = case.make(numpy_model).run(images, labels)
    judge(case, result, images, labels, model=network)
    assert result.success.float().mean() >= case.fools
    assert sum(rows) - len(images) <= int(result.queries.sum()) <= sum(rows)


@each_variant(lambda case: case.kind == "black-box")
def test_a_black_box_bears_a_model_that_writes_to_its_input(case: Case) -> None:
    network = linear_net()
    images, labels = easy_images(network)

    def vandal(x: Tensor) -> Tensor:
        with torch.no_grad():
            logits = network(x)
            x.zero_()
            return logits

    assert case.make(vandal)(images, labels).equal(case.make(network)(images, labels))


@each_variant()
def test_a_recurrent_model(case: Case) -> None:
    model = initialised(RowsReader())
    images = draw(3, *IMAGE)
    labels = said_by(model, images)
    expected = case.make(model)(images, labels)
    result = case.make(model.train()).run(images, labels)
    assert model.training
    assert model.lstm.training
    assert model.lstm.dropout == 0.5
    judge(case, result, images, labels, model=model.eval())
    assert result.images.equal(expected)


@each_variant()
def test_normalisation_inside_the_model(case: Case) -> None:
    """The attack works on pixels, so a normalised network gives what the same layers give by hand."""
    network = conv_net()
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
    model = Normalized(network, mean, std).eval()
    images = draw(3, *IMAGE)
    labels = said_by(model, images)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=model)
    by_hand = case.make(lambda x: network((x - mean.view(3, 1, 1)) / std.view(3, 1, 1)))(images, labels)
    torch.testing.assert_close(result.images, by_hand)


@each_variant()
@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (0.0, 255.0), (-2.1, 2.7)], ids=str)
def test_any_bounds(case: Case, bounds: tuple[float, float]) -> None:
    low, high = bounds
    network = linear_net()
    images, labels = easy_images(network)
    model = Shifted(nn.Identity(), lambda x: network((x - low) / (high - low)))
    images = (low + images * (high - low)).clamp(low, high)
    labels = said_by(model, images)
    result = case.make(model, bounds=bounds).run(images, labels)
    judge(case, result, images, labels, model=model, bounds=bounds)
    if high - low < 5:
        assert result.success.any()


@each_variant()
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=lambda mode: mode.__name__)
def test_gradients_switched_off_by_the_caller(case: Case, mode: Any) -> None:
    model, images, labels, expected = usual(case)
    with mode():
        own = draw(3, *IMAGE), said_by(model, images)  # inference tensors, in inference mode
        result = case.make(model).run(*own)
        assert result.images.equal(expected)
        assert not result.images.is_inference()
    outside = case.make(model).run(*own)
    judge(case, outside, images, labels, model=model)
    assert outside.images.equal(expected)


@each_variant()
def test_autocast(case: Case) -> None:
    model = conv_net()
    images = draw(3, *IMAGE)
    labels = said_by(model, images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = case.make(model).run(images, labels)
        judge(case, result, images, labels, model=model)


@each_variant()
@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.uint16], ids=str)
def test_labels_of_any_integer_dtype(case: Case, dtype: torch.dtype) -> None:
    model, images, labels, expected = usual(case)
    result = case.make(model).run(images, labels.to(dtype))
    assert result.images.equal(expected)
    assert result.labels.dtype == torch.int64


@each_variant()
def test_images_of_any_memory_layout(case: Case) -> None:
    model = conv_net()
    images = draw(4, *IMAGE)
    labels = said_by(model, images)
    expected = case.make(model.double())(images.double(), labels)
    wide = draw(4, 8, 8, 6).double()
    wide[..., ::2] = images.permute(0, 2, 3, 1)
    for layout in (
        images.double().to(memory_format=torch.channels_last),
        images.double().transpose(2, 3).contiguous().transpose(2, 3),
        wide[..., ::2].permute(0, 3, 1, 2),
    ):
        torch.testing.assert_close(case.make(model)(layout, labels), expected, rtol=0, atol=1e-6)
    same = images[:1].double().expand(4, *IMAGE)
    result = case.make(model).run(same, labels[:1].expand(4))
    judge(case, result, same, labels[:1].expand(4), model=model)


@each_variant()
@settings(max_examples=15)
@given(data=st.data())
def test_any_image_at_all(case: Case, data: st.DataObject) -> None:
    pictures = st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
    shape = data.draw(pictures if case.spatial else st.one_of(pictures, st.tuples(st.integers(1, 20))), label="shape")
    count = data.draw(st.integers(0, 3), label="images")
    classes = data.draw(st.sampled_from([2, 3, 10, 40]), label="classes")
    fill = data.draw(st.sampled_from(["uniform", "black", "white", "binary", "grey", "tiny"]), label="fill")
    seed = data.draw(st.integers(0, 99), label="seed")
    images = draw(count, *shape, seed=seed)
    if fill == "binary":
        images = images.round()
    elif fill == "tiny":
        images = images * 1e-30
    elif fill != "uniform":
        images = torch.full_like(images, {"black": 0.0, "white": 1.0, "grey": 0.5}[fill])
    features = torch.Size(shape).numel()
    model = flat_net(features, classes, seed)
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed))
    targets = None
    if case.targetable and data.draw(st.booleans(), label="targeted"):
        targets = (labels + 1) % classes
    result = case.make(model).run(images, labels, targets=targets)
    judge(case, result, images, labels, model=model, targets=targets)


@each_variant(lambda case: "norm" in {field.name for field in dataclasses.fields(case.attack)})
def test_a_norm_may_be_a_name_or_an_object(case: Case) -> None:
    model = linear_net()
    images, labels = easy_images(model)
    expected = case.make(model, norm=case.norm)(images, labels)
    assert not expected.equal(images)
    for norm in (norms.get(case.norm), case.norm.upper()):
        assert case.make(model, norm=norm)(images, labels).equal(expected)
