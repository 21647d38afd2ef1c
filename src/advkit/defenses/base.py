"""What a defense is: read this first, then the file of one defense.

A defense wraps a model, or trains one, or both in turn. One that wraps says what it does to gradients, and attacks on
the wrapped model take that into account:

    defense.wrap(model) -> Defended -> attack -> defense.surrogate(model), which is differentiated
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from advkit._base.answers import found_in
from advkit.errors import InputError, ModelError, NoGradientError
from advkit.model import Defended, Model

__all__ = ["Defense", "Expectation", "InputTransformation"]


class Defense:
    """Base of all defenses. A subclass defines `wrap`, or `fit`, or both.

    An attack on a wrapped model is that of an attacker who knows the defense (an adaptive attack; Tramèr et al. 2020):
    it differentiates `surrogate` without being asked to. For a defense of your own, say whether it is
    ``differentiable`` and ``stochastic``. One that is not differentiable also needs a `surrogate`; otherwise attacking
    it raises an error, since a gradient of zero would pass for robustness.

    Attributes:
        differentiable: whether the gradient through the wrapped model is one that an attack can follow. Rounding has
            a gradient, zero, and is not differentiable in this sense.
        stochastic: whether the wrapped model draws random numbers, so that its predictions may differ between
            calls.
        eot_samples: the number of draws of a stochastic defense over which the surrogate averages.

    Examples:
        >>> class Blur(advkit.Defense):
        ...     def wrap(self, model):
        ...         return torch.nn.Sequential(torch.nn.AvgPool2d(3, stride=1, padding=1), model)
        >>> defended = Blur().wrap(model)
        >>> adversarials = advkit.FGSM(defended)(images, labels)
    """

    differentiable: bool = True
    stochastic: bool = False
    eot_samples: int = 10

    def __init_subclass__(cls, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        if "wrap" in cls.__dict__:
            type.__setattr__(cls, "wrap", _marking(cls.__dict__["wrap"]))

    def wrap(self, model: Model) -> nn.Module:
        """The model behind this defense, an ordinary module. Attacks on it use `surrogate`.

        Args:
            model: pixels (N, ...) to logits (N, K). It is not copied: further training of it affects the wrapped model.

        Raises:
            InputError: this defense trains models and does not wrap them.

        Examples:
            >>> defended = advkit.defenses.BitDepthReduction(bits=3).wrap(model)
            >>> defended(images).shape
            torch.Size([12, 10])
        """
        raise InputError(f"{type(self).__name__} does not wrap models, it trains them: call fit(model, ...)")

    def fit(self, model: Any, *args: Any, **kwargs: Any) -> nn.Module:
        """Train a model; see the defenses that do so.

        Raises:
            InputError: this defense wraps models and does not train them.

        Examples:
            >>> training = advkit.defenses.FastTraining(eps=4 / 255)
            >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
            >>> robust = training.fit(model, loader, optimizer, epochs=1, progress=False)
        """
        raise InputError(f"{type(self).__name__} does not train models, it wraps them: call wrap(model)")

    def surrogate(self, model: Model) -> Model:
        """What an attacker who knows the defense differentiates: pixels to logits.

        It predicts what the wrapped model does; for a stochastic defense it returns the mean of the logits over
        ``eot_samples`` draws (EOT: Athalye, Engstrom, Ilyas & Kwok, "Synthesizing robust adversarial examples", ICML
        2018).

        Args:
            model: the model that `wrap` was given.

        Raises:
            NoGradientError: the defense is not differentiable, and does not define what to differentiate instead.

        Examples:
            >>> defense = advkit.defenses.BitDepthReduction(bits=3)
            >>> surrogate = defense.surrogate(model)  # BPDA: the same logits, with the gradient of the identity
            >>> torch.equal(surrogate(images), defense.wrap(model)(images))
            True
        """
        one_draw = self._one_draw(model)
        return Expectation(one_draw, self.eot_samples) if self.stochastic else one_draw

    def _one_draw(self, model: Model) -> Model:
        """The surrogate for one draw of random numbers: pixels to logits."""
        if not self.differentiable:
            raise NoGradientError(
                f"{type(self).__name__} is not differentiable and has no surrogate, so a gradient through it "
                "says nothing: define its surrogate(model), use a black-box attack, or choose the naive attacker with "
                "attack.on(model, adaptive=False)"
            )
        return self.wrap(model)


def _marking(wrap: Callable[[Any, Model], nn.Module]) -> Callable[[Any, Model], nn.Module]:
    """A `wrap` whose modules attacks recognise as defended."""

    @wraps(wrap)
    def marked(self: Defense, model: Model) -> nn.Module:
        module = wrap(self, model)
        if isinstance(module, Defended) and module.defense is self:
            return module  # by the wrap of a base class
        return Defended(module, self, model)

    return marked


class InputTransformation(Defense, nn.Module, ABC):
    """Base of the defenses that change the images before the model sees them: a subclass defines `forward`.

    It is a module from images to images, which can also be used in a pipeline on its own. The surrogate of one that is
    not differentiable is BPDA with the identity: forward through the transformation, and backward as if it were not
    there (Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security", ICML 2018, section 4.1).
    A stochastic one draws for each image of a batch separately.

    Examples:
        >>> class Posterize(advkit.defenses.InputTransformation):
        ...     differentiable = False  # the gradient of rounding is zero
        ...
        ...     def forward(self, images):
        ...         return (images * 7).round() / 7
        >>> defended = Posterize().wrap(model)
        >>> adversarials = advkit.FGSM(defended)(images, labels)  # straight through the rounding
    """

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """The images that the model sees: like ``images``, (N, ...) in pixels, for which N may be 0."""

    def wrap(self, model: Model) -> nn.Module:
        """The model that sees transformed images; see `Defense.wrap`."""
        return Behind(self, model)

    def _one_draw(self, model: Model) -> Model:
        return Behind(self, model) if self.differentiable else _StraightThrough(self, model)


class Behind(nn.Module):
    """A model that sees transformed images."""

    def __init__(self, transformation: InputTransformation, model: Model) -> None:
        super().__init__()
        self.transformation = transformation
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        seen = self.transformation(images)
        if images.requires_grad and not seen.requires_grad:
            seen = seen + 0 * images  # for a naive attacker, a transformation outside torch has a gradient of zero
        return self.model(seen)


class _StraightThrough(Behind):
    """The same, where the transformation has the gradient of the identity."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            seen = self.transformation(images)
        if seen.shape != images.shape:
            raise ModelError(
                f"{type(self.transformation).__name__} turns images of shape {tuple(images.shape)} into "
                f"{tuple(seen.shape)}, and is not differentiable: define its surrogate(model)"
            )
        return self.model(seen + (images - images.detach()))  # the value is that of ``seen`` to the bit


class Expectation(nn.Module):
    """The mean of a random model's logits over several draws, which is what EOT differentiates.

    Args:
        model: pixels (N, ...) to logits (N, K), which differ from call to call.
        samples: how many calls, at least 1.

    Examples:
        >>> crops = advkit.defenses.RandomCropRescale()
        >>> advkit.defenses.base.Expectation(crops.wrap(model), samples=30)(images).shape
        torch.Size([12, 10])
    """

    def __init__(self, model: Model, samples: int) -> None:
        super().__init__()
        self.model = model
        self.samples = samples

    def forward(self, images: Tensor) -> Tensor:
        """Mean logits (N, K) of pixels (N, ...)."""
        return torch.stack([found_in(self.model(images)) for _ in range(self.samples)]).mean(0)
