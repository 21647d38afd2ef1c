"""Tables and numbers of a page, as HTML."""

import math
from collections.abc import Sequence
from html import escape

from advkit._engine.wording import short

__all__ = ["Html", "Row", "html_number", "html_percent", "html_short", "html_table"]


class Html(str):
    """A cell that is HTML already, and not text to be escaped."""

    __slots__ = ()


Row = tuple[str, ...]


def html_table(head: Sequence[str], rows: Sequence[Row], caption: str, *, texts: int = 0, total: bool = False) -> str:
    """A table, whose rows become cards where there is no room.

    Args:
        head: of the columns.
        rows: of cells, the first of which heads the row.
        caption: what it is.
        texts: how many columns after the first hold text and not numbers.
        total: whether the last row is the sum of the others.
    """
    top = "".join(
        f'<th scope="col"{_TEXT if place <= texts else ""}>{escape(name)}</th>' for place, name in enumerate(head)
    )
    body = []
    for number, (first, *cells) in enumerate(rows, 1):
        found = "".join(
            _cell(name, cell, place < texts) for place, (name, cell) in enumerate(zip(head[1:], cells, strict=True))
        )
        kind = ' class="total"' if total and number == len(rows) else ""
        body.append(f'<tr{kind}><th scope="row">{escape(first)}</th>{found}</tr>')
    return (
        f'<div class="wide"><table class="stacks"><caption>{escape(caption)}</caption>\n<thead><tr>{top}</tr></thead>\n'
        "<tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


_TEXT = ' class="text"'


def _cell(name: str, cell: str, is_text: bool) -> str:
    kind = ' class="none"' if not cell else _TEXT if is_text else ""
    return f'<td{kind} data-label="{escape(name)}"><span>{cell if isinstance(cell, Html) else escape(cell)}</span></td>'


def html_percent(value: float) -> str:
    """A share of 1, in percent."""
    return html_number(100 * value, ".1f", "\N{NO-BREAK SPACE}%")


def html_number(value: float, style: str, unit: str = "") -> str:
    """A number, or a dash where nothing was measured."""
    return "-" if math.isnan(value) else format(value, style) + unit


def html_short(value: object) -> str:
    """A hyperparameter or a distance as the field writes it, with four digits at most."""
    if isinstance(value, float) and 0 < value < 1 and abs(255 * value - round(255 * value)) < 1e-3:
        levels = round(255 * value)  # of which 32 bits have rounded a distance
        return text if "/" not in (text := short(value)) and len(text) < 6 else f"{levels}/255"
    return f"{value:.4g}" if isinstance(value, float) else short(value)
