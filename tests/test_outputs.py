"""Models that return something else than logits (N, K) are attacked as what they mean."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit.errors import InputError, ModelError
from contracts import scenes

NET = scenes.linear_net()
IMAGES, LABELS = scenes.easy_images(NET)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda z: {"logits": z, "hidden": z[:, None]},
        lambda z: SimpleNamespace(loss=None, logits=z, other=z),
        lambda z: (z, z[:, :, None], [z]),
        lambda z: [z, None],
    ],
)
def test_logits_are_found_where_there_is_no_doubt(wrapped: Callable[[Tensor], Any]) -> None:
    plain = advkit.FGSM(NET)(IMAGES, LABELS)

    def model(images: Tensor) -> Any:
        return wrapped(NET(images))

    assert advkit.FGSM(model)(IMAGES, LABELS).equal(plain)
    assert advkit.FGSM(advkit.Logits(model))(IMAGES, LABELS).equal(plain)
    assert advkit.FGSM(advkit.Ensemble([model, NET]))(IMAGES, LABELS).equal(plain)
    behind = advkit.Normalized(model, 0.0, 1.0)
    assert advkit.evaluate(behind, [(IMAGES, LABELS)], [advkit.FGSM(behind, eps=0.1)], flags=False).clean_accuracy == 1


def test_where_there_is_doubt_the_user_says_it() -> None:
    def model(images: Tensor) -> tuple[Tensor, Tensor]:
        return -NET(images), NET(images)

    with pytest.raises(ModelError, match=r"tuple of a tensor of shape \(4, 3\), a tensor.*advkit.Logits\(model, key"):
        advkit.FGSM(model)(IMAGES, LABELS)
    for key in (1, -1, lambda output: output[1]):
        assert advkit.Logits(model, key)(IMAGES).equal(NET(IMAGES))
    assert advkit.Logits(lambda x: {"a": NET(x)}, "a")(IMAGES).equal(NET(IMAGES))
    assert advkit.Logits(lambda x: SimpleNamespace(a=NET(x)), "a")(IMAGES).equal(NET(IMAGES))
    with pytest.raises(ModelError, match="found no tensor at 'b'"):
        advkit.Logits(lambda x: {"a": NET(x)}, "b")(IMAGES)
    with pytest.raises(InputError, match="key must be"):
        advkit.Logits(model, True)


@pytest.mark.parametrize("column", [False, True])
def test_one_logit_is_two_classes(column: bool) -> None:
    layer = nn.Linear(192, 1)
    with torch.no_grad():
        layer.weight.copy_(scenes.draw(1, 192, seed=3, low=-1.0))
        layer.bias.copy_(-layer.weight @ IMAGES[0].flatten() + 0.3)
    net = nn.Sequential(nn.Flatten(), nn.Dropout(), layer, *([] if column else [nn.Flatten(0)])).train()
    model = advkit.TwoClass(net)
    attack = advkit.DeepFool(model, overshoot=0.0)
    with pytest.raises(ModelError, match=r"wrap the model: advkit.TwoClass\(model\)"):
        attack.on(net)(IMAGES, LABELS)
    z = (IMAGES.flatten(1) @ layer.weight.T + layer.bias).squeeze(1).detach()
    result = attack.run(IMAGES, (z > 0).long())
    assert net[1].training
    torch.testing.assert_close(model.eval()(IMAGES).softmax(1)[:, 1], z.sigmoid())
    assert result.success.all()
    torch.testing.assert_close(result.distance("l2"), z.abs() / layer.weight.detach().norm(), rtol=1e-2, atol=0)
    with pytest.raises(ModelError, match=r"one logit per image.*it returned shape \(4, 3\)"):
        advkit.TwoClass(NET)(IMAGES)


def test_a_network_says_what_images_it_wants() -> None:
    net = nn.Identity()
    with pytest.raises(InputError, match=r"Identity does not say what images it wants.*advkit.Normalized\(net, mean"):
        advkit.Normalized.of(net)
    config: Any = {"mean": (0.1, 0.2, 0.3), "std": (1.0, 0.5, 0.25), "input_size": (3, 8, 8)}
    processor = SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 0.5, 0.25])
    weights = SimpleNamespace(transforms=lambda: SimpleNamespace(mean=config["mean"], std=config["std"]))
    for source in (weights, weights.transforms(), processor):
        assert str(advkit.Normalized.of(net, source)) == str(advkit.Normalized(net, config["mean"], config["std"]))
    net.pretrained_cfg = config
    assert advkit.Normalized.of(net).std.tolist() == [1.0, 0.5, 0.25]
