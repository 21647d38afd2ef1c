"""The loop that all training defenses share. A recipe says what is its own; everything else is here."""

import copy
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from advkit._data.samples import Choice, LabelsGetter, Sample, check_labels_getter, check_loader
from advkit._engine.checks import check_choice, check_classes, check_number
from advkit._engine.classifier import own
from advkit._io.progress import track
from advkit._io.rng import AllGenerators
from advkit.defenses.training.checkpoint import Checkpoint, of_another
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.network import Network, training_mode
from advkit.defenses.training.recipe import Batch, Recipe
from advkit.errors import DtypeError, InputError, ModelError
from advkit.model import attacking

__all__ = ["Training"]


@dataclass
class Training:
    """A model in training, and how the user wants it trained. The arguments are those of `TrainingDefense.fit`.

    Attributes:
        history: an `Epoch` for each epoch so far, those of before the checkpoint included.
    """

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler | ReduceLROnPlateau | None = None
    batch_scheduler: LRScheduler | None = None
    validation: Iterable[Any] | None = None
    checkpoint: str | os.PathLike[str] | None = None
    autocast: torch.dtype | None = None
    progress: bool | None = None
    labels: LabelsGetter = None
    history: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise DtypeError(f"model must be an nn.Module to be trained, got {type(self.model).__name__}")
        check_labels_getter(self.labels)
        if self.validation is not None:
            check_loader(self.validation, "validation loader")
        check_choice("autocast", self.autocast, (None, torch.bfloat16, torch.float16))
        trained = {id(parameter) for parameter in self.model.parameters() if parameter.requires_grad}
        if not any(id(parameter) in trained for group in self.optimizer.param_groups for parameter in group["params"]):
            raise InputError(
                "the optimizer has no trainable parameter of this model, so that training would change nothing; make "
                "it from the model, such as torch.optim.Adam(model.parameters())"
            )
        self._network = Network(self.model, self.autocast)
        # Halves underflow in the backward pass without it; otherwise it does nothing.
        self._scaler = torch.amp.GradScaler(self._network.device.type, enabled=self.autocast == torch.float16)
        self._choice = Choice(self.model)
        self._best: dict[str, Any] | None = None  # the weights of the epoch with the best validation loss

    def run(
        self, loader: Iterable[Any], recipe: Recipe, epochs: int, *, name: str | None = None, pairs: bool = False
    ) -> None:
        """Train for so many epochs, those of the checkpoint included.

        Args:
            loader: what to go through in each epoch: batches of images and labels.
            recipe: what to do with each batch.
            epochs: how often to go through the loader, at least 1.
            name: what a checkpoint calls the recipe, so that one by another is refused; how it prints if None.
            pairs: whether the loader gives (images, labels), wherever the user's batches have the label.
        """
        check_number("epochs", epochs, at_least=1, integer=True)
        check_loader(loader)
        generators = AllGenerators(self._network.device, [*_generators_of(loader), *recipe.generators()])
        with torch.inference_mode(False), torch.enable_grad(), training_mode(self.model):
            file = None
            if self.checkpoint is not None:
                file = Checkpoint(Path(self.checkpoint), repr(recipe) if name is None else name, self.model)
                self._resume(file, generators, epochs)
            for epoch in range(len(self.history), epochs):
                mean = self._train(loader, recipe, epoch, epochs, None if pairs else self.labels)
                with generators.restored():  # a model is trained alike with and without validation
                    validation = None if self.validation is None else self._validate(recipe, epoch)
                self._end(epoch, Epoch(mean, validation))
                if file is not None:
                    file.save(self.history, {"best": self._best, "chance": generators.state(), **self.state()})
            if self.validation is not None and self._best is not None:
                self.model.load_state_dict(self._best)
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        """All that training changes, for `load`. The tensors are those in use."""
        parts: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "batch_scheduler": self.batch_scheduler,
            "scaler": self._scaler,
        }
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for name in self.state():
            part = self._scaler if name == "scaler" else getattr(self, name)
            part.load_state_dict(state[name])

    def _train(self, loader: Iterable[Any], recipe: Recipe, epoch: int, epochs: int, where: LabelsGetter) -> float:
        """One time through the loader: the mean loss of an image."""
        total, count = 0.0, 0
        what = f"epoch {epoch + 1} of {epochs}"
        if self.history:
            what += f" (loss {self.history[-1].loss:.3g})"
        for index, batch in enumerate(self._batches(loader, what, self.progress, where, epoch)):
            for _ in range(recipe.replays):
                loss = self._step(recipe, batch)
                if not math.isfinite(loss):
                    raise _stopped(f"the loss is {loss} in batch {index + 1}, which did not change the model", epoch)
                total, count = total + loss * len(batch.images), count + len(batch.images)
            if self.batch_scheduler is not None:
                self.batch_scheduler.step()
        return _mean(total, count, "loader")

    def _step(self, recipe: Recipe, batch: Batch) -> float:
        """One step of the optimizer, unless the loss is not finite: the loss."""
        with recipe.around(self._network, batch):
            value = recipe.loss(self._network, batch)
            # A GPU waits for this, once a batch: weights are worth more than the time, once they are lost.
            loss = float(value.detach())
            if not math.isfinite(loss):
                return loss
            self.optimizer.zero_grad()
            self._scaler.scale(value).backward()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        return loss

    def _validate(self, recipe: Recipe, epoch: int) -> float:
        """The mean loss of a validation image, in eval mode."""
        total, count = 0.0, 0
        assert self.validation is not None
        with attacking(self._network):  # eval mode, no gradients of parameters, and back again
            for batch in self._batches(self.validation, "", False, self.labels, 0):
                total += float(recipe.loss(self._network, batch)) * len(batch.images)
                count += len(batch.images)
        mean = _mean(total, count, "validation loader")
        if not math.isfinite(mean):
            raise _stopped(f"the validation loss is {mean}", epoch)
        return mean

    def _batches(
        self, loader: Iterable[Any], what: str, progress: bool | None, where: LabelsGetter, first_turn: int
    ) -> Iterator[Batch]:
        """Each batch that has any images, on the device of the model."""
        network, turn = self._network, first_turn
        for found in track(loader, what, unit="batch", progress=progress):
            sample = Sample(found, batched=True, where=where, choice=self._choice)
            images, labels = sample.images, sample.labels
            if labels is None:
                raise InputError(
                    "training needs a label for each image, such as batches of (images, labels) with integer labels, "
                    "and the loader gives none"
                )
            if not images.is_floating_point():
                raise DtypeError(
                    f"images must be floating, got {images.dtype}; scale integer pixels first, such as with "
                    "torchvision's ToTensor()"
                )
            check_classes("labels", labels, images)
            if len(images):
                network.largest_label = int(labels.max())
                images = own(images, network.device, images.dtype)
                yield Batch(images, own(labels, network.device, torch.int64), turn)
                turn += 1

    def _end(self, epoch: int, result: Epoch) -> None:
        """End an epoch: check the weights, step the scheduler, and keep the best."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):  # the last step may have done it, and no loss shows that
                raise _stopped(f"{name} is no longer finite", epoch)
        losses = [before.validation_loss for before in self.history if before.validation_loss is not None]
        self.history.append(result)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(result.loss if result.validation_loss is None else result.validation_loss)
        elif self.scheduler is not None:
            self.scheduler.step()
        if result.validation_loss is not None and result.validation_loss < min(losses, default=math.inf):
            self._best = copy.deepcopy(self.model.state_dict())

    def _resume(self, file: Checkpoint, generators: AllGenerators, epochs: int) -> None:
        """Go back to the end of the epoch that the checkpoint is of, if there is one."""
        saved = file.load(epochs)
        if saved is None:
            return
        history, state = saved
        try:
            self.load(state)
            generators.restore(state["chance"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise of_another(file.path, error) from error
        self.history[:] = history
        self._best = state["best"]


def _generators_of(loader: object) -> list[torch.Generator | None]:
    return [getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", None))]


def _stopped(why: str, epoch: int) -> ModelError:
    kept = f"a checkpoint has epoch {epoch}" if epoch else "there is no checkpoint yet"
    return ModelError(
        f"training stopped in epoch {epoch + 1}: {why}; {kept}. Lower the learning rate, and look for images "
        "that are not finite"
    )


def _mean(total: float, count: int, name: str) -> float:
    if not count:
        raise InputError(f"the {name} has no images; a generator that was iterated over before has none left")
    return total / count
