"""A folder with a file for each batch, so that what takes long can go on after a kill."""

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from advkit._io.files import write_atomic
from advkit._io.identity import digest
from advkit.errors import InputError

__all__ = ["BatchFiles"]

_FORMAT = 2  # of the file that says what a run is, and of those of its batches
_MEND = "move it elsewhere and call again: that batch is then evaluated again, and the other files are kept"
Thing = TypeVar("Thing")


class BatchFiles:
    """A folder with a file for each batch that is done, and one that says what the run is.

    A file is there as a whole or not at all, so that a kill costs the batch that was under way. Nothing that is there
    is ever overwritten or deleted: what cannot be read is an error that names it.

    Args:
        path: the folder; it is made if need be. None for none: nothing is kept.
        setup: what the results depend on, as JSON can say it.
        about: the file that says what the run is.

    Raises:
        InputError: the folder holds another run, or something in it is damaged or foreign.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, setup: Mapping[str, Any], *, about: str = "run.json"
    ) -> None:
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
        file = self.path / about
        here = json.loads(json.dumps({"format": _FORMAT, **setup}))
        if file.exists():
            self._compare(_setup(file), here)
        elif begun:
            raise InputError(
                f"{self.path / 'batches'} holds batches, such as {begun[0].name}, but {file}, which says "
                "which run they belong to, is missing. Restore it, or give this run a folder of its own"
            )
        else:
            _write(file, json.dumps(here, indent=2))

    def indices(self) -> list[int]:
        """The batches that are done."""
        return [_index(file) for file in self._files()]

    def read(self, index: int, parse: Callable[[Any], Thing]) -> Thing:
        """What was kept of a batch that is done.

        Args:
            index: of the batch.
            parse: makes of the JSON what it stands for.
        """
        file = self._file(index)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(content, dict) or not {"batch", "checksum", "record"} <= content.keys():
                raise ValueError("it lacks parts of a batch's file")
            if digest(json.dumps(content["record"])) != content["checksum"]:
                raise ValueError("its checksum is wrong")
            if content["batch"] != index:
                raise ValueError(f"it is the file of batch {content['batch']}")
            return parse(content["record"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{file} is damaged ({error}); {_MEND}") from error

    def write(self, index: int, content: Any) -> None:
        """Keep what was found of a batch, as JSON can say it."""
        text = json.dumps({"batch": index, "checksum": digest(json.dumps(content)), "record": content})
        _write(self._file(index), text)

    def check_batch(self, index: int, kept: str, now: str) -> None:
        """Refuse a batch that is not the one that was kept, by the digest of each."""
        if kept != now:
            raise InputError(
                f"batch {index} of the loader has changed since the run in {self.path} began; a resumed run "
                "needs the same batches in the same order, so the loader must not shuffle"
            )

    def check_model(self, index: int, stranger: str | None) -> None:
        """Refuse a model, by what it is called, that does not answer a batch as the one did that was kept."""
        if stranger is not None:
            raise InputError(
                f"{self.path} holds a run with other models: {stranger} has the same layers and weights, but "
                f"other outputs for batch {index}. Something else in it has changed, such as an attribute or a "
                "function; give this run a folder of its own"
            )

    def _file(self, index: int) -> Path:
        assert self.path is not None
        return self.path / "batches" / f"{index:08d}.json"

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


def _setup(about: Path) -> dict[str, Any]:
    """What a run is, from its file."""
    try:
        there = json.loads(about.read_text(encoding="utf-8"))
        if not isinstance(there, dict):
            raise ValueError("it is not a JSON object")
    except ValueError as error:
        raise InputError(
            f"{about} is damaged ({error}), so it is unknown which run the batches beside it belong to; restore "
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
    write_atomic(path, lambda stream: stream.write(text.encode()), own=True)
