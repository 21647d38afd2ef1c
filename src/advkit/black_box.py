"""What black-box attacks share: a model that is only asked, and a count of how often for each image."""

import math
import sys
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advkit.attack import Access, Aim, Attack
from advkit.errors import AdvkitError
from advkit.goals import Goal
from advkit.hyperparameters import number
from advkit.model import Model

__all__ = ["NO_LIMIT", "BlackBox", "Oracle", "OutOfQueries", "as_pixels", "overwrite", "places"]

NO_LIMIT = sys.maxsize


class OutOfQueries(AdvkitError):
    """No image of those asked about may be asked about any more. `BlackBox` ends the search then."""


class Oracle:
    """The model as a black box: candidates in, heights out, and each forward charged to the image it is for.

    The height of a candidate is the goal's loss, which an attack climbs, and infinite where the goal is reached. Of
    the candidates for an image that may not be asked about any more, those that come last are passed over: their
    height is minus infinity. When nothing at all may be asked the search is over, and its answer is what has fooled
    the model on the way.

    Args:
        model: pixels to logits.
        images: (N, ...), the batch.
        goal: of the N images.
        limit: how many forwards may be spent on an image.

    Attributes:
        limit: how many forwards may be spent on an image.
        queries: int64 (N,), the forwards spent on each image so far.
        fooling: (N, ...), a candidate that fooled the model, or the image; kept where there is a limit.
    """

    def __init__(self, model: Model, images: Tensor, goal: Goal, limit: int) -> None:
        self.limit = limit
        self.fooling = images.clone()
        self.queries = torch.zeros_like(goal.classes)
        self._model = model
        self._goal = goal
        # A CPU is at its best with small batches, whose activations stay in its caches. It makes, and keeps, kernels
        # for each size, so that what is left of many batches is cut to a multiple of eight and the rest.
        on_cpu = images.device.type == "cpu"
        self._rows = 64 if on_cpu else max(64, min(1024, 2**22 // images[0].numel()))
        self._even = 8 if on_cpu else 1

    def __call__(self, candidates: Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """The heights (m,) of m candidates, which are made and asked about a full batch at a time.

        Args:
            candidates: makes some of them, (b, ...), from their ``index`` (b,) and ``parameters`` (b, ...).
            index: int64 (m,), the image that each of them is a candidate for, m at least 1.
            parameters: (m, ...) each, what else tells the candidates apart.
        """
        allowed = self._allowed(index)
        if allowed is not None:
            if not bool(allowed.any()):
                raise OutOfQueries
            heights = torch.full(index.shape, -torch.inf, device=index.device)
            answers = self(candidates, index[allowed], *(rows[allowed] for rows in parameters))
            return heights.to(answers.dtype).masked_scatter(allowed, answers)
        self.queries.index_add_(0, index, torch.ones_like(index))
        full, left = divmod(len(index), self._rows)
        rest = left % self._even if full else 0
        sizes = [self._rows] * full + [size for size in (left - rest, rest) if size]
        batches = zip(*(torch.split(rows, sizes) for rows in (index, *parameters)), strict=True)
        return torch.cat([self._heights(candidates(*batch), batch[0]) for batch in batches])

    def _heights(self, images: Tensor, index: Tensor) -> Tensor:
        """The heights (b,) of candidates (b, ...). Keeps those that fool."""
        logits, goal = self._model(images), self._goal.rows(index)
        fooled = goal.success(logits)
        if self.limit < NO_LIMIT:
            self.fooling[index[fooled]] = images[fooled]
        return goal.loss(logits).where(~fooled, torch.inf)

    def _allowed(self, index: Tensor) -> Tensor | None:
        """Which of the candidates may still be asked about, bool (m,); None where all of them may."""
        if self.limit == NO_LIMIT:
            return None
        wanted = torch.bincount(index, minlength=len(self.queries))
        if bool((self.queries + wanted <= self.limit).all()):
            return None
        order = index.argsort(stable=True)
        starts = wanted.cumsum(0) - wanted
        turn = torch.empty_like(index).scatter(0, order, torch.arange(len(index), device=index.device))
        return self.queries[index] + turn - starts[index] < self.limit

    def width(self, images: int, tried: int) -> int:
        """How many candidates to try at once for each of so many images, when some were tried in vain already.

        Enough to fill a batch; but what comes after the first candidate that fools is wasted, so that no more
        than eight, or a quarter of what was tried, are ventured.
        """
        return max(1, min(self._rows // images, max(8, tried // 4)))


@dataclass(frozen=True, eq=False)
class BlackBox(Attack):
    """Base of the attacks that see nothing of a model but its answers: any callable will do, gradients or not.

    Args:
        max_queries: how many forwards may be spent on an image, at least 1; None for as many as the attack wants.
    """

    access: ClassVar[Access] = "scores"
    aim: ClassVar[Aim] = "minimal"

    _: KW_ONLY
    max_queries: int | None = number(None, at_least=1, integer=True)

    @abstractmethod
    def _search(self, ask: Oracle, images: Tensor, heights: Tensor) -> Tensor:
        """The attack itself, on images that do not fool yet. It asks the oracle alone.

        Args:
            ask: the model, and how many forwards it may be asked for each image.
            images: (N, ...), N at least 1.
            heights: (N,), those of the images themselves.

        Returns:
            (N, ...), new images that fool; an image that the attack fails on is returned as it is.
        """

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        limit = NO_LIMIT if self.max_queries is None else self.max_queries
        model = self._classifier
        with torch.no_grad():
            first = Oracle(model, images, goal, limit)
            heights = first(lambda index: images[index], torch.arange(len(images), device=images.device))
            queries, found = first.queries, images.clone()
            rows = (heights < torch.inf).nonzero().squeeze(1)
            if len(rows) and limit > 1:
                ask = Oracle(model, images[rows], goal.rows(rows), limit if limit == NO_LIMIT else limit - 1)
                try:
                    found[rows] = self._with(model=_by_oracle_alone)._search(ask, images[rows], heights[rows])
                except OutOfQueries:
                    found[rows] = ask.fooling
                queries[rows] += ask.queries
        model.ledger.append(queries)
        return found


def _by_oracle_alone(images: Tensor) -> Tensor:
    raise AdvkitError(
        "a black-box attack asks the model by way of the oracle that _search is given, which counts its queries and "
        "holds them to max_queries; call ask(candidates, index, ...) instead of self.model"
    )


def as_pixels(images: Tensor) -> Tensor:
    """Images as a row of pixels (N, C, P), P as in `places`; C is 1 where they have no channels."""
    return images.reshape(len(images), -1, math.prod(places(images)))


def places(images: Tensor) -> torch.Size:
    """The sides of the grid on which pixels lie: (H, W) of images (N, C, H, W), (D, H, W) of (N, C, D, H, W).

    Fewer dimensions have no channels: images (N, H, W) are grey, and each feature of flat vectors (N, P) is a pixel.
    """
    return images.shape[2:] if images.ndim > 3 else images.shape[1:]


def overwrite(pixels: Tensor, places: Tensor, values: Tensor) -> Tensor:
    """The pixels (m, C, P) with values (m, C, k) at ``places``, int64 (m, k). The last to be written stays.

    The place P is nowhere. Who is last is settled by a maximum, since a scatter on a GPU leaves it to chance.
    """
    count = pixels.shape[2]
    slots = torch.arange(1, places.shape[1] + 1, device=places.device).expand_as(places)
    last = places.new_zeros(len(places), count + 1).scatter_reduce(1, places, slots, "amax")[:, None, :count]
    return torch.where(last > 0, values.gather(2, (last - 1).clamp_min(0).expand_as(pixels)), pixels)
