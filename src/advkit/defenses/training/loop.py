"""The loop that all training defenses share. A recipe says what is its own; everything else is here."""

import copy
import math
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from advkit._data.attacking import check_attack
from advkit._data.samples import Choice, LabelsGetter, check_labels_getter, check_loader
from advkit._engine.checks import check_choice, check_number
from advkit._io.identity import settings
from advkit._io.progress import track
from advkit._io.rng import AllGenerators
from advkit.attack import Attack
from advkit.defenses.training.averaging import averaged, unparallel
from advkit.defenses.training.batches import batches
from advkit.defenses.training.checkpoint import Checkpoint, of_another
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.guard import Guard
from advkit.defenses.training.network import Network, training_mode
from advkit.defenses.training.recipe import Batch, Recipe
from advkit.errors import AdvkitWarning, DtypeError, InputError, ModelError
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
    validation_attack: Attack | None = None
    patience: int | None = None
    average: float | AveragedModel | None = None
    label_smoothing: float = 0.0
    history: list[Epoch] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise DtypeError(f"model must be an nn.Module to be trained, got {type(self.model).__name__}")
        check_labels_getter(self.labels)
        if self.validation is not None:
            check_loader(self.validation, "validation loader")
        check_choice("autocast", self.autocast, (None, torch.bfloat16, torch.float16))
        check_number("label_smoothing", self.label_smoothing, at_least=0, at_most=1)
        for name in ("validation_attack", "patience"):
            if self.validation is None and getattr(self, name) is not None:
                raise InputError(f"{name} needs validation images; give them with validation=")
        if self.validation_attack is not None:
            check_attack(self.validation_attack)
        if self.patience is not None:
            check_number("patience", self.patience, at_least=1, integer=True)
        trained = {id(parameter) for parameter in self.model.parameters() if parameter.requires_grad}
        if not any(id(parameter) in trained for group in self.optimizer.param_groups for parameter in group["params"]):
            raise InputError(
                "the optimizer has no trainable parameter of this model, so that training would change nothing; make "
                "it from the model, such as torch.optim.Adam(model.parameters())"
            )
        self._network = Network(self.model, self.autocast)
        self._ranks = self._network.ranks
        # Halves underflow in the backward pass without it; otherwise it does nothing.
        self._scaler = torch.amp.GradScaler(self._network.device.type, enabled=self.autocast == torch.float16)
        self._choice = Choice(self.model)
        self._average = averaged(self.model, self.average)
        self._judged = self._network if self._average is None else Network(self._average.module, self.autocast)
        self._best: dict[str, Any] | None = None  # the weights to go back to: of the best epoch, or the last good one
        self._first: Batch | None = None  # of the epoch, for the guard

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
        for one, what in ((loader, "loader"), (self.validation, "validation loader")):
            if one is not None:
                self._ranks.check_shares(one, what)
        generators = AllGenerators(self._network.device, [*_generators_of(loader), *recipe.generators()])
        with torch.inference_mode(False), torch.enable_grad(), training_mode(self.model), self._ranks.inside():
            file = None
            recipe.load({})
            if self.checkpoint is not None:
                called = repr(recipe) if name is None else name
                file = Checkpoint(Path(self.checkpoint), called, self.model, partial(self._settings, recipe))
                self._resume(file, recipe, generators, epochs)
            for epoch in range(len(self.history), epochs):
                if self.history and self.history[-1].stopped:
                    break
                mean = self._train(loader, recipe, epoch, epochs, None if pairs else self.labels)
                with generators.restored():  # a model is trained alike with and without validation
                    loss, accuracy = (None, None) if self.validation is None else self._validate(recipe, epoch)
                    guarded = None if recipe.guard is None else self._guarded(recipe.guard)
                self._end(epoch, Epoch(mean, loss, accuracy, guarded), recipe.guard)
                if file is not None:
                    self._save(file, recipe, generators)
            self._settle(recipe)

    def _settings(self, recipe: Recipe) -> dict[str, Any]:
        """What a checkpoint knows training by, beside the model and what the recipe prints."""
        average = type(self.average).__name__ if isinstance(self.average, AveragedModel) else self.average
        mine = {"label_smoothing": self.label_smoothing, "average": average}
        return {**mine, **{f"the recipe's {name}": value for name, value in settings(recipe).items()}}

    def _settle(self, recipe: Recipe) -> None:
        """Give the model the weights that it is to have in the end."""
        if self._best is not None and (self.validation is not None or recipe.guard is not None):
            self._inner.load_state_dict(self._best)
        elif self._average is not None:
            self._inner.load_state_dict(self._average.module.state_dict())
        self.optimizer.zero_grad()

    @property
    def _inner(self) -> nn.Module:
        """The model whose weights are averaged and kept, without what spreads it over processes."""
        return unparallel(self.model)

    def state(self) -> dict[str, Any]:
        """All that training changes, for `load`. The tensors are those in use."""
        parts: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "scheduler": self.scheduler,
            "batch_scheduler": self.batch_scheduler,
            "scaler": self._scaler,
            "average": self._average,
        }
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for name in self.state():
            getattr(self, {"scaler": "_scaler", "average": "_average"}.get(name, name)).load_state_dict(state[name])

    def _train(self, loader: Iterable[Any], recipe: Recipe, epoch: int, epochs: int, where: LabelsGetter) -> float:
        """One time through the loader: the mean loss of an image."""
        total, count = 0.0, 0.0
        what = f"epoch {epoch + 1} of {epochs}"
        if self.history:
            what += f" (loss {self.history[-1].loss:.3g})"
        for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
            if (set_epoch := getattr(sampler, "set_epoch", None)) is not None:
                set_epoch(epoch)  # by which what shares data out among processes shuffles it
        shown = track(loader, what, unit="batch", progress=self.progress if self._ranks.first else False)
        for index, batch in enumerate(self._batches(shown, where, epoch, epoch, self._network)):
            if index == 0:
                self._first = batch
            for _ in range(recipe.replays):
                loss, images = self._step(recipe, batch)
                if not math.isfinite(loss):
                    raise _stopped(f"the loss is {loss} in batch {index + 1}, which did not change the model", epoch)
                total, count = total + loss * images, count + images
            if self.batch_scheduler is not None:
                self.batch_scheduler.step()
        return _mean(total, count, "loader")

    def _step(self, recipe: Recipe, batch: Batch) -> tuple[float, float]:
        """One step of the optimizer, unless the loss is not finite: the loss, and of how many images it is the mean."""
        with recipe.around(self._network, batch) as given:
            batch, here = batch if given is None else given, len(batch.images)
            value = recipe.loss(self._network, batch)
            # A GPU waits for this, once a batch: weights are worth more than the time, once they are lost.
            loss, images = float(value.detach()), float(here)
            if self._ranks.count > 1:
                total, images = self._ranks.sums(loss * here, here)
                loss, value = total / images, value * (here / images)
            if not math.isfinite(loss):
                return loss, images
            self.optimizer.zero_grad()
            self._scaler.scale(value).backward()
        self._ranks.sum_tensors([parameter.grad for parameter in self.model.parameters()])
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self._ranks.same_buffers()
        if self._average is not None:
            self._average.update_parameters(self._inner)
        return loss, images

    def _validate(self, recipe: Recipe, epoch: int) -> tuple[float, float | None]:
        """The mean loss of a validation image, in eval mode, and the share that stays right under the attack."""
        total, right, count = 0.0, 0.0, 0.0
        assert self.validation is not None
        network, attack = self._judged, self.validation_attack
        with attacking(network):  # eval mode, no gradients of parameters, and back again
            for batch in self._batches(self.validation, self.labels, epoch, 0, network):
                if attack is None:
                    loss = recipe.loss(network, batch)
                else:
                    with torch.no_grad():
                        logits = network(attack.on(network)(batch.images, batch.labels))
                    loss = batch.cross_entropy(logits).mean()
                    right += float((logits.argmax(1) == batch.labels).sum())
                total += float(loss) * len(batch.images)
                count += len(batch.images)
        total, right, count = self._ranks.sums(total, right, count)
        mean = _mean(total, count, "validation loader")
        if not math.isfinite(mean):
            raise _stopped(f"the validation loss is {mean}", epoch)
        return mean, None if attack is None else right / count

    def _guarded(self, guard: Guard) -> float:
        """The share of the epoch's first batch that stays right under the guard's attack."""
        assert self._first is not None
        self._network.largest_label = int(self._first.labels.max())
        right = guard.right(self._network, self._first.images, self._first.labels)
        share, count = self._ranks.sums(float(right.sum()), len(right))
        return share / count

    def _batches(
        self, loader: Iterable[Any], where: LabelsGetter, epoch: int, turn: int, network: Network
    ) -> Iterator[Batch]:
        """Each batch that has any images, on the device of the model."""
        for batch in batches(loader, network, where, self._choice, epoch, turn):
            network.largest_label = int(batch.labels.max())
            yield replace(batch, label_smoothing=self.label_smoothing) if self.label_smoothing else batch

    def _end(self, epoch: int, result: Epoch, guard: Guard | None) -> None:
        """End an epoch: check the weights, step the scheduler, keep the best, and say whether this is the end."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.isfinite().all()):  # the last step may have done it, and no loss shows that
                raise _stopped(f"{name} is no longer finite", epoch)
        before = list(self.history)
        if isinstance(self.scheduler, ReduceLROnPlateau):
            self.scheduler.step(result.loss if result.validation_loss is None else result.validation_loss)
        elif self.scheduler is not None:
            self.scheduler.step()
        why = None
        if guard is not None and result.guarded_accuracy is not None:
            why = guard.verdict(before[-1].guarded_accuracy if before else None, result.guarded_accuracy)
            if why is not None:
                warnings.warn(f"training stopped in epoch {epoch + 1}: {why}", AdvkitWarning, stacklevel=5)
        if why is None and (_is_best(result, before) if self.validation is not None else guard is not None):
            judged = self._inner if self._average is None else self._average.module
            self._best = copy.deepcopy(judged.state_dict())
        if why is None and self.patience is not None:
            why = _tired([*before, result], self.patience)
        self.history.append(replace(result, stopped=why))

    def _save(self, file: Checkpoint, recipe: Recipe, generators: AllGenerators) -> None:
        """Write the checkpoint: by the first process, for all."""
        own: dict[str, Any] = {"chance": generators.state(), **({"kept": kept} if (kept := recipe.state()) else {})}
        shares = self._ranks.gather(own)
        if len(shares) > 1:
            own = {"ranks": shares}
        self._ranks.on_first(lambda: file.save(self.history, {"best": self._best, **own, **self.state()}))

    def _resume(self, file: Checkpoint, recipe: Recipe, generators: AllGenerators, epochs: int) -> None:
        """Go back to the end of the epoch that the checkpoint is of, if there is one."""
        saved = self._ranks.on_first(lambda: file.load(epochs))
        if saved is None:
            return
        history, state = saved
        try:
            self.load(state)
            own = state if self._ranks.count == 1 else state["ranks"][self._ranks.rank]
            generators.restore(own["chance"])
            recipe.load(own.get("kept", {}))
        except (RuntimeError, KeyError, ValueError, IndexError) as error:
            raise of_another(file.path, error) from error
        self.history[:] = history
        self._best = state["best"]


def _is_best(result: Epoch, before: list[Epoch]) -> bool:
    """Whether an epoch is better than all before it: by robust accuracy where there is one, else by validation loss."""
    if result.robust_accuracy is not None:
        return result.robust_accuracy > max((_robust(one) for one in before), default=-1.0)
    losses = [one.validation_loss for one in before if one.validation_loss is not None]
    return result.validation_loss is not None and result.validation_loss < min(losses, default=math.inf)


def _robust(epoch: Epoch) -> float:
    return -1.0 if epoch.robust_accuracy is None else epoch.robust_accuracy


def _tired(history: list[Epoch], patience: int) -> str | None:
    """Why training stops, if none of the last epochs was the best so far."""
    best = max((at for at in range(len(history)) if _is_best(history[at], history[:at])), default=0)
    if len(history) - 1 - best < patience:
        return None
    return f"none of the last {patience} epochs was better in validation than epoch {best + 1}, whose weights are kept"


def _generators_of(loader: object) -> list[torch.Generator | None]:
    return [getattr(part, "generator", None) for part in (loader, getattr(loader, "sampler", None))]


def _stopped(why: str, epoch: int) -> ModelError:
    kept = f"a checkpoint has epoch {epoch}" if epoch else "there is no checkpoint yet"
    return ModelError(
        f"training stopped in epoch {epoch + 1}: {why}; {kept}. Lower the learning rate, and look for images "
        "that are not finite"
    )


def _mean(total: float, count: float, name: str) -> float:
    if not count:
        raise InputError(f"the {name} has no images; a generator that was iterated over before has none left")
    return total / count
