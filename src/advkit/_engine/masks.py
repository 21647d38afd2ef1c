"""Masks: which pixels of an image may move, and searches among those alone.

A search gets the free pixels of each image as a flat vector, and a model that puts them where they belong before it
answers. So whatever counts, ranks, draws or projects features does it with the free ones, and no attack has to know of
masks. Images with equally many free pixels are searched together. An attack to which it matters where pixels lie gets
whole images instead, and a model whose gradient is zero outside the mask.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._engine.classifier import Classifier
from advkit._engine.grid import Grid
from advkit.errors import AdvkitError, InputError
from advkit.goals import Goal

__all__ = ["Frame", "Shown", "check_shared", "free_pixels", "is_per_image"]


def free_pixels(mask: Tensor, images: Tensor) -> Tensor:
    """Which pixels of images (N, ...) a mask leaves free: bool, shaped like the images.

    Raises:
        InputError: the mask is of another shape than `advkit.Attack` takes.
    """
    free = mask.to(images.device, copy=False) != 0
    if _is_shared(free, images):
        return (free if free.ndim == images.ndim - 1 else free[None]).expand_as(images)
    if is_per_image(free, images):
        return (free if free.ndim == images.ndim else free[:, None]).expand_as(images)
    one, many = tuple(images.shape[1:]), tuple(images.shape)
    shapes = [one, many] if images.ndim < 4 else [one[1:], one, (many[0], *one[1:]), many]
    raise InputError(
        f"mask has shape {tuple(mask.shape)}, but for images of shape {many} it must have one of the shapes "
        f"{', '.join(map(str, shapes))}"
    )


def is_per_image(mask: Tensor, images: Tensor) -> bool:
    """Whether a mask has something to say of each of the images (N, ...), rather than the same of all."""
    if _is_shared(mask, images) or len(mask) != len(images):
        return False
    return _fits(mask.shape[1:], images.shape[1:]) or (images.ndim > 3 and mask.shape[1:] == images.shape[2:])


def check_shared(attack: str, mask: Tensor | None, images: Tensor) -> None:
    """Refuse a mask for each of these images (N, ...), where there are other batches to come."""
    if mask is not None and is_per_image(mask, images):
        raise InputError(
            f"{attack} has one mask for each image of one batch, but here it attacks many batches; give it one mask "
            "for all images"
        )


def _is_shared(mask: Tensor, images: Tensor) -> bool:
    one = images.shape[1:]
    return _fits(mask.shape, one) or (len(one) > 2 and mask.shape == one[1:])


def _fits(mask: torch.Size, image: torch.Size) -> bool:
    """Whether a mask is that of an image, or of its one channel for all of them."""
    return mask == image or (len(image) > 2 and mask == (1, *image[1:]))


@dataclass(frozen=True)
class Frame:
    """What is around the free pixels.

    Attributes:
        images: (n, ...), whole.
        place: int64 (n, d), where the free pixels are in a flat image.
    """

    images: Tensor
    place: Tensor

    @staticmethod
    def around(images: Tensor, free: Tensor) -> Iterator[tuple[Tensor, "Frame"]]:
        """The frames of images (N, ...) by how many pixels are ``free``, bool (N, ...), if any; and which they are."""
        flat = free.flatten(1)
        counts = flat.sum(1)
        for count in counts.unique().tolist():
            rows = (counts == count).nonzero().squeeze(1)
            if count:
                yield rows, Frame(images[rows], flat[rows].nonzero()[:, 1].view(len(rows), count))

    def vectors(self) -> Tensor:
        """The free pixels: (n, d)."""
        return self.images.flatten(1).gather(1, self.place)

    def cut(self, values: Tensor) -> Tensor:
        """The free pixels (n, d) of other images (n, ...); numbers (n,) as they are."""
        return values if values.ndim == 1 else values.flatten(1).gather(1, self.place)

    def whole(self, vectors: Tensor, index: Tensor | None = None) -> Tensor:
        """Images (m, ...) with these free pixels (m, d), of the places ``index``, int64 (m,): differentiable."""
        some = self if index is None else self.rows(index)
        if len(some.images) != len(vectors):
            raise AdvkitError(
                f"with a mask, an attack queried the model with {len(vectors)} of {len(self.images)} images without "
                "saying which; pass their goal as well: self.classifier.of(goal.rows(index)).logits(x)"
            )
        filled = some.images.flatten(1).to(vectors.dtype).scatter(1, some.place, vectors)
        return filled.view(-1, *self.images.shape[1:])

    def rows(self, index: Tensor) -> "Frame":
        """The same for some of the images."""
        return Frame(self.images[index], self.place[index])


class Shown(Classifier):
    """A model that is shown something else than what an attack asks it about.

    Attributes:
        frame: what is around the vectors that it is asked about; None where those are whole images.
        free: bool (n, ...), the pixels by which its gradient is not zero; None for all.
        grid: that of images as they will be, which who asks no gradients rounds candidates to.
    """

    frame: Frame | None = None
    free: Tensor | None = None
    grid: Grid | None = None

    _index: Tensor | None = None  # int64 (m,), of the images that are asked about next; None for all

    def of(self, goal: Goal) -> Self:
        self._index = _place(goal)
        return self

    def logits(self, images: Tensor) -> Tensor:
        if self.frame is not None:
            index, self._index = self._index, None
            images = self.frame.whole(images, index)
        return super().logits(images)

    def gradient(self, values: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor:
        gradient = super().gradient(values, images, keep_graph=keep_graph)
        if self.free is None:
            return gradient
        copies, rest = divmod(len(gradient), len(self.free))
        if rest:
            raise AdvkitError(
                f"with a mask, an attack requested gradients of {len(gradient)} of {len(self.free)} images; one whose "
                "class is declared spatial must pass all of them, or copies of all"
            )
        return gradient.where(self.free.repeat(copies, *[1] * (gradient.ndim - 1)), 0)


def _place(goal: Goal) -> Tensor | None:
    """Where the images of a goal are in their batch, as it, or the goal inside it, says."""
    if goal.place is not None:
        return goal.place
    inside = (getattr(goal, known.name) for known in fields(goal))
    return next((_place(each) for each in inside if isinstance(each, Goal)), None)
