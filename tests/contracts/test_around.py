"""Models as they stand in other people's code: behind functions, in DDP, under threads, with observers."""

import dataclasses
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import advkit
from advkit import Normalized
from advkit.defenses import BitDepthReduction
from advkit.model import attacking, is_stochastic
from contracts.cases import Case, each
from contracts.scenes import IMAGE, Rounding, conv_net, draw, easy_images, linear_net, said_by, trained_net, usual


class Halved(nn.Module):
    """The same function as ``lambda images: model(images / 2)``, as a module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images / 2)


class Engine:
    """A network in an object of the user's."""

    def __init__(self, model: nn.Module) -> None:
        self.network = model

    def predict(self, images: Tensor) -> Tensor:
        return self.network(images / 2)


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "lambda": lambda model: lambda images: model(images / 2),
    "bound method": lambda model: Engine(model).predict,
    "normalised lambda": lambda model: Normalized(lambda images: model(images), 0.0, 2.0),
}


@each()
def test_a_function_of_a_network_is_attacked_as_a_module_is(case: Case) -> None:
    """In eval mode, without touching what the network has learned; behind a defense, by way of its surrogate."""
    images = draw(2, *IMAGE)
    for defense, ways in ((None, WAYS), (Rounding(), {"lambda": WAYS["lambda"]})):
        model = conv_net().train() if defense is None else defense.wrap(conv_net())
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        labels = said_by(Halved(model).eval(), images)
        model.train(defense is None)
        expected = case.make(Halved(model))(images, labels)
        assert (expected != images).any() or case.kind != "budget"
        for way, written in ways.items():
            found = case.make(written(model))(images, labels)
            assert (found - expected).abs().max() <= 1e-6, way
            assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items()), way
            assert model.training == (defense is None), way


def test_a_random_defense_is_known_behind_a_function() -> None:
    defended = advkit.defenses.RandomCropRescale().wrap(conv_net())
    assert is_stochastic(lambda images: defended(images))
    assert not is_stochastic(lambda images: conv_net()(images))


def test_who_does_not_know_the_defense_stays_so() -> None:
    """A copy with another number is no other attacker."""
    model, images, labels = trained_net()
    defended = BitDepthReduction(1).wrap(model)
    labels = said_by(defended, images)
    naive = advkit.IFGSM(model, eps=0.3, alpha=0.1, steps=2).on(defended, adaptive=False)
    longer = dataclasses.replace(naive, steps=3)
    assert not longer.adaptive
    assert longer(images, labels).equal(images)  # a gradient of zero
    assert not longer.on(defended)(images, labels).equal(images)


@pytest.fixture
def process_group() -> Iterator[None]:
    """A group of this process alone, with a store that needs no port."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def normalised(model: nn.Module) -> nn.Module:
    return Normalized(model, 0.5, 0.5)


@pytest.mark.usefixtures("process_group")
@each()
@pytest.mark.parametrize("outer", [nn.Sequential, normalised, lambda model: lambda images: model(images)])
def test_the_module_inside_ddp_is_what_is_attacked(case: Case, outer: Callable[[nn.Module], nn.Module]) -> None:
    """A forward of the wrapper would be a collective, and would spoil a backward that is due."""
    inner = conv_net().train()
    wrapped = DistributedDataParallel(inner)
    calls: list[str] = []
    wrapped._pre_forward = lambda *inputs, **more: calls.append("collective")  # type: ignore[method-assign]
    _, images, labels, expected = usual(case)
    if outer is normalised:
        labels = said_by(outer(inner.eval()), images)
        expected = case.make(outer(inner.train()))(images, labels)
    result = case.make(outer(wrapped)).run(images, labels)
    assert result.images.equal(expected)
    assert calls == []
    assert "forward" not in vars(wrapped)


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("training", [True, False])
def test_an_attack_between_forward_and_backward_under_ddp(training: bool) -> None:
    images, labels = draw(4, *IMAGE), torch.arange(4)
    gradients = []
    for attacked in (False, True):
        model = DistributedDataParallel(conv_net()).train(training)
        model.module[3].p = 0.0
        loss = nn.functional.cross_entropy(model(images), labels)
        if attacked:
            advkit.PGD(model, steps=2)(images, labels)
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for expected, found in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_threads_take_turns() -> None:
    """Two threads that attack one model, by way of different wrappers, leave it as it was."""
    model = conv_net().train()
    inside, others = threading.Event(), []

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Tensor) -> Tensor:
            inside.set()
            others.append(second.is_alive())
            return self.model(images)

    images, labels = draw(2, *IMAGE), torch.tensor([0, 1])
    seen = []

    def attack_too() -> None:
        inside.wait()
        with attacking(model):
            seen.append(len(others))

    second = threading.Thread(target=attack_too)
    second.start()
    advkit.IFGSM(Slow(), steps=20)(images, labels)
    second.join()
    assert seen == [20]  # after all steps of the first
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_attacks_inside_attacks_do_not_wait_for_themselves() -> None:
    model = conv_net()
    with attacking(model), attacking(model, conv_net(seed=1)):
        pass
    with attacking(model):
        pass


class Observed(nn.Module):
    """A layer that watches its inputs, also in eval mode."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(0))
        self.register_buffer("none", None)

    def forward(self, images: Tensor) -> Tensor:
        self.largest.copy_(images.detach().amax())
        self.seen = images.detach().flatten()
        return self.model(images)


@each()
def test_what_a_model_observes_is_forgotten(case: Case) -> None:
    model = Observed(conv_net())
    buffers = dict(model._buffers)
    versions = model.largest._version
    images = draw(3, *IMAGE)
    case.make(model).run(images, torch.tensor([0, 1, 2]))
    assert model.largest is buffers["largest"]
    assert model.seen is buffers["seen"]
    assert model.largest._version == versions
    assert float(model.largest) == 0
    assert model.seen.numel() == 0
    model(images)
    assert float(model.largest) > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@each(lambda case: case.kind != "budget")
def test_adversarials_of_16_bits_are_as_many(case: Case, dtype: torch.dtype) -> None:
    """A model in float32, and images in 16 bits: what fools it lies on the grid of the images, and is found."""
    model = linear_net(offset=0.5)
    images, _ = easy_images(model, count=16)
    images = images.to(dtype)
    labels = said_by(model, images.float())
    full, few = (case.make(model).run(pixels, labels) for pixels in (images.float(), images))
    assert few.images.dtype == dtype
    assert said_by(model, few.images.float()).equal(few.predictions)
    assert int(few.success.sum()) >= int(full.success.sum())
    assert few.images[~few.success].equal(images[~few.success])


class Shared(advkit.Attack):
    """One perturbation for all images of a batch."""

    def _perturb(self, images: Tensor, goal: object) -> Tensor:
        x = images.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(goal.loss(self.model(x)).sum(), x)  # type: ignore[attr-defined]
        return images + 0.1 * gradient.mean(0).sign()


def test_an_attack_on_a_whole_batch_gets_it_whole() -> None:
    model = conv_net()
    images = draw(150, *IMAGE, low=0.2, high=0.8)
    change = Shared(model)(images, said_by(model, images)) - images
    torch.testing.assert_close(change, change[:1].expand_as(change), rtol=0, atol=1e-6)
