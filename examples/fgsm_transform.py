"""Train a small network on FGSM images, twice: through a transform, image by image, and in whole batches.

Both ways do the same to the same data. The transform fits wherever a torchvision transform fits; the batches are
several times as fast. Nothing is downloaded; it takes some seconds on a CPU.
"""

import time
from collections.abc import Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from advkit import FGSM, FGSMTransform, Normalized
from advkit.data import attacked

EPS = 8 / 255
ATTACKED = 0.5  # the share of the training images that is attacked
EPOCHS = 3
IMAGES = 2000


class Stripes(Dataset):
    """Noisy stripes in four directions, as PIL images, with a transform in the manner of torchvision."""

    def __init__(self, count, transform, seed):
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 4, count)
        y, x = np.mgrid[:32, :32]
        along = np.stack([x, y, x + y, x - y])[self.labels] + rng.integers(0, 8, (count, 1, 1))
        grey = 128 + 12 * np.sign(np.sin(along * np.pi / 4)) + rng.normal(0, 16, along.shape)
        self.pixels = np.repeat(grey[..., None], 3, -1).clip(0, 255).astype(np.uint8)
        self.transform = transform

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        # The transform sees the pair, so that an attack knows the label.
        return self.transform((Image.fromarray(self.pixels[index]), int(self.labels[index])))


def to_tensor(pair):
    return transforms.functional.to_tensor(pair[0]), pair[1]


def network():
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 4)),
    )
    return Normalized(net, mean=0.5, std=0.25)


def train(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Some epochs of ordinary training. Returns the seconds they took."""
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for images, labels in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return time.perf_counter() - start


def accuracy(model, batches):
    model.eval()
    with torch.no_grad():
        right = torch.cat([model(images).argmax(1) == labels for images, labels in batches])
    return f"{right.float().mean():.1%}"


def report(way, model, seconds):
    test = DataLoader(Stripes(IMAGES // 4, to_tensor, seed=1), batch_size=100)
    clean, robust = accuracy(model, test), accuracy(model, attacked(test, FGSM(model, EPS)))
    print(f"{way:<34} {seconds:6.1f} s   clean {clean}   under FGSM {robust}")


def main():
    model = network()
    plain = DataLoader(Stripes(IMAGES, to_tensor, seed=0), batch_size=100, shuffle=True)
    report("no attack", model, train(model, plain))

    # One image at a time, in the data set. Normalisation stays in the model, behind the attack.
    model = network()
    pipeline = transforms.Compose([to_tensor, FGSMTransform(model, EPS, p=ATTACKED)])
    one_by_one = DataLoader(Stripes(IMAGES, pipeline, seed=0), batch_size=100, shuffle=True)
    slow = train(model, one_by_one)
    report("FGSM in a Compose, image by image", model, slow)

    # Whole batches, after collate, on the model's device.
    model = network()
    fast = train(model, attacked(plain, FGSM(model, EPS), p=ATTACKED))
    report("FGSM in batches, with attacked()", model, fast)
    print(f"The batches took {fast / slow:.0%} of the time.")


if __name__ == "__main__":
    main()
