"""Images and labels in files of records, each with its place and a checksum."""

import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advkit._io.files import write_atomic
from advkit.errors import InputError

__all__ = ["Layout", "Records", "ShardFiles", "Shards", "as_numpy", "shard_name"]

Records = npt.NDArray[np.void]  # (n,): the "image", its "label", its "place" in the data set, and a "check"
_OPEN = 64  # files that are mapped at a time; a process may have 1,024 open, as most systems have it
_DAMAGED = "delete it and call generate again with the same arguments"


@dataclass(frozen=True)
class Layout:
    """How many images of which kind there are, and in which file each is."""

    count: int
    shard_size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def files(self) -> int:
        """How many files there are."""
        return -(-self.count // self.shard_size)

    @property
    def record(self) -> np.dtype[np.void]:
        """An image and its label next to each other, so that one file, and one renaming, has both."""
        image = as_numpy(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        return np.dtype([("image", image, self.shape), ("label", "<i8"), ("place", "<i8"), ("check", "<u4")])

    def span(self, number: int) -> range:
        """The images of a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.count))

    def empty(self, number: int) -> Records:
        """The records of a shard, to be filled in."""
        records = np.zeros(len(self.span(number)), self.record)
        records["place"] = self.span(number)
        return records


class Shards:
    """The records of a data set, in memory."""

    def __init__(self, records: Sequence[Records]) -> None:
        self._records = records
        self.lengths = [len(part) for part in records]

    def read(self, number: int, rows: slice) -> Records:
        """Some records of a shard."""
        return self._records[number][rows]


class ShardFiles(Shards):
    """The records of a data set on disk: files are mapped into memory as they are used, so many at a time.

    Args:
        folder: where they are.
        layout: which they are.
        identity: what tells this data set's records from those of others.
    """

    def __init__(self, folder: Path, layout: Layout, identity: str) -> None:
        self._folder, self._layout = folder, layout
        self._seed = zlib.crc32(identity.encode())
        self.lengths = [len(layout.span(number)) for number in range(layout.files)]
        self._mapped: OrderedDict[int, Records] = OrderedDict()  # the one used last is the last
        self._lock = Lock()

    def read(self, number: int, rows: slice) -> Records:
        """Some records of a shard, copied.

        Raises:
            InputError: one is not as it was written, belongs elsewhere, or cannot be read.
        """
        records = np.array(self._opened(number)[rows])
        places = self._layout.span(number)[rows]
        for record, place in zip(records, places, strict=True):
            if record["place"] != place or record["check"] != _check(record, self._seed):
                file, kind = self._file(number), self._wrong(int(record["place"]), place)
                raise InputError(f"{file} is damaged ({kind}); {_DAMAGED}")
        return records

    def missing(self) -> list[int]:
        """The shards that are not there yet."""
        names = {file.name for file in self._folder.iterdir()}
        return [number for number in range(self._layout.files) if shard_name(number) not in names]

    def write(self, number: int, records: Records) -> None:
        """Write a shard, all of it or nothing."""
        for row in range(len(records)):
            records["check"][row] = _check(records[row], self._seed)

        def save(stream: BinaryIO) -> None:
            # Not by `numpy.save`, which loses the system's error about a full disk.
            np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(records))
            stream.write(records.view(np.uint8).data)

        write_atomic(self._file(number), save, own=True)

    def verify(self) -> None:
        """Check each file's size, what it claims to hold, and its place."""
        for number in range(self._layout.files):
            first = self._map(number)[0]["place"]
            if first != self._layout.span(number).start:
                wrong = self._wrong(int(first), self._layout.span(number).start)
                raise InputError(f"{self._file(number)} is damaged ({wrong}); {_DAMAGED}")

    def _opened(self, number: int) -> Records:
        """The records of a shard, mapped now or before."""
        with self._lock:
            if number not in self._mapped:
                while len(self._mapped) >= _OPEN:
                    self._mapped.popitem(last=False)
                self._mapped[number] = self._map(number)
            self._mapped.move_to_end(number)
            return self._mapped[number]

    def _file(self, number: int) -> Path:
        return self._folder / shard_name(number)

    def _wrong(self, found: int, place: int) -> str:
        if found != place and 0 <= found < self._layout.count:
            return f"it has image {found} where image {place} belongs"
        return f"the checksum of image {place} is wrong"

    def _map(self, number: int) -> Records:
        """The records of a shard, read where they are used."""
        file, rows, record = self._file(number), self.lengths[number], self._layout.record
        try:
            records = np.lib.format.open_memmap(file, mode="r")
            if records.dtype != record or records.shape != (rows,):
                raise ValueError(f"it holds {records.shape} records of {records.dtype}, not {rows} of {record}")
            if (size := file.stat().st_size) != (due := records.offset + rows * record.itemsize):
                raise ValueError(f"it has {size} bytes, not {due}")
        except OSError as error:
            raise InputError(f"{file} cannot be read ({error.strerror or error})") from error
        except (ValueError, EOFError, SyntaxError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error}); {_DAMAGED}") from error
        return np.asarray(records)


def shard_name(number: int | str) -> str:
    """The name of a shard's file, or a pattern for many."""
    return f"shard-{number:05}.npy" if isinstance(number, int) else f"shard-{number}.npy"


def as_numpy(images: Tensor) -> npt.NDArray[np.generic]:
    """The same bits; numpy knows no bfloat16."""
    images = images.cpu()
    return (images.view(torch.int16) if images.dtype == torch.bfloat16 else images).numpy()


def _check(record: np.void, seed: int) -> int:
    """A checksum of all that a record has before its "check"."""
    return zlib.crc32(record.tobytes()[:-4], seed)
