"""The loop of an iterative attack: one look at the model a step, a rule for the step, and what is kept of it all."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import losses
from advkit._engine.ball import Ball
from advkit._engine.classifier import Classifier
from advkit._engine.rows import Rows
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import Norm, column

__all__ = [
    "Climb",
    "FirstSuccess",
    "HighestLoss",
    "Keep",
    "Last",
    "Look",
    "Peak",
    "Seeking",
    "Smallest",
    "Worst",
    "iterate",
]


@dataclass
class Seeking(Rows):
    """Rows that seek a goal. Subclasses add what their rule for a step remembers of each row.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
    """

    goal: Goal

    def climbed(self, loss: Loss, logits: Tensor) -> Tensor:
        """What the rows climb, from logits (n, K): (n,). The loss, if they have nothing of their own."""
        return self.goal.climbed(loss, logits)


@dataclass
class Climb(Seeking):
    """Rows that climb a loss inside a ball.

    Args:
        x: (n, ...), where each row starts, and then stands.
        goal: of the rows.
        ball: where they may go.
        alpha: the length of a step, one for all or one for each row.
    """

    ball: Ball
    alpha: float | Tensor

    def stepped(self, direction: Tensor) -> Tensor:
        """Where rows are after a step of ``alpha`` in a direction (n, ...), which is overwritten, inside the ball."""
        return self.ball.project(direction.mul_(column(self.alpha, self.x)).add_(self.x))


@dataclass
class Look:
    """What one look at the model shows of each row, where it stands.

    Attributes:
        step: the number of the step, from 0 on.
        x: (n, ...), where the rows stand.
        logits: (n, K), without a graph, in the dtype that the model answers in, which may be wider than that of ``x``.
        loss: (n,), likewise; what is climbed.
        gradient: (n, ...), of the loss; of no size at a look after the last step.
        goal: of the rows.
    """

    step: int
    x: Tensor
    logits: Tensor
    loss: Tensor
    gradient: Tensor
    goal: Goal

    @property
    def success(self) -> Tensor:
        """Whether the model is fooled: bool (n,)."""
        return self.goal.success(self.logits)

    def compact(self, rows: Seeking) -> None:
        """Drop the retired rows, where that is worth it, here and in ``rows``."""
        self.x, self.logits, self.loss, self.gradient = rows.compact(self.x, self.logits, self.loss, self.gradient)
        self.goal = rows.goal


@dataclass
class Peak:
    """The place of each row with the highest loss so far, and what was seen there: for rules that go back to it.

    Attributes:
        x: (n, ...), the places.
        loss: (n,), the losses there.
        gradient: (n, ...), the gradients there.
    """

    x: Tensor
    loss: Tensor
    gradient: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Rows that stand at ``x`` (n, ...) and have seen nothing yet."""
        return cls(x, torch.full(x.shape[:1], -torch.inf, dtype=x.dtype, device=x.device), torch.zeros_like(x))

    def see(self, look: Look) -> None:
        """Take note of a look."""
        higher = look.loss > self.loss
        self.loss = look.loss.to(self.loss.dtype).where(higher, self.loss)
        self.x = look.x.where(column(higher, look.x), self.x)
        self.gradient = look.gradient.where(column(higher, look.x), self.gradient)

    def rows(self, index: Tensor) -> Self:
        """The same for some of the rows: places int64, or bool (n,)."""
        return type(self)(self.x[index], self.loss[index], self.gradient[index])


class Keep(ABC):
    """What is returned of the places that the rows of a batch have been to.

    Attributes:
        looks_back: whether the model has to be asked about the place after the last step.
    """

    looks_back: bool = True

    @abstractmethod
    def see(self, rows: Rows, look: Look) -> None:
        """Take note of a look."""

    def leave(self, rows: Rows, fooled: Tensor) -> None:  # noqa: B027  # `Last` has no use for it
        """Take note of the rows that leave where they stand since the model is ``fooled``, bool (n,)."""

    @abstractmethod
    def answer(self, rows: Rows) -> Tensor:
        """The images of the whole batch: (N, ...)."""


class Last(Keep):
    """Where each row stands in the end, or stood when it left."""

    looks_back = False

    def see(self, rows: Rows, look: Look) -> None:
        pass

    def answer(self, rows: Rows) -> Tensor:
        return rows.whole()


class _Best(Keep):
    """The place of each row where something was least.

    Args:
        images: (N, ...), the answer for rows that have nothing to show.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.least = torch.full(images.shape[:1], torch.inf, dtype=images.dtype, device=images.device)

    @abstractmethod
    def value(self, rows: Rows, look: Look) -> Tensor:
        """What is to be least, (n,); infinite where the place does not count."""

    def place(self, rows: Rows) -> Tensor:
        """Which images the rows are, int64 (n,): others than their index says where they are a part of a batch."""
        return rows.index

    def see(self, rows: Rows, look: Look) -> None:
        place = self.place(rows)
        value = self.value(rows, look).to(self.least.dtype)
        self._put(rows, value, (value < self.least[place]) & rows.active)

    def leave(self, rows: Rows, fooled: Tensor) -> None:
        """What a row was after is its answer, whatever came before."""
        self._put(rows, torch.full_like(self.least[rows.index], -torch.inf), fooled & rows.active)

    def _put(self, rows: Rows, value: Tensor, better: Tensor) -> None:
        """Keep the places of the rows that are ``better``, bool (n,), with their values (n,)."""
        place = self.place(rows)
        self.least[place] = value.where(better, self.least[place])
        self.images[place] = rows.x.where(column(better, rows.x), self.images[place])

    def answer(self, rows: Rows) -> Tensor:
        return self.images


class HighestLoss(_Best):
    """The place with the highest loss."""

    def value(self, rows: Rows, look: Look) -> Tensor:
        return -look.loss


class FirstSuccess(_Best):
    """The first place where the model was fooled; the image itself where it never was."""

    def value(self, rows: Rows, look: Look) -> Tensor:
        return torch.full_like(look.loss, look.step).where(look.success, torch.inf)


class Worst(_Best):
    """The first place where the model was fooled, or else the one with the highest loss."""

    def value(self, rows: Rows, look: Look) -> Tensor:
        return (-look.loss).where(~look.success, -torch.inf)


class Smallest(_Best):
    """The fooling place closest to the image; the image itself where there was none.

    Args:
        images: (N, ...), the originals.
        norm: in which to measure.
    """

    def __init__(self, images: Tensor, norm: Norm) -> None:
        super().__init__(images)
        self.originals = images
        self.norm = norm

    def value(self, rows: Rows, look: Look) -> Tensor:
        return self.norm.distance(look.x, self.originals[rows.index]).where(look.success, torch.inf)


Stepping = TypeVar("Stepping", bound=Seeking)


def iterate(
    model: Classifier,
    rows: Stepping,
    step: Callable[[Stepping, Look], Tensor],
    *,
    steps: int,
    loss: str | Loss,
    keep: Keep | None = None,
    early_stop: bool = False,
    inputs: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Take ``steps`` steps, each one forward and one backward, and return what is to be kept: (N, ...).

    With ``early_stop`` a row leaves where it stands as soon as the model's answer is what its goal wants. That is read
    off the forward that the next step needs anyhow, and when no row is left there is no backward. After the last step
    there is a forward more only if what is kept may be the place that it led to. A step may retire rows by a rule of
    its own, and drop them with `Look.compact`, or with `Rows.compact` from what it computed; when none is left, that is
    the end.

    Args:
        model: pixels to logits.
        rows: the batch.
        step: where the rows go, (n, ...), in the dtype of ``x``, from what is known of them and what a look at the
            model shows.
        steps: how many.
        loss: what is climbed, as `advkit.losses.get` takes it.
        keep: what is returned; the last place if None.
        early_stop: whether rows leave when they are fooled.
        inputs: what the model is shown in place of rows (n, ...), differentiable, such as random resizes of them; the
            gradient passes back through it. None for the rows themselves.
    """
    keep, climbed, inputs = keep or Last(), losses.get(loss), inputs or _as_they_are
    for count in range(steps):
        x = rows.x.detach().requires_grad_()
        logits = model.logits(inputs(x))
        if early_stop:
            fooled = rows.goal.success(logits)
            keep.leave(rows, fooled)
            if not rows.retire(fooled):
                break
        values = rows.climbed(climbed, logits)
        gradient = model.gradient(values, x)
        look = Look(count, rows.x, logits.detach(), values.detach(), gradient, rows.goal)
        del x, logits, values, gradient  # and with them the graph, before the step makes tensors of its own
        keep.see(rows, look)
        if early_stop:
            look.compact(rows)
        rows.move(step(rows, look))
        del look  # before the next graph is built
        if rows.finished:  # a step may have retired the last of them
            break
    else:
        if keep.looks_back:
            with torch.no_grad():
                logits = model.logits(inputs(rows.x))
                values = rows.climbed(climbed, logits)
            keep.see(rows, Look(steps, rows.x, logits, values, rows.x.new_empty(0), rows.goal))
    return keep.answer(rows)


def _as_they_are(x: Tensor) -> Tensor:
    return x
