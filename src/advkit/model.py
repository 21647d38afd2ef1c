"""The model under attack: its normalisation, and its state while it is attacked."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from itertools import chain
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from typing_extensions import Self

from advkit._base.answers import described, found_in, stated
from advkit._base.behind import modules_behind
from advkit._base.state import attributes, entries
from advkit._base.turns import taking_turns
from advkit.errors import InputError, ModelError

__all__ = ["Defended", "Ensemble", "Model", "Normalized", "attacking", "defended", "is_stochastic", "placement"]

Model = Callable[[Tensor], Tensor]
"""Pixels (N, ...) in, logits (N, K) out. Usually an `nn.Module`; black-box attacks take any callable."""


class Normalized(nn.Module):
    """A network that expects normalised inputs, as a model that takes pixels.

    Attacks work on pixels, so that ``eps`` means what it says; the normalisation belongs inside the model:
    ``net((images - mean) / std)``.

    Args:
        net: the network, from normalised images (N, C, ...) to logits (N, K).
        mean: the mean of each channel, or one number for all; in units of pixels.
        std: the standard deviation of each channel, or one number for all; positive.

    Raises:
        InputError: ``mean`` and ``std`` are of different lengths, not finite, or ``std`` is not positive.

    Examples:
        >>> model = advkit.Normalized(net, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616)).eval()
        >>> result = advkit.FGSM(model, eps=8 / 255).run(images, labels)
        >>> bool((result.distance("linf") <= 8 / 255 + 1e-6).all())  # in units of pixels, whatever std is
        True
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, net: Model, mean: float | Sequence[float] | Tensor, std: float | Sequence[float] | Tensor
    ) -> None:
        super().__init__()
        self.net = net
        dtype = torch.get_default_dtype()
        as_row = [torch.as_tensor(value, dtype=dtype, device="cpu").reshape(-1) for value in (mean, std)]
        if len({len(row) for row in as_row} - {1}) > 1:
            raise InputError(f"mean has {len(as_row[0])} channels and std has {len(as_row[1])}")
        if not all(bool(row.isfinite().all()) for row in as_row):
            raise InputError(f"mean and std must be finite, got mean={mean} and std={std}")
        if not bool((as_row[1] > 0).all()):
            raise InputError(f"std must be positive, got {std}")
        parameter = next((p for p in net.parameters()), None) if isinstance(net, nn.Module) else None
        for name, row in zip(("mean", "std"), as_row, strict=True):
            self.register_buffer(name, row if parameter is None else row.to(parameter.device))

    @classmethod
    def of(cls, net: Model, weights: object = None) -> Self:
        """A network with the normalisation that it was trained with, as it or its weights state it.

        Args:
            net: the network. A timm network states it itself, in its ``pretrained_cfg``.
            weights: its torchvision weights, such as ``ResNet18_Weights.DEFAULT``, their ``transforms()``, or an image
                processor from Hugging Face; None to ask the network.

        Raises:
            InputError: neither states it.

        Examples:
            >>> import torchvision
            >>> weights = torchvision.models.ResNet18_Weights.DEFAULT
            >>> advkit.Normalized.of(torchvision.models.resnet18(), weights).mean
            tensor([0.4850, 0.4560, 0.4060])
        """
        return cls(net, *stated(net if weights is None else weights))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, C, ...)."""
        shape = (-1, *[1] * (images.ndim - 2))
        mean, std = (row.to(images).view(shape) for row in (self.mean, self.std))
        channels = max(len(mean), len(std))
        if channels not in (1, images.shape[1]):
            raise InputError(
                f"Normalized has a mean and std of {channels} channels, and images of shape "
                f"{tuple(images.shape)} have {images.shape[1]}"
            )
        return self.net((images - mean) / std)

    def extra_repr(self) -> str:
        """The constants, as they were given."""
        return f"mean={self.mean.tolist()}, std={self.std.tolist()}"


class Ensemble(nn.Module):
    """Several models as one: the mean of their outputs.

    For transfer attacks: images that fool several surrogates fool an unknown model more often. Each model has its own
    normalisation inside, see `Normalized`, and gets the images on its own device and in its own dtype.

    Liu et al., "Delving into transferable adversarial examples and black-box attacks", ICLR 2017, for
    probabilities (arXiv:1611.02770), and Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018,
    section 3.2, for logits (arXiv:1710.06081).

    Args:
        models: pixels (N, ...) to logits (N, K), for the same classes; at least one.
        mean: what to average: "logits", "probabilities", whose logarithm is returned, or "log_probabilities". With the
            last and ``loss="logit"``, an attack maximises the mean of the models' cross-entropies.

    Raises:
        InputError: there is no model, one cannot be called, or ``mean`` is none of these.
        ModelError: when called, if the models have different numbers of classes, or one returns no logits.

    Examples:
        >>> both = advkit.Ensemble([model, advkit.Normalized(net, mean=0.5, std=0.5)])
        >>> torch.allclose(both(images), (model(images) + net((images - 0.5) / 0.5)) / 2, atol=1e-5)
        True
        >>> result = advkit.MIFGSM(both).run(images, labels)
    """

    def __init__(
        self,
        models: Iterable[Model],
        mean: Literal["logits", "probabilities", "log_probabilities"] = "logits",
    ) -> None:
        super().__init__()
        if not isinstance(models, Iterable):
            raise InputError(f"models must be a list of models, such as [model]; got {type(models).__name__}")
        models = tuple(models)
        wrong = [type(model).__name__ for model in models if not callable(model)]
        if wrong or not models:
            raise InputError(f"models must be one or more, pixels in and logits out; got {wrong or 'none'}")
        if mean not in ("logits", "probabilities", "log_probabilities"):
            raise InputError(f"mean must be one of 'logits', 'probabilities', 'log_probabilities'; got {mean!r}")
        self.models = models  # in order
        self.inside = nn.ModuleList(model for model in models if isinstance(model, nn.Module))
        self.mean = mean

    def forward(self, images: Tensor) -> Tensor:
        """The mean (N, K) for pixels (N, ...)."""
        asked = self._asked()
        said = [_logits(model(images.to(*_workplace(model, images)))).to(images.device) for model in asked]
        if len(shapes := {tuple(each.shape) for each in said}) > 1:
            raise ModelError(f"the models of an Ensemble must have the same classes; they returned {sorted(shapes)}")
        widest = reduce(torch.promote_types, (each.dtype for each in said), torch.float32)
        if self.mean != "logits":
            said = [each.log_softmax(1) for each in said]
        together = torch.stack([each.to(widest) for each in said])
        if self.mean == "probabilities":
            return together.logsumexp(0) - math.log(len(said))
        return together.mean(0)

    def _asked(self) -> Sequence[Model]:
        """Those that answer the next images: all of them."""
        return self.models

    def extra_repr(self) -> str:
        """What the mean is of."""
        return f"mean={self.mean!r}"


def _logits(output: Any) -> Tensor:
    """What a model of an ensemble returned, as far as it is a batch."""
    found = found_in(output)
    if not isinstance(found, Tensor) or found.ndim != 2:
        raise ModelError(
            f"a model of an Ensemble returned {described(found)} instead of logits (N, K); say where they are: "
            "advkit.Logits(model, key=...)"
        )
    return found


def _workplace(model: Model, images: Tensor) -> tuple[torch.device, torch.dtype]:
    device, dtype = placement(model)
    return device or images.device, dtype or images.dtype


class _Defense(Protocol):
    """What a defended model has to know about its defense; see `advkit.defenses.Defense`."""

    stochastic: bool

    def surrogate(self, model: Model) -> Model: ...


class Defended(nn.Module):
    """A model behind a defense: an ordinary module, which tells attacks what to differentiate in its place.

    `advkit.defenses.Defense.wrap` makes them. They may sit anywhere in a larger model: `attacking` finds them.

    Args:
        module: pixels (N, ...) to logits (N, K), with the defense in place.
        defense: the defense.
        undefended: the model that it defends.

    Attributes:
        defense: as given.
        undefended: as given.

    Examples:
        >>> larger = torch.nn.Sequential(advkit.defenses.BitDepthReduction(bits=3).wrap(model), torch.nn.LogSoftmax(1))
        >>> isinstance(larger[0], advkit.Defended), larger[0].undefended is model
        (True, True)
        >>> adversarials = advkit.PGD(larger)(images, labels)  # finds the defense in it, and uses its surrogate
    """

    defense: _Defense
    undefended: Model

    def __init__(self, module: Model, defense: _Defense, undefended: Model) -> None:
        super().__init__()
        self.module = module
        # Not as submodules: their parameters are those of ``module``, and belong into a state_dict once.
        self.__dict__.update(defense=defense, undefended=undefended)
        self._surrogate: tuple[Model, ...] = ()  # what answers while an informed attacker asks

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of pixels (N, ...)."""
        (answering,) = self._surrogate or (self.module,)
        return answering(images)


def is_stochastic(model: Model) -> bool:
    """Whether some defense in the model draws random numbers, so that its outputs may differ from call to call.

    Examples:
        >>> advkit.model.is_stochastic(advkit.defenses.RandomCropRescale().wrap(model))
        True
        >>> advkit.model.is_stochastic(advkit.defenses.FeatureSmoothing().wrap(model))
        False
    """
    return any(one.defense.stochastic for one in defended(model))


def defended(model: Model) -> list[Defended]:
    """The modules behind a model that have a defense in front of them, even if the model is a function of them.

    Examples:
        >>> smoothed = advkit.defenses.FeatureSmoothing().wrap(model)
        >>> [one is smoothed for one in advkit.model.defended(lambda pixels: smoothed(pixels).log_softmax(1))]
        [True]
    """
    return [module for module in modules_behind(model) if isinstance(module, Defended)]


@contextmanager
def attacking(*models: Model, adaptive: bool = False) -> Iterator[None]:
    """Put models into the state in which they are attacked, and restore theirs afterwards, even after an exception.

    Inside, every module is in eval mode, gradients are recorded whatever the caller's mode, and no parameter
    requires a gradient. Afterwards each module has its own training flag back (a frozen BatchNorm stays frozen)
    and each parameter its own ``requires_grad``. A recurrent layer on CUDA is put into training mode with its
    dropout at zero, which computes the same: cuDNN refuses its backward in eval mode. A `DistributedDataParallel`
    behaves as the module inside it, so that no process waits for another. Whatever a model writes to its buffers
    when it is called, as the observers of quantisation-aware training do, is undone.

    One thread at a time may be inside with the same module; others wait.

    Args:
        models: the models, each a module or a function of modules; see `modules_behind`.
        adaptive: whether each `Defended` module is replaced by the surrogate of its defense, which an attacker
            who knows the defense differentiates.

    Raises:
        ModelError: a defense is neither differentiable nor has a surrogate, and ``adaptive`` asks for one.

    Examples:
        >>> model = model.train()
        >>> with torch.no_grad(), advkit.model.attacking(model):
        ...     print(model.training, torch.is_grad_enabled(), net[0].weight.requires_grad)
        False True False
        >>> model.training, net[0].weight.requires_grad
        (True, True)
    """
    tracked = torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()
    with tracked, torch.enable_grad():
        modules = modules_behind(models)
        answering = {
            one: (one.defense.surrogate(one.undefended),) if adaptive else ()
            for one in modules
            if isinstance(one, Defended)
        }
        if adaptive and answering:
            modules = modules_behind([*modules, *answering.values()])
        with taking_turns(modules):
            marked = [*((one, "_surrogate", it) for one, it in answering.items()), *attributes(modules)]
            written = entries(modules)
            attributes_before = [getattr(owner, name) for owner, name, _ in marked]
            entries_before = [its.get(key, _ABSENT) for its, key, _ in written]
            try:
                # Written only where they differ: modules are slow to be written to, and a batch may be one image.
                for owner, name, value in marked:
                    if getattr(owner, name) is not value:
                        setattr(owner, name, value)
                for its, key, value in written:
                    its[key] = value
                yield
            finally:
                for (its, key, _), value in zip(written, entries_before, strict=True):
                    if value is _ABSENT:
                        its.pop(key, None)
                    else:
                        its[key] = value
                for (owner, name, _), value in zip(marked, attributes_before, strict=True):
                    if getattr(owner, name) is not value:
                        setattr(owner, name, value)


_ABSENT = object()


def placement(model: Model) -> tuple[torch.device | None, torch.dtype | None]:
    """The device of the model's first parameter or buffer and the dtype of its first floating one, if any.

    Examples:
        >>> advkit.model.placement(model)
        (device(type='cpu'), torch.float32)
        >>> advkit.model.placement(lambda pixels: pixels.flatten(1))
        (None, None)
    """
    if not isinstance(model, nn.Module):
        return None, None
    device = None
    for tensor in chain(model.parameters(), model.buffers()):
        device = device or tensor.device
        if tensor.is_floating_point():
            return device, tensor.dtype
    return device, None
