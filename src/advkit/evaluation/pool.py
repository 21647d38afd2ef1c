"""The images that probes look at, gathered over the whole loader while it goes by once."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from uuid import uuid4

import torch
from torch import Tensor

from advkit._io.files import write_atomic
from advkit._io.rng import repeatable
from advkit.evaluation.first_answers import FirstAnswers
from advkit.evaluation.flags import Flag, balls, budget
from advkit.evaluation.outcomes import Outcome, outcomes
from advkit.evaluation.plan import Contender, PlannedAttack
from advkit.evaluation.probes import probed
from advkit.evaluation.records import Record, vote
from advkit.evaluation.runs import Ranks
from advkit.evaluation.tries import Survivors
from advkit.model import placement

__all__ = ["Pool"]

_RIGHT = 64  # images of a contender that it gets right
_LEFT = 48  # images of a contender that no attack fooled, for each norm


@dataclass(frozen=True, order=True)
class _Picked:
    """An image that was picked, in the order in which images are preferred."""

    priority: int
    batch: int
    row: int


class Pool:
    """A random sample of the images that each contender gets right, and of those that no attack fooled.

    Which images are in it depends on the seed, on their places in the loader and on the records of their batches alone:
    not on which process saw them, nor on whether a record was made now or found in a run's folder. They wait on the
    CPU, some `_RIGHT` + `_LEFT` images for each contender and a norm.

    Args:
        contenders: whose images to keep.
        plan: the attacks.
        seed: of the sample.

    Attributes:
        first: what the contenders answered first, which they are asked again when all else has been looked at.
    """

    def __init__(self, contenders: Sequence[Contender], plan: Sequence[PlannedAttack], seed: int | None) -> None:
        self.contenders, self.plan, self.seed = contenders, plan, seed
        self.first = FirstAnswers(seed)
        self._kind: tuple[object, ...] | None = None
        self._images: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        self._picked: dict[tuple[str, str], list[_Picked]] = {}  # by contender, and norm or "" for all that is right

    def offer(self, index: int, images: Tensor, labels: Tensor, record: Record | None) -> None:
        """Pick from a batch, once its record is there.

        Images of another shape than those of the first batch are passed over: they could not be asked about together.
        So every batch has to be offered.

        Args:
            index: the batch's place in the loader.
            images: floating (n, ...), on any device.
            labels: class indices (n,), on any device.
            record: of the batch; None where another process sees to it.
        """
        if self._kind is None:
            self._kind = (images.shape[1:], images.dtype)
        if record is None or self._kind != (images.shape[1:], images.dtype):
            return
        priorities = [self._priority(index, row) for row in range(len(labels))]
        for place, one in enumerate(self.contenders):
            right = vote(record.clean[place].predictions) == labels.cpu()
            self._pick((one.name, ""), _RIGHT, right, index, priorities, images, labels)
            everything, kept = outcomes([record], one, self.plan)
            tried = _direct(everything)
            shown = [*tried, *(each for each in everything if each.surrogate is not None)]
            for ball in balls(each.attack for each in tried):
                fooled = torch.stack([~each.right & each.within(*ball) for each in shown]).any(0)
                self._pick((one.name, ball[0].name), _LEFT, right & kept & ~fooled, index, priorities, images, labels)
        wanted = {(one.batch, one.row) for picked in self._picked.values() for one in picked}
        self._images = {key: pair for key, pair in self._images.items() if key in wanted}

    def flags(self, records: Mapping[int, Record], ranks: Ranks, folder: Path | None = None) -> list[Flag]:
        """Look at the sample; see `advkit.evaluation.probes.probed`. All processes have to ask, and share the work.

        Args:
            records: of all batches, by which the attack is chosen that is tried again: the one that left fewest.
            ranks: the processes.
            folder: where a run keeps what is done: it is not done again for the same batches. None for nowhere.
        """
        batches = [record.digest for record in records.values()]
        file = None if folder is None else folder / "flags.json"
        if (kept := ranks.gather(_kept(file, batches))[0]) is not None:
            return kept
        self.share(ranks)
        mine = {
            place: self._of(one, list(records.values()))
            for place, one in enumerate(self.contenders)
            if place % ranks.count == ranks.rank
        }
        found: dict[int, tuple[Flag, ...]] = {}
        for theirs in ranks.gather(mine):
            found |= theirs
        flags = [flag for place in sorted(found) for flag in found[place]]
        flags += self.first.flags(ranks, flags)
        if file is not None and not ranks.rank:
            text = json.dumps({"batches": batches, "flags": [asdict(flag) for flag in flags]})
            write_atomic(file, lambda stream: stream.write(text.encode()), writer=f".{uuid4().hex}")
        return flags

    def share(self, ranks: Ranks) -> None:
        """Make of the samples of all processes the one that a single process would have."""
        for picked, pairs in ranks.gather((self._picked, self._images)):
            self._images |= pairs
            for key, some in picked.items():
                limit = _LEFT if key[1] else _RIGHT
                self._picked[key] = sorted({*self._picked.get(key, ()), *some})[:limit]

    def _of(self, one: Contender, records: Sequence[Record]) -> tuple[Flag, ...]:
        tried = _direct(outcomes(records, one, self.plan)[0])
        attacks = {each.name: each.attack for each in tried} or {
            cell.attack: planned.attack.on(one.model) for planned in self.plan for cell in planned.cells
        }
        if not attacks:
            return ()
        left = []
        for ball in balls(each.attack for each in tried):
            best = min((each for each in tried if budget(each.attack) == ball), key=lambda each: int(each.right.sum()))
            if self._picked.get((one.name, ball[0].name)):
                images, labels = self._stacked((one.name, ball[0].name))
                left.append(Survivors(*ball, best.name, best.attack, images, labels))
        images, labels = self._stacked((one.name, ""))
        device = placement(one.model)[0] or images.device
        with repeatable(self.seed, "flags", one.name, device=device):
            return probed(one.name, one.model, attacks, images, labels, left, passes=_spent(records, one, self.plan))

    def _stacked(self, key: tuple[str, str]) -> tuple[Tensor, Tensor]:
        """Images (n, ...) and labels (n,) that were picked."""
        pairs = [self._images[one.batch, one.row] for one in self._picked.get(key, ())]
        if not pairs:
            return torch.empty(0, device="cpu"), torch.empty(0, dtype=torch.int64, device="cpu")
        images, labels = zip(*pairs, strict=True)
        return torch.stack(images), torch.stack(labels)

    def _pick(
        self,
        key: tuple[str, str],
        limit: int,
        wanted: Tensor,
        index: int,
        priorities: Sequence[int],
        images: Tensor,
        labels: Tensor,
    ) -> None:
        """Keep the ``limit`` images of the least priorities, of those that ``wanted``, bool (n,), names as well."""
        some = [_Picked(priorities[row], index, row) for row in wanted.nonzero().squeeze(1).tolist()]
        self._picked[key] = sorted([*self._picked.get(key, ()), *some])[:limit]
        for one in self._picked[key]:
            if one.batch == index and (index, one.row) not in self._images:
                image, label = images[one.row].detach().cpu().clone(), labels[one.row].cpu().long().clone()
                self._images[index, one.row] = image, label

    def _priority(self, index: int, row: int) -> int:
        return int.from_bytes(blake2b(repr((self.seed, index, row)).encode(), digest_size=8).digest(), "big")


def _kept(file: Path | None, batches: list[str]) -> list[Flag] | None:
    """The flags in a file, if they are of these batches, by their digests."""
    if file is None or not file.exists():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return [Flag(**flag) for flag in content["flags"]] if content["batches"] == batches else None
    except (ValueError, TypeError, KeyError):
        return None  # damaged; looking again mends it


def _spent(records: Sequence[Record], one: Contender, plan: Sequence[PlannedAttack]) -> int:
    """How many passes through a contender its attacks took, and the forwards that judged it with and without them."""
    total, place = 0, 0
    for planned in plan:
        mine = [at for at, cell in enumerate(planned.cells, place) if cell.contender is one]
        place += len(planned.cells)
        if mine and planned.cells[0].contender is one:  # and not images that were made against another
            outcomes = [record.cells[mine[0]] for record in records]
            total += sum(outcome.forwards + outcome.backwards + outcome.predicted for outcome in outcomes)
    return total


def _direct(tried: Sequence[Outcome]) -> list[Outcome]:
    """The outcomes of the attacker who knows most, unless that one does not look at the model at all."""
    for protocol in ("adaptive", "naive", None):
        if some := [one for one in tried if one.protocol == protocol]:
            return some
    return []
