"""Which of two attacks on a model does better, image by image, and whether those on another model do better still."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from advkit.attack import Attack
from advkit.evaluation.flags import ATHALYE, Flag, beats, budget, many, number, reach
from advkit.evaluation.outcomes import Outcome

__all__ = ["TRANSFER", "about", "beaten", "beaten_all", "is_thorough", "named", "of_transfer"]

TRANSFER = "transfer beats white-box"
_UNMASK = "look for what masks them, and give attacks a surrogate for it"
_GAIN = 0.05  # the share of what gradients left that another model's images may fool


def about(one: Outcome, found: Iterable[Flag]) -> list[Flag]:
    """The flags, which put in doubt what this attack left."""
    return [replace(flag, attack=one.name, protocol=one.protocol) for flag in found]


def named(one: Outcome) -> str:
    """What sentences call an attack, with who made its images."""
    if one.surrogate is not None:
        return f"{one.name} from {one.surrogate}"
    return one.name if one.protocol in (None, "adaptive") else f"{one.name} ({one.protocol})"


def is_thorough(attack: Attack) -> bool:
    """Whether a budget attack takes several steps, and enough to get through its budget."""
    ball = budget(attack)
    return ball is not None and (number(attack, "steps") or 0) > 1 and reach(attack) >= ball[1]


def beaten(stronger: Outcome, weaker: Outcome) -> int:
    """How many images only the weaker attack fools, which the stronger one was allowed; 0 where it may be chance."""
    return beaten_all([stronger], weaker)


def beaten_all(stronger: Sequence[Outcome], weaker: Outcome) -> int:
    """The same for several stronger attacks together, of which each image counts for the best."""
    allowed, failed = torch.zeros_like(weaker.right), torch.ones_like(weaker.right)
    for other in stronger:
        allowed = allowed | other.allowed(weaker)
        failed = failed & other.right
    fooled = ~weaker.right & (allowed | ~failed)
    return int((fooled & failed).sum()) if beats(fooled, ~failed) else 0


def of_transfer(called: str, outcomes: Sequence[Outcome], *, whole: bool) -> list[Flag]:
    """Whether images made on another model do better than the model's own gradients: one flag for each attack at most.

    Either the same attack fools more on the other model, or what all attacks on this one left falls to the other's.
    """
    transferred = [one for one in outcomes if one.surrogate is not None]
    direct = [one for one in outcomes if one.is_direct and one.attack.access == "gradient"]
    direct = [one for one in direct if one.protocol != "naive"] or direct  # who knows most
    found: list[Flag] = []
    for other in direct if whole else ():
        won = {one: beaten(other, one) for one in transferred if one.name == other.name}
        if (best := max(won, key=lambda one: won[one], default=None)) and won[best]:
            sentence = (
                f"{called} falls to {named(best)} on {won[best]} images that {named(other)} fails on, within the "
                f"same budget; its own gradients should lead at least as far as those of another model, so {_UNMASK}."
            )
            found += about(other, [Flag(TRANSFER, sentence, ATHALYE)])
    if found or not any(is_thorough(one.attack) for one in direct):
        return found
    left = torch.stack([one.right for one in direct]).all(0)
    taken = {one: left & ~one.right & _in_any(one, direct) for one in transferred}
    best = max(taken, key=lambda one: int(taken[one].sum()), default=None)
    if best is None or not many(count := int(taken[best].sum()), n := int(left.sum()), _GAIN):
        return found
    sentence = (
        f"every attack along gradients failed on {n} images of {called}, and {named(best)} fools {count} of them, "
        f"within the same budget; they should leave next to nothing to images of another model, so {_UNMASK}."
    )
    return [replace(Flag(TRANSFER, sentence, ATHALYE), protocol=direct[0].protocol)]


def _in_any(one: Outcome, others: Sequence[Outcome]) -> Tensor:
    """Where an image lies within the budget of some other attack: bool (N,)."""
    return torch.stack([one.within(*ball) for other in others if (ball := budget(other.attack))]).any(0)
