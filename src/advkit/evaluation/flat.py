"""A report as a flat dict for trackers of experiments, and as a table for pandas."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

from advkit.errors import MissingExtraError
from advkit.evaluation.formats import as_csv
from advkit.evaluation.scores import BARE, AttackScore, DefenseScore, Share, WorstCase

if TYPE_CHECKING:
    from pandas import DataFrame

    from advkit.evaluation.report import RobustnessReport

__all__ = ["as_dataframe", "as_dict"]

Scalar = float | int | bool | str

_OF_MODEL = ("precision", "recall", "f1")
_OF_ATTACK = (
    *("success_rate", "attacked", "first_to_fool", *_OF_MODEL),
    *("median_l0", "median_l1", "median_l2", "median_linf"),
    *("seconds_per_image", "forwards_per_image", "backwards_per_image"),
)
_TEXTS = ("defense", "attack", "protocol", "surrogate", "class", "arguments", "flags")


def as_dict(report: RobustnessReport) -> dict[str, Scalar]:
    """Flat scalars; see `RobustnessReport.to_dict`."""
    found: dict[str, Any] = {
        "images": report.images,
        **_interval("clean_accuracy", report.defenses[0]),
        **_interval("robust_accuracy", next((one for one in report.worst if one.defense == BARE), report.defenses[0])),
        "verified_accuracy": report.verified_accuracy if report.proved else None,
        "flags": len(report.flags),
        "failures": sum(len(failure.rows) for failure in report.failures),
        "verdict": report.verdict or "",
        "stop_when_fooled": report.stop_when_fooled,
        "seed": report.seed,
    }
    found |= {f"eps_{norm}": eps for worst in report.worst[:1] for norm, eps in worst.within.items()}
    named = ("device", "hardware", "data_digest", "advkit_version", "torch_version", "python_version")
    found |= {name: getattr(report, name) for name in named}
    taken: dict[str, tuple[str | None, ...]] = {}
    for share in (*report.defenses, *report.scores, *report.worst):
        place = _unlike(_place(share), _whose(share), taken)
        if place:
            found |= {f"{place}/{name}": value for name, value in _values(share).items()}
    return {name: value for name, value in found.items() if value is not None}


def as_dataframe(report: RobustnessReport) -> DataFrame:
    """A row for each score; see `RobustnessReport.to_dataframe`."""
    try:
        from pandas import DataFrame
    except ImportError as error:
        raise MissingExtraError(
            'to_dataframe needs pandas, which cannot be imported; run pip install "advkit[dataframe]"'
        ) from error
    rows = list(csv.DictReader(io.StringIO(as_csv(report))))
    return DataFrame(
        {
            name: [row[name] for row in rows] if name in _TEXTS else [float(row[name] or "nan") for row in rows]
            for name in rows[0]
        }
    )


def _place(share: Share) -> str:
    """Where the numbers of a score stand: attack, or defense/protocol/attack, with surrogate/ before the attack."""
    if isinstance(share, DefenseScore):
        return "" if share.name == BARE else _name(share.name)
    assert isinstance(share, (AttackScore, WorstCase))
    parts = [] if share.defense == BARE else [_name(share.defense)]
    parts += [share.protocol] if share.protocol else []
    if isinstance(share, AttackScore):
        parts += [_name(name) for name in (share.surrogate, share.name) if name is not None]
    return "/".join(parts)


def _whose(share: Share) -> tuple[str | None, ...]:
    """What a score is of, by the report's names."""
    if isinstance(share, DefenseScore):
        return "", share.name, None
    assert isinstance(share, (AttackScore, WorstCase))
    return getattr(share, "name", ""), share.defense, share.protocol, getattr(share, "surrogate", None)


def _unlike(place: str, whose: tuple[str | None, ...], taken: dict[str, tuple[str | None, ...]]) -> str:
    """The place, with a number where another name became the same."""
    number, found = 1, place
    while place and taken.setdefault(found, whose) != whose:
        number += 1
        found = f"{place}_{number}"
    return found


def _values(share: Share) -> dict[str, Any]:
    """The numbers of a score."""
    if isinstance(share, WorstCase):
        return _interval("robust_accuracy", share)
    if isinstance(share, DefenseScore):
        return _interval("clean_accuracy", share) | {name: getattr(share, name) for name in _OF_MODEL}
    return _interval("accuracy", share) | {name: getattr(share, name) for name in _OF_ATTACK}


def _interval(name: str, share: Share) -> dict[str, float]:
    return {name: share.accuracy, f"{name}_low": share.low, f"{name}_high": share.high}


def _name(name: str) -> str:
    """A name of letters, digits and . - _ alone, which every tracker takes: ``PGD_eps_8_255_steps_40``."""
    return re.sub(r"[^\w.-]+", "_", name).strip("_") or "_"
