"""The caller's model as attacks call it: checked, and in the dtype of the work."""

from collections.abc import Mapping

import torch
from torch import Tensor

from advkit.errors import InputError, ModelError
from advkit.goals import Goal
from advkit.model import Model, placement

__all__ = ["Classifier", "gradient", "loss_gradient"]


class Classifier:
    """Pixels in the dtype of the work in, logits in float32 or better out, and the model's mistakes named.

    The number of classes is known once the model has answered, so that is when labels are held against it.
    Whether a logit is NaN is asked of the first answer; later ones only note it on the device, for `verify`:
    asking would make a GPU wait in every step. An answer to NaN pixels is not the model's mistake.

    Args:
        model: the model under attack.
        classes: class indices, int64 of shape (N,), by the name under which the caller gave them.
    """

    def __init__(self, model: Model, classes: Mapping[str, Tensor]) -> None:
        self.model = model
        self.classes = classes
        self.dtype = placement(model)[1]
        self._has_nan: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...)."""
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
        has_nan = logits.detach().isnan().any() & ~images.detach().isnan().any()
        if self._has_nan is None:
            self._has_nan = has_nan
            self._check_first(logits.shape[1])
        else:
            self._has_nan = self._has_nan | has_nan
        return logits

    def _check_first(self, count: int) -> None:
        self.verify()
        for name, classes in self.classes.items():
            if int(classes.max()) >= count:
                raise InputError(
                    f"{name} must lie in [0, {count}), since the model returned {count} logits an image; "
                    f"the largest is {int(classes.max())}"
                )

    def verify(self) -> None:
        """Raise if any answer so far had a NaN in it."""
        if self._has_nan is not None and bool(self._has_nan):
            raise ModelError("the model returned NaN logits; check its weights, and its inputs' normalisation")


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
    return gradient(images, goal.loss(logits))


def gradient(images: Tensor, values: Tensor, *, keep_graph: bool = False) -> Tensor:
    """Gradient of the sum of ``values``, which come from a model's logits, with respect to the images: (N, ...).

    Args:
        images: the tensor that the model saw, with ``requires_grad`` set.
        values: any shape.
        keep_graph: whether another gradient of the same logits will follow.

    Raises:
        ModelError: the logits do not depend on the images by way of differentiable operations.
    """
    found = None
    if values.requires_grad:
        (found,) = torch.autograd.grad(values.sum(), images, retain_graph=keep_graph, allow_unused=True)
    if found is None:
        raise ModelError(
            "no gradient flows from the model's logits back to its images: somewhere inside it detaches, rounds "
            "to integers or leaves torch; use a black-box attack, or give the attack a differentiable surrogate"
        )
    return found
