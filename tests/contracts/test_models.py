"""Models that behave oddly, each held to what a well-behaved model of the same function gives."""

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import advkit
from advkit import Normalized
from advkit._engine.classifier import predict, prediction
from advkit.errors import AdvkitWarning, ModelError
from contracts.cases import CASES, Case, each
from contracts.scenes import IMAGE, conv_net, draw, judge, said_by, trained_net


class Prepared(nn.Module):
    """A network that prepares its images in place, or a copy of them."""

    def __init__(self, net: nn.Module, prepare: Callable[[Tensor], object], *, copies: bool = False) -> None:
        super().__init__()
        self.net, self.prepare, self.copies = net, prepare, copies

    def forward(self, x: Tensor) -> Tensor:
        if self.copies:
            x = x.clone()
        self.prepare(x)
        logits: Tensor = self.net(x)
        return logits


PREPARATIONS: dict[str, Callable[[Tensor], object]] = {
    "plainly": lambda x: x.mul_(2).sub_(1),
    "in a view": lambda x: x[:, 0].mul_(0.5),
    "under no_grad": torch.no_grad()(lambda x: x.mul_(2).sub_(1)),
    ".data": lambda x: x.data.mul_(2).sub_(1),
    "Hardtanh": nn.Hardtanh(0.3, 0.7, inplace=True),
    "ReLU, which changes nothing": nn.ReLU(inplace=True),
}


@each()
@pytest.mark.parametrize("how", PREPARATIONS)
def test_a_model_that_writes_into_its_images(case: Case, how: str) -> None:
    network, images, labels = trained_net()
    kept = images.clone()
    model, copying = (Prepared(network, PREPARATIONS[how], copies=copies).eval() for copies in (False, True))
    result = case.make(model).run(images, labels)
    assert images.equal(kept)
    judge(case, result, images, labels, model=copying)
    expected = case.make(copying).run(images, labels)
    torch.testing.assert_close(result.images, expected.images, rtol=0, atol=1e-6)
    assert predict(model, images).equal(predict(copying, images))
    assert prediction(model, images).equal(expected.labels.new_tensor(said_by(copying, images).tolist()))
    assert images.equal(kept)


@each(lambda case: case.needs_gradient)
def test_a_model_that_takes_to_writing_later(case: Case) -> None:
    """What it wrote over by then is asked for again."""
    network, images, labels = trained_net()

    class Later(nn.Module):
        asked = 0

        def forward(self, x: Tensor) -> Tensor:
            self.asked += 1
            with torch.no_grad():
                x.add_(0.3 if self.asked > 1 else 0.0).sub_(0.3 if self.asked > 1 else 0.0).mul_(1.0)
                if self.asked == 2:
                    x.fill_(0.5)
            logits: Tensor = network(x)
            return logits

    judge(case, case.make(Later()).run(images, labels), images, labels, model=network)


class Gamma(nn.Module):
    """A network behind a power of 1 / 2.2, whose slope at a black pixel is infinite; a little off black it is not."""

    def __init__(self, net: nn.Module, floor: float = 0.0) -> None:
        super().__init__()
        self.net, self.floor = net, floor

    def forward(self, x: Tensor) -> Tensor:
        # EAD asks outside of the bounds, too.
        x = x.clamp(min=self.floor) if self.floor else x.where(x >= 0, 0)
        logits: Tensor = self.net(x ** (1 / 2.2))
        return logits


@each(lambda case: case.needs_gradient and not case.elsewhere)
def test_an_infinite_gradient_is_gone_on_with_and_told_of(case: Case) -> None:
    network, images, _ = trained_net()
    images = images.clone()
    images[:, :, 0, 0] = 0
    model = Gamma(network)
    labels = said_by(model, images)
    with pytest.warns(AdvkitWarning, match=r"was infinite, on at least \d images.*keep it away from zero") as caught:
        result = case.make(model).run(images, labels)
    assert len(caught) == 1
    judge(case, result, images, labels, model=model)
    plain = case.make(Gamma(network, floor=1e-3)).run(images, labels)
    assert result.success.sum() >= plain.success.sum() - 1
    if case.kind == "budget":
        assert (result.distance("linf") > 0).all()


@pytest.mark.parametrize("make", [advkit.FGSM, advkit.IFGSM, advkit.MIFGSM, advkit.PGD])
def test_sign_steps_fool_what_a_step_by_hand_does(make: type[advkit.Attack]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    images = draw(100, *IMAGE)  # more than one part on a CPU
    images[:, :, 0, 0] = 0
    model = Gamma(network)
    labels = said_by(model, images)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    assert gradient.isinf().any()
    by_hand = said_by(model, (images + 8 / 255 * gradient.sign()).clamp(0, 1)) != labels
    attack = make(model, random_start=False) if make is advkit.PGD else make(model)
    with pytest.warns(AdvkitWarning, match="on at least 100 images"):
        result = attack.run(images, labels)
    assert result.success.sum() >= by_hand.sum() > 50


def test_an_infinite_gradient_downwards_counts_as_well() -> None:
    """The largest value of a gradient would not show it."""
    images = draw(4, *IMAGE, low=0.3)
    images[:, 0, 0, 0] = 0

    def model(x: Tensor) -> Tensor:
        level = x.flatten(1).sqrt().mean(1)
        return torch.stack([level, -level], 1)

    with pytest.warns(AdvkitWarning, match="infinite, on at least 4 images"):
        found = advkit.IFGSM(model, eps=0.1)(images, torch.zeros(4, dtype=torch.int64))
    assert ((found < images) == (images > 0)).all()


@cache
def exported(size: int) -> tuple[nn.Module, nn.Module]:
    """A network, and the same as it was exported for batches of one size."""
    network, _, _ = trained_net()
    return network, torch.export.export(network, (torch.zeros(size, *IMAGE),)).module()


def refusing(size: int, words: str) -> Callable[[Tensor], Tensor]:
    """A function that takes batches of one size."""
    network, _, _ = trained_net()

    def model(x: Tensor) -> Tensor:
        if len(x) != size:
            raise ValueError(words)
        logits: Tensor = network(x)
        return logits

    return model


@each()
@pytest.mark.parametrize(("size", "count"), [(8, 8), (8, 3), (3, 8)])
def test_a_model_exported_for_one_size(case: Case, size: int, count: int) -> None:
    network, images, labels = trained_net()
    images, labels = images[:count], labels[:count]
    _, fixed = exported(size)
    result = case.make(fixed).run(images, labels)
    judge(case, result, images, labels, model=lambda x: predict(fixed, x))
    expected = case.make(network).run(images, labels)
    torch.testing.assert_close(result.images, expected.images, rtol=0, atol=1e-3)
    assert predict(fixed, images).argmax(1).equal(prediction(network, images))


@pytest.mark.parametrize("make", [advkit.FGSM, advkit.CW, advkit.DeepFool, advkit.OnePixel])
def test_a_size_beyond_what_a_cpu_is_given_at_once(make: Callable[..., advkit.Attack]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
    images = draw(100, *IMAGE)
    labels = said_by(network, images)
    fixed = torch.export.export(network, (images,)).module()
    results = [make(one, generator=torch.Generator().manual_seed(0)).run(images, labels) for one in (network, fixed)]
    assert abs(int(results[0].success.sum()) - int(results[1].success.sum())) <= 2
    assert results[0].success.sum() > 60


@pytest.mark.parametrize("words", ["", "Got: 5 Expected: 8", "shape '[8, 192]' is invalid for input of size 960"])
def test_a_function_of_one_size(words: str) -> None:
    """That it is the size of the batch is enough to know where the error says nothing."""
    network, images, labels = trained_net()
    for make in (advkit.DeepFool, advkit.CW, advkit.OnePixel):
        attack = make(refusing(8, words), generator=torch.Generator().manual_seed(0))
        expected = make(network, generator=torch.Generator().manual_seed(0)).run(images, labels)
        torch.testing.assert_close(attack.run(images, labels).images, expected.images, rtol=0, atol=1e-3)


def test_where_no_size_is_taken_a_sentence_says_which_were_tried() -> None:
    def model(x: Tensor) -> Tensor:
        raise ValueError(f"expected a batch of 6, got {len(x)}")

    with pytest.raises(ModelError, match=r"expected a batch of 6, got 4\. Batches of 4, 6 images were tried"):
        advkit.FGSM(model)(draw(4, *IMAGE), torch.zeros(4, dtype=torch.int64))


@each()
@pytest.mark.parametrize("at", [1, 2])
def test_other_errors_are_the_models_own(case: Case, at: int) -> None:
    """Also that of a model that fails by chance, and would not if it were asked again."""
    network = conv_net()
    images = draw(3, *IMAGE)
    labels = said_by(network, images)
    for words in ("no layer 3", "CUDA out of memory, 2 GiB", ""):
        error, asked = OSError(words), [0]

        def model(x: Tensor, error: OSError = error, asked: list[int] = asked) -> Tensor:
            asked[0] += 1
            if asked[0] == at:
                raise error
            logits: Tensor = network(x)
            return logits

        def until_it_fails(model: Callable[[Tensor], Tensor] = model) -> None:
            for _ in range(2):
                case.make(model)(images, labels)

        with pytest.raises(OSError, match=words or "^$") as caught:
            until_it_fails()
        assert caught.value is error


@each()
def test_an_engine_that_answers_into_one_buffer(case: Case) -> None:
    network, images, labels = trained_net()
    buffer = torch.empty(8192, 4)

    def engine(x: Tensor) -> Tensor:
        with torch.no_grad():
            return buffer[: len(x)].copy_(network(x))

    if case.needs_gradient:
        assert predict(engine, images).equal(predict(network, images))
        assert prediction(engine, images).equal(labels)
        first = predict(engine, images)
        predict(engine, images.flip(0))
        assert first.equal(predict(network, images))
    else:
        result = case.make(engine).run(images, labels)
        judge(case, result, images, labels, model=network)
        assert result.images.equal(case.make(network)(images, labels))


def confident(classes: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    """A network with float16's weights in float32, so sure of its images that the loss has no gradient in float16."""
    network, images, labels = trained_net(classes=classes)
    network = copy.deepcopy(network)
    with torch.no_grad():
        margins = advkit.losses.margin(network(images), labels)
        network[-1].weight.mul_(22 / float(margins.median()))
        network[-1].bias.mul_(22 / float(margins.median()))
    return network.half().float(), images, labels


class Hiding(nn.Module):
    """A network under an autocast of its own."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.float16):
            logits: Tensor = self.net(x)
        return logits.float()


class Inside(nn.Module):
    """A network in float16 among modules in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.net = copy.deepcopy(net).half()

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net((self.scale * x).half()).float()


def called(net: nn.Module) -> Callable[[Tensor], Tensor]:
    half = copy.deepcopy(net).half().requires_grad_(False)
    return lambda x: half(x.half())


HALVES: dict[str, Callable[[nn.Module], Any]] = {
    "a module": lambda net: copy.deepcopy(net).half(),
    "normalised": lambda net: Normalized(copy.deepcopy(net).half(), 0.0, 1.0),
    "autocast inside": Hiding,
    "a part": Inside,
    "a function": called,
    "autocast outside": lambda net: net,
}


@cache
def in_float32(case: Case, targeted: bool) -> advkit.AdversarialResult:
    network, images, labels = confident()
    return case.make(network).run(images, labels, targets=(labels + 1) % 4 if targeted else None)


@each(lambda case: case.needs_gradient and case.name != "SSA")  # of which rounding decides, at its few copies
@pytest.mark.parametrize("where", HALVES)
@pytest.mark.parametrize("targeted", [False, True])
def test_float16_finds_what_float32_does(case: Case, where: str, targeted: bool) -> None:
    network, images, labels = confident()
    targets = (labels + 1) % 4 if targeted else None
    outside = torch.autocast("cpu", torch.float16) if where == "autocast outside" else nullcontext()
    with outside:
        result = case.make(HALVES[where](network)).run(images, labels, targets=targets)
    expected = in_float32(case, targeted)
    assert result.success.sum() >= expected.success.sum() - 1
    if case.kind == "budget":
        moved, wanted = ((one.images != images).flatten(1).any(1) for one in (result, expected))
        assert moved.equal(wanted)
        assert moved.all()


@pytest.mark.parametrize("where", HALVES)
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_signs_in_float16_are_those_in_float32(where: str, scale: float) -> None:
    """Also where scaling overflows at first: 300 puts the gradient inside the network beyond float16's range."""
    network, images, labels = confident()
    with torch.no_grad():
        network[1].weight.div_(scale)
        network[1].bias.div_(scale)
        network[3].weight.mul_(scale)  # ReLU passes a factor on
    network = network.half().float()
    outside = torch.autocast("cpu", torch.float16) if where == "autocast outside" else nullcontext()
    with outside:
        found = advkit.FGSM(HALVES[where](network))(images, labels)
    expected = advkit.FGSM(network)(images, labels)
    assert (found - expected).abs().gt(1e-3).float().mean() < 0.02


def test_a_function_on_a_half_network_takes_half_images() -> None:
    network, images, labels = confident()
    half = copy.deepcopy(network).half()
    for case in CASES:
        result = case.make(lambda x: half(x)).run(images.half(), labels)
        judge(case, result, images.half(), labels, model=lambda x: half(x.half()).float())
        as_module = case.make(half).run(images.half(), labels)
        assert abs(int(result.success.sum()) - int(as_module.success.sum())) <= 1


class Subclass(Tensor):
    """A tensor of a kind of its own."""


@each()
def test_logits_of_a_subclass_are_plain(case: Case) -> None:
    network, images, labels = trained_net()
    result = case.make(lambda x: network(x).as_subclass(Subclass)).run(images.as_subclass(Subclass), labels)
    judge(case, result, images, labels, model=network)
    assert result.images.equal(case.make(network)(images, labels))


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of one process."""
    distributed = pytest.importorskip("torch.distributed")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_logits_that_are_spread_over_processes_are_whole(alone: None) -> None:
    spread = pytest.importorskip("torch.distributed.tensor")
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    network, images, labels = trained_net()
    parallel = spread.distribute_module(copy.deepcopy(network), mesh)

    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = parallel

        def forward(self, x: Tensor) -> Any:
            return self.net(spread.DTensor.from_local(x, mesh, [spread.Replicate()]))

    model = Parallel()
    assert type(model(images)) is spread.DTensor
    for make in (advkit.MIFGSM, advkit.CW, advkit.JSMA, advkit.PixelSwap):
        attacks = [make(one, generator=torch.Generator().manual_seed(0)) for one in (model, network)]
        result, expected = (attack.run(images, labels) for attack in attacks)
        assert type(result.images) is type(result.predictions) is Tensor
        torch.testing.assert_close(result.images, expected.images, rtol=0, atol=1e-5)
