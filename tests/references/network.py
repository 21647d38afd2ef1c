"""The network that the recorded answers are about: small, and smooth so that no sign hangs on rounding."""

import torch
from torch import nn


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
