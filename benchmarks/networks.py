"""The networks under attack, trained here on the first run and kept in ``benchmarks/.cache``."""

import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.models import resnet18

import advkit

sys.path.append(str(Path(__file__).parent.parent / "examples"))
from quickstart import draw, read, train

CACHE = Path(__file__).parent / ".cache"
TEST_IMAGES = 2000


@dataclass(frozen=True)
class Scene:
    """A trained network and test images that it gets right."""

    model: nn.Module
    images: Tensor
    labels: Tensor

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """The first of them."""
        return self.images[:count].clone(), self.labels[:count].clone()


def cnn(channels: int, classes: int) -> nn.Module:
    """Three blocks of two convolutions, then 64 hidden units: 320 to 420 thousand weights on images of 32x32.

    Campbell & Lasselle, "Enhancing the robustness of deep neural networks", WPI 2024.
    """
    layers: list[nn.Module] = []
    for width in (32, 64, 128):
        for stride in (1, 2):
            layers += [nn.Conv2d(channels, width, 3, stride, padding=1), nn.ReLU(), nn.BatchNorm2d(width)]
            channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, classes))


def resnet(channels: int, classes: int) -> nn.Module:
    """ResNet-18 as it is used for images of 32x32: a first convolution of 3x3 at full resolution, and no pooling."""
    net = resnet18(num_classes=classes)
    net.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


# How many images to train on, and how often to go through them: for attacks to have something to do, no more.
NETWORKS = {"cnn": (cnn, 20_000, 5), "resnet18": (resnet, 2_000, 2)}


def data(path: str | None, count: int) -> tuple[TensorDataset, TensorDataset]:
    """Training and test images: from an .npz file as the quickstart reads them, or shapes that it draws."""
    if path is None:
        training, test = (TensorDataset(*draw(n)) for n in (min(count, 5000), TEST_IMAGES))
    else:
        training, test = read(path)
    return TensorDataset(*training[:count]), TensorDataset(*test[:TEST_IMAGES])


def scene(name: str, path: str | None, device: str) -> Scene:
    """The network of that name, trained if it has not been, and what it gets right of the test images."""
    make, count, epochs = NETWORKS[name]
    torch.manual_seed(0)
    training, test = data(path, count)
    pixels, labels = training.tensors
    net = make(pixels.shape[1], int(labels.max()) + 1)
    model = advkit.Normalized(net, mean=pixels.mean((0, 2, 3)), std=pixels.std((0, 2, 3))).to(device)
    model(pixels[:2].to(device))  # lazy layers learn their sizes
    file = CACHE / f"{name}-{Path(path).stem if path else 'shapes'}.pt"
    if file.exists():
        model.load_state_dict(torch.load(file, map_location=device, weights_only=True))
    else:
        print(f"\ntraining {name} for {file}", flush=True)
        train(model, training, epochs, device)
        CACHE.mkdir(exist_ok=True)
        torch.save(model.state_dict(), file)
    model.eval()
    images, labels = (part.to(device) for part in test.tensors)
    with torch.no_grad():
        right = torch.cat([model(part).argmax(1) for part in images.split(64)]) == labels
    return Scene(model, images[right], labels[right])
