"""What rounding may do to a margin, of models that round more coarsely than their logits show."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit._base.scale import Rounding, rounding_margin
from advkit._engine.classifier import Classifier


class Swaying(nn.Module):
    """Sums of three parts in bfloat16, in an order that depends on the number of images, as kernels of a GPU do."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 10) for _ in range(3))
        generator = torch.Generator().manual_seed(0)
        for layer, scale in zip(self.layers, (1.0, 0.25, 0.25), strict=True):
            layer.weight.data = scale * torch.randn(layer.weight.shape, generator=generator)
            layer.bias.data.zero_()

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            parts = [layer(part) for layer, part in zip(self.layers, images.flatten(1).chunk(3, 1), strict=True)]
            for part in (order := parts if len(images) > 1 else parts[::-1])[1:]:
                order[0] = order[0] + part
        return order[0].float()


@pytest.mark.parametrize("make", [advkit.CW, advkit.FMN, advkit.HopSkipJump])
def test_a_success_in_bfloat16_lasts_in_a_batch_of_another_size(make: Any) -> None:
    model = Swaying()
    images = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(1)
    settings = {"max_queries": 300, "generator": torch.Generator().manual_seed(2)} if make is advkit.HopSkipJump else {}
    result = make(model, **settings).run(images, labels)
    assert result.success.all()
    alone = torch.cat([model(image[None]) for image in result.images]).argmax(1)
    assert (alone != labels).all()


def test_how_coarsely_a_model_rounds_is_known() -> None:
    """By its weights, by `autocast`, by its answers and by what gradients pass; float64 stays what it is."""
    x, net = torch.rand(2, 48), nn.Linear(48, 10)

    def inside(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return net(images).float() / 3

    def unit(model: Any, images: Tensor = x, autocast: torch.dtype | None = None) -> float:
        classifier = Classifier(model, {}, autocast)
        classifier.gradient(classifier.logits(seen := images.clone().requires_grad_()).amax(1), seen)
        return classifier.rounding.unit

    assert [unit(net), unit(net, autocast=torch.bfloat16), unit(inside)] == [0, 2**-7, 2**-7]
    assert unit(lambda images: net(images).half()) == 2**-10
    classifier = Classifier(lambda images: inside(images) * 3, {})
    with torch.no_grad():
        classifier.logits(x)
    assert classifier.rounding.unit == 2**-7
    assert unit(net.bfloat16()) == 2**-7

    sizes = torch.ones(1)
    assert rounding_margin(sizes) == 2**-19
    with classifier.rounding.at_work(x):
        assert rounding_margin(sizes) == 2**-6
    with Rounding().at_work(x):
        assert rounding_margin(sizes) == 2**-19


def test_the_switches_of_a_gpu_are_looked_at() -> None:
    """Which can be done without one."""
    on_gpu: Any = type("OnGPU", (torch.Tensor,), {"device": torch.device("cuda")})
    gpu: torch.Tensor = torch.empty(2, device="meta").as_subclass(on_gpu)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for convolutions, products, unit in ((True, False, 2**-10), (False, True, 2**-10), (False, False, 0)):
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
            rounding = Rounding()
            with rounding.at_work(gpu):
                assert rounding.unit == unit
            with (rounding := Rounding()).at_work(gpu.double()):
                assert rounding.unit == 0
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
