"""The caller's model as attacks call it: checked, and in the dtype of the work."""

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor

from advkit.errors import InputError, ModelError
from advkit.goals import Goal
from advkit.model import Model, attacking, is_stochastic, placement

__all__ = ["Classifier", "answer", "image_gradient", "loss_gradient", "own", "prediction", "workplace"]

_DRAWS = 10  # answers of a random model that its prediction is voted on by


class Classifier:
    """Pixels in the dtype of the work in, logits in float32 or better out, and the model's mistakes named.

    The number of classes is known once the model has answered, so that is when labels are held against it.
    Whether a logit is NaN is asked of the first answer. Later ones, and every gradient that comes back to the
    images, only note it on the device for `verify`: asking would make a GPU wait in every step. It matters that
    gradients are watched: torch's sign of NaN is 0, which would pass a broken gradient off as a flat one.

    Args:
        model: the model under attack.
        classes: class indices, int64 of shape (N,), by the name under which the caller gave them.
        autocast: what the model may round to where torch holds that for harmless; None for no such rounding.
    """

    def __init__(self, model: Model, classes: Mapping[str, Tensor], autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.classes = classes
        self.autocast = autocast
        self.dtype = placement(model)[1]
        self._nan_logits: Tensor | None = None
        self._nan_gradient: Tensor | None = None  # where the logits were none

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...)."""
        with nullcontext() if self.autocast is None else torch.autocast(images.device.type, self.autocast):
            output = self.model(images if self.dtype is None else images.to(self.dtype))
        if not isinstance(output, Tensor):
            raise ModelError(
                f"the model returned {type(output).__name__}, and attacks need a tensor of logits (N, K); "
                "wrap it in a module that returns its logits"
            )
        if output.ndim != 2 or output.shape[0] != images.shape[0] or output.shape[1] < 2:
            raise ModelError(
                f"the model returned shape {tuple(output.shape)} for images of shape {tuple(images.shape)}; "
                f"attacks need logits of shape ({images.shape[0]}, K), with K at least 2"
            )
        if not output.is_floating_point():
            raise ModelError(f"the model returned {output.dtype}, and attacks need floating logits")
        logits = output.to(images.device, torch.promote_types(output.dtype, torch.float32))
        is_first = self._nan_logits is None
        self._nan_logits = _either(self._nan_logits, _has_nan(logits.detach()))
        if is_first:
            self._check_first(logits.shape[1])
        if images.requires_grad:
            images.register_hook(self._watch)
        return logits

    def _watch(self, gradient: Tensor) -> None:
        assert self._nan_logits is not None
        self._nan_gradient = _either(self._nan_gradient, _has_nan(gradient.detach()) & ~self._nan_logits)

    def _check_first(self, count: int) -> None:
        self.verify()
        for name, classes in self.classes.items():
            if int(classes.max()) >= count:
                raise InputError(
                    f"{name} must lie in [0, {count}), since the model returned {count} logits an image; "
                    f"the largest is {int(classes.max())}"
                )

    def verify(self) -> None:
        """Raise if any answer so far, or any gradient that came back from it, had a NaN in it."""
        if self._nan_gradient is not None and bool(self._nan_gradient):
            raise ModelError(
                "the gradient of the model's logits with respect to its images is NaN; look for a square root, a "
                "division or a logarithm of zero in the model"
            )
        if self._nan_logits is not None and bool(self._nan_logits):
            raise ModelError("the model returned NaN logits; check its weights, and its inputs' normalisation")


def _has_nan(values: Tensor) -> Tensor:
    """Whether one of them is NaN, on their device. A maximum passes NaN on, in a tenth of the time of isnan().any()."""
    return values.amax().isnan()


def _either(before: Tensor | None, now: Tensor) -> Tensor:
    return now if before is None else before | now


def loss_gradient(images: Tensor, logits: Tensor, goal: Goal) -> Tensor:
    """Gradient of the goal's loss, summed over the batch, with respect to the images: (N, ...).

    The rows of the model's answer must not depend on each other's images, which is what eval mode gives.

    Args:
        images: the tensor that the model saw, with ``requires_grad`` set.
        logits: what it answered, (N, K).
        goal: whose loss to climb.

    Raises:
        ModelError: the logits do not depend on the images by way of differentiable operations.
    """
    return image_gradient(goal.loss(logits), images)


def image_gradient(values: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Gradient of values (n,), each of its own image, with respect to the images: (n, ...).

    Args:
        values: computed from the model's answer, one a row.
        images: the tensor that the model saw, with ``requires_grad`` set.
        keep_graph: whether there is another gradient to come from the same answer.

    Raises:
        ModelError: the values do not depend on the images by way of differentiable operations.
    """
    gradient = None
    if values.requires_grad:
        (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=keep_graph, allow_unused=True)
    if gradient is None:
        raise ModelError(
            "no gradient flows from the model's logits back to its images: somewhere inside it detaches, rounds "
            "to integers or leaves torch; use a black-box attack, or give the attack a differentiable surrogate"
        )
    return gradient


def answer(model: Model, images: Tensor, classes: Mapping[str, Tensor] | None = None) -> Tensor:
    """What the model says of images (N, ...), N at least 1: logits (N, K), on the images' device, no gradient.

    The model is asked in the state in which it is attacked, and is afterwards as it was.

    Args:
        model: the model.
        images: floating, on any device; they travel to the model.
        classes: class indices to hold against the number of logits, by name; see `Classifier`.
    """
    with attacking(model), torch.no_grad():
        return Classifier(model, classes or {})(own(images, *workplace(model, images))).to(images.device)


def prediction(model: Model, images: Tensor) -> Tensor:
    """The class that the model gives to images (N, ...), N at least 1: int64 (N,).

    A model with a random defense is asked several times, so that neither side lives off a lucky draw: the class is
    what it says most often.
    """
    said = answer(model, images)
    votes = torch.zeros_like(said).scatter(1, said.argmax(1, keepdim=True), 1)
    for _ in range(_DRAWS - 1 if is_stochastic(model) else 0):
        said = answer(model, images).argmax(1, keepdim=True)
        votes = votes.scatter_add(1, said, torch.ones_like(votes))
    return votes.argmax(1)


def workplace(model: Model, images: Tensor) -> tuple[torch.device, torch.dtype]:
    """Where the work on these images is done, and in what precision: the model's, and never below float32."""
    device, dtype = placement(model)
    return device or images.device, torch.promote_types(dtype or images.dtype, torch.float32)


def own(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy to work on: a plain tensor where and in what it is needed, and never an inference tensor."""
    return tensor.detach().as_subclass(Tensor).to(device, dtype, copy=True)
