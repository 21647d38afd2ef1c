"""Small models and images for the contracts, and the judge of what an attack gave back."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from advkit import AdversarialResult, Defense, norms
from advkit.defenses import InputTransformation
from contracts.cases import Case

Shape = tuple[int, ...]
IMAGE: Shape = (3, 8, 8)


def draw(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers that do not touch torch's default generator."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def initialised(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in eval mode, with weights and running statistics that depend on the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            spread = 1.5 / max(1.0, tensor[0].numel() ** 0.5) if tensor.ndim > 1 else 0.3
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float32) * spread
            tensor.copy_(values.abs() + 0.5 if name.endswith("running_var") else values)
    return model.eval()


def conv_net(channels: int = 3, classes: int = 4, seed: int = 0) -> nn.Module:
    """Convolution, batch norm, dropout and a smooth non-linearity, on images of any height and width."""
    layers = [
        nn.Conv2d(channels, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Softplus(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16, classes),
    ]
    return initialised(nn.Sequential(*layers), seed)


def flat_net(features: int, classes: int = 4, seed: int = 0) -> nn.Module:
    """A small perceptron on vectors (N, features), or on images of as many numbers."""
    return initialised(nn.Sequential(nn.Flatten(), nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, classes)), seed)


class RowsReader(nn.Module):
    """An LSTM that reads images (N, C, H, W) row by row."""

    def __init__(self, channels: int = 3, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.lstm = nn.LSTM(channels * width, 6, num_layers=2, batch_first=True, dropout=0.5)
        self.head = nn.Linear(6, classes)

    def forward(self, images: Tensor) -> Tensor:
        states, _ = self.lstm(images.transpose(1, 2).flatten(2))
        logits: Tensor = self.head(states[:, -1])
        return logits


class Shifted(nn.Module):
    """What another model says, through a function of its logits."""

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.change = change

    def forward(self, images: Tensor) -> Tensor:
        return self.change(self.model(images))


class Counting(nn.Module):
    """Another model, and how many rows each of its calls had."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []

    @property
    def calls(self) -> int:
        return len(self.rows)

    def forward(self, images: Tensor) -> Tensor:
        self.rows.append(len(images))
        return self.model(images)


class Passes(nn.Module):
    """Another model, and the number of rows in each of its forwards and backwards."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.model = model
        self.forwards: list[int] = []
        self.backwards: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.forwards.append(len(images))
        seen = images.view_as(images)
        if seen.requires_grad:
            seen.register_hook(lambda gradient: self.backwards.append(len(gradient)))
        return self.model(seen)


def said_by(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What a model in eval mode says of images: the label that makes an attack work for its success."""
    with torch.no_grad():
        return model(images).argmax(1)


def learn(model: nn.Module, images: Tensor, labels: Tensor, *, steps: int, lr: float) -> None:
    """Train a model on one batch."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()


def trained_net(seed: int = 0, classes: int = 4) -> tuple[nn.Module, Tensor, Tensor]:
    """A small network that has learned patterns under noise, and images that it gets right, to be written to."""
    model, images, labels = _trained_net(seed, classes)
    return model, images.clone(), labels.clone()


@cache
def _trained_net(seed: int, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    patterns = draw(classes, *IMAGE, seed=seed)
    labels = torch.arange(64) % classes
    images = (0.6 * patterns[labels] + draw(64, *IMAGE, seed=seed + 1, high=0.4)).clamp(0, 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, classes))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    learn(model, images, labels, steps=60, lr=0.01)
    assert said_by(model, images).equal(labels)
    return model.eval(), images[:8], labels[:8]


def usual(case: Case) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A network, three images, what it says of them, and what an attack makes of them, which is found once."""
    model, images = conv_net(), draw(3, *IMAGE)
    labels = said_by(model, images)
    return model, images, labels, _usual(case).clone()


@cache
def _usual(case: Case) -> Tensor:
    model, images = conv_net(), draw(3, *IMAGE)
    return case.make(model)(images, said_by(model, images))


def linear_net(classes: int = 3, shape: Shape = IMAGE, offset: float | None = None) -> nn.Module:
    """A linear model with weights of about 1; with an ``offset``, undecided about images of that value."""
    features = torch.Size(shape).numel()
    layer = nn.Linear(features, classes)
    with torch.no_grad():
        layer.weight.copy_(draw(classes, features, seed=1, low=-1.0, high=1.0))
        layer.bias.copy_(-0.02 * torch.arange(classes))
        if offset is not None:
            layer.bias.sub_(offset * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def easy_images(model: nn.Module, count: int = 4, shape: Shape = IMAGE) -> tuple[Tensor, Tensor]:
    """Images that a model barely gets right, and their labels: any attack that works at all fools it on them."""
    images = _candidates(shape).to(next(model.parameters()).dtype)
    with torch.no_grad():
        logits = model(images)
    top = logits.topk(2).values
    closest = (top[:, 0] - top[:, 1]).argsort()[:count]
    return images[closest], logits[closest].argmax(1)


@cache
def _candidates(shape: Shape) -> Tensor:
    return draw(1024, *shape, seed=2, low=0.1, high=0.9)


def judge(
    case: Case,
    result: AdversarialResult,
    images: Tensor,
    labels: Tensor,
    *,
    model: Callable[[Tensor], Tensor],
    bounds: tuple[float, float] = (0.0, 1.0),
    targets: Tensor | None = None,
) -> None:
    """Hold a result to all that is promised of every result. ``model`` must be in eval mode."""
    found = result.images
    assert type(found) is Tensor
    assert found.shape == images.shape
    assert found.dtype == images.dtype
    assert found.device == images.device
    assert not found.requires_grad
    assert found.grad_fn is None
    assert not found.is_inference()
    assert found.isfinite().all()
    low, high = torch.tensor(bounds, dtype=images.dtype)
    assert (found >= low).all()
    assert (found <= high).all()
    if found.numel():
        assert found.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()

    distance = norms.get(case.norm).distance(found.double(), images.detach().double())
    if case.budget is not None:
        assert (distance <= case.budget + 1e-6 * (bounds[1] - bounds[0])).all()

    assert result.originals.equal(images)
    assert result.labels.equal(labels.long())
    assert result.predictions.dtype == torch.int64
    assert result.success.dtype == torch.bool
    predictions = said_by(model, found) if len(found) else labels.long()
    assert result.predictions.equal(predictions)
    wanted = predictions != labels if targets is None else predictions == targets
    assert result.success.equal(wanted)
    if case.kind != "budget":
        failed = ~result.success
        assert found[failed].equal(images[failed]), "a failure must give the image back unchanged"
    if case.kind == "black-box":
        assert result.queries.shape == labels.shape
        assert result.queries.dtype == torch.int64
        assert (result.queries >= 0).all()


class Rounding(InputTransformation):
    """Four levels per channel. Its true gradient is zero."""

    differentiable = False

    def forward(self, images: Tensor) -> Tensor:
        return (images * 3).round() / 3


class Whole(Defense):
    """A defense that is more than a transformation, and says nothing of itself but that it has no gradient."""

    differentiable = False

    def wrap(self, model: nn.Module) -> nn.Module:
        return nn.Sequential(Rounding(), model)


class Surrogate(Whole):
    def surrogate(self, model: nn.Module) -> nn.Module:
        return model


def undecided(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Four images of black and white features that a model of two classes is hardly decided on, and what it says."""
    images = draw(64, *IMAGE, seed=5).round()
    with torch.no_grad():
        logits = model(images)
    closest = (logits[:, 0] - logits[:, 1]).abs().argsort()[:4]
    return images[closest], logits[closest].argmax(1)
