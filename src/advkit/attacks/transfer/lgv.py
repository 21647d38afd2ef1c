"""Large geometric vicinity: the weights along a few epochs of SGD as surrogates."""

import copy
import math
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advkit import hyperparameters
from advkit._base.answers import described, found_in
from advkit._base.state import to_training_mode
from advkit._engine.checks import check_classes, check_images
from advkit._engine.classifier import own
from advkit._engine.run import Done, check_call
from advkit.attack import Attack
from advkit.attacks.transfer.part import Part, PartList
from advkit.attacks.transfer.transfer import Transfer
from advkit.errors import AdvkitError, InputError
from advkit.goals import Goal
from advkit.hyperparameters import OfEps, OfRange, declared, number
from advkit.losses import Loss
from advkit.model import Ensemble, Model, placement
from advkit.norms import Linf, Norm

__all__ = ["LGV", "InTurn", "along_sgd"]


def along_sgd(
    model: Model,
    loader: Iterable[Sequence[Tensor]],
    *,
    lr: float = 0.05,
    epochs: int = 10,
    models_per_epoch: int = 4,
    weight_decay: float = 1e-4,
) -> Iterator[nn.Module]:
    """Continue training a copy of a model, by SGD with a constant step size, and yield copies at regular intervals.

    The model itself is left unchanged. A layer of it that is in eval mode while others are in training mode, such as a
    frozen BatchNorm, stays in eval mode. The models are yielded in eval mode, on the model's device, while the copy is
    trained, so that they can be saved one by one; to continue later, start from the last one.

    Args:
        model: an `nn.Module`, pixels (N, ...) to logits (N, K); all its parameters are trained.
        loader: batches of images, floating (N, ...), and labels, int64 (N,); it has a length.
        lr: the learning rate of SGD, which has a momentum of 0.9.
        epochs: how many epochs to train.
        models_per_epoch: how many models to yield in each epoch, at most the number of batches.
        weight_decay: the weight decay of SGD.

    Raises:
        InputError: the model is not a module with parameters, or the loader has no length or too few batches.

    Examples:
        >>> from advkit.attacks.transfer import along_sgd
        >>> models = list(along_sgd(model, loader, epochs=1, models_per_epoch=1))
        >>> len(models), models[0].training
        (1, False)
    """
    if not isinstance(model, nn.Module) or not list(model.parameters()):
        raise InputError(f"model must be an nn.Module with parameters, to train further; got {type(model).__name__}")
    batches = len(loader) if isinstance(loader, Sized) else 0
    if batches < models_per_epoch:
        raise InputError(
            f"loader must be a DataLoader or a list, with at least models_per_epoch={models_per_epoch} batches; "
            f"got {type(loader).__name__} with {batches}"
        )
    stops = {math.ceil(batches * (place + 1) / models_per_epoch) for place in range(models_per_epoch)}
    with torch.inference_mode(False):
        trained = copy.deepcopy(model).requires_grad_(True)
    optimizer = torch.optim.SGD(trained.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay)
    device, dtype = placement(model)
    to_training_mode(trained)
    for _ in range(epochs):
        for number_of, batch in enumerate(loader, 1):
            with torch.inference_mode(False), torch.enable_grad():
                images, labels = _pair(batch)
                place = device or images.device
                optimizer.zero_grad()
                logits = found_in(trained(own(images, place, dtype or images.dtype)))
                F.cross_entropy(logits, own(labels, place, torch.int64)).backward()
                optimizer.step()
            if number_of in stops:
                yield copy.deepcopy(trained).eval().requires_grad_(False)


def _pair(batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The images (N, ...) and labels (N,) of a batch; those may come in a column."""
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        seen = described(batch)
        raise InputError(f"LGV needs a loader of batches (images, labels) to train on; this one yields {seen}")
    images, labels = batch[0], batch[1]
    check_images(images, (-math.inf, math.inf))
    if isinstance(labels, Tensor) and labels.shape == (len(images), 1):
        labels = labels.squeeze(1)
    check_classes("labels", labels, images)
    return images, labels


class InTurn(Ensemble):
    """Several models that take turns: each call is answered by the next model in a random order.

    For transfer attacks, each step of which is then on another model, at the cost of a single model.

    Args:
        models: pixels (N, ...) to logits (N, K), of the same classes; at least one.
        at_once: how many of them answer each call, with the mean of their logits, at least 1.
        generator: random generator for the order; torch's default if None.

    Raises:
        InputError: there is no model, or one cannot be called.

    Examples:
        >>> from advkit.attacks.transfer import InTurn
        >>> both = InTurn([model, advkit.Normalized(net, mean=0.5, std=0.5)])
        >>> first, second, third = both(images), both(images), both(images)
        >>> torch.equal(first, second), torch.equal(first, third)
        (False, True)
    """

    def __init__(self, models: Iterable[Model], at_once: int = 1, generator: torch.Generator | None = None) -> None:
        super().__init__(models)
        self.at_once = min(at_once, len(self.models))
        order = list(range(len(self.models)))
        if self.at_once < len(self.models):  # or there is nothing to draw
            device = "cpu" if generator is None else generator.device
            order = torch.randperm(len(self.models), generator=generator, device=device).tolist()
        self.order = order
        self.place = 0

    def _asked(self) -> Sequence[Model]:
        places = [self.order[(self.place + each) % len(self.order)] for each in range(self.at_once)]
        self.place = (self.place + self.at_once) % len(self.order)
        return [self.models[place] for place in places]

    def extra_repr(self) -> str:
        """How many answer each call."""
        return f"at_once={self.at_once}"


@dataclass(frozen=True, eq=False)
class LGV(Attack):
    """Large geometric vicinity: sign steps on models from a few epochs of SGD, in random order (Linf).

    Training of the surrogate is continued with a large constant learning rate, and the models reached four times an
    epoch are those on which the steps of a `Transfer` are taken, by default those of `IFGSM`. The surrogate itself is
    unchanged, and its own gradients are not used; `run` judges success on it.

    The models are made once, at the first call or by `collect`, and are shared by copies of the attack. They take
    the memory of as many copies of the surrogate.

    Gubri, Cordy, Papadakis, Le Traon & Sen, "LGV: boosting adversarial example transferability from large geometric
    vicinity", ECCV 2022, algorithms 1 and 2. arXiv:2207.13129.

    Args:
        model: the surrogate, an `nn.Module` to continue training from, pixels (N, ...) to logits (N, K).
        loader: batches of its training images, floating (N, ...), and labels, int64 (N,); it has a length.
        lr: the learning rate of SGD, which has a momentum of 0.9, positive.
        epochs: how many epochs to train, at least 0; with 0, the steps are taken on the model itself.
        models_per_epoch: how many models to take from each epoch, at least 1.
        weight_decay: the weight decay of SGD, at least 0.
        models_at_once: on how many of the models each step is taken, by the mean of their logits, at least 1.
        eps: the largest change of a pixel, at least 0: a number, or a tensor of shape (N,); 8/255 of the range of
            ``bounds`` if not given.
        alpha: the size of a step, positive: a number, or a tensor of shape (N,); a tenth of ``eps`` if not given.
        steps: how many steps, at least 1.
        parts: other parts of the steps, such as ``[Momentum()]``; see `Transfer`.
        models: the models, from `collect` or your own; nothing is trained then.
        loss: the loss to maximise; see `Transfer`.
        bounds: the lowest and the highest value of a pixel.
        generator: random generator for the order; torch's default if None.

    Raises:
        InputError: a number is out of its range, or, when the models are made, there is no loader with enough batches
            or nothing to train; see `Attack` for the rest.

    Examples:
        >>> attack = advkit.LGV(model, loader, epochs=1, models_per_epoch=1, steps=5)
        >>> result = attack.run(images, labels)
        >>> bool((result.distance("linf") <= 8 / 255 + 1e-6).all())
        True
        >>> again = advkit.LGV(model, models=attack.collect(), steps=5)  # they may be saved, and loaded
    """

    norm: ClassVar[Norm] = Linf

    loader: Any = field(default=None, repr=False)
    lr: float = number(0.05, above=0)
    epochs: int = number(10, at_least=0, integer=True)
    models_per_epoch: int = number(4, at_least=1, integer=True)
    weight_decay: float = number(1e-4, at_least=0)
    _: KW_ONLY
    models_at_once: int = number(1, at_least=1, integer=True)
    eps: float | Tensor = number(OfRange(8 / 255), at_least=0, per_image=True)
    alpha: float | Tensor = number(OfEps(0.8 / 255, 1 / 10), above=0, per_image=True)
    steps: int = number(50, at_least=1, integer=True)
    parts: Sequence[Part] = declared((), PartList())
    models: Sequence[Model] = field(default=(), repr=False)
    loss: str | Loss = hyperparameters.loss()
    _kept: ClassVar["_Kept"]  # of each object, and no field: copies share it

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "_kept", _Kept(self.model))

    def collect(self) -> Sequence[Model]:
        """The models on which the steps are taken; they are made if they have not been yet.

        If interrupted, the next call continues from the last model made, with the momentum reset.
        """
        if self.models or not self.epochs:
            return self.models or (self.model,)
        if self._kept.of is not self.model:  # a copy of the attack that was pointed at another
            object.__setattr__(self, "_kept", _Kept(self.model))
        found = self._kept.models
        while (missing := self.epochs * self.models_per_epoch - len(found)) > 0:
            epochs = along_sgd(
                _frozen_as(self.model, found[-1]) if found else self.model,
                self.loader,
                lr=self.lr,
                epochs=math.ceil(missing / self.models_per_epoch),
                models_per_epoch=self.models_per_epoch,
                weight_decay=self.weight_decay,
            )
            for _, made in zip(range(missing), epochs, strict=False):
                found.append(made)
        return tuple(found)

    def _carry_out(self, images: Tensor, labels: Tensor, targets: Tensor | None) -> Done:
        classes = {"labels": labels} if targets is None else {"labels": labels, "targets": targets}
        check_call(self, images, classes, self._per_row())
        if not images.numel():
            return super()._carry_out(images, labels, targets)
        models = self.collect()
        turns = models[0] if len(models) == 1 else InTurn(models, self.models_at_once, self.generator)
        shared = {name: getattr(self, name) for name in ("eps", "alpha", "steps", "loss", "bounds", "mask", "levels")}
        whole = Transfer(turns, self.parts, **shared, generator=self.generator, autocast=self.autocast)
        # In one part: whose turn it is hangs on how many steps were taken before.
        return whole._with(independent_rows=False, adaptive=self.adaptive)._carry_out(images, labels, targets)

    def _perturb(self, images: Tensor, goal: Goal) -> Tensor:
        raise AdvkitError("LGV has no search of its own to build on; call the attack itself, or Transfer on InTurn")


def _frozen_as(model: Any, last: nn.Module) -> nn.Module:
    """A copy of the last of the models, to go on from, with what is in eval mode in the one that they come from."""
    begun = copy.deepcopy(last)
    for module, given in zip(begun.modules(), model.modules(), strict=True):
        module.training = given.training
    return begun


class _Kept:
    """The models found so far, and of which one they are."""

    def __init__(self, of: Model) -> None:
        self.of = of
        self.models: list[nn.Module] = []
