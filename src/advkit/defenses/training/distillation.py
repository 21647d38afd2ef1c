"""Defensive distillation: a model learns from a copy of itself, at a temperature."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advkit._base.answers import found_in
from advkit._engine.checks import check_number
from advkit.defenses.training.base import TrainingDefense
from advkit.defenses.training.epoch import Epoch
from advkit.defenses.training.loop import Training
from advkit.defenses.training.network import Network
from advkit.defenses.training.recipe import Batch, Recipe
from advkit.model import Defended, Model

__all__ = ["DefensiveDistillation"]


class DefensiveDistillation(TrainingDefense):
    """Train a teacher at a temperature, and a student of the same shape on its soft labels; use the student at 1.

    Papernot, McDaniel, Wu, Jha & Swami, "Distillation as a defense to adversarial perturbations against deep neural
    networks", S&P 2016, section IV. The softmax at temperature T is softmax(Z / T), so that a network that is right
    at T has logits T times as large when it is used at 1. In float32 its cross-entropy is then 0 and so is its
    gradient: attacks on it fail, without the model being robust. The surrogate divides the logits by T again.
    Carlini & Wagner, "Towards evaluating the robustness of neural networks", S&P 2017, section VIII.

    `fit` trains twice, each time for the given number of epochs, from the same initial weights, optimizer and
    schedulers: the model first becomes the teacher, which is copied, and then the student. With a checkpoint
    ``student.pt``, that of the teacher is ``student.teacher.pt``. `wrap` is for a network that is already distilled.

    Args:
        temperature: T, greater than 0.

    Attributes:
        history: of the student.
        teacher_history: of the teacher.

    Examples:
        >>> defense = advkit.defenses.DefensiveDistillation(temperature=20)
        >>> distilled = defense.fit(model, loader, torch.optim.Adam(model.parameters()), epochs=1)
        >>> adversarials = advkit.FGSM(distilled)(images, labels)  # with the temperature taken out
    """

    teacher_history: list[Epoch]

    def __init__(self, temperature: float = 20.0) -> None:
        super().__init__()
        check_number("temperature", temperature, above=0)
        self.temperature = temperature
        self.teacher_history = []

    def __repr__(self) -> str:
        return f"{type(self).__name__}(temperature={self.temperature:g})"

    def wrap(self, model: Model) -> nn.Module:
        """A distilled network, unchanged, whose temperature attacks know; see `Defense.wrap`."""
        return Defended(model, self, model)

    def _one_draw(self, model: Model) -> Model:
        return _Tempered(model, self.temperature)

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The teacher's loss: the cross-entropy at the temperature."""
        return batch.cross_entropy(network(batch.images) / self.temperature).mean()

    def _train(self, training: Training, loader: Iterable[Any], epochs: int) -> nn.Module:
        start = copy.deepcopy(training.state())
        path = None if training.checkpoint is None else Path(training.checkpoint)
        beside = None if path is None else path.with_name(f"{path.stem}.teacher{path.suffix}")
        of_teacher = replace(training, checkpoint=beside, history=[])
        self.teacher_history = of_teacher.history
        of_teacher.run(loader, self, epochs, name=f"the teacher of {self!r}")
        teacher = Network(copy.deepcopy(training.model), training.autocast).eval()
        training.load(start)
        training.run(loader, _Student(teacher, self.temperature), epochs, name=f"the student of {self!r}")
        return self.wrap(training.model)


class _Student(Recipe):
    """Training on a teacher's soft labels, both at a temperature."""

    def __init__(self, teacher: Network, temperature: float) -> None:
        self.teacher = teacher
        self.temperature = temperature

    def loss(self, network: Network, batch: Batch) -> Tensor:
        """The cross-entropy between the two softmaxes."""
        with torch.no_grad():
            targets = (self.teacher(batch.images) / self.temperature).softmax(1)
        return F.cross_entropy(network(batch.images) / self.temperature, targets)


class _Tempered(nn.Module):
    """A model whose logits are divided by a temperature."""

    def __init__(self, model: Model, temperature: float) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = found_in(self.model(images))
        return logits / self.temperature
