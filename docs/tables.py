"""The tables of attacks in the README and the docs, from what the attacks say of themselves.

``python docs/tables.py`` writes them between their markers; a test holds the pages to what it would write.
"""

import inspect
import re
import runpy
from collections.abc import Callable, Iterable
from pathlib import Path

from advkit import Attack, attacks
from advkit._command.facts import aim, arguments_of, listed, norms_of, sees
from advkit._command.facts import paper as named_paper

ROOT = Path(__file__).parents[1]
EQUATIONS: dict[str, str] = runpy.run_path(str(ROOT / "docs" / "equations.py"))["EQUATIONS"]


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
    pages = {"README.md": {"attacks": readme}, "docs/choosing.md": {"hyperparameters": choosing}}
    for family in ("budget", "minimal", "transfer", "queries", "fitted", "combined"):
        pages[f"docs/api/attacks/{family}.md"] = {"family": reference(family)}
    return pages


def costs() -> dict[str, list[str]]:
    """Forwards, backwards and what is random of each attack, as docs/choosing.md says by hand."""
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").split("## What each costs")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \[`(\w+)`\]\S* \| (.*) \| (.*) \| (.*) \|$", text, re.MULTILINE)
    return {name: [forwards, backwards, chance] for name, forwards, backwards, chance in rows}


def reference(family: str) -> str:
    """The attacks of a family: a table of what each costs, their equations, and their docstrings."""
    members = [attack for attack in listed() if f".attacks.{family}." in attack.__module__]
    known = costs()
    rows = [["Attack", "Norm", "Forwards per image", "Backwards per image", "Random"], ["---"] * 5]
    for attack in members:
        name = attack.__name__
        rows.append([f"[`{name}`][advkit.attacks.{name}]", norms_of(attack), *known[name]])
    parts = ["\n".join(f"| {' | '.join(cells)} |" for cells in rows)]
    said = [attack.__name__ for attack in members if attack.__name__ in EQUATIONS]
    if said:
        parts += [
            "With $J$ the loss, $Z$ the logits, $p$ their softmax, $y$ the label, $x_0$ the image, $\\delta = x - x_0$,"
            " and $\\Pi$ the way back into the budget and the box:"
        ]
        parts += [f"**{name}**\n\n$$\n{EQUATIONS[name]}\n$$" for name in said]
    options = "    options: {show_root_heading: true, show_root_full_path: false}"
    parts += [f"::: advkit.attacks.{attack.__name__}\n{options}" for attack in members]
    return "\n\n".join(parts)


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
