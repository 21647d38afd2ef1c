"""Bad input is a sentence before any work, and a bad model is named as the culprit."""

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from advkit import Attack, hyperparameters
from advkit.errors import AdvkitError, DtypeError, InputError, ModelError
from contracts.cases import Case, each
from contracts.scenes import IMAGE, Counting, conv_net, draw, said_by

NAN_PIXEL = draw(3, *IMAGE)
NAN_PIXEL[1, 2, 3, 4] = torch.nan

IMAGES = {
    "array": (np.zeros((3, 3, 8, 8)), DtypeError, "images must be a tensor of shape (N, ...), got ndarray"),
    "list": ([[0.0]], DtypeError, "images must be a tensor of shape (N, ...), got list"),
    "uint8": (
        draw(3, *IMAGE).byte(),
        DtypeError,
        "images must be floating, got torch.uint8; scale integer pixels first",
    ),
    "int64": (draw(3, *IMAGE).long(), DtypeError, "images must be floating, got torch.int64"),
    "bool": (draw(3, *IMAGE) > 0.5, DtypeError, "images must be floating, got torch.bool"),
    "complex": (torch.zeros(3, 4, dtype=torch.complex64), DtypeError, "images must be floating, got torch.complex64"),
    "scalar": (torch.tensor(0.5), InputError, "images must be a batch of shape (N, ...), got ()"),
    "vector": (torch.rand(3), InputError, "got (3,); add a batch dimension with images.unsqueeze(0)"),
    "nan": (NAN_PIXEL, InputError, "images contain NaN"),
    "inf": (draw(3, *IMAGE) / 0, InputError, "images lie in [inf, inf], outside bounds=(0, 1)"),
    "low": (draw(3, *IMAGE, low=-2.0, high=-1.0).round(), InputError, "images lie in [-2, -1], outside bounds=(0, 1)"),
    "high": (255 * draw(3, *IMAGE).round(), InputError, "images lie in [0, 255], outside bounds=(0, 1)"),
}
LABELS = {
    "list": ([0, 1, 2], DtypeError, "must be an int64 tensor of shape (N,), got list"),
    "float": (torch.zeros(3), DtypeError, "must be integer class indices, got torch.float32"),
    "bool": (torch.zeros(3, dtype=torch.bool), DtypeError, "must be integer class indices, got torch.bool"),
    "one-hot": (torch.eye(3, 4).long(), InputError, "must have shape (3,), one class for each of the images of shape"),
    "column": (torch.zeros(3, 1, dtype=torch.long), InputError, "got (3, 1)"),
    "scalar": (torch.tensor(0), InputError, "got ()"),
    "few": (torch.zeros(2, dtype=torch.long), InputError, "must have shape (3,)"),
    "many": (torch.zeros(4, dtype=torch.long), InputError, "got (4,)"),
    "negative": (torch.tensor([0, -1, 2]), InputError, "must be class indices, at least 0; the smallest is -1"),
}
TOO_LARGE = torch.tensor([1, 4, 0])


@each()
def test_wrong_images(case: Case) -> None:
    model = Counting(conv_net())
    for images, error, words in IMAGES.values():
        for call in (case.make(model), case.make(model).run):
            with pytest.raises(error, match=re.escape(words)) as caught:
                call(images, torch.tensor([0, 1, 2]))
            assert isinstance(caught.value, AdvkitError)
            assert isinstance(caught.value, TypeError if error is DtypeError else ValueError)
    assert model.calls == 0


@each()
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0)], ids=str)
def test_images_out_of_bounds_are_told_what_to_do(case: Case, bounds: tuple[float, float]) -> None:
    images = draw(3, *IMAGE)
    images[0, 0, 0, 0], images[2, 0, 0, 0] = -2.125, 2.5
    with pytest.raises(InputError) as caught:
        case.make(conv_net(), bounds=bounds)(images, torch.tensor([0, 1, 2]))
    message = str(caught.value)
    for words in ("[-2.125, 2.5]", f"bounds=({bounds[0]:g}, {bounds[1]:g})", "advkit.Normalized(net, mean, std)"):
        assert words in message


@each()
@pytest.mark.parametrize("name", ["labels", "targets"])
def test_wrong_labels_and_targets(case: Case, name: str) -> None:
    if name == "targets" and not case.targetable:
        pytest.skip("takes no targets")
    model = Counting(conv_net())
    for classes, error, words in LABELS.values():
        given: dict[str, Any] = {"labels": torch.tensor([0, 1, 2]), name: classes}
        with pytest.raises(error, match=re.escape(words)) as caught:
            case.make(model)(draw(3, *IMAGE), **given)
        assert str(caught.value).startswith(name)
    assert model.calls == 0


@each()
@pytest.mark.parametrize("name", ["labels", "targets"])
def test_classes_that_the_model_does_not_have(case: Case, name: str) -> None:
    """Known once it has answered, so the error comes after one forward and no backward."""
    if name == "targets" and not case.targetable:
        pytest.skip("takes no targets")
    model = Counting(conv_net(classes=4))
    given: dict[str, Any] = {"labels": torch.tensor([0, 1, 2]), name: TOO_LARGE}
    words = rf"{name} must lie in \[0, 4\), since the model returned 4 logits per image; the largest is 4"
    with pytest.raises(InputError, match=words):
        case.make(model)(draw(3, *IMAGE), **given)
    assert model.calls == 1


@each()
def test_hyperparameters_out_of_range(case: Case) -> None:
    """What their declarations exclude, with a sentence that says which of them it is."""
    known = hyperparameters.of(case.attack)
    undeclared = {known.name for known in fields(case.attack)} - set(known) - {known.name for known in fields(Attack)}
    assert not undeclared
    for name, what in known.items():
        for value in what.bad():
            with pytest.raises(InputError) as caught:
                case.make(conv_net(), **{name: value})
            assert re.search(rf"\b{name}\b", str(caught.value))


BOUNDS: list[tuple[Any, str]] = [
    ((1.0, 0.0), "bounds must be (low, high) with low < high, got (1.0, 0.0)"),
    ((0.5, 0.5), "bounds must be (low, high) with low < high"),
    ((0.0, float("inf")), "bounds[1] must be finite, got inf"),
    ((float("nan"), 1.0), "bounds[0] must be finite, got nan"),
    (("0", 1.0), "bounds[0] must be a number, got '0'"),
    ((0.0, 0.5, 1.0), "bounds must be a pair (low, high)"),
    (1.0, "bounds must be a pair (low, high), the range of a pixel; got 1.0"),
]


@each()
def test_bounds_that_are_none(case: Case) -> None:
    model = conv_net()
    for bounds, words in BOUNDS:
        with pytest.raises(InputError, match=re.escape(words)):
            case.make(model, bounds=bounds)


@each()
def test_a_model_that_cannot_be_called(case: Case) -> None:
    words = "model must be callable, pixels in and logits out; got str"
    with pytest.raises(DtypeError, match=words):
        case.make("resnet18")
    with pytest.raises(DtypeError, match=words):
        case.make(conv_net()).on("resnet18")


class Culprit(nn.Module):
    """A good model up to its call number ``at``, and one whose answer is changed from then on."""

    def __init__(self, change: Any, at: int = 1) -> None:
        super().__init__()
        self.net = conv_net()
        self.change = change
        self.at = at
        self.calls = 0

    def forward(self, images: Tensor) -> Any:
        self.calls += 1
        logits = self.net(images)
        return self.change(logits) if self.calls >= self.at else logits


def with_nan(logits: Tensor) -> Tensor:
    return logits.index_fill(1, torch.tensor([2]), torch.nan)


CULPRITS = {
    "nan": (with_nan, "the model returned NaN logits"),
    "tuple": (lambda z: (z, z), "the model returned tuple of a tensor of shape ("),
    "dict": (
        lambda z: {"scores": z},
        "the model returned dict with 'scores', but attacks need",
    ),
    "one": (lambda z: z[:, 0], "the model returned shape (3,) for images of shape (3, 3, 8, 8)"),
    "map": (lambda z: z[:, :, None], "the model returned shape (3, 4, 1)"),
    "rows": (lambda z: z[:2], "the model returned shape (2, 4) for images of shape (3, 3, 8, 8)"),
    "summed": (lambda z: z.sum(), "the model returned shape ()"),
    "single": (lambda z: z[:, :1], "attacks need logits of shape (3, K), with K at least 2"),
    "classes": (lambda z: z.argmax(1, keepdim=True).expand(3, 4), "the model returned torch.int64, but attacks need"),
}


@each()
def test_a_model_at_fault(case: Case) -> None:
    for change, words in CULPRITS.values():
        model = Culprit(change).train()
        with pytest.raises(ModelError, match=re.escape(words)):
            case.make(model)(draw(3, *IMAGE), torch.tensor([0, 1, 2]))
        assert model.training
        assert model.net.training
        assert model.calls == 1


@each()
@pytest.mark.parametrize("at", [2, 3])
def test_a_model_that_turns_to_nan(case: Case, at: int) -> None:
    model = Culprit(with_nan, at)

    def until_it_does() -> None:
        for _ in range(at):  # an attack of one forward gets there at its next call
            case.make(model)(draw(3, *IMAGE), torch.tensor([0, 1, 2]))

    with pytest.raises(ModelError, match="the model returned NaN logits"):
        until_it_does()


@each(lambda case: case.needs_gradient)
@pytest.mark.parametrize("plain", [False, True], ids=["module", "function"])
def test_a_model_that_lets_no_gradient_through(case: Case, plain: bool) -> None:
    """Also when its logits hang on parameters, and so ask for a gradient of their own."""
    network = conv_net()
    images = draw(2, *IMAGE)
    labels = said_by(network, images)

    def cut(x: Tensor) -> Tensor:
        return network(x.detach())

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network

        def forward(self, x: Tensor) -> Tensor:
            return cut(x)

    with pytest.raises(ModelError, match="no gradient flows from the model's logits back to its images"):
        case.make(cut if plain else Cut())(images, labels)


@each(lambda case: case.kind == "budget")
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_gradient_that_is_nan_is_not_taken_for_a_flat_one(case: Case, everywhere: bool) -> None:
    """sqrt(0) has an answer and no gradient. To leave such pixels alone and say nothing would be a lie."""
    network = conv_net()

    def model(x: Tensor) -> Tensor:
        return network((x - x.detach() if everywhere else x).abs().sqrt())

    images = draw(3, *IMAGE)
    images[0, 0, 0, 0] = 0.0
    labels = said_by(model, images)
    if case.elsewhere and not everywhere:
        pytest.skip("does not ask where it is NaN")
    with pytest.raises(ModelError, match="gradient of the model's logits with respect to its images is NaN"):
        case.make(model)(images, labels)
