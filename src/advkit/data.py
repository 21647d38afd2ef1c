"""Adversarial data: attacked batches on the fly, and adversarial copies of data sets, in memory or on disk."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, SequentialSampler, default_collate

from advkit._engine.checks import check_classes, check_number
from advkit._engine.files import write_whole
from advkit._engine.progress import track
from advkit._version import __version__
from advkit.attack import Attack
from advkit.errors import AdvkitError, DtypeError, InputError
from advkit.model import Model, placement
from advkit.transforms import TO_TENSOR, Sample, attack_batch, check_attack

__all__ = ["AdversarialDataset", "AttackedLoader", "attacked", "augment", "generate", "load"]

MANIFEST = "manifest.json"
Records = npt.NDArray[np.void]  # (n,), each with an "image" and a "label"


class AttackedLoader:
    """The batches of a loader, attacked: what `attacked` returns. It can be gone through again and again."""

    def __init__(self, loader: DataLoader[Any], attack: Attack, p: float) -> None:
        self.loader, self.attack, self.p = loader, attack, p

    def __len__(self) -> int:
        """The number of batches."""
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        """The batches, in the loader's own structure, on the model's device."""
        device = placement(self.attack.model)[0]
        for batch in self.loader:
            there = batch if device is None else tree_map_only(Tensor, lambda tensor: tensor.to(device), batch)
            yield Sample(there, batched=True).attacked(self.attack, self.p)


def attacked(loader: DataLoader[Any], attack: Attack, p: float = 1.0) -> AttackedLoader:
    """The batches of a loader, attacked whole on the model's device: the fast way to train on them.

    Images and labels are found by the rules of `advkit.AttackTransform`, except that the first dimension of a
    tensor is always the batch. Each tensor of a batch is moved to the device of the model.

    Args:
        loader: a `DataLoader`, or anything else that gives batches.
        attack: the attack and, inside it, its model.
        p: the probability that an image is attacked, drawn for each image from torch's default RNG.

    Raises:
        InputError: ``p`` is outside [0, 1], or the attack has a budget for each image of some batch.
        DtypeError: ``attack`` is no `Attack`.
    """
    check_attack(attack)
    check_number("p", p, at_least=0, at_most=1)
    return AttackedLoader(loader, attack, p)


class AdversarialDataset(Dataset[tuple[Tensor, int]]):
    """Adversarial images, in the dtype of the originals, and the labels of the originals.

    Made by `generate` and `load`. On disk it is mapped into memory and read as it is used; it can be pickled, so
    that DataLoader workers can have it.

    Args:
        shards: the records, in the order of the data set; all but the last of the same length.
        dtype: the dtype of the images.
        path: where the shards are on disk, or None.
    """

    def __init__(self, shards: Sequence[Records], dtype: torch.dtype, path: Path | None = None) -> None:
        self.path = path
        self._shards, self._dtype = shards, dtype

    def __len__(self) -> int:
        """The number of images."""
        return sum(map(len, self._shards))

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image, (C, H, W), and its label."""
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} adversarial images")
        shard, row = divmod(place, len(self._shards[0]))
        record = self._shards[shard][row]
        return torch.from_numpy(np.array(record["image"])).view(self._dtype), int(record["label"])

    @property
    def images(self) -> Tensor:
        """All the images, in memory: (N, C, H, W)."""
        return torch.from_numpy(np.concatenate([shard["image"] for shard in self._shards])).view(self._dtype)

    @property
    def labels(self) -> Tensor:
        """All the labels: int64, (N,)."""
        return torch.from_numpy(np.concatenate([shard["label"] for shard in self._shards]))

    def __reduce__(self) -> Any:
        return (type(self), (self._shards, self._dtype)) if self.path is None else (load, (self.path,))

    def __repr__(self) -> str:
        where = "in memory" if self.path is None else f"at {self.path}"
        return f"AdversarialDataset({len(self)} images {where})"


def generate(
    attack: Attack,
    data: Dataset[Any] | DataLoader[Any],
    path: str | os.PathLike[str] | None = None,
    *,
    batch_size: int | None = None,
    shard_size: int = 1024,
    seed: int = 0,
    progress: bool | None = None,
) -> AdversarialDataset:
    """An adversarial copy of a data set, made in batches.

    With a ``path`` the copy is written as it is made, in shards that are either whole or absent. Stopped at any
    moment and called again with the same arguments, it goes on with the shards that are missing, and the files
    come out byte for byte as without the stop. That asks the same of the data set: that it gives the same image
    each time, so random augmentation belongs behind the copy. One process at a time may write to a path.

    Random numbers depend on ``seed`` and on the place of a batch in the data set, nothing else: the attack draws
    from a generator of its own, a model that draws from the default RNG (of the CPU or a CUDA device) finds it
    in a state that depends on the same, and afterwards the default RNG is as it was.

    Args:
        attack: the attack and, inside it, its model. It must have no generator.
        data: a data set with a length, whose items hold an image and its label as `advkit.AttackTransform` finds
            them, all images of one shape; or a `DataLoader` that does not shuffle, for its batch size, its
            workers and its collate function. All of the data set is copied, ``drop_last`` or not.
        path: a directory for the copy, which is made if need be; None to keep it in memory.
        batch_size: how many images are attacked at once. If None, the loader's, or else 64 for a model on a CPU,
            whose caches larger ones overflow, and 256 elsewhere.
        shard_size: how many images a file holds, best a multiple of the batch size. That many images are in
            memory at once.
        seed: what random attacks draw depends on it.
        progress: True for a bar, False for none, None for one where stderr is a terminal and tqdm is installed.

    Returns:
        The images, in the dtype of the originals and on the CPU, and their labels.

    Raises:
        InputError: the loader shuffles or has no batch size of its own, the data set is empty, has no length or
            no labels, a number is out of range, the attack has a generator, or the path holds something else: a
            copy made with other arguments (which are named), or files of others.
        DtypeError: ``attack`` is no `Attack`, or the data set gives PIL images.
    """
    check_attack(attack)
    if attack.generator is not None:
        raise InputError(
            "generate draws from generators of its own, so that it can be resumed; leave out the attack's generator "
            "and give generate(..., seed=...)"
        )
    source = _source(data, batch_size, attack.model)
    check_number("batch_size", source.batch_size, at_least=1, integer=True)
    check_number("shard_size", shard_size, at_least=1, integer=True)
    check_number("seed", seed, at_least=0, integer=True)
    first = source.first()
    layout = _Layout(source.count, shard_size, tuple(first.images.shape[1:]), first.images.dtype)
    if path is None:
        shards = list(_shards(attack, source, layout, range(layout.files), seed, progress))
        return AdversarialDataset([records for _, records in shards], layout.dtype)
    folder = Path(path)
    _claim(folder, _manifest(attack, source, layout, first, seed))
    missing = [number for number in range(layout.files) if not (folder / _name(number)).exists()]
    for number, records in _shards(attack, source, layout, missing, seed, progress):
        write_whole(folder / _name(number), partial(np.save, arr=records, allow_pickle=False))
    return load(folder)


def load(path: str | os.PathLike[str]) -> AdversarialDataset:
    """The adversarial data set that `generate` wrote, mapped into memory. No pickle is read.

    Raises:
        InputError: there is none at ``path``, it is not finished, or a file is damaged.
    """
    folder = Path(path).absolute()
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder} holds no adversarial data set, for there is no {MANIFEST}; generate makes one")
    manifest = _read_manifest(folder)
    layout = _Layout(
        manifest["images"],
        manifest["shard_size"],
        tuple(manifest["image shape"]),
        getattr(torch, manifest["image dtype"]),
    )
    there = [number for number in range(layout.files) if (folder / _name(number)).exists()]
    if len(there) < layout.files:
        raise InputError(
            f"{folder} is not finished: {len(there)} of its {layout.files} shards are there; call generate again with "
            "the same arguments and it goes on"
        )
    return AdversarialDataset([_map(folder / _name(number), layout, number) for number in there], layout.dtype, folder)


def augment(clean: Dataset[Any], adversarial: Dataset[Any]) -> ConcatDataset[tuple[Tensor, int]]:
    """A data set and its adversarial copy, one after the other, each image with its own label.

    Adversarial training as data augmentation: section 3.2 of Goodfellow, Shlens & Szegedy 2015 with fixed
    adversarial images.

    Args:
        clean: a data set of (image, label), the images tensors.
        adversarial: another, whose images have the same shape and dtype, such as what `generate` returns.

    Returns:
        A data set of (image, label), the labels Python integers.

    Raises:
        InputError: a data set has no length or is empty, or the images of the two differ in shape or dtype.
        DtypeError: a data set gives no (tensor, label).
    """
    parts = {"clean": _Pairs(clean), "adversarial": _Pairs(adversarial)}
    kinds = {}
    for name, part in parts.items():
        check_number(f"the length of the {name} data set", len(part), at_least=1)
        kinds[name] = part.kind(name)
    if kinds["clean"] != kinds["adversarial"]:
        raise InputError(
            f"the clean images are {kinds['clean']} and the adversarial ones {kinds['adversarial']}; give both data "
            "sets the same transforms"
        )
    return ConcatDataset(list(parts.values()))


class _Pairs(Dataset[tuple[Tensor, int]]):
    """A data set's images and labels, the labels as integers, so that those of two data sets collate."""

    def __init__(self, data: Dataset[Any]) -> None:
        self._data: Any = data

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._data[index][:2]
        return image, int(label)

    def kind(self, name: str) -> str:
        """What its images are, read off the first."""
        item = self._data[0]
        if not isinstance(item, (tuple, list)) or len(item) < 2 or not isinstance(item[0], Tensor):
            seen = [type(part).__name__ for part in item] if isinstance(item, (tuple, list)) else type(item).__name__
            raise DtypeError(f"augment needs data sets of (tensor, label), and the {name} one gives {seen}")
        return f"{item[0].dtype} of shape {tuple(item[0].shape)}"


@dataclass(frozen=True)
class _Source:
    """Where the clean images come from: a data set in its own order, and how to read it."""

    data: Any
    batch_size: int
    collate: Callable[[list[Any]], Any]
    workers: dict[str, Any]  # what the loader is told of them

    @property
    def count(self) -> int:
        return len(self.data)

    def first(self) -> "_Batch":
        """The first few, which tell the shape and dtype of all, and one data set from another."""
        items = [self.data[index] for index in range(min(8, self.count))]
        try:
            return _Batch.of(self.collate(items))
        except (TypeError, RuntimeError) as error:
            if isinstance(error, AdvkitError):
                raise
            raise DtypeError(f"the images of the data set do not make a batch ({error}); {TO_TENSOR}") from error

    def batches(self, spans: Sequence[range]) -> Iterator["_Batch"]:
        """The images of each span."""
        loader: DataLoader[Any] = DataLoader(
            self.data,
            batch_sampler=[list(span) for span in spans],
            collate_fn=self.collate,
            generator=torch.Generator(),  # or the loader would draw from the default RNG
            **self.workers,
        )
        yield from map(_Batch.of, loader)


@dataclass(frozen=True)
class _Batch:
    images: Tensor  # (n, ...)
    labels: Tensor  # int64, (n,)

    @classmethod
    def of(cls, structure: Any) -> "_Batch":
        sample = Sample(structure, batched=True)
        if sample.labels is None:
            raise InputError(
                "generate needs a label for each image, such as items of (image, label) with integer labels, and found "
                "none; the model's own answers can be had with advkit.data.attacked"
            )
        check_classes("labels", sample.labels, sample.images)
        return cls(sample.images, sample.labels.long())


@dataclass(frozen=True)
class _Layout:
    """How many images of which kind there are, and in which file each is."""

    count: int
    shard_size: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def files(self) -> int:
        return -(-self.count // self.shard_size)

    @property
    def record(self) -> np.dtype[np.void]:
        """An image and its label next to each other, so that one file, and one renaming, has both."""
        image = _as_numpy(torch.empty(0, dtype=self.dtype)).dtype
        return np.dtype([("image", image, self.shape), ("label", np.int64)])

    def span(self, number: int) -> range:
        """The images of a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.count))


def _source(data: Any, batch_size: int | None, model: Model) -> _Source:
    loader = data if isinstance(data, DataLoader) else None
    data = data if loader is None else loader.dataset
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError(
            f"generate needs a data set with a length, whose images can be had by index, and a {type(data).__name__} "
            "is none. Go through its batches with advkit.data.attacked(loader, attack)"
        )
    if not len(data):
        raise InputError("the data set is empty")
    if loader is None:
        device = placement(model)[0]
        usual = 64 if device is None or device.type == "cpu" else 256
        return _Source(data, usual if batch_size is None else batch_size, default_collate, {})
    if type(loader.sampler) is not SequentialSampler or loader.batch_size is None:
        how = type(loader.sampler if loader.batch_size is not None else loader.batch_sampler).__name__
        raise InputError(
            f"generate copies a data set in its own order, so that it can be resumed, and this loader draws by {how}; "
            "pass the data set itself, loader.dataset, or a loader with shuffle=False"
        )
    settings = ("num_workers", "worker_init_fn", "multiprocessing_context", "prefetch_factor", "timeout")
    return _Source(
        data,
        loader.batch_size if batch_size is None else batch_size,
        loader.collate_fn,
        {name: getattr(loader, name) for name in settings},
    )


def _shards(
    attack: Attack, source: _Source, layout: _Layout, numbers: Sequence[int], seed: int, progress: bool | None
) -> Iterator[tuple[int, Records]]:
    """The shards of these numbers, one after the other."""
    spans = [
        range(start, min(start + source.batch_size, shard.stop))  # no batch crosses from a shard to the next
        for shard in map(layout.span, numbers)
        for start in range(shard.start, shard.stop, source.batch_size)
    ]
    batches = source.batches(spans)
    for span in track(spans, str(attack), unit="batch", progress=progress):
        number = span.start // layout.shard_size
        shard = layout.span(number)
        if span.start == shard.start:
            records = np.empty(len(shard), layout.record)
        batch = next(batches)
        if batch.images.shape != (len(span), *layout.shape) or batch.images.dtype != layout.dtype:
            raise InputError(
                f"images {span.start} to {span.stop - 1} of the data set are {batch.images.dtype} of shape "
                f"{tuple(batch.images.shape)}, and its first is {layout.dtype} of shape {layout.shape}; give it a "
                "transform that makes them alike"
            )
        rows = slice(span.start - shard.start, span.stop - shard.start)
        records["image"][rows] = _as_numpy(_attacked(attack, batch, seed, span.start))
        records["label"][rows] = batch.labels.cpu().numpy()
        if span.stop == shard.stop:
            yield number, records


def _attacked(attack: Attack, batch: _Batch, seed: int, start: int) -> Tensor:
    """A batch, attacked with random numbers that depend on the seed and the batch's place only."""
    own, default = map(int, np.random.SeedSequence([seed, start]).generate_state(2, np.uint64))
    device = placement(attack.model)[0]
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        # A model may draw too, and it knows nothing of the attack's generator.
        torch.set_rng_state(torch.Generator().manual_seed(default).get_state())
        for gpu in gpus:
            torch.cuda.set_rng_state(torch.Generator(gpu).manual_seed(default).get_state(), gpu)
        return attack_batch(attack._with(generator=torch.Generator().manual_seed(own)), batch.images, batch.labels)


def _as_numpy(images: Tensor) -> npt.NDArray[Any]:
    """The same bits; numpy knows no bfloat16."""
    images = images.cpu()
    return (images.view(torch.int16) if images.dtype == torch.bfloat16 else images).numpy()


def _manifest(attack: Attack, source: _Source, layout: _Layout, first: _Batch, seed: int) -> dict[str, Any]:
    """All that the copy depends on, in JSON."""
    names = [known.name for known in fields(attack) if known.name not in ("model", "generator")]
    manifest = {
        "advkit": __version__,
        "attack": type(attack).__qualname__,
        **{f"attack.{name}": _plain(getattr(attack, name)) for name in names},
        **_fingerprint(attack.model),
        "images": layout.count,
        "image shape": layout.shape,
        "image dtype": str(layout.dtype).removeprefix("torch."),
        "first images": _digest(first.images, first.labels),
        "batch_size": source.batch_size,
        "shard_size": layout.shard_size,
        "seed": seed,
    }
    return dict(json.loads(json.dumps(manifest)))


def _fingerprint(model: Model) -> dict[str, str]:
    """What tells a model from another: its layers as they print, and its weights. Of other callables, the name."""
    if not isinstance(model, nn.Module):
        return {"model": str(_plain(model))}
    state = [value for value in model.state_dict().values() if isinstance(value, Tensor)]
    layers = hashlib.sha256(_without_addresses(repr(model)).encode()).hexdigest()[:16]
    return {"model": type(model).__qualname__, "model's layers": layers, "model's weights": _digest(*state)}


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """A hyperparameter as JSON has it, or else as a text that is the same in the next process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, list)):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else _without_addresses(repr(value))


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Make the folder this copy's own, or refuse it."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / MANIFEST).exists():
        there = _read_manifest(folder)
        differences = [
            f"{name} is {there.get(name)!r} there and {manifest.get(name)!r} here"
            for name in {**there, **manifest}
            if there.get(name) != manifest.get(name)
        ]
        if differences:
            raise InputError(
                f"{folder} holds an adversarial copy made with other arguments: {'; '.join(differences)}. Choose "
                "another path, or delete that one"
            )
        for stale in folder.glob(_name("*") + ".tmp"):
            stale.unlink()
        return
    others = sorted(file.name for file in folder.iterdir() if file.name != f"{MANIFEST}.tmp")
    if others:
        raise InputError(
            f"{folder} is not empty (it holds {others[0]}) and has no {MANIFEST}; choose a new path for the copy"
        )
    text = json.dumps(manifest, indent=2) + "\n"
    write_whole(folder / MANIFEST, lambda file: file.write(text.encode()))


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if not {"images", "shard_size", "image shape", "image dtype"} <= manifest.keys():
            raise ValueError("it lacks the shape of the data")
    except (ValueError, AttributeError) as error:
        raise InputError(
            f"{folder / MANIFEST} is damaged ({error}); delete {folder} and call generate again"
        ) from error
    return dict(manifest)


def _name(number: int | str) -> str:
    return f"shard-{number:05}.npy" if isinstance(number, int) else f"shard-{number}.npy"


def _map(file: Path, layout: _Layout, number: int) -> Records:
    """The records of a shard, read where they are used."""
    rows = len(layout.span(number))
    try:
        records = np.load(file, mmap_mode="r", allow_pickle=False)
        if records.dtype != layout.record or records.shape != (rows,):
            raise ValueError(f"it holds {records.shape} records of {records.dtype}, not {rows} of {layout.record}")
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"{file} is damaged ({error}); delete it and call generate again with the same arguments"
        ) from error
    return np.asarray(records)
