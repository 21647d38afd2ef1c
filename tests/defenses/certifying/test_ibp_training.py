"""Against the formula written out for one hidden layer, and by what intervals prove after it."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advkit
from advkit.defenses import IBPTraining
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import InputError


def net(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).to(dtype)


def by_hand(model: nn.Sequential, images: Tensor, labels: Tensor, eps: float, kappa: float) -> Tensor:
    low, high = (images - eps).clamp(0, 1), (images + eps).clamp(0, 1)
    first, last = model[1], model[3]
    centre, reach = first((low + high) / 2), (high - low) / 2 @ first.weight.abs().T
    low, high = (centre - reach).relu(), (centre + reach).relu()
    rows = []
    for n, label in enumerate(labels):
        weight, bias = last.weight - last.weight[label], last.bias - last.bias[label]
        rows.append(weight.clamp(min=0) @ high[n] + weight.clamp(max=0) @ low[n] + bias)
    return kappa * F.cross_entropy(model(images), labels) + (1 - kappa) * F.cross_entropy(torch.stack(rows), labels)


def test_the_loss_is_the_formula_with_its_gradients() -> None:
    model = net(torch.float64).train()
    images, labels = torch.rand(5, 6).double(), torch.tensor([0, 1, 2, 0, 1])
    loss = IBPTraining(0.1, kappa=0.3, warmup=0, ramp=0).loss(Network(model), Batch(images, labels))
    wanted = by_hand(model, images, labels, 0.1, 0.3)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
    found = torch.autograd.grad(loss, list(model.parameters()))
    for one, other in zip(found, torch.autograd.grad(wanted, list(model.parameters())), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_the_budget_grows_and_training_resumes(tmp_path: Path) -> None:
    images = torch.rand(64, 6)
    labels = (images[:, :3] + images[:, 3:]).argmax(1)
    loader = list(zip(images.split(8), labels.split(8), strict=True))
    grown: list[float] = []

    class Watched(IBPTraining):
        def _grown(self, turn: int) -> float:
            grown.append(super()._grown(turn))
            return grown[-1]

    def fitted(epochs: tuple[int, ...], **more: object) -> nn.Sequential:
        model = net()
        for some in epochs:
            optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
            Watched(0.02, warmup=0.5, ramp=1).fit(model, loader, optimizer, some, **more)
        return model.eval()

    whole = fitted((6,))
    assert grown[:13] == [0.0] * 5 + [n / 8 for n in range(1, 9)]
    assert set(grown[13:]) == {1.0}
    halves = fitted((1, 6), checkpoint=tmp_path / "one.pt")
    assert all(one.equal(other) for one, other in zip(whole.parameters(), halves.parameters(), strict=True))
    plain = net()
    as_usual = advkit.defenses.AdversarialTraining(advkit.FGSM(plain), clean_ratio=1)
    as_usual.fit(plain, loader, torch.optim.Adam(plain.parameters(), lr=0.05), 6)
    proved, without = (
        (advkit.evaluation.margin_bounds(model, images, labels, eps=0.02, method="interval") >= 0).all(1).sum()
        for model in (whole, plain.eval())
    )
    assert proved > without


def test_refusals() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(6), nn.Linear(6, 3))
    loader = [(torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(InputError, match=r"BatchNorm1d \(1\) normalises by the statistics of the batch"):
        IBPTraining(0.1, warmup=0, ramp=0).fit(model, loader, torch.optim.Adam(model.parameters()), 1)
    for bad, words in (
        ({"eps": -1}, "eps must be at least 0"),
        ({"kappa": 2}, "kappa must be"),
        ({"ramp": -1}, "ramp"),
    ):
        with pytest.raises(InputError, match=words):
            IBPTraining(**bad)
