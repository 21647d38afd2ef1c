"""The tables of attacks in the README and the docs, from what the attacks say of themselves.

``python docs/tables.py`` writes them between their markers; a test holds the pages to what it would write.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from advkit import Attack, attacks
from advkit._command.facts import aim, arguments_of, listed, norms_of, sees
from advkit._command.facts import paper as named_paper

ROOT = Path(__file__).parents[1]


def paper(attack: type[Attack]) -> str:
    """The authors and the year of its paper, and a link if it has one."""
    said, link = named_paper(attack)
    return f"[{said}]({link})" if link else said


def numbers(attack: type[Attack]) -> str:
    """Its hyperparameters: their defaults, and what they may be."""
    said = [f"`{one.name}{f'={one.default}' if one.default else ''}`: {one.may_be}" for one in arguments_of(attack)]
    return "<br>".join(said).replace("|", "\\|")


def also(attack: type[Attack]) -> str:
    """Its other name, if the first sentence of the docstring has one."""
    found = re.search(r"also called (\w+)", (inspect.getdoc(attack) or "").split("\n\n")[0])
    return f" (also called {found[1]})" if found else ""


def table(head: Iterable[str], row: Callable[[type[Attack]], Iterable[str]]) -> str:
    """A row for each attack, below a head."""
    head = list(head)
    assert sorted(attack.__name__ for attack in listed()) == sorted(attacks.__all__)
    rows = [head, ["---"] * len(head), *map(row, listed())]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def tables() -> dict[str, dict[str, str]]:
    """What stands in each page, by the name of its marker."""
    readme = table(
        ["Attack", "Sees", "Looks for", "Norm", "Paper"],
        lambda attack: [
            f"`{attack.__name__}`{also(attack)}",
            sees(attack),
            aim(attack),
            norms_of(attack),
            paper(attack),
        ],
    )
    choosing = table(
        ["Attack", "Sees", "Looks for", "Norm", "Hyperparameters"],
        lambda attack: [
            f"[`{attack.__name__}`][advkit.attacks.{attack.__name__}]",
            sees(attack),
            aim(attack),
            norms_of(attack),
            numbers(attack),
        ],
    )
    return {"README.md": {"attacks": readme}, "docs/choosing.md": {"hyperparameters": choosing}}


def written(text: str, page: dict[str, str]) -> str:
    """The text of a page with its tables between their markers."""
    for name, rows in page.items():
        begin, end = f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"there is no {begin} ... {end}"
        text = f"{before}{begin}\n\n{rows}\n\n{end}{after}"
    return text


if __name__ == "__main__":
    for name, page in tables().items():
        path = ROOT / name
        path.write_text(written(path.read_text(encoding="utf-8"), page), encoding="utf-8")
