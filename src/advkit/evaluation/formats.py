"""A report as text, as Markdown and CSV. `advkit.evaluation.stored` has it as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from advkit import norms
from advkit._engine.wording import short
from advkit.evaluation.plan import TRANSFERRED
from advkit.evaluation.records import REFUSED
from advkit.evaluation.scores import BARE, AttackScore, Share, WorstCase

if TYPE_CHECKING:
    from advkit.evaluation.report import RobustnessReport

__all__ = [
    "as_csv",
    "called",
    "doubts",
    "how_far",
    "lines",
    "lost",
    "markdown",
    "passes",
    "text",
    "together",
    "transfers",
    "unbounded",
    "verified",
]

_WIDTH = 80
_TOGETHER = "all together"
_DOUBTED = "*"  # after an accuracy that a flag puts in doubt


def text(report: RobustnessReport) -> str:
    """A table that fits 80 columns, and beneath it what else there is to say."""
    table = _table(report)
    return "\n".join([*_aligned(table, names=1 if _is_bare(report) else 2), *_remarks(report, _WIDTH)])


def markdown(report: RobustnessReport) -> str:
    """The same in Markdown, with intervals."""
    header, *rows = _table(report, intervals=True)
    names = 1 if _is_bare(report) else 2
    rule = ("---",) * names + ("---:",) * (len(header) - names)
    escaped = [[re.sub(r"([|*])", r"\\\1", cell) for cell in row] for row in rows]
    table = ["| " + " | ".join(row) + " |" for row in (header, rule, *escaped)]
    return "\n".join([*table, *_remarks(report, None), ""])


def as_csv(report: RobustnessReport) -> str:
    """A line for each score; see `RobustnessReport.to_csv`."""
    columns = ["defense", "attack", "protocol", "surrogate", "class", "draws"]
    columns += [known.name for known in fields(AttackScore) if known.name not in {*columns, "name", "confusion"}]
    written = io.StringIO()
    lines = csv.DictWriter(written, [*columns, "flags"], restval="", extrasaction="ignore", lineterminator="\n")
    lines.writeheader()
    for clean in report.defenses:
        lines.writerow(_cells(clean) | {"defense": clean.name, "attack": "", "class": clean.defense})
        for score in report.scores:
            if score.defense == clean.name:
                names = {"attack": score.name, "class": score.attack, "flags": doubts(report, score)}
                lines.writerow(_cells(score) | names)
        for worst in report.worst:
            if worst.defense == clean.name:
                lines.writerow(_cells(worst) | {"attack": _TOGETHER, "flags": doubts(report, worst)})
    return written.getvalue()


def doubts(report: RobustnessReport, share: Share) -> str:
    """The names of the flags that put a number in doubt."""
    if not isinstance(share, (AttackScore, WorstCase)):
        return ""  # nobody attacks
    attack = share.name if isinstance(share, AttackScore) else None
    flags = [flag.name for flag in report.flags if flag.doubts(share.defense, attack, share.protocol)]
    return "; ".join(dict.fromkeys(flags))


def _mark(report: RobustnessReport, share: Share) -> str:
    """What stands after an accuracy: a space where others are in doubt, so that the digits stay in line."""
    shares = [*report.scores, *report.worst]
    return _DOUBTED if doubts(report, share) else " " * any(doubts(report, other) for other in shares)


def _is_bare(report: RobustnessReport) -> bool:
    return len(report.defenses) == 1


def _table(report: RobustnessReport, *, intervals: bool = False) -> list[tuple[str, ...]]:
    """The header and the rows."""
    if _is_bare(report):
        rows = [
            (BARE, *_accuracy(report, report.defenses[0]), *["-"] * 4),
            *((called(score), *_accuracy(report, score), *_costs(score)) for score in report.scores),
            *((_TOGETHER, *_accuracy(report, worst), *["-"] * 4) for worst in together(report) if not worst.protocol),
        ]
        return [("attack", "accuracy", "95 % interval", "success", "L2", "Linf", "ms/image"), *rows]

    def row(defense: str, attack: str, shares: Mapping[str | None, Share]) -> tuple[str, ...]:
        """The bare model's only number stands where the adaptive attacker's does: it is the one that counts."""
        found = [shares.get(protocol) for protocol in protocols]
        found[place] = found[place] or shares.get(None)
        return defense, attack, *("" if share is None else _cell(report, share, intervals) for share in found)

    protocols = tuple(one for one in report.protocols if one != TRANSFERRED) or ("accuracy",)
    place = len(protocols) - 1
    protocols += (TRANSFERRED,) * bool(report.surrogates)
    rows = [("defense", "attack", *protocols)]
    for clean in report.defenses:
        rows.append(row(clean.name, "no attack", {None: clean}))
        rows += [row("", name, shares) for name, shares in lines(report, clean.name)]
    return rows


def lines(report: RobustnessReport, defense: str) -> list[tuple[str, Mapping[str | None, AttackScore | WorstCase]]]:
    """What a table says of a defense under attack: for each attack by protocol, and for all of them together.

    What several surrogates' images leave has a line for each of them.
    """
    found: dict[str, dict[str | None, AttackScore | WorstCase]] = {score.name: {} for score in report.attacks}
    mine = [score for score in report.scores if score.defense == defense]
    for score in sorted(mine, key=lambda one: list(found).index(one.name)):
        name = called(score) if len(report.surrogates) > 1 else score.name
        found.setdefault(name, {})[score.protocol] = score
    for worst in together(report):
        if worst.defense == defense:
            found.setdefault(_TOGETHER, {})[worst.protocol] = worst
    return [(name, shares) for name, shares in found.items() if shares]


def called(score: AttackScore) -> str:
    """What tables call an attack: where its images were made on another model, with that model's name."""
    return score.name if score.surrogate is None else f"{score.name} from {score.surrogate}"


def together(report: RobustnessReport) -> tuple[WorstCase, ...]:
    """The worst case over attacks, where it says something new."""
    return report.worst if len(report.attacks) + len(report.transferred) > 1 else ()


def _remarks(report: RobustnessReport, width: int | None) -> list[str]:
    """The text beneath the table: lines, after an empty one for each paragraph."""
    paragraphs = [
        *_verdict(report),
        *verified(report),
        _caption(report),
        *transfers(report),
        *unbounded(report),
        *_not_tried(report),
        *lost(report),
        *(f"Flag, {flag}" for flag in report.flags),
    ]
    lines: list[str] = []
    for paragraph in paragraphs:
        lines += ["", *(textwrap.wrap(paragraph, width) if width else [paragraph])]
    return lines


def _verdict(report: RobustnessReport) -> list[str]:
    """The number to report, what it rests on, and what it took; of the bare model alone."""
    if report.verdict is None or not report.worst or not _is_bare(report):
        return []
    worst = report.worst[0]
    far = how_far(worst.within)
    tried = (*report.attacks, *report.transferred)
    fooled = [f"{_fooled(score)} by {called(score)}" for score in tried]
    spent = sum(map(passes, tried)) / max(1, report.images)
    return [
        f'Robust accuracy within {far}, "{report.verdict}": {_percent(worst.accuracy)}, with 95 % confidence '
        f"{100 * worst.low:.1f} to {100 * worst.high:.1f}. It is an upper bound: another attack may find more. First "
        f"fooled: {', '.join(fooled)}. {spent:,.0f} passes (forwards and backwards) per image."
    ]


def verified(report: RobustnessReport) -> list[str]:
    """The interval in which the truth lies."""
    if not report.proved:
        return []
    low, high = _percent(report.verified_accuracy), _percent(report.robust_accuracy)
    return [
        f"Verified: {low}, for which it is proved that no attack within the budget can fool the model. On these images "
        f"the truth lies between {low.removesuffix(' %')} and {high}."
    ]


def _fooled(score: AttackScore) -> int:
    return round(score.success_rate * score.attacked) if score.attacked else 0


def passes(score: AttackScore) -> float:
    """Forwards and backwards of an attack, over all images."""
    return score.attacked * (score.forwards_per_image + score.backwards_per_image) if score.attacked else 0.0


def _caption(report: RobustnessReport) -> str:
    versions = (
        f"{report.images} images on {report.device}, advkit {report.advkit_version}, torch {report.torch_version}."
    )
    if not _is_bare(report):
        shares: list[Share] = [*report.defenses, *report.scores, *report.worst]
        ends = [max(one.high - one.accuracy, one.accuracy - one.low) for one in shares if one.images]
        widest = _number(100 * max(ends, default=math.nan), ".1f")
        text = f"{versions} Accuracy over all images; 95 % intervals reach {widest} points at most to either side."
    else:
        images = report.defenses[0].images
        right = round(report.clean_accuracy * images) if images else 0
        text = f"{versions} " + (
            f"Only the {right} that the model gets right are attacked: success and time are over those, L2 and Linf "
            "medians over the successes, accuracy over all."
            if right
            else "The model gets none of them right, so that nothing was attacked. Does it expect normalised inputs "
            "(advkit.Normalized), or are its classes numbered differently from the labels?"
        )
    if report.stop_when_fooled:
        text += (
            " Each attack was tried only on the images that those above it left, so its accuracy is what they leave "
            "together."
        )
    if any(doubts(report, share) for share in (*report.scores, *report.worst)):
        text += f" Accuracies with a {_DOUBTED} are in doubt: see the flags below."
    return text


def transfers(report: RobustnessReport) -> list[str]:
    """A sentence that says what transferred images are."""
    if not report.surrogates:
        return []
    names = ", ".join(f"{name} ({about[0]})" for name, about in report.surrogates.items())
    counted = f' "{_TOGETHER.capitalize()}" counts them.' if together(report) else ""
    return [f"Transferred: images made on {names}, and shown to the models here.{counted}"]


def unbounded(report: RobustnessReport) -> list[str]:
    """A sentence where "all together" mixes attacks within a budget with others, which move images at will."""
    known = {score.name: score.arguments.get("eps") for score in report.attacks if score.arguments}
    free = [name for name, eps in known.items() if eps is None]
    within = next((worst.within for worst in report.worst), {})
    if not free or not within:
        return []
    which = f"{free[0]}, which has" if len(free) == 1 else f"{', '.join(free)}, which have"
    far = how_far(within)
    return [f'"{_TOGETHER.capitalize()}" counts {which} no budget, only where images were moved no further than {far}.']


def how_far(within: Mapping[str, float]) -> str:
    """Budgets by the names of their norms, in words: "L2 0.5 or Linf 8/255"."""
    return " or ".join(f"{norms.get(norm)} {short(eps)}" for norm, eps in within.items())


def _not_tried(report: RobustnessReport) -> list[str]:
    """A sentence where something is left that other kinds of attacks may fool."""
    if not report.not_tried or not any(worst.accuracy > 0 for worst in report.worst):
        return []
    return [f"Not tried: {', '.join(report.not_tried)}. What is left has not withstood them."]


def lost(report: RobustnessReport) -> list[str]:
    """A sentence for each error, however many images were lost to it."""
    found: dict[str, int] = {}
    for failure in report.failures:
        what = "the model, without an attack," if failure.attack is None else failure.attack
        where = "" if failure.defense == BARE else f" against {failure.defense}"
        source = f" from {failure.surrogate}" if failure.surrogate else ""
        by = f" ({failure.protocol}{source})" if failure.protocol else ""
        how = "without a gradient" if failure.error.startswith(REFUSED) else "lost"
        sentence = f"{how}: {what}{where}{by} raised {failure.error}"
        found[sentence] = found.get(sentence, 0) + len(failure.rows)
    return [f"{count} image{'s' * (count > 1)} {sentence}" for sentence, count in found.items()]


def _aligned(table: Sequence[Sequence[str]], names: int) -> list[str]:
    """The lines of a table of 80 columns: the first ``names`` columns are text that wraps, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    room = _WIDTH - sum(widths[names:]) - 2 * (len(widths) - 1)
    while sum(widths[:names]) > room:
        widths[widths.index(max(widths[:names]))] -= 1
    lines: list[str] = []
    for row in table:
        text = zip(row[:names], widths, strict=False)
        wrapped = [textwrap.wrap(cell, width, subsequent_indent="  ") for cell, width in text]
        wrapped += [[cell] for cell in row[names:]]
        for index in range(max(map(len, wrapped))):
            cells = [cell[index] if index < len(cell) else "" for cell in wrapped]
            padded = [cell.ljust(width) for cell, width in zip(cells[:names], widths, strict=False)]
            padded += [cell.rjust(width) for cell, width in zip(cells[names:], widths[names:], strict=True)]
            lines.append("  ".join(padded).rstrip())
        if len(lines) and row is table[0]:
            lines.append("-" * (sum(widths) + 2 * (len(widths) - 1)))
    return lines


def _accuracy(report: RobustnessReport, share: Share) -> tuple[str, str]:
    """The accuracy and its interval as cells."""
    within = "-" if math.isnan(share.low) else f"{100 * share.low:.1f} to {100 * share.high:.1f}"
    return _percent(share.accuracy) + _mark(report, share), within


def _cell(report: RobustnessReport, share: Share, interval: bool) -> str:
    """The accuracy as a cell, and its interval in it where there is room."""
    accuracy, within = _accuracy(report, share)
    return f"{accuracy} ({within})" if interval else accuracy


def _costs(score: AttackScore) -> tuple[str, ...]:
    return (
        _percent(score.success_rate),
        _number(score.median_l2, ".3f"),
        _number(score.median_linf, ".4f"),
        _number(1000 * score.seconds_per_image, ".2f"),
    )


def _cells(share: Share) -> dict[str, object]:
    """The values of a line of CSV."""
    values = {known.name: getattr(share, known.name) for known in fields(share)}
    values = {name: "" if value is None or value != value else value for name, value in values.items()}
    return values | {"arguments": json.dumps(values["arguments"])} if "arguments" in values else values


def _percent(value: float) -> str:
    return _number(100 * value, ".1f", " %")


def _number(value: float, style: str, unit: str = "") -> str:
    return "-" if math.isnan(value) else format(value, style) + unit
