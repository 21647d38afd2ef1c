"""The certificates of a whole data set, kept batch by batch."""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from advkit._data.samples import LabelsGetter, Sample, check_loader
from advkit._io.batch_files import BatchFiles
from advkit._io.identity import digest, model_identity
from advkit._io.rng import repeatable
from advkit._io.witness import introduced, is_known, spread
from advkit.errors import InputError
from advkit.model import Model, placement

__all__ = ["Certificates", "certified"]

Work = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Certificates:
    """What was certified about the N images of a data set.

    Attributes:
        classes: int64 (N,), on the CPU, with -1 where the procedure abstained.
        radii: float64 (N,): the certified radius of each, in L2 and units of pixels; 0 where the procedure abstained.
        labels: int64 (N,).

    Examples:
        >>> smoothing = advkit.defenses.RandomizedSmoothing(sigma=0.25)
        >>> found = smoothing.certify_loader(model, loader, n=1000)
        >>> found.accuracy(0.0) >= found.accuracy(0.25)
        True
    """

    classes: Tensor
    radii: Tensor
    labels: Tensor

    def accuracy(self, radius: float) -> float:
        """The certified accuracy: the fraction of images that are right, and certified that far, in [0, 1]."""
        return float(((self.classes == self.labels) & (self.radii >= radius)).double().mean())


def certified(
    work: Work,
    model: Model,
    loader: Iterable[Any],
    how: dict[str, Any],
    *,
    run_folder: str | os.PathLike[str] | None,
    seed: int | None,
    labels: LabelsGetter,
) -> Certificates:
    """Certify each batch of a loader, or read what is known of it.

    Args:
        work: images to classes and radii.
        model: what is certified.
        loader: batches of images and labels.
        how: the numbers that the results depend on.
        run_folder: where results are kept; None for nowhere.
        seed: of the noise of each batch.
        labels: where the label is in a batch.
    """
    check_loader(loader)
    folder = BatchFiles(run_folder, {**how, "model": model_identity(model)}, about="certify.json")
    stored, found = set(folder.indices()), []
    asked = spread(sorted(stored))
    for index, batch in enumerate(loader):
        sample = Sample(batch, batched=True, where=labels)
        if sample.labels is None:
            raise InputError("certificates are compared with labels, but the loader yields none")
        name = digest(sample.images, sample.labels)
        if index in stored:
            one = _known(folder, index, name, model, sample.images if index in asked else None)
        else:
            device = placement(model)[0] or sample.images.device
            with repeatable(seed, "certify", index, device=device):
                classes, radii = work(sample.images)
            answers = introduced(model, sample.images) if folder.path is not None and len(sample.images) else {}
            one = _Kept(name, classes.tolist(), radii.tolist(), sample.labels.tolist(), answers)
            if folder.path is not None:
                folder.write(index, asdict(one))
        found.append(one)
    if not found:
        raise InputError("the loader has no images; a generator that was iterated over before has none left")
    whole = {name: [value for one in found for value in getattr(one, name)] for name in ("classes", "radii", "labels")}
    return Certificates(
        torch.tensor(whole["classes"], dtype=torch.int64, device="cpu"),
        torch.tensor(whole["radii"], dtype=torch.float64, device="cpu"),
        torch.tensor(whole["labels"], dtype=torch.int64, device="cpu"),
    )


@dataclass(frozen=True)
class _Kept:
    """What is kept of a batch.

    Attributes:
        digest: of its images and labels.
        classes: of each image.
        radii: likewise.
        labels: likewise.
        answers: of the model, to know it again by; none of a batch without images.
    """

    digest: str
    classes: list[int]
    radii: list[float]
    labels: list[int]
    answers: dict[str, Any]


def _known(folder: BatchFiles, index: int, name: str, model: Model, images: Tensor | None) -> _Kept:
    """What is known of the batch with this digest.

    Args:
        folder: where it is kept.
        index: of the batch.
        name: its digest.
        model: what is certified.
        images: by which it has to be known again; None where it need not be asked.

    Raises:
        InputError: it is of another batch, or of another model.
    """
    one = folder.read(index, lambda content: _Kept(**content))
    folder.check_batch(index, one.digest, name)
    if images is not None and one.answers and not is_known(one.answers, introduced(model, images)):
        folder.check_model(index, "the model")
    return one
