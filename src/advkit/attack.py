"""What an attack is: read this first, then one file under ``attacks``.

An attack is an object that holds its model and its hyperparameters. Calling it takes images through

    checks -> attacking(model) -> _perturb(images, goal) -> one projection -> images

so that the file of an attack contains its algorithm and nothing else. `advkit._engine.run` is that line in full.
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from typing_extensions import Self

from advkit import hyperparameters, norms
from advkit._engine.checks import check_bounds, check_choice, check_generator, check_model
from advkit._engine.classifier import Classifier, prediction, warn_of_infinite
from advkit._engine.lengths import BASES, default, is_given, settle
from advkit._engine.masks import free_pixels, is_per_image
from advkit._engine.ranges import PixelMask
from advkit._engine.run import Done, Stage, carry_out
from advkit._engine.wording import short
from advkit.goals import Goal
from advkit.hyperparameters import OneForAll, declared, flag, number
from advkit.model import Model, placement
from advkit.norms import Norm

__all__ = ["Access", "AdversarialResult", "Aim", "Attack", "Stage"]

Access = Literal["gradient", "scores", "decisions"]
"""What an attack sees of a model: its gradients, its logits, or only which logit is the largest."""

Aim = Literal["budget", "minimal"]
"""What an attack looks for: the worst image within a budget, or the closest image that fools the model."""


_KINDS: dict[object, tuple[Access, Aim]] = {
    "budget": ("gradient", "budget"),
    "minimal": ("gradient", "minimal"),
    "black-box": ("scores", "minimal"),
}


@dataclass(frozen=True, eq=False)
class AdversarialResult:
    """What an attack did to a batch, as the model sees it. All tensors are on the device of the originals.

    Attributes:
        images: (N, ...), the adversarial images, in the dtype of the originals.
        originals: (N, ...), the images that were attacked.
        labels: int64 (N,), their labels.
        predictions: int64 (N,), the class that the model predicts for each of ``images``.
        success: bool (N,), whether that is what the attack aimed for: the target where there is one, otherwise
            any class but the label. An image that the model got wrong before the attack counts as a success.
        targets: int64 (N,), or None for an untargeted attack.
        queries: int64 (N,), how many forwards a black-box attack spent on each image; None for other attacks.
        fooled_by: int64 (N,), for combined attacks: the index in ``stages`` of the attack that fooled the model
            on each image, -1 where none did or none was needed; None for other attacks.
        stages: for combined attacks, how many images each of them was tried on, and what it cost; else empty.

    Examples:
        >>> result = advkit.FGSM(model, eps=8 / 255).run(images, labels)
        >>> result.success.shape, result.distance("linf").shape
        (torch.Size([12]), torch.Size([12]))
    """

    images: Tensor
    originals: Tensor
    labels: Tensor
    predictions: Tensor
    success: Tensor
    targets: Tensor | None = None
    queries: Tensor | None = None
    fooled_by: Tensor | None = None
    stages: tuple[Stage, ...] = ()

    def distance(self, norm: str | Norm = "l2") -> Tensor:
        """The norm of each image's change: floating, (N,), in units of pixels; for L0, how many features changed.

        Args:
            norm: "l0", "l1", "l2", "linf", or an object of `advkit.norms`.
        """
        work = torch.promote_types(self.images.dtype, torch.float32)
        return norms.get(norm).distance(self.images.to(work), self.originals.to(work))

    def __repr__(self) -> str:
        return f"AdversarialResult({int(self.success.sum())} of {len(self.success)} successful)"


@dataclass(frozen=True, eq=False)
class Attack(ABC):
    """Base of all attacks: a model, hyperparameters, and `_perturb`.

    A subclass declares its hyperparameters as fields, see `advkit.hyperparameters`, and states three facts about itself
    where the defaults do not hold: ``access``, what it sees of the model; ``aim``, what it looks for; and
    ``independent_rows``, whether what happens to one image is independent of the rest of its batch, so that a batch may
    be attacked in parts. That is faster on a CPU, whose caches can hold the activations of a part.

    Args:
        model: pixels (N, ...) in, logits (N, K) out; usually an `nn.Module`. It may be in any mode and on any
            device: while it is attacked it is in eval mode, and afterwards it is as it was.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator of a random attack; torch's default if None. Attacks that are
            deterministic ignore it.
        autocast: `torch.bfloat16` to search with the model under `torch.autocast`, faster where the hardware has
            bfloat16; None for the model as it is. Success is never judged under it: an attack that stops at success
            (a minimal one, or one with ``early_stop``) checks what it found against the model itself, and starts over
            on the images that do not fool it. Black-box attacks do not use it.
        adaptive: whether the attacker knows the defenses in the model and differentiates their surrogates, see
            `advkit.defenses.Defense`; False for the naive attacker, who takes whatever gradient there is.
        compiled: whether searches are recorded as CUDA graphs where the model is on such a GPU; see `compile`.
        mask: the pixels that may move, bool or 0 and 1; None for all. For images (N, C, H, W) it has the shape (H, W)
            or (C, H, W), the same for all images, or (N, H, W) or (N, C, H, W), one for each; with N = C three
            dimensions are read as (C, H, W), and (N, 1, H, W) is unambiguous. For flat vectors (N, D) it has the
            shape (D,) or (N, D). Only the pixels that may move are attacked; the others come back bit for bit.
        levels: how many values a pixel of the result can have, 2 to 65536: with 256 it lies on the grid of 8-bit images
            within ``bounds``, and still fools the model; None for any value. Success is searched for on the
            grid, which costs some forwards, and a few backwards where rounding undid it. Pixels of the images that are
            not on the grid are rounded too, except outside a mask.

    Raises:
        InputError: a number is out of its range, when the attack is made; or images, labels or targets cannot be
            used, when it is called, before the model is. Labels for which the model has no logit are
            only discovered once it has been called.
        ModelError: the model returned NaN, or something that is not a batch of logits.

    Examples:
        >>> attack = advkit.PGD(model, eps=4 / 255, steps=5)
        >>> str(attack)
        'PGD(eps=4/255, steps=5)'
        >>> attack(images, labels).shape == images.shape
        True
        >>> attack.spatial, attack.stops_at_success, advkit.SIA(model).spatial, advkit.CW(model).stops_at_success
        (False, False, True, True)
        >>> attack.classifier.logits(images).shape  # what an author's `_perturb` calls
        torch.Size([12, 10])
    """

    access: ClassVar[Access] = "gradient"
    aim: ClassVar[Aim] = "budget"
    independent_rows: ClassVar[bool] = False

    model: Model = field(repr=False)
    _: KW_ONLY
    bounds: tuple[float, float] = (0.0, 1.0)
    generator: torch.Generator | None = field(default=None, repr=False)
    autocast: torch.dtype | None = None
    adaptive: bool = flag(True)
    compiled: bool = flag(False)
    mask: Tensor | None = declared(None, PixelMask(optional=True))
    levels: int | None = number(None, at_least=2, at_most=65536, integer=True)

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if (kind := vars(cls).get("kind")) in _KINDS:  # as attacks said it before there were facts
            cls.access, cls.aim = _KINDS[kind]

    def __post_init__(self) -> None:
        check_model(self.model)
        check_bounds(self.bounds)
        check_generator(self.generator)
        check_choice("autocast", self.autocast, (None, torch.bfloat16) if self.access == "gradient" else (None,))
        settle(self)
        for name, what in hyperparameters.of(type(self)).items():
            if is_given(value := getattr(self, name)):
                what.check(name, value)

    @abstractmethod
    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        """The attack itself: adversarial images (N, ...) of valid images, a batch or a part of one, N at least 1.

        When this runs everything has been checked. ``images`` is floating, float32 or better, detached and on
        the device of the model. ``self.classifier`` is the model, in eval mode and with gradients enabled; what it
        returns is checked and float32 or better. Neither ``images`` nor the default RNG may be written to. The result
        is detached and clipped to ``bounds`` by the caller.
        """

    def _attack(self, images: Tensor, goal: Goal) -> Tensor:
        """`_perturb`, and what a family of attacks puts around it, as `advkit.black_box` its count of queries."""
        return self._perturb(images, goal)

    @property
    def spatial(self) -> bool:
        """Whether it matters where pixels lie, as it does to an attack that draws squares or blurs gradients.

        With a mask, such an attack gets whole images, its ``mask`` as bool (N, ...), and gradients that are zero
        outside it. Others get the free pixels alone, as flat vectors. By default, an attack is spatial if it has a
        `tensor` for all images.
        """
        return self._is_one_for_all

    @property
    def _is_one_for_all(self) -> bool:
        """Whether it has a `tensor` that is the same for all images, such as one perturbation for all of them."""
        return any(isinstance(what, OneForAll) for what in hyperparameters.of(type(self)).values())

    @property
    def stops_at_success(self) -> bool:
        """Whether an image leaves the search once the model is fooled, which low precision must not decide."""
        return self.aim == "minimal" or bool(getattr(self, "early_stop", False))

    def __call__(self, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> Tensor:
        """Attack a batch.

        Args:
            images: floating, (N, ...), within ``bounds``, on any device.
            labels: int64 (N,), the true class of each image, in [0, K).
            targets: int64 (N,), the class to be predicted for each image; None for any but the label.

        Returns:
            The adversarial images: shape, dtype and device of ``images``, within ``bounds``.

        Examples:
            >>> adversarials = advkit.PGD(model)(images, labels)
            >>> as_wanted = advkit.PGD(model)(images, labels, targets=targets)
        """
        done = self._carry_out(images, labels, targets)
        warn_of_infinite(done.infinite)
        return done.images

    def run(self, images: Tensor, labels: Tensor, *, targets: Tensor | None = None) -> AdversarialResult:
        """Attack a batch as `__call__` does, and return the outcome with the images.

        Takes what `__call__` takes and costs one forward more: success is judged on the images returned. A model
        with a random defense is called ten times, and its prediction is the most frequent one.

        Examples:
            >>> result = advkit.PGD(model).run(images, labels)
            >>> result
            AdversarialResult(12 of 12 successful)
        """
        done = self._carry_out(images, labels, targets)
        warn_of_infinite(done.infinite)
        labels = labels.to(images.device, torch.int64)
        targets = None if targets is None else targets.to(images.device, torch.int64)
        predictions = self._predict(done.images)
        success = predictions != labels if targets is None else predictions == targets
        return AdversarialResult(
            images=done.images,
            originals=images.detach(),
            labels=labels,
            predictions=predictions,
            success=success,
            targets=targets,
            queries=done.queries,
            fooled_by=None if done.stage is None else done.stage.where(success, -1),
            stages=done.stages,
        )

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        """The attack, from the caller's images to adversarial ones; one that is made of attacks has its own way."""
        return carry_out(self, images, labels, targets)

    def on(self, model: Model, *, adaptive: bool = True) -> Self:
        """The same attack against another model.

        Args:
            model: pixels (N, ...) to logits (N, K).
            adaptive: whether the attacker knows the defenses in the model; see `Attack`.

        Examples:
            >>> smoothed = advkit.defenses.FeatureSmoothing().wrap(model)
            >>> advkit.PGD(model, steps=20).on(smoothed).run(images, labels)  # the same hyperparameters
            AdversarialResult(12 of 12 successful)
        """
        check_model(model)
        return self._with(model=model, adaptive=adaptive)

    def compile(self, **options: Any) -> Self:
        """The same attack with less overhead around its passes; the results are the same up to rounding.

        If the model is on a CUDA GPU, an attack that never waits for the device (`FGSM`, `IFGSM`, `MIFGSM`, `PGD`,
        `SparseL1Descent` without ``early_stop``) is recorded as one CUDA graph for each shape of batch, the second time
        that shape comes up. Weights, images and labels may change between batches; whatever the model decides in Python
        stays as it was when it was recorded. An attack that cannot be recorded warns, and runs as usual.

        Elsewhere, and with ``options``, the model is compiled by `torch.compile`. The first batch waits for the
        compiler, and so may the first of any other shape. `DeepFool`, `CW`, `EAD` and `JSMA` take several gradients of
        one output, which torch allows with ``torch._functorch.config.donated_buffer = False``; without it, its error
        says so.

        Args:
            **options: for `torch.compile`, such as ``mode="max-autotune"``.
        """
        device, _ = placement(self.model)
        recordable = self.access == "gradient" and not self.stops_at_success
        if recordable and not options and device is not None and device.type == "cuda":
            return self._with(compiled=True)
        return self._with(model=torch.compile(self.model, **options))

    def _predict(self, images: Tensor) -> Tensor:
        """The class that the model predicts for each image: int64, (N,)."""
        if not len(images):
            return torch.empty(0, dtype=torch.int64, device=images.device)
        return prediction(self.model, images)

    def _with(self, **changes: object) -> Self:
        """A copy with other attributes. Unlike `dataclasses.replace` it needs no constructor to agree."""
        other = copy.copy(self)
        for name, value in changes.items():
            object.__setattr__(other, name, value)
        if not BASES.isdisjoint(changes):
            settle(other)
        return other

    def _per_row(self) -> dict[str, Tensor]:
        """The hyperparameters that are given for each image, (N,) or (N, ...); see `hyperparameters.per_image`."""
        values = {name: getattr(self, name) for name in hyperparameters.per_image(type(self))}
        whole = hyperparameters.whole_images(type(self))
        return {
            name: value
            for name, value in values.items()
            if isinstance(value, Tensor) and (value.ndim == 1 or name in whole)
        }

    def _of_rows(self, index: Tensor, images: Tensor) -> Self:
        """The same attack for some of the images of its batch, which are (N, ...): those of the places int64 (n,)."""
        values = {name: value[index.to(value.device)] for name, value in self._per_row().items()}
        if self.mask is not None and is_per_image(self.mask, images):
            # Whole, since a cut of (N, H, W) may look like (C, H, W).
            values["mask"] = free_pixels(self.mask, images)[index]
        return self._with(**values) if values else self

    def __str__(self) -> str:
        """The name and the hyperparameters that differ from their defaults: ``PGD(eps=4/255, steps=40)``."""
        changed = (
            f"{known.name}={short(getattr(self, known.name))}"
            for known in fields(self)
            if known.repr and _differs(getattr(self, known.name), default(self, known.default))
        )
        return f"{type(self).__name__}({', '.join(changed)})".removesuffix("()")

    @property
    def classifier(self) -> Classifier:
        """``model`` as an attack calls it: ``logits(x)``, and ``gradient(values, x)`` of something computed from them.

        Logits are checked and gradients watched. While `__call__` runs `_perturb` this is ``model`` itself; an attack
        that builds on another may run the other's `_perturb` on a model of its own.
        """
        return self.model if isinstance(self.model, Classifier) else Classifier(self.model, {})


def _differs(value: object, usual: object) -> bool:
    return is_given(value) and (isinstance(value, Tensor) or isinstance(usual, Tensor) or value != usual)
