"""What every recipe can be asked for: averages, validation under attack, patience, soft and smoothed labels."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset, default_collate
from torchvision.transforms import v2

import advkit
from advkit.defenses import MART, TRADES, AdversarialTraining, FreeTraining
from advkit.errors import DtypeError, InputError
from contracts.scenes import conv_net, draw, flat_net

LABELS = torch.arange(12) % 4
IMAGES = 0.2 * LABELS.view(-1, 1, 1, 1) + draw(12, 3, 8, 8, high=0.3)
DATA = TensorDataset(IMAGES, LABELS)


def plainly() -> AdversarialTraining:
    return AdversarialTraining(advkit.FGSM(nn.Identity()), clean_ratio=1)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def by_hand(model: nn.Module, epochs: int, target: Tensor = LABELS, **how: float) -> list[dict[str, Tensor]]:
    """The weights after each step on the whole batch."""
    optimizer, steps = sgd(model), []
    for _ in range(epochs):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), target, **how).backward()
        optimizer.step()
        steps.append(copy.deepcopy(model.state_dict()))
    return steps


@pytest.mark.parametrize("equal", [False, True])
def test_the_model_ends_with_the_average_and_is_validated_with_it(equal: bool) -> None:
    model = conv_net().train()
    model[3].p = 0.0  # dropout
    steps = by_hand(copy.deepcopy(model), 4)
    for taken in range(1, 5):
        if equal:
            expected = {name: torch.stack([one[name] for one in steps[:taken]]).double().mean(0) for name in steps[0]}
        else:
            expected = expected if taken > 1 else steps[0]
            expected = {name: 0.8 * its + 0.2 * steps[taken - 1][name] for name, its in expected.items()}
    average = AveragedModel(model, use_buffers=True) if equal else 0.8
    defense = plainly()
    defense.fit(model, [(IMAGES, LABELS)], sgd(model), 4, average=average, validation=[(IMAGES, LABELS)])
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), rtol=1e-5, atol=1e-6)
    losses = [epoch.validation_loss for epoch in defense.history]
    assert losses == sorted(losses, reverse=True)  # so that the last epoch is the best
    assert losses[-1] == pytest.approx(F.cross_entropy(model.eval()(IMAGES), LABELS).item(), rel=1e-5)


def test_the_epoch_that_holds_best_is_kept_and_patience_ends_the_wait() -> None:
    """A learning rate that takes the model back to where it came from, and beyond."""
    model, defense = flat_net(192), plainly()
    judge = advkit.FGSM(model, eps=0.05)
    states, accuracies = [], []
    other = flat_net(192)
    optimizer = torch.optim.SGD(other.parameters(), 0.5)
    for epoch in range(6):
        if epoch == 2:
            optimizer.param_groups[0]["lr"] = -2.0
        plainly().fit(other, [(IMAGES, LABELS)], optimizer, 1)
        states.append(copy.deepcopy(other.state_dict()))
        accuracies.append(1 - judge.on(other).run(IMAGES, LABELS).success.float().mean().item())
    best = accuracies.index(max(accuracies))
    assert best < 3
    optimizer = torch.optim.SGD(model.parameters(), 0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch < 2 else -4.0)
    validation = [(IMAGES, LABELS)]
    how = {"scheduler": schedule, "validation": validation, "validation_attack": judge, "patience": 2}
    defense.fit(model, validation, optimizer, 6, **how)
    assert [epoch.robust_accuracy for epoch in defense.history] == pytest.approx(accuracies[: best + 3])
    assert defense.history[-1].stopped == (
        f"none of the last 2 epochs was better in validation than epoch {best + 1}, whose weights are kept"
    )
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, states[best][name])


class Mixed:
    """Batches as torchvision mixes them."""

    def __init__(self, mix: nn.Module, count: int = 2) -> None:
        self.loader = DataLoader(DATA, 6, collate_fn=lambda items: mix(*default_collate(items)))

    def __iter__(self):
        torch.manual_seed(3)
        return iter(self.loader)


@pytest.mark.parametrize("mix", [v2.MixUp(num_classes=4, alpha=1.0), v2.CutMix(num_classes=4)], ids=["mixup", "cutmix"])
def test_mixed_labels_are_learned_as_they_are_and_attacked_as_the_largest(mix: nn.Module) -> None:
    batches = [(images.clone(), shares.clone()) for images, shares in Mixed(mix)]
    assert batches[0][1].shape == (6, 4)
    model, expected = flat_net(192), flat_net(192)
    optimizer = sgd(expected)
    attack = advkit.FGSM(expected, eps=0.02)
    AdversarialTraining(attack, clean_ratio=0.3, per_batch="cycle").fit(model, Mixed(mix), sgd(model), 1)
    for images, shares in batches:
        adversarials = attack(images, shares.argmax(1))
        optimizer.zero_grad()
        clean, attacked = (F.cross_entropy(expected(x), shares) for x in (images, adversarials))
        (0.3 * clean + 0.7 * attacked).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    for (found, kept), (images, shares) in zip(advkit.data.attacked(Mixed(mix), attack), batches, strict=True):
        assert torch.equal(kept, shares)
        torch.testing.assert_close(found, attack(images, shares.argmax(1)))
    named = [{"image": images, "y": shares} for images, shares in batches]
    for recipe in (TRADES(steps=1), MART(steps=1), FreeTraining(replays=2)):
        recipe.fit(model, named, sgd(model), 1, labels="y", validation=named)
        assert recipe.history[0].loss > 0


def test_smoothed_labels() -> None:
    model, other = flat_net(192), flat_net(192)
    plainly().fit(model, [(IMAGES, LABELS)], sgd(model), 2, label_smoothing=0.3)
    wanted = 0.7 * F.one_hot(LABELS, 4) + 0.3 / 4
    for name, tensor in by_hand(other, 2, wanted)[-1].items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"validation_attack": advkit.FGSM(nn.Identity())}, InputError, "validation_attack needs validation images"),
        ({"patience": 2}, InputError, "patience needs validation images"),
        ({"patience": 0, "validation": [(IMAGES, LABELS)]}, InputError, "patience must be at least 1, got 0"),
        ({"validation_attack": 3, "validation": [(IMAGES, LABELS)]}, DtypeError, "attack must be an advkit attack"),
        ({"average": 1.5}, InputError, "average must be at least 0 and at most 1"),
        ({"average": AveragedModel(conv_net())}, InputError, "average is an AveragedModel of another model"),
        ({"label_smoothing": -0.1}, InputError, "label_smoothing must be at least 0 and at most 1"),
    ],
)
def test_what_cannot_be_done_is_an_error_before_training(how: dict, error: type[Exception], said: str) -> None:
    model = flat_net(192)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=said):
        plainly().fit(model, [(IMAGES, LABELS)], sgd(model), 1, **how)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(InputError, match="the labels have shares of 3 classes, but the model returned 4 logits"):
        plainly().fit(model, [(IMAGES, LABELS[:, None].expand(12, 3) * 0 + 1 / 3)], sgd(model), 1)
