"""What the defenses that train have in common: `fit` and its options."""

import os
from abc import ABC
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from advkit._data.samples import LabelsGetter
from advkit.attack import Attack
from advkit.defenses.base import Defense
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.loop import Training
from advkit.defenses.training.recipe import Recipe

__all__ = ["TrainingDefense"]


class TrainingDefense(Defense, Recipe, ABC):
    """Base of the defenses that train a model. A subclass defines `loss`; the loop around it is here.

    It may also define a context `around` the computation and differentiation of a loss, and how often each
    batch is trained on (``replays``).

    Attributes:
        history: an `Epoch` for each epoch of the last `fit`, even one that ended in an error.

    Examples:
        >>> from torch.nn.functional import cross_entropy
        >>> class SmoothedLabels(advkit.defenses.TrainingDefense):
        ...     def loss(self, network, batch):
        ...         return cross_entropy(network(batch.images), batch.labels, label_smoothing=0.1)
        >>> defense = SmoothedLabels()
        >>> trained = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=2)
        >>> len(defense.history)
        2
    """

    history: list[Epoch]

    def __init__(self) -> None:
        self.history = []

    def fit(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        optimizer: Optimizer,
        epochs: int = 5,
        *,
        scheduler: LRScheduler | ReduceLROnPlateau | None = None,
        batch_scheduler: LRScheduler | None = None,
        validation: Iterable[Any] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        autocast: torch.dtype | None = None,
        progress: bool | None = None,
        labels: LabelsGetter = None,
        validation_attack: Attack | None = None,
        patience: int | None = None,
        average: float | AveragedModel | None = None,
        label_smoothing: float = 0.0,
    ) -> nn.Module:
        """Train a model, in place, on its own device.

        It is trained in training mode; afterwards each of its modules is back in its earlier mode. A model
        that is in eval mode as a whole is trained as a whole; if some layers with parameters are in training mode,
        those in eval mode, such as a frozen BatchNorm, stay in it.

        In several processes, with a model inside a `DistributedDataParallel` and a loader with a
        `DistributedSampler`, each trains on its share of every batch, with the loss and the gradient of the whole
        batch. The first of them writes the checkpoint and shows the progress bar. To resume, there have to be as many
        processes as before.

        Args:
            model: pixels (N, ...) to logits (N, K).
            loader: batches of images and labels, such as a `DataLoader`, on any device: floating (N, ...), and
                integers (N,), or the shares of the classes in each label, floating (N, K), as MixUp and CutMix make
                them. Attacks take the class with the largest share as the label. Images and labels are found by the
                rules of `advkit.AttackTransform`. The loader is iterated over once per epoch.
            optimizer: made from the model's parameters.
            epochs: how many epochs in all, including those of the checkpoint.
            scheduler: stepped after each epoch; one that waits for a plateau gets the validation loss, or, if there is
                none, the training loss.
            batch_scheduler: stepped after each batch, such as a `OneCycleLR`.
            validation: batches like the loader's. The model keeps the weights of the epoch with the smallest loss on
                them, computed as in training but in eval mode. It does not change the random numbers of training.
            checkpoint: a file that is written atomically after each epoch. If it exists, training
                resumes from it and ends with exactly the weights of an uninterrupted training, if the loader yields
                the same batches for the same random state. (That of persistent workers cannot be restored.)
                The checkpoint of another model is refused, as far as its classes, layers, shapes, constant buffers
                and attributes tell; what a ``forward`` does beyond them, and the initial weights, do not count.
            autocast: the dtype that the model runs in where that is safe, bfloat16 or float16, in training and under
                attack; None for the model's own.
            progress: True for a bar per epoch, False for none, None for one if stderr is a terminal and tqdm is
                installed.
            labels: where the label is in a batch, as for `advkit.AttackTransform`.
            validation_attack: if given, validation is under this attack, with the cross-entropy as its loss, and the
                model keeps the weights of the epoch with the highest robust accuracy (Rice, Wong & Kolter, "Overfitting
                in adversarially robust deep learning", ICML 2020).
            patience: stop after this many epochs in a row without an improvement in validation.
            average: average the weights over all steps; validation uses the mean, and the model ends with it. A decay
                such as 0.995 gives an exponential moving average; or an `AveragedModel` of torch, made from this model,
                takes its own mean.
            label_smoothing: how much of each label to spread over all classes, from 0 to 1.

        Returns:
            The defended model: the model itself, or where the defense also wraps, the wrapped one.

        Raises:
            InputError: the optimizer belongs to another model, the loader is empty or yields anything but images and
                labels, the checkpoint belongs to another training, or an option for validation is given without
                validation images.
            ModelError: the loss, the validation loss or a weight is not finite. The checkpoint is still that of the
                epoch before.
        """
        training = Training(
            model,
            optimizer,
            scheduler,
            batch_scheduler,
            validation,
            checkpoint,
            autocast,
            progress,
            labels,
            validation_attack,
            patience,
            average,
            label_smoothing,
        )
        self.history = training.history
        return self._train(training, loader, epochs)

    def _train(self, training: Training, loader: Iterable[Any], epochs: int) -> nn.Module:
        """The training itself, by this recipe; one that trains by several writes its own. Returns what `fit` does."""
        training.run(loader, self, epochs)
        return training.model
