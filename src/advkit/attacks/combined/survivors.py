"""How attacks are carried out one after another: what one of them has fooled does not go to the next."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.classifier import asked, own, prediction
from advkit._engine.run import Done, Stage, check_call, placed
from advkit.attack import Attack
from advkit.errors import AdvkitError
from advkit.goals import Goal
from advkit.norms import Norm

__all__ = ["Ball", "Combined", "balls"]

Ball = tuple[Norm, float | Tensor]
"""A norm, and the radius in it: a number, or one for each image, (N,)."""


@dataclass(frozen=True, eq=False)
class Combined(Attack):
    """Base of the attacks that are made of attacks, which it carries out one after another.

    The model is asked about the images first, and about what an attack gave back before the next one begins: those
    that it gets wrong are done with. An attack with a budget is taken at its word that it stayed within; what one
    without a budget found counts where it lies within that of another. An image that none of them fools is returned as
    the last of them left it, of those that moved it; so that there is nothing to ask once the last one is through.

    Where all of them look for the closest image, each is tried on all images that the model gets right, and the
    closest that fools is returned. If they measure in different norms there is no closest, and the first that fools
    stands.
    """

    @property
    def stops_at_success(self) -> bool:
        """Whether all of them do that see gradients."""
        return all(part.stops_at_success for part in self._parts() if part.access == "gradient")

    @property
    def asked(self) -> int:
        """How many answers of the model a look at it takes."""
        return asked(self.model)

    @abstractmethod
    def _parts(self) -> Sequence[Attack]:
        """The attacks, in the order in which they are carried out."""

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        return self._tried(images, labels, targets)

    def _tried(self, images: Tensor, labels: Tensor, targets: Tensor | None, *, looked: bool = False) -> Done:
        """The same for images of which the model is known to get all right, if somebody has ``looked``."""
        classes = {"labels": labels} if targets is None else {"labels": labels, "targets": targets}
        check_call(self, images, classes, self._per_row())
        parts, stages, infinite = self._parts(), [], 0
        with torch.inference_mode(False), torch.no_grad():
            batch = _Batch.of(self, parts, images, labels, targets)
            if images.numel() and not looked:
                batch.rows = batch.rows[~batch.fools(batch.found, batch.rows)]
            for number, part in enumerate(parts):
                tried, spent = len(batch.rows), Done(images, None)
                if tried:
                    spent = batch.attacked(number, part, is_last=number == len(parts) - 1)
                infinite = max(infinite, spent.infinite)
                queries = None if spent.queries is None else int(spent.queries.sum())
                stages.append(Stage(str(part), tried, spent.forwards + batch.looks, spent.backwards, queries))
                batch.looks = 0
        forwards, backwards = sum(stage.forwards for stage in stages), sum(stage.backwards for stage in stages)
        return Done(batch.found, batch.queries, forwards, backwards, infinite, batch.stage, tuple(stages))

    def _predict(self, images: Tensor) -> Tensor:
        return prediction(self.model, images, draws=self.asked) if len(images) else super()._predict(images)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        raise AdvkitError(f"{type(self).__name__} has no search of its own to build on; call the attack itself")


def balls(attack: Attack) -> list[Ball]:
    """The budgets within which what an attack gives back counts, as far as it says so."""
    if isinstance(attack, Combined):
        return [ball for part in dict.fromkeys(attack._parts()) for ball in balls(part)]
    norm, eps = getattr(attack, "norm", None), getattr(attack, "eps", None)
    return [(norms.get(norm), eps)] if attack.aim == "budget" and norm is not None and eps is not None else []


def _asks_alone(attack: Attack) -> bool:
    """Whether something in an attack spends queries."""
    return attack.access != "gradient" or (isinstance(attack, Combined) and any(map(_asks_alone, attack._parts())))


@dataclass
class _Batch:
    """Images on their way from one attack to the next.

    Attributes:
        found: (N, ...), what is returned if nothing better comes.
        stage: int64 (N,), the attack that made it, -1 for none.
        rows: int64 (n,), the images that the next attack is tried on.
        queries: int64 (N,), see `Done`.
        looks: how many images the model was asked about since the last stage.
    """

    whole: Combined
    originals: Tensor
    labels: Tensor
    targets: Tensor | None
    balls: list[Ball]
    closest: Norm | None  # in which the closest image is looked for; None where the first will do
    queries: Tensor | None
    found: Tensor = field(init=False)
    stage: Tensor = field(init=False)
    rows: Tensor = field(init=False)
    length: Tensor = field(init=False)  # (N,), of the closest change so far
    looks: int = 0

    @classmethod
    def of(
        cls, whole: Combined, parts: Sequence[Attack], images: Tensor, labels: Tensor, targets: Tensor | None
    ) -> "_Batch":
        """A batch before the first attack."""
        queries = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        norm = getattr(whole, "norm", None) if whole.aim == "minimal" else None
        batch = cls(
            whole,
            own(images, images.device, images.dtype).clamp_(*whole.bounds),  # what a rounding had put outside
            labels,
            targets,
            [] if whole.aim == "minimal" else balls(whole),
            None if norm is None else norms.get(norm),
            queries if any(map(_asks_alone, parts)) else None,
        )
        batch.rows = torch.arange(len(images) if images.numel() else 0, device=images.device)
        return batch

    def __post_init__(self) -> None:
        work = torch.promote_types(self.originals.dtype, torch.float32)
        self.found = placed(self.whole, self.originals)
        self.length = torch.full(self.found.shape[:1], torch.inf, dtype=work, device=self.found.device)
        self.stage = torch.full_like(self.length, -1, dtype=torch.int64)

    def attacked(self, number: int, part: Attack, *, is_last: bool) -> Done:
        """Try an attack on the rows that are left, and say what it spent on them."""
        rows, before = self.rows, self.originals[self.rows]
        some = part._of_rows(rows, self.originals)
        carry_out = partial(some._tried, looked=True) if isinstance(some, Combined) else some._carry_out
        done = carry_out(before, *self._classes(rows))
        if self.queries is not None and done.queries is not None:
            self.queries[rows] += done.queries
        length = self._length(done.images, before)
        may = (done.images != before).flatten(1).any(1) & self._counts(part, done.images, before, length)
        # The last is asked about only where another would stand in its place.
        doubtful = may & (self.length[rows].isfinite() if is_last else True)
        fooled = may.clone()
        if bool(doubtful.any()):
            fooled[doubtful] = self.fools(done.images[doubtful], rows[doubtful])
        stands = may if self.closest is None else fooled
        self.found[rows[stands]] = done.images[stands]
        self.stage[rows[stands]] = number
        if self.closest is None:
            self.rows = rows[~fooled]
        else:
            self.length[rows[stands]] = length[stands]
        return done

    def _length(self, found: Tensor, before: Tensor) -> Tensor:
        """How far images are from the originals in the norm in which the closest is looked for: (n,)."""
        if self.closest is None:
            return self.length[self.rows]
        return self.closest.distance(found.to(self.length.dtype), before.to(self.length.dtype))

    def _counts(self, part: Attack, found: Tensor, before: Tensor, length: Tensor) -> Tensor:
        """Whether what an attack gave back counts if it fools: bool (n,)."""
        if self.closest is not None:
            return length < self.length[self.rows]
        if part.aim == "budget" or not self.balls:
            return torch.ones_like(self.rows, dtype=torch.bool)
        inside = torch.zeros_like(self.rows, dtype=torch.bool)
        work = self.length.dtype
        for norm, eps in self.balls:
            if isinstance(eps, Tensor):
                eps = eps.to(found.device, work)
                eps = eps[self.rows] if eps.ndim else eps
            inside |= norm.distance(found.to(work), before.to(work)) <= eps
        return inside

    def _classes(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Labels and targets of some of the images."""
        labels, targets = self.labels, self.targets
        return labels[rows.to(labels.device)], None if targets is None else targets[rows.to(targets.device)]

    def fools(self, images: Tensor, rows: Tensor) -> Tensor:
        """Whether the model takes images for what they should be taken for: bool (n,)."""
        labels, targets = self._classes(rows)
        classes = {"labels": labels} if targets is None else {"labels": labels, "targets": targets}
        count = self.whole.asked
        said = prediction(self.whole.model, images, classes, count)
        self.looks += count * len(rows)
        if self.queries is not None and self.whole.access != "gradient":
            self.queries[rows] += count
        return said != labels.to(said) if targets is None else said == targets.to(said)
