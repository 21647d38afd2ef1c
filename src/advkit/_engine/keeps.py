"""Which of the points that the rows of a batch have visited are returned."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from advkit._engine.looks import Look
from advkit._engine.rows import Rows
from advkit.norms import Norm, column

__all__ = ["FirstSuccess", "HighestLoss", "Keep", "Last", "Smallest", "Standing", "Worst"]


class Keep(ABC):
    """Which of the points that the rows of a batch have visited are returned.

    Attributes:
        looks_back: whether the model has to be run at the point after the last step.

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
    """The last point of each row, or the one at which it left.

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
    """The point of highest loss.

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
    """The first point that fooled the model; the image itself if none did.

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
    """The first point that fooled the model, or else the one of highest loss.

    Examples:
        >>> from advkit.parts import Classifier, Seeking, Untargeted, Worst, iterate
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> rows = Seeking(torch.zeros(1, 1), Untargeted(torch.tensor([0])))
        >>> iterate(line, rows, lambda rows, look: rows.x + 0.1, steps=2, loss="ce", keep=Worst(rows.x))  # never fooled
        tensor([[0.2000]])
    """

    def value(self, rows: Rows, look: Look) -> Tensor:
        return (-look.loss).where(~look.success, -torch.inf)


class Standing(Worst):
    """`Worst` of several runs, each on the images that none before it has fooled.

    Args:
        images: (N, ...), what is returned for images without a run.

    Examples:
        >>> from dataclasses import dataclass
        >>> from advkit.parts import Classifier, Seeking, Standing, Untargeted, iterate
        >>> @dataclass
        ... class Run(Seeking):
        ...     place: torch.Tensor
        >>> line = Classifier(lambda x: torch.cat([0.25 - x, x - 0.25], 1))  # class 1 beyond 0.25
        >>> keep, goal = Standing(torch.tensor([[0.0], [0.2]])), Untargeted(torch.tensor([0, 0]))
        >>> for length in (0.1, -0.1, 0.3):
        ...     place = keep.left()
        ...     rows = Run(keep.images[place], goal.rows(place), place)
        ...     step = lambda rows, look: rows.x + length
        ...     _ = iterate(line, rows, step, steps=1, loss="ce", keep=keep, early_stop=True)
        ...     print(place.tolist())
        [0, 1]
        [0]
        [0]
        >>> keep.left().tolist(), keep.images[:, 0]
        ([], tensor([0.4000, 0.3000]))
    """

    def place(self, rows: Rows) -> Tensor:
        """Which images the rows are, int64 (n,): their field ``place``, if they have one."""
        place: Tensor = getattr(rows, "place", rows.index)
        return place

    def leave_out(self, images: Tensor) -> None:
        """Note the images that need no run, bool (N,), since they fool the model as they are."""
        self.least.masked_fill_(images, -torch.inf)

    def left(self, among: Tensor | None = None) -> Tensor:
        """The images that do not fool the model yet: int64 (m,), in order. Waits for the device.

        Args:
            among: bool (N,), the images to consider; None for all.
        """
        left = self.least > -torch.inf
        return (left if among is None else left & among).nonzero().squeeze(1)


class Smallest(_Best):
    """The point closest to the image that fooled the model; the image itself if there was none.

    A point that fools by a margin within rounding does not count, unless it is the image itself: in a batch of
    another size it might not fool.

    Args:
        images: (N, ...), the originals.
        norm: the norm in which to measure.

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
        size = self.norm.distance(look.x, self.originals[rows.index])
        return size.where(look.clearly | (look.success & (size == 0)), torch.inf)
