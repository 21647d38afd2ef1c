"""How an attack is carried out, from the caller's images to adversarial ones.

    checked -> placed where the model is -> searched, in parts on a CPU -> confirmed, after a search in low precision
    -> brought back to the caller's device and dtype

`Attack` says what an attack is; nothing of this is for its author to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advkit._engine.checks import check_classes, check_images, check_rows, check_targets
from advkit._engine.classifier import Classifier, own
from advkit._engine.grid import Grid, Halves, fooling, inward
from advkit._engine.recorded import searched
from advkit.errors import AdvkitError
from advkit.goals import Goal, Targeted, Untargeted
from advkit.model import attacking

if TYPE_CHECKING:
    from advkit.attack import Attack

__all__ = ["Done", "carry_out", "check_call"]

_ROWS_ON_CPU = 64  # at once; a CNN on images of 32x32 takes 0.7 of the time for each that it takes in a batch of 256


@dataclass(frozen=True)
class Done:
    """What came of an attack.

    Attributes:
        images: the adversarial images, in the shape, dtype and place of the originals.
        queries: int64 (N,), the forwards spent on each image by an attack that asks for answers alone; else None.
    """

    images: Tensor
    queries: Tensor | None


@dataclass(frozen=True)
class _Job:
    """Images to attack, where the model is and in the precision of the work.

    Attributes:
        pixels: (N, ...).
        goal: of the N images.
        values: hyperparameters with a value for each image, (N,), by name.
    """

    pixels: Tensor
    goal: Goal
    values: Mapping[str, Tensor]

    def rows(self, index: Tensor) -> _Job:
        """The same for some of the images."""
        values = {name: value[index] for name, value in self.values.items()}
        return _Job(self.pixels[index], self.goal.rows(index), values)


class _OnGrid(Classifier):
    """A model that is asked about images as they will be: of 16 bits. An answer to others would be a query lost."""

    grid: Grid

    def logits(self, images: Tensor) -> Tensor:
        return super().logits(self.grid.nearest(images))


def carry_out(attack: Attack, images: Tensor, labels: Tensor, targets: Tensor | None = None) -> Done:
    """Attack a batch; see `Attack.__call__`."""
    classes = {"labels": labels} if targets is None else {"labels": labels, "targets": targets}
    per_image = attack._per_row()
    check_call(attack, images, classes, per_image)
    sees_gradients = attack.access == "gradient"
    if not images.numel():
        return Done(images.detach().clone(), None if sees_gradients else torch.zeros_like(labels, dtype=torch.int64))
    loss = getattr(attack, "loss", None)  # a function of the user's may have layers of its own
    climbed = (loss,) if callable(loss) else ()
    with attacking(attack.model, *climbed, adaptive=attack.adaptive and sees_gradients):
        is_coarse = torch.finfo(images.dtype).bits < 32
        model = _classifier(attack, images, classes)
        job = _placed(attack, images, classes, per_image, model)
        searched = model if attack.autocast is None else Classifier(attack.model, classes, attack.autocast)
        found = _searched(attack, job, searched)
        searched.verify()
        if searched is not model and attack.stops_at_success:
            found = _confirmed(attack, found, job, model)
        if is_coarse and sees_gradients:
            found = _rounded(attack, found, job, model, Halves(images.dtype))
        if job.pixels.dtype != images.dtype:  # a pixel that was not moved is the original's to the bit
            originals = images.detach().to(found.device)
            found = torch.where(found == job.pixels, originals, found.to(images.dtype))
        queries = torch.cat(model.ledger).to(images.device) if model.ledger else None  # of who counts them
        return Done(found.to(images.device).clamp(*attack.bounds), queries)


def check_call(attack: Attack, images: Tensor, classes: Mapping[str, Tensor], per_image: Mapping[str, Tensor]) -> None:
    """Refuse what cannot be attacked, before any work is done."""
    check_images(images, attack.bounds)
    for name, of_rows in classes.items():
        check_classes(name, of_rows, images)
    if "targets" in classes:
        check_targets(classes["targets"], classes["labels"])
    for name, value in per_image.items():
        check_rows(name, value, images)


def _classifier(attack: Attack, images: Tensor, classes: Mapping[str, Tensor]) -> Classifier:
    """The model as the attack asks it, and as its success is judged."""
    if attack.access == "gradient" or torch.finfo(images.dtype).bits >= 32:
        return Classifier(attack.model, classes)
    model = _OnGrid(attack.model, classes)
    model.grid = Halves(images.dtype)
    return model


def _placed(
    attack: Attack,
    images: Tensor,
    classes: Mapping[str, Tensor],
    per_image: Mapping[str, Tensor],
    model: Classifier,
) -> _Job:
    """Copies of all that the work needs, where and in what it is done."""
    device, work = model.workplace(images)
    pixels = own(images, device, work).clamp_(*attack.bounds)  # what a rounding had put outside
    goal = Targeted if "targets" in classes else Untargeted
    wanted = own(classes["targets" if "targets" in classes else "labels"], device, torch.int64)
    values = {name: own(value, device, work) for name, value in per_image.items()}
    return _Job(pixels, goal(wanted), values)


def _searched(attack: Attack, job: _Job, model: Classifier) -> Tensor:
    """`_perturb` of the whole batch, or on a CPU of a part at a time: more activations overflow its caches."""
    count = len(job.pixels)
    rows = _ROWS_ON_CPU if attack.independent_rows and job.pixels.device.type == "cpu" else count
    if count <= rows:
        return _perturbed(attack, job, model)
    parts = torch.arange(count, device=job.pixels.device).split(rows)
    return torch.cat([_perturbed(attack, job.rows(part), model) for part in parts])


def _perturbed(attack: Attack, job: _Job, model: Classifier) -> Tensor:
    def search(model: Classifier, inputs: Sequence[Tensor]) -> Tensor:
        pixels, classes, *values = inputs
        of_rows = dict(zip(job.values, values, strict=True))
        return attack._with(model=model, **of_rows)._attack(pixels, type(job.goal)(classes)).detach()

    def carried(model: Classifier) -> Tensor:
        inputs = [job.pixels, job.goal.classes, *job.values.values()]
        found = searched(attack, model, inputs, search) if attack.compiled else search(model, inputs)
        model.watch_images(found, type(attack).__name__)
        return found

    found = model.verified(carried)
    if found.shape != job.pixels.shape:
        raise AdvkitError(
            f"{type(attack).__name__}._perturb returned shape {tuple(found.shape)} for images of shape "
            f"{tuple(job.pixels.shape)}"
        )
    return found.to(job.pixels.dtype)


def _confirmed(attack: Attack, found: Tensor, job: _Job, model: Classifier) -> Tensor:
    """What was found in low precision where it fools the model, and elsewhere what the model itself leads to."""
    with torch.no_grad():
        missed = (~job.goal.success(model(found))).nonzero().squeeze(1)
    if len(missed):
        found = found.index_copy(0, missed, _searched(attack, job.rows(missed), model))
        model.verify()
    return found


def _rounded(attack: Attack, found: Tensor, job: _Job, model: Classifier, grid: Grid) -> Tensor:
    """What was found, on the grid of the originals: within the budget still, or as far as it takes to fool."""
    if attack.aim == "budget":
        return inward(grid, found, job.pixels)

    def fools(candidates: Tensor, rows: Tensor) -> Tensor:
        return job.goal.rows(rows).success(model(candidates))

    with torch.no_grad():
        return fooling(grid, found, job.pixels, fools, attack.bounds)
