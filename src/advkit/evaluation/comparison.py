"""The flags that show when the attacks on one model are held against each other, image by image. They cost no pass."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advkit._engine.wording import short
from advkit.attack import Attack
from advkit.attacks import FGSM
from advkit.evaluation.flags import (
    ATHALYE,
    CARLINI,
    TRAMER,
    Flag,
    beats,
    budget,
    many,
    named_norm,
    number,
    reach,
    rises,
    share,
    who,
)
from advkit.evaluation.kinds import has_another_loss, missing, refused
from advkit.evaluation.outcomes import Outcome, judged, outcomes
from advkit.evaluation.plan import TRANSFERRED, Contender, PlannedAttack
from advkit.evaluation.records import Record
from advkit.evaluation.rivals import TRANSFER, about, beaten, beaten_all, is_thorough, named, of_transfer
from advkit.model import defended, is_stochastic
from advkit.norms import Linf

__all__ = ["compared", "comparison"]

_FEW = 0.02  # the share of images on which an honest model may look masked
_GAIN = 0.05  # the share of the survivors that an honest attack may fool when it tries again
_UNDONE = 0.05  # the share of a minimal attack's finds that rounding may undo
_TAKEN = 0.002  # the share of the images that a black-box attack may take after thorough ones
_THOROUGH = 50  # steps
_STUCK = 0.1  # the share of images on which an honest minimal attack may end without a find


def comparison(
    records: Mapping[int, Record], contenders: Sequence[Contender], plan: Sequence[PlannedAttack], *, whole: bool = True
) -> tuple[Flag, ...]:
    """The flags of all contenders; see `compared`.

    An image that was lost to an error under one attack on a contender is left out of what is said of the contender.

    Args:
        records: of each batch, by its index in the loader.
        contenders: whose outcomes the records hold.
        plan: likewise.
        whole: whether every attack was tried on all images that the contender gets right; if not, attacks are not
            compared.
    """
    labels = torch.tensor([label for record in records.values() for label in record.labels], device="cpu")
    found: list[Flag] = []
    for index, contender in enumerate(contenders):
        clean, kept = judged([record.clean[index] for record in records.values()], labels)
        tried, known = outcomes(list(records.values()), contender, plan)
        unasked = refused(list(records.values()), contender, plan)
        found += unasked
        kept = kept & known
        if bool(kept.any()):
            rows = [outcome.rows(kept) for outcome in tried]
            more = compared(contender.name, clean[kept], rows, labels[kept], whole=whole)
            found += [flag for flag in more if not (unasked and flag.name == "no gradient attack")]
    return tuple(found)


def compared(
    defense: str, clean: Tensor, outcomes: Sequence[Outcome], labels: Tensor | None = None, *, whole: bool = True
) -> tuple[Flag, ...]:
    """The flags that show when the attacks on one model are held against each other, image by image.

    Args:
        defense: what the report calls the model's defense; "none" for the bare model.
        clean: bool (N,), whether the model is right on each image without an attack.
        outcomes: of the attacks on the same N images.
        labels: int64 (N,), the classes; None where they are not known. An attack that may change anything is only
            expected to fool images of more than one class: of one alone, the model may know no other.
        whole: whether each attack was tried on every image that the model gets right.
    """
    called = who(defense)
    found = missing(called, outcomes)
    for one in outcomes:
        found += about(one, _of_length(called, one))
    undone = [flag for one in outcomes for flag in about(one, _of_lasting(called, one))] if whole else []
    if not undone:
        found += of_transfer(called, outcomes, whole=whole)
    if undone or not whole:
        found += undone[:1]  # of answers that do not last, no comparison says anything about gradients
        return tuple(replace(flag, defense=defense) for flag in found)
    for one in outcomes:
        found += about(one, _of_help(called, one, clean))
        found += about(one, _of_freedom(called, one, labels))
        peers = [other for other in outcomes if other.protocol == one.protocol and other is not one]
        found += _of_steps(called, one, peers)
        found += _of_budgets(called, one, peers)
        found += _of_sight(called, one, peers)
        found += _of_closeness(called, one, peers)
        found += _of_knowledge(called, one, outcomes)
    return tuple(replace(flag, defense=defense) for flag in found)


def _of_length(called: str, one: Outcome) -> list[Flag]:
    """Whether the steps are too short for the budget."""
    ball, far, count, n = budget(one.attack), reach(one.attack), int(one.right.sum()), len(one.right)
    if not one.is_direct or ball is None or far >= ball[1] * (1 - 1e-6) or not many(count, n, _FEW):
        return []
    sentence = (
        f"{called} is right on {count} of {n} images under {named(one)}, whose {number(one.attack, 'steps'):g} steps "
        f"of {short(number(one.attack, 'alpha'))} lead no further than {short(far)} from where it starts, with an eps "
        f"of {short(ball[1])}; take more steps or longer ones."
    )
    return [Flag("steps too short", sentence, CARLINI)]


def _of_help(called: str, one: Outcome, clean: Tensor) -> list[Flag]:
    """Whether the attack helps the model."""
    if not beats(one.right, clean):
        return []
    sentence = (
        f"{called} is right on {share(one.right)} of the images under {named(one)}, and on {share(clean)} "
        "without an attack; an attack that helps the model is broken: it is aimed at another model, or its gradient "
        "is misleading."
    )
    return [Flag("above clean accuracy", sentence, CARLINI)]


def _of_freedom(called: str, one: Outcome, labels: Tensor | None) -> list[Flag]:
    """Whether the attack fails though it may do anything.

    Whatever class the model gives to one image that all may become, the images of the others can be fooled.
    """
    count, n = int(one.right.sum()), len(one.right)
    if labels is not None and count:
        count -= int(labels[one.right].bincount().max())
    ball, (low, high) = budget(one.attack), one.attack.bounds
    anything = ball is not None and ball[0] is Linf and ball[1] >= (high - low) / 2 and reach(one.attack) >= ball[1]
    many_steps = (number(one.attack, "steps") or 0) > 1
    if not one.is_direct:
        return []
    if anything and many_steps and many(count, n, _FEW):
        sentence = (
            f"{called} is right on {int(one.right.sum())} of {n} images under {named(one)}, which may make every "
            "image the same grey; its gradients are misleading, so use a surrogate for what masks them, or black-box "
            "attacks."
        )
        return [Flag("unbounded attack", sentence, ATHALYE)]
    if one.is_free and many(count, n, _STUCK):
        sentence = (
            f"{called} is right on {int(one.right.sum())} of {n} images under {named(one)}, which has no budget; "
            "it stops too early, or its gradients are misleading, so give it more steps, and a "
            "surrogate for what masks them."
        )
        return [Flag("unbounded attack", sentence, ATHALYE)]
    return []


def _of_lasting(called: str, one: Outcome) -> list[Flag]:
    """Whether images that an attack returned as fooling do not fool when they are judged."""
    model = one.attack.model
    stands_in = one.attack.access == "gradient" and one.attack.adaptive and defended(model)
    if one.attack.aim == "budget" or not one.is_direct or stands_in or is_stochastic(model):
        return []
    moved = one.distances["linf"] > 0
    count, n = int((moved & one.right).sum()), int(moved.sum())
    if not many(count, n, _UNDONE):
        return []
    sentence = (
        f"{named(one)} returned {n} changed images as fooling {called}, which is right on {count} of them when run "
        "again; its outputs depend on more than the image (the rest of the batch, earlier images, chance), or the "
        "attack returns images that it failed on."
    )
    return [Flag("success does not last", sentence, CARLINI)]


def _of_steps(called: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether one step beats many, and many beat fewer."""
    found: list[Flag] = []
    steps = number(one.attack, "steps") or (1 if isinstance(one.attack, FGSM) else None)
    if one.attack.aim != "budget" or steps is None or not one.is_direct:
        return found
    for other in peers:
        more = number(other.attack, "steps")
        if other.attack.aim != "budget" or more is None or more <= steps:
            continue
        if steps == 1 and (won := beaten(other, one)):
            sentence = (
                f"{called} falls to {named(one)}, of one step, on {won} images that {named(other)} fails on, "
                "within its budget; an attack that takes many steps should find them, so its gradients are misleading, "
                "or its step size is wrong."
            )
            found += about(other, [Flag("one step beats many", sentence, ATHALYE)])
        same = type(one.attack) is type(other.attack) and budget(one.attack) == budget(other.attack) is not None
        if steps > 1 and same:
            # What another attack fools as well says nothing of what more steps would.
            rest = [peer for peer in peers if peer is not other and budget(peer.attack) == budget(one.attack)]
            left = torch.stack([one.right, *(peer.right for peer in rest)]).all(0)
            n, fooled = int(left.sum()), int((left & ~other.right).sum())
            if beats(left & ~other.right, ~one.right & other.right) and many(fooled, n, _GAIN):
                sentence = (
                    f"{named(one)} and the other attacks failed on {n} images of {called}, and {named(other)} "
                    f"fools {fooled} of them; take still more steps, until the accuracy no longer falls."
                )
                found += about(one, [Flag("more steps help", sentence, CARLINI)])
    return found


def _of_budgets(called: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether the same attack does worse with a larger budget."""
    eps, norm = number(one.attack, "eps"), named_norm(one.attack)
    if eps is None or not one.is_direct:
        return []
    found = []
    for other in peers:
        larger = number(other.attack, "eps")
        alike = type(other.attack) is type(one.attack) and named_norm(other.attack) is norm
        no_shorter = (number(other.attack, "steps") or 0) >= (number(one.attack, "steps") or 0)
        if alike and no_shorter and larger is not None and larger > eps and beaten(other, one):
            name = type(one.attack).__name__
            found += about(other, [rises(name, called, eps, larger, one.right, other.right)])
    return found


def _of_sight(called: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether an attack that sees only answers beats all that see gradients."""
    seeing = [other for other in peers if other.attack.access == "gradient"]
    if one.attack.access == "gradient" or not one.is_direct:
        return []
    won = beaten_all(seeing, one) or _beaten_within(seeing, one)
    if not won:
        return []
    sentence = (
        f"{called} falls to {named(one)}, which sees only outputs, on {won} images that every attack that sees "
        "gradients fails on, although their budgets allowed what it found; its gradients are misleading, so give "
        "attacks a surrogate for what masks them."
    )
    return [Flag("black-box beats white-box", sentence, ATHALYE)]


def _of_closeness(called: str, one: Outcome, peers: Sequence[Outcome]) -> list[Flag]:
    """Whether an attack without a budget stays within one that no iterative attack with it uses as well."""
    if (one.attack.aim != "minimal" or one.attack.access != "gradient") or not one.is_direct:
        return []
    found = []
    balls = {ball for other in peers if (ball := budget(other.attack)) and is_thorough(other.attack)}
    for norm, eps in sorted(balls, key=lambda ball: (ball[0].name, ball[1])):
        failed = torch.stack([other.right for other in peers if budget(other.attack) == (norm, eps)]).all(0)
        fooled = ~one.right & one.within(norm, eps)
        if beats(fooled, ~failed):
            sentence = (
                f"{called} falls to {named(one)} within {norm} {short(eps)} on {int((fooled & failed).sum())} images "
                "that every attack with this budget fails on; they stop short, or their loss or its gradients are "
                "misleading, so take more steps, several restarts and attacks on the margin."
            )
            found.append(Flag("minimal beats budget", sentence, CARLINI))
    return found


def _of_knowledge(called: str, one: Outcome, outcomes: Sequence[Outcome]) -> list[Flag]:
    """Whether an attacker who knows less does better, with the same attack."""
    ranks = {"oblivious": 0, TRANSFERRED: 0, "naive": 1, "adaptive": 2}
    found = []
    for other in outcomes:
        knows_more = ranks[other.protocol or "adaptive"] > ranks[one.protocol or "adaptive"]
        if (
            one.surrogate
            or other.surrogate
            or other.name != one.name
            or not knows_more
            or not (won := beaten(other, one))
        ):
            continue
        seen = "without knowledge of the defense" if one.protocol == "oblivious" else "through the gradient as it is"
        sentence = (
            f"{called} falls to {named(one)}, made {seen}, on {won} images that the {other.protocol} attacker fails "
            "on, within the same budget; knowing more should not hurt, so look for what masks the gradient, or for a "
            "better surrogate."
        )
        name = TRANSFER if one.protocol == "oblivious" else "naive beats adaptive"
        flag = Flag(name, sentence, ATHALYE if one.protocol == "oblivious" else TRAMER)
        found += about(other, [flag])
    return found


def _beaten_within(seeing: Sequence[Outcome], one: Outcome) -> int:
    """How many images fall to a black-box attack alone, within the budget of attacks of many steps; 0 for few.

    AutoAttack's own rule (Croce & Hein 2020, in their code): what Square Attack takes after attacks that follow
    gradients is not more than .2 points of the accuracy, unless gradients are misleading.
    """
    ball = budget(one.attack)
    rivals = [other.attack for other in seeing if budget(other.attack) == ball and _is_long(other.attack)]
    if ball is None or not any(map(has_another_loss, rivals)):
        return 0
    fooled = ~one.right & one.within(*ball) & torch.stack([other.right for other in seeing]).all(0)
    return int(fooled.sum()) if many(int(fooled.sum()), len(fooled), _TAKEN) else 0


def _is_long(attack: Attack) -> bool:
    """Whether an attack takes enough steps to be held to AutoAttack's rule."""
    return is_thorough(attack) and (number(attack, "steps") or 0) >= _THOROUGH
