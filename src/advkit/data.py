"""Adversarial data: attacked batches on the fly, and adversarial copies of data sets, in memory or on disk.

Examples:
    >>> for adversarials, labels in advkit.data.attacked(loader, advkit.PGD(model)):
    ...     accuracy = (model(adversarials).argmax(1) == labels).float().mean()
    >>> copy = advkit.data.generate(advkit.PGD(model), loader.dataset, "adversarial")
"""

import os
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset

from advkit._data.attacking import check_attack
from advkit._data.copies import Copying
from advkit._data.loaders import AttackedLoader, attacked
from advkit._data.samples import (
    LabelsGetter,
    Sample,
    check_labels_getter,
)
from advkit._data.sources import source_of
from advkit._engine.checks import check_classes, check_number
from advkit._io import manifest as manifests
from advkit._io.shards import Records, ShardFiles, Shards
from advkit.attack import Attack
from advkit.errors import DtypeError, InputError

__all__ = ["AdversarialDataset", "AttackedLoader", "attacked", "augment", "generate", "load"]


class AdversarialDataset(Dataset[tuple[Tensor, int]]):
    """Adversarial images, in the dtype of the originals, with the labels of the originals.

    Made by `generate` and `load`. On disk it is memory-mapped, a few files at a time, and read as it is used; it
    can be pickled, so that DataLoader workers can use it. Reading an image that is corrupted, or in the
    wrong place, raises an error.

    Args:
        shards: the records, in the order of the data set: arrays, or the files of a folder.
        dtype: the dtype of the images.
        path: where the shards are on disk, or None.

    Examples:
        >>> copy = advkit.data.generate(advkit.FGSM(model), loader.dataset)
        >>> image, label = copy[0]
        >>> image.shape, copy.images.shape
        (torch.Size([3, 16, 16]), torch.Size([12, 3, 16, 16]))
    """

    def __init__(self, shards: Sequence[Records] | Shards, dtype: torch.dtype, path: Path | None = None) -> None:
        self.path = path
        self._shards = shards if isinstance(shards, Shards) else Shards(shards)
        self._ends = list(accumulate(self._shards.lengths))
        self._dtype = dtype

    def __len__(self) -> int:
        """The number of images."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image, (C, H, W), and its label.

        Raises:
            InputError: the file that it is in is damaged.
        """
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} adversarial images")
        shard = bisect_right(self._ends, place)
        row = place - self._ends[shard] + self._shards.lengths[shard]
        (record,) = self._shards.read(shard, slice(row, row + 1))
        return torch.from_numpy(np.array(record["image"])).view(self._dtype), int(record["label"])

    @property
    def images(self) -> Tensor:
        """All the images, in memory: (N, C, H, W)."""
        return torch.from_numpy(self._all("image")).view(self._dtype)

    @property
    def labels(self) -> Tensor:
        """All the labels: int64, (N,)."""
        return torch.from_numpy(self._all("label"))

    def _all(self, name: str) -> Any:
        parts = [self._shards.read(number, slice(None))[name].copy() for number in range(len(self._ends))]
        return np.concatenate(parts)

    def __reduce__(self) -> Any:
        if self.path is None:
            return type(self), (self._shards, self._dtype)
        return load, (self.path,)

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
    labels: LabelsGetter = None,
) -> AdversarialDataset:
    """Make an adversarial copy of a data set, in batches.

    With a ``path``, the copy is written as it is made, in shards, each written atomically. Stopped at any
    moment and called again with the same arguments, it continues with the missing shards, and the files are byte for
    byte those of an uninterrupted run. For that, the data set has to return the same image each time, so random
    augmentation belongs after the copy. Several processes that call it with the same arguments,
    such as those of torchrun, share out the missing shards: each takes the next one that no other is working on, and
    all return the same data set when it is complete. (Not on Windows, nor on a drive without file locks: there
    each makes all of it.)

    Random numbers depend on ``seed`` and on the position of a batch in the data set, and on nothing else: the attack
    draws from its own generator, a model that draws from the default RNG (of the CPU or its own device) finds it
    seeded by the same two, and afterwards the default RNG is as it was.

    Args:
        attack: the attack and, inside it, its model. It must have no generator.
        data: a data set with a length, whose items hold an image and its label as `advkit.AttackTransform` finds
            them, all images of one shape; or a `DataLoader` that does not shuffle, whose batch size, workers and
            collate function are used. The whole data set is copied, ``drop_last`` or not.
        path: a directory for the copy, which is made if need be; None to keep it in memory.
        batch_size: how many images are attacked at once. If None, the loader's, or else 64 for a model on a CPU,
            where larger batches overflow the caches, and 256 elsewhere.
        shard_size: how many images a file holds, preferably a multiple of the batch size. That many images are in
            memory at once.
        seed: the seed of random attacks and models.
        progress: True for a bar, False for none, None for one if stderr is a terminal and tqdm is installed.
        labels: where the label is in an item, or in a batch that the loader's collate function made, as for
            `advkit.AttackTransform`.

    Returns:
        The images, in the dtype of the originals and on the CPU, and their labels.

    Raises:
        InputError: the loader shuffles or has no batch size of its own, the data set is empty, has no length or
            no labels, a number is out of range, the attack has a generator, or the path holds something else: a
            copy made with other arguments (the error names them), or unrelated files.
        DtypeError: ``attack`` is not an `Attack`, or the data set returns PIL images.
        OSError: the disk is full, or has another problem. What was written stays, and the next call continues from
            there.

    Examples:
        >>> copy = advkit.data.generate(advkit.PGD(model, steps=3), loader.dataset, "cifar10-pgd")
        >>> len(copy)
        12
    """
    check_attack(attack)
    if attack.generator is not None:
        raise InputError(
            "generate uses random generators of its own, so that it can be resumed; omit the attack's generator "
            "and give generate(..., seed=...)"
        )
    check_labels_getter(labels)
    source = source_of(data, batch_size, attack.model, labels)
    check_number("batch_size", source.batch_size, at_least=1, integer=True)
    check_number("shard_size", shard_size, at_least=1, integer=True)
    check_number("seed", seed, at_least=0, integer=True)
    copying = Copying(attack, source, shard_size, seed, progress)
    if path is None:
        return AdversarialDataset(copying.in_memory(), copying.layout.dtype)
    folder = Path(path)
    copying.write(folder)
    return load(folder)


def load(path: str | os.PathLike[str]) -> AdversarialDataset:
    """The adversarial data set that `generate` wrote, memory-mapped. No pickle is read.

    Raises:
        InputError: there is none at ``path``, it is incomplete, or a file is damaged: it has the wrong size, claims
            to hold something else, or is a copy of another. A single wrong bit is found when its image is read.

    Examples:
        >>> advkit.data.generate(advkit.FGSM(model), loader.dataset, "cifar10-fgsm").path.name
        'cifar10-fgsm'
        >>> len(advkit.data.load("cifar10-fgsm"))
        12
    """
    folder = Path(path).absolute()
    manifest = manifests.read(folder)
    if manifest.get("format") != manifests.FORMAT:
        raise InputError(
            f"{folder} was made by another version of advkit ({manifest.get('advkit')}), whose files this one does not "
            "read; load it with that one, or call generate with a new path"
        )
    layout = manifests.layout_of(manifest)
    files = ShardFiles(folder, layout, manifests.identity(manifest))
    if missing := len(files.missing()):
        raise InputError(
            f"{folder} is incomplete: {layout.files - missing} of its {layout.files} shards are there; call generate "
            "again with the same arguments to complete it"
        )
    files.verify()
    return AdversarialDataset(files, layout.dtype, folder)


def augment(
    clean: Dataset[Any], adversarial: Dataset[Any], *, labels: LabelsGetter = None
) -> ConcatDataset[tuple[Tensor, int]]:
    """Concatenate a data set and its adversarial copy, each image with its own label.

    Adversarial training as data augmentation: section 3.2 of Goodfellow, Shlens & Szegedy 2015 with fixed
    adversarial images.

    Args:
        clean: a data set of (image, label), the images tensors. Its items may be dicts and contain more, which is left
            out; image and label are found by the rules of `advkit.AttackTransform`.
        adversarial: another, whose images have the same shape and dtype, such as what `generate` returns.
        labels: where the label is in an item of ``clean``, as for `advkit.AttackTransform`.

    Returns:
        A data set of (image, label), the labels Python integers.

    Raises:
        InputError: a data set has no length or is empty, or the images of the two differ in shape or dtype.
        DtypeError: the items of a data set are not (tensor, label).

    Examples:
        >>> copy = advkit.data.generate(advkit.FGSM(model), loader.dataset)
        >>> len(advkit.data.augment(loader.dataset, copy))
        24
    """
    check_labels_getter(labels)
    its = None if isinstance(adversarial, AdversarialDataset) else labels
    parts = {"clean": _Pairs(clean, labels), "adversarial": _Pairs(adversarial, its)}
    kinds = {}
    for name, part in parts.items():
        check_number(f"the length of the {name} data set", len(part), at_least=1)
        kinds[name] = part.kind(name)
    if kinds["clean"] != kinds["adversarial"]:
        raise InputError(
            f"the clean images are {kinds['clean']} but the adversarial ones {kinds['adversarial']}; give both data "
            "sets the same transforms"
        )
    return ConcatDataset(list(parts.values()))


class _Pairs(Dataset[tuple[Tensor, int]]):
    """A data set's images and labels, the labels as integers, so that those of two data sets collate."""

    def __init__(self, data: Dataset[Any], where: LabelsGetter) -> None:
        self._data: Any = data
        self._where = where

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._pair(self._data[index])

    def kind(self, name: str) -> str:
        """What its images are, read off the first."""
        item = self._data[0]
        try:
            image, _ = self._pair(item)
        except InputError as error:
            seen = [type(part).__name__ for part in item] if isinstance(item, (tuple, list)) else type(item).__name__
            raise DtypeError(
                f"augment needs data sets of (tensor, label), but the {name} one returns {seen}: {error}"
            ) from error
        return f"{image.dtype} of shape {tuple(image.shape)}"

    def _pair(self, item: Any) -> tuple[Tensor, int]:
        sample = Sample(item, flat=True, where=self._where)
        (image,), label = sample.images, sample.labels
        if label is None:
            raise InputError("found no label")
        check_classes("labels", label, sample.images)
        return image, int(label)
