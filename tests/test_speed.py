"""Ways to make an attack faster that must not change what it finds: `Attack.compile` and ``autocast``."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from contracts.cases import CASES, Case, each
from contracts.scenes import judge, said_by, trained_net

compiling = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")


@pytest.fixture
def compiler() -> Iterator[None]:
    """A compiler that knows no models yet, and lets several gradients be taken of one answer."""
    torch._dynamo.reset()
    donates = hasattr(torch._functorch.config, "donated_buffer")  # torch 2.4 keeps all buffers
    with torch._functorch.config.patch(donated_buffer=False) if donates else nullcontext():
        yield
    torch._dynamo.reset()


@compiling
@pytest.mark.parametrize("name", ["FGSM", "MIFGSM", "PGD-L2", "SparseL1Descent", "DeepFool", "CW", "EAD", "JSMA"])
def test_compiled_finds_the_same(name: str, compiler: None) -> None:
    (case,) = (case for case in CASES if case.name == name)
    network, images, labels = trained_net()
    attack = case.make(network)
    compiled = case.make(network).compile(backend="aot_eager")
    assert isinstance(compiled.model, torch._dynamo.OptimizedModule)
    assert attack.model is network
    result = compiled.run(images, labels)
    assert not result.images.equal(images)
    torch.testing.assert_close(result.images, attack(images, labels), rtol=0, atol=1e-5)


class Rounds(nn.Module):
    """A model that notes whether it was asked under autocast."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.low: list[bool] = []

    def forward(self, images: Tensor) -> Tensor:
        self.low.append(torch.is_autocast_enabled("cpu"))
        logits: Tensor = self.model(images)
        return logits


@each(lambda case: case.needs_gradient)
def test_autocast_keeps_the_contract(case: Case) -> None:
    network, images, labels = trained_net()
    model = Rounds(network)
    result = case.make(model, autocast=torch.bfloat16).run(images, labels)
    assert any(model.low)
    assert not model.low[-1], "success is judged without it"
    judge(case, result, images, labels, model=network)
    plain = case.make(network).run(images, labels)
    assert result.success.sum() >= plain.success.sum() - (2 if case.kind == "budget" else 0)


@pytest.mark.parametrize("make", [advkit.FGSM, advkit.MIFGSM, advkit.PGD])
def test_a_budget_attack_makes_no_pass_in_full_precision(make: type[advkit.Attack]) -> None:
    network, images, labels = trained_net()
    model = Rounds(network)
    make(model, autocast=torch.bfloat16)(images, labels)
    assert all(model.low)


class Optimist(nn.Module):
    """A model that under autocast thinks nothing of the class 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.float()).float()
        return logits * torch.tensor([-1.0, 1.0, 1.0, 1.0]) if torch.is_autocast_enabled("cpu") else logits


@pytest.mark.parametrize(
    ("make", "settings"),
    [(advkit.DeepFool, {}), (advkit.CW, {}), (advkit.MIFGSM, {"eps": 0.3, "alpha": 0.05, "early_stop": True})],
)
def test_what_fools_low_precision_alone_is_searched_again(make: type[advkit.Attack], settings: dict[str, Any]) -> None:
    network, images, labels = trained_net()
    model = Optimist(network)
    with torch.autocast("cpu", torch.bfloat16):
        lost = said_by(model, images) != labels
    assert lost.any(), "the low-precision model errs on some images already"
    result = make(model, autocast=torch.bfloat16, **settings).run(images, labels)
    plain = make(model, **settings).run(images, labels)
    assert plain.success[lost].all()
    assert result.success.all()
    torch.testing.assert_close(result.images[lost], plain.images[lost], rtol=0, atol=1e-5)


def test_autocast_for_a_per_row_budget() -> None:
    network, images, labels = trained_net()
    eps = torch.linspace(0, 0.4, len(images))
    attack = advkit.MIFGSM(Optimist(network), eps=eps, early_stop=True, autocast=torch.bfloat16)
    assert (attack.run(images, labels).distance("linf") <= eps + 1e-6).all()


def test_autocast_is_bfloat16_and_shows() -> None:
    network, _, _ = trained_net()
    assert str(advkit.FGSM(network, autocast=torch.bfloat16)) == "FGSM(autocast=torch.bfloat16)"
    with pytest.raises(
        advkit.errors.InputError, match=r"autocast must be one of None, torch\.bfloat16; got torch\.int8"
    ):
        advkit.FGSM(network, autocast=torch.int8)
    with pytest.raises(advkit.errors.InputError, match=r"autocast must be one of None; got torch\.bfloat16"):
        advkit.PixelSwap(network, autocast=torch.bfloat16)
