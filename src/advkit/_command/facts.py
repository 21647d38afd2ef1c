"""What attacks say of themselves, for `advkit list` and the tables of the docs."""

import inspect
import re
from dataclasses import MISSING, dataclass, fields
from types import ModuleType
from typing import Any

from advkit import attacks, hyperparameters, norms
from advkit._engine.wording import short
from advkit.attack import Attack

__all__ = ["Argument", "aim", "arguments_of", "doc_of", "is_given_attacks", "listed", "norms_of", "paper", "sees"]

THEIRS = "that of its attacks"
SEES = {"gradient": "gradients", "scores": "scores", "decisions": "decisions"}
AIM = {"budget": "the worst image within a budget", "minimal": "the closest image that fools"}


@dataclass(frozen=True)
class Argument:
    """An argument of an attack: its default as it is written ("" for none), what it may be, and what it is."""

    name: str
    default: str
    may_be: str
    says: str


def listed() -> list[type[Attack]]:
    """The attacks, family by family, and in each in the order in which its package imports them."""
    families = [each for each in vars(attacks).values() if isinstance(each, ModuleType) and hasattr(each, "__path__")]
    order = ["budget", "minimal", "transfer", "queries", "fitted", "combined"]
    families.sort(key=lambda family: order.index(last) if (last := family.__name__.rpartition(".")[2]) in order else 99)
    public = [vars(family)[name] for family in families for name in vars(family) if name in family.__all__]
    found = [one for one in public if isinstance(one, type) and issubclass(one, Attack)]  # not the parts of some
    return list(dict.fromkeys(one for one in found if one.__name__ in attacks.__all__))


def is_given_attacks(attack: type[Attack]) -> bool:
    """Whether it is what the attacks are that it is given."""
    return not next(known for known in fields(attack) if known.name == "model").init


def sees(attack: type[Attack]) -> str:
    """What it sees of the model."""
    return THEIRS if is_given_attacks(attack) else SEES[attack.access]


def aim(attack: type[Attack]) -> str:
    """What it looks for."""
    return THEIRS if is_given_attacks(attack) else AIM[attack.aim]


def paper(attack: type[Attack]) -> tuple[str, str]:
    """The authors and the year, from the paragraph of the docstring that names the paper, and its address or ""."""
    paragraphs = (" ".join(each.split()) for each in (inspect.getdoc(attack) or "").split("\n\n"))
    found = next(filter(None, (re.match(r'([A-Z][^"]*), "[^"]+", (.*)', each) for each in paragraphs)), None)
    year = found and re.search(r"\b(?:19|20)\d\d\b", found[2])
    if not found or not year:
        raise ValueError(f"the docstring of {attack.__name__} has no paragraph 'Authors, \"Title\", venue and year'")
    names = re.split(r", | & ", found[1])
    who = f"{names[0]} et al." if len(names) > 2 else found[1]
    link = re.search(r"arXiv:(\d{4}\.\d{4,5})", found[2])
    return f"{who} {year[0]}", f"https://arxiv.org/abs/{link[1]}" if link else ""


def norms_of(attack: type[Attack]) -> str:
    """The norms that it is about, or "none"."""
    if is_given_attacks(attack):
        return THEIRS
    declared = hyperparameters.of(attack).get("norm")
    known: Any = declared.choices if isinstance(declared, hyperparameters.Choice) else [getattr(attack, "norm", None)]
    if known == [None]:
        return "none"  # which a patch keeps to
    return ", ".join(repr(norms.get(one)) for one in known)


def arguments_of(attack: type[Attack]) -> list[Argument]:
    """Its own hyperparameters: their defaults, what they may be, and what the docstring says of them."""
    known, usual = hyperparameters.of(attack), {each.name: each.default for each in fields(attack)}
    found = []
    for name, what in known.items():
        if name not in hyperparameters.of(Attack):
            default = "" if usual[name] in (MISSING, None, ()) and not what.optional else short(usual[name])
            may_be = f"{what}{', or None' if what.optional else ''}"
            found.append(Argument(name, default, may_be, _said(attack, name)))
    return found


def doc_of(attack: type[Attack]) -> str:
    """What the docstring says before the arguments."""
    text = inspect.getdoc(attack) or ""
    return re.split(r"\n(?=(?:Args|Returns|Raises|Examples|Attributes):\n)", text)[0].strip()


def _said(attack: type[Attack], name: str) -> str:
    """What the docstring says of an argument."""
    for kind in attack.__mro__:
        found = re.search(rf"^    {name}: (.*(?:\n {{8,}}.*)*)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE)
        if found:
            return " ".join(found[1].split())
    return ""
