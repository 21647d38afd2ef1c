"""A model that is only asked: candidates in, scores or decisions out, each forward charged to the image it is for."""

import copy
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import losses
from advkit._engine.classifier import Classifier
from advkit._engine.grid import Grid, inward
from advkit.errors import AdvkitError
from advkit.goals import Goal
from advkit.losses import Loss
from advkit.model import Model
from advkit.norms import column

__all__ = ["NO_LIMIT", "Metered", "Oracle", "OutOfQueries"]

NO_LIMIT = sys.maxsize
_NO_MORE = "none of these images has any queries left: max_queries is reached"

_Reading = Callable[[Tensor, Goal], Tensor]  # logits (b, K) and their goal to what the attacker sees of each, (b, ...)


class OutOfQueries(AdvkitError):
    """None of the images in a query has any queries left. `BlackBox` then ends the search.

    Examples:
        >>> ask = advkit.black_box.Oracle(model, images, advkit.Untargeted(labels), limit=1)
        >>> first = ask(images, torch.arange(12))
        >>> try:
        ...     ask(images, torch.arange(12))
        ... except advkit.black_box.OutOfQueries as error:
        ...     print(error)
        none of these images has any queries left: max_queries is reached
    """


class Oracle:
    """The model as a black box: candidates in, heights out, with each forward charged to the image it is for.

    The height of a candidate is its loss, which an attack maximises, or infinity if it reaches the goal; for an attack
    that sees decisions alone, every other candidate has height 0. If an image has more candidates than queries left,
    the last of them are skipped, and their height is minus infinity. Once no image has any queries left,
    the search ends, and returns what has fooled the model so far.

    Args:
        model: pixels to logits.
        images: (N, ...), the batch.
        goal: of the N images.
        limit: how many forwards may be spent on an image.
        access: what the attacker sees: "scores", or "decisions" alone.
        aim: what it looks for: the closest image that fools ("minimal"), or any within a budget ("budget").
        loss: the loss that gives the heights, as `advkit.losses.get` takes it.
        bounds: the lowest and the highest value of a pixel; candidates are clipped to them.
        free: bool (N, ...), the pixels that may move; those of candidates outside it are reset. None for all.
        batch_size: the most images in one call of the model; None for as many as suit the device.

    Attributes:
        limit: how many forwards may be spent on an image.
        fooling: (N, ...), a candidate that fooled the model, or the image; kept where there is a limit or a budget.

    Examples:
        >>> ask = advkit.black_box.Oracle(model, images, advkit.Untargeted(labels), limit=3)
        >>> index = torch.tensor([0, 0, 1, 0, 0])  # four candidates for image 0, one for image 1
        >>> ask(images[index], index).isinf()  # the last is skipped
        tensor([False, False, False, False,  True])
        >>> ask.queries
        tensor([3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    """

    def __init__(
        self,
        model: Model,
        images: Tensor,
        goal: Goal,
        limit: int = NO_LIMIT,
        *,
        access: str = "scores",
        aim: str = "minimal",
        loss: str | Loss = "ce",
        bounds: tuple[float, float] = (0.0, 1.0),
        free: Tensor | None = None,
        batch_size: int | None = None,
    ) -> None:
        self.limit = self._most = limit
        self._keeps = aim == "budget" or limit < NO_LIMIT
        self.fooling = images.clone() if self._keeps else images
        self._queries = torch.zeros_like(goal.classes)
        self._fooled = torch.zeros_like(goal.classes, dtype=torch.bool)
        self._places: Tensor | None = None  # int64 (n,), where the images that this is for are in the batch
        self._notes = True  # whether a candidate that fools is an answer
        self._model = model
        self._images = images
        self._goal = goal
        self._access, self._aim, self._bounds, self._free = access, aim, bounds, free
        self._loss = losses.get(loss)
        # A CPU is at its best with small batches, whose activations stay in its caches. It makes, and keeps, kernels
        # for each size, so that what is left of many batches is cut to a multiple of eight and the rest.
        on_cpu = images.device.type == "cpu"
        self._rows = 64 if on_cpu else max(64, min(1024, 2**22 // images[0].numel()))
        self._even = 8 if on_cpu else 1
        if batch_size is not None:
            self._rows, self._even = batch_size, 1

    def __call__(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """The heights (m,) of m candidates, which are made and evaluated a full batch at a time.

        Args:
            candidates: (m, ...); or a function that makes some of them, (b, ...), from their ``index`` (b,) and
                ``parameters`` (b, ...), so that they need not all be in memory at once.
            index: int64 (m,), the image that each of them is a candidate for, m at least 1. All of them may be
                candidates for one image.
            parameters: (m, ...) each, further arguments of that function.
        """
        return self._ask(self._heights, -torch.inf, candidates, index, *parameters)

    def scores(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """The logits (m, K) of m candidates, given as in a call; NaN for those that are skipped.

        Raises:
            AdvkitError: the attack sees decisions alone.
        """
        if self._access == "decisions":
            raise AdvkitError(
                'an attack with access = "decisions" sees no scores; call decisions(...), or declare access = "scores"'
            )
        return self.seen(candidates, index, *parameters)

    def decisions(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """The classes, int64 (m,), of m candidates, given as in a call; -1 for those that are skipped."""
        return self._ask(lambda logits, goal: logits.argmax(1), -1, candidates, index, *parameters)

    def seen(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """As `scores`; for an attack that sees decisions alone, 1 for the largest logit and 0 for the others."""
        return self._ask(self._visible, torch.nan, candidates, index, *parameters)

    def probe(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """The losses (m,) of m probes, given as candidates in a call; NaN for those that are skipped.

        Probes are for measuring, and may lie outside the budget: one that fools the model is not recorded, and
        its loss is finite. They cost as much as candidates.

        Raises:
            AdvkitError: the attack sees decisions alone.
        """
        if self._access == "decisions":
            raise AdvkitError('an attack with access = "decisions" sees no losses; call decisions(...)')
        blind = copy.copy(self)
        blind._notes = False
        return blind._ask(
            lambda logits, goal: goal.climbed(self._loss, logits), torch.nan, candidates, index, *parameters
        )

    def fools(self, candidates: Tensor | Callable[..., Tensor], index: Tensor, *parameters: Tensor) -> Tensor:
        """Whether each of m candidates fools, bool (m,), given as in a call; False for those that are skipped.

        One that does so by a margin within rounding does not count, since a batch of another size may undo it: a
        search that ends at the boundary would otherwise end in a tie.
        """
        return self._ask(lambda logits, goal: goal.clearly(logits), False, candidates, index, *parameters)

    @property
    def left(self) -> Tensor:
        """The forwards that may still be spent on each image: int64 (n,)."""
        return self._most - self.queries

    @property
    def queries(self) -> Tensor:
        """The forwards spent on each image so far: int64 (n,)."""
        return self._queries if self._places is None else self._queries[self._places]

    def rows(self, index: Tensor) -> Self:
        """The same oracle for some of its images, int64 (n,), with a shared count of queries and the same limit."""
        some = copy.copy(self)
        some._places = index if self._places is None else self._places[index]
        if self._most < NO_LIMIT and len(index):
            some.limit = self._most - int(some.queries.max())
        return some

    def outcome(self, found: Tensor) -> Tensor:
        """The final result, from images (N, ...) that a search found: the originals where no candidate fooled.

        Within a budget, one image that fools is as good as another, so it is one that the model was queried with.
        """
        if self._aim == "budget":
            return self.fooling
        return found.where(column(self._fooled, found), self._images)

    def width(self, images: int, tried: int) -> int:
        """How many candidates to try at once for each of ``images`` images, of which ``tried`` failed already.

        Enough to fill a batch; but candidates after the first that fools are wasted, so no more
        than eight, or a quarter of those tried, are risked.
        """
        return max(1, min(self._rows // images, max(8, tried // 4)))

    def _ask(
        self,
        read: _Reading,
        missing: float | bool,
        candidates: Tensor | Callable[..., Tensor],
        index: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        """What is read of each candidate, (m, ...)."""
        if isinstance(candidates, Tensor):
            return self._ask(read, missing, lambda index, given: given, index, candidates)
        places = index if self._places is None else self._places[index]
        allowed = self._allowed(places)
        if allowed is not None:
            if not bool(allowed.any()):
                raise OutOfQueries(_NO_MORE)
            some = self._ask(read, missing, candidates, index[allowed], *(rows[allowed] for rows in parameters))
            everything = some.new_full((len(index), *some.shape[1:]), missing)
            everything[allowed] = some
            return everything
        self._queries.index_add_(0, places, torch.ones_like(places))
        full, left = divmod(len(index), self._rows)
        rest = left % self._even if full else 0
        sizes = [self._rows] * full + [size for size in (left - rest, rest) if size]
        batches = zip(*(torch.split(rows, sizes) for rows in (places, index, *parameters)), strict=True)
        return torch.cat([self._read(read, candidates(*batch), place) for place, *batch in batches])

    def _read(self, read: _Reading, images: Tensor, places: Tensor) -> Tensor:
        """What is read of candidates (b, ...). Takes note of those that fool."""
        images = images.to(self._images.dtype).clamp(*self._bounds)  # what heights widened
        grid: Grid | None = getattr(self._model, "grid", None)
        if grid is not None:  # an answer to others would be a query lost
            within = self._aim == "budget"  # which rounding must not leave
            images = inward(grid, images, self._images[places]) if within else grid.nearest(images)
        if self._free is not None:
            images = images.where(self._free[places], self._images[places])
        goal = self._goal.rows(places)
        asked = self._model.of(goal) if isinstance(self._model, Classifier) else self._model
        logits = asked(images)
        if not self._notes:
            return read(logits, goal)
        fooled = goal.success(logits)
        self._fooled[places[fooled]] = True
        if self._keeps:
            # The last of those for an image. A maximum settles it, since a scatter on a GPU leaves it to chance.
            turns = torch.arange(len(places), device=places.device).where(fooled, -1)
            last = torch.full_like(self._queries, -1).scatter_reduce(0, places, turns, "amax")
            reached = (last >= 0).nonzero().squeeze(1)
            self.fooling[reached] = images[last[reached]]
        return read(logits, goal)

    def _heights(self, logits: Tensor, goal: Goal) -> Tensor:
        """The heights (b,) of candidates with these logits (b, K)."""
        if self._access == "decisions":
            return torch.zeros_like(logits[:, 0]).where(~goal.success(logits), torch.inf)
        return goal.climbed(self._loss, logits).where(~goal.success(logits), torch.inf)

    def _visible(self, logits: Tensor, goal: Goal) -> Tensor:
        """What the attacker sees of logits (b, K), in their shape."""
        if self._access == "scores":
            return logits
        return torch.zeros_like(logits).scatter(1, logits.argmax(1, keepdim=True), 1)

    def _allowed(self, places: Tensor) -> Tensor | None:
        """Which of the candidates may still be asked about, bool (m,); None where all of them may."""
        if self._most == NO_LIMIT:
            return None
        wanted = torch.bincount(places, minlength=len(self._queries))
        if bool((self._queries + wanted <= self._most).all()):
            return None
        order = places.argsort(stable=True)
        starts = wanted.cumsum(0) - wanted
        turn = torch.empty_like(places).scatter(0, order, torch.arange(len(places), device=places.device))
        return self._queries[places] + turn - starts[places] < self._most


class Metered:
    """The model as an attack with a limit of queries may call it without candidates: one image for each of its own.

    What it returns are logits (N, K); to an attack that sees decisions alone 1 for the largest and 0 for the others.

    Args:
        oracle: what the answers come from, and are charged to.
    """

    def __init__(self, oracle: Oracle) -> None:
        self.oracle = oracle

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...), of which the i-th is charged to the i-th of the batch."""
        queries = self.oracle.queries
        if len(images) != len(queries):
            raise AdvkitError(
                f"a black-box attack queried the model with {len(images)} images in a batch of {len(queries)}, so that "
                "they cannot be charged to images; override _search, and call its oracle, which is told the image "
                "that each candidate is for"
            )
        if bool((queries >= self.oracle.limit).any()):
            raise OutOfQueries(_NO_MORE)
        return self.oracle.seen(images, torch.arange(len(images), device=images.device))
