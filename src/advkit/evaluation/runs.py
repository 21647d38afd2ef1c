"""Where the records of a run are: in a folder, so that it can go on after a kill, and with other processes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from advkit._io.batch_files import BatchFiles
from advkit._io.gathering import gathered
from advkit._io.witness import spread
from advkit.evaluation.records import Record

__all__ = ["Ranks", "RunFolder", "together"]

_PATIENCE = timedelta(days=30)  # for the slowest process; the default is half an hour
Thing = TypeVar("Thing")


class RunFolder(BatchFiles):
    """The folder of an evaluation; see `BatchFiles`."""

    def load(self) -> dict[int, Record]:
        """The batches that are done, by their index; some of them with what the models answered."""
        records = {index: self.read(index, _record) for index in self.indices()}
        asked = spread(sorted(records))
        for index, record in records.items():
            if index not in asked:
                record.answers = []
        return records

    def save(self, index: int, record: Record) -> None:
        """Keep a batch that is done."""
        if self.path is not None:
            self.write(index, json.loads(record.to_json()))
            record.answers = []  # they are many, and nobody in this process asks for them again


def _record(content: Any) -> Record:
    return Record.from_json(json.dumps(content))


@dataclass(frozen=True)
class Ranks:
    """The processes that evaluate together.

    Attributes:
        rank: which of them this is.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1
    _group: Any = None

    def gather(self, thing: Thing) -> list[Thing]:
        """What each process has, in order; all of them have to ask."""
        return gathered(thing, self.count, self._group)


@contextmanager
def together(share: bool) -> Iterator[Ranks]:
    """The processes that share the work: those of torch.distributed, which starts here if torchrun started this one.

    A few numbers go from one to the other, by way of the CPU (gloo), whatever the backend of the rest.

    Args:
        share: False for this process alone, whatever others there are.
    """
    if not share or not distributed.is_available():
        yield Ranks()
        return
    starts = not distributed.is_initialized() and distributed.is_torchelastic_launched()
    if starts:
        distributed.init_process_group(timeout=_PATIENCE)
    try:
        if not distributed.is_initialized() or distributed.get_world_size() == 1:
            yield Ranks()
            return
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        yield Ranks(distributed.get_rank(), distributed.get_world_size(), group)
        distributed.destroy_process_group(group)
    finally:
        if starts:
            distributed.destroy_process_group()
