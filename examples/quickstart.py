"""Train a small CNN, attack it, and look at what fools it.

    python examples/quickstart.py                                 # ten shapes, drawn here; less than a minute
    python examples/quickstart.py --data cifar10.npz              # your own images, see --help
    python examples/quickstart.py --dataset cifar10 --download    # by way of torchvision

It needs ``pip install "advkit[plot,progress]"``.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

import advkit
from advkit.evaluation.plot import accuracy_bars, picture_rows

# Ten shapes, each as a signed distance: positive inside, in units of the shape's size.
SHAPES = {
    "disc": lambda x, y: 1 - x.hypot(y),
    "ring": lambda x, y: 0.22 - (x.hypot(y) - 0.78).abs(),
    "triangle": lambda x, y: 0.55 - torch.maximum(-y, x.abs() * 0.87 + y * 0.5),
    "square": lambda x, y: 0.8 - torch.maximum(x.abs(), y.abs()),
    "frame": lambda x, y: 0.18 - (torch.maximum(x.abs(), y.abs()) - 0.66).abs(),
    "bar": lambda x, y: torch.minimum(1 - x.abs(), 0.28 - y.abs()),
    "cross": lambda x, y: torch.minimum(1 - torch.maximum(x.abs(), y.abs()), 0.26 - torch.minimum(x.abs(), y.abs())),
    "star": lambda x, y: 0.65 + 0.35 * torch.cos(5 * torch.atan2(y, x)) - x.hypot(y),
    "moon": lambda x, y: torch.minimum(1 - x.hypot(y), (x - 0.55).hypot(y) - 0.8),
    "dots": lambda x, y: 0.42 - (x.abs() - 0.58).hypot(y),
}


def draw(count: int, size: int = 32) -> tuple[Tensor, Tensor]:
    """Pictures of shapes, varied in colour, size, place, rotation and noise: (N, 3, size, size) and labels (N,)."""
    labels = torch.randint(len(SHAPES), (count,))
    axis = torch.linspace(-1, 1, size)
    radius = torch.empty(count, 1, 1).uniform_(0.5, 0.9)
    shift = (1 - radius) * torch.empty(2, count, 1, 1).uniform_(-0.9, 0.9)
    angle = torch.empty(count, 1, 1).uniform_(-math.pi / 6, math.pi / 6)
    x, y = (axis - shift[0]) / radius, (axis[:, None] - shift[1]) / radius
    x, y = x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()
    inside = torch.empty(count, size, size)
    for label, shape in enumerate(SHAPES.values()):
        inside[labels == label] = shape(x[labels == label], y[labels == label])
    alpha = (inside * radius * size / 2 + 0.5).clamp(0, 1)[:, None]  # edges one pixel soft
    dark = 0.5 * torch.rand(count, 3, 1, 1)
    bright = dark + torch.empty(count, 3, 1, 1).uniform_(0.1, 0.5)
    images = dark.lerp(bright, alpha) + 0.05 * torch.randn(count, 3, size, size)
    return images.clamp(0, 1), labels


def read(path: str) -> list[TensorDataset]:
    """Training and test images from an .npz file."""
    with np.load(path) as file:
        return [dataset(file[f"x_{split}"], file[f"y_{split}"]) for split in ("train", "test")]


def from_torchvision(name: str, download: bool) -> list[TensorDataset]:
    """Training and test images from torchvision, kept in the folder ``data``."""
    try:
        from torchvision import datasets

        load = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}[name]
        splits = [load("data", train=train, download=download) for train in (True, False)]
    except (ImportError, RuntimeError, OSError) as error:
        raise SystemExit(
            f"torchvision cannot load {name}: {error}\nAdd --download, or give a file with --data."
        ) from error
    return [dataset(split.data, split.targets) for split in splits]


def dataset(images: np.ndarray | Tensor, labels: object) -> TensorDataset:
    """Grey (N, H, W) or RGB (N, H, W, 3) images of bytes as pixels (N, C, H, W) in [0, 1]."""
    pixels = torch.as_tensor(images)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    return TensorDataset(pixels.float().div_(255).contiguous(), torch.as_tensor(labels))


def cnn(channels: int, classes: int) -> nn.Module:
    """A small network, for grey or RGB images of 16x16 pixels and more."""
    return nn.Sequential(
        *convolution(channels, 32, stride=2),
        *convolution(32, 64),
        nn.MaxPool2d(2),
        *convolution(64, 128),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * 128, classes),
    )


def convolution(channels: int, width: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(channels, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]


def train(model: nn.Module, data: TensorDataset, epochs: int, device: str) -> None:
    """Ordinary training, with no defense at all."""
    loader = DataLoader(data, batch_size=128, shuffle=True, drop_last=len(data) > 128)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=epochs * len(loader))
    model.train()
    with tqdm(total=epochs * len(loader), desc="train", unit="batch", disable=None) as bar:
        for _ in range(epochs):
            for images, labels in loader:
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
                bar.update()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small CNN, attack it, and look at what fools it.")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--data",
        metavar="FILE.npz",
        help="x_train, x_test: uint8 (N, H, W) or (N, H, W, 3); y_train, y_test: int64 (N,)",
    )
    source.add_argument("--dataset", choices=["cifar10", "mnist"], help="a data set of torchvision's")
    parser.add_argument("--download", action="store_true", help="let torchvision download it")
    parser.add_argument("--names", help="what to call the classes in the picture, with commas between")
    parser.add_argument("--epochs", type=int, default=5, help="how long to train (%(default)s)")
    parser.add_argument("--images", type=int, default=150, help="how many test images to attack (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (%(default)s)")
    parser.add_argument(
        "--out", default="quickstart.png", help="where to write the picture, and beside it the accuracies (%(default)s)"
    )
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    names = options.names.split(",") if options.names else None
    if options.data:
        training, test = read(options.data)
    elif options.dataset:
        training, test = from_torchvision(options.dataset, options.download)
    else:
        training, test = TensorDataset(*draw(3000)), TensorDataset(*draw(1000))
        names = list(SHAPES)

    # Attacks work on pixels in [0, 1], so the normalisation goes inside the model.
    pixels, labels = training.tensors
    net = cnn(channels=pixels.shape[1], classes=int(labels.max()) + 1)
    model = advkit.Normalized(net, mean=pixels.mean((0, 2, 3)), std=pixels.std((0, 2, 3))).to(device)
    train(model, training, options.epochs, device)

    attacks = [
        advkit.FGSM(model, eps=8 / 255),
        advkit.MIFGSM(model, eps=8 / 255),
        advkit.PGD(model, eps=8 / 255),
        advkit.DeepFool(model),
        advkit.CW(model),
        advkit.EAD(model),
    ]
    some = TensorDataset(*test[torch.randperm(len(test))[: options.images]])
    report = advkit.evaluate(model, DataLoader(some, batch_size=50), attacks)
    print(report)

    out = Path(options.out)
    bars = out.with_stem(f"{out.stem}-accuracy")
    accuracy_bars(report, bars)
    picture_rows(model, attacks[0].run(*some[:100]), names, path=out)
    print(f"\nThe pictures are {out} and {bars}.")


if __name__ == "__main__":
    main()
