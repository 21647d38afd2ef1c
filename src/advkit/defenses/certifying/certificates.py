"""The certificates of a whole data set, kept batch by batch."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advkit._data.samples import LabelsGetter, Sample, check_loader
from advkit._io.files import write_atomic
from advkit._io.identity import digest, model_identity
from advkit._io.rng import repeatable
from advkit.errors import InputError
from advkit.model import Model, placement

__all__ = ["Certificates", "certified"]

Work = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Certificates:
    """What was proved about the N images of a data set.

    Attributes:
        classes: int64 (N,), on the CPU, with -1 where the procedure abstained.
        radii: float64 (N,): how far each proof reaches, in units of pixels.
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
        """The certified accuracy: the share of images that are right, and proved that far or further, in [0, 1]."""
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
    folder = None if run_folder is None else _Folder(Path(run_folder), {**how, "model": model_identity(model)})
    found = []
    for index, batch in enumerate(loader):
        sample = Sample(batch, batched=True, where=labels)
        if sample.labels is None:
            raise InputError("certificates are compared with labels, and the loader gives none")
        name = digest(sample.images, sample.labels)
        one = folder.load(index, name) if folder else None
        if one is None:
            device = placement(model)[0] or sample.images.device
            with repeatable(seed, "certify", index, device=device):
                classes, radii = work(sample.images)
            one = {"classes": classes.tolist(), "radii": radii.tolist(), "labels": sample.labels.tolist()}
            if folder:
                folder.save(index, {"digest": name, **one})
        found.append(one)
    if not found:
        raise InputError("the loader has no images; a generator that was gone through before has none left")
    whole = {name: [value for one in found for value in one[name]] for name in ("classes", "radii", "labels")}
    return Certificates(
        torch.tensor(whole["classes"], dtype=torch.int64, device="cpu"),
        torch.tensor(whole["radii"], dtype=torch.float64, device="cpu"),
        torch.tensor(whole["labels"], dtype=torch.int64, device="cpu"),
    )


class _Folder:
    """A folder with a file for each batch that is done, and one that says what was asked."""

    def __init__(self, path: Path, setup: dict[str, Any]) -> None:
        self.path = path
        (path / "batches").mkdir(parents=True, exist_ok=True)
        about, here = path / "certify.json", json.loads(json.dumps(setup))
        if about.exists():
            there = self._read(about)
            others = [name for name in {**there, **here} if there.get(name) != here.get(name)]
            if others:
                raise InputError(
                    f"{path} holds certificates with other {', '.join(others)}; give this run a folder of its own"
                )
        else:
            self._write(about, here)

    def load(self, index: int, name: str) -> dict[str, Any] | None:
        """What is known of a batch with this digest, if anything."""
        file = self._file(index)
        if not file.exists():
            return None
        found = self._read(file)
        if found.get("digest") != name:
            raise InputError(
                f"batch {index} of the loader is not what it was when the run in {self.path} began; a resumed run "
                "needs the same batches in the same order, so the loader must not shuffle"
            )
        return found

    def save(self, index: int, content: dict[str, Any]) -> None:
        """Keep what was found of a batch."""
        self._write(self._file(index), content)

    def _file(self, index: int) -> Path:
        return self.path / "batches" / f"{index:08d}.json"

    @staticmethod
    def _write(file: Path, content: dict[str, Any]) -> None:
        write_atomic(file, lambda stream: stream.write(json.dumps(content).encode()), own=True)

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it is not a JSON object")
        except ValueError as error:
            raise InputError(f"{file} is damaged ({error}); move it elsewhere and call again") from error
        return found
