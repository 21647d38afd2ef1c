"""The loop that all training defenses share. A defense says what its loss is; everything else is here."""

import copy
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from advkit._engine.chance import Chance
from advkit._engine.checks import check_choice, check_classes, check_number
from advkit._engine.classifier import own
from advkit._engine.files import write_whole
from advkit._engine.progress import track
from advkit._engine.samples import Choice, LabelsGetter, Sample, check_labels_getter, check_loader
from advkit._io.fingerprint import description, differences
from advkit.errors import DtypeError, InputError, ModelError
from advkit.model import attacking, placement

__all__ = ["Epoch", "Loss", "Network", "Training"]


@dataclass(frozen=True)
class Epoch:
    """What an epoch of training came to.

    Attributes:
        loss: the mean loss of the training images, each as the weights were when its batch came.
        validation_loss: the mean loss of the validation images afterwards, in eval mode; None without such images.
    """

    loss: float
    validation_loss: float | None = None


class Network(nn.Module):
    """The model in training, as losses and attacks call it: in its own dtype or autocast's, and checked.

    Args:
        model: images (N, ...) to logits (N, K).
        autocast: the dtype that matrix products and convolutions are computed in; None for the model's own.

    Attributes:
        largest_label: of the batch at hand. There must be a logit for it: a GPU would stop without a word.
    """

    def __init__(self, model: nn.Module, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.model = model
        device, self.dtype = placement(model)
        self.device = device or torch.device("cpu")
        self.autocast = autocast
        self.largest_label = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K), float32 or better, of images (N, ...)."""
        with nullcontext() if self.autocast is None else torch.autocast(self.device.type, self.autocast):
            logits = self.model(images if self.dtype is None else images.to(self.dtype))
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
            seen = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"the model returned {seen} for images of shape {tuple(images.shape)}; training needs logits of shape "
                f"({len(images)}, K)"
            )
        if logits.shape[1] <= self.largest_label:
            raise InputError(
                f"labels must lie in [0, {logits.shape[1]}), since the model returned {logits.shape[1]} logits an "
                f"image; the largest is {self.largest_label}"
            )
        return logits.to(torch.promote_types(logits.dtype, torch.float32))


Loss = Callable[[Network, Tensor, Tensor, int], Tensor]
"""The mean loss of images (N, ...) with labels (N,), to be differentiated. The last argument counts: it is one more for
each batch, and starts one higher in each epoch, so that what takes turns does so in epochs of any length."""


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
        self,
        loader: Iterable[Any],
        loss: Loss,
        epochs: int,
        *,
        recipe: str,
        generators: Iterable[torch.Generator | None] = (),
        pairs: bool = False,
    ) -> None:
        """Train for so many epochs, those of the checkpoint included.

        Args:
            loader: what to go through in each epoch: batches of images and labels.
            loss: what to descend.
            epochs: how often to go through the loader, at least 1.
            recipe: what the loss is, in words: a checkpoint made by another is refused.
            generators: where the loss draws from, besides the default RNGs.
            pairs: whether the loader gives (images, labels), wherever the user's batches have the label.
        """
        check_number("epochs", epochs, at_least=1, integer=True)
        check_loader(loader)
        chance = Chance(self._network.device, [*_generators_of(loader), *generators])
        with torch.inference_mode(False), torch.enable_grad(), _training_mode(self.model):
            before = {} if self.checkpoint is None else description(self.model)
            self._resume(epochs, recipe, chance, before)
            for epoch in range(len(self.history), epochs):
                mean = self._train(loader, loss, epoch, epochs, None if pairs else self.labels)
                with chance.as_before():  # a model is trained alike with and without validation
                    validation = None if self.validation is None else self._validate(loss, epoch)
                self._close(epoch, Epoch(mean, validation))
                if self.checkpoint is not None:
                    self._save(Path(self.checkpoint), recipe, chance, before)
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

    def _train(self, loader: Iterable[Any], loss: Loss, epoch: int, epochs: int, where: LabelsGetter) -> float:
        """One time through the loader: the mean loss of an image."""
        total, count = 0.0, 0
        what = f"epoch {epoch + 1} of {epochs}"
        if self.history:
            what += f" (loss {self.history[-1].loss:.3g})"
        for index, (images, labels) in enumerate(self._batches(loader, what, self.progress, where)):
            value = loss(self._network, images, labels, epoch + index)
            # A GPU waits for this, once a batch: weights are worth more than the time, once they are lost.
            number = float(value.detach())
            if not math.isfinite(number):
                raise _stopped(f"the loss is {number} in batch {index + 1}, which did not change the model", epoch)
            self.optimizer.zero_grad()
            self._scaler.scale(value).backward()
            self._scaler.step(self.optimizer)
            self._scaler.update()
            if self.batch_scheduler is not None:
                self.batch_scheduler.step()
            total, count = total + number * len(images), count + len(images)
        return _mean(total, count, "loader")

    def _validate(self, loss: Loss, epoch: int) -> float:
        """The mean loss of a validation image, in eval mode."""
        total, count = 0.0, 0
        assert self.validation is not None
        with attacking(self._network):  # eval mode, no gradients of parameters, and back again
            for index, (images, labels) in enumerate(self._batches(self.validation, "", False, self.labels)):
                total += float(loss(self._network, images, labels, index)) * len(images)
                count += len(images)
        mean = _mean(total, count, "validation loader")
        if not math.isfinite(mean):
            raise _stopped(f"the validation loss is {mean}", epoch)
        return mean

    def _batches(
        self, loader: Iterable[Any], what: str, progress: bool | None, where: LabelsGetter
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The images and labels of each batch that has any, on the device of the model."""
        network = self._network
        for batch in track(loader, what, unit="batch", progress=progress):
            sample = Sample(batch, batched=True, where=where, choice=self._choice)
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
                yield own(images, network.device, images.dtype), own(labels, network.device, torch.int64)

    def _close(self, epoch: int, result: Epoch) -> None:
        """The end of an epoch: the weights are sound, the scheduler knows, and the best is kept."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):  # the last step may have done it, where no loss tells of it
                raise _stopped(f"{name} is no longer finite", epoch)
        losses = [before.validation_loss for before in self.history if before.validation_loss is not None]
        self.history.append(result)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(result.loss if result.validation_loss is None else result.validation_loss)
        elif self.scheduler is not None:
            self.scheduler.step()
        if result.validation_loss is not None and result.validation_loss < min(losses, default=math.inf):
            self._best = copy.deepcopy(self.model.state_dict())

    def _save(self, path: Path, recipe: str, chance: "Chance", before: dict[str, str]) -> None:
        """Write the checkpoint; ``before`` is the model's description as it was given."""
        path.parent.mkdir(parents=True, exist_ok=True)
        now = description(self.model)
        content = {
            "recipe": recipe,
            "described": {name: text for name, text in before.items() if now.get(name) == text},  # no counters
            "history": [asdict(epoch) for epoch in self.history],
            "best": self._best,
            "chance": chance.state(),
            **self.state(),
        }
        write_whole(path, lambda stream: torch.save(content, stream))

    def _resume(self, epochs: int, recipe: str, chance: "Chance", described: dict[str, str]) -> None:
        """Go back to the end of the epoch that the checkpoint is of, if there is one."""
        if self.checkpoint is None or not Path(self.checkpoint).exists():
            return
        try:
            content = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            there, history = content["recipe"], [Epoch(**epoch) for epoch in content["history"]]
        except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.checkpoint} is no checkpoint of advkit, or damaged ({error}); choose another path"
            ) from error
        if there != recipe:
            raise InputError(
                f"{self.checkpoint} is a checkpoint of {there}, and this is {recipe}; choose another path, or delete it"
            )
        if len(history) > epochs:
            raise InputError(
                f"{self.checkpoint} has {len(history)} epochs behind it, and {epochs} are asked for in all; choose "
                "another path, or ask for more epochs"
            )
        if others := differences(content.get("described", {}), described):
            raise InputError(
                f"{self.checkpoint} is of another model, optimizer, scheduler or loader: {'; '.join(others)}. Choose "
                "another path, or make the model as it was"
            )
        try:
            self.load(content)
            chance.restore(content["chance"])
        except (RuntimeError, KeyError, ValueError) as error:
            raise InputError(
                f"{self.checkpoint} is of another model, optimizer, scheduler or loader: {error}. Choose another path, "
                "or make them as they were"
            ) from error
        self.history[:] = history
        self._best = content["best"]


def _generators_of(loader: object) -> list[torch.Generator | None]:
    return [getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", None))]


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """The model in training mode, and afterwards each module as it was.

    Where some layer is in training mode already, one in eval mode is meant to be, such as a frozen BatchNorm. A model
    that is in eval mode as a whole has no such layer. Modules without parameters of their own do not count, since
    one that was just wrapped around a model in eval mode is in training mode itself.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        if not any(training for module, training in before if any(True for _ in module.parameters(recurse=False))):
            model.train()
        yield
    finally:
        for module, training in before:
            module.training = training


def _stopped(why: str, epoch: int) -> ModelError:
    kept = f"a checkpoint has epoch {epoch}" if epoch else "there is no checkpoint yet"
    return ModelError(
        f"training stopped in epoch {epoch + 1}: {why}; {kept}. Lower the learning rate, and look for infinite images"
    )


def _mean(total: float, count: int, name: str) -> float:
    if not count:
        raise InputError(f"the {name} has no images; a generator that was gone through before has none left")
    return total / count
