"""A small task, networks that are trained for it in a second, and what may stand in front of them."""

from functools import cache

import torch
from torch import nn

import advkit

EPS = 0.1


def scene(count, seed=0, shift=0.25):
    """Images (N, 1, 8, 8) of four classes: which quarter is the brightest, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (count,), generator=generator)
    images = 0.25 + 0.25 * torch.rand(count, 1, 8, 8, generator=generator)
    for quarter in range(4):
        row, column = 4 * (quarter // 2), 4 * (quarter % 2)
        images[labels == quarter, :, row : row + 4, column : column + 4] += shift
    return images, labels


@cache
def trained(adversarially):
    """A small CNN, trained as it is or on PGD's images, and 32 images that it gets right."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten()
        )
        net.append(nn.Linear(128, 4))
        attack = advkit.PGD(net, eps=EPS, alpha=EPS / 2, steps=4)
        images, labels = scene(512)
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        for _ in range(8 if adversarially else 3):
            for x, y in zip(images.split(64), labels.split(64), strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(attack(x, y) if adversarially else x), y).backward()
                optimizer.step()
        optimizer.zero_grad()
    net.eval()
    images, labels = scene(40, seed=1)
    right = net(images).argmax(1) == labels
    assert right.sum() >= 32
    return net, images[right][:32], labels[right][:32]


class Masked(nn.Module):
    """A network behind a function of it and its images."""

    def __init__(self, net, forward):
        super().__init__()
        self.net = net
        self.answer = forward

    def forward(self, images):
        return self.answer(self.net, images)
