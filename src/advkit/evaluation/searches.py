"""Other searches on the images on which every attack failed: what they find shows what the attacks lacked.

They are small, and decide nothing: where they succeed, an accuracy is too high; where they fail, that shows nothing.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advkit._engine.wording import short
from advkit.evaluation.flags import ATHALYE, CARLINI, FAB, SQUARE, Flag, many, number
from advkit.evaluation.signs import Sign
from advkit.evaluation.tries import DRAWS, QUERIES, STARTS, STEPS, WALKS, Survivors, Tries
from advkit.model import Model, is_stochastic
from advkit.norms import L2, Linf

__all__ = ["Survivors", "helped"]

_GAIN = 0.05  # the share of the survivors that an honest attack may fool when it tries again
_GAIN_OF_LOSS = 0.25  # with a loss that suits robust networks better than cross-entropy does; theirs is a sixth
_GAIN_OF_NOISE = _GAIN_OF_STEPS = 0.1  # a plain network loses up to an eighth to another start
_LEAST = 4  # images that a search begins with, unless there are fewer; of those no share is more than chance
_JUDGED = 4  # forwards that say what a search fooled, at most
_FIRST = 12  # images that a search begins with, and goes on from only where it fools more than an honest share


def helped(
    called: str,
    model: Model,
    left: Survivors,
    others: tuple[Tensor, Tensor],
    bounds: tuple[float, float],
    *,
    adaptive: bool,
    passes: float = math.inf,
) -> list[Sign]:
    """The sign of a search that fools what no attack did, within the same budget.

    Of n images: 20 steps of PGD, three times: plain, with the margin for its loss, and with gradients averaged over
    noise, which counts three times; and one run of the attack itself with four times its steps, at most 100. If none
    of these fools more than an honest attack might by trying again, what is left faces 200 queries of Square Attack's
    search (Linf), or eight walks of 40 steps from images of other classes (L2). Without a PGD for the norm, and for
    random defenses, whom luck helps, the attack itself is all.

    A search begins with 12 images, and with twice as many again for as long as it fools more of them than an honest
    model might lose. So a model that hides nothing costs, after PGD, at most some 580 passes (Linf) or 1,060 (L2) for
    each of 12 images, and one that does for each of the n.

    Args:
        called: what sentences call the model.
        model: pixels (N, ...) to logits (N, K).
        left: the images, in random order.
        others: images that the model gets right, and their labels.
        bounds: of the pixels.
        adaptive: whether the attacker knows the model's defenses.
        passes: how many forwards and backwards the first images may cost, all searches together. Where they do not
            suffice the searches begin with fewer images, and where that are less than four, the dearest are left out.
    """
    n = len(left.images)
    if not n or not left.eps:
        return []
    tries = Tries(model, left, others, bounds, adaptive)
    searches, last = _affordable(*_searches(tries, left, random=is_stochastic(model)), passes)
    first = int(min(_FIRST, passes // max(1, sum(search.price for search in (*searches, *last)))))
    rest, tests = torch.arange(n, device="cpu"), len(searches) + len(last)
    lost, flag = torch.zeros(n, dtype=torch.bool, device="cpu"), None
    for group in (searches, last):
        fooled = {search: _fooled(search, rest, first) for search in group if len(rest)}
        counts = {search: int(rows.sum()) for search, rows in fooled.items()}
        telling = [search for search, count in counts.items() if many(count, len(rest), search.share, tests=tests)]
        if telling:
            best = max(telling, key=counts.__getitem__)
            flag = _flag(best.name, called, left, len(rest), counts[best])
        some = torch.stack([torch.zeros_like(rest, dtype=torch.bool), *fooled.values()]).any(0)
        lost[rest[some]] = True
        if flag:
            break
        rest = rest[~some]
    return [Sign(flag, lost, fooled=True)] if bool(lost.any()) else []


@dataclass(frozen=True, eq=False)
class _Search:
    """A search for images that fool.

    Attributes:
        name: of its flag.
        run: rows (m,) of the survivors to whether it fools each, bool (m,).
        share: of the survivors that an honest model may lose to it.
        price: how many passes it takes for an image that it does not fool.
    """

    name: str
    run: Callable[[Tensor], Tensor]
    share: float
    price: int


def _searches(tries: Tries, left: Survivors, *, random: bool) -> tuple[list[_Search], list[_Search]]:
    """The searches along gradients, and the one for what these leave."""
    again = [_Search("steps", tries.longer, _GAIN_OF_STEPS, tries.most_passes + _JUDGED)]
    if random or left.norm not in (Linf, L2):
        return again, []
    climbs = [
        _Search("plain", lambda rows: tries.climbed(rows, "ce"), _GAIN_OF_STEPS, 2 * STEPS + _JUDGED),
        _Search("margin", lambda rows: tries.climbed(rows, "margin"), _GAIN_OF_LOSS, 2 * STEPS + _JUDGED),
        _Search(
            "noise", lambda rows: tries.climbed(rows, "ce", noisy=True), _GAIN_OF_NOISE, 2 * STEPS * DRAWS + _JUDGED
        ),
    ]
    square, walk = (
        _Search("square", tries.square, _GAIN, QUERIES + _JUDGED),
        _Search("walk", tries.walked, _GAIN, (2 * WALKS + _JUDGED) * STARTS),
    )
    return [*again, *climbs], [square if left.norm is Linf else walk]


def _affordable(searches: list[_Search], last: list[_Search], passes: float) -> tuple[list[_Search], list[_Search]]:
    """Those searches that together need no more passes for a few images, the cheapest first."""
    kept, price = set(), 0
    for search in sorted([*searches, *last], key=lambda search: search.price):
        price += search.price
        if _LEAST * price > passes:
            break
        kept.add(search)
    return [one for one in searches if one in kept], [one for one in last if one in kept]


def _fooled(search: _Search, rows: Tensor, first: int) -> Tensor:
    """Which of the rows (m,) a search fools, bool (m,), on the CPU: only the first ones are tried if few of these."""
    fooled = torch.zeros_like(rows, dtype=torch.bool)
    tried, most = 0, first
    while tried < len(rows) and (not tried or int(fooled.sum()) > search.share * tried):
        some = rows[tried:most]
        fooled[tried:most] = search.run(some).cpu()
        tried, most = tried + len(some), 2 * most
    return fooled


def _flag(kind: str, called: str, left: Survivors, n: int, count: int) -> Flag:
    budget = f"within {left.norm} {short(left.eps)}"
    failed = f"of {n} images that withstood the attacks on {called} {budget},"
    steps = number(left.attack, "steps")
    pgd = f"{STEPS} steps of PGD, each a quarter of the budget,"
    sentences = {
        "steps": (
            "more steps help",
            f"{left.name} failed on {n} images of {called}, and fools {count} of them with more than its "
            f"{steps or 1:g} steps; take more steps, and several restarts of a random attack, until the accuracy no "
            "longer falls.",
            CARLINI,
        ),
        "plain": (
            "more steps help",
            f"{failed} {pgd} fool {count}; take such steps, and more of them, until the accuracy no longer falls.",
            CARLINI,
        ),
        "margin": (
            "another loss helps",
            f"{failed} {pgd} on the margin fool {count}; cross-entropy is misleading where the logits saturate, "
            "so use attacks on the margin (CW, DeepFool).",
            CARLINI,
        ),
        "noise": (
            "averaged gradients help",
            f"{failed} {pgd} along gradients averaged over noise on the image fool {count}; the gradient is "
            "shattered, so average it, or use a surrogate for what breaks it.",
            ATHALYE,
        ),
        "square": (
            "random search helps",
            f"{failed} {QUERIES} queries of a random search, which sees only the outputs, fool {count} where "
            "PGD with several losses does not; gradients are misleading there, so give attacks a surrogate for what "
            "masks them, or use black-box attacks.",
            SQUARE,
        ),
        "walk": (
            "another start helps",
            f"{failed} walks back from images of other classes fool {count} where PGD from nearby does not; "
            "gradients near these images do not tell what changes as large as the budget do, so use attacks that start "
            "elsewhere or see only the outputs, and more of them.",
            FAB,
        ),
    }
    return Flag(*sentences[kind])
