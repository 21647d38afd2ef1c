"""The caller's model as attacks call it: checked, and in the dtype of the work."""

import math
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from typing_extensions import Self

from advkit._base.answers import described
from advkit._base.scale import Rounding, grain
from advkit._engine.asking import Asker, LookAgain, plain
from advkit._engine.gradients import Scaling, looked_at, passed
from advkit.errors import AdvkitError, AdvkitWarning, InputError, ModelError, NoGradientError
from advkit.goals import Goal
from advkit.model import Model, attacking, is_stochastic

__all__ = ["Classifier", "Watched", "asked", "own", "predict", "prediction", "warn_of_infinite"]

_DRAWS = 10  # answers of a random model that its prediction is voted on by
_MOST_WATCHED = 1000  # numbers that wait on the device
_NAN_LOGITS = "the model returned NaN logits; check its weights, and its inputs' normalisation"
_NAN_GRADIENT = (
    "the gradient of the model's logits with respect to its images is NaN; look for a square root, a division or a "
    "logarithm of zero in the model, or in the loss if you gave one"
)
_NOT_FINITE = "the gradient of the model's logits with respect to its images is NaN or infinite"
_INFINITE = (
    "the gradient of the model's logits with respect to its images was infinite, on at least {} images. Each infinite "
    "entry was replaced by the largest finite one, with its own sign, which is only a guess at its size. "
    "Look for a power below 1, a root, a logarithm or a division at zero in the model, and keep it away from zero, "
    "for example with .clamp(min=1e-6)"
)

Watched = tuple[str, Tensor, type[AdvkitError]]
"""What it means that a number is none, the number on the device, and the error to raise."""


class Classifier:
    """The model as attacks call it: pixels in, logits in float32 or better out, with clear errors for its mistakes.

    The number of classes is known once the model has been run, so that is when labels are checked against it.
    Whether a logit is NaN is asked of the first answer. Of later ones the largest value waits on the device for
    `verify`, and of every gradient that comes back to the images the sum: asking would make a GPU wait in every step.
    A maximum passes NaN on, and a sum whatever is not finite, in a tenth of the time of ``isnan().any()``. It matters
    that gradients are watched: torch's sign of NaN is 0, which would pass a broken gradient off as a flat one.

    A search that met such a gradient is done again by `verified` in a careful mode, in which each gradient is looked
    at: an infinite one is made finite, and told of in a warning. Gradients that pass float16 are scaled on their way.

    Args:
        model: the model under attack.
        classes: class indices, int64 (N,), by the name under which the caller gave them.
        autocast: the dtype of `torch.autocast`; None for none.

    Examples:
        >>> classifier = advkit.FGSM(model).classifier  # what `_perturb` finds as self.classifier
        >>> x = images.clone().requires_grad_()
        >>> classifier.gradient(advkit.losses.margin(classifier.logits(x), labels), x).shape
        torch.Size([12, 3, 16, 16])
    """

    def __init__(
        self,
        model: Model,
        classes: Mapping[str, Tensor] = MappingProxyType({}),
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.classes = classes
        count = max((its.shape[0] for its in classes.values()), default=0)
        self._ask = Asker(model, autocast, count)
        # Whether its gradients pass float16: None for not known yet.
        known = torch.float16 in (self._ask.dtype, getattr(model, "autocast", None))
        self.rounding = Rounding()
        self.rounding.see(self._ask.dtype, autocast)
        self._halves: bool | None = True if known else None
        self.careful = False
        self._answered = False
        self.forwards = self.backwards = 0  # of single images: a batch of n counts n
        self.ledger: list[Tensor] = []  # int64 (n,) each, what an attack that asks for answers spent on each image
        self.watched: list[Watched] = []  # oldest first
        self.count = 0  # of the classes, once the model has answered
        self._infinite: Tensor | None = None  # on how many images of this search a gradient was, at most
        self._images = 0  # and on how many of the searches before
        self._most = count or 2**31  # images; an attack may ask about copies of them

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...), for an attack that calls `torch.autograd.grad` itself.

        A hook checks its gradients. That costs a fiftieth of a small network's pass, which `gradient` saves.
        """
        logits = self.logits(images)
        if images.requires_grad and not self.careful:
            images.register_hook(self._watch_gradient)
        return logits

    def of(self, goal: Goal) -> Self:
        """This model, to be run on the images of a goal next: with a mask, it has to know which these are.

        Needed for part of the batch, or for copies: ``classifier.of(goal.rows(index)).logits(x)``. For the whole
        batch in order, it can be omitted.
        """
        return self

    def logits(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, ...), for `gradient`."""
        if not images.requires_grad:
            return self._checked(self._ask(images), images)
        if self.careful:
            return looked_at(images, self._plainly, self._is_half, self._note)
        if self._halves:
            scaling = Scaling()
            return scaling.logits(self._checked(self._ask(scaling.images(images)), images))
        logits = self._checked(self._ask(images), images)
        return Classifier.logits(self, images) if self._halves is None and self._is_half(logits) else logits

    def _plainly(self, images: Tensor) -> Tensor:
        return self._checked(self._ask(images), images)

    def _is_half(self, logits: Tensor) -> bool:
        """Whether gradients of the model's answer pass float16. The first answer that has any tells."""
        if self._halves is None and logits.grad_fn is not None:
            kinds = passed(logits.grad_fn)
            self.rounding.see(*kinds)
            # An old torch does not say, and scaling what needs none changes nothing.
            self._halves = not kinds.isdisjoint({torch.float16, None})
        return bool(self._halves)

    def _checked(self, output: object, images: Tensor) -> Tensor:
        """What the model returned for the images, if it is logits: (N, K), float32 or better."""
        if not isinstance(output, Tensor):
            raise ModelError(
                f"the model returned {described(output)}, but attacks need a tensor of logits (N, K); "
                f"{_how_to_return(output)}"
            )
        count, shape = images.shape[0], output.shape
        if len(shape) != 2 or shape[0] != count or shape[1] < 2:
            raise ModelError(
                f"the model returned shape {tuple(shape)} for images of shape {tuple(images.shape)}; "
                f"attacks need logits of shape ({count}, K), with K at least 2{_one_logit(output, images)}"
            )
        if not output.is_floating_point():
            raise ModelError(
                f"the model returned {output.dtype}, but attacks need floating logits; of integer scores, or ones and "
                "zeros for its decisions, make them floating: output.float()"
            )
        logits = output
        if output.dtype != torch.float32 or output.device != images.device:
            logits = output.to(images.device, torch.promote_types(output.dtype, torch.float32))
            self.rounding.see(output.dtype)
        self.forwards += count
        if self._answered:
            if count:
                self._watch(_NAN_LOGITS, logits.detach().amax())
        else:
            self._check_first(logits.detach())
            if not logits.requires_grad and logits.dtype == torch.float32 and count:
                self.rounding.see(grain(logits))  # there is no graph that would tell
        return logits

    def gradient(self, values: Tensor, images: Tensor, *, keep_graph: bool = False) -> Tensor:
        """The gradient of values (n,), one for each image, with respect to the images: (n, ...).

        The rows of the model's output must not depend on each other's images, as in eval mode.

        Args:
            values: computed from the model's output, one for each row.
            images: the tensor that the model saw, with ``requires_grad`` set.
            keep_graph: whether another gradient of the same output will be taken.

        Raises:
            ModelError: the values do not depend on the images through differentiable operations.
        """
        gradient = None
        if values.requires_grad:
            # Not of their sum, which would be two more operations there and back. For a single one torch makes the 1.
            ones = None if values.numel() == 1 else torch.ones_like(values)
            (gradient,) = torch.autograd.grad(values, images, ones, retain_graph=keep_graph, allow_unused=True)
        if gradient is None:
            raise NoGradientError(
                "no gradient flows from the model's logits back to its images: somewhere inside it, or in the loss if "
                "you gave one, it detaches, rounds to integers or leaves torch; use a black-box attack, or give the "
                "attack a differentiable surrogate"
            )
        if not self.careful:
            self._watch_gradient(gradient)
        return gradient

    def watch_images(self, images: Tensor, attack: str) -> None:
        """Take note of what an attack gives back, (N, ...), for `verify`: NaN there is no image."""
        self._watch(f"{attack}._perturb returned images with NaN in them", images.detach().amax(), AdvkitError)

    def watch_part(self, found: Tensor, part: str) -> None:
        """The same of what a part of an attack has made: torch's sign of NaN is 0, and a NaN shown is one answered."""
        self._watch(f"{part} returned NaN", found.detach().amax(), AdvkitError)

    def _watch_gradient(self, gradient: Tensor) -> None:
        self.backwards += gradient.shape[0]
        self._watch(_NAN_GRADIENT, gradient.detach().sum())

    def _watch(self, meaning: str, value: Tensor, error: type[AdvkitError] = ModelError) -> None:
        self.watched.append((meaning, value, error))
        if len(self.watched) >= _MOST_WATCHED:
            self._look()

    def _note(self, gradient: Tensor) -> None:
        """Take note of what is not finite in a gradient (n, ...) in careful mode."""
        self.backwards += gradient.shape[0]
        self._watch(_NAN_GRADIENT, torch.where(gradient.isnan().any(), torch.nan, 0.0).to(gradient.dtype))
        count = gradient.isinf().flatten(1).any(1).sum()
        self._infinite = count if self._infinite is None else self._infinite.maximum(count)

    def _check_first(self, logits: Tensor) -> None:
        self._answered = True
        if logits.numel() and bool(logits.amax().isnan()):
            self._look()  # whether it was shown NaN
            raise ModelError(_NAN_LOGITS)
        self.check_classes(logits.shape[1])

    def check_classes(self, count: int) -> None:
        """Hold the caller's classes against the number of the model's logits."""
        self.count = count
        for name, classes in self.classes.items():
            if (largest := int(classes.long().max())) >= count:
                raise InputError(
                    f"{name} must lie in [0, {count}), since the model returned {count} logits per image; "
                    f"the largest is {largest}"
                )

    def workplace(self, images: Tensor) -> tuple[torch.device, torch.dtype]:
        """Where the work on these images is done, and in what precision: the model's, and never below float32."""
        self._ask.given = images.dtype
        dtype = torch.promote_types(self._ask.dtype or images.dtype, torch.float32)
        return self._ask.device or images.device, dtype

    def verified(self, search: Callable[["Classifier"], Tensor]) -> Tensor:
        """What a search with this model finds. Where a gradient was not finite it is done again, in careful mode."""
        try:
            found = search(self)
            self._look()
        except LookAgain:
            self.watched, self.careful = [], True
            found = search(self)
            self._look()
        if self._infinite is not None:
            self._images += min(int(self._infinite), self._most)
            self._infinite = None
        return found

    def verify(self) -> None:
        """Raise if an answer since the last time, or a gradient that came back from one, had a NaN in it.

        The first of them is to blame: what comes after it in a search was computed from it. Warns of the infinite
        gradients that searches met.
        """
        warn_of_infinite(self.checked())

    def checked(self) -> int:
        """As `verify`, but for the warning: on how many images at least the searches met infinite gradients."""
        self._look()
        images, self._images = self._images, 0
        return images

    def _look(self) -> None:
        watched, self.watched = self.watched, []
        values = torch.stack([value for _, value, _ in watched]).tolist() if watched else []
        if all(map(math.isfinite, values)):
            return
        for (meaning, _, error), value in zip(watched, values, strict=True):
            if meaning is _NAN_GRADIENT and not self.careful and not math.isfinite(value):
                raise LookAgain(_NOT_FINITE)
            if math.isnan(value):
                raise error(meaning)


def _how_to_return(output: object) -> str:
    """What to do about an answer that is no tensor."""
    if hasattr(output, "__array__"):  # of numpy, as other runtimes return it
        return "make one of the array: torch.from_numpy(output)"
    return "say where they are: advkit.Logits(model, key=...)"


def _one_logit(output: Tensor, images: Tensor) -> str:
    """What to do with the answer of a model that has one logit for two classes, or says the class alone."""
    if output.shape not in (images.shape[:1], (*images.shape[:1], 1)):
        return ""
    if not output.is_floating_point():
        return (
            ". If these are the classes that it predicts, which is enough for attacks on decisions, make scores of "
            "them: torch.nn.functional.one_hot(classes, K).float()"
        )
    return ". If that is one logit for two classes, wrap the model: advkit.TwoClass(model)"


def warn_of_infinite(images: int) -> None:
    """Tell the caller of the caller of who calls this of infinite gradients on so many images, if there are any."""
    if images:
        warnings.warn(_INFINITE.format(images), AdvkitWarning, stacklevel=4)


def predict(model: Model, images: Tensor, classes: Mapping[str, Tensor] | None = None) -> Tensor:
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


def asked(model: Model, *, is_random: bool = False) -> int:
    """How many answers of a model its prediction is made of: several if it has a random defense, or is random."""
    return _DRAWS if is_random or is_stochastic(model) else 1


def prediction(
    model: Model, images: Tensor, classes: Mapping[str, Tensor] | None = None, draws: int | None = None
) -> Tensor:
    """The class that the model gives to images (N, ...), N at least 1: int64 (N,).

    A model with a random defense is asked several times, so that neither side lives off a lucky draw: the class is
    what it says most often, of so many ``draws`` if they are given. ``classes`` are as for `predict`.
    """
    said = predict(model, images, classes)
    votes = torch.zeros_like(said).scatter(1, said.argmax(1, keepdim=True), 1)
    for _ in range((asked(model) if draws is None else draws) - 1):
        said = predict(model, images).argmax(1, keepdim=True)
        votes = votes.scatter_add(1, said, torch.ones_like(votes))
    return votes.argmax(1)


def own(tensor: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy to work on: a plain tensor where and in what it is needed, and never an inference tensor."""
    return plain(tensor.detach()).to(device, dtype, copy=True)
