"""The building blocks of a transfer attack."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import Tensor

from advkit import hyperparameters
from advkit._engine.wording import short
from advkit.attacks.transfer.ascent import Ascent
from advkit.errors import InputError
from advkit.hyperparameters import Hyperparameter, Number

__all__ = ["PLACES", "Part", "PartList"]

PLACES = ("start", "look", "inputs", "slope", "gradient", "direction", "step")


@dataclass(frozen=True, repr=False)
class Part:
    """One idea that makes adversarial images transfer to other models: a change to the step of `Transfer`.

    Each method is a place in the step, and does nothing there by default. A part overrides the one or two that
    its idea is about, and declares its numbers as attacks do. A part is immutable: what it needs in later steps it
    stores with `Ascent.remember`. What a part returns must have the shape of what it was given, and no NaN; otherwise
    an `AdvkitError` names the part.

    Attributes:
        copies: how many copies of each image the model is shown, to average the gradient; the product over all parts.
        spatial: whether images have to be (N, C, H, W).
        independent_rows: whether it treats each image independently of the others.

    Examples:
        >>> from dataclasses import dataclass
        >>> from advkit.attacks.transfer import Momentum, Part
        >>> @dataclass(frozen=True, repr=False)
        ... class Dropout(Part):
        ...     rate: float = advkit.hyperparameters.number(0.1, at_least=0, at_most=1)
        ...     def inputs(self, x, copy, ascent):
        ...         return x * (ascent.uniform(*x.shape) >= self.rate)
        >>> advkit.Transfer(model, [Momentum(), Dropout(rate=0.2)]).run(images, labels)
        AdversarialResult(12 of 12 successful)
    """

    spatial: ClassVar[bool] = False
    independent_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, what in hyperparameters.of(type(self)).items():
            what.check(f"{type(self).__name__}'s {name}", getattr(self, name))
        Number(at_least=1, integer=True).check(f"{type(self).__name__}'s copies", self.copies)
        for place in PLACES:
            if not callable(getattr(self, place)):
                raise InputError(
                    f"{type(self).__name__}'s {place} is {getattr(self, place)!r}, but {place} is the method that says "
                    "what a part does at that place in the step; give the number another name"
                )

    @property
    def copies(self) -> int:
        """How many copies of each image the model is shown; a field in a part that makes some."""
        return 1

    def start(self, x: Tensor, ascent: Ascent) -> Tensor:
        """Where the search starts, given the images (n, ...)."""
        return x

    def look(self, x: Tensor, ascent: Ascent) -> Tensor:
        """Where the gradient is taken, given the current images (n, ...)."""
        return x

    def inputs(self, x: Tensor, copy: Tensor, ascent: Ascent) -> Tensor:
        """What the model is shown in place of rows (r, ...), scaled to [0, 1]: differentiable.

        Row i is of image i % n. Parts that override this apply in the order of their list.

        Args:
            x: from 0, the lowest value of a pixel, to 1, the highest.
            copy: int64 (r,), which of the part's copies each row is.
            ascent: the search.
        """
        return x

    def slope(self, x: Tensor, ascent: Ascent) -> Tensor:
        """The gradient at ``x`` (n, ...), by calls of `Ascent.gradient`. Only one part of a list may override it."""
        return ascent.gradient(x)

    def gradient(self, gradient: Tensor, ascent: Ascent) -> Tensor:
        """The gradient (n, ...), transformed."""
        return gradient

    def direction(self, gradient: Tensor, ascent: Ascent) -> Tensor:
        """The direction, from the gradient and earlier ones: the step is along its sign. After every `gradient`."""
        return gradient

    def step(self, step: Tensor, ascent: Ascent) -> Tensor:
        """The step (n, ...), transformed, before the rows are projected onto the budget."""
        return step

    def answers(self, place: str) -> bool:
        """Whether the part changes anything at that place."""
        return getattr(type(self), place) is not getattr(Part, place)

    def check_beside(self, others: Sequence["Part"]) -> None:
        """Reject a list of parts, or an order of it, in which this one would make no sense.

        Args:
            others: the whole list, in order, with this part in it.
        """

    def check_images(self, images: Tensor) -> None:
        """Reject images (N, ...) to which the part does not apply."""
        if self.spatial and images.ndim != 4:
            raise InputError(
                f"{type(self).__name__} depends on where pixels lie, and needs images of shape (N, C, H, W); got "
                f"{tuple(images.shape)}"
            )

    def __repr__(self) -> str:
        """The class and the numbers that are not as they would be if not given."""
        changed = [each for each in fields(self) if getattr(self, each.name) != each.default]
        return f"{type(self).__name__}({', '.join(f'{one.name}={short(getattr(self, one.name))}' for one in changed)})"


@dataclass(frozen=True)
class PartList(Hyperparameter):
    """Parts that go together.

    Examples:
        >>> from advkit.attacks.transfer import Nesterov
        >>> advkit.Transfer(model, [Nesterov()])
        Traceback (most recent call last):
            ...
        advkit.errors.InputError: Nesterov looks ahead along the momentum, and parts has no Momentum; add it
    """

    def _check(self, name: str, value: object) -> None:
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, Part) for each in value):
            raise InputError(
                f"{name} must be a list of parts, such as [advkit.attacks.transfer.Momentum()]; got {value!r}"
            )
        for kind in {type(part): None for part in value}:
            if sum(type(part) is kind for part in value) > 1:
                raise InputError(f"{name} has more than one {kind.__name__}; give it once")
        asking = [type(part).__name__ for part in value if part.answers("slope")]
        if len(asking) > 1:
            raise InputError(
                f"{name} has {' and '.join(asking)}, and each of them says at which points the gradient is taken; "
                "give one of them"
            )
        for part in value:
            part.check_beside(value)

    def __str__(self) -> str:
        return "a list of parts"

    def bad(self) -> Iterator[object]:
        """What is no list, what is no part, and parts that say the same thing."""
        yield from (None, "Momentum", [Part], [Part(), Part()])
