"""What is done with one batch: every attack on every contender, and a few numbers per image to show for it."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from advkit._engine.classifier import predict
from advkit._engine.masks import check_shared
from advkit._io.progress import Bar
from advkit._io.rng import repeatable
from advkit._io.witness import Witness, agree, asked
from advkit.errors import NoGradientError
from advkit.evaluation.first_answers import FirstAnswers
from advkit.evaluation.flags import balls
from advkit.evaluation.keepsakes import Picture, keepsakes
from advkit.evaluation.outcomes import counted, distances
from advkit.evaluation.passes import Passes, counting, foreseen
from advkit.evaluation.plan import Cell, Contender, PlannedAttack
from advkit.evaluation.records import LOST, Outcome, Record, vote
from advkit.evaluation.salvage import salvaged
from advkit.evaluation.verify import Verifier
from advkit.model import placement

__all__ = ["BatchEvaluator"]

_ENOUGH = 3  # batches on which everything fails before it is taken for an error of the caller's


class BatchEvaluator:
    """Carries the plan out on one batch after another.

    Args:
        contenders: the bare model first.
        plan: what `planned_attacks` gave.
        verifier: proves of which images no attack fools the bare model; None not to.
        surrogates: the models that images are transferred from, by name.
        seed: see `advkit.evaluate`.
        stop_when_fooled: whether an attack is only tried on what those before it left.
        tick: the bar: told what is being done, and called with 1 after each planned attack.
        pictures: how many images each attack on the bare model keeps of those that it fooled.
        first_answers: is shown what each contender says first; None where nobody will ask.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        plan: Sequence[PlannedAttack],
        verifier: Verifier | None = None,
        surrogates: Mapping[str, nn.Module] | None = None,
        *,
        seed: int | None,
        stop_when_fooled: bool,
        tick: Bar,
        pictures: int = 0,
        first_answers: FirstAnswers | None = None,
    ) -> None:
        self.contenders = contenders
        # In a dict, by what sentences call them.
        self._asked = {
            f"the model behind {one.name}" if place else "the model": one for place, one in enumerate(contenders)
        }
        self._asked |= {f"the surrogate {name}": Contender(name, one, 1) for name, one in (surrogates or {}).items()}
        self.plan = plan
        self.verifier = verifier
        self.seed = seed
        self.stop_when_fooled = stop_when_fooled
        self.tick = tick
        self._balls = balls(planned.attack for planned in plan)
        self._pictures: dict[str, list[Picture]] = {planned.cells[0].attack: [] for planned in plan}
        self.pictures = pictures
        self.first_answers = first_answers
        self._usual: dict[PlannedAttack, float] = {}  # forwards an image, in the batch before
        self._worked: set[_Names] = set()
        self._failed: dict[_Names, list[Exception]] = defaultdict(list)

    def __call__(self, index: int, digest: str, images: Tensor, labels: Tensor) -> Record:
        """Try everything on a batch.

        Args:
            index: the batch's place in the loader, which its random numbers depend on.
            digest: of the batch.
            images: floating (n, ...), n at least 1, on any device.
            labels: class indices (n,), on any device.
        """
        for planned in self.plan:
            check_shared(str(planned.attack), planned.attack.mask, images)
        batch = _Batch(index, images, labels.to("cpu", torch.int64))
        self.tick.doing("no attack")
        clean = {contender: self._clean(contender, batch) for contender in self.contenders}
        verified = self._verified(clean[self.contenders[0]], batch)
        standing: dict[tuple[Contender, str | None], Tensor] = {}
        cells: list[Outcome] = []
        kept = {name: len(several) for name, several in self._pictures.items()}
        for planned in self.plan:
            places = [(cell.contender, cell.counts_for) for cell in planned.cells]
            before = [standing.get(place, clean[place[0]].predictions) for place in places]
            outcomes = self._attack(planned, batch, before)
            if self.stop_when_fooled:
                for place, said, outcome in zip(places, before, outcomes, strict=True):
                    if outcome.refused:
                        continue  # it was not carried out, so that nothing has changed
                    counts = counted(planned.attack, outcome, self._balls)
                    standing[place] = torch.where(counts, outcome.predictions, said)
            cells += outcomes
            self.tick(1)
        device = str(batch.device(self.contenders[0].model))
        pictures = [one for name, several in self._pictures.items() for one in several[kept[name] :]]
        of_clean = list(clean.values())
        return Record(digest, device, batch.labels.tolist(), of_clean, cells, verified=verified, pictures=pictures)

    def found_already(self, pictures: Iterable[Picture]) -> None:
        """Take note of pictures that were kept before, so that no more are than are wanted."""
        for one in pictures:
            self._pictures.setdefault(one.attack, []).append(one)

    @property
    def has_black_box(self) -> bool:
        """Whether some attack does without gradients, so that a model that has none can be attacked nevertheless."""
        return any(planned.attack.access != "gradient" for planned in self.plan)

    def first_error(self) -> Exception | None:
        """The first error of something that has not worked so far."""
        return next((errors[0] for names, errors in self._failed.items() if names not in self._worked), None)

    def asked(self, index: int, images: Tensor) -> list[Witness]:
        """What each contender and surrogate answers to a few of the images of a batch, to know it again by."""
        differentiated = any(planned.attack.access == "gradient" for planned in self.plan)
        return [
            asked(
                *(one.model, images, index, "asked", one.name),
                seed=self.seed,
                device=_device(one.model, images),
                adaptive=((False, True) if one.is_wrapped else (False,)) if differentiated else (),
            )
            for one in self._asked.values()
        ]

    def stranger(self, index: int, record: Record, images: Tensor) -> str | None:
        """Which model does not answer the images of a batch as the one of its record did, in words."""
        here = _device(self.contenders[0].model, images)
        dtypes = [placement(one.model)[1] or images.dtype for one in self._asked.values()]
        alike = torch.device(record.device).type == here.type and all(torch.finfo(one).bits > 16 for one in dtypes)
        for what, before, now in zip(self._asked, record.answers, self.asked(index, images), strict=True):
            if not agree(before, now, alike=alike):
                return what
        return None

    def _clean(self, contender: Contender, batch: "_Batch") -> Outcome:
        count = len(batch.labels)
        outcome = Outcome(torch.full((contender.asked, count), LOST, device="cpu"))
        rows = torch.arange(count, device="cpu")
        self._judge(outcome, contender, batch, batch.images, rows, ("clean", contender.name))
        return outcome

    def _verified(self, clean: Outcome, batch: "_Batch") -> list[bool]:
        """Which images are proved, of those that the bare model gets right; nothing where nobody asked."""
        if self.verifier is None:
            return []
        self.tick.doing("bounds")
        proved, rows = torch.zeros(len(batch.labels), dtype=torch.bool, device="cpu"), batch.right(clean.predictions)
        proved[rows] = self.verifier(*batch.rows(rows))
        return [bool(one) for one in proved]

    def _attack(self, planned: PlannedAttack, batch: "_Batch", before: Sequence[Tensor]) -> list[Outcome]:
        """Attack whatever some cell still wants attacked, and show it to each.

        Args:
            planned: the attack, and its cells.
            batch: the images.
            before: for each cell int64 (draws, n), what its contender says before the attack.
        """
        model, (cell, *_) = planned.model, planned.cells
        adversarials = batch.images.detach().clone()
        tried = made = torch.zeros(0, dtype=torch.int64, device="cpu")
        errors: list[tuple[Tensor, Exception]] = []
        outcomes: list[Outcome] = []
        passes, seconds = Passes(), 0.0
        several = len(self.contenders) > 1 or cell.surrogate is not None
        name = f"{cell.attack} on {cell.surrogate or cell.contender.name}" if several else cell.attack
        self.tick.doing(name)

        usual, due = self._usual.get(planned) or foreseen(planned.attack), 1.0

        def shown() -> None:
            self.tick.doing(name, f"{passes.forwards:,} forwards", passes.forwards / due)

        def craft(rows: Tensor) -> Tensor:
            nonlocal seconds, due
            due = usual * (len(tried) + len(rows))
            start = _now(batch.device(model))
            with counting(model, passes, shown):
                found = planned.attack(*batch.rows(rows))
            seconds += _now(batch.device(model)) - start
            return found

        for place, (cell, said) in enumerate(zip(planned.cells, before, strict=True)):
            if place and cell.contender is planned.cells[place - 1].contender and torch.equal(said, before[place - 1]):
                outcomes.append(outcomes[-1])  # the same under another protocol
                continue
            # What is missing is made by itself, so that the bare model's images, and their random numbers, do not
            # depend on the defenses that see them as well.
            wanted = batch.right(said)
            missing = wanted[~torch.isin(wanted, tried)]
            parts, more_errors = self._salvaged(craft, missing, batch, model, cell.names)
            for rows, found in parts:
                adversarials[rows.to(found.device)] = found
            tried = torch.cat([tried, missing])
            made = torch.cat([made, *(rows for rows, _ in parts)])
            errors += more_errors
            outcome = Outcome(said.clone(), attack_seconds=seconds, crafted=len(made), **asdict(passes))
            outcome.lose([(rows[torch.isin(rows, wanted)], error) for rows, error in errors])
            if outcome.refused and not len(made):
                outcome.predictions.fill_(LOST)  # of an attack that was not carried out no image says anything
            self._show(outcome, cell, batch, adversarials, wanted[torch.isin(wanted, made)], said)
            outcomes.append(outcome)
        if len(tried):
            self._usual[planned] = passes.forwards / len(tried)
        self._keep(planned, batch, adversarials, outcomes[0])
        return outcomes

    def _keep(self, planned: PlannedAttack, batch: "_Batch", adversarials: Tensor, outcome: Outcome) -> None:
        """Keep pictures of some of the images that an attack fooled the bare model with."""
        cell, bare = planned.cells[0], self.contenders[0]
        fooled = [row for row, is_fooled in zip(outcome.rows, outcome.fooled, strict=True) if is_fooled]
        missing = self.pictures - len(self._pictures[cell.attack])
        if cell.contender is not bare or cell.surrogate is not None or missing <= 0 or not fooled:
            return
        rows, bounds = torch.tensor(fooled, device="cpu"), planned.attack.bounds
        with repeatable(self.seed, batch.index, "pictures", device=batch.device(bare.model)), suppress(Exception):
            # A model that answers no more has lost a picture, and no number.
            self._pictures[cell.attack] += keepsakes(
                *(cell.attack, bare.model, batch.images, adversarials, batch.labels, rows),
                bounds=bounds,
                count=missing,
            )

    def _show(
        self, outcome: Outcome, cell: Cell, batch: "_Batch", adversarials: Tensor, rows: Tensor, said: Tensor
    ) -> None:
        """Show rows of adversarial images to the contender of a cell, which said something else of the originals."""
        rows = self._judge(outcome, cell.contender, batch, adversarials, rows, (*cell.names, "judged"))
        if self.stop_when_fooled:
            # Of a random model's answers, those that are right least often stand.
            better = batch.hits(outcome.predictions) > batch.hits(said)
            outcome.predictions = torch.where(better, said, outcome.predictions)
        was_right, is_right = (
            vote(predictions)[rows] == batch.labels[rows] for predictions in (said, outcome.predictions)
        )
        outcome.rows, outcome.right, outcome.fooled = (
            rows.tolist(),
            int(was_right.sum()),
            (was_right & ~is_right).tolist(),
        )
        outcome.distances = distances(adversarials, batch.images, rows)

    def _judge(
        self, outcome: Outcome, contender: Contender, batch: "_Batch", images: Tensor, rows: Tensor, names: "_Names"
    ) -> Tensor:
        """Ask a contender about rows of images, note what it says, and return the rows that were not lost to errors."""

        def ask(some: Tensor) -> Tensor:
            start = _now(batch.device(contender.model))
            shown, labels = batch.rows(some, images)
            said = []
            for _ in range(contender.asked):
                logits = predict(contender.model, shown, {"labels": labels})
                said.append(logits.argmax(1))
            outcome.seconds += _now(batch.device(contender.model)) - start
            outcome.predicted += len(some) * contender.asked
            if self.first_answers:
                self.first_answers.note(contender, shown, labels, logits)
            return torch.stack(said).cpu()

        parts, errors = self._salvaged(ask, rows, batch, contender.model, names)
        for some, said in parts:
            outcome.predictions[:, some] = said
        outcome.lose(errors)
        return torch.cat([rows[:0], *(some for some, _ in parts)])

    def _can_do_without(self, error: Exception) -> bool:
        return isinstance(error, NoGradientError) and self.has_black_box

    def _salvaged(
        self, work: Callable[[Tensor], Tensor], rows: Tensor, batch: "_Batch", model: nn.Module, names: "_Names"
    ) -> "tuple[list[tuple[Tensor, Tensor]], list[tuple[Tensor, Exception]]]":
        """Do work on rows, and where it raises on each half of them, down to the rows that it raises on.

        What has failed on everything so far is the caller's error, and raised, after a few batches.
        """
        with repeatable(self.seed, batch.index, *names, device=batch.device(model)):
            parts, errors = salvaged(work, rows)
        if parts:
            self._worked.add(names)
        elif errors and names not in self._worked and not self._can_do_without(errors[0][1]):
            self._failed[names].append(errors[0][1])
            if len(self._failed[names]) == _ENOUGH:
                raise self._failed[names][0]
        return parts, errors


_Names = tuple[str | None, ...]


@dataclass(frozen=True)
class _Batch:
    """Images (n, ...) wherever they are, and their labels, int64 (n,) on the CPU."""

    index: int
    images: Tensor
    labels: Tensor

    def rows(self, rows: Tensor, images: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Some of the images, or of others in their place, and their labels where they are."""
        images = self.images if images is None else images
        return images[rows.to(images.device)], self.labels[rows].to(images.device)

    def hits(self, predictions: Tensor) -> Tensor:
        """How many of the draws (draws, n) are right: int64 (n,)."""
        return (predictions == self.labels).sum(0)

    def right(self, predictions: Tensor) -> Tensor:
        """The rows that some draw (draws, n) gets right."""
        return self.hits(predictions).nonzero().squeeze(1)

    def device(self, model: nn.Module) -> torch.device:
        """Where the model works on these images."""
        return _device(model, self.images)


def _device(model: nn.Module, images: Tensor) -> torch.device:
    return placement(model)[0] or images.device


def _now(device: torch.device) -> float:
    """The time when the device has done what it was asked for: what runs in the background is timed as well."""
    if device.type in ("cuda", "xpu"):
        getattr(torch, device.type).synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
