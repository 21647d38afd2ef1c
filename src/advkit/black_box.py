"""What black-box attacks share: a model that is only queried, and the count of queries for each image."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit._engine.oracle import NO_LIMIT, Metered, Oracle, OutOfQueries
from advkit.attack import Access, Aim, Attack
from advkit.errors import AdvkitError
from advkit.goals import Goal
from advkit.hyperparameters import number

__all__ = ["NO_LIMIT", "Asking", "BlackBox", "Oracle", "OutOfQueries", "as_pixels", "canvas", "overwrite", "places"]


@dataclass(frozen=True, eq=False)
class Asking(Attack):
    """`BlackBox` without its field ``max_queries``, for an attack that puts it elsewhere among its arguments.

    A field that is declared again keeps its place among the arguments, before those that a subclass adds.

    Args:
        batch_size: the most images in one call of the model, at least 1, for a remote model or one that is short
            of memory; None for as many as suit the device.

    Examples:
        >>> class Half(advkit.black_box.Asking):
        ...     max_queries = 7
        ...     def _search(self, ask, images, heights):
        ...         ask(images / 2, torch.arange(len(images)))
        ...         return images / 2
        >>> Half(model).run(images, labels).queries.unique()
        tensor([2])
    """

    access: ClassVar[Access] = "scores"
    aim: ClassVar[Aim] = "minimal"

    _: KW_ONLY
    batch_size: int | None = number(None, at_least=1, integer=True)

    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        """The attack itself, on images that do not fool the model yet. It queries the model through the oracle alone.

        Per-image hyperparameters are those of these images.

        Args:
            ask: the model, with the number of queries left for each image.
            images: (N, ...), N at least 1.
            heights: (N,), the heights of the images themselves; see `Oracle`.

        Returns:
            (N, ...), new images that fool the model; one on which the attack fails is returned unchanged. With a
            budget, it does not matter what is returned where nothing fooled the model.
        """
        raise NotImplementedError(f"{type(self).__name__} must override _search")

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        """Search on the images that do not fool the model themselves.

        An attack may override this rather than `_search`. ``self.model`` is limited to ``max_queries`` there as well.
        """
        if not isinstance(self.model, Metered):
            return self._attack(images, goal)
        ask, found = self.model.oracle, images.clone()
        heights = ask(lambda index: images[index], torch.arange(len(images), device=images.device))
        rows = (heights < torch.inf).nonzero().squeeze(1)
        if len(rows) and ask.limit > 1:
            values = {name: value[rows] for name, value in self._per_row().items()}
            search = self._with(model=_by_oracle_alone, **values)._search
            found[rows] = search(ask.rows(rows), images[rows], heights[rows]).to(found.dtype)
        return found

    def _attack(self, images: Tensor, goal: Goal) -> Tensor:
        model = self.classifier
        most: int | None = getattr(self, "max_queries", None)
        limit = NO_LIMIT if most is None else most
        loss, found = getattr(self, "loss", "ce"), images
        with torch.no_grad():
            oracle = Oracle(
                model,
                images,
                goal,
                limit,
                access=self.access,
                aim=self.aim,
                loss=loss,
                bounds=self.bounds,
                free=self.mask,
                batch_size=self.batch_size,
            )
            try:
                found = self._with(model=Metered(oracle))._perturb(images, goal)
            except OutOfQueries:
                found = oracle.fooling
            model.ledger.append(oracle.queries)
            return oracle.outcome(found)

    def _predict(self, images: Tensor) -> Tensor:
        size = self.batch_size
        if size is None or len(images) <= size:
            return super()._predict(images)
        return torch.cat([super(Asking, self)._predict(part) for part in images.split(size)])


@dataclass(frozen=True, eq=False)
class BlackBox(Asking):
    """Base of the attacks that see only a model's outputs: any callable will do, differentiable or not.

    A subclass overrides `_search`. It declares ``access = "decisions"`` if it needs only the model's prediction, and is
    then shown no more. With ``aim = "budget"`` it looks for any fooling image within a budget, rather than for the
    closest; what it returns is an image that the model was queried with, or the original. Its oracle's heights are the
    cross-entropy, or the loss of its hyperparameter ``loss`` if it has one.

    Args:
        max_queries: the most forwards for one image, at least 1; None for as many as the attack wants.
        batch_size: the most images in one call of the model, at least 1, for a remote model or one that is short
            of memory; None for as many as suit the device.

    Examples:
        >>> class Mirror(advkit.black_box.BlackBox):
        ...     norm = advkit.norms.L2
        ...     def _search(self, ask, images, heights):
        ...         fooled = ask(images.flip(3), torch.arange(len(images))) == torch.inf
        ...         return images.flip(3).where(advkit.norms.column(fooled, images), images)
        >>> Mirror(model).run(images, labels).queries.unique()  # the image and its mirror image
        tensor([2])
    """

    _: KW_ONLY
    max_queries: int | None = number(None, at_least=1, integer=True)


def _by_oracle_alone(images: Tensor) -> Tensor:
    raise AdvkitError(
        "a black-box attack queries the model through the oracle that _search is given, which counts the queries and "
        "limits them to max_queries; call ask(candidates, index, ...) instead of self.model"
    )


def as_pixels(images: Tensor) -> Tensor:
    """Images as a row of pixels (N, C, P), P as in `places`; C is 1 where they have no channels.

    Examples:
        >>> advkit.black_box.as_pixels(torch.zeros(2, 3, 16, 16)).shape
        torch.Size([2, 3, 256])
        >>> advkit.black_box.as_pixels(torch.zeros(2, 5)).shape
        torch.Size([2, 1, 5])
    """
    return images.reshape(len(images), -1, math.prod(places(images)))


def canvas(images: Tensor) -> Tensor:
    """Images as (N, C, H, W): those without channels have one, flat vectors are a row, slices of a volume are channels.

    Examples:
        >>> advkit.black_box.canvas(torch.zeros(2, 5)).shape, advkit.black_box.canvas(torch.zeros(2, 3, 4, 8, 8)).shape
        (torch.Size([2, 1, 1, 5]), torch.Size([2, 12, 8, 8]))
    """
    return images.reshape(len(images), -1, *(1, *places(images))[-2:])


def places(images: Tensor) -> torch.Size:
    """The size of the pixel grid: (H, W) of images (N, C, H, W), (D, H, W) of (N, C, D, H, W).

    Fewer dimensions have no channels: images (N, H, W) are grey, and each feature of flat vectors (N, P) is a pixel.

    Examples:
        >>> advkit.black_box.places(torch.zeros(2, 3, 16, 16)), advkit.black_box.places(torch.zeros(2, 5))
        (torch.Size([16, 16]), torch.Size([5]))
    """
    return images.shape[2:] if images.ndim > 3 else images.shape[1:]


def overwrite(pixels: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The pixels (m, C, P) with values (m, C, k) at ``places``, int64 (m, k). The last one written wins.

    The place P is nowhere. Which is last is decided by a maximum, since a scatter on a GPU leaves it undefined.

    Examples:
        >>> values = torch.tensor([[[0.1, 0.2, 0.3]]])
        >>> advkit.black_box.overwrite(torch.zeros(1, 1, 4), torch.tensor([[1, 3, 1]]), values)
        tensor([[[0.0000, 0.3000, 0.0000, 0.2000]]])
    """
    count = pixels.shape[2]
    slots = torch.arange(1, places.shape[1] + 1, device=places.device).expand_as(places)
    last = places.new_zeros(len(places), count + 1).scatter_reduce(1, places, slots, "amax")[:, None, :count]
    return torch.where(last > 0, values.gather(2, (last - 1).clamp_min(0).expand_as(pixels)), pixels)
