from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import MultiStepLR, OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import advkit
from advkit import Defended
from advkit.defenses import DefensiveDistillation
from advkit.errors import InputError
from contracts.scenes import draw, flat_net, said_by


def patterns(count: int = 64) -> tuple[Tensor, Tensor]:
    """Noisy patterns of four classes."""
    labels = torch.arange(count) % 4
    return (0.6 * draw(4, 3, 8, 8)[labels] + draw(count, 3, 8, 8, seed=1, high=0.4)).clamp(0, 1), labels


def loader(**how: object) -> DataLoader:
    return DataLoader(TensorDataset(*patterns()), 16, **how)


def step_by_hand(weight: Tensor, x: Tensor, targets: Tensor, temperature: float, lr: float) -> Tensor:
    """Softmax regression after a step on the cross-entropy at a temperature: its gradient is (p - q) x / T."""
    error = (x @ weight.T / temperature).softmax(1) - targets
    return weight - lr * error.T @ x / len(x) / temperature


def test_teacher_and_student_are_those_of_the_closed_form() -> None:
    """Two steps each, and the student starts where the teacher did, momentum and schedule included."""
    images, labels = patterns(8)
    x, start = images.flatten(1), draw(4, 192, seed=3, low=-0.1, high=0.1)
    linear = nn.Linear(192, 4, bias=False)
    linear.weight.data.copy_(start)
    model = nn.Sequential(nn.Flatten(), linear)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    scheduler = MultiStepLR(optimizer, [1], gamma=0.5)
    DefensiveDistillation(5.0).fit(model, [(images, labels)], optimizer, 2, scheduler=scheduler)

    def trained(targets: Tensor) -> Tensor:
        return step_by_hand(step_by_hand(start, x, targets, 5.0, lr=2.0), x, targets, 5.0, lr=1.0)

    teacher = trained(nn.functional.one_hot(labels, 4).float())
    soft = (x @ teacher.T / 5.0).softmax(1)
    torch.testing.assert_close(linear.weight, trained(soft))
    assert not torch.allclose(linear.weight, teacher)
    assert optimizer.param_groups[0]["lr"] == 1.0


def distilled(temperature: float, epochs: int = 40) -> tuple[Defended, DefensiveDistillation]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    cycle = OneCycleLR(optimizer, 0.02, total_steps=4 * epochs)
    defense = DefensiveDistillation(temperature)
    defended = defense.fit(model, loader(shuffle=True), optimizer, epochs, batch_scheduler=cycle)
    assert isinstance(defended, Defended)
    assert defended.undefended is model
    return defended, defense


def test_a_distilled_network_saturates_and_falls_to_who_knows_it() -> None:
    """Carlini & Wagner's finding, in small: at temperature 1 the cross-entropy has no gradient left in float32."""
    defended, defense = distilled(100.0)
    images, labels = patterns()
    assert torch.equal(said_by(defended, images), labels)
    assert len(defense.history) == len(defense.teacher_history) == 40
    assert defense.history[-1].loss < defense.history[0].loss
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(defended(x), labels, reduction="sum"), x)
    assert (gradient.flatten(1).norm(dim=1) == 0).float().mean() > 0.9
    for attack in (
        advkit.FGSM(defended, eps=0.2),
        advkit.MIFGSM(defended, eps=0.2, alpha=0.05),
        advkit.PGD(defended, eps=0.2, alpha=0.05),
    ):
        naive = attack.on(defended, adaptive=False).run(images, labels).success.float().mean()
        assert naive < 0.1
        assert attack.run(images, labels).success.float().mean() > 0.9
    result = advkit.CW(defended).run(images[:8], labels[:8])
    assert result.success.all()


def test_the_surrogate_has_the_logits_of_the_temperature() -> None:
    net, (images, _) = flat_net(192), patterns(8)
    defended = DefensiveDistillation(7.0).wrap(net)
    assert isinstance(defended, Defended)
    assert torch.equal(defended(images), net(images))
    surrogate = defended.defense.surrogate(net)
    torch.testing.assert_close(surrogate(images), net(images) / 7)
    assert not defended.defense.stochastic
    assert len(defended.state_dict()) == len(net.state_dict())
    assert torch.equal(DefensiveDistillation().wrap(lambda pixels: net(pixels))(images), net(images))


@pytest.mark.parametrize("stop", ["in the teacher", "in the student"])
def test_stopped_and_resumed_is_as_if_never_stopped(tmp_path: Path, stop: str) -> None:
    def run(path: Path, batches: float) -> tuple[dict[str, Tensor], list[object]]:
        def shuffled():
            for batch in DataLoader(TensorDataset(*patterns()), 16, shuffle=True):
                nonlocal batches
                if batches <= 0:
                    raise KeyboardInterrupt
                batches -= 1
                yield batch

        class Loader:
            def __iter__(self):
                return shuffled()

        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 4)).train()
        defense, optimizer = DefensiveDistillation(3.0), torch.optim.Adam(model.parameters(), 0.01)
        defense.fit(model, Loader(), optimizer, 3, checkpoint=path)
        return model.state_dict(), defense.teacher_history + defense.history

    whole, history = run(tmp_path / "whole.pt", float("inf"))
    assert len(history) == 6
    path = tmp_path / "part.pt"
    with pytest.raises(KeyboardInterrupt):
        run(path, 6 if stop == "in the teacher" else 18)
    assert (tmp_path / "part.teacher.pt").exists()
    assert path.exists() == (stop == "in the student")
    resumed, same_history = run(path, 4 * (2 + 3 if stop == "in the teacher" else 2))
    assert same_history == history
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_checkpoint_at_another_temperature_is_refused(tmp_path: Path) -> None:
    model = flat_net(192)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    DefensiveDistillation(3.0).fit(model, loader(), optimizer, 1, checkpoint=tmp_path / "net.pt")
    with pytest.raises(InputError, match=r"of the teacher of DefensiveDistillation\(temperature=3\), but this is"):
        DefensiveDistillation(4.0).fit(model, loader(), optimizer, 1, checkpoint=tmp_path / "net.pt")


def test_a_temperature_must_be_positive() -> None:
    with pytest.raises(InputError, match="temperature must be greater than 0"):
        DefensiveDistillation(0)
