"""The tables of attacks in the README and the docs, from what the attacks say of themselves.

``python docs/tables.py`` writes them between their markers; a test holds the pages to what it would write.
"""

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, fields
from pathlib import Path

from advkit import Attack, attacks, hyperparameters, norms
from advkit._engine.wording import short

ROOT = Path(__file__).parents[1]
THEIRS = "as its attacks"
SEES = {"gradient": "gradients", "scores": "scores", "decisions": "decisions"}
AIM = {"budget": "the worst image within a budget", "minimal": "the closest image that fools"}


def listed() -> list[type[Attack]]:
    """The attacks, family by family, and in each in the order in which its package imports them."""
    families = [attacks.budget, attacks.minimal, attacks.transfer, attacks.queries, attacks.fitted, attacks.combined]
    public = [vars(family)[name] for family in families for name in vars(family) if name in family.__all__]
    found = [each for each in public if isinstance(each, type) and issubclass(each, Attack)]  # no parts
    assert sorted(attack.__name__ for attack in found) == sorted(attacks.__all__)
    return found


def is_given_attacks(attack: type[Attack]) -> bool:
    """Whether it is what the attacks are that it is given."""
    return not next(known for known in fields(attack) if known.name == "model").init


def sees(attack: type[Attack]) -> str:
    """What it sees of the model."""
    return THEIRS if is_given_attacks(attack) else SEES[attack.access]


def aim(attack: type[Attack]) -> str:
    """What it looks for."""
    return THEIRS if is_given_attacks(attack) else AIM[attack.aim]


def paper(attack: type[Attack]) -> str:
    """The authors and the year, from the paragraph of the docstring that names the paper, and a link if it has one."""
    paragraphs = (" ".join(each.split()) for each in (inspect.getdoc(attack) or "").split("\n\n"))
    found = next(filter(None, (re.match(r'([A-Z][^"]*), "[^"]+", (.*)', each) for each in paragraphs)), None)
    year = found and re.search(r"\b(?:19|20)\d\d\b", found[2])
    if not found or not year:
        raise ValueError(f"the docstring of {attack.__name__} has no paragraph 'Authors, \"Title\", venue and year'")
    names = re.split(r", | & ", found[1])
    who = f"{names[0]} et al." if len(names) > 2 else found[1]
    link = re.search(r"arXiv:(\d{4}\.\d{4,5})", found[2])
    return f"[{who} {year[0]}](https://arxiv.org/abs/{link[1]})" if link else f"{who} {year[0]}"


def norm(attack: type[Attack]) -> str:
    """The norms that it is about."""
    if is_given_attacks(attack):
        return THEIRS
    declared = hyperparameters.of(attack).get("norm")
    if declared is None and not hasattr(attack, "norm"):
        return "none"
    known = declared.choices if isinstance(declared, hyperparameters.Choice) else [getattr(attack, "norm", "")]
    return ", ".join(repr(norms.get(one)) for one in known)


def numbers(attack: type[Attack]) -> str:
    """Its hyperparameters: their defaults, and what they may be."""
    known, usual = hyperparameters.of(attack), {each.name: each.default for each in fields(attack)}
    said = []
    for name, what in known.items():
        if name not in hyperparameters.of(Attack):
            default = "" if usual[name] in (MISSING, None, ()) and not what.optional else f"={short(usual[name])}"
            said.append(f"`{name}{default}`: {what}{', or None' if what.optional else ''}")
    return "<br>".join(said).replace("|", "\\|")


def also(attack: type[Attack]) -> str:
    """Its other name, if the first sentence of the docstring has one."""
    found = re.search(r"also called (\w+)", (inspect.getdoc(attack) or "").split("\n\n")[0])
    return f" (also called {found[1]})" if found else ""


def table(head: Iterable[str], row: Callable[[type[Attack]], Iterable[str]]) -> str:
    """A row for each attack, below a head."""
    head = list(head)
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
            norm(attack),
            paper(attack),
        ],
    )
    choosing = table(
        ["Attack", "Sees", "Looks for", "Norm", "Hyperparameters"],
        lambda attack: [
            f"[`{attack.__name__}`][advkit.attacks.{attack.__name__}]",
            sees(attack),
            aim(attack),
            norm(attack),
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
