"""What an attack is: read this first, then one file under ``attacks``.

An attack is an object that knows its model and its numbers. Calling it takes images through

    checks -> attacking(model) -> _perturb(images, goal) -> one projection -> images

so that the file of an attack holds its algorithm and nothing else.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import norms
from advkit._engine.checks import check_bounds, check_choice, check_classes, check_images, check_model, check_rows
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.wording import short
from advkit.errors import AdvkitError
from advkit.goals import Goal, Targeted, Untargeted
from advkit.model import Model, attacking
from advkit.norms import Norm, column

__all__ = ["AdversarialResult", "Attack", "Kind"]

_ROWS_ON_CPU = 64  # at once; a CNN on images of 32x32 takes 0.7 of the time for each that it takes in a batch of 256


@dataclass(frozen=True, eq=False)
class AdversarialResult:
    """What an attack did to a batch, as the model sees it. All tensors are where the images were.

    Attributes:
        images: (N, ...), the adversarial images, in the dtype of the originals.
        originals: (N, ...), the images that were attacked.
        labels: int64 (N,), their labels.
        predictions: int64 (N,), what the model says of ``images``.
        success: bool (N,), whether that is what the attack was after: the target where there is one, otherwise
            anything but the label. An image that the model got wrong before the attack counts as a success.
        targets: int64 (N,), or None for an untargeted attack.
        queries: int64 (N,), how many forwards a black-box attack spent on each image; None for other attacks.
    """

    images: Tensor
    originals: Tensor
    labels: Tensor
    predictions: Tensor
    success: Tensor
    targets: Tensor | None = None
    queries: Tensor | None = None

    def distance(self, norm: str | Norm = "l2") -> Tensor:
        """How far each image was moved: floating, (N,), in units of pixels.

        Args:
            norm: "l0", "l1", "l2", "linf", or an object of `advkit.norms`.
        """
        work = torch.promote_types(self.images.dtype, torch.float32)
        return norms.get(norm).distance(self.images.to(work), self.originals.to(work))

    def __repr__(self) -> str:
        return f"AdversarialResult({int(self.success.sum())} of {len(self.success)} successful)"


Kind = Literal["budget", "minimal", "black-box"]
"""What an attack looks for: the worst image within a budget, the closest image that fools the model and otherwise the
original, or the latter from the model's answers alone."""


@dataclass(frozen=True, eq=False)
class Attack(ABC):
    """Base of all attacks: a model, numbers, and `_perturb`. A subclass says its `kind` where it is not "budget".

    Args:
        model: pixels (N, ...) in, logits (N, K) out; usually an `nn.Module`. It may be in any mode and on any
            device: while it is attacked it is in eval mode, and afterwards it is as it was.
        bounds: the lowest and the highest value of a pixel.
        generator: where a random attack draws from; torch's default generator if None. Attacks that are
            deterministic draw from none.
        autocast: `torch.bfloat16` to search with the model under `torch.autocast`, faster where the hardware has
            bfloat16; None for the model as it is. Success is never judged under it: an attack that stops at success
            (a minimal one, or one with ``early_stop``) asks the model itself of what it found, and starts over on
            the images that do not fool it. Black-box attacks have no use for it.

    Raises:
        InputError: a number is out of its range, when the attack is made; or images, labels or targets cannot be
            used, when it is called, before the model is. Labels that the model has no logit for are found out at
            its first answer.
        ModelError: the model returned NaN, or something that is no batch of logits.
    """

    kind: ClassVar[Kind] = "budget"

    _adaptive: ClassVar[bool] = True  # `on` gives its copy a value of its own

    model: Model = field(repr=False)
    _: KW_ONLY
    bounds: tuple[float, float] = (0.0, 1.0)
    generator: torch.Generator | None = field(default=None, repr=False)
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        check_model(self.model)
        check_bounds(self.bounds)
        check_choice("autocast", self.autocast, (None,) if self.kind == "black-box" else (None, torch.bfloat16))

    @abstractmethod
    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        """The attack itself: adversarial images (N, ...) of valid images, a batch or a part of one, N at least 1.

        When this runs everything has been checked. ``images`` is floating, float32 or better, detached and on
        the device of the model. ``self.model`` is in eval mode with gradients enabled; what it returns is
        checked and float32 or better. Neither ``images`` nor the default RNG may be written to. The result is
        detached and clipped to ``bounds`` by the caller.
        """

    def __call__(self, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> Tensor:
        """Attack a batch.

        Args:
            images: floating, (N, ...), within ``bounds``, on any device.
            labels: int64 (N,), the true class of each image, in [0, K).
            targets: int64 (N,), the class that each image should be taken for; None for any but the label.

        Returns:
            The adversarial images: shape, dtype and device of ``images``, within ``bounds``.
        """
        check_images(images, self.bounds)
        classes = {"labels": labels} if targets is None else {"labels": labels, "targets": targets}
        for name, of_rows in classes.items():
            check_classes(name, of_rows, images)
        per_row = self._per_row()
        for name, value in per_row.items():
            check_rows(name, value, images)
        if not images.numel():
            return images.detach().clone()
        with attacking(self.model, adaptive=self._adaptive and self.kind != "black-box"):
            return self._adversarials(images, classes, per_row)

    def run(self, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> AdversarialResult:
        """Attack a batch as `__call__` does, and ask the model about the outcome.

        Takes what `__call__` takes and costs one forward more: success is judged on the images returned. A model
        with a random defense is asked ten times, and its prediction is what it says most often.
        """
        adversarials = self(images, labels, targets=targets)
        labels = labels.to(images.device, torch.int64)
        targets = None if targets is None else targets.to(images.device, torch.int64)
        predictions = self._predict(adversarials)
        return AdversarialResult(
            images=adversarials,
            originals=images.detach(),
            labels=labels,
            predictions=predictions,
            success=predictions != labels if targets is None else predictions == targets,
            targets=targets,
        )

    def on(self, model: Model, *, adaptive: bool = True) -> Self:
        """The same attack against another model.

        Args:
            model: pixels (N, ...) to logits (N, K).
            adaptive: whether the attacker knows the defenses in the model and differentiates their surrogates;
                see `advkit.defenses.Defense`. False for the naive attacker, who takes the gradient that there is.
        """
        check_model(model)
        return self._with(model=model, _adaptive=adaptive)

    def compile(self, **options: Any) -> Self:
        """The same attack against the model as `torch.compile` rewrites it: the same answers, to rounding.

        The first batch waits for the compiler, and so may another shape of batch. `DeepFool`, `CW`, `EAD` and `JSMA`
        take several gradients of one answer, which torch allows with ``torch._functorch.config.donated_buffer =
        False``; otherwise its error says so.

        Args:
            **options: for `torch.compile`, such as ``mode="reduce-overhead"`` for CUDA graphs.
        """
        return self._with(model=torch.compile(self.model, **options))

    def __str__(self) -> str:
        """The name and the numbers that are not the defaults, such as ``PGD(eps=4/255, steps=40)``."""
        changed = (
            f"{known.name}={short(getattr(self, known.name))}"
            for known in fields(self)
            if known.repr and _differs(getattr(self, known.name), known.default)
        )
        return f"{type(self).__name__}({', '.join(changed)})".removesuffix("()")

    def _adversarials(self, images: Tensor, classes: dict[str, Tensor], per_row: dict[str, Tensor]) -> Tensor:
        """`_perturb`, with everything moved to the model for the work and back again."""
        model = Classifier(self.model, classes)
        device, work = model.workplace(images)
        pixels = own(images, device, work)
        classes = {name: own(of_rows, device, torch.int64) for name, of_rows in classes.items()}
        goal = Targeted(classes["targets"]) if "targets" in classes else Untargeted(classes["labels"])
        searched = model if self.autocast is None else Classifier(self.model, classes, self.autocast)
        per_row = {name: own(value, device, work) for name, value in per_row.items()}
        found = self._found(pixels, goal, searched, per_row)
        searched.verify()
        if searched is not model and (self.kind == "minimal" or getattr(self, "early_stop", False)):
            found = self._confirmed(found, pixels, goal, model, per_row)
        if work != images.dtype:
            found = self._as_originals(found, pixels, images, goal, model)
        return found.to(images.device).clamp(*self.bounds)

    def _found(self, pixels: Tensor, goal: Goal, model: Classifier, per_row: dict[str, Tensor]) -> Tensor:
        """`_perturb` of the whole batch, on a CPU a part at a time: the activations of more rows overflow its caches.

        A black-box attack cuts its queries itself.
        """
        rows = _ROWS_ON_CPU if pixels.device.type == "cpu" and self.kind != "black-box" else len(pixels)
        if len(pixels) <= rows:
            return self._part(pixels, goal, model, per_row)
        everything = torch.arange(len(pixels), device=pixels.device)
        return torch.cat(
            [
                self._part(pixels[part], goal.rows(part), model, {name: each[part] for name, each in per_row.items()})
                for part in everything.split(rows)
            ]
        )

    def _part(self, pixels: Tensor, goal: Goal, model: Classifier, per_row: dict[str, Tensor]) -> Tensor:
        found = model.verified(lambda model: self._with(model=model, **per_row)._perturb(pixels, goal).detach())
        if found.shape != pixels.shape:
            raise AdvkitError(
                f"{type(self).__name__}._perturb returned shape {tuple(found.shape)} for images of shape "
                f"{tuple(pixels.shape)}"
            )
        return found

    def _confirmed(
        self, found: Tensor, pixels: Tensor, goal: Goal, model: Classifier, per_row: dict[str, Tensor]
    ) -> Tensor:
        """What was found in low precision where it fools the model, and elsewhere what the model itself leads to."""
        with torch.no_grad():
            missed = (~goal.success(model(found))).nonzero().squeeze(1)
        if len(missed):
            of_missed = {name: value[missed] for name, value in per_row.items()}
            found = found.index_copy(0, missed, self._found(pixels[missed], goal.rows(missed), model, of_missed))
            model.verify()
        return found

    def _as_originals(self, found: Tensor, pixels: Tensor, originals: Tensor, goal: Goal, model: Classifier) -> Tensor:
        """What was found from ``pixels``, in the dtype of the originals: (N, ...).

        A pixel that was not moved is the original's to the bit. In 16 bits a moved one is rounded towards its
        original by a budget attack, since the nearest could be out of its budget; by a minimal attack to the
        nearest, and an image that no longer fools the model (one forward tells) is the original.
        """
        originals = originals.detach().to(found.device)
        rounded = found.to(originals.dtype)
        if torch.finfo(originals.dtype).bits < 32:
            if self.kind == "budget":
                too_far = (rounded - pixels).abs() > (found - pixels).abs()
                rounded = torch.where(too_far, _next_towards(rounded, originals), rounded)
            elif self.kind == "minimal":
                fools = goal.success(model(rounded.to(found.dtype)).detach())
                rounded = rounded.where(column(fools, rounded), originals)
        return torch.where(found == pixels, originals, rounded)

    @property
    def _classifier(self) -> Classifier:
        """``model`` with its logits checked and its gradients watched, which it is while `__call__` runs `_perturb`.

        An attack that builds on another may run the other's `_perturb` on a model of its own.
        """
        return self.model if isinstance(self.model, Classifier) else Classifier(self.model, {})

    def _predict(self, images: Tensor) -> Tensor:
        """The model's answer to each image: int64, (N,)."""
        if not len(images):
            return torch.empty(0, dtype=torch.int64, device=images.device)
        return prediction(self.model, images)

    def _per_row(self) -> dict[str, Tensor]:
        """The hyperparameters that are given for each image."""
        values = {known.name: getattr(self, known.name) for known in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor) and value.ndim}

    def _with(self, **changes: object) -> Self:
        """A copy with other attributes. Unlike `dataclasses.replace` it needs no constructor to agree."""
        other = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
        return other


def _next_towards(values: Tensor, goals: Tensor) -> Tensor:
    """The neighbours of 16-bit floats on the side of their goals; `torch.nextafter` is not there for all devices."""
    bits = values.view(torch.int16).int()
    order = torch.where(bits < 0, -(bits & 0x7FFF), bits) + torch.sign(goals - values).int()
    return torch.where(order < 0, -order - 0x8000, order).to(torch.int16).view(values.dtype)


def _differs(value: object, default: object) -> bool:
    return isinstance(value, Tensor) or value != default
