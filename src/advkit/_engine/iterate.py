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

    Examples:
        >>> from advkit.parts import Seeking, Targeted
        >>> rows = Seeking(images, Targeted(targets))
        >>> logits, loss = model(images), advkit.losses.cross_entropy
        >>> torch.equal(rows.climbed(loss, logits), -loss(logits, targets))  # down, since it is of the target
        True
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

    Examples:
        >>> from advkit.parts import Ball, Climb, Untargeted
        >>> ball = Ball.of("linf", torch.full((1, 2), 0.5), 0.25, bounds=(0, 1))
        >>> rows = Climb(ball.originals, Untargeted(torch.tensor([0])), ball, alpha=torch.tensor([0.5]))
        >>> rows.stepped(torch.tensor([[1.0, -0.25]]))
        tensor([[0.7500, 0.3750]])
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
        logits: (n, K), without a graph.
        loss: (n,), likewise.
        gradient: (n, ...), of the loss; of no size at a look after the last step.
        goal: of the rows.

    Examples:
        >>> from advkit.parts import Look, Untargeted
        >>> x, logits = torch.zeros(2, 3), torch.tensor([[2.0, 1.0], [1.0, 2.0]])
        >>> Look(0, x, logits, torch.zeros(2), torch.zeros(2, 3), Untargeted(torch.tensor([0, 0]))).success
        tensor([False,  True])
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

    Examples:
        >>> from advkit.parts import Look, Peak, Untargeted
        >>> peak, goal = Peak.of(torch.zeros(1, 1)), Untargeted(torch.tensor([0]))
        >>> for step, (place, loss) in enumerate([(0.1, 1.0), (0.2, 3.0), (0.3, 2.0)]):
        ...     x = torch.tensor([[place]])
        ...     peak.see(Look(step, x, torch.zeros(1, 2), torch.tensor([loss]), torch.zeros(1, 1), goal))
        >>> peak.x, peak.loss
        (tensor([[0.2000]]), tensor([3.]))
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

    Examples:
        >>> from advkit.parts import Keep
        >>> class Watched(Keep):
        ...     def see(self, rows, look):
        ...         print(f"step {look.step}: {int(look.success.sum())} fooled")
        ...
        ...     def answer(self, rows):
        ...         return rows.whole()
        >>> Watched().looks_back
        True
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
    """Where each row stands in the end, or stood when it left.

    Examples:
        >>> from advkit.parts import Classifier, Last, Seeking, Untargeted, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.zeros(1, 1), Untargeted(torch.tensor([0])))
        >>> iterate(line, rows, lambda rows, look: rows.x + 0.1, steps=4, loss="ce", keep=Last())
        tensor([[0.4000]])
    """

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
    """The place with the highest loss.

    Examples:
        >>> from advkit.parts import Classifier, HighestLoss, Seeking, Untargeted, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.zeros(1, 1), Untargeted(torch.tensor([0])))
        >>> there_and_back = lambda rows, look: rows.x + (0.1 if look.step < 2 else -0.1)
        >>> iterate(line, rows, there_and_back, steps=4, loss="ce", keep=HighestLoss(rows.x))
        tensor([[0.2000]])
    """

    def value(self, rows: Rows, look: Look) -> Tensor:
        return -look.loss


class FirstSuccess(_Best):
    """The first place where the model was fooled; the image itself where it never was.

    Examples:
        >>> from advkit.parts import Classifier, FirstSuccess, Seeking, Untargeted, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.zeros(1, 1), Untargeted(torch.tensor([0])))
        >>> iterate(line, rows, lambda rows, look: rows.x + 0.1, steps=4, loss="ce", keep=FirstSuccess(rows.x))
        tensor([[0.3000]])
    """

    def value(self, rows: Rows, look: Look) -> Tensor:
        return torch.full_like(look.loss, look.step).where(look.success, torch.inf)


class Worst(_Best):
    """The first place where the model was fooled, or else the one with the highest loss.

    Examples:
        >>> from advkit.parts import Classifier, Seeking, Untargeted, Worst, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.zeros(1, 1), Untargeted(torch.tensor([0])))
        >>> iterate(line, rows, lambda rows, look: rows.x + 0.1, steps=2, loss="ce", keep=Worst(rows.x))  # never fooled
        tensor([[0.2000]])
    """

    def value(self, rows: Rows, look: Look) -> Tensor:
        return (-look.loss).where(~look.success, -torch.inf)


class Smallest(_Best):
    """The fooling place closest to the image; the image itself where there was none.

    Args:
        images: (N, ...), the originals.
        norm: in which to measure.

    Examples:
        >>> from advkit.parts import Classifier, Seeking, Smallest, Untargeted, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.ones(1, 1), Untargeted(torch.tensor([0])))
        >>> keep = Smallest(torch.zeros(1, 1), advkit.norms.Linf)
        >>> iterate(line, rows, lambda rows, look: rows.x - 0.2, steps=4, loss="ce", keep=keep)
        tensor([[0.4000]])
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
        step: where the rows go, (n, ...), from what is known of them and what a look at the model shows.
        steps: how many.
        loss: what is climbed, as `advkit.losses.get` takes it.
        keep: what is returned; the last place if None.
        early_stop: whether rows leave when they are fooled.
        inputs: what the model is shown in place of rows (n, ...), differentiable, such as random resizes of them; the
            gradient passes back through it. None for the rows themselves.

    Examples:
        >>> from advkit.parts import Ball, Classifier, Climb, Untargeted, iterate
        >>> rows = Climb(images, Untargeted(labels), Ball.of("linf", images, 8 / 255, (0, 1)), alpha=2 / 255)
        >>> step = lambda rows, look: rows.stepped(look.gradient.sign())
        >>> adversarials = iterate(Classifier(model), rows, step, steps=10, loss="ce")  # PGD without its start
        >>> int((model(adversarials).argmax(1) != labels).sum())
        12
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
