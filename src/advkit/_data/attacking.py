"""Samples and batches, attacked as transforms, loaders and copies of data sets all do it."""

from typing import Any

import torch
from torch import Tensor

from advkit._data.samples import Sample
from advkit._engine.checks import check_classes, check_images
from advkit._engine.grid import Levels
from advkit._engine.masks import check_shared
from advkit._engine.wording import for_all
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError

__all__ = ["attack_batch", "attack_sample", "check_attack"]


def check_attack(attack: object) -> None:
    """Refuse anything but an attack, and an attack that is made for the images of one batch."""
    if not isinstance(attack, Attack):
        raise DtypeError(f"attack must be an advkit attack, such as advkit.PGD(model); got {type(attack).__name__}")
    for name, value in attack._per_row().items():
        raise InputError(
            f"{type(attack).__name__} has one {name} for each image of a batch, but a pipeline has many batches; "
            f"{for_all(name, value)}"
        )


def attack_sample(sample: Sample, attack: Attack, p: float) -> Any:
    """The structure of a sample, with its images attacked, each with probability ``p``."""
    labels = sample.labels
    return sample.with_images(lambda images: _attack_some(attack, images, labels, p))


def _attack_some(attack: Attack, images: Tensor, labels: Tensor | None, p: float) -> Tensor:
    """A batch (N, ...) of which each image was attacked with probability ``p``."""
    if p == 1:
        return attack_batch(attack, images, labels)
    # On the CPU, wherever torch.set_default_device points, as transforms draw.
    rows = (torch.rand(len(images), device="cpu") < p).nonzero().squeeze(1).to(images.device)
    found = images.clone()
    if len(rows):
        if labels is not None:
            check_classes("labels", labels, images)
            labels = labels[rows.to(labels.device)]
        found[rows] = attack_batch(attack, images[rows], labels)
    return found


def attack_batch(attack: Attack, images: Tensor, labels: Tensor | None) -> Tensor:
    """The attack on floating or uint8 images (N, ...), with the model's own prediction where there is no label."""
    check_shared(type(attack).__name__, attack.mask, images)
    grid = Levels(attack.bounds) if images.dtype == torch.uint8 else None
    if grid is not None:
        attack = _in_bytes(attack, grid.count)
    pixels = images if grid is None else grid.value(images.float())
    if labels is None:
        check_images(pixels, attack.bounds)
        labels = attack._predict(pixels)
    found = attack(pixels, labels)
    return found if grid is None else grid.index(found).to(torch.uint8)


def _in_bytes(attack: Attack, count: int) -> Attack:
    """The attack with ``levels`` that bytes have."""
    if attack.levels is None:
        return attack._with(levels=count)
    if (count - 1) % (attack.levels - 1):
        fitting = [levels for levels in range(2, count + 1) if (count - 1) % (levels - 1) == 0]
        raise InputError(
            f"uint8 images have {count} levels, but levels={attack.levels} has others: what fools the model there may "
            f"not do so as bytes; set levels to one of {', '.join(map(str, fitting))}, or omit it"
        )
    return attack
