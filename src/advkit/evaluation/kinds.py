"""The kinds of attacks that robustness has to withstand before it is believed, and which of them were not tried."""

from collections.abc import Iterable, Iterator, Sequence

import torch

from advkit.attack import Attack
from advkit.attacks import FGSM
from advkit.evaluation.flags import ATHALYE, CARLINI, Flag, many, number, who
from advkit.evaluation.outcomes import Outcome
from advkit.evaluation.plan import Contender, PlannedAttack
from advkit.evaluation.records import Record, is_refused

__all__ = ["carried_out", "has_another_loss", "missing", "not_tried", "refused"]

_FEW = 0.02  # the share of the images that may be left without a doubt


def carried_out(records: Iterable[Record], plan: Sequence[PlannedAttack]) -> list[Attack]:
    """The attacks that some model could be attacked with: there was a gradient, or they need none."""
    direct = [planned.attack if cell.surrogate is None else None for planned in plan for cell in planned.cells]
    cells = zip(*(record.cells for record in records), strict=True)
    return [attack for attack, answers in zip(direct, cells, strict=True) if attack and not is_refused(answers)]


def not_tried(attacks: Iterable[Attack]) -> tuple[str, ...]:
    """The kinds of which there is none among the attacks, as parts of a sentence."""
    attacks = list(attacks)
    parts = [part for attack in attacks for part in _parts(attack)]
    if any(type(part).__name__ == "AutoAttack" for part in (*attacks, *parts)):
        return ()  # which is made of all kinds
    seeing = [part for part in parts if part.access == "gradient"]
    kinds = {
        "an attack of many steps along gradients": any(_is_iterative(part) for part in seeing),
        "a loss other than cross-entropy": any(map(has_another_loss, seeing)),
        "several random starts": any(_starts(one) > 1 for one in (*attacks, *parts)),
        "an attack that sees only outputs": len(seeing) < len(parts),
    }
    return tuple(kind for kind, tried in kinds.items() if not tried) if parts else ()


def missing(called: str, outcomes: Sequence[Outcome]) -> list[Flag]:
    """Whether a kind of attack is missing that what is left has to withstand."""
    direct = [one for one in outcomes if one.is_direct]
    if not direct:
        return []
    n, left = len(direct[0].right), int(torch.stack([one.right for one in direct]).all(0).sum())
    seeing = [one.attack for one in direct if one.attack.access == "gradient"]
    if not many(left, n, _FEW):
        return []
    if not seeing:
        sentence = (
            f"{called} is right on {left} of {n} images under attacks that see only outputs; none that follows "
            "gradients was tried, and those fool most models on more images."
        )
        return [Flag("no gradient attack", sentence, CARLINI)]
    if all(isinstance(attack, FGSM) or (attack.aim == "budget" and number(attack, "steps") == 1) for attack in seeing):
        sentence = (
            f"{called} is right on {left} of {n} images under attacks that take at most one gradient step; "
            "none that takes many was tried, such as PGD, and those fool most models on more images."
        )
        return [Flag("no iterative attack", sentence, CARLINI)]
    return []


def refused(records: Sequence[Record], contender: Contender, plan: Sequence[PlannedAttack]) -> list[Flag]:
    """The flags for attacks on a contender that were not carried out, since there was no gradient to follow."""
    by_protocol: dict[str | None, list[str]] = {}
    cells = [cell for planned in plan for cell in planned.cells]
    for cell, answers in zip(cells, zip(*(record.cells for record in records), strict=True), strict=True):
        if cell.contender is contender and cell.surrogate is None and is_refused(answers):
            by_protocol.setdefault(cell.protocol, []).append(cell.attack)
    return [
        Flag(
            "gradients refused",
            f"{who(contender.name)} has no gradient, so that {', '.join(names)} could not be carried out, and what is "
            "left has only withstood attacks that see outputs; give it a differentiable stand-in, by "
            "`evaluate(surrogate=)` or the `surrogate` of its defense.",
            ATHALYE,
            contender.name,
            protocol=protocol,
        )
        for protocol, names in by_protocol.items()
    ]


def has_another_loss(attack: Attack) -> bool:
    """Whether an attack that follows gradients goes by differences of logits, and not by cross-entropy alone."""
    if attack.aim == "minimal" or number(attack, "target_classes") is not None:
        return True
    return getattr(attack, "loss", None) in ("margin", "dlr")


def _starts(attack: Attack) -> float:
    """From how many random starts an attack sets out."""
    return number(attack, "restarts") or number(attack, "n") or 1


def _is_iterative(attack: Attack) -> bool:
    return attack.aim == "minimal" or (number(attack, "steps") or 1) > 1


def _parts(attack: Attack) -> Iterator[Attack]:
    """The attacks that one is made of, or itself; with a number of restarts an attack that is repeated."""
    inner = getattr(attack, "attacks", None) or (getattr(attack, "attack", None),)
    inner = [one for one in inner if isinstance(one, Attack)] if isinstance(inner, (list, tuple)) else []
    if not inner:
        yield attack
    for one in inner:
        yield from _parts(one)
