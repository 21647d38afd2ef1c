"""The pictures of a page: images before and after an attack, with the model's most confident classes."""

import struct
from base64 import b64decode
from collections.abc import Callable, Sequence
from html import escape

from advkit.evaluation.charts import bar
from advkit.evaluation.keepsakes import Picture
from advkit.evaluation.markup import html_short

__all__ = ["Named", "html_pictures"]

Named = Callable[[int], str]
"""What a class is called, by its index."""

_KEEP = "evaluate(..., pictures=8)"
_SMALL = 96  # pixels of a picture whose pixels are worth seeing


def html_pictures(pictures: Sequence[Picture], named: Named) -> str:
    """All pictures of a report, or how to keep some."""
    if not pictures:
        return (
            f'<p class="soft">The report keeps no images. <code>{_KEEP}</code> keeps a few with which attacks fooled '
            "the model.</p>"
        )
    shown = "\n".join(_picture(one, named) for one in pictures)
    return (
        '<p class="soft">Images that the model got right until they were attacked, with the three classes that it '
        f'is most confident of. They are rounded to 8 bits here.</p>\n<div class="pictures">\n{shown}\n</div>'
    )


def _picture(one: Picture, named: Named) -> str:
    sides = (("original", one.original, one.before), ("adversarial", one.adversarial, one.after))
    panels = "".join(
        f'<div><p class="side">{title}</p>'
        + _image(data, f"{title}, predicted as {named(tops[0][0])}")
        + f"{_tops(tops, one.label, named)}</div>"
        for title, data, tops in sides
    )
    return (
        f'<figure><div class="pair">{panels}</div><figcaption>{escape(one.attack)}: moved by L2 {one.l2:.3g}, '
        f"Linf {html_short(one.linf)}. True class: {escape(named(one.label))}.</figcaption></figure>"
    )


def _image(data: str, alt: str) -> str:
    width, height = struct.unpack(">II", b64decode(data[:32])[16:24])
    small = ' class="small"' if max(width, height) <= _SMALL else ""
    return (
        f'<img{small} src="data:image/png;base64,{escape(data)}" width="{width}" height="{height}" alt="{escape(alt)}">'
    )


def _tops(tops: Sequence[tuple[int, float]], label: int, named: Named) -> str:
    items = []
    for place, (index, share) in enumerate(tops):
        kind, color = ("true", "accent") if index == label else ("wrong", "wrong") if not place else ("other", "rest")
        percent = "&lt; 1 %" if share < 0.005 else f"{100 * share:.0f} %"
        items.append(
            f'<li class="{kind}"><span><span>{escape(named(index))}</span><span>{percent}</span></span>'
            f"{bar(share, color=color)}</li>"
        )
    return f'<ol class="classes">{"".join(items)}</ol>'
