"""What budget attacks climb: by name, or a function of the user's."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advkit import losses
from advkit.attacks.fitted.base import Fitted
from advkit.errors import InputError, ModelError
from contracts.cases import Case, each_variant
from contracts.scenes import IMAGE, Shifted, conv_net, draw, said_by, trained_net

climbing = each_variant(lambda case: case.kind == "budget" and case.takes("loss"))
# One pattern for all images of a batch need not do for each.
climbing_alone = each_variant(
    lambda case: case.kind == "budget" and case.takes("loss") and not issubclass(case.attack, Fitted)
)


def by_torch(logits: Tensor, classes: Tensor) -> Tensor:
    return F.cross_entropy(logits, classes, reduction="none")


@climbing
@pytest.mark.parametrize("targeted", [False, True])
def test_a_function_is_as_good_as_a_name(case: Case, targeted: bool) -> None:
    model, images = conv_net(), draw(4, *IMAGE)
    labels = said_by(model, images)
    targets = (labels + 1) % 4 if targeted else None
    usual = case.make(model)(images, labels, targets=targets)
    for loss in ("ce", by_torch):
        assert case.make(model, loss=loss)(images, labels, targets=targets).equal(usual)
    other = case.make(model, loss=lambda logits, classes: -by_torch(logits, classes))(images, labels, targets=targets)
    assert not other.equal(usual)


@climbing_alone
@pytest.mark.parametrize("name", ["ce", "margin", "dlr", "log_odds"])
def test_each_loss_fools(case: Case, name: str) -> None:
    model, images, labels = trained_net()
    before = losses.margin(model(images), labels)
    found = case.make(model, loss=name)(images, labels)
    assert (losses.margin(model(found), labels) < before).all()


@climbing_alone
def test_a_loss_that_does_not_saturate_moves_where_cross_entropy_does_not(case: Case) -> None:
    """A network so sure of itself that its cross-entropy is zero in float32."""
    model, images, labels = trained_net()
    sure = Shifted(model, lambda logits: 1e4 * logits)
    assert case.make(sure, loss="ce").run(images, labels).success.sum() <= (
        case.make(sure, loss="log_odds").run(images, labels).success.sum()
    )
    moved = case.make(sure, loss="log_odds")(images, labels)
    expected = case.make(model, loss="log_odds")(images, labels)
    assert (losses.margin(model(moved), labels) < losses.margin(model(images), labels)).all()
    assert (losses.margin(model(expected), labels) < losses.margin(model(images), labels)).all()


@climbing
@pytest.mark.parametrize(
    ("loss", "words"),
    [
        ("accuracy", "there is no loss 'accuracy'; the losses are 'ce', 'margin', 'dlr', 'log_odds'"),
        (3, "there is no loss 3"),
        (nn.CrossEntropyLoss(), r"the loss returned shape \(\) for 4 images; it must return one number per image"),
        (lambda logits, classes: None, "the loss returned NoneType for 4 images"),
    ],
)
def test_a_loss_that_is_none_is_told(case: Case, loss: Any, words: str) -> None:
    model, images = conv_net(), draw(4, *IMAGE)
    with pytest.raises(InputError, match=words):
        case.make(model, loss=loss)(images, said_by(model, images))


@climbing
def test_the_layers_of_a_loss_are_in_eval_mode_too(case: Case) -> None:
    drop = nn.Dropout(0.5)
    model, images = conv_net(), draw(4, *IMAGE)
    labels = said_by(model, images)

    def loss(logits: Tensor, classes: Tensor) -> Tensor:
        return by_torch(drop(logits), classes)

    expected = case.make(model)(images, labels)
    for _ in range(2):
        assert case.make(model, loss=loss)(images, labels).equal(expected)
    assert drop.training


@climbing
def test_a_loss_without_a_gradient_is_not_only_the_models(case: Case) -> None:
    model, images = conv_net(), draw(4, *IMAGE)
    for loss, words in (
        (lambda logits, classes: by_torch(logits.detach(), classes), "or in the loss if you gave one, it detaches"),
        (lambda logits, classes: by_torch(logits, classes) * torch.nan, "or in the loss if you gave one"),
    ):
        with pytest.raises(ModelError, match=words):
            case.make(model, loss=loss)(images, said_by(model, images))
