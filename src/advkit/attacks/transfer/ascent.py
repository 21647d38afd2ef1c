"""The search of a transfer attack: its current images, what its parts remember, and how they ask for gradients."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advkit import losses
from advkit._base.answers import described
from advkit._base.random import normal_like, uniform_like
from advkit._engine.ball import LinfBall
from advkit._engine.classifier import Classifier
from advkit._engine.resampling import own_precision
from advkit.errors import AdvkitError, InputError
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.norms import column

if TYPE_CHECKING:
    from advkit.attacks.transfer.part import Part

__all__ = ["Ascent"]

_AT_A_TIME = {"cpu": 64}  # rows that copies of few images may come to in one pass
_ELSEWHERE = 512


@dataclass
class Ascent:
    """The search of one batch, as its parts see it.

    Attributes:
        x: (n, ...), the current images.
        model: the surrogate, which is attacked.
        goal: of the n rows.
        ball: where they may go; ``ball.originals`` are the images.
        alpha: the length of a step, one for all or (n,).
        showing: the parts that transform the inputs of the model.
        loss: the loss to maximise.
        generator: the source of random numbers.
        is_last: whether this is the last step, after which nothing that is remembered is used.
        free: bool (n, ...), the pixels that may move, to which gradients are restricted; None for all.

    Examples:
        >>> from dataclasses import dataclass
        >>> from advkit.attacks.transfer import Momentum, Part
        >>> @dataclass(frozen=True, repr=False)
        ... class Smoothed(Part):  # the gradient is the mean of four, taken nearby
        ...     def slope(self, x, ascent):
        ...         return ascent.mean(x, 4, lambda x, number: ascent.gradient(ascent.nearby(x, radius=1.5)))
        >>> advkit.Transfer(model, [Smoothed(), Momentum()]).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    x: Tensor
    model: Classifier
    goal: Goal
    ball: LinfBall
    alpha: float | Tensor
    showing: Sequence["Part"]
    loss: str | Loss
    generator: torch.Generator | None
    is_last: bool = False
    free: Tensor | None = None
    _memory: dict[str, Tensor] = field(default_factory=dict)
    _owners: dict[str, str] = field(default_factory=dict)  # which part remembers what
    _asked: str = ""  # the part that is
    _answered: bool = False

    @property
    def eps(self) -> float | Tensor:
        """The budget, one for all or (n,)."""
        return self.ball.eps

    @property
    def range(self) -> float:
        """The range of ``bounds``: the highest value of a pixel minus the lowest."""
        low, high = self.ball.bounds
        return high - low

    def recall(self, name: str) -> Tensor:
        """The tensor that was last remembered under this name, (n, ...); zeros at first."""
        if name not in self._memory:
            self._memory[name] = torch.zeros_like(self.x)
        return self._memory[name]

    def remember(self, name: str, value: Tensor) -> None:
        """Keep a tensor (n, ...) for the next step.

        Raises:
            InputError: another part remembers something under this name, which any of them may `recall`.
        """
        if (owner := self._owners.setdefault(name, self._asked)) != self._asked:
            raise InputError(f"{owner} and {self._asked} both remember {name!r}; one of them must take another name")
        self._memory[name] = value

    def over(self, value: float | Tensor, x: Tensor) -> float | Tensor:
        """One value for each of the n images, shaped to broadcast over rows (r, ...), r a multiple of n."""
        if isinstance(value, Tensor) and value.ndim:
            value = value.repeat(len(x) // len(value))
        return column(value, x)

    def uniform(self, *shape: int) -> Tensor:
        """Independent draws from [0, 1), on the device and in the dtype of the rows."""
        return uniform_like(self.x.new_empty(shape), self.generator)

    def normal(self, *shape: int) -> Tensor:
        """Independent draws from N(0, 1), likewise."""
        return normal_like(self.x.new_empty(shape), self.generator)

    def integers(self, *shape: int, below: int | Tensor) -> Tensor:
        """Independent int64 draws from 0, 1, ..., ``below`` - 1; ``below`` may be a tensor of limits."""
        return (self.uniform(*shape) * below).long()

    def nearby(self, x: Tensor, radius: float) -> Tensor:
        """Points drawn uniformly, for each row (r, ...), from the cube of half-side ``radius * eps`` around it."""
        return x + (2 * self.uniform(*x.shape) - 1).mul_(self.over(self.eps, x)).mul_(radius)

    def through(self, parts: Iterable["Part"], place: str, x: Tensor) -> Tensor:
        """Rows (n, ...) after what the parts do at a place other than `Part.inputs`, in their order."""
        for part in parts:
            self._asked = type(part).__name__
            x = self._made(part, place, getattr(part, place)(x, self), x.shape)
        return x

    def gradient(self, x: Tensor) -> Tensor:
        """The gradient of the loss at rows (r, ...), r a multiple of n: (r, ...), without a graph.

        It is the mean over the copies that parts make of each row, and is backpropagated through what they do to it.
        """
        copies, total = math.prod(part.copies for part in self.showing), None
        if self.free is not None:  # a part may have looked, or blurred, beyond them
            shape = (len(x) // len(self.x), *[1] * (x.ndim - 1))
            x = x.where(self.free.repeat(shape), self.ball.originals.repeat(shape))
        for these in self._portions(copies, len(x)):
            asked = x.detach().requires_grad_()
            shown = asked if len(these) == 1 else asked.repeat(len(these), *[1] * (x.ndim - 1))
            if self.showing:
                shown = self._shown(shown, these.repeat_interleave(len(x)))
            logits = self.model.logits(shown)
            self._answered = True
            values = self.goal_of(logits).climbed(losses.get(self.loss), logits)
            found = self.model.gradient(values, asked)
            total = found if total is None else total + found  # a gradient may be one number for all pixels
        assert total is not None
        return total if copies == 1 else total / copies

    def mean(self, x: Tensor, count: int, at: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The mean of ``count`` tensors (n, ...), as many of them at a time as fit.

        Args:
            x: (n, ...).
            count: how many tensors to average.
            at: a function of x repeated, (m n, ...), and of int64 (m n,), which of the ``count`` each row is for; it
                returns what is averaged, (m n, ...).
        """
        total = torch.zeros_like(x)
        for these in self._portions(count, len(x)):
            found = at(x.repeat(len(these), *[1] * (x.ndim - 1)), these.repeat_interleave(len(x)))
            total += found.view(len(these), *x.shape).sum(0)
        return total.div_(count)

    def goal_of(self, rows: Tensor) -> Goal:
        """The goal of rows (r, ...), r a multiple of n."""
        count = len(self.x)
        if len(rows) == count:
            return self.goal
        return self.goal.rows(torch.arange(count, device=rows.device).repeat(len(rows) // count))

    def _portions(self, count: int, rows: int) -> Sequence[Tensor]:
        """The numbers up to ``count``, as many at a time as rows may be in one pass.

        The model's first answer is to the rows alone, so that what is wrong with it is said of as many images.
        """
        numbers, most = torch.arange(count, device=self.x.device), _AT_A_TIME.get(self.x.device.type, _ELSEWHERE)
        portions = list(numbers.split(max(1, most // rows)))
        if not self._answered and len(portions[0]) > 1:
            portions[:1] = [portions[0][:1], portions[0][1:]]
        return portions

    def _shown(self, x: Tensor, copy: Tensor) -> Tensor:
        """What the model is shown in place of rows (r, ...)."""
        low, _ = self.ball.bounds
        plain = low == 0 and self.range == 1
        x = x if plain else (x - low) / self.range
        with own_precision(x.device):
            for part in self.showing:
                x = self._made(part, "inputs", part.inputs(x, copy % part.copies, self), x.shape)
                copy = copy // part.copies
        return x if plain else x * self.range + low

    def _made(self, part: "Part", place: str, found: Tensor, shape: torch.Size) -> Tensor:
        """What a part has made of a tensor of this shape. If it cannot be that, the part is named."""
        name, is_shown = f"{type(part).__name__}.{place}", place == "inputs"
        wanted = shape[:1] if is_shown else shape  # the model may take pictures of other sizes
        if not isinstance(found, Tensor) or found.shape[: len(wanted)] != wanted:
            raise AdvkitError(
                f"{name} was given a tensor of shape {tuple(shape)}, and returned {described(found)}; it must return "
                f"{f'one of {shape[0]} rows' if is_shown else 'another of that shape'}"
            )
        if is_shown and not found.requires_grad:
            raise AdvkitError(
                f"no gradient flows back through what {name} returned: it detaches, or rounds to integers"
            )
        self.model.watch_part(found, name)
        return found
