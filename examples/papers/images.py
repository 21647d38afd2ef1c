"""The data sets of the papers, as items of (pixels in [0, 1], label)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

__all__ = ["Images", "batches", "load", "split_by_track"]

Item = tuple[Tensor, int]


@dataclass(frozen=True)
class Images(Dataset[Item]):
    """Images in memory, with a transform of the pair (pixels, label), so that an attack in it knows the label.

    Args:
        pixels: uint8 (N, 3, 32, 32).
        labels: int64 (N,).
        transform: what is done to each item; nothing if None.
    """

    pixels: Tensor
    labels: Tensor
    transform: Callable[[Item], Item] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Item:
        item = self.pixels[index].float() / 255, int(self.labels[index])
        return item if self.transform is None else self.transform(item)

    def seen_through(self, transform: Callable[[Item], Item]) -> "Images":
        """The same images, with that transform in place of this one."""
        return replace(self, transform=transform)

    def take(self, chosen: int | Tensor | None) -> "Images":
        """The first so many images (all for None), or those of these indices."""
        rows = chosen if isinstance(chosen, Tensor) else slice(chosen)
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])


def batches(data: Dataset[Item], size: int = 100) -> DataLoader[Any]:
    """The images in their own order, as `advkit.evaluate` takes them."""
    return DataLoader(data, batch_size=size)


def load(name: str, folder: Path, *, download: bool = False) -> tuple[Images, Images]:
    """Training and test images of "cifar10", "mnist" or "gtsrb", in RGB and 32x32.

    Args:
        name: of the data set.
        folder: where ``<name>.npz`` is (x_train, x_test: uint8 NHWC or, if grey, NHW; y_train, y_test), or where
            torchvision keeps its data.
        download: read torchvision's copy, and let it download what is missing.
    """
    path = folder / f"{name}.npz"
    if download:
        return _of_torchvision(name, folder, train=True), _of_torchvision(name, folder, train=False)
    if not path.exists():
        raise SystemExit(f"there is no {path}; name a folder with --data, or let torchvision fetch it with --download")
    with np.load(path) as file:
        train, test = (Images(_rgb(file[f"x_{part}"]), _labels(file[f"y_{part}"])) for part in ("train", "test"))
    return train, test


def split_by_track(data: Images, *, share: float = 0.2, frames: int = 15, seed: int = 0) -> tuple[Images, Images]:
    """Images to train on and images to validate with, no track of which is in both.

    GTSRB's training images are frames of films, a class after the other: the next frame of a track is nearly the
    same image, and would let a network pass for one that generalises.

    Args:
        data: training images, the classes each in one piece.
        share: of the tracks, those to validate with.
        frames: in a track.
        seed: of the draw.
    """
    tracks: list[Tensor] = []
    for label in data.labels.unique():
        tracks += (data.labels == label).nonzero().squeeze(1).split(frames)
    order = torch.randperm(len(tracks), generator=torch.Generator().manual_seed(seed)).tolist()
    held_out = max(1, round(share * len(tracks)))
    parts = [torch.cat([tracks[track] for track in part]) for part in (order[held_out:], order[:held_out])]
    return data.take(parts[0]), data.take(parts[1])


def _rgb(images: Any) -> Tensor:
    """uint8 images (N, H, W) or (N, H, W, C) as (N, 3, 32, 32)."""
    pixels = torch.as_tensor(images)
    pixels = pixels.unsqueeze(1) if pixels.ndim == 3 else pixels.permute(0, 3, 1, 2)
    if pixels.shape[2:] != (32, 32):
        pieces = [F.interpolate(piece.float(), (32, 32), mode="bilinear") for piece in pixels.split(10_000)]
        pixels = torch.cat([piece.round().to(torch.uint8) for piece in pieces])
    return pixels.expand(-1, 3, -1, -1).contiguous()


def _labels(labels: Any) -> Tensor:
    return torch.as_tensor(labels).long()


def _of_torchvision(name: str, folder: Path, *, train: bool) -> Images:
    from torchvision import datasets

    if name == "gtsrb":
        signs = datasets.GTSRB(folder, "train" if train else "test", download=True)
        arrays = [np.asarray(image.resize((32, 32))) for image, _ in signs]
        return Images(_rgb(np.stack(arrays)), _labels([label for _, label in signs]))
    kind = {"cifar10": datasets.CIFAR10, "mnist": datasets.MNIST}[name]
    data = kind(folder, train=train, download=True)
    return Images(_rgb(data.data), _labels(data.targets))
