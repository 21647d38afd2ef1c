"""Data sets in their own order, in batches: where `advkit.data.generate` gets its images."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SequentialSampler, default_collate

from advkit._data.loaders import AttackedLoader
from advkit._data.samples import TO_TENSOR, Choice, LabelsGetter, Sample
from advkit._data.settings import OF_WORKERS, settings_of
from advkit._engine.checks import check_classes
from advkit.errors import AdvkitError, DtypeError, InputError
from advkit.model import Model, placement

__all__ = ["Batch", "Source", "source_of"]


@dataclass(frozen=True)
class Source:
    """Where the clean images come from: a data set in its own order, and how to read it."""

    data: Any
    batch_size: int
    collate: Callable[[list[Any]], Any]
    workers: dict[str, Any]  # the loader's settings for them
    where: LabelsGetter
    choice: Choice

    @property
    def count(self) -> int:
        return len(self.data)

    def first(self) -> "Batch":
        """The first few: they show the shape and dtype of all, and tell this data set from others."""
        return self._together(range(min(8, self.count)))

    def batches(self, spans: Iterator[range]) -> Iterator[tuple[range, "Batch"]]:
        """The images of each span."""
        drawn: deque[range] = deque()  # workers are told of some before the first are back

        def indices() -> Iterator[list[int]]:
            for span in spans:
                drawn.append(span)
                yield list(span)

        loader: DataLoader[Any] = DataLoader(
            self.data,
            batch_sampler=indices(),
            collate_fn=self.collate,
            generator=torch.Generator("cpu"),  # or the loader would draw from the default RNG
            **self.workers,
        )
        with torch.device("cpu"):  # where it draws a seed, wherever torch.set_default_device points
            batches = iter(loader)
        while True:
            try:
                structure = next(batches)
            except StopIteration:
                return
            except (TypeError, RuntimeError) as error:
                if drawn and not isinstance(error, AdvkitError):
                    self._together(drawn[0])  # which says what is wrong with the items, if that is it
                raise
            yield drawn.popleft(), self._found(structure)

    def _together(self, span: range) -> "Batch":
        """The images of a span, read one by one, so that a sentence can say which of them does not fit."""
        items = [self.data[index] for index in span]
        try:
            structure = self.collate(items)
        except (TypeError, RuntimeError) as error:
            if isinstance(error, AdvkitError):
                raise
            raise _misfit(items, span, error, self.where) from error
        return self._found(structure)

    def _found(self, structure: Any) -> "Batch":
        sample = Sample(structure, batched=True, where=self.where, choice=self.choice)
        labels = sample.labels
        if labels is None:
            raise InputError(
                "generate needs a label for each image, such as items of (image, label) with integer labels, but found "
                "none; to use the model's own predictions instead, see advkit.data.attacked"
            )
        check_classes("labels", labels, sample.images)
        return Batch(sample.images, labels.long())


@dataclass(frozen=True)
class Batch:
    images: Tensor  # (n, ...)
    labels: Tensor  # int64, (n,)


def _misfit(items: list[Any], span: range, error: Exception, where: LabelsGetter) -> InputError:
    """Why items do not make a batch."""
    shapes = []
    for index, item in zip(span, items, strict=True):
        try:
            sample = Sample(item, flat=True, where=where)
        except DtypeError:  # a PIL image
            break
        except InputError as wrong:
            return InputError(f"image {index} of the data set cannot be used: {wrong}")
        if sample.labels is None:
            return InputError(
                f"generate needs a label for each image, but image {index} of the data set has none that is an "
                f"integer, so that its items do not form a batch ({error}); to use the model's own predictions, see "
                "advkit.data.attacked, with numbers in place of None in the data set"
            )
        shapes.append(tuple(sample.images.shape[1:]))
        if shapes[-1] != shapes[0]:
            return DtypeError(
                f"the images of the data set do not form a batch ({error}): image {index} has shape {shapes[-1]}, and "
                f"image {span.start} has {shapes[0]}; give the data set a transform that makes them alike, such as "
                "Resize((height, width))"
            )
    return DtypeError(f"the images of the data set do not form a batch ({error}); {TO_TENSOR}")


def _collate(items: list[Any]) -> Any:
    """Numbers become tensors on the CPU, as images are, wherever torch.set_default_device points."""
    with torch.device("cpu"):
        return default_collate(items)


def source_of(data: Any, batch_size: int | None, model: Model, where: LabelsGetter) -> Source:
    if isinstance(data, AttackedLoader):
        raise InputError(
            "generate attacks the images itself, but this loader yields attacked ones; pass the loader it was made "
            "from, or the data set"
        )
    loader = data if isinstance(data, DataLoader) else None
    data = data if loader is None else loader.dataset
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise InputError(
            f"generate needs a data set with a length, whose images can be read by index; a {type(data).__name__} "
            "is not one. Attack its batches with advkit.data.attacked(loader, attack)"
        )
    if not len(data):
        raise InputError("the data set is empty")
    if loader is None:
        device = placement(model)[0]
        usual = 64 if device is None or device.type == "cpu" else 256
        return Source(data, usual if batch_size is None else batch_size, _collate, {}, where, Choice(model))
    if type(loader.sampler) is not SequentialSampler or loader.batch_size is None:
        how = type(loader.sampler if loader.batch_size is not None else loader.batch_sampler).__name__
        raise InputError(
            f"generate copies a data set in its own order, so that it can be resumed, but this loader uses a {how}; "
            "pass the data set itself, loader.dataset, or a loader with shuffle=False"
        )
    return Source(
        data,
        loader.batch_size if batch_size is None else batch_size,
        _collate if loader.collate_fn is default_collate else loader.collate_fn,
        settings_of(loader, OF_WORKERS),
        where,
        Choice(model),
    )
