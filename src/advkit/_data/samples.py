"""Where the images and labels are in what data sets and loaders give: tuples, lists and dicts, nested at will."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import KeyPath, MappingKey, tree_flatten_with_path, tree_unflatten
from torch.utils.data import Dataset, IterableDataset

from advkit._engine.classifier import predict
from advkit.errors import DtypeError, InputError
from advkit.model import Model

__all__ = ["TO_TENSOR", "Choice", "LabelsGetter", "Sample", "as_labels", "check_labels_getter", "check_loader"]

LabelsGetter = int | str | Callable[[Any], Any] | None
"""Where the label is: the key or field that it stands under, its place in a tuple or list, a function of the whole
sample that returns it (or None for the model's own prediction), or None for the rules of `advkit.AttackTransform`."""

LABEL_KEYS = ("label", "labels", "target")
TO_TENSOR = (
    "put ToTensor() before the attack in a torchvision.transforms Compose, or ToImage() and "
    "ToDtype(torch.float32, scale=True) in a v2 one"
)


class Choice:
    """Which of several entries is the label, where images are numbered too: decided once, and then kept.

    Integers that are all different, some of them no class of the model, number the images. If one other entry is
    left, it is the label: in later samples too, where the numbers may happen to be small.

    Args:
        model: pixels (N, ...) to logits (N, K); asked once about one image, where there is something to choose.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._classes: int | None = None
        self._path: str | None = None

    def __call__(self, candidates: dict[str, Tensor], images: Tensor) -> Tensor | None:
        """The label, int (N,), among candidates (N,) by their places; None if it is not clear which one it is."""
        if self._path not in candidates:
            if self._classes is None:
                self._classes = predict(self._model, images[:1]).shape[1]
            left = [path for path, values in candidates.items() if not _is_index(values, self._classes)]
            if len(left) != 1:
                return None
            self._path = left[0]
        return candidates[self._path]


class Sample:
    """The images and the label in a structure of tuples, lists and dicts, by the rules of `AttackTransform`.

    Args:
        structure: what a data set or a loader gave.
        batched: whether its first dimension is known to be the batch. Then an image may have any shape; otherwise
            a tensor of 3 dimensions is one image and one of more is a batch.
        flat: whether a tensor of fewer dimensions is one image where there is none of 3.
        where: where the label is.
        choice: what chooses where several entries could be the label; None to refuse them.

    Raises:
        InputError: there is no image in it.
        DtypeError: there is a PIL image in it.
    """

    def __init__(
        self,
        structure: Any,
        *,
        batched: bool = False,
        flat: bool = False,
        where: LabelsGetter = None,
        choice: Choice | None = None,
    ) -> None:
        leaves_by_path, self._spec = tree_flatten_with_path(structure)
        self._structure, self._getter, self._choice = structure, where, choice
        self._entries = [_entry(*leaf) for leaf in leaves_by_path]
        self._batched = batched
        leaves = [entry.value for entry in self._entries]
        if _instances(leaves, "PIL.Image", "Image"):
            raise DtypeError(f"attacks need tensors, but this sample holds a PIL image; {TO_TENSOR}")
        self._where = _instances(leaves, "torchvision.tv_tensors", "Image")
        for least in (2,) if batched else (3, 2, 1) if flat else (3,):
            self._where = self._where or _images(self._entries, least)
        if not self._where:
            shapes = "(N, ...)" if batched else "(C, H, W) or (N, C, H, W)"
            raise InputError(
                f"found no image of shape {shapes} among {', '.join(map(_describe, leaves)) or 'nothing'}; {TO_TENSOR}"
            )
        self._flat = flat and leaves[self._where[0]].ndim < 3

    @property
    def images(self) -> Tensor:
        """The first image or batch of images, as a batch (N, ...)."""
        return self._batch(self._where[0])

    @property
    def labels(self) -> Tensor | None:
        """The label: an integer tensor (N,), or of another shape if it does not belong to the images; None if none.

        Where there are `soft_labels` instead, it is the class with the largest share, the first of several.

        Raises:
            InputError: it is not where it is said to be, or there are several of which each could be the label.
            DtypeError: what is there is no integer.
        """
        if self._getter is not None:
            return self._named(self._getter)
        keyed, following = self._places()
        for entries in (keyed, following):
            found = {entry.path: label for entry in entries if (label := as_labels(entry.value)) is not None}
            if found:
                return self._one_of(found)
        self._refuse_rows([*keyed, *following])
        return None if self.soft_labels is None else self.soft_labels.argmax(1)

    @cached_property
    def soft_labels(self) -> Tensor | None:
        """The share of each class in each label, floating (N, K), as MixUp makes them; None where there is none.

        They are looked for where labels are, if there is no integer, and are at least 0 and sum up to 1.
        """
        values = [entry.value for entries in self._places() for entry in entries]
        if self._getter is not None:
            values = [self._value]
        elif any(as_labels(value) is not None for value in values):
            return None
        return next((value for value in values if self._is_shares(value)), None)

    def _places(self) -> "tuple[list[_Entry], list[_Entry]]":
        """Where a label may be: under a key for one, and after the images."""
        keyed = [entry for entry in self._entries if entry.name in LABEL_KEYS]
        following = [entry for entry in self._entries[self._where[0] + 1 :] if entry.ordered]
        return keyed, following

    def _is_shares(self, value: Any) -> bool:
        """Whether this is the share of each class in the label of each image."""
        if not (self._batched and _is_pure(value) and value.is_floating_point() and value.ndim == 2):
            return False
        if value.shape[0] != len(self.images) or value.shape[1] < 2:
            return False
        return bool((value >= 0).all()) and bool(((value.sum(1) - 1).abs() < 0.01).all())

    def with_images(self, change: Callable[[Tensor], Tensor]) -> Any:
        """The structure, with each batch of images (N, ...) as ``change`` gives it back."""
        values = [entry.value for entry in self._entries]
        for at in self._where:
            image = values[at]
            found = change(self._batch(at)).view(image.shape)
            values[at] = found if _is_pure(image) else found.as_subclass(type(image))
        return tree_unflatten(values, self._spec)

    def _batch(self, at: int) -> Tensor:
        pixels: Tensor = self._entries[at].value.detach().as_subclass(Tensor)
        alone = not self._batched and (pixels.ndim <= 3 or self._flat)
        return pixels.unsqueeze(0) if alone else pixels

    @cached_property
    def _value(self) -> Any:
        """What stands where the user says that the label is."""
        where = self._getter
        return where(self._structure) if callable(where) else None if where is None else self._at(where)

    def _named(self, where: int | str | Callable[[Any], Any]) -> Tensor | None:
        """The label, where the user says that it is."""
        value = self._value
        if value is None and callable(where):
            return None
        labels = value.argmax(1) if self._is_shares(value) else as_labels(value)
        if labels is None:
            what = "returned" if callable(where) else f"finds at {where!r}"
            raise DtypeError(
                f"labels= {what} {_describe(value)}, but a label must be an integer class index, in a batch an integer "
                "tensor of shape (N,)"
            )
        return self._shaped(labels)

    def _at(self, where: int | str) -> Any:
        """What stands under a key or field, or in a place."""
        top = self._structure
        if isinstance(where, str):
            for entry in self._entries:
                if entry.name == where:
                    return entry.value
        elif _has(top, where):
            return top[where]
        names = [repr(entry.name) for entry in self._entries if entry.name is not None]
        there = f"the keys {', '.join(names)}" if names else f"{len(self._entries)} entries without keys"
        raise InputError(f"labels={where!r} is not in a sample that has {there}; say where its label is")

    def _one_of(self, found: dict[str, Tensor]) -> Tensor:
        """The label among these, if it is clear which it is."""
        count = len(self.images)
        shaped = {path: self._shaped(labels) for path, labels in found.items()}
        fitting = {path: labels for path, labels in shaped.items() if labels.shape == (count,)}
        if not fitting:
            return next(iter(shaped.values()))  # for others to refuse
        first, *others = fitting.values()
        if all(torch.equal(first, other.to(first)) for other in others):
            return first
        chosen = None if self._choice is None else self._choice(fitting, self.images)
        if chosen is not None:
            return chosen
        raise InputError(
            f"it is not clear which of {' and '.join(fitting)} is the label, since each has one integer per image; "
            "say which with labels=: a key, an index such as labels=1, or a function that finds it in the sample"
        )

    def _shaped(self, labels: Tensor) -> Tensor:
        """As one label for each image, where they are as many."""
        count = len(self.images)
        if labels.ndim == 0 and count == 1:
            return labels.reshape(1)
        return labels

    def _refuse_rows(self, entries: "list[_Entry]") -> None:
        """Refuse a row of integers for each image, such as a one-hot code, rather than overlook it."""
        for entry in entries:
            value = torch.from_numpy(entry.value) if _is_integers(entry.value) else entry.value
            if self._batched and _is_integral(value) and value.ndim == 2 and len(value) == len(self.images):
                raise InputError(
                    f"found integers of shape {tuple(value.shape)} at {entry.path}, where one label per image was "
                    "expected; give class indices of shape (N,), such as labels.argmax(1) if one-hot, or say where "
                    "they are with labels="
                )


def as_labels(value: Any) -> Tensor | None:
    """An integer, or integers of shape () or (N,), or in a column (N, 1), as a tensor; None if it is something else.

    A column, which is how MedMNIST gives labels, comes back as (N,).
    """
    if isinstance(value, Integral) and not isinstance(value, bool):
        return torch.tensor(int(value), device="cpu")  # wherever torch.set_default_device points
    if _is_integers(value):
        value = torch.from_numpy(np.ascontiguousarray(value.astype(np.int64)))
    if not _is_integral(value) or value.ndim > 2 or (value.ndim == 2 and value.shape[1] != 1):
        return None
    labels: Tensor = value
    return labels.squeeze(1) if labels.ndim == 2 else labels


def check_labels_getter(where: object) -> None:
    """Refuse what does not say where a label is."""
    if isinstance(where, bool) or not (where is None or callable(where) or isinstance(where, (int, str))):
        raise DtypeError(
            f"labels must be the key or the index of the label in a sample, or a function that finds it; got {where!r}"
        )


def check_loader(loader: object, name: str = "loader") -> None:
    """Refuse a data set where batches are needed, since its images would be taken for batches."""
    if isinstance(loader, Dataset) and not isinstance(loader, IterableDataset):
        raise DtypeError(
            f"the {name} is a data set ({type(loader).__name__}), which yields one image at a time; pass batches, such "
            "as those of torch.utils.data.DataLoader(data, batch_size=64)"
        )


@dataclass
class _Entry:
    """One leaf of a structure: what it is, the key or field it stands under, and whether it stands in an order."""

    value: Any
    name: Any
    ordered: bool
    path: str


def _entry(path: KeyPath, value: Any) -> _Entry:
    last, spelled = path[-1] if path else None, "sample" + "".join(map(str, path))
    if isinstance(last, MappingKey):
        return _Entry(value, last.key, ordered=False, path=spelled)
    # The fields of a named tuple have both.
    return _Entry(value, getattr(last, "name", None), ordered=True, path=spelled)


def _images(entries: list[_Entry], least: int) -> list[int]:
    """Where the first tensor is that could be an image: one of pixels, or else one that others refuse."""
    pure = [
        (at, entry.value)
        for at, entry in enumerate(entries)
        if _is_pure(entry.value) and entry.value.ndim >= least and entry.name not in LABEL_KEYS
    ]
    floating = [at for at, value in pure if value.is_floating_point() or (_is_bytes(value) and value.ndim > 2)]
    return (floating or [at for at, value in pure if value.ndim > 2 or (_is_bytes(value) and value.shape[-1] > 1)])[:1]


def _is_bytes(tensor: Tensor) -> bool:
    return tensor.dtype == torch.uint8


def _is_index(labels: Tensor, classes: int) -> bool:
    """Whether these number images instead of naming classes: all different, and not all of them classes."""
    beyond = bool((labels < 0).any()) or bool((labels >= classes).any())
    return beyond and len(labels.unique()) == len(labels)


def _instances(leaves: list[Any], module: str, name: str) -> list[int]:
    """Where the instances of a class are; there are none if its module has not been imported."""
    if module not in sys.modules:
        return []
    kind = getattr(sys.modules[module], name)
    return [at for at, leaf in enumerate(leaves) if isinstance(leaf, kind)]


def _is_pure(leaf: object) -> bool:
    """Whether this is a tensor, and none of torchvision's boxes, masks and so on."""
    return isinstance(leaf, Tensor) and not _instances([leaf], "torchvision.tv_tensors", "TVTensor")


def _is_integral(leaf: Any) -> bool:
    if not _is_pure(leaf):
        return False
    kind = leaf.dtype
    return not (kind.is_floating_point or kind.is_complex or kind == torch.bool)


def _is_integers(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray) and leaf.dtype.kind in "iu"


def _has(structure: Any, place: int) -> bool:
    if isinstance(structure, Mapping):
        return place in structure
    return isinstance(structure, Sequence) and -len(structure) <= place < len(structure)


def _describe(leaf: object) -> str:
    kind = type(leaf).__name__
    return f"{kind} of shape {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else kind
