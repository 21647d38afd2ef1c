"""What a recipe may do besides its loss: stand around the network, and train on a batch again and again."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from advkit.defenses import TrainingDefense
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import InputError, ModelError
from contracts.scenes import draw, flat_net

DATA = TensorDataset(draw(10, 12), torch.arange(10) % 4)


class Plain(TrainingDefense):
    """The cross-entropy, and a note of each call."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, int, bool]] = []

    def loss(self, network: Network, batch: Batch) -> Tensor:
        self.seen.append(("loss", batch.turn, network.training))
        return nn.functional.cross_entropy(network(batch.images), batch.labels)


class Shifted(Plain):
    """The loss and its gradient at weights that are moved, as adversarial weight perturbation has it."""

    shift = 0.1

    @contextmanager
    def around(self, network: Network, batch: Batch) -> Iterator[None]:
        before = [parameter.detach().clone() for parameter in network.parameters()]
        self.seen.append(("in", batch.turn, network.training))
        try:
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter += self.shift
            yield
        finally:
            with torch.no_grad():
                for parameter, its in zip(network.parameters(), before, strict=True):
                    parameter.copy_(its)
            self.seen.append(("out", batch.turn, network.training))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)


def test_the_gradient_is_that_inside_and_the_step_is_taken_outside() -> None:
    model, by_hand = flat_net(12), flat_net(12)
    Shifted().fit(model, DataLoader(DATA, 4), sgd(model), epochs=2)
    optimizer = sgd(by_hand)
    for _ in range(2):
        for images, labels in DataLoader(DATA, 4):
            weights = {name: its.detach() + 0.1 for name, its in by_hand.named_parameters()}
            moved = {name: its.requires_grad_() for name, its in weights.items()}
            loss = nn.functional.cross_entropy(torch.func.functional_call(by_hand, moved, (images,)), labels)
            gradients = torch.autograd.grad(loss, list(moved.values()))
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    for one, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_validation_asks_for_the_loss_alone() -> None:
    model, defense = flat_net(12), Shifted()
    defense.fit(model, DataLoader(DATA, 5), sgd(model), epochs=1, validation=DataLoader(DATA, 10))
    step = ["in", "loss", "out"]
    assert [what for what, _, _ in defense.seen] == [*step, *step, "loss"]
    assert [training for _, _, training in defense.seen] == [True] * 6 + [False]


def test_an_infinite_loss_leaves_the_weights_as_they_were() -> None:
    class Infinite(Shifted):
        shift = float("inf")

    model = flat_net(12)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(ModelError, match="the loss is nan in batch 1"):
        Infinite().fit(model, DataLoader(DATA, 4), sgd(model), epochs=1)
    for parameter, its in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, its)


def test_replays_are_steps_of_the_optimizer_and_not_of_the_scheduler(tmp_path: Path) -> None:
    class Thrice(Plain):
        replays = 3

    model, repeated, defense = flat_net(12), flat_net(12), Thrice()
    optimizer = sgd(model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=100)
    defense.fit(model, DataLoader(DATA, 5), optimizer, epochs=2, batch_scheduler=schedule)
    assert [turn for _, turn, _ in defense.seen] == [0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2]
    assert schedule.last_epoch == 4
    batches = list(DataLoader(DATA, 5))
    Plain().fit(repeated, [batch for batch in batches for _ in range(3)], sgd(repeated), epochs=2)
    for one, other in zip(model.parameters(), repeated.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_checkpoint_knows_a_recipe_by_its_numbers(tmp_path: Path) -> None:
    class Weighted(Plain):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = weight

    assert repr(Weighted(0.5)) == "Weighted(weight=0.5)"
    for epochs in (1, 2):  # by another object of the same numbers
        model = flat_net(12)
        Weighted(0.5).fit(model, DataLoader(DATA, 5), sgd(model), epochs, checkpoint=tmp_path / "run.pt")
    with pytest.raises(InputError, match=r"checkpoint of Weighted\(weight=0\.5\), but this is Weighted\(weight=1\)"):
        Weighted(1).fit(model, DataLoader(DATA, 5), sgd(model), 3, checkpoint=tmp_path / "run.pt")
