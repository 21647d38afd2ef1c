"""How an attack is carried out, from the caller's images to adversarial ones.

    checked -> placed where the model is -> searched, in parts on a CPU, among the pixels that a mask leaves free
    -> confirmed, after a search in low precision -> put on the grid of 8-bit or 16-bit images
    -> brought back to the caller's device and dtype

`Attack` says what an attack is; nothing of this is for its author to know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advkit import norms
from advkit._engine.ball import Ball
from advkit._engine.checks import check_classes, check_images, check_rows, check_targets
from advkit._engine.classifier import Classifier, own
from advkit._engine.grid import Grid, Halves, Levels
from advkit._engine.landing import Landing
from advkit._engine.masks import Frame, Shown, free_pixels
from advkit._engine.recorded import searched
from advkit.errors import AdvkitError
from advkit.goals import Goal, Targeted, Untargeted
from advkit.model import attacking

if TYPE_CHECKING:
    from advkit.attack import Attack

__all__ = ["Done", "Stage", "carry_out", "check_call", "placed"]

_ROWS_ON_CPU = 64  # at once; a CNN on images of 32x32 takes 0.7 of the time for each that it takes in a batch of 256


@dataclass(frozen=True)
class Stage:
    """What one of the attacks in a combined attack was tried on, and what that cost in all.

    Attributes:
        attack: its ``str``.
        tried: how many images it was tried on.
        forwards: how many images were passed forward through the model, including those that judge the
            results, and for the first stage those that judge the original images.
        backwards: how many were passed backward.
        queries: the forwards that a black-box attack spent; None for other attacks.

    Examples:
        >>> attack = advkit.WorstOf([advkit.FGSM(model), advkit.PGD(model, eps=16 / 255)])
        >>> for stage in attack.run(images, labels).stages:
        ...     print(stage.attack, stage.tried, stage.forwards, stage.backwards)
        FGSM 12 36 12
        PGD(eps=16/255) 0 0 0
    """

    attack: str
    tried: int
    forwards: int
    backwards: int
    queries: int | None = None


@dataclass(frozen=True)
class Done:
    """What came of an attack.

    Attributes:
        images: the adversarial images, in the shape, dtype and place of the originals.
        queries: int64 (N,), the forwards spent on each image by an attack that asks for answers alone; else None.
        forwards: how many images the model answered, each as often as it was asked.
        backwards: how many were passed backward.
        infinite: on how many images at least a gradient was infinite, which the caller is to be told of.
        stage: int64 (N,), the place of the attack that made each image among those that the attack is made of, -1
            where none moved it; None of an attack that is not made of others.
        stages: what each of them cost.
    """

    images: Tensor
    queries: Tensor | None
    forwards: int = 0
    backwards: int = 0
    infinite: int = 0
    stage: Tensor | None = None
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class _Job:
    """Images to attack, where the model is and in the precision of the work.

    Attributes:
        pixels: (N, ...).
        goal: of the N images.
        values: hyperparameters with a value for each image, (N,) or (N, ...), by name.
        free: bool (N, ...), the pixels that may move; None for all.
        frame: what is around ``pixels`` that are vectors; None where they are whole.
    """

    pixels: Tensor
    goal: Goal
    values: Mapping[str, Tensor]
    free: Tensor | None = None
    frame: Frame | None = None

    def rows(self, index: Tensor) -> _Job:
        """The same for some of the images."""
        values = {name: value[index] for name, value in self.values.items()}
        free = None if self.free is None else self.free[index]
        frame = None if self.frame is None else self.frame.rows(index)
        return _Job(self.pixels[index], self.goal.rows(index), values, free, frame)


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
        grid = _grid(attack, images.dtype)
        model = _classifier(attack, classes, None if sees_gradients else grid)
        job = _placed(attack, images, classes, per_image, model)
        searched = model if attack.autocast is None else _classifier(attack, classes, None, attack.autocast)
        with searched.rounding.at_work(job.pixels):
            found = _searched(attack, _begun_on(grid, attack, job), searched)
        infinite = searched.checked()
        with model.rounding.at_work(job.pixels):
            if searched is not model and attack.stops_at_success:
                found = _confirmed(attack, found, job, model)
                infinite = max(infinite, model.checked())
            if job.free is not None:
                found = found.where(job.free, job.pixels)
            if grid is not None:
                found = _rounded(attack, found, job, model, grid)
        if job.pixels.dtype != images.dtype:  # a pixel that was not moved is the original's to the bit
            originals = images.detach().to(found.device)
            exact = found.to(images.dtype) if grid is None else grid.in_dtype(found, images.dtype)
            found = torch.where(found == job.pixels, originals, exact)
        queries = torch.cat(model.ledger).to(images.device) if model.ledger else None  # of who counts them
        models = {model, searched}
        forwards, backwards = (sum(one.forwards for one in models), sum(one.backwards for one in models))
        return Done(found.to(images.device).clamp(*attack.bounds), queries, forwards, backwards, infinite)


def check_call(attack: Attack, images: Tensor, classes: Mapping[str, Tensor], per_image: Mapping[str, Tensor]) -> None:
    """Refuse what cannot be attacked, before any work is done."""
    check_images(images, attack.bounds)
    for name, of_rows in classes.items():
        check_classes(name, of_rows, images)
    if "targets" in classes:
        check_targets(classes["targets"], classes["labels"])
    for name, value in per_image.items():
        check_rows(name, value, images, attack.bounds)
    if attack.mask is not None:
        free_pixels(attack.mask, images)
    if attack.levels is not None:
        Levels(attack.bounds, attack.levels, images.dtype).check()


def placed(attack: Attack, images: Tensor) -> Tensor:
    """A copy of images (N, ...) as an attack returns those that it does not move: on its grid, if it has one."""
    if attack.levels is None:
        return images.clone()
    grid = Levels(attack.bounds, attack.levels, images.dtype)
    free = None if attack.mask is None else free_pixels(attack.mask, images)
    return grid.settled(images, grid.in_dtype(images, images.dtype), free)


def _grid(attack: Attack, dtype: torch.dtype) -> Grid | None:
    """What values the pixels of the result can take; None for any."""
    if attack.levels is not None:
        return Levels(attack.bounds, attack.levels, dtype)
    return Halves(dtype) if torch.finfo(dtype).bits < 32 else None


def _classifier(
    attack: Attack, classes: Mapping[str, Tensor], grid: Grid | None, autocast: torch.dtype | None = None
) -> Classifier:
    """The model as the attack asks it, and as its success is judged."""
    if attack.mask is None and grid is None:
        return Classifier(attack.model, classes, autocast)
    model = Shown(attack.model, classes, autocast)
    model.grid = grid
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
    for name in [name for name, value in values.items() if value.ndim > 1]:  # images as well
        values[name].clamp_(*attack.bounds)
    free = None if attack.mask is None else free_pixels(attack.mask, pixels)
    return _Job(pixels, goal(wanted), values, None if free is None or bool(free.all()) else free)


def _begun_on(grid: Grid | None, attack: Attack, job: _Job) -> _Job:
    """Where a search begins that asks about images on the grid alone, and what that leaves of a budget in L1 or L2."""
    if not isinstance(grid, Levels) or attack.access == "gradient" or attack.aim != "budget":
        return job
    ball = _ball(attack, job)
    if ball is None or ball.norm not in (norms.L1, norms.L2):
        return job
    start = grid.settled(job.pixels, grid.nearest(job.pixels), job.free)
    if start.equal(job.pixels):
        return job
    left = (ball.eps - ball.norm.distance(start, job.pixels)).clamp_min(0)
    return replace(job, pixels=start, values={**job.values, "eps": left})


def _searched(attack: Attack, job: _Job, model: Classifier) -> Tensor:
    """`_perturb` of the whole batch, or on a CPU of a part at a time: more activations overflow its caches."""
    if job.free is not None and job.frame is None and not attack.spatial:
        return _among_free(attack, job, model)
    count = len(job.pixels)
    rows = _ROWS_ON_CPU if attack.independent_rows and job.pixels.device.type == "cpu" else count
    if count <= rows:
        return _perturbed(attack, job, model)
    parts = torch.arange(count, device=job.pixels.device).split(rows)
    return torch.cat([_perturbed(attack, job.rows(part), model) for part in parts])


def _among_free(attack: Attack, job: _Job, model: Classifier) -> Tensor:
    """`_perturb` of the vectors of free pixels, those of the same length together."""
    assert isinstance(model, Shown)
    assert job.free is not None
    found, spent, told = job.pixels.clone(), torch.zeros_like(job.goal.classes), list(model.ledger)
    for rows, frame in Frame.around(job.pixels, job.free):
        model.ledger.clear()
        values = {name: frame.cut(value[rows]) for name, value in job.values.items()}
        vectors = replace(job.rows(rows), pixels=frame.vectors(), values=values, free=None, frame=frame)
        found[rows] = frame.whole(_searched(attack, vectors, model))
        if model.ledger:
            spent[rows] = torch.cat(model.ledger)
    model.frame, model.ledger = None, told if attack.access == "gradient" else [*told, spent]
    return found


def _perturbed(attack: Attack, job: _Job, model: Classifier) -> Tensor:
    goal = job.goal
    if isinstance(model, Shown):
        model.frame, model.free = job.frame, job.free
        if job.frame is not None:
            goal = replace(goal, place=torch.arange(len(goal.classes), device=goal.classes.device))

    def search(model: Classifier, inputs: Sequence[Tensor]) -> Tensor:
        pixels, classes, *values = inputs
        of_rows = dict(zip(job.values, values, strict=True))
        attacker = attack._with(model=model, mask=job.free, **of_rows)
        wanted = goal if classes is goal.classes else replace(goal, classes=classes)
        return attacker._attack(pixels, wanted).detach()

    def carried(model: Classifier) -> Tensor:
        inputs = [job.pixels, goal.classes, *job.values.values()]
        is_recorded = attack.compiled and attack.mask is None
        found = searched(attack, model, inputs, search) if is_recorded else search(model, inputs)
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
    return found


def _ball(attack: Attack, job: _Job) -> Ball | None:
    """The budget of the attack; None if it has none, or one that does not say what it is."""
    norm, eps = getattr(attack, "norm", None), job.values.get("eps", getattr(attack, "eps", None))
    return None if norm is None or eps is None else Ball.of(norm, job.pixels, eps, attack.bounds)


def _rounded(attack: Attack, found: Tensor, job: _Job, model: Classifier, grid: Grid) -> Tensor:
    """What was found, on the grid: within the budget still, or as far as it takes to fool."""
    if attack.access != "gradient":  # who asked about images on the grid alone
        return Landing(grid, model, job.pixels, job.goal, attack.bounds, None, job.free).nearest(found)
    ball = _ball(attack, job)
    if isinstance(model, Shown):  # to be asked about some of the images, whole
        model.frame = model.free = None
    landing = Landing(grid, model, job.pixels, job.goal, attack.bounds, ball, job.free)
    if attack.aim == "budget":
        if ball is None or attack._is_one_for_all:
            return landing.inside(found)  # any other change might leave a budget that only the attack knows
        return landing.of(found, within=True)
    landed = replace(landing, ball=None).of(found, within=False)
    if ball is not None:  # of a minimal attack that gives a verdict
        beyond = (~(ball.norm.distance(landed, job.pixels) <= ball.eps)).nonzero().squeeze(1)
        if len(beyond):
            landed[beyond] = landing.rows(beyond).of(found[beyond], within=True)
    return landed
