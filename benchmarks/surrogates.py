"""Three small networks of different kinds for images of 32x32, trained here on the first run and kept in a folder."""

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advkit
from advkit.attacks.transfer import along_sgd


class Residual(nn.Module):
    """Two convolutions beside a short cut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
        )
        short = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.short = nn.Identity() if channels == width and stride == 1 else short

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, width, H / stride, W / stride)."""
        return F.relu(self.body(images) + self.short(images))


class Mixing(nn.Module):
    """A depthwise convolution beside a short cut, then a pointwise one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.across = nn.Sequential(nn.Conv2d(width, width, 5, 1, 2, groups=width), nn.GELU(), nn.BatchNorm2d(width))
        self.along = nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU(), nn.BatchNorm2d(width))

    def forward(self, images: Tensor) -> Tensor:
        """Features in the same shape."""
        return self.along(images + self.across(images))


def cnn(classes: int, width: int = 24) -> nn.Module:
    """Six convolutions, every other of stride 2, and a hidden layer."""
    layers: list[nn.Module] = []
    channels = 3
    for wide in (width, 2 * width, 4 * width):
        for stride in (1, 2):
            layers += [nn.Conv2d(channels, wide, 3, stride, 1), nn.ReLU(), nn.BatchNorm2d(wide)]
            channels = wide
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * channels, 64), nn.ReLU(), nn.Linear(64, classes))


def resnet(classes: int, width: int = 16) -> nn.Module:
    """A residual network of eight layers."""
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        Residual(width, 2 * width, 2),
        Residual(2 * width, 4 * width, 2),
        Residual(4 * width, 8 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8 * width, classes),
    )


def mixer(classes: int, width: int = 96, depth: int = 4) -> nn.Module:
    """A ConvMixer: patches of 4x4, then layers that mix places and channels in turn."""
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 4),
        nn.GELU(),
        nn.BatchNorm2d(width),
        *[Mixing(width) for _ in range(depth)],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, classes),
    )


KINDS = {"cnn": cnn, "resnet": resnet, "mixer": mixer}


def read(path: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Training and test images as pixels (N, 3, H, W) in [0, 1] and labels, from an .npz file as the quickstart's."""
    with np.load(path) as file:
        return {
            split: (
                torch.from_numpy(file[f"x_{split}"]).permute(0, 3, 1, 2).float().div(255).contiguous(),
                torch.from_numpy(file[f"y_{split}"]).long(),
            )
            for split in ("train", "test")
        }


def varied(images: Tensor) -> Tensor:
    """Half of the images (N, C, H, W) mirrored, all of them shifted by up to two pixels."""
    seen = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    down, right = torch.randint(5, (2,)).tolist()
    return F.pad(seen, (2, 2, 2, 2))[..., down : down + images.shape[2], right : right + images.shape[3]]


class Batches:
    """Random batches of images, varied, and their labels: another draw each time they are gone through."""

    def __init__(self, images: Tensor, labels: Tensor, batches: int) -> None:
        self.images, self.labels, self.batches = images, labels, batches

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in torch.randperm(len(self.labels))[: len(self) * 128].view(-1, 128):
            yield varied(self.images[index]), self.labels[index]


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Ordinary training on varied images."""
    loader = Batches(images, labels, len(labels) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(loader))
    model.train()
    for _ in range(epochs):
        for seen, classes in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(seen), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def networks(
    data: dict[str, tuple[Tensor, Tensor]], folder: Path, epochs: int, names: Iterable[str] = KINDS
) -> dict[str, nn.Module]:
    """The networks with their normalisation inside, in eval mode."""
    images, labels = data["train"]
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name in names:
        make = KINDS[name]
        torch.manual_seed(list(KINDS).index(name))
        model = advkit.Normalized(make(int(labels.max()) + 1), images.mean((0, 2, 3)), images.std((0, 2, 3)))
        model = model.to(memory_format=torch.channels_last)
        file = folder / f"{name}.pt"
        if file.exists():
            model.load_state_dict(torch.load(file, weights_only=True))
        else:
            print(f"training {name} for {file}", flush=True)
            train(model, images, labels, epochs)
            torch.save(model.state_dict(), file)
        found[name] = model.eval()
    return found


def vicinity(
    model: nn.Module, data: tuple[Tensor, Tensor], file: Path, lr: float = 0.05, batches: int = 100, epochs: int = 3
) -> list[nn.Module]:
    """What LGV collects: four models an epoch of ``batches`` batches, along SGD with a constant step."""
    if not file.exists():
        print(f"collecting models for {file}", flush=True)
        torch.manual_seed(0)
        found = along_sgd(model, Batches(*data, batches), lr=lr, epochs=epochs)
        torch.save([each.state_dict() for each in found], file)
    models = []
    for state in torch.load(file, weights_only=True):
        models.append(copy.deepcopy(model))
        models[-1].load_state_dict(state)
    return models
