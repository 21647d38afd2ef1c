"""Models that torch has rewritten: traced, scripted, frozen, compiled, exported."""

import contextlib
import copy
from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

import advkit
from contracts.cases import Case, each
from contracts.scenes import IMAGE, conv_net, draw, judge, said_by

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@each()
@pytest.mark.parametrize("how", ["trace", "script", "freeze"])
def test_torchscript(case: Case, how: str) -> None:
    network = conv_net().double()  # in which other kernels round alike, as far as a search can tell
    images = draw(3, *IMAGE).double()
    labels = said_by(network, images)
    model = torch.jit.trace(network, images) if how == "trace" else torch.jit.script(network)
    if how == "freeze":
        model = torch.jit.freeze(model)
    result = case.make(model).run(images, labels)
    judge(case, result, images, labels, model=network)
    torch.testing.assert_close(result.images, in_float64(case))


@cache
def in_float64(case: Case) -> Tensor:
    """What it finds without TorchScript."""
    network = conv_net().double()
    images = draw(3, *IMAGE).double()
    return case.make(network)(images, said_by(network, images))


@contextlib.contextmanager
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    try:
        yield
    finally:
        torch._dynamo.reset()


@pytest.mark.parametrize("make", [advkit.FGSM, advkit.MIFGSM], ids=lambda attack: attack.__name__)
def test_torch_compile(make: type[advkit.Attack]) -> None:
    network = conv_net()
    images = draw(3, *IMAGE)
    labels = said_by(network, images)
    expected = make(network).run(images, labels)
    with fresh_dynamo():
        model = torch.compile(copy.deepcopy(network).train(), backend="eager")
        frozen = model._orig_mod[1].eval()
        result = make(model).run(images, labels)
        assert result.images.equal(expected.images)
        assert result.predictions.equal(expected.predictions)
        assert model.training
        assert model._orig_mod.training
        assert not frozen.training
        model.train()
        with torch.no_grad():  # guards on the training flag send a training step back to dropout
            assert not model(images).equal(network(images))


def test_export() -> None:
    network = conv_net()
    images = draw(3, *IMAGE)
    labels = said_by(network, images)
    batch = torch.export.Dim("batch", min=1)
    model = torch.export.export(network, (images,), dynamic_shapes=({0: batch},)).module()
    assert isinstance(model, nn.Module)
    found = advkit.MIFGSM(model)(images, labels)
    torch.testing.assert_close(found, advkit.MIFGSM(network)(images, labels))
