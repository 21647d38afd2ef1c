"""The flags that need passes of their own: what a model's answers and gradients look like on a few dozen images.

First what is wrong with them anywhere, on images that the model gets right. Then, on the images that no attack fooled
within its budget, which are what a high accuracy rests on, whether the gradient foretells the answers there; and where
nothing has been found, whether another search fools what the attacks did not (`advkit.evaluation.searches`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advkit._engine.ball import LinfBall
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.iterate import Climb, iterate
from advkit.attack import Attack
from advkit.evaluation.flags import ATHALYE, CARLINI, DISTILLED, Flag, many, who
from advkit.evaluation.foretelling import foretold, grain
from advkit.evaluation.searches import Survivors, helped
from advkit.goals import Untargeted
from advkit.losses import cross_entropy, log_odds
from advkit.model import Model, attacking, is_stochastic
from advkit.norms import L2

__all__ = ["FEW", "probed"]

FEW = 0.02  # the share of images on which an honest model may look masked
_LEAST = 4  # images; of fewer no share is more than chance
_STEPS = 10  # of the attack without a budget, each a quarter of the pixels' range
_AGAIN = 8  # times that a model is asked which has answered differently
_AGREE = 0.99  # the least cosine of two gradients that are the same but for rounding
_SIGNAL = 0.5  # the least cosine of two means over random draws that are more than noise
_NO_CAUSE = ("not probed", "NaN gradients", "infinite gradients", "unbounded attack")  # or that of a few images
_SAME = 1e-3  # how far two answers may be apart, in parts of the range of the logits


def probed(
    defense: str,
    model: Model,
    attacks: Mapping[str, Attack],
    images: Tensor,
    labels: Tensor,
    left: Sequence[Survivors] = (),
) -> tuple[Flag, ...]:
    """The flags that need passes of their own, on a few images.

    What is right costs a model five forwards, three backwards and at most eleven steps of an attack without a budget;
    what is left, for each norm, five forwards, three backwards and at most 24 forwards that look at how the answers
    change. If that shows nothing, other searches try their luck, see `advkit.evaluation.searches.helped`. Where all
    attacks are black-box, nobody looks at gradients, which the model need not have.

    Args:
        defense: what the report calls the model's defense; "none" for the bare model.
        model: pixels (N, ...) to logits (N, K), in any mode; it is left as it was.
        attacks: by name, pointed at the model. Gradients are looked at as these attacks take them: through the
            surrogates of the model's defenses, unless the attacker is the naive one.
        images: floating (n, ...), images that the model gets right.
        labels: int64 (n,).
        left: for each norm, images that no attack fooled within its budget.

    Returns:
        The flags. A probe that raises is one more: it looks for reasons to doubt, and must not stop what it looks at.
    """
    called = who(defense)
    if attacks and all(attack.access != "gradient" for attack in attacks.values()):
        return ()
    if len(images) < _LEAST:
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        sentence = f"{called} is right on {count}, and its gradients are only looked at on {_LEAST} or more."
        return (Flag("not probed", sentence, CARLINI),)
    adaptive = all(attack.adaptive for attack in attacks.values() if attack.access == "gradient")
    bounds = next((attack.bounds for attack in attacks.values()), (0.0, 1.0))
    look = partial(_of_model, called, model, bounds=bounds, adaptive=adaptive)
    gradients, answers, searches = (f"{what} of {called}" for what in ("gradients", "answers", "searches"))
    found = _probe(gradients, partial(look, images, labels, unbounded=True))
    for group in left:
        if any(flag.name not in _NO_CAUSE for flag in found):
            break  # the cause is known
        found += _probe(gradients, partial(look, group.images, group.labels))
        if all(flag.name in _NO_CAUSE for flag in found):
            found += _probe(answers, partial(foretold, called, model, group, bounds, adaptive=adaptive))
        if all(flag.name in _NO_CAUSE for flag in found):
            tell = partial(helped, called, model, group, (images, labels), bounds, adaptive=adaptive)
            found += _probe(searches, tell)
    return tuple(_once(found))


def _once(found: Iterable[Flag]) -> list[Flag]:
    """The first flag of each name, and each probe that raised."""
    once: dict[tuple[str, str], Flag] = {}
    for flag in found:
        once.setdefault((flag.name, flag.sentence if flag.name == "not probed" else ""), flag)
    return list(once.values())


def _probe(what: str, look: Callable[[], list[Flag]]) -> list[Flag]:
    try:
        with torch.inference_mode(False):  # whose tensors could not be differentiated
            return look()
    except Exception as error:
        sentence = f"nobody has looked at the {what}, since a probe raised {type(error).__name__}: {error}"
        return [Flag("not probed", sentence, CARLINI)]


@dataclass
class _Look:
    """What was seen of n images: bool (n,) each, of answers first and of gradients then.

    Attributes:
        climbing: the gradient is finite and not zero.
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


def _looked(classifier: Classifier, x: Tensor, goal: Untargeted, *, averaged: bool) -> _Look:
    """Ask about images (n, ...) twice with a gradient, once without, once in two halves, and differentiate thrice."""
    x = x.requires_grad_()
    logits, again = classifier.logits(x), classifier.logits(x)
    gradient, repeated = (_gradient(log_odds(answer, goal.classes), x) for answer in (logits, again))
    of_loss = _gradient(cross_entropy(logits, goal.classes), x)
    inner = logits.detach().requires_grad_()
    at_logits = _gradient(cross_entropy(inner, goal.classes), inner)
    x, logits, again = x.detach(), logits.detach(), again.detach()
    spread = (logits.amax(1) - logits.amin(1)).clamp_min(torch.finfo(logits.dtype).tiny)
    tolerance = max(_SAME, 16 * grain(logits)) * spread

    def differ(one: Tensor, other: Tensor) -> Tensor:
        return ((one - other).abs().amax(1) > tolerance) & (not averaged)

    moody = differ(logits, again)
    with torch.no_grad():
        silent = classifier.logits(x)
        # A companion for a single image, so that there is a batch to depend on.
        whole = silent if len(x) > 1 else classifier.logits(torch.cat([x, x.flip(-1)]))[:1]
        parts = torch.cat([classifier.logits(part) for part in (x.tensor_split(2) if len(x) > 1 else (x,))])
        recorded, batched = differ(logits, silent) & ~moody, differ(whole, parts) & ~moody
        if bool((recorded | batched).any()):
            for _ in range(_AGAIN):  # it may as well be chance, or a count of questions
                moody = moody | differ(silent, classifier.logits(x))
            recorded, batched = recorded & ~moody, batched & ~moody & ~recorded

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
    return _Look(
        moody, recorded, batched, sums_to_one & sums_to_one.all(), nan, infinite, flat, noisy, saturated, climbing
    )


def _of_model(
    called: str,
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    bounds: tuple[float, float],
    adaptive: bool,
    unbounded: bool = False,
) -> list[Flag]:
    """What the answers and the gradients of the model look like, and whether an attack without a budget fails."""
    if not len(images):
        return []
    classifier = Classifier(model, {"labels": labels})
    device, work = classifier.workplace(images)
    averaged = adaptive and is_stochastic(model)
    x, labels = own(images, device, work), own(labels, device, torch.int64)
    goal = Untargeted(labels)
    with attacking(model, adaptive=adaptive):
        look = _looked(classifier, x, goal, averaged=averaged)
        elsewhere = _says_otherwise(classifier, x, labels, bounds) if unbounded else look.flat & ~look.flat
        constant = look.flat & ~elsewhere & _constant(classifier, x, bounds) if unbounded else elsewhere
        anywhere = x
        if bool((elsewhere & look.climbing).any()):
            anywhere = _anywhere(classifier, x, goal, look.climbing & elsewhere, bounds)
    standing = elsewhere & look.climbing & (prediction(model, anywhere) == labels) if unbounded else elsewhere
    look.flat = look.flat & ~constant
    return _flags(called, look, constant, standing, averaged=averaged)


def _says_otherwise(classifier: Classifier, x: Tensor, labels: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Whether some image is known on which the model says another class than each label: bool (n,).

    Without one, that an attack fails which may do anything says nothing: there may be nothing to find.
    """
    said = classifier.logits(torch.cat([x[:0], _plain(x, bounds)])).detach().argmax(1)
    return (torch.cat([said, labels])[None] != labels[:, None]).any(1)


def _constant(classifier: Classifier, x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Whether the model gives the same logits to all these images and to plain ones: bool (n,), all the same."""
    logits = classifier.logits(torch.cat([x, _plain(x, bounds)])).detach()
    return (logits == logits[:1]).all().expand(len(x))


def _plain(x: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Images that have nothing to do with the others: black, grey, white, and five of noise."""
    low, high = bounds
    noise = torch.rand(5, *x.shape[1:], generator=torch.Generator().manual_seed(0)).to(x)
    levels = torch.tensor([0.0, 0.5, 1.0]).to(x).view(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
    return low + (high - low) * torch.cat([levels, noise])


def _anywhere(
    classifier: Classifier, x: Tensor, goal: Untargeted, moving: Tensor, bounds: tuple[float, float]
) -> Tensor:
    """Where a few long steps along the gradient lead from the images that ``moving``, bool (n,), names."""
    low, high = bounds
    found = x.clone()
    starts = x[moving]
    found[moving] = iterate(
        classifier,
        Climb(starts, goal.rows(moving), LinfBall(starts, high - low, bounds), (high - low) / 4),
        lambda rows, look: rows.stepped(look.gradient.sign()),
        steps=_STEPS,
        loss="log_odds",
        early_stop=True,
    )
    return found


_NOISE = (
    "the gradients of {who} point elsewhere when asked for again, while its answers stay; differentiate the model "
    "without what draws random numbers in its backward pass"
)
_MOSTLY_NOISE = (
    "the gradient of {who} is mostly noise, though it is a mean over draws of its random defense; raise eot_samples"
)
_SENTENCES = {
    "NaN gradients": (
        0.0,
        "the loss of {who} has a gradient that is NaN; look for a root, a division or a logarithm of zero",
        CARLINI,
    ),
    "infinite gradients": (
        0.0,
        "the loss of {who} has a gradient that is infinite; look for the root of zero, or for a division by it, whose "
        "slope is infinite where its value is not",
        CARLINI,
    ),
    "constant answers": (
        FEW,
        "{who} gives the logits that it gives to black, grey, white and noise; no attack can fool it, and it tells no "
        "class from another",
        CARLINI,
    ),
    "zero gradients": (
        FEW,
        "the logits of {who} have a gradient of zero, so that an attack that follows it stands still; give attacks "
        "a differentiable stand-in for what rounds or cuts off (BPDA, `surrogate` of a defense), or use black-box "
        "attacks",
        ATHALYE,
    ),
    "saturated softmax": (
        FEW,
        "the cross-entropy of {who} has no gradient left that floats can hold, in most of the pixels or in all, while "
        "the logits, which are huge or computed in few bits, still have one; use attacks on the margin (CW, DeepFool), "
        "divide the logits by a temperature, or attack the model in float32",
        DISTILLED,
    ),
    "gradient noise": (FEW, "{noise}", ATHALYE),
    "random outputs": (
        FEW,
        "{who} answers otherwise when asked again, so that an attack chases one draw, and luck judges it; attack "
        "the mean over draws (EOT, a defense that is `stochastic`), and judge over several answers",
        ATHALYE,
    ),
    "answers under autograd": (
        FEW,
        "{who} answers otherwise while gradients are recorded than when they are not, so that attacks look at one "
        "function and another judges them; make it the same function",
        ATHALYE,
    ),
    "batch-dependent answers": (
        FEW,
        "{who} answers otherwise when the image is in another batch, so that what fools it in one may not in the next; "
        "look for batch statistics in eval mode (BatchNorm with track_running_stats=False)",
        CARLINI,
    ),
    "probabilities": (
        FEW,
        "{who} returns numbers that sum to 1 where logits are due, and a softmax of a softmax is nearly flat; "
        "return the logits, or the logarithms of the probabilities",
        CARLINI,
    ),
    "unbounded attack": (
        FEW,
        f"{{who}} is right after {_STEPS} steps of an attack that may change every pixel to anything, though other "
        "images get another answer; its gradients mislead, so use a surrogate for what masks them, or black-box "
        "attacks",
        ATHALYE,
    ),
}


def _flags(called: str, look: _Look, constant: Tensor, standing: Tensor, *, averaged: bool) -> list[Flag]:
    """A sentence for each sign that is there more often than by chance."""
    seen = {
        "NaN gradients": look.nan,
        "infinite gradients": look.infinite,
        "constant answers": constant,
        "zero gradients": look.flat,
        "saturated softmax": look.saturated,
        "gradient noise": look.noisy,
        "random outputs": look.moody,
        "answers under autograd": look.recorded,
        "batch-dependent answers": look.batched,
        "probabilities": look.probabilities & ~constant,
        "unbounded attack": standing,
    }
    found = []
    for name, rows in seen.items():
        (share, sentence, paper), count, n = _SENTENCES[name], int(rows.sum()), len(rows)
        if many(count, n, share):
            text = sentence.replace("{noise}", _MOSTLY_NOISE if averaged else _NOISE).format(who=called)
            found.append(Flag(name, f"on {count} of {n} images {text}.", paper))
    return found


def _gradient(values: Tensor, images: Tensor) -> Tensor:
    """The gradient of values (n,) with respect to the images, (n, ...); zero where none flows."""
    if not values.requires_grad:
        return torch.zeros_like(images)
    (gradient,) = torch.autograd.grad(values.sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if gradient is None else gradient


def _cosine(one: Tensor, other: Tensor) -> Tensor:
    """The cosine of the angle between the perturbations (n, ...) of each row, however small they are: (n,)."""
    return (L2.steepest(one) * L2.steepest(other)).flatten(1).sum(1)
