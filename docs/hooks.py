"""Equations as MathML, which browsers draw by themselves: nothing is loaded for them, and no script runs."""

import html
import re

from latex2mathml.converter import convert

EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(content: str, /, **_: object) -> str:
    """Write the equations that pymdownx.arithmatex marked as MathML."""
    return EQUATION.sub(_written, content)


def _written(found: re.Match[str]) -> str:
    tag, kind, latex = found.groups()
    written = convert(html.unescape(latex.strip()), display="block" if kind == "[" else "inline")
    return f'<{tag} class="equation">{written}</{tag}>'
