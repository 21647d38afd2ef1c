"""What a model's outputs and gradients look like, image by image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._base.scale import contenders, grain
from advkit._engine.classifier import Classifier
from advkit.goals import Untargeted
from advkit.losses import cross_entropy, log_odds
from advkit.norms import L2

__all__ = ["Look", "differs", "looked", "spacing"]

_AGAIN = 8  # times that a model is asked which has answered differently
_AGREE = 0.99  # the least cosine of two gradients that are the same but for rounding
_SIGNAL = 0.5  # the least cosine of two means over random draws that are more than noise
_FEW, _OFTEN = 4, 12  # images that are asked so many times more: chance may be rare
_OFFSET = 16.0  # times as far from zero as from each other: logits that have most of their digits in common
_STEP = 1 / 500  # the distance of two neighbouring floats that tells, in parts of the range of the logits
_SAME = 1e-3  # how far two answers may be apart, in parts of the range of the logits


@dataclass
class Look:
    """What was seen of n images: bool (n,) each, of answers first and of gradients then.

    Attributes:
        climbing: the gradient is finite and not zero.
        inside: the model takes a gradient while it answers.
        wavering: of the few images that were asked often, those whose answer changed.
        coarse: the logits are so far from zero that floats of their size hardly tell the classes apart.
    """

    moody: Tensor
    recorded: Tensor
    batched: Tensor
    probabilities: Tensor
    nan: Tensor
    infinite: Tensor
    flat: Tensor
    noisy: Tensor
    saturated: Tensor
    climbing: Tensor
    inside: Tensor
    wavering: Tensor
    coarse: Tensor


def looked(classifier: Classifier, x: Tensor, goal: Untargeted, *, averaged: bool) -> Look:
    """Ask about images (n, ...) twice with a gradient, once without, once in two halves, and differentiate thrice."""
    x = x.requires_grad_()
    logits, again = classifier.logits(x), classifier.logits(x)
    gradient, repeated = (_gradient(log_odds(answer, goal.classes), x) for answer in (logits, again))
    of_loss = _gradient(cross_entropy(logits, goal.classes), x)
    inner = logits.detach().requires_grad_()
    at_logits = _gradient(cross_entropy(inner, goal.classes), inner)
    x, logits, again = x.detach(), logits.detach(), again.detach()

    def differ(one: Tensor, other: Tensor) -> Tensor:
        return differs(one, other) & (not averaged)

    moody = differ(logits, again)
    with torch.no_grad():
        silent, inside = _silent(classifier, x)
        # A companion for a single image, so that there is a batch to depend on.
        whole = silent if len(x) > 1 else classifier.logits(torch.cat([x, x.flip(-1)]))[:1]
        parts = torch.cat([classifier.logits(part) for part in (x.tensor_split(2) if len(x) > 1 else (x,))])
        recorded, batched = differ(logits, silent) & ~moody, differ(whole, parts) & ~moody
        if bool((recorded | batched).any()):
            for _ in range(_AGAIN):  # it may as well be chance, or a count of questions
                moody = moody | differ(silent, classifier.logits(x))
            recorded, batched = recorded & ~moody, batched & ~moody & ~recorded
        wavering = torch.zeros_like(moody)
        if not averaged and not bool(moody.any()):
            first, *others = (classifier.logits(x[:_FEW]) for _ in range(1 + _OFTEN))
            wavering[:_FEW] = torch.stack([differ(first, other) for other in others]).any(0)

    nan = gradient.isnan().flatten(1).any(1)
    infinite = gradient.isinf().flatten(1).any(1) & ~nan
    flat = (gradient == 0).flatten(1).all(1)
    climbing = ~(nan | infinite | flat)
    noisy = climbing & ~moody & (_cosine(gradient, repeated) < (_SIGNAL if averaged else _AGREE))
    sloping = (gradient != 0).flatten(1)
    lost = (of_loss.flatten(1) == 0) & sloping
    # A gradient that is zero nearly everywhere is lost before the loss, and not by it.
    lost_by_loss = (lost.sum(1) > sloping.sum(1) / 2) & (sloping.sum(1) > sloping.shape[1] / 2)
    saturated = climbing & ~noisy & (lost_by_loss | (at_logits.abs().amax(1) < torch.finfo(logits.dtype).tiny))
    sums_to_one = ((logits.sum(1) - 1).abs() < 1e-3) & (logits >= 0).all(1)
    probabilities = sums_to_one & sums_to_one.all()
    return Look(
        moody,
        recorded,
        batched,
        probabilities,
        nan,
        infinite,
        flat,
        noisy,
        saturated,
        climbing,
        torch.full_like(moody, inside),
        wavering,
        _coarse(logits),
    )


def _coarse(logits: Tensor) -> Tensor:
    """Whether the logits (n, K) of the classes in the race have too few digits left for what is not common to all."""
    racing = contenders(logits)
    size = logits.topk(2, dim=1).values.abs().amax(1)
    spread = logits.amax(1) - logits.where(racing, torch.inf).amin(1)
    return (spread > 0) & (size > _OFFSET * spread) & (spacing(logits) * size > _STEP * spread)


def _silent(classifier: Classifier, x: Tensor) -> tuple[Tensor, bool]:
    """Logits where no gradient is recorded, and whether the model takes one nevertheless."""
    taken = []

    def used(kept: Tensor) -> Tensor:
        taken.append(True)
        return kept

    try:
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: saved, used):
            return classifier.logits(x), bool(taken)
    except RuntimeError as error:
        if "saved tensor hooks" not in str(error):  # which torch.func refuses to differentiate under
            raise
        return classifier.logits(x), True


def _gradient(values: Tensor, images: Tensor) -> Tensor:
    """The gradient of values (n,) with respect to the images, (n, ...); zero where none flows."""
    if not values.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of the angle between the perturbations (n, ...) of each row, however small they are: (n,)."""
    return (L2.steepest(one) * L2.steepest(other)).flatten(1).sum(1)


def differs(first: Tensor, again: Tensor, times: float = 1.0) -> Tensor:
    """Where two answers (n, K) to the same images differ by so many times what rounding may do: bool (n,).

    Only classes that are in the race at first count.
    """
    racing = contenders(first)
    spread = first.where(racing, -torch.inf).amax(1) - first.where(racing, torch.inf).amin(1)
    allowed = times * max(_SAME, 16 * spacing(first)) * spread.clamp_min(torch.finfo(first.dtype).tiny)
    return ~((first - again).abs().where(racing & (first != again), 0).amax(1) <= allowed)


def spacing(logits: Tensor) -> float:
    """The relative spacing of the coarsest floats that hold all of the logits."""
    return torch.finfo(grain(logits)).eps
