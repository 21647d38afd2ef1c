"""The network that the recorded answers are about: small, and smooth so that no sign hangs on rounding."""

import torch
from torch import Tensor, nn


def network() -> nn.Module:
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(128, 5),
    ]
    return nn.Sequential(*layers).to(torch.float64).eval()


def of_fab() -> tuple[nn.Module, Tensor, Tensor]:
    """Weights from a seeded generator, images from hard to easy with half of the pixels black or white, and labels."""
    generator = torch.Generator().manual_seed(23)
    model = network()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            spread = 6 / max(1.0, tensor[0].numel() ** 0.5) if tensor.ndim > 1 else 0.2
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        images = torch.rand(2000, 3, 8, 8, generator=generator, dtype=torch.float64).mul(2).sub(0.5).clamp(0, 1)
        top = model(images).topk(2)
    kept = (top.values[:, 1] - top.values[:, 0]).argsort()[:1800:150]
    return model, images[kept], top.indices[kept, 0]


def hard_images(count: int = 40) -> tuple[nn.Module, Tensor, Tensor]:
    """A network on images of 3x10x10, and images with what it says of them, some of which are hard to change."""
    generator = torch.Generator().manual_seed(0)
    layers = [
        nn.Conv2d(3, 6, 3, padding=1),
        nn.Softplus(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(200, 5),
    ]
    model = nn.Sequential(*layers).to(torch.float64).eval()
    with torch.no_grad():
        for tensor in model.state_dict().values():
            spread = 2 / max(1.0, tensor[0].numel() ** 0.5) if tensor.ndim > 1 else 0.2
            tensor.copy_(spread * torch.randn(tensor.shape, generator=generator, dtype=torch.float64))
        images = torch.rand(count, 3, 10, 10, generator=generator, dtype=torch.float64)
        labels = model(images).argmax(1)
    return model, images, labels
