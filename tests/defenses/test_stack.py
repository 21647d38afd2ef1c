from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit import Defended
from advkit.defenses import AdversarialTraining, DefensiveDistillation, InputTransformation, Stack
from advkit.errors import DtypeError, InputError, ModelError
from contracts.scenes import Counting, Rounding, Surrogate, Whole, draw, flat_net, said_by, trained_net


class Halving(InputTransformation):
    def forward(self, images: Tensor) -> Tensor:
        return images / 2


class Jitter(InputTransformation):
    stochastic = True

    def __init__(self, eot_samples: int = 10) -> None:
        super().__init__()
        self.eot_samples = eot_samples
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return images + 0.1 * torch.randn(images.shape)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


def plainly() -> AdversarialTraining:
    return AdversarialTraining(advkit.FGSM(nn.Identity()), clean_ratio=1)


def loader(count: int = 12) -> DataLoader:
    return DataLoader(TensorDataset(draw(count, 3, 8, 8), torch.arange(count) % 4), 4)


def test_the_last_defense_sees_the_images_first() -> None:
    net, images, _ = trained_net()
    for members, seen in (
        ([Halving(), Rounding()], Rounding()(images) / 2),
        ([Rounding(), Halving()], Rounding()(images / 2)),
    ):
        defended = Stack(members).wrap(net)
        assert isinstance(defended, Defended)
        assert defended.undefended is net
        assert torch.equal(defended(images), net(seen))
        assert torch.equal(defended.defense.surrogate(net)(images), net(seen))
        assert len(defended.state_dict()) == len(net.state_dict())


def test_order_matters_in_training_too() -> None:
    """What trains after a wrap learns the wrapped images; before it, the plain ones."""
    seen = {}
    for name, members in (("before", [plainly(), Halving()]), ("after", [Halving(), plainly()])):
        net, highest = flat_net(192), []
        net.register_forward_pre_hook(lambda _, inputs, highest=highest: highest.append(float(inputs[0].max())))
        start = {key: tensor.clone() for key, tensor in net.state_dict().items()}
        defended = Stack(members).fit(net, loader(), sgd(net), 1)
        assert any(not torch.equal(tensor, start[key]) for key, tensor in net.state_dict().items())
        seen[name] = max(highest)
        images = draw(4, 3, 8, 8)
        assert torch.equal(defended(images), net(images / 2))
        assert isinstance(defended, Defended)
        assert defended.undefended is net
    assert seen["after"] < 0.51 < 0.9 < seen["before"]


def test_what_a_stack_is_follows_from_its_members() -> None:
    assert Stack([Halving(), Halving()]).differentiable
    assert not Stack([Halving(), Rounding()]).differentiable
    assert not Stack([Halving(), Rounding()]).stochastic
    noisy = Stack([Jitter(4), Stack([Rounding(), Jitter(7)])])
    assert noisy.stochastic
    assert [type(member).__name__ for member in noisy.defenses] == ["Jitter", "Rounding", "Jitter"]
    assert repr(Stack([DefensiveDistillation(), DefensiveDistillation(3)])) == (
        "Stack([DefensiveDistillation(temperature=20), DefensiveDistillation(temperature=3)])"
    )


def test_the_mean_is_taken_once_over_draws_of_all() -> None:
    net, images, labels = trained_net()
    counting = Counting(net)
    first, second = Jitter(3), Jitter(5)
    stack = Stack([first, second, Halving()])
    assert stack.eot_samples == 5
    advkit.FGSM(stack.wrap(counting))(images, labels)
    assert counting.calls == first.calls == second.calls == 5


def test_a_trained_stack_takes_the_mean_once_as_well() -> None:
    counting, first, second = Counting(flat_net(192)), Jitter(3), Jitter(5)
    defended = Stack([first, plainly(), second]).fit(counting, loader(), sgd(counting), 1)
    images, labels = next(iter(loader()))
    counting.rows.clear()
    advkit.FGSM(defended)(images, labels)
    assert counting.calls == 5


def test_an_attack_sees_through_all_of_a_stack() -> None:
    net, images, _ = trained_net()
    defended = Stack([Halving(), Rounding()]).wrap(net)
    labels = said_by(defended, images)
    attack = advkit.MIFGSM(defended, eps=0.3, alpha=0.05)
    naive = attack.on(defended, adaptive=False).run(images, labels)
    assert not naive.success.any()
    assert attack.run(images, labels).success.float().mean() > 0.5


def test_a_members_own_surrogate_is_used_and_a_missing_one_is_an_error() -> None:
    net, images, labels = trained_net()
    stack = Stack([Surrogate(), Halving()])
    assert torch.equal(stack.surrogate(net)(images), net(images / 2))
    with pytest.raises(ModelError, match="Whole is not differentiable and has no surrogate"):
        advkit.FGSM(Stack([Whole(), Halving()]).wrap(net))(images, labels)


def test_distillation_in_a_stack_keeps_its_surrogate() -> None:
    net = flat_net(192)
    defended = Stack([DefensiveDistillation(5), Halving()]).fit(net, loader(), sgd(net), 1)
    images = draw(4, 3, 8, 8)
    torch.testing.assert_close(defended.defense.surrogate(net)(images), net(images / 2) / 5)
    torch.testing.assert_close(defended(images), net(images / 2))


def test_what_is_passed_to_fit_reaches_all_that_train(tmp_path: Path) -> None:
    net, members = flat_net(192), [plainly(), plainly()]
    Stack([members[0], Halving(), members[1]]).fit(
        net, loader(), sgd(net), 2, validation=loader(), checkpoint=tmp_path / "net.pt"
    )
    assert [len(member.history) for member in members] == [2, 2]
    assert members[1].history[0].validation_loss is not None
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.0.pt", "net.2.pt"]
    Stack([plainly(), Halving()]).fit(net, loader(), sgd(net), 1, checkpoint=tmp_path / "one.pt")
    assert (tmp_path / "one.pt").exists()


def test_what_cannot_be_meant_is_an_error() -> None:
    net = flat_net(192)
    with pytest.raises(InputError, match="Stack has no defense in it"):
        Stack([])
    with pytest.raises(DtypeError, match=r"Stack needs defenses, such as FeatureSmoothing\(\); got ReLU"):
        Stack([nn.ReLU()])
    with pytest.raises(InputError, match="none of the defenses in this Stack trains: call wrap"):
        Stack([Halving()]).fit(net, loader(), sgd(net))
    with pytest.raises(InputError, match="AdversarialTraining does not wrap models, it trains them"):
        Stack([plainly(), Halving()]).wrap(net)
