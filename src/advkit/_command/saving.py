"""Adversarial images as files: PNGs that still fool, in a folder for each class, or one file of arrays."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advkit import norms
from advkit._command.images import Images, left_behind
from advkit._engine.classifier import prediction
from advkit._io.files import named, write_atomic
from advkit._io.png import png
from advkit._io.progress import track
from advkit.attack import Attack
from advkit.errors import InputError
from advkit.evaluation.batches import pairs
from advkit.transforms import AttackTransform

__all__ = ["Saved", "save_arrays", "save_pngs"]


@dataclass
class Saved:
    """What was written, and what the model says of it.

    Attributes:
        images: how many.
        right: how many of the originals the model is right on.
        fooled: how many of these it is wrong on as they were written.
    """

    images: int = 0
    right: int = 0
    fooled: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the shares that they make."""
        shares = {
            "clean_accuracy": self.right / self.images,
            "success_rate": self.fooled / self.right if self.right else float("nan"),
            "accuracy": (self.right - self.fooled) / self.images,
        }
        return {"images": self.images, "right": self.right, "fooled": self.fooled, **shares}

    def __str__(self) -> str:
        return f"{self.fooled} of the {self.right} images that the model gets right fool it as they were written"


@dataclass(frozen=True)
class _Batch:
    start: int
    originals: Tensor
    written: Tensor  # as they are read again
    labels: Tensor
    before: Tensor
    after: Tensor


def on_levels(attack: Attack, images: Tensor, labels: Tensor) -> Tensor:
    """Attack a batch so that it still fools as 8-bit images: uint8 (N, C, H, W) of floating images in [0, 1].

    An attack that knows levels looks for such images itself. Of any other the change is rounded as for uint8 images by
    `AttackTransform`: within a budget, and further along the same way where the model is not fooled then.
    """
    if "levels" in {known.name for known in fields(attack)}:
        found = attack._with(levels=256)(images, labels)
        return (255 * found).round().clamp(0, 255).to(torch.uint8)
    whole = (255 * images).round().clamp(0, 255).to(torch.uint8)
    attacked: Tensor = AttackTransform(attack)(whole, labels)[0]
    return attacked


def save_pngs(attack: Attack, data: Images, folder: Path) -> Saved:
    """Write PNGs in a folder for each class, and ``index.csv``, which says what became of each image."""
    saved, written = Saved(), io.StringIO()
    names = ["file", "original", "label", "before", "after", "fooled", "l2", "linf"]
    lines = csv.DictWriter(written, names, lineterminator="\n")
    lines.writeheader()
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; give the images a folder of their own")
    for batch in _batches(attack, data, saved, eight_bits=True):
        if batch.written.shape[1] not in (1, 3) or batch.written.ndim != 4:
            raise InputError(f"images of shape {tuple(batch.written.shape[1:])} cannot be PNGs; write an .npz file")
        classes = _folders(data.classes, int(batch.labels.max()))
        far = {norm: norms.get(norm).distance(batch.written, batch.originals).tolist() for norm in ("l2", "linf")}
        for row, image in enumerate((255 * batch.written).round().to(torch.uint8)):
            place, label = batch.start + row, int(batch.labels[row])
            file = folder / classes[label] / f"{place:06d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            with named(file):
                file.write_bytes(png(image))
            before, after = int(batch.before[row]), int(batch.after[row])
            lines.writerow(
                {
                    "file": file.relative_to(folder).as_posix(),
                    "original": data.files[place] if data.files else place,
                    "label": label,
                    "before": before,
                    "after": after,
                    "fooled": before == label != after,
                    **{norm: f"{values[row]:.6g}" for norm, values in far.items()},
                }
            )
    for name in _folders(data.classes, -1):
        (folder / name).mkdir(exist_ok=True)  # an empty class keeps its number
    write_atomic(folder / "index.csv", lambda stream: stream.write(written.getvalue().encode()))
    return saved


def save_arrays(attack: Attack, data: Images, file: Path) -> Saved:
    """Write ``images``, float32 (N, C, H, W), ``labels`` and ``predictions``, as ``--data`` reads them again."""
    saved = Saved()
    batches = list(_batches(attack, data, saved, eight_bits=False))
    arrays: dict[str, Any] = {
        "images": torch.cat([one.written for one in batches]).numpy(),
        "labels": torch.cat([one.labels for one in batches]).numpy(),
        "predictions": torch.cat([one.after for one in batches]).numpy(),
    }
    if data.classes:
        arrays["classes"] = np.array(data.classes)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, lambda stream: np.savez_compressed(stream, **arrays))
    return saved


def _batches(attack: Attack, data: Images, saved: Saved, *, eight_bits: bool) -> Iterator[_Batch]:
    """Attack each batch, and ask the model about what is written."""
    for _, images, labels in pairs(track(data.loader, str(attack), unit="batch"), [attack.bounds]):
        labels = labels.reshape(-1).to(torch.int64)
        found = on_levels(attack, images, labels).float() / 255 if eight_bits else attack(images, labels)
        before, after = (prediction(attack.model, side).cpu() for side in (images, found))
        yield _Batch(saved.images, images.cpu(), found.cpu(), labels.cpu(), before, after)
        right = before == labels.cpu()
        saved.images += len(images)
        saved.right += int(right.sum())
        saved.fooled += int((right & (after != labels.cpu())).sum())
    if not saved.images:
        raise InputError("there are no images to attack")


def _folders(classes: list[str] | None, most: int) -> list[str]:
    """A folder's name for each class, in an order that sorts as the classes are numbered."""
    names = classes or [str(index) for index in range(most + 1)]
    plain = ["".join("_" if letter in '/\\:*?"<>|' else letter for letter in name) for name in names]
    if classes and plain == sorted(set(plain)) and all(plain) and not any(left_behind(Path(name)) for name in plain):
        return plain
    return [f"{index:04d}" if not classes else f"{index:04d}-{name}" for index, name in enumerate(plain)]
