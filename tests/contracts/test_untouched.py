"""Nothing of the caller's changes, whatever happens: tensors, flags, gradients, modes, random numbers."""

import contextlib
import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from contracts.cases import Case, each
from contracts.scenes import IMAGE, Counting, conv_net, draw, judge, said_by, usual


class Boom(Exception):
    """What a model raises in the middle of an attack."""


class Fragile(Counting):
    """Raises at its call number ``at``, before or after its layers have run."""

    def __init__(self, model: nn.Module, at: int | None) -> None:
        super().__init__(model)
        self.at = at

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if self.calls == self.at:
            raise Boom
        return logits


def mixed_up(model: nn.Module) -> nn.Module:
    """A model as people have them half-way through fine-tuning: every flag somewhere else."""
    model.train()
    batch_norm = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    batch_norm.eval()
    for index, parameter in enumerate(model.parameters()):
        if index % 3 == 0:
            parameter.requires_grad_(False)
        if index % 2 == 0:
            parameter.grad = torch.full_like(parameter, 0.5)
    return model


def everything(model: nn.Module) -> Callable[[], None]:
    """Note all that an attack could change; the function returned asserts that nothing has."""
    flags = {name: module.training for name, module in model.named_modules()}
    wants = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    gradients = {name: copy.deepcopy(parameter.grad) for name, parameter in model.named_parameters()}
    objects = {name: parameter.grad for name, parameter in model.named_parameters()}
    values = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    versions = {name: tensor._version for name, tensor in model.state_dict(keep_vars=True).items()}
    modes = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    random = torch.get_rng_state()

    def unchanged() -> None:
        assert {name: module.training for name, module in model.named_modules()} == flags
        assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == wants
        for name, parameter in model.named_parameters():
            assert parameter.grad is objects[name]
            assert parameter.grad is None or parameter.grad.equal(gradients[name])
        for name, tensor in model.state_dict(keep_vars=True).items():
            assert tensor.equal(values[name])
            assert tensor._version == versions[name]
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()) == modes
        assert torch.get_rng_state().equal(random)

    return unchanged


@each()
@pytest.mark.parametrize("at", [None, 1, 2, 3])
def test_the_model_is_as_it_was(case: Case, at: int | None) -> None:
    """Also when it raises, at any of its calls; the caller gets the exception itself."""
    images = draw(3, *IMAGE)
    labels = torch.tensor([0, 1, 2])
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        model = mixed_up(Fragile(conv_net(), at))
        with mode():
            unchanged = everything(model)
            raised = False
            try:
                case.make(model).run(images, labels)
            except Boom:
                raised = True
            assert raised == (at is not None and model.calls >= at)
            assert raised or at is None or at > 1
            unchanged()


@each()
@pytest.mark.parametrize("at", [None, 1, 3])
def test_the_images_and_labels_are_as_they_were(case: Case, at: int | None) -> None:
    model = Fragile(conv_net(), at)
    images = draw(3, *IMAGE).requires_grad_()
    labels = torch.tensor([0, 1, 2])
    targets = torch.tensor([1, 2, 3]) if case.targetable else None
    before, version, said = images.detach().clone(), images._version, labels.clone()
    with contextlib.suppress(Boom):
        case.make(model).run(images, labels, targets=targets)
    assert images.equal(before)
    assert images._version == version
    assert images.requires_grad
    assert images.is_leaf
    assert images.grad is None
    assert labels.equal(said)
    assert targets is None or targets.equal(torch.tensor([1, 2, 3]))


@each()
def test_images_in_a_graph_are_left_in_it(case: Case) -> None:
    """Images made by a network that the caller trains: attacking them adds nothing to the graph."""
    scale = torch.tensor(0.5, requires_grad=True)
    images = scale * draw(2, *IMAGE)
    found = case.make(conv_net())(images, torch.tensor([0, 1]))
    assert not found.requires_grad
    images.sum().backward()
    assert scale.grad is not None
    torch.testing.assert_close(scale.grad, draw(2, *IMAGE).sum())


@each(lambda case: case.deterministic)
def test_a_deterministic_attack_draws_nothing(case: Case) -> None:
    model = conv_net()
    images = draw(3, *IMAGE)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    drawn = generator.get_state()
    first = case.make(model)(images, torch.tensor([0, 1, 2]))
    assert torch.get_rng_state().equal(state)
    torch.manual_seed(99)
    second = case.make(model, generator=generator)(images, torch.tensor([0, 1, 2]))
    torch.set_rng_state(state)
    assert first.equal(second)
    assert generator.get_state().equal(drawn)


@each()
def test_the_model_is_attacked_in_eval_mode(case: Case) -> None:
    """In train mode dropout would draw, and batch norm would let the rows of a batch see each other."""
    seen = []
    model, images, labels, expected = usual(case)
    model[3].register_forward_hook(lambda module, _, __: seen.append(module.training))
    assert case.make(model.train())(images, labels).equal(expected)
    assert model.training
    assert set(seen) <= {False}  # what was fitted asks nothing


@each()
def test_a_training_step_goes_on_after_an_attack(case: Case) -> None:
    """A graph that was built before the attack fills ``param.grad`` as if there had been none."""
    images, labels = draw(6, *IMAGE), torch.tensor([0, 1, 2, 3, 0, 1])
    gradients = []
    for attacked in (False, True):
        model = conv_net().train()
        model[3].p = 0.0
        loss = nn.functional.cross_entropy(model(images), labels)
        if attacked:
            adversarial = case.make(model)(images, labels)
            loss = loss + 0 * adversarial.sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for expected, found in zip(*gradients, strict=True):
        assert expected is not None
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@each()
def test_hooks_on_parameters_stay_silent(case: Case) -> None:
    model = conv_net()
    calls: list[str] = []
    for parameter in model.parameters():
        parameter.register_hook(lambda gradient: calls.append("gradient"))
        parameter.register_post_accumulate_grad_hook(lambda tensor: calls.append("accumulated"))
    images = draw(2, *IMAGE)
    case.make(model)(images, said_by(model, images))
    assert calls == []


@each()
def test_an_attack_inside_a_forward(case: Case) -> None:
    """A model that attacks itself, the first times that it is asked, comes back in the state of the outermost."""

    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = conv_net().train()
            self.asleep, self.attacks = False, 0

        def forward(self, images: Tensor) -> Tensor:
            if not self.asleep and self.attacks < 3:
                self.asleep, self.attacks = True, self.attacks + 1
                case.make(self.inner)(images.detach().clamp(0, 1), torch.zeros(len(images), dtype=torch.long))
                self.asleep = False
            return self.inner(images)

    model = Nested().train()
    unchanged = everything(model)
    images, labels = draw(2, *IMAGE), torch.tensor([0, 1])
    result = case.make(model).run(images, labels)
    unchanged()
    model.eval()
    model.asleep = True
    judge(case, result, images, labels, model=model)
