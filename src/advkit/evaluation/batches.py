"""The images and labels in the batches of a loader, whatever structure they come in."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from advkit._data.samples import Sample, check_loader
from advkit._engine.checks import check_classes, check_images
from advkit.errors import DtypeError, InputError

__all__ = ["pairs"]


def pairs(loader: Iterable[Any], bounds: Iterable[tuple[float, float]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The index, images (N, ...) and labels (N,) of each batch, checked.

    Args:
        loader: gives batches: pairs, tuples with more in them, dicts, or any nesting of them.
        bounds: of the attacks that the images are for.

    Raises:
        DtypeError: a batch has no images or no labels, or the loader is a data set, which gives single images.
        InputError: they do not go together, or the images lie outside some of the bounds.
    """
    check_loader(loader)
    return _pairs(loader, list(bounds))


def _pairs(loader: Iterable[Any], bounds: list[tuple[float, float]]) -> Iterator[tuple[int, Tensor, Tensor]]:
    for index, batch in enumerate(loader):
        images, labels = _pair(batch, index)
        for allowed in bounds:
            check_images(images, allowed)
        check_classes("labels", labels, images)
        yield index, images, labels


def _pair(batch: Any, index: int) -> tuple[Tensor, Tensor]:
    """The images and labels of a batch, by the rules of `advkit.AttackTransform`."""
    labels = None
    try:
        sample = Sample(batch, batched=True)
        labels = sample.labels
    except DtypeError:
        raise
    except InputError:  # which speaks of transforms
        pass
    if labels is None or not labels.ndim:
        single = " (is it a single image, and the loader a list of those? DataLoader makes batches of them)"
        raise DtypeError(
            "the loader must yield batches of images and labels, such as pairs (images, labels) of tensors or dicts "
            f"with an image and a label; batch {index} is a {_parts(batch)}{'' if labels is None else single}"
        )
    return sample.images, labels


def _parts(batch: Any) -> str:
    """What a batch is made of."""
    kind = type(batch).__name__
    if isinstance(batch, Mapping):
        return f"{kind} with {', '.join(map(str, batch)) or 'nothing'}"
    return f"{kind} of {', '.join(type(part).__name__ for part in batch)}" if isinstance(batch, (tuple, list)) else kind
