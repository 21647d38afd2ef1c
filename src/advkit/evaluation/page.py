"""A report as a page for people: one HTML file that needs no other. `advkit.evaluation.charts` has its drawings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

from advkit.errors import InputError
from advkit.evaluation.charts import bar, curve_chart, curve_legend, strip
from advkit.evaluation.flags import Flag
from advkit.evaluation.formats import (
    called,
    doubts,
    how_far,
    lines,
    lost,
    passes,
    together,
    transfers,
    unbounded,
    verified,
)
from advkit.evaluation.gallery import Named, html_pictures
from advkit.evaluation.markup import Html, Row, html_number, html_percent, html_short, html_table
from advkit.evaluation.plan import TRANSFERRED
from advkit.evaluation.scores import BARE, AttackScore, DefenseScore, Share

if TYPE_CHECKING:
    from advkit.evaluation.report import RobustnessReport
    from advkit.evaluation.security import SecurityCurve

__all__ = ["page"]

_CLASSES = 20  # rows of the table of classes
_CURVE = "to_html(..., curves=security_curve(...))"


def page(
    report: RobustnessReport,
    *,
    title: str | None = None,
    class_names: Sequence[str] | None = None,
    curves: SecurityCurve | Sequence[SecurityCurve] | Mapping[str, SecurityCurve] = (),
) -> str:
    """The page; see `RobustnessReport.to_html`."""
    title = f"Robustness of {report.defenses[0].defense}" if title is None else title
    named = _names(report, class_names)
    parts = [
        _verdict(report, title),
        _section("What each attack found", _attacks(report)),
        _section("With defenses", _defenses(report)) if len(report.defenses) > 1 else "",
        _section("Accuracy over budgets", _curves(_by_name(curves))),
        _section("Images before and after", html_pictures(report.pictures, named)),
        _section("Class by class", _classes(report, named)) if report.labels else "",
        _section("Cost and settings", _settings(report)),
        _section("How to read this page", _READING),
    ]
    style = files("advkit.evaluation").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n<footer>Written by advkit {escape(report.advkit_version)}. This file is self-contained and loads nothing "
        "from elsewhere.</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, content: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _verdict(report: RobustnessReport, title: str) -> str:
    """The number on top, what it means, and the reasons to doubt it."""
    clean = report.defenses[0]
    worst: Share = next((one for one in report.worst if one.defense == BARE), clean)
    far = _budget(report)
    within = f" within {far}" if far else ""
    called = f', verdict "{escape(report.verdict)}"' if report.verdict else ""
    drawn = strip(clean.accuracy, worst.accuracy, worst.low, worst.high) if worst.images else ""
    right = round(worst.accuracy * worst.images) if worst.images else 0
    said = (
        f"<p>Of {worst.images:,} images the model gets {round(clean.accuracy * clean.images):,} right when nobody "
        f"attacks, and {right:,} ({html_percent(worst.accuracy)}) under every attack that was tried. On other images "
        f"of the same kind that is between {html_percent(worst.low)} and {html_percent(worst.high)}, with 95 % "
        "confidence. It is an upper bound: another attack may find more.</p>"
        if report.scores and worst.images
        else "<p>No attack was tried.</p>"
    )
    said += "".join(f"<p>{escape(sentence)}</p>" for sentence in verified(report))
    if report.not_tried and worst.accuracy > 0:
        said += f"<p>Not tried: {escape(', '.join(report.not_tried))}. What is left has not withstood them.</p>"
    return (
        f'<header>\n<p class="kicker">Robustness report</p>\n<h1>{escape(title)}</h1>\n<div class="verdict">\n'
        f'<p class="number">{html_percent(worst.accuracy)}</p>\n'
        f'<p class="soft">robust accuracy{within}{called}; {html_percent(clean.accuracy)} without an attack</p>\n'
        f"{drawn}\n{_STRIP if drawn else ''}\n{said}\n</div>\n{_flags(report.flags)}\n{_losses(report)}</header>"
    )


def _budget(report: RobustnessReport) -> str:
    worst = next((one for one in report.worst if one.defense == BARE), None)
    return how_far(worst.within) if worst else ""


def _flags(flags: Sequence[Flag]) -> str:
    if not flags:
        return '<p class="soft">No red flag was raised.</p>'
    several = (
        f"{len(flags)} red flags were raised: the numbers that they are about"
        if len(flags) > 1
        else "A red flag was raised: the number that it is about"
    )
    items = "".join(
        f"<li><strong>{escape(flag.name)}:</strong> {escape(str(flag.sentence))}{_source(flag)}</li>" for flag in flags
    )
    return f'<div class="flags" role="note"><p>{several} may be too high.</p><ul>{items}</ul></div>'


def _source(flag: Flag) -> str:
    return f' <span class="soft">({escape(flag.paper)})</span>' if flag.paper else ""


def _losses(report: RobustnessReport) -> str:
    sentences = lost(report)
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return (
        '<div class="flags" role="note"><p>Images were lost to errors, and are in none of the numbers.</p>'
        f"<ul>{items}</ul></div>"
        if sentences
        else ""
    )


def _attacks(report: RobustnessReport) -> str:
    """A row for each attack on the bare model."""
    head = ["Attack", "Accuracy left", "95 % interval", "First to fool", "Success", "L2", "Linf", "Passes", "ms"]
    rows: list[Row] = [("no attack", *_shares(report, report.defenses[0]), *[""] * 6)]
    for score in (*report.attacks, *report.transferred):
        first = "" if score.first_to_fool is None else f"{score.first_to_fool:,}"
        rows.append(
            (
                called(score),
                *_shares(report, score),
                first,
                html_percent(score.success_rate),
                html_number(score.median_l2, ".3f"),
                html_number(score.median_linf, ".4f"),
                html_number(score.forwards_per_image + score.backwards_per_image, ",.0f"),
                html_number(1000 * score.seconds_per_image, ",.1f"),
            )
        )
    whole = [worst for worst in together(report) if worst.defense == BARE and worst.protocol is None]
    rows += [("all together", *_shares(report, worst), *[""] * 6) for worst in whole]
    order = (
        "Each attack was tried only on what those above it left, so that its accuracy is what they leave together."
        if report.stop_when_fooled
        else "Each attack was tried on every image that the model gets right."
    )
    doubted = " A * marks what a flag puts in doubt." if any("*" in row[1] for row in rows) else ""
    caption = (
        f"{order} First to fool: images that no attack above had fooled. L2 and Linf are medians over the successes, "
        f"in units of pixels; passes are forwards and backwards per image, and ms milliseconds per image.{doubted}"
    )
    more = "".join(f"<p>{escape(sentence)}</p>" for sentence in (*transfers(report), *unbounded(report)))
    return html_table(head, rows, caption, total=bool(whole)) + more


def _defenses(report: RobustnessReport) -> str:
    """A row for each defense and attack, a column for each kind of attacker."""
    protocols = report.protocols or ("adaptive",)
    rows: list[Row] = []
    for clean in report.defenses[1:]:
        empty = dict.fromkeys(protocols, "")
        empty[next((one for one in reversed(protocols) if one != TRANSFERRED), TRANSFERRED)] = _left(report, clean)
        rows.append((clean.name, "no attack", *empty.values()))
        for name, found in lines(report, clean.name):
            cells = ["" if (one := found.get(protocol)) is None else _left(report, one) for protocol in protocols]
            rows.append((clean.name, name, *cells))
    caption = (
        "Accuracy left, with its 95 % interval. Oblivious: images made against the bare model. Naive: the gradient of "
        "the defended model as it is. Adaptive: the attacker knows the defense, which is the number that counts."
    )
    caption += " Transferred: images made on a surrogate." if TRANSFERRED in protocols else ""
    return html_table(["Defense", "Attack", *protocols], rows, caption, texts=1)


def _curves(curves: Mapping[str, SecurityCurve]) -> str:
    if not curves:
        return (
            f'<p class="soft">No curve was given. <code>{_CURVE}</code> draws them, and so does the option --curve.</p>'
        )
    if len({str(curve.norm) for curve in curves.values()}) > 1:
        raise InputError("the curves are in several norms; give those of one norm at a time")
    budgets = sorted({eps for curve in curves.values() for eps in curve.eps})
    rows: list[Row] = []
    for name, curve in curves.items():
        found = dict(zip(curve.eps, curve.accuracy, strict=True))
        rows.append((name, *(html_percent(found[eps]) if eps in found else "" for eps in budgets)))
    images = next(iter(curves.values())).right.shape[1]
    caption = f"Accuracy at each budget, over {images:,} images; the bands are 95 % intervals."
    flags = [flag for curve in curves.values() for flag in curve.flags]
    table = html_table(["Attack", *(f"eps {html_short(eps)}" for eps in budgets)], rows, caption)
    return curve_chart(curves) + curve_legend(curves) + table + (_flags(flags) if flags else "")


def _classes(report: RobustnessReport, named: Named) -> str:
    """The classes, the least robust first."""
    clean: dict[int, list[int]] = {}
    for label, prediction, count in report.defenses[0].confusion:
        found = clean.setdefault(label, [0, 0])
        found[0] += count
        found[1] += count * (label == prediction)
    robust: dict[int, list[int]] = {}
    for label, stands in zip(report.labels, report.standing, strict=True):
        found = robust.setdefault(label, [0, 0])
        found[0] += 1
        found[1] += stands
    ranked = sorted(robust, key=lambda index: (robust[index][1] / robust[index][0], index))
    rows: list[Row] = []
    for index in ranked[:_CLASSES]:
        images, right = robust[index]
        of, good = clean.get(index, [0, 0])
        share = right / images
        rows.append(
            (
                named(index),
                f"{images:,}",
                html_percent(good / of) if of else "",
                Html(f"{bar(share)}<b>{html_percent(share)}</b>"),
            )
        )
    more = f" The {_CLASSES} least robust of {len(ranked):,} classes." if len(ranked) > _CLASSES else ""
    return html_table(
        ["Class", "Images", "Without an attack", "Under all attacks"],
        rows,
        f"Accuracy, the least robust class first.{more}",
    )


def _settings(report: RobustnessReport) -> str:
    tried = (*report.attacks, *report.transferred)
    spent = sum(map(passes, tried)) / max(1, report.images)
    seconds = math.fsum(s.seconds_per_image * s.attacked for s in tried if s.attacked)
    facts = {
        "Images": f"{report.images:,}, digest {report.data_digest}",
        "Attacks by name": report.verdict or "",
        "Passes": f"{spent:,.0f} forwards and backwards per image, over all attacks on the bare model",
        "Time of these attacks": f"{seconds:,.1f} s",
        "Device": f"{report.device} ({report.hardware})",
        "Seed": "none" if report.seed is None else str(report.seed),
        "Versions": f"advkit {report.advkit_version}, torch {report.torch_version}, Python {report.python_version}",
    }
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    rows: list[Row] = [(score.name, score.attack, _arguments(score)) for score in report.attacks]
    rows += [(one.name, one.defense, _arguments(one)) for one in report.defenses[1:]]
    rows += [(name, kind, "transferred from") for name, (kind, _) in report.surrogates.items()]
    table = (
        html_table(["Name", "Class", "Arguments"], rows, "Every attack and defense, as it was made.", texts=2)
        if rows
        else ""
    )
    return f"<dl>{listed}</dl>\n{table}"


def _arguments(score: AttackScore | DefenseScore) -> str:
    return ", ".join(f"{name}={html_short(value)}" for name, value in score.arguments.items())


def _shares(report: RobustnessReport, share: Share) -> tuple[str, str]:
    """The accuracy as a bar and a number, and its interval."""
    if math.isnan(share.accuracy):
        return "-", "-"
    mark = "*" if doubts(report, share) else ""
    shown = Html(f"{bar(share.accuracy, share.low, share.high)}<b>{html_percent(share.accuracy)}{mark}</b>")
    return shown, f"{100 * share.low:.1f} to {100 * share.high:.1f}"


def _left(report: RobustnessReport, share: Share) -> str:
    if math.isnan(share.accuracy):
        return "-"
    mark = "*" if doubts(report, share) else ""
    return f"{html_percent(share.accuracy)}{mark} ({100 * share.low:.1f} to {100 * share.high:.1f})"


def _names(report: RobustnessReport, class_names: Sequence[str] | None) -> Named:
    """What each class is called."""
    if class_names is None:
        return str
    scores = (*report.defenses, *report.scores)
    seen = [index for score in scores for label, said, _ in score.confusion for index in (label, said)]
    seen += [index for one in report.pictures for index, _ in (*one.before, *one.after)]
    if (most := max((*seen, *report.labels), default=-1)) >= len(class_names):
        raise InputError(
            f"the report has a class {most}, but class_names has {len(class_names)}, for 0 to {len(class_names) - 1}"
        )
    names = list(map(str, class_names))
    return lambda index: names[index]


def _by_name(
    curves: SecurityCurve | Sequence[SecurityCurve] | Mapping[str, SecurityCurve],
) -> Mapping[str, SecurityCurve]:
    if isinstance(curves, Mapping):
        return curves
    from advkit.evaluation.security import SecurityCurve

    several = [curves] if isinstance(curves, SecurityCurve) else curves
    return {curve.attack: curve for curve in several}


_STRIP = (
    '<p class="soft">The dot is the accuracy under attack, in percent, the bar its 95 % interval, and the upright line '
    "the accuracy without an attack.</p>"
)
_READING = """\
<p>An attack changes an image so little that a person hardly notices, and looks for a change that makes the model wrong.
<strong>Robust accuracy</strong> is the share of images on which the model is right whatever the attacks that were tried
did within their budget. It can only be too high: an attack that fails proves nothing, and a stronger one may find
more.</p>
<p>The <strong>budget</strong> says how far an image may be moved. Linf 8/255 changes no value of any pixel by more than
8 of 255 levels; L2 bounds the length of the whole change, L1 its sum, L0 the number of values that change.</p>
<p>The <strong>interval</strong> says what the accuracy may be on other images of the same kind (Wilson's, 95 %). It
says nothing about stronger attacks.</p>
<p>A <strong>red flag</strong> is a sign that attacks were misled, for instance by a defense that hides its gradient.
The absence of flags proves nothing.</p>"""
