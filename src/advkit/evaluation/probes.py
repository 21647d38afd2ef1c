"""The flags that need passes of their own: what a model's outputs and gradients look like on a few dozen images.

First what is wrong with them anywhere, on images that the model gets right. Then, on the images on which every attack
failed within its budget, on which a high accuracy rests, whether the gradient predicts the outputs there; and if
nothing has been found, whether another search succeeds where the attacks did not (`advkit.evaluation.searches`).
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
from advkit.evaluation.flags import CARLINI, Flag, who
from advkit.evaluation.foretelling import borne_out, foretold
from advkit.evaluation.looks import looked
from advkit.evaluation.passes import Passes, counting
from advkit.evaluation.searches import helped
from advkit.evaluation.signs import STEPS, Sign, signs
from advkit.evaluation.tries import Survivors
from advkit.goals import Untargeted
from advkit.model import Model, attacking, is_stochastic

__all__ = ["examined", "probe", "probed"]

_LEAST = 4  # images; of fewer no share is more than chance
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
    """The flags of `examined`, of a model behind a defense as ``attacks``, by name, attack it.

    Gradients are looked at as these attacks take them: through the surrogates of the model's defenses, unless the
    attacker is the naive one. Where all attacks are black-box, nobody looks at gradients: there need be none.
    """
    if attacks and all(attack.access != "gradient" for attack in attacks.values()):
        return ()
    adaptive = all(attack.adaptive for attack in attacks.values() if attack.access == "gradient")
    bounds = next((attack.bounds for attack in attacks.values()), (0.0, 1.0))
    found, _ = examined(model, images, labels, left, bounds, called=who(defense), adaptive=adaptive, passes=passes)
    return tuple(replace(flag, defense=defense) for flag in _once(found))


def examined(
    model: Model,
    images: Tensor,
    labels: Tensor,
    left: Sequence[Survivors],
    bounds: tuple[float, float],
    *,
    called: str,
    adaptive: bool,
    by_logits: bool = False,
    passes: float = math.inf,
) -> tuple[list[Sign], Passes]:
    """What there is to see on a few images, and how many passes it took to look.

    What is right costs a model six forwards, three backwards and at most eleven steps of an attack without a budget,
    and four images of it 13 more; what is left, for each norm, eight forwards, five backwards and some 28 forwards that
    look at how the answers change. If that shows nothing, other searches try their luck, see
    `advkit.evaluation.searches.helped`.

    Args:
        model: pixels (N, ...) to logits (N, K), in any mode; it is left as it was.
        images: floating (n, ...), images that the model gets right.
        labels: int64 (n,).
        left: for each norm, images that no attack fooled within its budget.
        bounds: of the pixels.
        called: what sentences call the model.
        adaptive: whether the attacker knows the model's defenses, and differentiates their surrogates.
        by_logits: whether the attack goes by differences of logits. Then a cross-entropy that underflows is no sign
            where the gradient of the log-odds is right, which takes 17 forwards and a backward to see.
        passes: how many forwards and backwards all of it may take, so that it costs no more than the attacks did. The
            other searches make do with what the rest leaves of them.

    Returns:
        The signs, and the passes, which are not counted where the model is no module. A probe that raises is one more
        sign: it looks for reasons to doubt, and must not stop what it looks at.
    """
    spent = Passes()
    if len(images) < _LEAST:
        count = f"{len(images)} image{'' if len(images) == 1 else 's'}"
        sentence = f"{called} is right on {count}, and its gradients are only examined on {_LEAST} or more."
        return [_unlooked(sentence)], spent
    look = partial(_of_model, called, model, bounds=bounds, adaptive=adaptive, by_logits=by_logits)
    gradients, answers, searches = (f"{what} of {called}" for what in ("gradients", "answers", "searches"))
    with ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(counting(model, spent))
        found = probe(gradients, partial(look, images, labels, unbounded=True))
        for place, group in enumerate(left, 1):
            if not _is_unexplained(found):
                break
            found += probe(gradients, partial(look, group.images, group.labels), place)
            if _is_unexplained(found):
                found += probe(answers, partial(foretold, called, model, group, bounds, adaptive=adaptive), place)
        for place, group in enumerate(left, 1):
            if not _is_unexplained(found):
                break
            rest = (passes - spent.forwards - spent.backwards) / (len(left) - place + 1)
            tell = partial(helped, called, model, group, (images, labels), bounds, adaptive=adaptive, passes=rest)
            found += probe(searches, tell, place)
    return found, spent


def _is_unexplained(found: Iterable[Sign]) -> bool:
    """Whether no flag has said what is wrong."""
    return all(sign.flag is None or sign.flag.name in _NO_CAUSE for sign in found)


def _once(found: Iterable[Sign]) -> list[Flag]:
    """The first flag of each name, and each probe that raised."""
    once: dict[tuple[str, str], Flag] = {}
    for flag in filter(None, (sign.flag for sign in found)):
        once.setdefault((flag.name, flag.sentence if flag.name == "not probed" else ""), flag)
    return list(once.values())


def _unlooked(sentence: str) -> Sign:
    return Sign(Flag("not probed", sentence, CARLINI), torch.zeros(0, dtype=torch.bool, device="cpu"))


def probe(what: str, look: Callable[[], list[Sign]], group: int = 0) -> list[Sign]:
    """The signs that a look shows, or one more if it raises.

    Args:
        what: is looked at, in words.
        look: finds the signs.
        group: of images, see `Sign`.
    """
    try:
        with torch.inference_mode(False):  # whose tensors could not be differentiated
            return [replace(sign, group=group) for sign in look()]
    except Exception as error:
        sentence = f"the {what} could not be examined, since a probe raised {type(error).__name__}: {error}"
        return [_unlooked(sentence)]


def _of_model(
    called: str,
    model: Model,
    images: Tensor,
    labels: Tensor,
    *,
    bounds: tuple[float, float],
    adaptive: bool,
    by_logits: bool,
    unbounded: bool = False,
) -> list[Sign]:
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
        if by_logits and bool(look.saturated.any()):
            look.saturated = look.saturated & ~borne_out(classifier, x, goal, bounds)
        elsewhere = _says_otherwise(classifier, x, labels, bounds) if unbounded else look.flat & ~look.flat
        constant = look.flat & ~elsewhere & _constant(classifier, x, bounds) if unbounded else elsewhere
        anywhere = x
        if bool((elsewhere & look.climbing).any()):
            anywhere = _anywhere(classifier, x, goal, look.climbing & elsewhere, bounds)
    standing = elsewhere & look.climbing & (prediction(model, anywhere) == labels) if unbounded else elsewhere
    look.flat = look.flat & ~constant
    changed = (prediction(model, x) != labels) & (not averaged)
    return signs(called, look, constant, standing, changed, averaged=averaged)


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
        steps=STEPS,
        loss="log_odds",
        early_stop=True,
    )
    return found
