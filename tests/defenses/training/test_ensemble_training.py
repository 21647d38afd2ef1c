import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit.defenses import EnsembleAdversarialTraining
from advkit.errors import DtypeError, InputError
from contracts.scenes import Passes, draw, flat_net


def data(count: int = 12) -> TensorDataset:
    return TensorDataset(draw(count, 3, 8, 8), torch.arange(count) % 4)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_batches_are_made_against_the_sources_and_the_model_in_turn() -> None:
    sources, model = [Passes(flat_net(192, seed=seed)) for seed in (1, 2)], Passes(flat_net(192))
    before = [{name: tensor.clone() for name, tensor in source.state_dict().items()} for source in sources]
    attack = advkit.FGSM(model, eps=0.2)
    attacked: list[list[int]] = []

    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        attacked.append([len(source.backwards) for source in sources])

    model.model.register_forward_pre_hook(lambda module, inputs: note(module, inputs) if module.training else None)
    defense = EnsembleAdversarialTraining(sources, attack)
    defense.fit(model, DataLoader(data(), 2), sgd(model), 2)
    # Six batches an epoch: source 1, source 2, itself, ...; the second epoch starts with the second source.
    counts = [[1, 0], [1, 1], [1, 1], [2, 1], [2, 2], [2, 2]]
    assert attacked[:6] == counts
    assert attacked[6:] == [[2, 3], [2, 3], [3, 3], [3, 4], [3, 4], [4, 4]]
    assert len(model.backwards) == 4
    for source, state in zip(sources, before, strict=True):
        assert all(torch.equal(tensor, state[name]) for name, tensor in source.state_dict().items())


def test_the_adversarial_images_are_those_of_the_source() -> None:
    source, model, seen = flat_net(192, seed=1), flat_net(192), []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    attack = advkit.FGSM(model, eps=0.2)
    images, labels = data().tensors
    EnsembleAdversarialTraining([source], attack).fit(model, [(images, labels)], sgd(model), 1)
    (batch,) = seen
    assert torch.equal(batch[:12], images)
    assert torch.equal(batch[12:], attack.on(source)(images, labels))
    assert not torch.equal(batch[12:], images)


def test_it_changes_the_model_by_the_mixed_loss() -> None:
    source, images, labels = flat_net(192, seed=1), *data().tensors
    model, by_hand = flat_net(192), flat_net(192)
    attack = advkit.FGSM(source, eps=0.2)
    EnsembleAdversarialTraining([source], attack, clean_ratio=0.3).fit(model, [(images, labels)], sgd(model), 1)
    loss = nn.functional.cross_entropy
    (0.3 * loss(by_hand(images), labels) + 0.7 * loss(by_hand(attack(images, labels)), labels)).backward()
    for mine, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(mine, other - 0.1 * other.grad)


def test_what_cannot_be_meant_is_an_error() -> None:
    attack = advkit.FGSM(nn.Identity())
    with pytest.raises(InputError, match="sources is empty"):
        EnsembleAdversarialTraining([], attack)
    with pytest.raises(DtypeError, match="model must be callable"):
        EnsembleAdversarialTraining([3], attack)
    with pytest.raises(DtypeError, match="attack must be an advkit attack"):
        EnsembleAdversarialTraining([nn.Identity()], "FGSM")
    assert repr(EnsembleAdversarialTraining([nn.Identity()], attack)) == (
        "EnsembleAdversarialTraining([Identity], FGSM, clean_ratio=0.5)"
    )
