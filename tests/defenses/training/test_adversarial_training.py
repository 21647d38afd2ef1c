from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset, WeightedRandomSampler

import advkit
from advkit.defenses import AdversarialTraining
from advkit.errors import DtypeError, InputError
from advkit.goals import Goal
from contracts.scenes import Passes, conv_net, draw, flat_net, linear_net, said_by, trained_net


@dataclass(frozen=True, eq=False)
class Marking(advkit.Attack):
    """No attack, but one that can be told from another: it sets all pixels to a value."""

    value: float = 0.0

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return torch.full_like(images, self.value)


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr)


def data(count: int = 12, classes: int = 4) -> TensorDataset:
    return TensorDataset(draw(count, 3, 8, 8), torch.arange(count) % classes)


def after_one_step(weight: Tensor, bias: Tensor, parts: list[tuple[float, Tensor]], labels: Tensor, lr: float):
    """Softmax regression after a step on a weighted sum of mean cross-entropies: its gradient is (p - 1_y) x."""
    weight_step, bias_step = torch.zeros_like(weight), torch.zeros_like(bias)
    for share, images in parts:
        x = images.flatten(1)
        error = (x @ weight.T + bias).softmax(1)
        error[torch.arange(len(x)), labels] -= 1
        weight_step += share * error.T @ x / len(x)
        bias_step += share * error.mean(0)
    return weight - lr * weight_step, bias - lr * bias_step


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 1.0])
def test_the_mixed_loss_is_that_of_the_closed_form(alpha: float) -> None:
    model = linear_net(4)
    images, labels = data().tensors
    weight, bias = model[1].weight.detach().clone(), model[1].bias.detach().clone()
    error = (images.flatten(1) @ weight.T + bias).softmax(1)
    error[torch.arange(12), labels] -= 1
    adversarials = (images + 0.1 * (error @ weight).sign().view_as(images)).clamp(0, 1)
    expected = after_one_step(weight, bias, [(alpha, images), (1 - alpha, adversarials)], labels, lr=0.1)

    attack = advkit.FGSM(conv_net(), eps=0.1)  # it is pointed at the model in training
    defense = AdversarialTraining(attack, clean_ratio=alpha)
    assert defense.fit(model, [(images, labels)], sgd(model), 1) is model
    torch.testing.assert_close(model[1].weight, expected[0])
    torch.testing.assert_close(model[1].bias, expected[1])


def test_the_passes_are_those_of_the_attack_and_one_more() -> None:
    for alpha, forwards in ((0.0, [12, 12]), (0.5, [12, 24]), (1.0, [12])):
        model = Passes(flat_net(192))
        AdversarialTraining(advkit.FGSM(model), clean_ratio=alpha).fit(model, DataLoader(data(), 12), sgd(model), 1)
        assert model.forwards == forwards


def seen_in_training(attacks: list[advkit.Attack], **how: object) -> tuple[list[float], AdversarialTraining]:
    """The values that `Marking` attacks gave the training batches, in order."""
    model, marks = flat_net(192), []
    model.register_forward_pre_hook(lambda _, inputs: marks.append(round(float(inputs[0].max()), 3)))
    defense = AdversarialTraining(attacks, clean_ratio=0, **how)
    defense.fit(model, DataLoader(data(), 1), sgd(model), 3)
    return marks, defense


def test_each_batch_gets_a_random_attack_of_all() -> None:
    torch.manual_seed(0)
    attacks = [Marking(torch.relu, value=value) for value in (0.25, 0.5, 0.75)]
    marks, _ = seen_in_training(attacks)
    assert len(marks) == 36
    assert set(marks) == {0.25, 0.5, 0.75}
    assert min(map(marks.count, set(marks))) > 36 / 3 / 2
    assert marks[:12] != marks[12:24] != marks[24:]
    assert any(one == other for one, other in pairwise(marks))
    torch.manual_seed(1)
    assert seen_in_training(attacks)[0] != marks


def test_attacks_may_take_turns() -> None:
    attacks = [Marking(torch.relu, value=value) for value in (0.25, 0.5, 0.75)]
    marks, _ = seen_in_training(attacks, per_batch="cycle")
    assert [marks[:4], marks[12:16], marks[24:28]] == [
        [0.25, 0.5, 0.75, 0.25],
        [0.5, 0.75, 0.25, 0.5],
        [0.75, 0.25, 0.5, 0.75],
    ]


def test_validation_gives_each_batch_the_same_attack_in_each_epoch() -> None:
    model = flat_net(192)
    attacks = [Marking(torch.relu, value=value) for value in (0.25, 0.5)]
    marks: list[float] = []
    model.register_forward_pre_hook(lambda module, inputs: None if module.training else marks.append(inputs[0].max()))
    defense = AdversarialTraining(attacks, clean_ratio=0)
    defense.fit(model, DataLoader(data(), 6), sgd(model, 0.0), 3, validation=DataLoader(data(), 4))
    assert [round(float(mark), 2) for mark in marks] == [0.25, 0.5, 0.25] * 3
    assert len({epoch.validation_loss for epoch in defense.history}) == 1


def test_madrys_training_makes_robust_and_training_on_clean_images_does_not() -> None:
    """Sixty faint features that an attacker can turn around, and a strong one that he cannot."""
    torch.manual_seed(0)
    labels = torch.arange(200) % 2
    sign = 2.0 * labels[:, None] - 1
    faint = 0.5 + 0.05 * sign + 0.005 * torch.randn(200, 60)
    strong = 0.5 + 0.3 * sign + 0.05 * torch.randn(200, 1)
    images = torch.cat([faint, strong], 1).clamp(0, 1)
    attack = advkit.PGD(nn.Identity(), eps=0.1, alpha=0.05, steps=4)
    robust = {}
    for alpha in (0.0, 1.0):
        net = nn.Linear(61, 2)
        nn.init.zeros_(net.weight)
        model = advkit.Normalized(net, 0.5, 0.1)
        loader = DataLoader(TensorDataset(images, labels), 50, shuffle=True)
        AdversarialTraining(attack, clean_ratio=alpha).fit(model, loader, sgd(model), 10)
        assert torch.equal(said_by(model, images), labels)
        robust[alpha] = 1 - float(attack.on(model).run(images, labels).success.float().mean())
    assert robust[0.0] > 0.95
    assert robust[1.0] < 0.05


def test_the_data_set_is_augmented_once_against_the_source() -> None:
    source = Passes(trained_net()[0])
    model = flat_net(192)
    attacks = [advkit.FGSM(model, eps=0.1), advkit.FGSM(model, eps=0.3)]
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    defense = AdversarialTraining(attacks, source=source)
    loader = DataLoader(data(), 5, shuffle=True)
    defense.fit(model, loader, sgd(model), 3)
    assert source.forwards == source.backwards == 2 * [5, 5, 2]  # once for each attack, whatever the epochs
    images, labels = data().tensors
    with torch.no_grad():
        copies = [attack.on(source)(images, labels) for attack in attacks]
    expected = torch.cat([images, *copies]).flatten(1)
    epochs = torch.cat(seen).flatten(1).split(36)
    assert len(epochs) == 3
    assert [len(batch) for batch in seen] == 3 * ([5] * 7 + [1])
    for epoch in epochs:
        distances = torch.cdist(expected, epoch, compute_mode="donot_use_mm_for_euclid_dist")
        assert distances.min(1).values.max() < 1e-4
        assert distances.argmin(1).unique().numel() == 36
    assert not torch.equal(epochs[0], epochs[1])  # shuffled, as the loader is
    assert loader.dataset[0][0].equal(images[0])
    assert len(loader.dataset) == 12


def test_a_loader_in_order_stays_in_order_and_keeps_its_settings() -> None:
    model, images = flat_net(192), []
    model.register_forward_pre_hook(lambda _, inputs: images.append(inputs[0].clone()))
    loader = DataLoader(data(), 5, drop_last=True)
    AdversarialTraining(advkit.FGSM(model), source=trained_net()[0]).fit(model, loader, sgd(model), 1)
    assert [len(batch) for batch in images] == [5, 5, 5, 5]
    assert torch.equal(torch.cat(images)[:12], data().tensors[0])


class Endless(IterableDataset):
    def __iter__(self):
        return iter(data())


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        ([data().tensors], "source= copies a data set and needs a DataLoader of it, got list"),
        (DataLoader(data(), 5, sampler=SubsetRandomSampler(range(3))), "works only for a loader with a batch_size"),
        (DataLoader(data(), 5, sampler=WeightedRandomSampler([1.0] * 12, 4)), "works only for a loader with"),
        (DataLoader(data(), batch_sampler=[[1, 2], [3]]), "without its own sampler|with a batch_size"),
        (DataLoader(Endless(), 5), "works only for a loader with a batch_size"),
    ],
)
def test_a_loader_that_cannot_be_made_longer_is_an_error(loader: object, said: str) -> None:
    model = flat_net(192)
    with pytest.raises(InputError, match=said):
        AdversarialTraining(advkit.FGSM(model), source=model).fit(model, loader, sgd(model))


def test_what_cannot_be_meant_is_an_error() -> None:
    attack = advkit.FGSM(nn.Identity())
    with pytest.raises(InputError, match="attacks is empty"):
        AdversarialTraining([])
    with pytest.raises(DtypeError, match=r"attack must be an advkit attack.*got str"):
        AdversarialTraining(["FGSM"])
    with pytest.raises(InputError, match="FGSM has one eps for each image of a batch"):
        AdversarialTraining(advkit.FGSM(nn.Identity(), eps=torch.tensor([0.1, 0.2])))
    with pytest.raises(InputError, match=r"clean_ratio must be at least 0 and at most 1, got 1\.5"):
        AdversarialTraining(attack, clean_ratio=1.5)
    with pytest.raises(InputError, match="per_batch must be one of 'random', 'cycle'"):
        AdversarialTraining(attack, per_batch="all")
    with pytest.raises(InputError, match="clean_ratio and source exclude each other"):
        AdversarialTraining(attack, clean_ratio=0.5, source=nn.Identity())
    with pytest.raises(InputError, match="AdversarialTraining does not wrap models, it trains them"):
        AdversarialTraining(attack).wrap(nn.Identity())


def test_it_says_what_it_is() -> None:
    attacks = [advkit.FGSM(nn.Identity(), eps=4 / 255), advkit.PGD(nn.Identity())]
    assert repr(AdversarialTraining(attacks)) == (
        "AdversarialTraining([FGSM(eps=4/255), PGD], clean_ratio=0.5, per_batch='random')"
    )
    assert repr(AdversarialTraining(attacks[1], source=nn.ReLU())) == "AdversarialTraining([PGD], source=ReLU)"
