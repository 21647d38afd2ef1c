"""What the pages and the docstrings take for granted that their reader has."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import advkit


def readers_own() -> dict[str, object]:
    """A network that wants normalised inputs, a model that has it, and data, each by the name that examples use."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)
        )
    images = torch.rand(12, 3, 16, 16, generator=generator)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    model = advkit.Normalized(net, mean, std).eval()
    labels = model(images).argmax(1)
    return {
        "net": net,
        "mean": mean,
        "std": std,
        "model": model,
        "images": images,
        "labels": labels,
        "targets": (labels + 1) % 10,
        "loader": DataLoader(TensorDataset(images, labels), batch_size=8),
    }
