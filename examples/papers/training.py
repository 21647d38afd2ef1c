"""Training as all four papers do it: Adam, on batches in random order, with or without a defense."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import advkit
from advkit.defenses import AdversarialTraining, TrainingDefense

__all__ = ["accuracy_and_loss", "fit"]


def fit(
    model: nn.Module,
    data: Dataset,
    epochs: int,
    checkpoint: Path,
    *,
    defense: TrainingDefense | None = None,
    validation: Dataset | None = None,
    autocast: torch.dtype | None = None,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
) -> list[float]:
    """Train a model, or go on from the checkpoint, at a learning rate that falls linearly to 0.

    Args:
        model: on its device.
        data: items of (image, label).
        epochs: how many.
        checkpoint: a file, written after each epoch.
        defense: to train with; none if None.
        validation: images to choose the epoch by. The last one is kept if None.
        autocast: what the model may be rounded to meanwhile.
        batch_size: images in a step.
        learning_rate: the first.

    Returns:
        The mean training loss of each epoch.
    """
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=len(data) > batch_size)
    optimizer = torch.optim.Adam(model.parameters(), learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=epochs * len(loader))
    defense = defense or AdversarialTraining(advkit.FGSM(model), clean_ratio=1)  # all images clean: nothing is attacked
    defense.fit(
        model,
        loader,
        optimizer,
        epochs,
        batch_scheduler=schedule,
        validation=None if validation is None else DataLoader(validation, batch_size),
        checkpoint=checkpoint,
        autocast=autocast,
    )
    return [epoch.loss for epoch in defense.history]


@torch.no_grad()
def accuracy_and_loss(model: nn.Module, data: Dataset) -> tuple[float, float]:
    """The share of images that a model in eval mode gets right, and its mean cross-entropy."""
    device = next(model.parameters()).device
    right, height, count = 0, 0.0, 0
    for images, labels in DataLoader(data, batch_size=100):
        logits, labels = model(images.to(device)), labels.to(device)
        right += int((logits.argmax(1) == labels).sum())
        height += float(F.cross_entropy(logits, labels, reduction="sum"))
        count += len(labels)
    return right / count, height / count
