"""Small drawings for a page, as SVG inside HTML. Their colours are the page's, so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from advkit._engine.wording import short
from advkit.evaluation.drawing import spaced_ticks

if TYPE_CHECKING:
    from advkit.evaluation.security import SecurityCurve

__all__ = ["bar", "curve_chart", "curve_legend", "strip"]

_DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4")
_LEFT, _RIGHT, _TOP, _BOTTOM, _WIDTH, _HEIGHT = 34, 12, 10, 36, 400, 250


def strip(clean: float, robust: float, low: float, high: float) -> str:
    """The verdict on a line from 0 to 100 %: the interval, the accuracy under attack, and the one without."""
    left, width = 12, 416

    def at(share: float) -> str:
        return f"{left + width * share:.1f}"

    said = f"Robust accuracy {robust:.1%}, 95 % interval {low:.1%} to {high:.1%}; without an attack {clean:.1%}"
    ticks = "".join(
        f'<text x="{at(share)}" y="48" font-size="11" text-anchor="middle">{100 * share:.0f}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<svg class="strip" viewBox="0 0 440 54" role="img" aria-label="{escape(said)}">'
        f'<line x1="{at(0)}" x2="{at(1)}" y1="22" y2="22" stroke="var(--line)" stroke-width="4"/>'
        f'<line x1="{at(low)}" x2="{at(high)}" y1="22" y2="22" stroke="var(--accent)" stroke-opacity=".4" '
        f'stroke-width="12"/>'
        f'<circle cx="{at(robust)}" cy="22" r="7" fill="var(--accent)"/>'
        f'<line x1="{at(clean)}" x2="{at(clean)}" y1="11" y2="33" stroke="var(--text)" stroke-width="2"/>'
        f"{ticks}</svg>"
    )


def bar(share: float, low: float = math.nan, high: float = math.nan, *, color: str = "accent") -> str:
    """A share of 1 as a bar, with its interval as a line, for the eye alone: the number stands beside it."""
    whisker = (
        f'<line x1="{100 * low:.1f}" x2="{100 * high:.1f}" y1="5" y2="5" stroke="var(--text)" stroke-width="2.4"/>'
        if math.isfinite(low) and math.isfinite(high)
        else ""
    )
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="100" height="10" fill="var(--line)"/>'
        f'<rect width="{100 * share:.1f}" height="10" fill="var(--{color})"/>{whisker}</svg>'
    )


def curve_chart(curves: Mapping[str, SecurityCurve]) -> str:
    """Accuracies over budgets, each with its band, from 0 to 100 %."""
    budgets = sorted({eps for curve in curves.values() for eps in curve.eps})
    span = budgets[-1] - budgets[0] or 1.0

    def x(eps: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (eps - budgets[0]) / span

    def y(share: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (1 - share)

    def path(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{x(eps):.1f},{y(share):.1f}" for eps, share in points)

    parts = []
    for percent in (0, 25, 50, 75, 100):
        level = y(percent / 100)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{level:.1f}" y2="{level:.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 6}" y="{level + 4:.1f}" font-size="11" text-anchor="end">{percent}</text>'
        )
    level, room = _HEIGHT - _BOTTOM + 16, 7 * max(len(short(eps)) for eps in budgets) / (_WIDTH - _LEFT - _RIGHT)
    for eps in spaced_ticks(budgets, room):
        end = "end" if len(budgets) > 1 and eps == budgets[-1] else "middle"
        parts.append(f'<text x="{x(eps):.1f}" y="{level}" font-size="11" text-anchor="{end}">{short(eps)}</text>')
    norm = escape(str(next(iter(curves.values())).norm))
    parts.append(
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 3}" font-size="11" text-anchor="middle">'
        f"budget eps, {norm}</text>"
    )
    for place, curve in enumerate(curves.values()):
        lows, highs = zip(*curve.interval, strict=True)
        band = [*zip(curve.eps, highs, strict=True), *reversed(list(zip(curve.eps, lows, strict=True)))]
        points = list(zip(curve.eps, curve.accuracy, strict=True))
        color = f"var(--s{place % len(_DASHES) + 1})"
        parts.append(
            f'<polygon points="{path(band)}" fill="{color}" fill-opacity=".12"/>'
            f'<polyline points="{path(points)}" fill="none" stroke="{color}" stroke-width="2"{_dash(place)}/>'
        )
        parts += [f'<circle cx="{x(eps):.1f}" cy="{y(share):.1f}" r="3.2" fill="{color}"/>' for eps, share in points]
    said = "Accuracy in percent over the budget; the table below has the numbers"
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def curve_legend(curves: Mapping[str, SecurityCurve]) -> str:
    """What each line is."""
    items = "".join(
        f'<li><svg viewBox="0 0 36 12" aria-hidden="true"><line x1="0" x2="36" y1="6" y2="6" '
        f'stroke="var(--s{place % len(_DASHES) + 1})" stroke-width="2.5"{_dash(place)}/></svg>{escape(name)}</li>'
        for place, name in enumerate(curves)
    )
    return f'<ul class="legend">{items}</ul>'


def _dash(place: int) -> str:
    dashes = _DASHES[place % len(_DASHES)]
    return f' stroke-dasharray="{dashes}"' if dashes else ""
