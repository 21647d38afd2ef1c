"""The flags that need passes of their own: what a model's answers and gradients look like on a few dozen images.

First what is wrong with them anywhere, on images that the model gets right. Then, on the images that no attack fooled
within its budget, which are what a high accuracy rests on, whether the gradient foretells the answers there; and where
nothing has been found, whether another search fools what the attacks did not (`advkit.evaluation.searches`).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from advkit._engine.ball import LinfBall
from advkit._engine.classifier import Classifier, own, prediction
from advkit._engine.iterate import iterate
from advkit._engine.looks import Climb
from advkit.attack import Attack
from advkit.evaluation.flags import ATHALYE, CARLINI, DISTILLED, Flag, many, who
from advkit.evaluation.foretelling import foretold
from advkit.evaluation.looks import Look, looked
from advkit.evaluation.passes import Passes, counting
from advkit.evaluation.searches import helped
from advkit.evaluation.tries import Survivors
from advkit.goals import Untargeted
from advkit.model import Model, attacking, is_stochastic

__all__ = ["FEW", "probed"]

FEW = 0.02  # the share of images on which an honest model may look masked
_LEAST = 4  # images; of fewer no share is more than chance
_STEPS = 10  # of the attack without a budget, each a quarter of the pixels' range
_NO_CAUSE = ("not probed", "NaN gradients", "infinite gradients", "unbounded attack")  # or that of a few images


def probed(
    defense: str,
    model: Model,
    attacks: Mapping[str, Attack],
    images: Tensor,
    labels: Tensor,
    left: Sequence[Survivors] = (),
    *,
    passes: float = math.inf,
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
        passes: how many forwards and backwards all of it may take, so that it costs no more than the attacks did. The
            other searches make do with what the rest leaves of them.

    Returns:
        The flags. A probe that raises is one more: it looks for reasons to doubt, and must not stop what it looks at.
    """
    called = who(defense)
    if attacks and all(attack.access != "gradient" for attack in attacks.values()):
        return ()
    if len(images) < _LEAST:
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        sentence = f"{called} is right on {count}, and its gradients are only examined on {_LEAST} or more."
        return (Flag("not probed", sentence, CARLINI, defense),)
    adaptive = all(attack.adaptive for attack in attacks.values() if attack.access == "gradient")
    bounds = next((attack.bounds for attack in attacks.values()), (0.0, 1.0))
    look = partial(_of_model, called, model, bounds=bounds, adaptive=adaptive)
    gradients, answers, searches = (f"{what} of {called}" for what in ("gradients", "answers", "searches"))
    spent = Passes()
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(counting(model, spent))
        found = _probe(gradients, partial(look, images, labels, unbounded=True))
        for group in left:
            if not _is_unexplained(found):
                break
            found += _probe(gradients, partial(look, group.images, group.labels))
            if _is_unexplained(found):
                found += _probe(answers, partial(foretold, called, model, group, bounds, adaptive=adaptive))
        for place, group in enumerate(left):
            if not _is_unexplained(found):
                break
            rest = (passes - spent.forwards - spent.backwards) / (len(left) - place)
            tell = partial(helped, called, model, group, (images, labels), bounds, adaptive=adaptive, passes=rest)
            found += _probe(searches, tell)
    return tuple(replace(flag, defense=defense) for flag in _once(found))


def _is_unexplained(found: Iterable[Flag]) -> bool:
    """Whether no flag has said what is wrong."""
    return all(flag.name in _NO_CAUSE for flag in found)


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
        sentence = f"the {what} could not be examined, since a probe raised {type(error).__name__}: {error}"
        return [Flag("not probed", sentence, CARLINI)]


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
        look = looked(classifier, x, goal, averaged=averaged)
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
    noise = torch.rand(5, *x.shape[1:], generator=torch.Generator("cpu").manual_seed(0), device="cpu").to(x)
    levels = x.new_tensor([0.0, 0.5, 1.0]).view(-1, *[1] * (x.ndim - 1)).expand(-1, *x.shape[1:])
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
    "the gradients of {who} differ from one call to the next, while its outputs do not; differentiate the model "
    "without whatever draws random numbers in its backward pass"
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
        "{who} returns the same logits as for black, grey, white and noise; no attack can fool it, and it cannot tell "
        "the classes apart",
        CARLINI,
    ),
    "zero gradients": (
        FEW,
        "the logits of {who} have a gradient of zero, so that an attack that follows it never moves; give "
        "attacks a differentiable stand-in for the operation that rounds or clips (BPDA, `surrogate` of a defense), or "
        "use black-box attacks",
        ATHALYE,
    ),
    "saturated softmax": (
        FEW,
        "the gradient of the cross-entropy of {who} underflows to zero in most or all of the pixels, while the logits, "
        "which are huge or computed in few bits, still have one; use attacks on the margin (CW, DeepFool), "
        "divide the logits by a temperature, or attack the model in float32",
        DISTILLED,
    ),
    "gradient noise": (FEW, "{noise}", ATHALYE),
    "random outputs": (
        FEW,
        "{who} returns different outputs for the same images, so that an attack chases one draw and is judged by luck; "
        "attack the mean over draws (EOT, a defense that is `stochastic`), and judge by several outputs",
        ATHALYE,
    ),
    "answers under autograd": (
        FEW,
        "{who} returns different outputs while gradients are recorded, so that attacks see one function and are judged "
        "by another; make them the same function",
        ATHALYE,
    ),
    "batch-dependent answers": (
        FEW,
        "{who} returns different outputs when the image is in another batch, so that what fools it in one may not in "
        "the next; look for batch statistics in eval mode (BatchNorm with track_running_stats=False)",
        CARLINI,
    ),
    "probabilities": (
        FEW,
        "{who} returns numbers that sum to 1 instead of logits, and a softmax of a softmax is nearly flat; "
        "return the logits, or the logarithms of the probabilities",
        CARLINI,
    ),
    "unbounded attack": (
        FEW,
        f"{{who}} is still right after {_STEPS} steps of an attack that may change every pixel to anything, although "
        "it assigns other images to other classes; its gradients are misleading, so use a surrogate for what masks "
        "them, or black-box attacks",
        ATHALYE,
    ),
}


def _flags(called: str, look: Look, constant: Tensor, standing: Tensor, *, averaged: bool) -> list[Flag]:
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
