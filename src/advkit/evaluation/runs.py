"""Where the records of a run are: in a folder, so that it can go on after a kill, and with other processes."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from torch import distributed

from advkit._engine.files import write_whole
from advkit.errors import InputError
from advkit.evaluation.trial import Record

__all__ = ["Ranks", "RunFolder", "together"]

_PATIENCE = timedelta(days=30)  # for the slowest process; the default is half an hour
Thing = TypeVar("Thing")


class RunFolder:
    """A folder with a file for each batch that is done, and one that says what the run is.

    A file is there as a whole or not at all, so that a kill costs the batch that was under way.

    Args:
        path: the folder; it is made if need be. None for none: nothing is kept.
        setup: what the results depend on, as JSON can say it.

    Raises:
        InputError: the folder holds another run.
    """

    def __init__(self, path: str | os.PathLike[str] | None, setup: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        (self.path / "batches").mkdir(parents=True, exist_ok=True)
        about = self.path / "run.json"
        if about.exists():
            there = json.loads(about.read_text(encoding="utf-8"))
            setup = json.loads(json.dumps(setup))
            others = [name for name in {**there, **setup} if there.get(name) != setup.get(name)]
            if others:
                raise InputError(
                    f"{self.path} holds a run with other {', '.join(others)}: "
                    + "; ".join(f"{name} was {there.get(name)!r} and is {setup.get(name)!r}" for name in others)
                    + ". Give this run a folder of its own"
                )
        else:
            _write(about, json.dumps(setup, indent=2))

    def load(self) -> dict[int, Record]:
        """The batches that are done, by their index."""
        if self.path is None:
            return {}
        files = sorted((self.path / "batches").glob("*.json"))
        return {int(file.stem): Record.from_json(file.read_text(encoding="utf-8")) for file in files}

    def save(self, index: int, record: Record) -> None:
        """Keep a batch that is done."""
        if self.path is not None:
            _write(self.path / "batches" / f"{index:08d}.json", record.to_json())


def _write(path: Path, text: str) -> None:
    """A file of the folder, which several processes may write at a time."""
    write_whole(path, lambda stream: stream.write(text.encode()), writer=f".{uuid4().hex}")


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
        if self.count == 1:
            return [thing]
        things: list[Any] = [None] * self.count
        distributed.all_gather_object(things, thing, group=self._group)
        return things


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
