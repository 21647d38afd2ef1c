import pytest
import torch
from torch import nn

import advkit
from advkit.defenses import InputTransformation
from advkit.evaluation.passes import Asked, Passes, counting
from contracts.scenes import draw, flat_net


class Shade(InputTransformation):
    stochastic = True
    eot_samples = 4

    def forward(self, images):
        return 0.9 * images


def count(model, act):
    passes = Passes()
    with counting(model, passes):
        act(model)
    return passes.forwards, passes.backwards


def differentiated(model, times=1):
    images = draw(3, 12).requires_grad_()
    logits = model(images)
    for _ in range(times):
        torch.autograd.grad(logits.sum(), images, retain_graph=True)


@pytest.mark.parametrize("wrap", [lambda net: net, Asked, nn.Sequential])
def test_images_are_counted_both_ways(wrap):
    model = wrap(flat_net(12))
    assert count(model, lambda model: model(draw(5, 12))) == (5, 0)
    assert count(model, differentiated) == (3, 3)
    assert count(model, lambda model: differentiated(model, times=4)) == (3, 12)
    assert count(model, lambda model: None) == (0, 0)
    with torch.no_grad():
        assert count(model, lambda model: model(draw(5, 12))) == (5, 0)


def test_the_network_behind_defenses_is_counted():
    net = flat_net(12)
    inner = Shade().wrap(net)
    for model in (inner, Shade().wrap(inner), nn.Sequential(inner)):
        assert count(model, lambda model: model(draw(5, 12))) == (5, 0)
    labels = torch.zeros(5, dtype=torch.int64)
    assert count(inner, lambda model: advkit.FGSM(model)(draw(5, 12), labels)) == (20, 20)
    both = nn.ModuleList([inner, Shade().wrap(net)])
    assert count(both, lambda both: both[0](draw(5, 12))) == (5, 0)  # not twice


def test_hooks_are_gone_afterwards():
    net = flat_net(12)

    def broken(model):
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        count(net, broken)
    assert not net._forward_hooks
