"""The caller's model as attacks call it: checked, and in the dtype of the work."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial
from itertools import compress

import torch
from torch import Tensor

from advkit.errors import InputError, ModelError
from advkit.model import Model, attacking, is_stochastic, placement

__all__ = ["Classifier", "answer", "own", "prediction"]

_DRAWS = 10  # answers of a random model that its prediction is voted on by
_MOST_WATCHED = 1000  # largest values that wait on the device
_NAN_LOGITS = "the model returned NaN logits; check its weights, and its inputs' normalisation"
_NAN_GRADIENT = (
    "the gradient of the model's logits with respect to its images is NaN; look for a square root, a division or a "
    "logarithm of zero in the model"
)


class Classifier:
    """Pixels in the dtype of the work in, logits in float32 or better out, and the model's mistakes named.

    The number of classes is known once the model has answered, so that is when labels are held against it.
    Whether a logit is NaN is asked of the first answer. Of later ones, and of every gradient that comes back to the
    images, the largest value waits on the device for `verify`: asking would make a GPU wait in every step. A maximum
    passes NaN on, in a tenth of the time of ``isnan().any()``. It matters that gradients are watched: torch's sign of
    NaN is 0, which would pass a broken gradient off as a flat one.

    Args:
        model: the model under attack.
        classes: class indices, int64 of shape (N,), by the name under which the caller gave them.
        autocast: what the model may round to where torch holds that for harmless; None for no such rounding.
    """

    def __init__(self, model: Model, classes: Mapping[str, Tensor], autocast: torch.dtype | None = None) -> None:
        self.model = model
        self.classes = classes
        self.autocast = autocast
        self._device, self._dtype = placement(model)
        self._answered = False
        self.ledger: list[Tensor] = []  # int64 (n,) each, what an attack that asks for answers spent on each image
        self._watched: list[tuple[str, Tensor]] = []  # what a NaN would mean, and the largest value; oldest first

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...), for an attack that calls `torch.autograd.grad` itself.

        Its gradients are watched by a hook. That costs a fiftieth of a small network's pass, which `gradient` saves.
        """
        logits = self.logits(images)
        if images.requires_grad:
            images.register_hook(partial(self._watch, _NAN_GRADIENT))
        return logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...), from which `gradient` goes back."""
        with nullcontext() if self.autocast is None else torch.autocast(images.device.type, self.autocast):
            output = self.model(images if self._dtype is None else images.to(self._dtype))
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
        if self._answered:
            self._watch(_NAN_LOGITS, logits)
        else:
            self._check_first(logits.detach())
        return logits

    def gradient(self, values: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor:
        """Gradient of values (n,), each of its own image, with respect to the images: (n, ...).

        The rows of the model's answer must not depend on each other's images, which is what eval mode gives.

        Args:
            values: computed from the model's answer, one a row.
            images: the tensor that the model saw, with ``requires_grad`` set.
            keep_graph: whether there is another gradient to come from the same answer.

        Raises:
            ModelError: the values do not depend on the images by way of differentiable operations.
        """
        gradient = None
        if values.requires_grad:
            # Not of their sum, which would be two more operations there and back.
            (gradient,) = torch.autograd.grad(
                values, images, torch.ones_like(values), retain_graph=keep_graph, allow_unused=True
            )
        if gradient is None:
            raise ModelError(
                "no gradient flows from the model's logits back to its images: somewhere inside it detaches, rounds "
                "to integers or leaves torch; use a black-box attack, or give the attack a differentiable surrogate"
            )
        self._watch(_NAN_GRADIENT, gradient)
        return gradient

    def _watch(self, meaning: str, values: Tensor) -> None:
        if values.numel():
            self._watched.append((meaning, values.detach().amax()))
        if len(self._watched) >= _MOST_WATCHED:
            self.verify()

    def _check_first(self, logits: Tensor) -> None:
        self._answered = True
        if logits.numel() and bool(logits.amax().isnan()):
            raise ModelError(_NAN_LOGITS)
        count = logits.shape[1]
        for name, classes in self.classes.items():
            if (largest := int(classes.long().max())) >= count:
                raise InputError(
                    f"{name} must lie in [0, {count}), since the model returned {count} logits an image; "
                    f"the largest is {largest}"
                )

    def workplace(self, images: Tensor) -> tuple[torch.device, torch.dtype]:
        """Where the work on these images is done, and in what precision: the model's, and never below float32."""
        return self._device or images.device, torch.promote_types(self._dtype or images.dtype, torch.float32)

    def verify(self) -> None:
        """Raise if an answer since the last time, or a gradient that came back from one, had a NaN in it.

        The first of them is to blame: what comes after it in a search was computed from it.
        """
        watched, self._watched = self._watched, []
        if watched:
            is_nan = torch.stack([largest for _, largest in watched]).isnan().tolist()
            for meaning, _ in compress(watched, is_nan):
                raise ModelError(meaning)


def answer(model: Model, images: Tensor, classes: Mapping[str, Tensor] | None = None) -> Tensor:
    """What the model says of images (N, ...), N at least 1: logits (N, K), on the images' device, no gradient.

    The model is asked in the state in which it is attacked, and is afterwards as it was.

    Args:
        model: the model.
        images: floating, on any device; they travel to the model.
        classes: class indices to hold against the number of logits, by name; see `Classifier`.
    """
    classifier = Classifier(model, classes or {})
    with attacking(model), torch.no_grad():
        return classifier.logits(own(images, *classifier.workplace(images))).to(images.device)


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


def own(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy to work on: a plain tensor where and in what it is needed, and never an inference tensor."""
    return tensor.detach().as_subclass(Tensor).to(device, dtype, copy=True)
