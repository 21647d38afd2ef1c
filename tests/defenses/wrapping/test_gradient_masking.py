import torch
from torch import nn

from advkit.defenses import GradientMasking
from contracts.scenes import draw, linear_net


def test_outputs_are_the_same_and_gradients_are_noisy() -> None:
    """Eq. (12): G' = G + eps * N(0, 1), where G is known."""
    net = linear_net()
    images = draw(2000, 3, 8, 8).requires_grad_()
    masked = GradientMasking(0.5, generator=torch.Generator().manual_seed(0)).wrap(net)
    logits = masked(images)
    assert logits.equal(net(images))
    (found,) = torch.autograd.grad(logits[:, 0].sum(), images)
    noise = (found - net[1].weight[0].view(3, 8, 8)).detach() / 0.5
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
    assert abs((noise[:, 0] * noise[:, 1]).mean()) < 0.01  # each pixel has a draw of its own
    assert abs((noise[:1000] * noise[1000:]).mean()) < 0.01


def test_no_noise_at_eps_0_and_none_without_gradients() -> None:
    images, generator = draw(4, 3, 8, 8), torch.Generator().manual_seed(0)
    state = generator.get_state()
    GradientMasking(1.0, generator=generator).wrap(linear_net())(images)
    assert generator.get_state().equal(state)
    x = images.requires_grad_()
    net = linear_net()
    found, expected = (
        torch.autograd.grad(model(x).sum(), x)[0]
        for model in (GradientMasking(0.0, generator=generator).wrap(net), net)
    )
    assert found.equal(expected)


def test_the_surrogate_is_the_model_and_takes_flat_vectors() -> None:
    net = nn.Linear(5, 3)
    defense = GradientMasking(1.0)
    assert defense.surrogate(net) is net
    assert not defense.stochastic
    assert defense.wrap(net)(draw(2, 5)).shape == (2, 3)
