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
