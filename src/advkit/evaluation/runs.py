"""Where the records of a run are: in a folder, so that it can go on after a kill, and with other processes."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from torch import distributed

from advkit._io.files import write_atomic
from advkit._io.identity import digest
from advkit.errors import InputError
from advkit.evaluation.records import Record
from advkit.evaluation.witness import spread

__all__ = ["Ranks", "RunFolder", "together"]

_PATIENCE = timedelta(days=30)  # for the slowest process; the default is half an hour
Thing = TypeVar("Thing")


class RunFolder:
    """A folder with a file for each batch that is done, and one that says what the run is.

    A file is there as a whole or not at all, so that a kill costs the batch that was under way. Nothing that is there
    is ever overwritten or deleted: what cannot be read is an error that names it.

    Args:
        path: the folder; it is made if need be. None for none: nothing is kept.
        setup: what the results depend on, as JSON can say it.

    Raises:
        InputError: the folder holds another run, or something in it is damaged or foreign.
    """

    def __init__(self, path: str | os.PathLike[str] | None, setup: Mapping[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        if self.path is None:
            return
        try:
            (self.path / "batches").mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise InputError(
                f"{error.filename} is not a folder, so no run can be kept there; choose another one"
            ) from error
        # In this order: another process may be about to write both.
        begun = self._files()
        about = self.path / "run.json"
        here = json.loads(json.dumps({"format": _FORMAT, **setup}))
        if about.exists():
            self._compare(_setup(about), here)
        elif begun:
            raise InputError(
                f"{self.path / 'batches'} holds batches, such as {begun[0].name}, and {about}, which says "
                "which run they belong to, is missing. Restore it, or give this run a folder of its own"
            )
        else:
            _write(about, json.dumps(here, indent=2))

    def load(self) -> dict[int, Record]:
        """The batches that are done, by their index; some of them with what the models answered."""
        files = {_index(file): file for file in self._files()}
        asked = spread(sorted(files))
        records = {}
        for index, file in files.items():
            records[index] = _record(file)
            if index not in asked:
                records[index].answers = []
        return records

    def save(self, index: int, record: Record) -> None:
        """Keep a batch that is done."""
        if self.path is not None:
            content = json.loads(record.to_json())
            text = json.dumps({"batch": index, "checksum": digest(json.dumps(content)), "record": content})
            _write(self.path / "batches" / f"{index:08d}.json", text)
            record.answers = []  # they are many, and nobody in this process asks for them again

    def _files(self) -> list[Path]:
        return [] if self.path is None else sorted((self.path / "batches").glob("*.json"))

    def _compare(self, there: dict[str, Any], here: dict[str, Any]) -> None:
        """Refuse to go on with another run."""
        if there.get("format") != _FORMAT:
            raise InputError(
                f"{self.path} was written by another version of advkit, and this one cannot resume it; give this "
                "run a folder of its own"
            )
        others = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if others:
            raise InputError(
                f"{self.path} holds a run with other {', '.join(others)}: "
                + "; ".join(_difference(name, there.get(name), here.get(name)) for name in others)
                + ". Give this run a folder of its own"
            )


_FORMAT = 2  # of run.json and of the files of batches
_MEND = "move it elsewhere and call again: that batch is then evaluated again, and the other files are kept"


def _setup(about: Path) -> dict[str, Any]:
    """What a run is, from its file."""
    try:
        there = json.loads(about.read_text(encoding="utf-8"))
        if not isinstance(there, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise InputError(
            f"{about} is damaged ({error}), so there is no telling which run the batches beside it belong to; restore "
            "a copy of it, or give this run a folder of its own"
        ) from error
    return there


def _index(file: Path) -> int:
    """The index of the batch in a file."""
    if not re.fullmatch(r"[0-9]{8,}", file.stem):
        raise InputError(
            f"{file} is not a file of this run, whose batches are called 00000000.json and so on; move it elsewhere"
        )
    return int(file.stem)


def _record(file: Path) -> Record:
    """The batch in a file."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"batch", "checksum", "record"} <= content.keys():
            raise ValueError("it lacks parts of a batch's file")
        if digest(json.dumps(content["record"])) != content["checksum"]:
            raise ValueError("it is not what was written")
        if content["batch"] != _index(file):
            raise ValueError(f"it is the file of batch {content['batch']}")
        return Record.from_json(json.dumps(content["record"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{file} is damaged ({error}); {_MEND}") from error


def _difference(name: str, there: Any, here: Any) -> str:
    """Where two values part, in words; not all that they are, which may be a network's layers."""
    if isinstance(there, dict) and isinstance(here, dict) and there.keys() == here.keys():
        where = next(key for key in there if there[key] != here[key])
        return _difference(f"{name}[{where!r}]", there[where], here[where])
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        where = next(place for place, value in enumerate(there) if value != here[place])
        return _difference(f"{name}[{where}]", there[where], here[where])
    return f"{name} was {_short(there)} and is {_short(here)}"


def _short(value: Any) -> str:
    text = repr(value.strip() if isinstance(value, str) else value)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _write(path: Path, text: str) -> None:
    """A file of the folder, which several processes may write at a time."""
    write_atomic(path, lambda stream: stream.write(text.encode()), writer=f".{uuid4().hex}")


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
