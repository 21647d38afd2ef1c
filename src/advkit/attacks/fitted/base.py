"""What attacks share that learn one pattern from many images: the loop over a loader, and its checkpoints."""

import os
from abc import abstractmethod
from collections.abc import Iterable, Sized
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import hyperparameters, losses
from advkit._data.samples import Choice, LabelsGetter, Sample, check_labels_getter, check_loader
from advkit._engine.checks import check_classes, check_images, check_number
from advkit._engine.classifier import Classifier, own, predict, warn_of_infinite
from advkit._engine.masks import Shown, check_shared, free_pixels
from advkit._engine.run import Done
from advkit._io.progress import track
from advkit._io.rng import AllGenerators
from advkit.attack import Attack
from advkit.attacks.fitted.checkpoint import Checkpoint
from advkit.errors import InputError
from advkit.goals import Goal, Targeted, Untargeted
from advkit.hyperparameters import OneForAll, declared, number
from advkit.losses import Loss
from advkit.model import attacking, placement

__all__ = ["Fitted"]

_FEW = 8  # images that a checkpoint has, to know the model again by


@dataclass(frozen=True, eq=False)
class Fitted(Attack):
    """Base of the attacks that apply one pattern to all images, which `fit` learns from a loader.

    A subclass defines the initial pattern, how it is applied to images, and its budget.
    """

    independent_rows: ClassVar[bool] = True

    _: KW_ONLY
    target: int | None = number(None, at_least=0, integer=True)
    loss: str | Loss = hyperparameters.loss()
    beta: float = number(9.0, above=0)
    pattern: Tensor | None = declared(None, OneForAll(optional=True), shown=False)

    def fit(
        self,
        loader: Iterable[Any],
        epochs: int = 10,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
        labels: LabelsGetter = None,
    ) -> Self:
        """A copy of the attack, with a pattern learned from the images of a loader.

        If the attack already has a pattern, learning continues from it.

        Args:
            loader: batches of images and labels of any structure, such as a `DataLoader`, found by the rules of
                `advkit.AttackTransform`. Without labels, the model's own predictions are used. It is iterated over
                once an epoch.
            epochs: how many epochs in all, including those of the checkpoint; at least 1. Steps shrink from batch to
                batch, to zero at the end.
            checkpoint: a file that is written atomically after each epoch. If it exists, the fit resumes from it and
                ends as an uninterrupted one would have, provided that the loader yields the same batches for the same
                random state. The checkpoint of another attack or another model is refused.
            progress: True for a bar per epoch, False for none, None for one where stderr is a terminal and tqdm is
                installed.
            labels: where the label is in a batch, as for `advkit.AttackTransform`.

        Returns:
            A new attack of this class; this one is unchanged.

        Raises:
            InputError: the loader has no images, or yields something that cannot be used; or the checkpoint is of
                another fit.
            ModelError: the model returned NaN, or something that is not a batch of logits.
            MissingExtraError: ``progress`` is True and tqdm is not installed.
        """
        check_number("epochs", epochs, at_least=1, integer=True)
        check_loader(loader)
        check_labels_getter(labels)
        for name in self._per_row():
            raise InputError(f"fit needs one {name} for all images, and {type(self).__name__} has one for each")
        file = None if checkpoint is None else Checkpoint(Path(checkpoint), self)
        sampler = getattr(loader, "sampler", None)
        drawn_from = [self.generator, getattr(loader, "generator", None), getattr(sampler, "generator", None)]
        chance = AllGenerators(placement(self.model)[0] or torch.device("cpu"), drawn_from)
        learner = _Learner(self, Choice(self.model), labels)
        if file is not None and (saved := file.load(epochs)):
            learner.resume(saved)
            if learner.epochs < epochs:
                file.restore(chance, saved)
        for epoch in range(learner.epochs, epochs):
            learner.learn(loader, epoch, epochs, progress)
            if file is not None:
                file.save({**learner.state(), "chance": chance.state()}, learner.first)
        warn_of_infinite(learner.infinite)
        return self._with(pattern=learner.pattern)

    def picture(self) -> Tensor:
        """The pattern as an image to look at: float32 (C, H, W) in [0, 1], on the CPU.

        Raises:
            InputError: the attack has not been fitted.
        """
        return self._shown(self._known().detach().to("cpu", torch.float32)).clamp(0, 1)

    @abstractmethod
    def _begin(self, images: Tensor) -> Tensor:
        """The pattern to begin with, for images (N, ...)."""

    @abstractmethod
    def _applied(self, images: Tensor, pattern: Tensor) -> Tensor:
        """The images (N, ...) with a pattern, within the bounds; the gradient passes back to the pattern."""

    @abstractmethod
    def _moved(self, pattern: Tensor, slope: Tensor, share: float) -> Tensor:
        """The pattern after a step along the slope of the loss, of this ``share`` of its length."""

    @abstractmethod
    def _shown(self, pattern: Tensor) -> Tensor:
        """The pattern in [0, 1]."""

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        return self._applied(images, self._known().to(images))

    def _learned(
        self, pattern: Tensor, images: Tensor, goal: Goal, model: Classifier, share: float
    ) -> tuple[Tensor, list[Tensor]]:
        """The pattern after a batch, and whether it fooled before, bool (n,) in all.

        It takes one step along the slope of the summed loss, that of each image cut off at ``beta``.
        """
        pattern = pattern.detach().requires_grad_()
        shown = self._pasted(images, pattern)
        x = shown.detach().requires_grad_()
        logits = model.logits(x)
        fooled = goal.success(logits.detach())
        values = goal.climbed(losses.get(self.loss), logits).clamp(max=self.beta)
        (slope,) = torch.autograd.grad(shown, pattern, model.gradient(values, x))
        return self._moved(pattern.detach(), slope, share), [fooled]

    def _pasted(self, images: Tensor, pattern: Tensor) -> Tensor:
        """The images (N, ...) with a pattern where a mask leaves them free."""
        shown = self._applied(images, pattern)
        return shown if self.mask is None else shown.where(free_pixels(self.mask, images), images)

    def _known(self) -> Tensor:
        """The pattern, if there is one."""
        if self.pattern is None:
            raise InputError(
                f"{type(self).__name__} has no pattern yet: fit it on images first, attack = attack.fit(loader), and "
                "use the attack that this returns; or give it a pattern, as in "
                f"{type(self).__name__}(model, pattern=known)"
            )
        return self.pattern

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        self._known()
        return super()._carry_out(images, labels, targets)


class _Learner:
    """A pattern as it is learned.

    Attributes:
        first: (n, ...), a few of the images that it is learned from, once it has seen any.
    """

    first: Tensor

    def __init__(self, attack: Fitted, choice: Choice, where: LabelsGetter) -> None:
        self.pattern = attack.pattern
        self.epochs = self.infinite = 0
        self._seen = False
        self._attack, self._choice, self._where = attack, choice, where
        self._fooled: float | None = None  # the share in the last epoch
        self._batches = 0  # of an epoch, where that is known

    def state(self) -> dict[str, Any]:
        """All that changes, for `resume`."""
        assert self.pattern is not None
        return {"epochs": self.epochs, "fooled": self._fooled, "batches": self._batches, "pattern": self.pattern.cpu()}

    def resume(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.epochs, self.pattern = state["epochs"], state["pattern"]
        self._fooled, self._batches = state["fooled"], state["batches"]

    def learn(self, loader: Iterable[Any], epoch: int, epochs: int, progress: bool | None) -> None:
        """One time through the loader."""
        what = f"epoch {epoch + 1} of {epochs}"
        what += "" if self._fooled is None else f" ({self._fooled:.0%} fooled)"
        fooled: list[Tensor] = []
        count, expected = 0, len(loader) if isinstance(loader, Sized) else self._batches
        for found in track(loader, what, unit="batch", progress=progress):
            sample = Sample(found, batched=True, where=self._where, choice=self._choice)
            if len(sample.images):
                behind = epoch + (min(count / expected, 1) if expected else 0)
                fooled += self._see(sample.images, sample.labels, 1 - behind / epochs)
                count += 1
        self._batches = count
        if not count:
            raise InputError("the loader has no images; a generator can be iterated over only once: give a DataLoader")
        if not fooled:
            raise InputError(f"all images are of class {self._attack.target}, the target: there is nothing to fit on")
        self.epochs, self._fooled = epoch + 1, float(torch.cat(fooled).float().mean())

    def _see(self, images: Tensor, labels: Tensor | None, share: float) -> list[Tensor]:
        """Learn from a batch. Which of its images were fooled before, bool (n,); nothing of images of the target."""
        attack = self._attack
        check_images(images, attack.bounds)
        if not self._seen:
            self._seen, self.first = True, images[:_FEW].detach().to("cpu", copy=True)
        check_shared(f"{type(attack).__name__}.fit", attack.mask, images)
        if labels is None:
            labels = predict(attack.model, images).argmax(1)
        check_classes("labels", labels, images)
        classes = {"labels": labels}
        if attack.target is not None:
            others = labels != attack.target
            images, labels = images[others.to(images.device)], labels[others]
            classes = {"labels": labels, "target": torch.full_like(labels, attack.target)}
            if not len(images):
                return []
        climbed = (attack.loss,) if callable(attack.loss) else ()
        with attacking(attack.model, *climbed, adaptive=attack.adaptive):
            model = Shown(attack.model, classes, attack.autocast)
            device, work = model.workplace(images)
            pixels = own(images, device, work).clamp_(*attack.bounds)
            model.free = None if attack.mask is None else free_pixels(attack.mask, pixels)[:1]  # the same of all
            wanted = own(classes["labels" if attack.target is None else "target"], device, torch.int64)
            goal: Goal = Untargeted(wanted) if attack.target is None else Targeted(wanted)
            pattern = attack._begin(pixels) if self.pattern is None else self.pattern.to(device, work)
            fooled: list[Tensor] = []

            def step(model: Classifier) -> Tensor:
                moved, fooled[:] = attack._learned(pattern, pixels, goal, model, share)
                return moved

            self.pattern = model.verified(step)
            self.infinite += model.checked()
        return fooled
