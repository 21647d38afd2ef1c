"""From the records of the batches to the numbers of a report."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from advkit.attack import Attack
from advkit.evaluation.flags import Ball, balls
from advkit.evaluation.metrics import macro, wilson
from advkit.evaluation.outcomes import counted
from advkit.evaluation.plan import Cell, Contender, PlannedAttack
from advkit.evaluation.records import LOST, NORMS, Outcome, Record, is_refused, vote
from advkit.evaluation.scores import BARE, AttackScore, DefenseScore, Failure, WorstCase

__all__ = ["hopeless", "summary"]


def summary(
    records: Mapping[int, Record],
    contenders: Sequence[Contender],
    plan: Sequence[PlannedAttack],
    setup: Mapping[str, Any],
) -> dict[str, Any]:
    """The numbers of a report, by its attributes.

    Args:
        records: of each batch, by its index in the loader, at least one.
        contenders: whose outcomes the records hold.
        plan: likewise.
        setup: what the contenders, attacks and surrogates are: class and arguments of each, by its name; and how they
            were tried.
    """
    labels = torch.tensor([label for record in records.values() for label in record.labels], device="cpu")
    cells = [cell for planned in plan for cell in planned.cells]
    of_contenders = list(zip(*(record.clean for record in records.values()), strict=True))
    of_cells = list(zip(*(record.cells for record in records.values()), strict=True))
    # By defense, and for each attack by protocol.
    order = {name: place for place, name in enumerate([one.name for one in contenders])}
    attacks = [planned.attack for planned in plan for _ in planned.cells]
    together: dict[tuple[str, str | None], list[_Under]] = defaultdict(list)
    members: dict[tuple[str, str | None], list[Cell]] = defaultdict(list)
    tried = zip(cells, attacks, of_cells, strict=True)
    for cell, attack, of_cell in sorted(tried, key=lambda one: order[one[0].contender.name]):
        # Where attacks are only tried on what others left, what transferred ones alone leave is not known.
        for protocol in (
            {cell.counts_for: None} if setup["stop_when_fooled"] else {cell.counts_for: None, cell.protocol: None}
        ):
            together[cell.contender.name, protocol].append((attack, of_cell))
            members[cell.contender.name, protocol].append(cell)
    clean = {one.name: of_one for one, of_one in zip(contenders, of_contenders, strict=True)}
    within = balls(attacks)
    firsts: dict[tuple[str | None, ...], int] = {
        cell.names: count
        for (name, protocol), several in together.items()
        for cell, count in zip(members[name, protocol], _firsts(labels, clean[name], several, within), strict=True)
        if cell.counts_for == protocol
    }
    scores = [
        _attack_score(cell, labels, of_cell, setup, firsts[cell.names])
        for cell, of_cell in zip(cells, of_cells, strict=True)
    ]
    hits = {place: _hits(labels, clean[place[0]], several, within) for place, several in together.items()}
    right, kept, draws = hits.get((BARE, None)) or _hits(labels, clean[BARE], [], within)
    return {
        "images": len(labels),
        "defenses": tuple(
            _defense_score(one, labels, outcomes, setup)
            for one, outcomes in zip(contenders, of_contenders, strict=True)
        ),
        "scores": tuple(sorted(scores, key=lambda score: order[score.defense])),
        "worst": tuple(_worst_case(*place, found, within) for place, found in hits.items()),
        "failures": tuple(_failures(records, contenders, cells)),
        "proved": _proved(records.values(), kept),
        "standing": tuple((kept & (2 * right > draws)).tolist()),
        "labels": tuple(labels.tolist()),
        "surrogates": setup.get("transfer_from", {}),
    }


def _proved(records: Iterable[Record], kept: Tensor) -> tuple[bool, ...]:
    """Which images are proved and not lost; nothing where nobody asked."""
    proved = [one for record in records for one in record.verified]
    return tuple(one and bool(known) for one, known in zip(proved, kept, strict=True)) if proved else ()


def _defense_score(
    one: Contender, labels: Tensor, outcomes: Sequence[Outcome], setup: Mapping[str, Any]
) -> DefenseScore:
    """How a contender fares without an attack, from its outcome for each batch."""
    kind, arguments = setup["models"][one.name]
    return DefenseScore(
        name=one.name,
        defense=kind,
        draws=one.asked,
        arguments=arguments,
        prediction_seconds=_each(math.fsum(o.seconds for o in outcomes), sum(o.predicted for o in outcomes)),
        **_quality(labels, outcomes),
    )


def _attack_score(
    cell: Cell, labels: Tensor, outcomes: Sequence[Outcome], setup: Mapping[str, Any], first_to_fool: int
) -> AttackScore:
    """How a contender fares under an attack, from its outcome for each batch."""
    kind, arguments = setup["attacks"][cell.attack]
    crafted = sum(outcome.crafted for outcome in outcomes)
    seconds = _each(math.fsum(outcome.attack_seconds for outcome in outcomes), crafted)
    judging = _each(math.fsum(outcome.seconds for outcome in outcomes), sum(o.predicted for o in outcomes))
    distances = [
        [
            far
            for one in outcomes
            for far, fooled in zip(one.distances[place].tolist(), one.fooled, strict=True)
            if fooled
        ]
        for place in range(len(NORMS))
    ]
    medians = [median(found) if found else math.nan for found in distances]
    means = [_each(math.fsum(found), len(found)) for found in distances]
    return AttackScore(
        name=cell.attack,
        attack=kind,
        defense=cell.contender.name,
        protocol=cell.protocol,
        surrogate=cell.surrogate,
        attacked=sum(len(outcome.rows) for outcome in outcomes),
        first_to_fool=first_to_fool,
        success_rate=_each(len(distances[0]), sum(outcome.right for outcome in outcomes)),
        prediction_seconds=seconds + judging,
        seconds_per_image=seconds,
        forwards_per_image=_each(sum(outcome.forwards for outcome in outcomes), crafted),
        backwards_per_image=_each(sum(outcome.backwards for outcome in outcomes), crafted),
        arguments=arguments,
        **_by_norm("median", medians),
        **_by_norm("mean", means),
        **_quality(labels, outcomes),
    )


_Under = tuple[Attack, Sequence[Outcome]]
_Hits = tuple[Tensor, Tensor, int]


def _worst_case(defense: str, protocol: str | None, found: _Hits, within: Sequence[Ball]) -> WorstCase:
    """What several attacks leave of a contender."""
    hits, kept, draws = found
    return WorstCase(
        defense=defense,
        protocol=protocol,
        within={norm.name: eps for norm, eps in within},
        **_share(int(hits[kept].sum()), draws, int(kept.sum())),
    )


def _hits(labels: Tensor, clean: Sequence[Outcome], several: Sequence[_Under], within: Sequence[Ball]) -> _Hits:
    """How many draws are right on each image under the attack that leaves fewest, which are not lost, and of how many.

    What a minimal attack found beyond the budgets ``within`` does not count.
    """
    before = _predictions(clean)
    several = [one for one in several if not is_refused(one[1])] or several
    said = [_predictions(outcomes) for _, outcomes in several] or [before]
    kept = torch.stack([(one != LOST).all(0) for one in said]).all(0)
    counts = [torch.cat([counted(attack, one, within) for one in outcomes]) for attack, outcomes in several]
    shown = [torch.where(counting, one, before) for counting, one in zip(counts, said, strict=False)] or [before]
    return torch.stack([(one == labels).sum(0) for one in shown]).amin(0), kept, len(before)


def _firsts(labels: Tensor, clean: Sequence[Outcome], several: Sequence[_Under], within: Sequence[Ball]) -> list[int]:
    """How many images each attack fooled that none before it had, in the balls ``within``."""
    before = _predictions(clean)
    standing = vote(before) == labels
    found = []
    for attack, outcomes in several:
        said = _predictions(outcomes)
        counts = torch.cat([counted(attack, one, within) for one in outcomes]) & (said != LOST).all(0)
        fooled = standing & counts & (vote(said) != labels)
        found.append(int(fooled.sum()))
        standing = standing & ~fooled
    return found


def _failures(records: Mapping[int, Record], contenders: Sequence[Contender], cells: Sequence[Cell]) -> list[Failure]:
    """The images lost to errors, by batch, by what was tried, and by error."""
    found = []
    for index, record in records.items():
        tried = [*(Cell("", one, None) for one in contenders), *cells]
        for cell, outcome in zip(tried, [*record.clean, *record.cells], strict=True):
            rows: dict[str, list[int]] = defaultdict(list)
            for some, error in outcome.errors:
                rows[error] += some
            found += [
                Failure(
                    batch=index,
                    rows=tuple(some),
                    attack=cell.attack or None,
                    defense=cell.contender.name,
                    protocol=cell.protocol,
                    surrogate=cell.surrogate,
                    error=error,
                )
                for error, some in rows.items()
            ]
    return found


def hopeless(records: Iterable[Record], *, without_gradients: bool = False) -> str | None:
    """The error of something that has worked on no image of any batch.

    Args:
        records: of the batches.
        without_gradients: whether some attack does without gradients. One that there is no gradient for is then none.
    """
    outcomes: tuple[Outcome, ...]
    for outcomes in zip(*([*record.clean, *record.cells] for record in records), strict=True):
        errors = [error for outcome in outcomes for _, error in outcome.errors]
        works = any(outcome.predicted for outcome in outcomes) or (without_gradients and is_refused(outcomes))
        if errors and not works:
            return errors[0]
    return None


def _predictions(outcomes: Sequence[Outcome]) -> Tensor:
    return torch.cat([one.predictions for one in outcomes], 1)


def _quality(labels: Tensor, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """What can be said of predictions and labels alone."""
    said = _predictions(outcomes)
    kept = said[0] != LOST
    said, labels = said[:, kept], labels[kept]
    pairs, counts = torch.stack([labels.expand_as(said), said]).flatten(1).unique(dim=1, return_counts=True)
    confusion = tuple(zip(*pairs.tolist(), counts.tolist(), strict=True))
    precision, recall, f1 = macro(confusion)
    share = _share(int((said == labels).sum()), len(said), len(labels))
    return {"confusion": confusion, "precision": precision, "recall": recall, "f1": f1, **share}


def _share(hits: int, draws: int, images: int) -> dict[str, Any]:
    """Several draws of an image tell no more of other images than one does, so that the interval counts images."""
    accuracy = _each(hits, draws * images)
    low, high = wilson(accuracy, images)
    return {"images": images, "accuracy": accuracy, "low": low, "high": high}


def _each(total: float, count: int) -> float:
    return total / count if count else math.nan


def _by_norm(what: str, values: Iterable[float]) -> dict[str, Any]:
    return {f"{what}_{norm}": value for norm, value in zip(NORMS, values, strict=True)}
