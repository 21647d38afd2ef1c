"""From what a loader gives to the batches that recipes see."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from advkit._data.samples import Choice, LabelsGetter, Sample
from advkit._engine.checks import check_classes
from advkit._engine.classifier import own
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch
from advkit.errors import DtypeError, InputError

__all__ = ["batches"]


def batches(
    loader: Iterable[Any], network: Network, where: LabelsGetter, choice: Choice, epoch: int, turn: int
) -> Iterator[Batch]:
    """Each batch that has any images, on the device of the model; the first has this ``turn``."""
    for found in loader:
        sample = Sample(found, batched=True, where=where, choice=choice)
        images, labels, shares = sample.images, sample.labels, sample.soft_labels
        if labels is None:
            raise InputError(
                "training needs a label for each image, such as batches of (images, labels) with integer labels, "
                "but the loader yields none"
            )
        if not images.is_floating_point():
            raise DtypeError(
                f"images must be floating, got {images.dtype}; scale integer pixels first, such as with "
                "torchvision's ToTensor()"
            )
        check_classes("labels", labels, images)
        if len(images):
            if shares is not None:
                shares = own(shares, network.device, torch.promote_types(shares.dtype, torch.float32))
            labels = own(labels, network.device, torch.int64)
            yield Batch(own(images, network.device, images.dtype), labels, turn, epoch, shares)
            turn += 1
